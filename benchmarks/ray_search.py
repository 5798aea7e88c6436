"""Search in shards of Ray against the search of one process, while workers are killed and the gallery is written to.

    python -m benchmarks.ray_search [--templates 2000000] [--shards 2] [--searches 400] [--kills 5]
                                    [--comparison asymmetric]

A gallery of drawn codes (512x8, one key an epoch, masks) is made in a temporary folder. One process holds all of it,
the shards hold their parts; both get the same probes, and every answer is compared: subjects, records, distances and
their order, ties included. Half of the probes are of subjects that another process has enrolled, revoked or renewed a
moment ago; it writes all the time, so that an answer is compared where no write fell between the two searches, and is
asked for again otherwise, then while the other process is stopped. Meanwhile workers are killed with SIGKILL, one after
the other, at random moments.

The last line is JSON: `templates`, `searches` (compared answers), `wrong` (another answer than that of one process, or
a stable subject that was not found in a search beside a write), `lost` (a search that raised an error), `kills`,
`writes` of the other process, `p50_ms` and `p50_ms_single_process` of a search for the five nearest, `load_s` (from the
opening of the gallery to the first answer) and `load_s_single_process`, `recover_s` (median time from a kill to the
next complete answer), `bytes_per_template` in a shard.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks.command_line import new_parser, run
from iom.codes.asymmetric import CodeVectors, keyed_rows
from iom.errors import IomError
from iom.gallery.gallery import Gallery

APPLICATION = "crowd"
POOL = 8192
"""Drawn codes; template number n has code n % POOL, turned by n // POOL positions, so that all differ."""
NOISE = 60
"""Symbols of 512 that a probe has changed."""
SIZE, ROW = 2, 128
THRESHOLDS = {"symbols": 150, "asymmetric": 2000}
FRESH = 64
"""Subjects that the writing process enrolled last and changes again."""


class DrawnCodes:
    """In place of a network: codes that were drawn, by number and noise in an embedding, turned as the key says."""

    code_length, alphabet_size, fingerprint, parts, embedding_size = 512, 8, "drawn", 1, SIZE
    key_kind, comparison, calibration = "orthogonal", "symbols", None

    def __init__(self) -> None:
        chance = np.random.default_rng(2)
        self._pool = chance.integers(0, 8, (POOL, 512), np.uint8)
        self.vectors = CodeVectors.of_kernel(chance.normal(size=(ROW, 512 * 8)), 8)

    def rows(self, embeddings: Any, keys: Any) -> Any:
        """Keyed rows `(N, ROW)`: what the codes stand for."""
        return keyed_rows(self.vectors.read_back(self.hash(embeddings, keys)))

    def hash(self, embeddings: Any, keys: Any) -> Any:
        """Codes `(N, 512)`."""
        numbers, noises = embeddings.astype(np.int64).T
        turns = numbers // POOL
        if not isinstance(keys, list):
            turns = turns + int.from_bytes(keys.secret[:2], "big")
        codes = self._pool[numbers % POOL]
        for turn in np.unique(turns):
            codes[turns == turn] = np.roll(codes[turns == turn], turn % 512, axis=1)
        for row in np.flatnonzero(noises):
            chance = np.random.default_rng([int(noises[row]), int(numbers[row])])
            codes[row, chance.choice(512, NOISE, replace=False)] = chance.integers(0, 8, NOISE, np.uint8)
        return codes


class Figures:
    """What was counted and timed."""

    def __init__(self) -> None:
        self.searches = self.wrong = self.lost = self.repeated = 0
        self.times: dict[str, list[float]] = {"sharded": [], "single": []}
        self.kills: list[float] = []
        self.recoveries: list[float] = []


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print one line of JSON."""
    parser = new_parser("python -m benchmarks.ray_search", str(__doc__))
    parser.add_argument("--templates", type=int, default=2_000_000, help="default: %(default)s")
    parser.add_argument("--shards", type=int, default=2, help="workers (default: %(default)s)")
    parser.add_argument("--searches", type=int, default=400, help="compared answers (default: %(default)s)")
    parser.add_argument("--kills", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--comparison", choices=THRESHOLDS, default="symbols", help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=300.0, help="time limit of a search (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of probes and moments (default: %(default)s)")
    parser.add_argument("--scratch", type=Path, metavar="DIR", help="a place on a disk")
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    return run(_run, parser, argv)


def _run(arguments: argparse.Namespace) -> int:
    if arguments.write:
        write(arguments.write, arguments.templates, arguments.seed)
        return 0
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as name:
        figures = compared(Path(name), arguments)
    print(json.dumps(figures))
    return 1 if figures["wrong"] or figures["lost"] else 0


def compared(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Make a gallery, search it in both ways, and compare."""
    templates = arguments.templates
    with opened(folder, create=True) as gallery:
        threshold = THRESHOLDS[arguments.comparison]
        settings: dict[str, Any] = {"threshold": threshold, "comparison": arguments.comparison}
        gallery.create_application(APPLICATION, key_mode="application", **settings)
        for start in tqdm(range(0, templates, POOL), unit="batch", desc="enrolment", disable=None):
            count = min(POOL, templates - start)
            rows = np.stack([np.arange(start, start + count), np.zeros(count)], axis=1).astype(np.float32)
            gallery.enroll_many([f"p{n:09}" for n in range(start, start + count)], rows, application=APPLICATION)
    figures, chance = Figures(), random.Random(arguments.seed)  # noqa: S311 - no secret
    probe = np.array([chance.randrange(templates), 1], np.float32)
    began = time.perf_counter()
    with opened(folder) as single:
        single.identify(probe, application=APPLICATION, top=5, closed=True)
        load_single = time.perf_counter() - began
        search = f"ray://local?shards={arguments.shards}&seconds={arguments.seconds}"
        began = time.perf_counter()
        with opened(folder, search=search) as sharded:
            sharded.identify(probe, application=APPLICATION, top=5, closed=True)
            load = time.perf_counter() - began
            memory = sum(map(private_bytes, workers()))
            command = [sys.executable, "-m", "benchmarks.ray_search", "--write", str(folder)]
            command += ["--templates", str(templates), "--seed", str(arguments.seed)]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
                try:
                    writes = _search_all(single, sharded, writer, figures, chance, arguments)
                finally:
                    writer.terminate()
    return {
        "templates": templates,
        "comparison": arguments.comparison,
        "searches": figures.searches,
        "wrong": figures.wrong,
        "lost": figures.lost,
        "kills": len(figures.kills),
        "writes": writes,
        "repeated": figures.repeated,
        "shards": arguments.shards,
        "p50_ms": 1000 * statistics.median(figures.times["sharded"]),
        "p50_ms_single_process": 1000 * statistics.median(figures.times["single"]),
        "load_s": load,
        "load_s_single_process": load_single,
        "recover_s": statistics.median(figures.recoveries) if figures.recoveries else 0.0,
        "recover_s_max": max(figures.recoveries, default=0.0),
        "bytes_per_template": memory / templates,
    }


def _search_all(
    single: Gallery,
    sharded: Gallery,
    writer: "subprocess.Popen[str]",
    figures: Figures,
    chance: random.Random,
    arguments: argparse.Namespace,
) -> int:
    """Compare answers until there are enough and all kills are done; the number of writes."""
    fresh: list[int] = []
    counted = [0]

    def read() -> None:
        for line in writer.stdout or ():
            fresh.append(int(line))
            del fresh[:-FRESH]
            counted[0] += 1

    threading.Thread(target=read, daemon=True).start()
    next_kill = time.monotonic() + 2
    with tqdm(total=arguments.searches, unit="answer", disable=None) as bar:
        while figures.searches < arguments.searches or len(figures.kills) < arguments.kills:
            is_stable = not fresh or chance.random() < 0.5
            number = chance.randrange(arguments.templates) if is_stable else chance.choice(fresh)
            probe = np.array([number, chance.randrange(1, 1 << 20)], np.float32)
            killer = None
            if time.monotonic() > next_kill and len(figures.kills) < arguments.kills:
                killer = threading.Thread(target=_kill, args=(figures, chance))
                killer.start()  # while the search is under way
            stable = number if is_stable else None
            if not _compare(single, sharded, probe, stable, figures, chance.random() < 0.5):
                with _stopped(writer):
                    _compare(single, sharded, probe, stable, figures, chance.random() < 0.5)
            if killer is not None:
                killer.join()
                _recovered(sharded, probe, figures)
                next_kill = time.monotonic() + chance.uniform(1, 4)
            bar.update(1)
    return counted[0]


def _compare(
    single: Gallery, sharded: Gallery, probe: Any, stable: int | None, figures: Figures, is_closed: bool
) -> bool:
    """One probe in both ways; whether no write fell in between."""
    settings: dict[str, Any] = {"top": 5, "closed": True} if is_closed else {}
    version, answers = single.store.version(APPLICATION), {}
    for name, gallery in (("sharded", sharded), ("single", single)):
        began = time.perf_counter()
        try:
            answers[name] = gallery.identify(probe, application=APPLICATION, **settings)
        except IomError as error:
            print(f"lost: {error}", file=sys.stderr)
            figures.lost += 1
            return True
        if is_closed:
            figures.times[name].append(time.perf_counter() - began)
    if stable is not None and not any(each.subject_id == f"p{stable:09}" for each in answers["sharded"]):
        print(f"wrong: subject {stable} was not found", file=sys.stderr)
        figures.wrong += 1
    if single.store.version(APPLICATION) != version:
        figures.repeated += 1
        return False
    figures.searches += 1
    if answers["sharded"] != answers["single"]:
        print(f"wrong: {answers}", file=sys.stderr)
        figures.wrong += 1
    return True


@contextlib.contextmanager
def _stopped(writer: "subprocess.Popen[str]") -> Iterator[None]:
    writer.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        writer.send_signal(signal.SIGCONT)


def _kill(figures: Figures, chance: random.Random) -> None:
    """Kill a worker with SIGKILL, at some moment of a search."""
    time.sleep(chance.uniform(0, 0.05))
    os.kill(chance.choice(workers()), signal.SIGKILL)
    figures.kills.append(time.perf_counter())


def _recovered(sharded: Gallery, probe: Any, figures: Figures) -> None:
    """Ask until an answer was asked for after the kill; its end is the recovery."""
    sharded.identify(probe, application=APPLICATION)
    figures.recoveries.append(time.perf_counter() - figures.kills[-1])


def write(folder: Path, first: int, seed: int) -> None:
    """Enrol, revoke and renew without end; a line with the number of a subject after each write."""
    chance, number, known = random.Random(seed), first, []  # noqa: S311 - no secret
    with opened(folder) as gallery:
        while True:
            verb = chance.choice(["enroll", "enroll", "revoke", "renew"]) if known else "enroll"
            try:
                if verb == "enroll":
                    number += 1
                    known = [*known[-FRESH:], number]
                    gallery.enroll(f"p{number:09}", _row(number), application=APPLICATION)
                    done = number
                else:
                    done = chance.choice(known)
                    if verb == "renew":
                        if chance.random() < 0.2:
                            gallery.rotate(application=APPLICATION)
                        gallery.renew(f"p{done:09}", _row(done), application=APPLICATION)
                    else:
                        gallery.revoke(f"p{done:09}", application=APPLICATION)
            except IomError:  # revoked already, or the key was not rotated since
                continue
            print(done, flush=True)
            time.sleep(chance.uniform(0, 0.4))


def _row(number: int) -> Any:
    return np.array([number, 0], np.float32)


def workers() -> list[int]:
    """Process ids of the shards that this process has started."""
    parents, found = {}, []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if (path / "cmdline").read_bytes().startswith(b"ray::_Actor"):
                found.append(int(path.name))
        except (OSError, IndexError):
            continue

    def is_mine(pid: int) -> bool:
        while pid > 1:
            pid = parents.get(pid, 0)
            if pid == os.getpid():
                return True
        return False

    return sorted(filter(is_mine, found))


def private_bytes(pid: int) -> int:
    """Bytes of memory that a process has to itself."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    return 1024 * sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Private_"))


def opened(folder: Path, *, create: bool = False, search: str = "") -> Gallery:
    """The gallery in a folder."""
    keys = f"file:{folder}/g.keys?key-file={folder}/g.wrap"
    return Gallery.open(f"{folder}/g.db", keys=keys, hasher=DrawnCodes(), create=create, search=search)  # type: ignore[arg-type]


if __name__ == "__main__":
    raise SystemExit(main())
