"""Searching a million 512x8 codes against faiss, and a gallery of as many templates.

    python -m benchmarks.matching [--templates 1000000] [--rounds 7] [--faiss PYTHON] [--data DIR]

The same codes lie in bit planes here (192 bytes) and as simplex words in faiss' IndexBinaryFlat
(448 bytes, Hamming distance 4 d): the same distances, which is checked. Rounds alternate between
the two, so that the ratios of medians mean something on a machine that others use, too. With one
query memory sets the pace: `share_of_stream` is the bandwidth at which the planes are read, over
the fastest way found to sum the same array, both with one thread.

Searches by asymmetric distance are compared with the indexes of faiss on the same rows, recall beside
speed; `benchmarks/asymmetric_matching.py` says what the figures are. Without prepared data the rows have
a made-up covariance.

The gallery is SQLite with a key file, in a temporary folder; hashing is left out (codes are drawn),
everything else is in it: record numbers, seals, audit log, fsync. A new process opens it, with the
file out of the system's cache as far as it can be, and loads it.

faiss runs in an environment of its own, which is made on first use, or in the Python of --faiss.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from benchmarks.asymmetric_matching import asymmetric_figures
from benchmarks.command_line import add_data_option, new_parser, run
from benchmarks.foreign_process import ForeignProcess
from benchmarks.gallery_speed import gallery_figures
from iom.errors import ConfigError

PACKAGE = "faiss-cpu==1.15.1"
TOP, BATCH, POSITIONS, ALPHABET = 5, 64, 512, 8
BATCHES_A_ROUND = 1
SINGLES_A_ROUND = 8


class Faiss(ForeignProcess):
    """faiss in another process.

    Args:
        python: Of an environment that has it.
        scratch: Holds gallery.npy and queries.npy.
    """

    def __init__(self, python: Path, scratch: Path) -> None:
        self._found = scratch / "found.npz"
        files = (scratch / "gallery.npy", scratch / "queries.npy", self._found)
        super().__init__(python, "foreign_faiss.py", files, {"OMP_WAIT_POLICY": "passive"})

    def seconds(self, count: int, threads: int) -> float:
        """Of a search for `count` queries."""
        return float(self.ask(f"{TOP} {count} {threads}"))

    def results(self) -> tuple[np.ndarray, np.ndarray]:
        """Distances and rows of all queries."""
        self.ask(f"results {TOP}")
        with np.load(self._found) as found:
            return found["distances"], found["ids"]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print one line of JSON."""
    cache = Path(__file__).parents[1] / ".cache"
    parser = new_parser("python -m benchmarks.matching", str(__doc__))
    parser.add_argument("--templates", type=int, default=1_000_000, help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=7, help="default: %(default)s")
    parser.add_argument("--faiss", default="", metavar="PYTHON", help="a Python that has faiss")
    parser.add_argument("--cache", type=Path, default=cache, metavar="DIR")
    parser.add_argument("--scratch", type=Path, metavar="DIR", help="a place on a disk")
    parser.add_argument("--no-symbols", action="store_true", help="leave out the search by symbols")
    parser.add_argument("--no-asymmetric", action="store_true", help="leave out the search by asymmetric distance")
    parser.add_argument("--no-gallery", action="store_true", help="leave out the gallery")
    parser.add_argument("--synthetic", action="store_true", help="a made-up covariance, without prepared data")
    add_data_option(parser)
    return run(_measure, parser, argv)


def _measure(arguments: argparse.Namespace) -> int:
    if arguments.templates < 20_000 or arguments.rounds < 1:
        raise ConfigError("expected --templates of at least 20000 and at least one round")
    python = Path(arguments.faiss) if arguments.faiss else _environment(arguments.cache)
    figures = {}
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as name:
        if not arguments.no_symbols:
            figures |= _kernel_figures(arguments, python, Path(name))
        if not arguments.no_asymmetric:
            data = None if arguments.synthetic else arguments.data
            figures |= asymmetric_figures(
                arguments.templates, arguments.rounds, python, Path(name), data, _stream_seconds()
            )
        if not arguments.no_gallery:
            figures |= gallery_figures(Path(name), arguments.templates)
    print(json.dumps({key: float(f"{value:.4g}") for key, value in figures.items()}))
    return 0


def _environment(cache: Path) -> Path:
    """Python of an environment with faiss, made if it is not there."""
    folder = cache / "foreign_faiss"
    own = folder / "bin" / "python"
    if (folder / "ready").is_file():
        return own
    print(f"making an environment with {PACKAGE} in {folder}")
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    if subprocess.run([str(own), "-m", "pip", "install", "-q", PACKAGE]).returncode:
        raise ConfigError(f"pip cannot install {PACKAGE}; name a Python that has it with --faiss")
    (folder / "ready").touch()
    return own


def _kernel_figures(arguments: argparse.Namespace, python: Path, scratch: Path) -> dict[str, float]:
    from iom.codes.distances import all_pairs, nearest
    from iom.codes.packing import PackedCodes

    random = np.random.default_rng(6)
    count = arguments.templates
    planes = random.integers(0, 2**64, (count, 3, POSITIONS // 64), np.uint64)
    # Each query is a row in which a third of the words were drawn anew: its nearest is known.
    queries = planes[random.integers(0, count, BATCH)]
    fresh = random.integers(0, 2**64, queries.shape, np.uint64)
    queries = np.where(random.random((BATCH, 1, POSITIONS // 64)) < 0.33, fresh, queries)
    np.save(scratch / "gallery.npy", simplex_words(planes))
    np.save(scratch / "queries.npy", simplex_words(queries))
    gallery = PackedCodes(planes, POSITIONS, ALPHABET)
    probes = PackedCodes(queries, POSITIONS, ALPHABET)
    single = probes[:1]
    sums = _stream_kernels()
    faiss = Faiss(python, scratch)
    print(f"{faiss.version}; {count} templates")

    def clock(work: Callable[[], object]) -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    works: dict[str, Callable[[], float]] = {
        "single": lambda: clock(lambda: nearest(single, gallery, TOP, threads=1)),
        "faiss single": lambda: faiss.seconds(1, 1),
        **{name: lambda way=way: clock(lambda: way(planes)) for name, way in sums.items()},
        "single, 2 threads": lambda: clock(lambda: nearest(single, gallery, TOP, threads=2)),
        "faiss single, 2 threads": lambda: faiss.seconds(1, 2),
        "batch": lambda: clock(lambda: nearest(probes, gallery, TOP, threads=1)),
        "faiss batch": lambda: faiss.seconds(BATCH, 1),
        "batch, 2 threads": lambda: clock(lambda: nearest(probes, gallery, TOP, threads=2)),
        "faiss batch, 2 threads": lambda: faiss.seconds(BATCH, 2),
    }
    taken: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(2):
        for name, work in works.items():  # compile, and touch every page
            if "batch" not in name or "faiss" not in name:
                work()
    for _ in tqdm(range(arguments.rounds), unit="round"):
        for name, work in works.items():
            if "batch" in name:
                taken[name].append(work())
        for _ in range(SINGLES_A_ROUND):
            for name, work in works.items():
                if "batch" not in name:
                    taken[name].append(work())
    distances, rows = faiss.results()
    faiss.close()
    _compare(nearest(probes, gallery, TOP), distances, rows, all_pairs(probes, gallery))
    median = {name: statistics.median(times) for name, times in taken.items()}
    for name, seconds in median.items():
        searched = count * (BATCH if "batch" in name else 1)
        print(f"{name:24} {1000 * seconds:9.2f} ms  {searched / seconds / 1e6:7.0f} M codes/s")
    stream = min(median[name] for name in sums)
    print(f"stream {planes.nbytes / stream / 1e9:.1f} GB/s")
    return {
        "ratio_faiss_single": median["faiss single"] / median["single"],
        "ratio_faiss_batch": median["faiss batch"] / median["batch"],
        "ratio_faiss_single_2_threads": median["faiss single, 2 threads"] / median["single, 2 threads"],
        "ratio_faiss_batch_2_threads": median["faiss batch, 2 threads"] / median["batch, 2 threads"],
        "share_of_stream": stream / median["single"],
    }


def simplex_words(planes: np.ndarray) -> np.ndarray:
    """Words `(N, 448)` of 512x8 codes: each symbol under all seven sums of its bits.

    Two symbols that differ do so in exactly four of them (the simplex code of eight words).
    """
    low, middle, high = planes[:, 0], planes[:, 1], planes[:, 2]
    both = low ^ middle
    seven = [low, middle, both, high, low ^ high, middle ^ high, both ^ high]
    return np.stack(seven, axis=1).reshape(len(planes), -1).view(np.uint8)


def _stream_kernels() -> dict[str, Callable[[np.ndarray], object]]:
    """Ways to read an array once; the fastest is the machine's bandwidth."""
    import numba

    @numba.njit("uint64(uint64[::1])", nogil=True)
    def compiled(words):  # type: ignore[no-untyped-def]
        total = np.uint64(0)
        for index in range(words.size):
            total += words[index]
        return total

    return {
        "stream, numba": lambda planes: compiled(planes.reshape(-1)),
        "stream, NumPy": lambda planes: np.bitwise_xor.reduce(planes.reshape(-1)),
    }


def _stream_seconds() -> Callable[[np.ndarray], float]:
    """A function that gives the time of the processor for the fastest way to read an array once."""
    ways = _stream_kernels().values()

    def seconds(words: np.ndarray) -> float:
        taken = []
        for way in ways:
            start = time.thread_time()
            way(words)
            taken.append(time.thread_time() - start)
        return min(taken)

    return seconds


def _compare(found, distances: np.ndarray, rows: np.ndarray, exact: np.ndarray) -> None:  # type: ignore[no-untyped-def]
    """The same distances in the same order; of rows at one distance faiss may take others."""
    if not np.array_equal(4 * found.distances, distances):
        raise ConfigError("faiss and the planes do not find the same distances")
    if not np.array_equal(np.take_along_axis(exact, rows, axis=1), found.distances):
        raise ConfigError("faiss found rows at other distances than it says")


if __name__ == "__main__":
    raise SystemExit(main())
