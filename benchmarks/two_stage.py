"""Search in two stages against the exhaustive search: LFW among a million synthetic distractors, codes of 64 bytes.

    python -m benchmarks.two_stage [--distractors 1000000] [--probes 1000] [--data DIR]

The gallery holds the first image of each subject of LFW (`mobilefacenet_y1`) and distractors with the covariances of
those embeddings, the probes are a second image of each subject that has one; codes are those of an untrained product
frame, 128x16. A first stage leaves some codes, which are compared exactly: those that score best in their first bytes
(`cut_<bytes>_<share>`), or the nearest ones by differing symbols (`symbols_<number>`).

Prints a table and one line of JSON: `<stage>_recall`, the share of probes whose nearest code by the exhaustive search
is found, `<stage>_rank_1`, that of probes whose subject is found first, and `<stage>_ms`, the median processor
time of one probe in one thread; `exact_*` are those of the exhaustive search.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from statistics import median

import numpy as np
from tqdm import tqdm

from benchmarks.command_line import add_data_option, new_parser, run
from benchmarks.embedding_model import EmbeddingModel, folders_of
from iom.errors import ConfigError

STORED = "embeddings/lfw_112x112.mobilefacenet_y1.npz"
CUTS = [(16, 0.01), (16, 0.1), (32, 0.001), (32, 0.01), (32, 0.05), (48, 0.001)]
SYMBOLS = (100, 1000)
STEP = 1 << 12


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print one line of JSON."""
    parser = new_parser("python -m benchmarks.two_stage", str(__doc__))
    parser.add_argument("--distractors", type=int, default=1_000_000, help="default: %(default)s")
    parser.add_argument("--probes", type=int, default=1000, help="at most; default: %(default)s")
    add_data_option(parser)
    return run(_measure, parser, argv)


def _measure(arguments: argparse.Namespace) -> int:
    from iom.codes.asymmetric import keyed_rows
    from iom.codes.distances import nearest
    from iom.codes.packing import PackedCodes, pack
    from iom.codes.scan import Cut, InterleavedCodes
    from iom.config import HasherConfig
    from iom.keys import KEY_KINDS, TransformKey
    from iom.nn.hash_numpy import Head, untrained_head

    if arguments.distractors < 10_000 or arguments.probes < 1:
        raise ConfigError("expected --distractors of at least 10000 and at least one probe")
    with np.load(arguments.data / STORED) as stored:
        faces, subjects = stored["embedding"], folders_of(stored["path"])
    _, first, index = np.unique(subjects, return_index=True, return_inverse=True)
    others = np.setdiff1d(np.arange(len(faces)), first)
    second = others[np.unique(index[others], return_index=True)[1]][: arguments.probes]
    size = faces.shape[1]
    config = HasherConfig(
        code_length=128, alphabet_size=16, projection="product", learned_layer=False, whitening=0.0, refinement_steps=0
    )
    head = Head(*untrained_head(size, config, seed=1))
    order = KEY_KINDS["orthogonal"].order(TransformKey(bytes(range(32))), size, 0)
    model = EmbeddingModel.fitted(arguments.data, STORED)
    random = np.random.default_rng(12)
    codes, planes = InterleavedCodes(head.vectors, capacity=len(first) + arguments.distractors), []

    def add(rows: np.ndarray) -> None:
        packed = pack(head.hash(rows, np.broadcast_to(order, (len(rows), len(order)))), 16)
        codes.append(packed)
        planes.append(packed.planes)

    for start in range(0, len(first), STEP):
        add(faces[first[start : start + STEP]])
    for start in tqdm(range(0, arguments.distractors, STEP), desc="codes", unit="block"):
        add(model.drawn(min(STEP, arguments.distractors - start), random)[1])
    stored_codes = PackedCodes(np.concatenate(planes), 128, 16)
    orders = np.broadcast_to(order, (len(second), len(order)))
    probes = keyed_rows(head.keyed_rows(faces[second], orders))
    symbols = pack(head.hash(faces[second], orders), 16)
    own = index[second]

    def by_symbols(n: int, count: int) -> int:
        rows = nearest(symbols[n : n + 1], stored_codes, count, threads=1).rows[0]
        few = InterleavedCodes(head.vectors)
        few.append(stored_codes[rows])
        distances = few.distances(probes[n : n + 1])[0]
        return int(rows[np.lexsort([rows, distances])[0]])

    def by_scan(n: int, cut: Cut | None) -> int:
        return int(codes.nearest(probes[n : n + 1], 1, cut=cut, threads=1).rows[0, 0])

    stages: dict[str, Callable[[int], int]] = {"exact": lambda n: by_scan(n, None)}
    for code_bytes, share in CUTS:
        cut = Cut(code_bytes, share)
        stages[f"cut_{code_bytes}_{share:g}"] = lambda n, c=cut: by_scan(n, c)
    stages |= {f"symbols_{count}": lambda n, k=count: by_symbols(n, k) for count in SYMBOLS}
    found: dict[str, list[int]] = {name: [] for name in stages}
    taken: dict[str, list[float]] = {name: [] for name in stages}
    for n in tqdm(range(len(second)), unit="probe"):
        for name, stage in stages.items():
            began = time.thread_time()
            found[name].append(stage(n))
            taken[name].append(time.thread_time() - began)
    figures: dict[str, float] = {}
    exact = np.array(found["exact"])
    print(f"{len(codes)} codes, {len(second)} probes\n{'':18} recall   rank 1       ms")
    for name in stages:
        rows, seconds = np.array(found[name]), median(taken[name])
        recall, rank_1 = float((rows == exact).mean()), float((rows == own).mean())
        figures |= {f"{name}_recall": recall, f"{name}_rank_1": rank_1, f"{name}_ms": 1e3 * seconds}
        print(f"{name:18} {recall:6.4f}   {rank_1:6.4f} {1e3 * seconds:8.2f}")
    print(json.dumps({key: float(f"{value:.4g}") for key, value in figures.items()}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
