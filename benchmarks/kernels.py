"""Kernels for comparing codes against a plain loop compiled by numba and against NumPy, one thread.

    python -m benchmarks.kernels

Ends with one line of JSON: millions of codes per second of CPU time (best of several runs) for one query and for 64
queries, and the ratios to the plain loop and to NumPy.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence

import numba
import numpy as np

from iom.codes._kernels import compiled, portable
from iom.codes.packing import pack

CODE_LENGTH, ALPHABET_SIZE = 512, 8
PLANES, WORDS = 3, 8


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `python -m benchmarks.kernels`."""
    parser = argparse.ArgumentParser("python -m benchmarks.kernels", description=__doc__)
    parser.add_argument("--codes", type=int, default=200_000, help="rows of the gallery; default: %(default)s")
    parser.add_argument("--repeats", type=int, default=7, help="runs, of which the best counts; default: %(default)s")
    arguments = parser.parse_args(argv)
    rows = np.random.default_rng(0).integers(0, ALPHABET_SIZE, (arguments.codes, CODE_LENGTH), np.uint8)
    gallery = pack(rows, ALPHABET_SIZE).planes
    figures: dict[str, float] = {}
    for count in (1, 64):
        kernels = {
            "compiled": compiled.table_kernel(PLANES, WORDS, queries=count, rows=len(gallery)),
            "plain": _plain,
            "numpy": portable.table_kernel(PLANES, WORDS),
        }
        rates = {name: _rate(kernel, gallery, count, arguments.repeats) for name, kernel in kernels.items()}
        figures |= {f"{name}_{count}": round(rate / 1e6, 1) for name, rate in rates.items()}
        figures[f"ratio_plain_{count}"] = round(rates["compiled"] / rates["plain"], 2)
        figures[f"ratio_numpy_{count}"] = round(rates["compiled"] / rates["numpy"], 1)
    print(json.dumps(figures))
    return 0


def _rate(kernel: Callable[..., None], gallery: np.ndarray, count: int, repeats: int) -> float:
    """Codes per second of CPU time."""
    out = np.zeros((count, len(gallery)), np.int32)
    seconds = []
    for _ in range(1 + repeats):
        started = time.thread_time()
        kernel(gallery[:count], gallery, out, 0, count, 0, len(gallery))
        seconds.append(time.thread_time() - started)
    return count * len(gallery) / min(seconds[1:])


@numba.njit(nogil=True)  # type: ignore[untyped-decorator]
def _ones(word: np.uint64) -> np.uint64:
    word = word - ((word >> np.uint64(1)) & np.uint64(0x5555555555555555))
    word = (word & np.uint64(0x3333333333333333)) + ((word >> np.uint64(2)) & np.uint64(0x3333333333333333))
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return (word * np.uint64(0x0101010101010101)) >> np.uint64(56)


@numba.njit(nogil=True)  # type: ignore[untyped-decorator]
def _plain(a: np.ndarray, b: np.ndarray, out: np.ndarray, a_start: int, a_stop: int, b_start: int, b_stop: int) -> None:
    for i in range(a_start, a_stop):
        for j in range(b_start, b_stop):
            total = np.uint64(0)
            for word in range(WORDS):
                differing = np.uint64(0)
                for plane in range(PLANES):
                    differing |= a[i, plane, word] ^ b[j, plane, word]
                total += _ones(differing)
            out[i, j] = total


if __name__ == "__main__":
    raise SystemExit(main())
