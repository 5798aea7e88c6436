"""A split gallery as three processes: decisions, time, traffic, and what all bytes of one server give away.

    python -m benchmarks.split_gallery [--decisions 10000] [--protocol full]
    python -m benchmarks.split_gallery --kills 100
    python -m benchmarks.split_gallery --synthetic --decisions 200

Two share servers and the capture side run as processes of their own over mutual TLS on one machine. Subjects of LFW are
enrolled by one image each; half of the probes are other images of the subject, half those of other people. `different`
counts decisions that are not those of the distance of the unshared codes; `p50_ms` is the time of a verification from
embedding to decision on the loopback interface, `hash_ms` the part of it that the hash of the probe takes; `kb` are all
bytes on all connections of a verification, TLS included (of the first 200).

Then each server in turn is stolen: its files (store, log, key store, wrapping key, certificate, correlations), the
memory of its process, and everything that it sent and received, decrypted. `found` counts unshared codes, probes,
record keys, and shares and half-keys of the other server that stand in these bytes, of 40 subjects. Then every XOR
of up to four of the server's share and what passed through it in an attempt, and the vote of each over many attempts,
is read back under the subject's *true* record key, which the thief does not have and is given. `leak_cosine` and
`leak_auc` are the largest of these: of mean cosines to the enrolled embedding, and of areas under the curve between
another image of the subject and of others. `interval` holds what noise reaches so in 95 of 100 runs. The control reads
back the XOR of both servers' shares.

`--kills` kills a server at a random moment of enrolments, verifications, renewals and revocations, starts it again, and
looks whether anything acknowledged is missing, and whether a correlation was used twice by the lists that both servers
kept (`reused_correlations`).
"""

import argparse
import base64
import contextlib
import dataclasses
import itertools
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks.command_line import add_data_option, new_parser, run
from iom._blas import one_thread
from iom._peers import PeerClient, TlsFiles, make_certificates
from iom.codes.packing import pack, unpack
from iom.errors import DataError, IomError, NotEnrolledError, PeerError, RevokedError
from iom.gallery.gallery import Gallery
from iom.keys import KEY_KINDS, TransformKey
from iom.nn.hash_numpy import Head, centred
from iom.split.comparison import Offer, Reply
from iom.split.correlations import CorrelationsA, Terms, deal_files
from iom.split.gallery import SplitGallery
from iom.split.server import ShareServer, open_correlations
from iom.split.share_store import ShareStore
from iom.split.shares import code_from_bytes, code_to_bytes, join_half_keys, record_label, xor

HASHER = "pre_models/mobilefacenet_y1_1536x2"
SUBJECTS, STOLEN, ATTEMPTS = 200, 40, 20
"""Subjects that are enrolled; subjects and attempts of each that the attack looks at."""
PAGE = 4096
MAX_COMBINED = 4
"""Strings that are combined by XOR."""
COUNTED = 200
NULL_RUNS = 200
NAMES = {"a": "a", "b": "b"}
KILLED_SUBJECTS = 12


class HeadHasher:
    """The NumPy head of a hasher: embeddings to codes, and back where code and key are known."""

    parts, comparison = 1, "symbols"

    def __init__(self, head: Head, *, sizes: tuple[int, int, int, int], key_kind: str, keep: int, threshold: int):
        self.embedding_size, self.key_size, self.code_length, self.alphabet_size = sizes
        self.key_kind, self._keep, self.threshold, self._head = key_kind, keep, threshold, head
        self.fingerprint, self.calibration = "benchmarks/split_gallery", None
        linear, self._keyed, kernel, _ = head.disclosed(self.embedding_size)
        self._vectors = centred(np, kernel, self.alphabet_size).reshape(len(kernel), -1)
        self._back = np.linalg.pinv(linear)
        self.times: list[float] = []

    @classmethod
    def load(cls, folder: str) -> "HeadHasher":
        """The head of a trained hasher."""
        from iom.models.face_hasher import load

        hasher = load(folder, opens_embedder=False)
        sizes = hasher.embedding_size, hasher.key_size, hasher.code_length, hasher.alphabet_size
        return cls(
            hasher.head, sizes=sizes, key_kind=hasher.key_kind, keep=hasher.keep,
            threshold=hasher.calibration.threshold,
        )  # fmt: skip

    @classmethod
    def synthetic(cls) -> "HeadHasher":
        """Random vectors over 64 dimensions: 512 positions of two values."""
        kernel = np.random.default_rng(7).normal(size=(64, 512 * 2)).astype(np.float32)
        refinement = {"alphabet_size": 2, "steps": 0, "gain": 1.0, "rate": 1.0, "decay": 0.5}
        steps = [
            {"step": "rotation", "reads": [0, 1], "settings": {"keep": 0}, "arrays": {}},
            {"step": "projection", "reads": [2], "settings": refinement, "arrays": {"kernel": "kernel"}},
        ]
        head = Head(steps, {"kernel": kernel})
        return cls(head, sizes=(64, 64, 512, 2), key_kind="orthogonal", keep=0, threshold=190)

    def hash(self, rows, key):
        """Codes `(N, M)` under one key."""
        begin = time.perf_counter()
        order = KEY_KINDS[self.key_kind].order(key, self.key_size, self._keep)
        codes = self._head.hash(rows, np.broadcast_to(order, (len(rows), len(order))))
        self.times.append(time.perf_counter() - begin)
        return codes

    def read_back(self, codes, key):
        """Embeddings `(N, D)` of unit length that codes `(N, M)` under a key come nearest to."""
        eye = np.eye(self.key_size, dtype=np.float32)
        order = KEY_KINDS[self.key_kind].order(key, self.key_size, self._keep)
        turn = self._keyed(eye, np.broadcast_to(order, (len(eye), len(order))))
        chosen = np.eye(self.alphabet_size, dtype=np.float32)[codes]
        return self.before_key(chosen.reshape(len(codes), -1) @ self._vectors.T @ turn.T)

    def before_key(self, rows):
        """Embeddings `(..., D)` of unit length of rows `(..., K)` before the key."""
        rows = rows @ self._back
        return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


@dataclasses.dataclass(frozen=True)
class People:
    """Embeddings `(N, D)` and subjects of those with two images or more."""

    rows: Any
    labels: Any

    @classmethod
    def lfw(cls, data: Path) -> "People":
        """LFW, by stored embeddings."""
        from benchmarks.stored_embeddings import embeddings_of

        root = data / "lfw_112x112"
        images = sorted(root.glob("*/*.jpg"))
        if not images:
            raise DataError(f"no images below {root}; see docs/reproduce.md, or try --synthetic")
        labels = np.unique([image.parent.name for image in images], return_inverse=True)[1]
        return cls._able(embeddings_of(images, root, data), labels)

    @classmethod
    def synthetic(cls) -> "People":
        """Random vectors, four of each subject."""
        random = np.random.default_rng(5)
        rows = np.repeat(random.normal(size=(60, 64)), 4, axis=0) + 0.4 * random.normal(size=(240, 64))
        rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
        return cls._able(rows, np.repeat(np.arange(60), 4))

    @classmethod
    def _able(cls, rows, labels) -> "People":
        able = np.flatnonzero(np.bincount(labels) >= 2)
        kept = np.isin(labels, able)
        return cls(rows[kept], labels[kept])


class Recording(SplitGallery):
    """The capture side, which keeps the codes that it made, to compare decisions with."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.codes: dict[int, list[bytes]] = {}
        self.keys: dict[int, TransformKey] = {}

    def _code(self, application, subject_id, record, halves, row):
        code = super()._code(application, subject_id, record, halves, row)
        self.codes[record] = [*self.codes.get(record, [])[:1], code]
        self.keys[record] = join_half_keys(*halves, record_label(application.name, subject_id, record))
        return code


class Servers:
    """Two share servers, each a process with a folder of its own."""

    def __init__(self, folder: Path, hasher: HeadHasher, protocol: str, *, dealt: int, recorded: bool):
        self.folder, self.hasher, self.protocol = folder, hasher, protocol
        self.processes: dict[str, subprocess.Popen] = {}
        with contextlib.ExitStack() as stack:
            sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in NAMES]
            self.ports = {side: each.getsockname()[1] for side, each in zip(NAMES, sockets, strict=True)}
        make_certificates(folder, [*NAMES, "door"])
        for side in NAMES:
            (folder / side).mkdir()
            with Gallery.open(**self.stores(folder, side), hasher=hasher, create=True) as gallery:
                gallery.create_application("default", key_mode="share", threshold=hasher.threshold)
        if protocol == "full":
            terms = Terms(hasher.code_length, hasher.alphabet_size, hasher.threshold)
            with tqdm(total=dealt, unit="correlation", desc="deal") as bar:
                deal_files(terms, dealt, folder / "a" / "deal", folder / "b" / "deal", step=bar.update)
        settings = {"ports": self.ports, "protocol": protocol, "recorded": recorded}
        (folder / "settings.json").write_text(json.dumps(settings))

    @staticmethod
    def stores(folder: Path, side: str) -> dict[str, str]:
        """Arguments of `Gallery.open`."""
        place = folder / side
        return {"url": f"sqlite:///{place}/store.db", "keys": f"file:{place}/store.keys?key-file={place}/store.wrap"}

    def start(self, side: str) -> None:
        """Start a server and wait until it listens."""
        command = [sys.executable, "-m", "benchmarks.split_gallery", "--serve", side, "--folder", str(self.folder)]
        command.append("--synthetic")  # a server reads no faces
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.processes[side] = process
        if not process.stdout or process.stdout.readline().strip() != "ready":
            raise SystemExit(f"server {side} did not start")

    def kill(self, side: str) -> None:
        """Kill -9."""
        process = self.processes.pop(side)
        process.send_signal(signal.SIGKILL)
        with process:  # waits, and closes its pipe
            pass

    def close(self) -> None:
        """End both."""
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            with process:
                pass

    def gallery(self) -> Recording:
        """The capture side."""
        clients = [
            PeerClient(f"https://localhost:{self.ports[side]}", **vars(tls(self.folder, "door")), name=side)
            for side in NAMES
        ]
        return Recording((clients[0], clients[1]), self.hasher, protocol=self.protocol)

    def reused(self) -> int:
        """Correlations that a server used more than once, by the list it kept."""
        count = 0
        for side in NAMES:
            path = self.folder / side / "used"
            used = path.read_text().split() if path.exists() else []
            count += len(used) - len(set(used))
        return count


def tls(folder: Path, name: str) -> TlsFiles:
    """Certificate of a program."""
    return TlsFiles(folder / f"{name}.pem", folder / f"{name}.key", folder / "authority.pem")


def serve(folder: Path, side: str) -> int:
    """One share server, as `iom serve-share` runs it, which keeps lists for the benchmark."""
    from iom.gallery.key_store import open_key_store
    from iom.gallery.stores.base import open_store
    from iom.service.mutual_tls import PEER_SETTINGS, PeerApp, serve_peers
    from iom.service.server import listening

    settings = json.loads((folder / "settings.json").read_text())
    ports, other = settings["ports"], "ab"[side == "a"]
    keep = _keeper(folder / side / "traffic") if settings["recorded"] else None
    limits = dataclasses.replace(PEER_SETTINGS, rate=1e9, burst=10**9)
    with contextlib.ExitStack() as stack:
        places = Servers.stores(folder, side)
        keys = stack.enter_context(open_key_store(places["keys"]))
        shares = ShareStore(stack.enter_context(open_store(places["url"])), keys)
        dealt = None
        if settings["protocol"] == "full":
            dealt = open_correlations(folder / side / "deal", side)
            stack.callback(dealt.close)
            _list_used(dealt, folder / side / "used")
        peer: Any = PeerClient(f"https://localhost:{ports[other]}", **vars(tls(folder, side)), name=other, seconds=5.0)
        stack.callback(peer.close)
        roles = {"door": "admin", other: "peer"}
        server = ShareServer(shares, side, roles.get, Kept(peer, keep), correlations=dealt, failures=1e12)
        stack.callback(server.close)
        with contextlib.suppress(IomError):
            server.synchronize()
        handlers = {name: _kept(name, handler, keep) for name, handler in server.handlers.items()}
        listener = stack.enter_context(listening("127.0.0.1", ports[side]))
        app = PeerApp(handlers, limits, admit=server.admit)
        serve_peers(app, listener, tls(folder, side), limits, ready=lambda: print("ready", flush=True))
    return 0


def _keeper(path: Path) -> Callable[[str, bytes], None]:
    stream, lock = path.open("ab"), threading.Lock()

    def keep(name: str, body: bytes) -> None:
        with lock:
            stream.write(name.encode() + b" " + body + b"\n")
            stream.flush()

    return keep


@dataclasses.dataclass
class Kept:
    """A connection of which all is kept."""

    connection: Any
    keep: Callable[[str, bytes], None] | None

    def call(self, action, body):
        answer = self.connection.call(action, body)
        if self.keep:
            self.keep(f">{action}", body)
            self.keep(f"<{action}", answer)
        return answer


def _kept(name, handler, keep):
    def handle(caller, body):
        answer = handler(caller, body)
        if keep:
            keep(f">{name}", body)
            keep(f"<{name}", answer)
        return answer

    return handle


def _list_used(dealt, path: Path) -> None:
    """Append each correlation that is taken or claimed to a file, which outlives a kill."""
    name = "take" if isinstance(dealt, CorrelationsA) else "claim"
    original, stream = getattr(dealt, name), os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def listed(*arguments):
        claimed = original(*arguments)
        os.write(stream, f"{claimed.index}\n".encode())
        return claimed

    setattr(dealt, name, listed)


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Decisions, times, traffic and leaks."""
    hasher, people = _subjects(arguments)
    random = np.random.default_rng(arguments.seed)
    subjects = random.permutation(np.unique(people.labels))[:SUBJECTS]
    rows_of = {int(s): np.flatnonzero(people.labels == s) for s in np.unique(people.labels)}
    dealt = arguments.decisions + COUNTED + 2 * 64
    servers = Servers(folder, hasher, arguments.protocol, dealt=dealt, recorded=True)
    figures: dict[str, Any] = {"decisions": arguments.decisions}
    with contextlib.closing(servers):
        for side in NAMES:
            servers.start(side)
        with servers.gallery() as gallery:
            for subject in tqdm(subjects, unit="subject", desc="enrol"):
                gallery.enroll(f"s{subject}", people.rows[rows_of[int(subject)][0]])
            probes = [_probe(random, subjects, rows_of, people, number) for number in range(arguments.decisions)]
            figures |= _decide(gallery, servers, people, probes)
            stolen = [int(each) for each in subjects[:STOLEN]]
            memories = {side: _memory(servers.processes[side].pid) for side in NAMES}
            servers.close()
            servers.processes.clear()
            with one_thread():
                rows = {subject: people.rows[rows_of[subject]] for subject in stolen}
                figures |= _leaks(servers, gallery, memories, rows, arguments.seed)
    figures["reused_correlations"] = servers.reused()
    return figures


def _subjects(arguments: argparse.Namespace) -> tuple[HeadHasher, People]:
    if arguments.synthetic:
        return HeadHasher.synthetic(), People.synthetic()
    return HeadHasher.load(arguments.hasher), People.lfw(arguments.data)


def _probe(random, subjects, rows_of, people, number) -> tuple[int, int]:
    """A subject and a row: every second one of the subject's other images."""
    subject = int(random.choice(subjects))
    if number % 2:
        return subject, int(random.choice(rows_of[subject][1:]))
    while True:
        row = int(random.integers(len(people.rows)))
        if people.labels[row] != subject:
            return subject, row


def _decide(gallery: Recording, servers: Servers, people: People, probes) -> dict[str, Any]:
    hasher, times, hashes, different, matches = servers.hasher, [], [], 0, 0
    before = traffic = _bytes_of(servers)
    for number, (subject, row) in enumerate(tqdm(probes, unit="verification", desc="verify")):
        hasher.times.clear()
        begin = time.perf_counter()
        decision = gallery.verify(f"s{subject}", people.rows[row]).match
        times.append(time.perf_counter() - begin)
        hashes.append(sum(hasher.times))
        (record,) = [record for record, codes in gallery.codes.items() if len(codes) == 2]
        enrolled, probe = gallery.codes[record]
        gallery.codes[record] = [enrolled]
        encoding = f"iom-planes/1:{hasher.code_length}x{hasher.alphabet_size}"
        a, b = (unpack(code_from_bytes(code, encoding)) for code in (enrolled, probe))
        plain = int((a != b).sum()) <= hasher.threshold
        different += decision != plain
        matches += decision
        if number + 1 == min(COUNTED, len(probes)):
            traffic = _bytes_of(servers)
    return {
        "different": int(different),
        "matches": int(matches),
        "p50_ms": round(1e3 * float(np.median(times)), 2),
        "p95_ms": round(1e3 * float(np.quantile(times, 0.95)), 2),
        "hash_ms": round(1e3 * float(np.median(hashes)), 2),
        "kb": round((traffic - before) / min(COUNTED, len(probes)) / 1e3, 1),
    }


def _bytes_of(servers: Servers) -> int:
    """Bytes that both servers have sent and received on the connections that they accepted, by the kernel."""
    total = 0
    for port in servers.ports.values():
        text = subprocess.run(
            ["ss", "-tinH", "state", "established", f"sport = :{port}"], capture_output=True, text=True, check=True
        ).stdout
        total += sum(map(int, re.findall(r"bytes_(?:sent|received):(\d+)", text)))
    return total


def _memory(pid: int) -> bytes:
    """All readable private memory of a process."""
    parts = []
    maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:  # noqa: PTH123
        for line in maps:
            span, rights, *_ = line.split()
            if not rights.startswith("rw"):
                continue
            start, end = (int(text, 16) for text in span.split("-"))
            with contextlib.suppress(OSError, ValueError, OverflowError):
                memory.seek(start)
                content = memory.read(end - start)
                pages = np.frombuffer(content, np.uint8, len(content) // PAGE * PAGE).reshape(-1, PAGE)
                used = np.flatnonzero(np.concatenate([[False], pages.any(axis=1), [False]]))
                parts += [pages[run[0] - 1 : run[-1]].tobytes() for run in _runs(used)]
    return b"".join(parts)


def _runs(numbers) -> list[Any]:
    """Runs of consecutive numbers."""
    return [run for run in np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1) if len(run)]


@dataclasses.dataclass
class Record:
    """Truth about a stolen record, to look for."""

    subject: int
    number: int
    rows: Any
    key: TransformKey
    code: bytes
    shares: dict[str, bytes]
    halves: dict[str, bytes]


def _leaks(servers: Servers, gallery: Recording, memories, people, seed: int) -> dict[str, Any]:
    records = _records(servers, gallery, people)
    hasher, found = servers.hasher, {}
    leak_cosine, leak_auc, intervals = [], [], []
    for side in NAMES:
        files = [path for path in (servers.folder / side).iterdir() if path.name != "traffic"]
        content = b"".join(path.read_bytes() for path in files) + memories[side]
        fields = _fields(servers.folder / side / "traffic", {f"s{each.subject}": each for each in records})
        content += (servers.folder / side / "traffic").read_bytes()
        found[side] = _needles(content, records, side)
        candidates = _candidates(records, fields, side)
        print(f"server {side}: {len(content) / 1e6:.0f} MB, {len(candidates)} ways to combine them", file=sys.stderr)
        observed = _scores(hasher, records, candidates)
        null = _null(hasher, records, len(candidates), seed)
        leak_cosine.append(max(observed, key=lambda each: abs(each[0]))[0])
        leak_auc.append(max(observed, key=lambda each: abs(each[1] - 0.5))[1])
        intervals.append({"strategies": len(candidates), "cosine": null[0], "auc": null[1]})
    both = _scores(hasher, records, {"both": [xor(each.shares["a"], each.shares["b"]) for each in records]})[0]
    chance = all(
        abs(cosine) <= each["cosine"] and abs(auc - 0.5) <= each["auc"] - 0.5
        for cosine, auc, each in zip(leak_cosine, leak_auc, intervals, strict=True)
    )
    return {
        "leak_cosine": round(max(leak_cosine, key=abs), 3),
        "leak_auc": round(max(leak_auc, key=lambda each: abs(each - 0.5)), 3),
        "control_cosine": round(both[0], 3),
        "control_auc": round(both[1], 3),
        "sides": {
            side: {"cosine": round(c, 3), "auc": round(u, 3), "interval": i, "found": found[side]}
            for side, c, u, i in zip(NAMES, leak_cosine, leak_auc, intervals, strict=True)
        },
        "is_chance": bool(chance),
    }


def _records(servers: Servers, gallery: Recording, people) -> list[Record]:
    records = []
    stores = {side: Gallery.open(**servers.stores(servers.folder, side)) for side in NAMES}
    for subject, rows in people.items():
        name, shares, halves = f"s{subject}", {}, {}
        for side, opened in stores.items():
            (reference,) = opened.references(name)
            shares[side] = reference.code
            label = record_label("default", name, reference.record)
            halves[side] = opened.keys.derive("split/half-key/v1", [label])[0]
        number = reference.record
        key = gallery.keys[number]
        records.append(Record(subject, number, rows, key, gallery.codes[number][0], shares, halves))
    for each in stores.values():
        each.close()
    return records


def _needles(content: bytes, records: Sequence[Record], side: str) -> int:
    """Secrets that stand in the bytes, as they are, in hexadecimal, or in Base64 at any alignment."""
    other = "ab"[side == "a"]
    needles: dict[bytes, tuple[int, int]] = {}
    for number, each in enumerate(records):
        for kind, secret in enumerate((each.code, each.key.secret, each.shares[other], each.halves[other])):
            forms = [secret, secret.hex().encode()]
            for shift in range(3):
                text = base64.b64encode(bytes(shift) + secret)[4 * bool(shift) : -4]
                forms += [text, text.replace(b"+", b"-").replace(b"/", b"_")]
            needles |= dict.fromkeys(forms, (number, kind))
    starts = {form[:8]: form for form in needles}
    wanted = np.sort(np.frombuffer(b"".join(starts), "<u8"))
    may_start = np.zeros(1 << 16, bool)
    may_start[(wanted & np.uint64(0xFFFF)).astype(np.uint16)] = True
    found = set()
    for offset in range(8):
        words = np.frombuffer(content, "<u8", (len(content) - offset) // 8, offset)
        places = np.flatnonzero(may_start[words.view("<u2")[::4]])
        places = places[np.isin(words[places], wanted)]
        for place in places:
            form = starts[words[place].tobytes()]
            if content[offset + 8 * place : offset + 8 * place + len(form)] == form:
                found.add(needles[form])
    return len(found)


def _fields(path: Path, subjects: dict[str, Record]) -> dict[str, list[dict[str, bytes]]]:
    """Strings of a code's size that passed through a server, of attempts for some subjects, by message and field."""
    size = len(next(iter(subjects.values())).code)
    attempts: dict[str, str] = {}
    found: dict[str, dict[str, dict[str, bytes]]] = {name: {} for name in subjects}
    last = ""
    with path.open("rb") as stream:
        for line in stream:
            action, _, body = line.rstrip(b"\n").partition(b" ")
            content = json.loads(body)
            attempt = content.get("attempt", "")
            if action == b">begin":
                attempts[attempt] = content["subject"]
            # Verifications follow each other, so that an answer belongs to the last attempt.
            last = attempt or last
            name = attempts.get(last, "")
            if name not in subjects or (len(found[name]) >= ATTEMPTS and last not in found[name]):
                continue
            for field, value in _strings(content):
                for part, octets in _parts(field, value):
                    if len(octets) == size:
                        found[name].setdefault(last, {})[f"{action.decode()}.{part}"] = octets
    return {name: list(each.values()) for name, each in found.items()}


def _strings(content: Any, place: str = "") -> Iterator[tuple[str, bytes]]:
    if isinstance(content, dict):
        for name, value in content.items():
            yield from _strings(value, f"{place}{name}")
    elif isinstance(content, list):
        for value in content:
            yield from _strings(value, place)
    elif isinstance(content, str):
        with contextlib.suppress(ValueError):
            yield place, base64.b64decode(content, altchars=b"-_", validate=True)


def _parts(field: str, value: bytes) -> Iterator[tuple[str, bytes]]:
    yield field, value
    for kind in (Offer, Reply):
        with contextlib.suppress(IomError, struct.error):
            yield f"{field}.bits", kind.from_bytes(value).bits


def _candidates(records, fields, side: str) -> dict[str, list[bytes]]:
    """Bytes that may be a code, for each subject, by the way they were made."""
    names = sorted(set.intersection(*(set(each) for some in fields.values() for each in some)) if fields else ())
    candidates: dict[str, list[bytes]] = {}
    for chosen in _subsets(["share", *names]):
        first, votes = [], []
        for record in records:
            made = []
            for attempt in fields[f"s{record.subject}"]:
                octets = [record.shares[side] if name == "share" else attempt[name] for name in chosen]
                total = octets[0]
                for each in octets[1:]:
                    total = xor(total, each)
                made.append(total)
            first.append(made[0] if made else record.shares[side])
            bits = np.array([np.unpackbits(np.frombuffer(each, np.uint8)) for each in made or [first[-1]]])
            votes.append(np.packbits(bits.mean(axis=0) > 0.5).tobytes())
        text = " xor ".join(chosen)
        candidates[text] = first
        if chosen != ("share",):
            candidates[f"vote of {text}"] = votes
    return candidates


def _subsets(names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    for size in range(1, min(len(names), MAX_COMBINED) + 1):
        yield from itertools.combinations(names, size)


def _scores(hasher: HeadHasher, records, candidates: dict[str, list[bytes]]) -> list[tuple[float, float]]:
    """Mean cosine and AUC of each way, read back under the true keys."""
    codes = np.array([[_symbols(hasher, octets) for octets in made] for made in candidates.values()])
    return _read(hasher, records, codes)


def code_bytes_of(codes) -> bytes:
    """One code `(1, M)` of two values as it is stored."""
    return code_to_bytes(pack(codes, 2))


def _symbols(hasher: HeadHasher, octets: bytes):
    encoding = f"iom-planes/1:{hasher.code_length}x{hasher.alphabet_size}"
    return unpack(code_from_bytes(octets, encoding))[0]


def _read(hasher: HeadHasher, records, codes) -> list[tuple[float, float]]:
    """Scores of codes `(ways, records, M)`."""
    return _compare(
        records, np.stack([hasher.read_back(codes[:, i], each.key) for i, each in enumerate(records)], axis=1)
    )


def _compare(records, back) -> list[tuple[float, float]]:
    """Mean cosine and AUC of reconstructions `(ways, records, D)`."""
    enrolled = np.stack([each.rows[0] for each in records])
    other = np.stack([each.rows[1] for each in records])
    cosines = np.einsum("wnd,nd->wn", back, enrolled).mean(axis=1)
    similar = np.einsum("wnd,md->wnm", back, other)
    same = np.eye(len(records), dtype=bool)
    aucs = [_auc(each[same], each[~same]) for each in similar]
    return list(zip(map(float, cosines), aucs, strict=True))


def _auc(mated, others) -> float:
    order = np.argsort(np.concatenate([mated, others]))
    ranks = np.empty(len(order))
    ranks[order] = np.arange(1, len(order) + 1)
    return float((ranks[: len(mated)].sum() - len(mated) * (len(mated) + 1) / 2) / (len(mated) * len(others)))


def _null(hasher: HeadHasher, records, ways: int, seed: int) -> tuple[float, float]:
    """Largest scores of as many ways over noise, which 95 of 100 runs do not exceed.

    Random codes that are read back under random keys have any direction before the key with equal odds.
    """
    random = np.random.default_rng([seed, 9])
    cosines, aucs = [], []
    for _ in range(NULL_RUNS):
        scores = _compare(records, hasher.before_key(random.normal(size=(ways, len(records), hasher.key_size))))
        cosines.append(max(abs(each[0]) for each in scores))
        aucs.append(max(abs(each[1] - 0.5) for each in scores))
    return round(float(np.quantile(cosines, 0.95)), 3), round(0.5 + float(np.quantile(aucs, 0.95)), 3)


def kill(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Kills of either server during work."""
    hasher, people = _subjects(arguments)
    random = np.random.default_rng(arguments.seed)
    servers = Servers(folder, hasher, arguments.protocol, dealt=200 * arguments.kills + 2000, recorded=False)
    work = Work(people, random)
    with contextlib.closing(servers):
        for side in NAMES:
            servers.start(side)
        for _ in tqdm(range(arguments.kills), unit="kill"):
            side = str(random.choice(list(NAMES)))
            with servers.gallery() as gallery:
                timer = threading.Timer(float(random.uniform(0.05, 1.0)), servers.kill, (side,))
                timer.start()
                while timer.is_alive():
                    work.step(gallery)
                work.step(gallery)
            servers.start(side)
            with servers.gallery() as gallery:
                work.compare(gallery)
    figures = {"kills": arguments.kills, "acknowledged": work.acknowledged, "interrupted": work.interrupted}
    return figures | {"lost": work.lost, "half_done": work.half_done, "reused_correlations": servers.reused()}


class Work:
    """Operations on a few subjects, what was acknowledged of them, and what may be."""

    def __init__(self, people: People, random: np.random.Generator) -> None:
        self._rows, self._labels, self._random = people.rows, people.labels, random
        self._subjects = [f"k{number}" for number in range(KILLED_SUBJECTS)]
        self._states: dict[str, set[int]] = {each: {-1} for each in self._subjects}
        self.acknowledged = self.interrupted = self.lost = self.half_done = 0

    def step(self, gallery: SplitGallery) -> None:
        """One operation; an error leaves it open whether it was done."""
        name, row = str(self._random.choice(self._subjects)), int(self._random.integers(len(self._rows)))
        states = self._states[name]
        (state,) = states if len(states) == 1 else (-2,)  # -1: not enrolled, -2: not known, -3: revoked
        if state == -2:
            return
        action = "renew" if state == -3 else "enroll" if state == -1 else str(
            self._random.choice(["verify", "verify", "renew", "revoke"])
        )  # fmt: skip
        after = {"verify": state, "revoke": -3}.get(action, row)
        self._states[name] = {state, after}
        try:
            if action == "verify":
                if not gallery.verify(name, self._rows[state]).match:
                    self.lost += 1
            elif action == "revoke":
                gallery.revoke(name)
            else:
                getattr(gallery, action)(name, self._rows[row])
        except PeerError:
            self.interrupted += 1
            return
        self._states[name] = {after}
        self.acknowledged += 1

    def compare(self, gallery: SplitGallery) -> None:
        """Look whether each subject is in the state that was acknowledged, or in one of those that were under way."""
        for name, states in self._states.items():
            found = {state for state in states if self._holds(gallery, name, state)}
            if not found:
                self.lost += len(states) == 1
                self.half_done += len(states) > 1
                with contextlib.suppress(IomError):
                    gallery.revoke(name)
                found = {-3}
            self._states[name] = {max(found)}

    def _holds(self, gallery: SplitGallery, name: str, state: int) -> bool:
        try:
            return gallery.verify(name, self._rows[max(state, 0)]).match and state >= 0
        except NotEnrolledError:
            return state == -1
        except RevokedError:
            return state == -3


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `python -m benchmarks.split_gallery`."""
    parser = new_parser("python -m benchmarks.split_gallery", str(__doc__))
    add_data_option(parser)
    parser.add_argument("--decisions", type=int, default=10_000, help="default: %(default)s")
    parser.add_argument("--protocol", choices=("full", "lite"), default="full", help="default: %(default)s")
    parser.add_argument("--kills", type=int, default=0, help="kills of a server, in place of decisions")
    parser.add_argument("--hasher", default=HASHER, help="default: %(default)s")
    parser.add_argument("--synthetic", action="store_true", help="random vectors in place of faces; no data")
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--serve", choices=tuple(NAMES), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return run(_run, parser, argv)


def _run(arguments: argparse.Namespace) -> int:
    if arguments.serve:
        return serve(arguments.folder, arguments.serve)
    with tempfile.TemporaryDirectory() as name:
        figures = (kill if arguments.kills else measure)(arguments, Path(name))
    print(json.dumps(figures))
    clean = not figures["reused_correlations"] and not figures.get("different") and figures.get("is_chance", True)
    return 0 if clean and not figures.get("lost") and not figures.get("half_done") else 1


if __name__ == "__main__":
    raise SystemExit(main())
