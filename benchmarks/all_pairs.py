"""All pairs of LFW, 87.5 million code comparisons, beside SciPy's and scikit-learn's tables.

    python -m benchmarks.all_pairs

Codes are GRP, 512x8, under one key. Ours counts every pair, mated and non-mated apart, and gives
the exact error curve; the others fill a table of distances for a slice of the codes: SciPy's
`cdist` of bytes, and the predecessor's recipe, scikit-learn's `pairwise_distances` of floats. Runs in a
process of its own, so that its peak memory holds nothing else. Ends with one line of JSON: seconds,
peak_mb, and how many times as many comparisons a second ours makes (medians over the turns).
"""

import argparse
import json
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.command_line import add_data_option, new_parser, run

CODE_LENGTH, ALPHABET_SIZE = 512, 8


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `python -m benchmarks.all_pairs`."""
    parser = new_parser("python -m benchmarks.all_pairs", str(__doc__))
    add_data_option(parser)
    parser.add_argument("--slice", type=int, default=200, help="rows of the others' tables")
    parser.add_argument("--turns", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--count", type=Path, default=None, help=argparse.SUPPRESS)
    return run(_measure, parser, argv)


def _measure(arguments: argparse.Namespace) -> int:
    if arguments.count is not None:
        print(json.dumps(_counted(arguments.count, arguments.turns)))
        return 0
    codes, labels = _codes(arguments.data)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "codes.npz"
        np.savez(path, codes=codes, labels=labels)
        ours = _in_own_process(path, arguments.turns)
    print(f"all pairs: {ours['comparisons']:,} comparisons, EER {100 * ours['eer']:.3f} %")
    part = codes[: arguments.slice]
    speed = ours["comparisons"] / ours["seconds"]
    ratios = {}
    for name, table in (("cdist", _cdist), ("predecessor", _predecessor)):
        seconds = _timed(lambda table=table: table(part, codes), arguments.turns)
        theirs = len(part) * len(codes) / seconds
        ratios[f"ratio_{name}"] = round(speed / theirs, 1)
        print(f"{name:9} {theirs / 1e6:8.2f} M comparisons/s")
    print(f"ours      {speed / 1e6:8.2f} M comparisons/s")
    print(json.dumps({**ratios, **ours}))
    return 0


def _codes(data: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    from benchmarks.stored_embeddings import embeddings_of
    from iom.config import CodeConfig, FolderConfig
    from iom.data.folders import scan_folder
    from iom.evaluation.scores import common_key
    from iom.evaluation.systems import baseline_system

    folder = scan_folder(FolderConfig(root=str(data / "lfw_112x112"), min_images=1))
    rows = embeddings_of(folder.files, data / "lfw_112x112", data)
    shape = CodeConfig(code_length=CODE_LENGTH, alphabet_size=ALPHABET_SIZE)
    system = baseline_system("grp", rows.shape[1], shape)
    return system.hash(rows, common_key(1, 0)), folder.labels


def _counted(path: Path, turns: int) -> dict[str, float]:
    """Ours, in this process: packing, counting and the curve."""
    from iom.codes.comparators import SymbolComparator
    from iom.codes.packing import pack
    from iom.metrics.all_pairs import AllPairs

    with np.load(path, allow_pickle=False) as stored:
        codes, labels = stored["codes"], stored["labels"]
    small = AllPairs(np.array([0, 0, 1]))
    small.count(SymbolComparator(ALPHABET_SIZE), pack(codes[:3], ALPHABET_SIZE))  # compiles, or reads what was compiled

    def count() -> float:
        pairs = AllPairs(labels)
        return pairs.curve(SymbolComparator(ALPHABET_SIZE), pack(codes, ALPHABET_SIZE)).equal_error_rate()

    eer = count()
    return {
        "seconds": round(_timed(count, turns), 3),
        "peak_mb": round(_peak_kilobytes() / 1024, 1),
        "comparisons": len(codes) * (len(codes) - 1) // 2,
        "eer": eer,
    }


def _peak_kilobytes() -> int:
    """Largest resident size of this program.

    Linux carries `ru_maxrss` over from the process that started this one; `VmHWM` begins anew.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
        if found:
            return int(found[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _in_own_process(path: Path, turns: int) -> dict[str, float]:
    from iom.errors import DataError

    command = [sys.executable, "-m", "benchmarks.all_pairs", "--count", str(path), "--data", str(path.parent)]
    done = subprocess.run([*command, "--turns", str(turns)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise DataError(f"counting all pairs failed: {done.stderr.strip()[-300:]}")
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def _cdist(part: NDArray[np.uint8], codes: NDArray[np.uint8]) -> NDArray[np.float64]:
    from scipy.spatial.distance import cdist

    return np.asarray(cdist(part, codes, "hamming"))


def _predecessor(part: NDArray[np.uint8], codes: NDArray[np.uint8]) -> NDArray[np.float64]:
    from sklearn.metrics import pairwise_distances

    rows, columns = part.astype(np.float32), codes.astype(np.float32)
    return np.asarray(pairwise_distances(rows, columns, metric="hamming"))


def _timed(work: Callable[[], object], turns: int) -> float:
    seconds = []
    for _ in range(turns):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


if __name__ == "__main__":
    raise SystemExit(main())
