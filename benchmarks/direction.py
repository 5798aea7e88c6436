"""What makes the direction of dlib's embedding carry its Euclidean metric: maps learned on FIW, tried on LFW and CFP.

    python -m benchmarks.direction dlib_face_recognition_resnet_model_v1.dat --output direction.json

The maps are learned on three quarters of FIW's families and compared on the last (cosine of what they give; pairs of
two families as non-mated); LFW and CFP are reported, nothing is chosen on them. Ends with one line of JSON: for each
map and set EER, and FNMR at FMR 1e-2 and 1e-3.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.bundled import plain_list
from benchmarks.command_line import add_data_option, new_parser, run

Rows = NDArray[np.float64]
FMRS = (1e-2, 1e-3)
CHUNK = 64
SHARES = (0.25, 0.5, 0.75, 1.0)
SMALLEST = 1e-7
"""Floor of an eigenvalue: the last layer has fewer independent directions than dimensions."""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `python -m benchmarks.direction`."""
    parser = new_parser("python -m benchmarks.direction", str(__doc__))
    parser.add_argument("source", type=Path, metavar="PATH.dat", help="dlib's network")
    parser.add_argument("--output", type=Path, help="write the mean and the share for iom.pretrained.make_bundled")
    parser.add_argument("--share", type=float, default=0.5, help="default: %(default)s")
    parser.add_argument("--cache", type=Path, default=Path(".cache/direction"), help="default: %(default)s")
    add_data_option(parser)
    return run(_measure, parser, argv)


def _measure(arguments: argparse.Namespace) -> int:
    from iom.data.benchmarks.pair_lists import read_pair_list

    lists = arguments.data / "lists"
    root = arguments.data / "fiw_112x112"
    names = [name for name in (lists / "fiw_clean.txt").read_text().splitlines() if name]
    rows = raw_embeddings([root / name for name in names], arguments.cache / "fiw.npy", arguments.source)
    subjects = np.unique([name.split("/")[0] for name in names], return_inverse=True)[1]
    families = np.array([name.split("_")[0] for name in names])
    held_out = np.isin(families, np.random.default_rng(0).permutation(np.unique(families))[::4])
    left, right = np.triu_indices(int(held_out.sum()), 1)
    same = subjects[held_out][left] == subjects[held_out][right]
    other = families[held_out][left] != families[held_out][right]
    sets = {"fiw": (rows[held_out], left[same | other], right[same | other], same[same | other])}
    with tempfile.TemporaryDirectory() as folder:
        places = {
            "lfw": ("lfw_112x112", lists / "lfw_pairs.txt"),
            **{
                f"cfp_{name.lower()}": ("cfp_112x112", plain_list(lists / "cfp" / f"{name}.tsv", Path(folder)))
                for name in ("FF", "FP")
            },
        }
        for name, (images, path) in places.items():
            pairs = read_pair_list(path, arguments.data / images)
            files = [Path(str(each)) for each in pairs.images]
            embedded = raw_embeddings(files, arguments.cache / f"{name}.npy", arguments.source)
            sets[name] = (embedded, pairs.left, pairs.right, pairs.same)
    figures: dict[str, Any] = {}
    for map_name, score in maps(rows[~held_out], subjects[~held_out]).items():
        figures[map_name] = {name: _errors(score, *each) for name, each in sets.items()}
        print(map_name, json.dumps(figures[map_name]), flush=True)
    if arguments.output is not None:
        mean = [round(float(value), 6) for value in rows[~held_out].mean(0)]
        arguments.output.write_text(json.dumps({"share": arguments.share, "mean": mean}) + "\n", encoding="utf-8")
    print(json.dumps(figures))
    return 0


def raw_embeddings(paths: Sequence[Path], cache: Path, source: Path) -> Rows:
    """Dlib's embeddings `(N, 128)` of aligned crops, kept in a file."""
    from tqdm import tqdm

    from iom.photos.align import TEMPLATES
    from iom.photos.images import read_images
    from iom.pretrained.make_bundled import make_bundled
    from iom.pretrained.manifest import Statement
    from iom.pretrained.onnx_network import OnnxNetwork

    if cache.is_file():
        return np.asarray(np.load(cache), np.float64)
    network_file = cache.with_name("dlib_resnet.onnx")
    if not network_file.is_file():
        make_bundled(source, network_file)
    network = OnnxNetwork(network_file, Statement(colour_order="RGB", range="0..255", size=150))
    parts = [
        network.predict_on_batch(TEMPLATES["dlib"].chips(read_images(paths[start : start + CHUNK])).astype(np.float32))
        for start in tqdm(range(0, len(paths), CHUNK), desc=cache.stem)
    ]
    cache.parent.mkdir(parents=True, exist_ok=True)
    np.save(cache, np.concatenate(parts))
    return np.concatenate(parts).astype(np.float64)


def maps(train: Rows, subjects: NDArray[np.int64]) -> dict[str, Callable[[Rows, Rows], Rows]]:
    """Similarity of rows of two images by each map; those of a direction are cosines."""
    from iom.nn.adapter import within_class_whitening

    mean = train.mean(0)
    values, vectors = np.linalg.eigh(np.cov((train - mean).T))
    whole = vectors * np.maximum(values, SMALLEST) ** -0.25
    labels = np.unique(subjects, return_inverse=True)[1]
    within = within_class_whitening(train.astype(np.float32), labels, 0.2).astype(np.float64)

    def cosine(change: Callable[[Rows], Rows]) -> Callable[[Rows, Rows], Rows]:
        def score(a: Rows, b: Rows) -> Rows:
            a, b = change(a), change(b)
            return np.sum(a * b, 1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))

        return score

    def lifted(length: float) -> Callable[[Rows, Rows], Rows]:
        return cosine(lambda x: np.hstack([x - mean, np.full((len(x), 1), length)]))

    return {
        "euclidean distance": lambda a, b: -np.sum((a - b) ** 2, 1),
        "direction": cosine(lambda x: x),
        "shift by the mean": cosine(lambda x: x + mean),
        **{f"mean direction, share {share:g}": cosine(steadied(mean, share)) for share in SHARES},
        "centred": cosine(lambda x: x - mean),
        "within-class whitening 0.2": cosine(lambda x: x @ within),
        "centred, half whitened": cosine(lambda x: (x - mean) @ whole),
        "centred, lifted by 0.8": lifted(0.8),
        "centred, lifted by 1.5": lifted(1.5),
    }


def steadied(mean: Rows, share: float) -> Callable[[Rows], Rows]:
    """Rows whose component along the mean is moved by `share` towards the mean's own length."""
    unit = mean / np.linalg.norm(mean)
    return lambda x: x - share * np.outer(x @ unit - np.linalg.norm(mean), unit)


def _errors(
    score: Callable[[Rows, Rows], Rows],
    rows: Rows,
    left: NDArray[np.int64],
    right: NDArray[np.int64],
    same: NDArray[np.bool_],
) -> list[float]:
    from iom.metrics.verification import error_curve

    step = 200_000
    parts = [score(rows[left[i : i + step]], rows[right[i : i + step]]) for i in range(0, len(left), step)]
    distances = -np.concatenate(parts)
    curve = error_curve(distances[same], distances[~same])
    return [round(float(x), 4) for x in (curve.equal_error_rate(), *(curve.fnmr_at_fmr(fmr) for fmr in FMRS))]


if __name__ == "__main__":
    raise SystemExit(main())
