"""Kill -9 at a random moment while a gallery enrols, renews and revokes, and look what is left.

    python -m benchmarks.gallery_crash [--trials 100] [--seed 1]

A process works on a gallery (SQLite and a key file, masked codes, a key for each record) and says
on a pipe what it is about to do and what has been acknowledged. It is killed, the gallery is opened
again and compared: everything acknowledged must be there (`lost`), and what was under way must be
done or not begun (`half_done`): a renewed subject has exactly one valid reference, a batch is in
completely or not at all, and the check of both stores is clean. The next trial goes on with the
same gallery. A fake hasher, no network.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import signal
import tempfile
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

from iom.errors import RevokedError
from iom.gallery.gallery import Gallery
from iom.gallery.key_source import Seal
from iom.gallery.key_store import KeyStore
from iom.gallery.stores.sqlite import SqliteStore

APPLICATION = "door"
SUBJECTS = 12
BATCH = 8
SIZE = 32
GONE = -1
"""State of a subject that was revoked; else the number of its embedding, or `None`."""


class FakeHasher:
    """Keyed Index-of-Max over a fixed Gaussian matrix."""

    code_length, alphabet_size, fingerprint, calibration = 512, 8, "fake", None
    key_kind, parts, comparison = "orthogonal", 1, "symbols"

    def __init__(self) -> None:
        rows = np.random.default_rng(7).normal(size=(512 * 8, SIZE))
        self._rows = rows.astype(np.float32)

    def hash(self, embeddings, keys):
        """Codes `(N, 512)`."""
        orders = np.array([key.permutation(SIZE) for key in keys])
        turned = np.take_along_axis(embeddings, orders, axis=1)
        return (turned @ self._rows.T).reshape(-1, 512, 8).argmax(-1).astype(np.uint8)


@dataclasses.dataclass
class Outcome:
    """What was found after the kills."""

    lost: int = 0
    half_done: int = 0
    interrupted: int = 0


def main(argv: list[str] | None = None) -> int:
    """Run the trials and print one line of JSON with `trials`, `lost` and `half_done`."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gallery_crash", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--trials", type=int, default=100, help="kills (default: 100)")
    parser.add_argument("--seed", type=int, default=1, help="of the work and the moments")
    arguments = parser.parse_args(argv)
    random = np.random.default_rng(arguments.seed)
    outcome, acknowledged = Outcome(), 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with opened(folder, create=True) as gallery:
            gallery.create_application(APPLICATION, threshold=100, masked=True)
        states: dict[str, int | None] = {f"s{i}": None for i in range(SUBJECTS)}
        for trial in tqdm(range(arguments.trials), unit="kill"):
            lines = killed_work(folder, states, trial, random)
            under_way = follow(lines, states)
            acknowledged += sum(line.startswith("done") for line in lines)
            outcome.interrupted += bool(under_way)
            with opened(folder) as gallery:
                compare(gallery, states, under_way, outcome)
    print(f"{acknowledged} acknowledged operations, {outcome.interrupted} kills within an operation")
    figures = {"lost": outcome.lost, "half_done": outcome.half_done}
    print(json.dumps({"trials": arguments.trials, **figures}))
    return 0 if not (outcome.lost or outcome.half_done) else 1


def opened(folder: Path, *, create: bool = False) -> Gallery:
    """The gallery in `folder`."""
    keys = KeyStore.open(folder / "keys", Seal("key", lambda *_: bytes(range(32))), create=create)
    return Gallery(SqliteStore(folder / "g.db", create=create), keys, FakeHasher())


def killed_work(folder: Path, states: dict, trial: int, random: np.random.Generator) -> list[str]:
    """Lines that a worker wrote until it was killed."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        with contextlib.suppress(BaseException):
            work(folder, dict(states), trial, writer)
        os.write(writer, b"failed\n")
        os._exit(1)
    os.close(writer)
    with os.fdopen(reader, encoding="utf-8") as stream:
        lines = [stream.readline().strip()]  # from the first line on it is at work
        time.sleep(float(random.uniform(0, 0.4)))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        lines += [line.strip() for line in stream if line.endswith("\n")]
    if "failed" in lines:
        raise SystemExit("the worker failed by itself")
    return lines


def work(folder: Path, states: dict, trial: int, writer: int) -> None:
    """Enrol, renew and revoke for ever."""
    random = np.random.default_rng([5, trial])
    with opened(folder) as gallery:
        for step in range(1_000_000):
            number = 10_000 * (trial + 1) + step
            if random.random() < 0.2:
                names = [f"b{trial}.{step}.{i}" for i in range(BATCH)]
                verb = "enroll"
            else:
                names = [f"s{random.integers(SUBJECTS)}"]
                state = states[names[0]]
                verb = "enroll" if state is None else "renew"
                if state not in (None, GONE) and random.random() < 0.4:
                    verb, number = "revoke", GONE
            line = f"{verb} {number} {' '.join(names)}\n"
            os.write(writer, f"begin {line}".encode())
            if verb == "enroll":
                gallery.enroll_many(names, faces(names, number), application=APPLICATION)
            elif verb == "renew":
                gallery.renew(names[0], faces(names, number), application=APPLICATION)
            else:
                gallery.revoke(names[0], application=APPLICATION)
            os.write(writer, f"done {line}".encode())
            states.update(dict.fromkeys(names, number))


def faces(names: list[str], number: int) -> np.ndarray:
    """Embeddings of an operation, `(N, SIZE)`."""
    seeds = [int.from_bytes(name.encode(), "big") for name in names]
    rows = [np.random.default_rng([seed, number]).normal(size=SIZE) for seed in seeds]
    return np.array(rows, np.float32) / np.linalg.norm(rows, axis=1, keepdims=True).astype("f4")


def follow(lines: list[str], states: dict) -> dict[str, int]:
    """Bring `states` up to what was acknowledged; the states that were under way."""
    under_way: dict[str, int] = {}
    for line in lines:
        word, _, number, *names = line.split()
        under_way = dict.fromkeys(names, int(number)) if word == "begin" else {}
        if word == "done":
            states.update(dict.fromkeys(names, int(number)))
    return under_way


def compare(gallery: Gallery, states: dict, under_way: dict[str, int], outcome: Outcome) -> None:
    """Count what is missing and what is half done; the rest becomes the state."""
    outcome.half_done += len(gallery.check())
    for name, state in states.items():
        if name not in under_way and not holds(gallery, name, state):
            outcome.lost += 1
    happened = {name: holds(gallery, name, number) for name, number in under_way.items()}
    for name, number in under_way.items():
        if not happened[name] and not holds(gallery, name, states.get(name)):
            outcome.half_done += 1
            if not gallery.store.references(APPLICATION, name):
                states[name] = GONE  # so that the next worker knows what it finds
        if happened[name]:
            states[name] = number
    outcome.half_done += len(set(happened.values())) > 1


def holds(gallery: Gallery, name: str, state: int | None) -> bool:
    """Whether exactly this template of a subject is valid, or none."""
    references = gallery.store.references(APPLICATION, name)
    if state is None:
        return not references
    if state == GONE:
        with contextlib.suppress(RevokedError):
            gallery.verify(name, faces([name], 0), application=APPLICATION)
            return False
        return not references
    if len(references) != 1:
        return False
    return gallery.verify(name, faces([name], state), application=APPLICATION).distance == 0


if __name__ == "__main__":
    raise SystemExit(main())
