"""Four processes of sixteen threads at one pair of stores, and look whether anything is lost.

    python -m benchmarks.store_race [--seconds 60] [--processes 4] [--threads 16] [--seed 1]

All threads enrol, verify, renew and revoke in one gallery (SQLite, masked codes, a key for each
record); now and then one erases. Each thread has subjects of its own, whose state it knows, and all
fight over a few common ones, where only documented refusals are allowed. Counted are

- `lost`: subjects whose template, or absence, is not the last one that was acknowledged; references
  of an operation that was acknowledged as none; and problems that `iom check` finds at the end,
- `forgotten_revocations`: revocations that were acknowledged to any process before a read of the
  revoked records began, and are not in it; and revoked templates that match,
- `unexpected_errors`: all errors but refusals of common subjects, and of erasing while others read.

A fake hasher, no network.
"""

import argparse
import contextlib
import json
import multiprocessing
import tempfile
import threading
import time
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks.command_line import new_parser, run
from benchmarks.gallery_crash import APPLICATION, FakeHasher, faces
from iom.errors import EnrolmentError, RevokedError, StoreError
from iom.gallery.gallery import Gallery
from iom.gallery.key_source import Seal
from iom.gallery.key_store import KeyStore
from iom.gallery.stores.sqlite import SqliteStore

OWN = 4
"""Subjects of a thread."""
COMMON = [f"common{number}" for number in range(3)]
LARGEST_LOG = 20_000
"""Revocations of a thread that readers are told of."""
GONE = -1
START_SECONDS = 120


def main(argv: list[str] | None = None) -> int:
    """Run the race and print one line of JSON."""
    parser = new_parser("python -m benchmarks.store_race", (__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60, help="default: %(default)s")
    parser.add_argument("--processes", type=int, default=4, help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=16, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="of the work (default: %(default)s)")
    return run(_run, parser, argv)


def _run(arguments: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory() as name:
        found = race(Path(name), arguments.seconds, arguments.processes, arguments.threads, arguments.seed)
    print(json.dumps(found))
    return int(any(found[what] for what in found if what != "operations"))


def race(folder: Path, seconds: float, processes: int, threads: int, seed: int) -> dict[str, int]:
    """Start the processes, wait, and compare what they were told with what is there."""
    with opened(folder, create=True) as gallery:
        gallery.create_application(APPLICATION, threshold=100, masked=True)
    context = multiprocessing.get_context("spawn")
    size = processes * threads * (LARGEST_LOG + 1) * 8
    memory = SharedMemory(create=True, size=size)
    try:
        log = _log_in(memory, processes * threads)
        log[:] = 0
        results = context.Queue()
        ready = context.Barrier(processes + 1)
        workers = [
            context.Process(
                target=_process,
                args=(folder, memory.name, results, ready, number, processes, threads, seconds),
                kwargs={"seed": seed},
            )
            for number in range(processes)
        ]
        for worker in workers:
            worker.start()
        ready.wait(timeout=START_SECONDS)
        for _ in tqdm(range(int(seconds)), unit="s"):
            time.sleep(1)
        states: dict[str, int | None] = {}
        found = {"operations": 0, "lost": 0, "forgotten_revocations": 0, "unexpected_errors": 0}
        for _ in workers:
            counts, own, errors = results.get(timeout=300)
            for name, count in counts.items():
                found[name] += count
            states.update(own)
            for error in errors:
                print(error)
        for worker in workers:
            worker.join()
    finally:
        memory.close()
        memory.unlink()
    with opened(folder) as gallery:
        problems = gallery.check()
        for problem in problems:
            print(problem)
        wrong = [name for name, state in states.items() if not _holds(gallery, name, state)]
        print(f"{len(states)} subjects compared, {len(gallery.keys.revoked(APPLICATION))} revoked "
              f"records, {len(wrong)} wrong")  # fmt: skip
        found["lost"] += len(problems) + len(wrong)
    return found


def opened(folder: Path, *, create: bool = False) -> Gallery:
    """The gallery in a folder."""
    keys = KeyStore.open(folder / "keys", Seal("key", lambda *_: bytes(range(32))), create=create)
    return Gallery(SqliteStore(folder / "g.db", create=create), keys, FakeHasher())


def _log_in(memory: SharedMemory, threads: int) -> Any:
    """Of each thread: how many revocations were acknowledged, and then their record numbers."""
    return np.ndarray((threads, LARGEST_LOG + 1), np.int64, buffer=memory.buf)


def _process(
    folder: Path,
    memory_name: str,
    results: Any,
    ready: Any,
    process: int,
    processes: int,
    threads: int,
    seconds: float,
    *,
    seed: int,
) -> None:
    memory = SharedMemory(memory_name)
    log = _log_in(memory, processes * threads)
    with opened(folder) as gallery:
        ready.wait(timeout=START_SECONDS)
        end = time.time() + seconds
        racers = [_Racer(gallery, log, process * threads + number, end, seed) for number in range(threads)]
        running = [threading.Thread(target=racer.run) for racer in racers]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
    counts: dict[str, int] = {}
    states: dict[str, int | None] = {}
    errors: list[str] = []
    for racer in racers:
        for name, count in racer.counts.items():
            counts[name] = counts.get(name, 0) + count
        states |= racer.states
        errors += racer.errors
    del log
    memory.close()
    results.put((counts, states, errors[:5]))


class _Racer:
    """One thread: works on its own subjects, and on the common ones."""

    def __init__(self, gallery: Gallery, log: Any, number: int, end: float, seed: int) -> None:
        self.gallery, self.log, self.number, self.end = gallery, log, number, end
        self.random = np.random.default_rng([seed, number])
        self.states: dict[str, int | None] = dict.fromkeys((f"t{number}.{each}" for each in range(OWN)), None)
        self.seen = np.zeros(len(log), np.int64)
        self.counts = {"operations": 0, "forgotten_revocations": 0, "unexpected_errors": 0}
        self.counts["lost"] = 0
        self.errors: list[str] = []

    def run(self) -> None:
        step = 0
        while time.time() < self.end:
            step += 1
            try:
                self._step(step)
            except Exception as error:
                self.counts["unexpected_errors"] += 1
                self.errors.append(f"{type(error).__name__}: {error}")
            self.counts["operations"] += 1

    def _step(self, step: int) -> None:
        draw = self.random.random()
        if draw < 0.1:
            with contextlib.suppress(EnrolmentError):
                self._work(str(self.random.choice(COMMON)), step, known=False)
        elif draw < 0.4:
            self._read()
        elif draw < 0.402:
            with contextlib.suppress(StoreError):  # others read what was deleted
                self.gallery.erase()
        else:
            self._work(str(self.random.choice(list(self.states))), step, known=True)

    def _work(self, name: str, step: int, *, known: bool) -> None:
        """Enrol, renew, revoke or verify; of a subject of its own it knows what must come."""
        number = 1_000_000 * self.number + step
        state = self.states.get(name)
        if not known:
            state = int(self.random.integers(-1, 2))
        draw = self.random.random()
        if draw < 0.3 and state not in (None, GONE):
            matches = self.gallery.verify(name, faces([name], state or 0)[0], application=APPLICATION)
            self.counts["lost"] += known and matches.distance != 0
        elif state not in (None, GONE) and draw < 0.6:
            records = [each.record for each in self.gallery.references(name, application=APPLICATION)]
            self.gallery.revoke(name, application=APPLICATION)
            if known:
                self.states[name] = GONE
                self._tell(records)
                self._is_refused(name, state or 0)
        elif state is None and (draw < 0.9 or known):
            self.gallery.enroll(name, faces([name], number)[0], application=APPLICATION)
            self.states.update({name: number} if known else {})
        else:
            records = (
                []
                if state in (None, GONE) or not known
                else [each.record for each in self.gallery.references(name, application=APPLICATION)]
            )
            self.gallery.renew(name, faces([name], number)[0], application=APPLICATION)
            self.states.update({name: number} if known else {})
            self._tell(records)

    def _tell(self, records: list[int]) -> None:
        row = self.log[self.number]
        count = int(row[0])
        for record in records[: LARGEST_LOG - count]:
            count += 1
            row[count] = record
        row[0] = count

    def _is_refused(self, name: str, state: int) -> None:
        try:
            self.gallery.verify(name, faces([name], state)[0], application=APPLICATION)
        except RevokedError:
            return
        self.counts["forgotten_revocations"] += 1

    def _read(self) -> None:
        told = self.log[:, 0].copy()
        revoked = self.gallery.keys.revoked(APPLICATION)
        for thread, count in enumerate(told):
            first = max(0, min(int(self.seen[thread]), int(count) - 3))
            records = self.log[thread, first + 1 : count + 1].tolist()
            missing = sum(record not in revoked for record in records)
            self.counts["forgotten_revocations"] += missing
        self.seen = told


def _holds(gallery: Gallery, name: str, state: int | None) -> bool:
    """Whether exactly this template of a subject is valid, or none."""
    references = gallery.store.references(APPLICATION, name)
    if state is None or state == GONE:
        return not references
    if len(references) != 1:
        return False
    return gallery.verify(name, faces([name], state)[0], application=APPLICATION).distance == 0


if __name__ == "__main__":
    raise SystemExit(main())
