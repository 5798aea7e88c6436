"""Time faiss on words from a file; runs in the Python of another environment, see `matching`.

Reads commands `TOP COUNT THREADS` from standard input, a line each, and answers with the seconds
that searching for the first COUNT queries took; `results TOP` writes what was found to a file.
"""

import sys
import time

import faiss
import numpy as np


def main() -> int:
    """Answer until the input ends."""
    gallery, queries, results = sys.argv[1:4]
    words = np.load(gallery, mmap_mode="r")
    probes = np.load(queries)
    index = faiss.IndexBinaryFlat(8 * words.shape[1])
    for start in range(0, len(words), 1 << 16):
        index.add(np.ascontiguousarray(words[start : start + (1 << 16)]))
    print(f"faiss {faiss.__version__}", flush=True)
    for line in sys.stdin:
        command, *rest = line.split()
        if command == "results":
            distances, ids = index.search(probes, int(rest[0]))
            np.savez(results, distances=distances, ids=ids)
            print("0", flush=True)
            continue
        top, count, threads = int(command), int(rest[0]), int(rest[1])
        faiss.omp_set_num_threads(threads)
        start = time.perf_counter()
        index.search(probes[:count], top)
        print(time.perf_counter() - start, flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
