"""Search by asymmetric distance against the indexes of faiss, on the same rows, in one run; part of `matching`.

Rows are synthetic embeddings with the covariances of `mobilefacenet_y1` behind a secret rotation; queries are other
images of subjects of the gallery. Codes are those of an untrained product frame. `recall_1` is the share of queries
whose nearest row by the float cosine is found first, `recall_5` that of those where it is among the first five.
Searches run in one thread, and times are those of the processor, without what other programs take of it.
"""

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from benchmarks.embedding_model import EmbeddingModel
from benchmarks.foreign_process import ForeignProcess

TOP, BATCH, QUERIES = 5, 64, 512
SHAPES = {64: (128, 16), 32: (64, 16), 16: (32, 16)}
"""Bytes of a code to its length and alphabet."""
CUTS = {16: 0.01, 32: 0.002}
"""First bytes of a 64-byte code that a search in two stages looks at, to the share of codes that is left."""
INDEXES = {
    "Binary": "binary_64",
    "PQ128x4fs": "pq_fast_scan_64", "PQ64x4fs": "pq_fast_scan_32", "PQ32x4fs": "pq_fast_scan_16",
    "PQ16": "pq_16", "SQ4": "scalar_64",
    "RaBitQ4": "rabitq_4bit_84", "RaBitQ": "rabitq_24", "RaBitQfs": "rabitq_fast_scan_24",
}  # fmt: skip
"""Names for `faiss.index_factory` to those of the figures, which end in the bytes of a code."""
SINGLES_A_ROUND = 5
SLOW = 2.0
"""Seconds of a batch of which one is enough."""
EQUAL = 0.005
"""Recall by which an index may fall short and still count as one of equal recall."""


class _Row(NamedTuple):
    """One search: its recalls, the bytes of a code, and how to time it for a number of queries."""

    recall_1: float
    recall_5: float
    code_bytes: int
    seconds: Callable[[int], float]


def asymmetric_figures(
    templates: int, rounds: int, python: Path, scratch: Path, data: Path | None, stream: Callable[[np.ndarray], float]
) -> dict[str, float]:
    """Figures by name: `asymmetric_<bytes>_*`, `asymmetric_64_cut_<bytes>_*`, `faiss_<index>_*`, and ratios.

    `*` is `single_ms`, `batch_ms` (of one query in a batch of 64), `recall_1`, `recall_5`. `ratio_equal_bytes_*` are
    times of the fast scan of product quantisation over ours at the same bytes; `ratio_equal_recall_*` those of the
    fastest index of faiss that reaches our recall at rank 1 but for `EQUAL`. `share_of_stream_*` is the bandwidth at
    which codes are read, over that of `stream`, which sums an array and gives the seconds.
    """
    from iom.codes.scan import Cut

    random = np.random.default_rng(11)
    keyed, probes, words, word_probes, codes = _material(templates, EmbeddingModel.fitted(data), random)
    truth = _nearest(keyed, probes)
    for name, array in (("rows", keyed), ("queries", probes), ("words", words), ("word_queries", word_probes)):
        np.save(scratch / f"{name}.npy", array)
    foreign = _Faiss(python, scratch)
    print(f"{foreign.version}; {templates} templates, data {'of ' + str(data) if data else 'synthetic'}")
    table: dict[str, _Row] = {}
    streams = {}
    for size, (stored, rows) in codes.items():
        streams[size] = stored._words
        table[f"asymmetric_{size}"] = _row(
            lambda count, s=stored, r=rows: s.nearest(r[:count], TOP, threads=1).rows, truth, size
        )
        for cut in [Cut(*each) for each in CUTS.items()] if size == 64 else []:
            table[f"asymmetric_64_cut_{cut.code_bytes}"] = _row(
                lambda count, s=stored, r=rows, c=cut: s.nearest(r[:count], TOP, cut=c, threads=1).rows, truth, size
            )
    for index, name in INDEXES.items():
        found, code_bytes = foreign.results(index)
        table[f"faiss_{name}"] = _Row(
            *_recalls(found, truth), code_bytes, lambda count, i=index: foreign.seconds(i, count)
        )
    taken: dict[str, dict[int, list[float]]] = {name: {1: [], BATCH: []} for name in table}
    streamed: dict[int, list[float]] = {size: [] for size in streams}
    for _ in tqdm(range(rounds), unit="round"):
        for _ in range(SINGLES_A_ROUND):
            for name, row in table.items():
                taken[name][1].append(row.seconds(1))
            for size, array in streams.items():
                streamed[size].append(stream(array.reshape(-1).view(np.uint64)))
        for name, row in table.items():
            if max(taken[name][BATCH], default=0.0) < SLOW:
                taken[name][BATCH].append(row.seconds(BATCH))
    foreign.close()
    figures: dict[str, float] = {}
    print(f"{'':28} bytes  recall 1  recall 5  single ms  of 64 ms   GB/s")
    for name, row in table.items():
        single, batch = 1e3 * median(taken[name][1]), 1e3 * median(taken[name][BATCH]) / BATCH
        figures |= {f"{name}_single_ms": single, f"{name}_batch_ms": batch}
        figures |= {f"{name}_recall_1": row.recall_1, f"{name}_recall_5": row.recall_5}
        print(
            f"{name:28} {row.code_bytes:5} {row.recall_1:9.4f} {row.recall_5:9.4f} {single:10.3f} {batch:9.3f} "
            f"{templates * row.code_bytes / single / 1e6:6.1f}"
        )
    for size, array in streams.items():
        own = f"asymmetric_{size}"
        seconds = median(streamed[size])
        figures[f"share_of_stream_{size}"] = 1e3 * seconds / figures[f"{own}_single_ms"]
        fast = figures[f"faiss_pq_fast_scan_{size}_single_ms"]
        figures[f"share_of_stream_faiss_{size}"] = 1e3 * seconds / fast
        print(f"stream of {array.nbytes / 1e6:.0f} MB: {array.nbytes / seconds / 1e9:.1f} GB/s")
    for own in [name for name in table if name.startswith("asymmetric")]:
        equal = [
            name for name, row in table.items()
            if name.startswith("faiss") and row.recall_1 >= table[own].recall_1 - EQUAL
        ]  # fmt: skip
        for kind in ("single", "batch"):
            ours, short = figures[f"{own}_{kind}_ms"], own.removeprefix("asymmetric_")
            bytes_of = short.split("_")[0]
            figures[f"ratio_equal_bytes_{kind}_{short}"] = figures[f"faiss_pq_fast_scan_{bytes_of}_{kind}_ms"] / ours
            if equal:
                best = min(equal, key=lambda name: figures[f"{name}_{kind}_ms"])
                figures[f"ratio_equal_recall_{kind}_{short}"] = figures[f"{best}_{kind}_ms"] / ours
                print(f"{own}, {kind}: {figures[f'{best}_{kind}_ms'] / ours:.2f} times as fast as {best}")
    return figures


def _row(search: Callable[[int], np.ndarray], truth: np.ndarray, code_bytes: int) -> _Row:
    def seconds(count: int) -> float:
        start = time.thread_time()
        search(count)
        return time.thread_time() - start

    found = search(len(truth))
    seconds(1), seconds(BATCH)
    return _Row(*_recalls(found, truth), code_bytes, seconds)


def _recalls(found: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    hits = found == truth[:, None]
    return float(hits[:, 0].mean()), float(hits.any(axis=1).mean())


def _material(templates: int, model: EmbeddingModel, random: np.random.Generator):  # type: ignore[no-untyped-def]
    """Keyed rows of gallery and queries, codes of 512 signs of both, and codes in memory with the rows of queries."""
    from iom.codes.packing import pack
    from iom.codes.scan import InterleavedCodes
    from iom.config import HasherConfig
    from iom.keys import KEY_KINDS, TransformKey
    from iom.nn.frames import draw_frame
    from iom.nn.hash_numpy import Head, untrained_head

    size = len(model.mean)
    order = KEY_KINDS["orthogonal"].order(TransformKey(bytes(range(32))), size, 0)
    plain = {"projection": "product", "learned_layer": False, "whitening": 0.0, "refinement_steps": 0}
    configs = {each: HasherConfig(code_length=m, alphabet_size=q, **plain) for each, (m, q) in SHAPES.items()}
    heads = {each: Head(*untrained_head(size, config, seed=1)) for each, config in configs.items()}
    signs = draw_frame("simplex", size, 512, 2, seed=1)[:, ::2]
    stored = {each: InterleavedCodes(head.vectors, capacity=templates) for each, head in heads.items()}
    keyed, words = np.empty((templates, size), np.float32), np.empty((templates, 64), np.uint8)
    asked = []
    step = 1 << 12
    for start in tqdm(range(0, templates, step), desc="codes", unit="block"):
        part = slice(start, min(templates, start + step))
        subjects, rows = model.drawn(part.stop - start, random)
        orders = np.broadcast_to(order, (len(rows), len(order)))
        keyed[part] = heads[64].keyed_rows(rows, orders)
        words[part] = np.packbits(keyed[part] @ signs > 0, axis=1)
        for each, head in heads.items():
            stored[each].append(pack(head.hash(rows, orders), SHAPES[each][1]))
        chosen = random.integers(0, len(rows), -(-QUERIES * step // templates) + 1)
        asked.append(model.images(subjects[chosen], random))
    queries = np.concatenate(asked)[random.permutation(sum(map(len, asked)))[:QUERIES]]
    orders = np.broadcast_to(order, (len(queries), len(order)))
    probes = heads[64].keyed_rows(queries, orders).astype(np.float32)
    word_probes = np.packbits(probes @ signs > 0, axis=1)

    from iom.codes.asymmetric import keyed_rows

    codes = {each: (stored[each], keyed_rows(heads[each].keyed_rows(queries, orders))) for each in heads}
    return keyed, probes, words, word_probes, codes


def _nearest(rows: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Row of the largest product of each query."""
    best, found = np.full(len(queries), -np.inf, np.float32), np.zeros(len(queries), np.int64)
    for start in range(0, len(rows), 1 << 15):
        products = queries @ rows[start : start + (1 << 15)].T
        place = products.argmax(axis=1)
        value = products[np.arange(len(queries)), place]
        better = value > best
        best[better], found[better] = value[better], place[better] + start
    return found


class _Faiss(ForeignProcess):
    """Indexes of faiss in another process."""

    def __init__(self, python: Path, scratch: Path) -> None:
        self._found = scratch / "found_rows.npy"
        files = [scratch / f"{name}.npy" for name in ("rows", "queries", "words", "word_queries")]
        one_thread = {"OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        super().__init__(python, "foreign_faiss_rows.py", [*files, self._found, *INDEXES], one_thread)

    def seconds(self, index: str, count: int) -> float:
        """Of a search for `count` queries with one thread."""
        return float(self.ask(f"{index} {TOP} {count} 1"))

    def results(self, index: str) -> tuple[np.ndarray, int]:
        """Rows that were found for all queries, and the bytes of a code."""
        code_bytes = int(self.ask(f"results {index} {TOP}"))
        self.seconds(index, BATCH)
        return np.load(self._found), code_bytes
