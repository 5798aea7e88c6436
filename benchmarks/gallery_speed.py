"""What a large gallery costs: enrolment, memory, loading, verification, revocation.

Part of `benchmarks.matching`; by itself: python -m benchmarks.gallery_speed [--templates 100000]
"""

import argparse
import ctypes
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks.command_line import new_parser, run
from iom.errors import UnmaskedWarning
from iom.gallery.gallery import Gallery
from iom.gallery.key_source import Seal
from iom.gallery.key_store import KeyStore
from iom.gallery.stores.sqlite import SqliteStore
from iom.models.artifact import Calibration

APPLICATION = "crowd"
UNMASKED = "bare"
"""The same templates without masks, in stores of their own: what masks cost."""
BATCH = 8192
SIZE = 4
CALLS = 101
LOADS = 3
"""Loads of each store, of which the quickest counts."""


class DrawnCodes:
    """In place of a network: codes that were drawn, by the number in an embedding."""

    code_length, alphabet_size, fingerprint, parts = 512, 8, "drawn", 1
    key_kind, comparison = "orthogonal", "symbols"
    calibration = Calibration(threshold=100, fmr=1e-3, fnmr=0.0, subjects=1, keys=1)

    def __init__(self) -> None:
        self._codes = np.random.default_rng(2).integers(0, 8, (BATCH, 512), np.uint8)

    def hash(self, embeddings: Any, keys: Any) -> Any:
        """Codes `(N, 512)`."""
        return self._codes[embeddings[:, 0].astype(np.intp) % BATCH]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print one line of JSON."""
    parser = new_parser("python -m benchmarks.gallery_speed", str(__doc__))
    parser.add_argument("--templates", type=int, default=100_000, help="default: %(default)s")
    parser.add_argument("--scratch", type=Path, metavar="DIR", help="a place on a disk")
    parser.add_argument("--load", type=Path, help=argparse.SUPPRESS)
    return run(_run, parser, argv)


def _run(arguments: argparse.Namespace) -> int:
    if arguments.load:
        print(json.dumps(_loaded(arguments.load)))
        return 0
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as name:
        print(json.dumps(gallery_figures(Path(name), arguments.templates)))
    return 0


def gallery_figures(folder: Path, templates: int) -> dict[str, float]:
    """Enrol, close, load in another process, verify and revoke."""
    embeddings = np.zeros((BATCH, SIZE), np.float32)
    embeddings[:, 0] = np.arange(BATCH)
    rates = []
    warnings.simplefilter("ignore", UnmaskedWarning)
    bare = folder / UNMASKED
    bare.mkdir()
    with _opened(bare, create=True) as gallery:
        gallery.create_application(APPLICATION, key_mode="application", masked=False)
        for start in range(0, templates, BATCH):
            count = min(BATCH, templates - start)
            subjects = [f"p{number:08}" for number in range(start, start + count)]
            gallery.enroll_many(subjects, embeddings[:count], application=APPLICATION)
    with _opened(folder, create=True) as gallery:
        gallery.create_application(APPLICATION, key_mode="application")
        for start in tqdm(range(0, templates, BATCH), unit="batch"):
            count = min(BATCH, templates - start)
            subjects = [f"p{number:08}" for number in range(start, start + count)]
            began = time.perf_counter()
            gallery.enroll_many(subjects, embeddings[:count], application=APPLICATION)
            rates.append(count / (time.perf_counter() - began))
        gallery.create_application("own", masked=True)
        own = []
        for start in range(0, 4 * BATCH, BATCH):
            subjects = [f"p{number:08}" for number in range(start, start + BATCH)]
            began = time.perf_counter()
            gallery.enroll_many(subjects, embeddings, application="own")
            own.append(BATCH / (time.perf_counter() - began))
    disk = sum(path.stat().st_size for path in folder.glob("g.db*"))
    loaded: dict[Path, list[dict[str, float]]] = {folder: [], bare: []}
    for _ in range(LOADS):
        for place, figures in loaded.items():  # in turns: other work on the machine slows both
            for file in (place / "g.db", place / "keys"):
                _forget(file)
            command = [sys.executable, "-m", "benchmarks.gallery_speed", "--load", str(place)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            figures.append(json.loads(done.stdout.splitlines()[-1]))
    seconds, without = (min(each["cold_load_s"] for each in loaded[place]) for place in (folder, bare))
    print(f"disk {disk / (templates + 4 * BATCH):.0f} bytes a template; enrolment with masks and "
          f"a key for each {statistics.median(own):.0f}/s")  # fmt: skip
    return {
        **loaded[folder][0],
        "cold_load_s": seconds,
        "cold_load_s_unmasked": without,
        "masked_over_unmasked": seconds / without,
        "enrol_per_s": statistics.median(rates),
        "enrol_per_s_own_keys_masked": statistics.median(own),
    }


def _loaded(folder: Path) -> dict[str, float]:
    """In a new process: load the codes, look at the memory, then verify and revoke."""
    probe = np.zeros(SIZE, np.float32)
    warnings.simplefilter("ignore", UnmaskedWarning)
    with _opened(folder) as gallery:
        subjects = [each.subject_id for each in gallery.store.scan(APPLICATION, limit=CALLS)]
        gallery.verify(subjects[0], probe, application=APPLICATION)  # kernels are read, all modules are here
        gc.collect()
        before = resident()
        began = time.perf_counter()
        indexes = gallery._searcher.refresh(gallery.store.application(APPLICATION))
        seconds = time.perf_counter() - began
        gc.collect()
        held = resident() - before
        (index,) = indexes.values()
        references = len(index)
        verified, revoked = [], []
        for subject in subjects:
            began = time.perf_counter()
            gallery.verify(subject, probe, application=APPLICATION)
            verified.append(time.perf_counter() - began)
        for subject in subjects:
            began = time.perf_counter()
            gallery.revoke(subject, application=APPLICATION)
            revoked.append(time.perf_counter() - began)
    return {
        "bytes_per_template": _pages(index) / references,
        "process_bytes_per_template": held / references,
        "cold_load_s": seconds,
        "verify_ms": 1000 * statistics.median(verified),
        "revoke_ms": 1000 * statistics.median(revoked),
    }


def resident() -> int:
    """Bytes of memory that this process has to itself."""
    text = Path("/proc/self/smaps_rollup").read_text(encoding="ascii")
    return 1024 * sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Private_"))


def _pages(index: Any) -> int:
    """Bytes in memory of the pages that the arrays of an index lie on, as the system counts."""
    page = os.sysconf("SC_PAGESIZE")
    libc = ctypes.CDLL(None, use_errno=True)
    total = 0
    for array in (index._planes, index._marks):
        first = array.ctypes.data // page * page
        count = -(-(array.ctypes.data + array.nbytes - first) // page)
        held = (ctypes.c_ubyte * count)()
        if libc.mincore(ctypes.c_void_p(first), ctypes.c_size_t(count * page), held):
            raise OSError(ctypes.get_errno(), "mincore")
        total += page * int((np.frombuffer(held, np.uint8) & 1).sum())
    return total


def _opened(folder: Path, *, create: bool = False) -> Gallery:
    keys = KeyStore.open(folder / "keys", Seal("key", lambda *_: bytes(range(32))), create=create)
    return Gallery(SqliteStore(folder / "g.db", create=create), keys, DrawnCodes())


def _forget(path: Path) -> None:
    """Have the system drop its copy of a file."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


if __name__ == "__main__":
    raise SystemExit(main())
