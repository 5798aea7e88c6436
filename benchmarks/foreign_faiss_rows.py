"""Time indexes of faiss on rows from a file; runs in the Python of another environment, see `asymmetric_matching`.

Arguments: files of rows, of queries, of codes for `IndexBinaryFlat` and of their queries, a file for results, and names
of indexes for `faiss.index_factory`; `Binary` is `IndexBinaryFlat`. Reads commands `NAME TOP COUNT THREADS` from
standard input, a line each, and answers with the seconds of the processor for the first COUNT queries; `results NAME
TOP` writes the rows that were found to the file and answers with the bytes of a code.
"""

import sys
import time

import faiss
import numpy as np

TRAINING = 50_000
SLOW = {"PQ16": 10_000}
"""Rows of the training of indexes with 256 centroids a place, which take minutes with more."""
STEP = 1 << 16


def main() -> int:
    """Answer until the input ends."""
    rows, queries, words, word_queries, results, *names = sys.argv[1:]
    data, probes = np.load(rows, mmap_mode="r"), np.load(queries)
    indexes = {}
    for name in names:
        source, asked = (words, np.load(word_queries)) if name == "Binary" else (rows, probes)
        source = np.load(source, mmap_mode="r")
        if name == "Binary":
            index = faiss.IndexBinaryFlat(8 * source.shape[1])
        else:
            index = faiss.index_factory(data.shape[1], name, faiss.METRIC_INNER_PRODUCT)
            index.train(np.ascontiguousarray(source[: SLOW.get(name, TRAINING)]))
        for start in range(0, len(source), STEP):
            index.add(np.ascontiguousarray(source[start : start + STEP]))
        indexes[name] = index, asked
    print(f"faiss {faiss.__version__} ({faiss.get_compile_options().strip()})", flush=True)
    for line in sys.stdin:
        command, *rest = line.split()
        if command == "results":
            index, asked = indexes[rest[0]]
            _, ids = index.search(asked, int(rest[1]))
            np.save(results, ids)
            print(index.code_size, flush=True)
            continue
        index, asked = indexes[command]
        top, count, threads = map(int, rest)
        faiss.omp_set_num_threads(threads)
        start = time.thread_time()
        index.search(asked[:count], top)
        print(time.thread_time() - start, flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
