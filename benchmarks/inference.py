"""Images per CPU-second from aligned face to code, ours against the usual runtimes used plainly.

    python -m benchmarks.inference

Every runtime computes the whole of it: backbone, hash, argmax. Ours is the `fast` artefact
(OpenVINO in bfloat16, from our graph with batch norms and pixel scaling folded);
`ratio_ort_NETWORK` is against onnxruntime in float32 on that same graph, the smaller of those at
batch 1 and 8. `ratio_plain_NETWORK` is against OpenVINO left to itself, which takes bfloat16 too
where the CPU has it, on the SavedModel of the Keras graph as it was trained;
`ratio_plain_float32_NETWORK` compares our `openvino` artefact with the best of onnxruntime, LiteRT
and OpenVINO in float32, the last two on plain graphs. One thread each where the runtime lets one
choose. Rounds alternate between the runtimes, a round is a number of calls; seconds are of the
process on all its cores, so that the figures are those of a core. Ratios are medians of the ratios
of rounds.

`mobilefacenet` is `mobilefacenet_y1.ms1m` where its weights are. There are no trained weights of
IResNet-50 and 100: they are grown from the bundled network (`benchmarks/grown.py`), in their full
size; accuracy is then of all pairs among subjects of LFW with four images each.
Ends with one line of JSON.
"""

import argparse
import dataclasses
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.command_line import add_data_option, new_parser, run

BATCHES = (1, 8)
SHAPE = {"code_length": 1536, "alphabet_size": 2, "projection": "orthonormal", "refinement_steps": 0}
TRAINED = {"mobilefacenet": "pre_models/mobilefacenet_y1_1536x2", "bundled": "bundled"}
DERIVED = ("iresnet50", "iresnet100")
STATISTICS_FACES = 48
SUBJECT_IMAGES = 4
OURS, OURS_FLOAT32, PLAIN = "ours", "ours float32", "openvino"
PLAIN_FLOAT32 = ("onnxruntime", "litert", "openvino float32")
ROUND_SECONDS = 1.0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `python -m benchmarks.inference`."""
    parser = new_parser("python -m benchmarks.inference", str(__doc__))
    add_data_option(parser)
    parser.add_argument("--networks", nargs="+", default=[*DERIVED, *TRAINED])
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--pairs", type=int, default=6000, help="of LFW; default: %(default)s")
    parser.add_argument(
        "--derived-subjects", type=int, default=250,
        help="of LFW with four images, for networks without weights (default: %(default)s)",
    )  # fmt: skip
    return run(_measure, parser, argv)


def _measure(arguments: argparse.Namespace) -> int:
    figures: dict[str, Any] = {}
    for name in arguments.networks:
        with tempfile.TemporaryDirectory() as folder:
            _network(name, arguments, Path(folder), figures)
    print(json.dumps(figures))
    return 0


def _network(name: str, arguments: argparse.Namespace, folder: Path, figures: dict[str, Any]) -> None:
    from iom.export.exporter import Exporter
    from iom.export.formats import FORMATS
    from iom.keys import KEY_KINDS, TransformKey
    from iom.models.artifact import open_openvino

    plain, source, faces = _source(name, arguments)
    runs, fast = _runners(plain, source, folder)
    hasher = source.hasher
    key = TransformKey(bytes(32))
    order = KEY_KINDS[hasher.key_kind].order(key, hasher.key_size, hasher.keep)
    races = {str(b): _race(runs, faces.images, order, b, arguments.rounds) for b in BATCHES}
    best = {b: max(PLAIN_FLOAT32, key=lambda one: _median(race[one])) for b, race in races.items()}
    figures[f"ratio_ort_{name}"] = _least(races, OURS, dict.fromkeys(races, "onnxruntime"))
    figures[f"ratio_plain_{name}"] = _least(races, OURS, dict.fromkeys(races, PLAIN))
    figures[f"ratio_plain_float32_{name}"] = _least(races, OURS_FLOAT32, best)
    speeds = {b: {one: round(_median(rates), 2) for one, rates in race.items()}
              for b, race in races.items()}  # fmt: skip
    figures[f"per_core_{name}"] = speeds
    print(name, json.dumps(speeds), flush=True)

    session = open_openvino(fast, precision="bfloat16")
    exporter = Exporter(source, calibration=faces.images[:1], faces=faces, key=key)
    check = exporter.check(_codes(session, faces.images, order), FORMATS["fast"])
    figures[f"eer_difference_{name}"] = round(check.eer - check.source_eer, 5)
    figures[f"eer_{name}"] = round(check.source_eer, 5)
    figures[f"equal_symbols_{name}"] = round(check.equal_symbols, 4)
    figures[f"images_{name}"] = check.images
    print(name, f"equal symbols {check.equal_symbols:.4f}, EER {check.source_eer:.4f} and",
          f"{check.eer:.4f} on {check.images} images", flush=True)  # fmt: skip


def _source(name: str, arguments: argparse.Namespace) -> tuple[Any, Any, Any]:
    """The source as it was trained, the source with batch norms folded, faces."""
    from iom._files import list_subjects
    from iom.errors import DataError
    from iom.export.context import load_source
    from iom.export.exporter import faces_of_pairs
    from iom.photos.images import read_images
    from iom.pretrained.weights import load_backbone_model

    root = arguments.data
    if name in TRAINED:
        source = load_source(TRAINED[name])
        backbone = load_backbone_model(source.hasher.embedder_name).model
        pairs = root / "lists" / "lfw_pairs.txt"
        faces = faces_of_pairs(pairs, root / "lfw_112x112", size=112, max_pairs=arguments.pairs)
        return dataclasses.replace(source, backbone=backbone), source, faces
    faces = root / "fiw_112x112"
    paths = [faces / image for image in list_subjects(faces).images]
    if not paths:
        raise DataError(f"{root / 'fiw_112x112'}: expected aligned faces, found none")
    backbone, source = _derived(name, read_images(paths[:: len(paths) // STATISTICS_FACES]))
    faces = _all_pairs(root / "lfw_112x112", arguments.derived_subjects)
    return dataclasses.replace(source, backbone=backbone), source, faces


def _all_pairs(folder: Path, subjects: int) -> Any:
    """Four images of each of some subjects, and all pairs of them."""
    import numpy as np

    from iom._files import list_subjects
    from iom.data.benchmarks.base import PairBenchmark
    from iom.errors import DataError
    from iom.export.exporter import Faces
    from iom.photos.images import read_images

    subjects_of = list_subjects(folder).subjects
    images = [[folder / one for one in of][:SUBJECT_IMAGES] for of in subjects_of.values()]
    enough = [found for found in images if len(found) == SUBJECT_IMAGES]
    if len(enough) < subjects:
        raise DataError(f"{folder}: expected {subjects} subjects with {SUBJECT_IMAGES} images")
    chosen = [enough[number] for number in np.linspace(0, len(enough) - 1, subjects).astype(int)]
    paths = tuple(path for found in chosen for path in found)
    people = np.repeat(np.arange(subjects), SUBJECT_IMAGES)
    left, right = np.triu_indices(len(paths), 1)
    benchmark = PairBenchmark("LFW", paths, left, right, people[left] == people[right], np.zeros_like(left), people)
    return Faces(f"LFW, all pairs of {len(paths)} images", read_images(paths), benchmark)


def _derived(name: str, statistics: Any) -> tuple[Any, Any]:
    """A network grown from the bundled one, and a hasher for it."""
    from benchmarks.grown import grown
    from iom.config import HasherConfig
    from iom.export.context import ExportSource
    from iom.export.folding import fold_batch_norms
    from iom.models.embedder import Embedder
    from iom.models.face_hasher import KerasFaceHasher
    from iom.nn.hash_network import build_hasher

    backbone = grown(name, statistics)
    backbone.compile(jit_compile=False)
    embedder = Embedder(backbone.predict_on_batch, name=name, fingerprint="0" * 64, embedding_size=512, batch_size=8)
    network = build_hasher(512, HasherConfig(**SHAPE))
    hasher = KerasFaceHasher(network, embedder_name=name, embedder_fingerprint="0" * 64)
    return backbone, ExportSource(fold_batch_norms(backbone), hasher, embedder)


def _runners(plain: Any, source: Any, folder: Path) -> tuple[dict[str, Callable[..., Any]], Path]:
    """Runtime to a function of images and orders, and the fast artefact."""
    import numpy as np
    import openvino
    import tensorflow as tf

    from iom.export.context import ExportContext
    from iom.export.onnx import write_onnx, write_openvino
    from iom.export.tensorflow import frozen_saved_model, write_litert
    from iom.models.artifact import open_litert, open_onnx, open_openvino

    nothing = np.zeros((0, 112, 112, 3), np.uint8), np.zeros((0, 1), np.int32)
    (folder / "plain").mkdir()
    context, as_trained = (ExportContext(source, *nothing, folder), ExportContext(plain, *nothing, folder / "plain"))
    fast, ort, lite = folder / "fast.xml", folder / "folded.onnx", folder / "plain.tflite"
    write_openvino(context, fast)
    write_onnx(context, ort)
    write_litert(as_trained, lite)
    graph = plain.graph()
    graph.compile(jit_compile=False)
    traced = tf.function(lambda image, order: graph({"image": image, "order": order}))
    core, converted = openvino.Core(), openvino.convert_model(frozen_saved_model(as_trained))

    def left_alone(**settings: str) -> Callable[..., Any]:
        model = core.compile_model(converted, "CPU", {"INFERENCE_NUM_THREADS": "1", **settings})
        return lambda image, order: model({"image": image, "order": order})

    runs: dict[str, Callable[..., Any]] = {
        OURS: open_openvino(fast, precision="bfloat16", threads=1),
        PLAIN: left_alone(),
        OURS_FLOAT32: open_openvino(fast, precision="float32", threads=1),
        "openvino float32": left_alone(INFERENCE_PRECISION_HINT="f32"),
        "onnxruntime": open_onnx(ort, precision="float32", threads=1),
        "litert": open_litert(lite, precision="float32", threads=1),
        "tf.function": lambda image, order: traced(tf.constant(image), tf.constant(order)),
        "keras predict": lambda image, order: graph.predict(
            {"image": image, "order": order}, verbose=0, batch_size=len(image)
        ),
    }
    return runs, fast


def _race(
    runs: dict[str, Callable[..., Any]], images: Any, order: Any, batch: int, rounds: int
) -> dict[str, list[float]]:
    """Images per CPU-second of each, round by round."""
    import numpy as np

    pixels = images[:batch].astype(np.float32)
    orders = np.tile(order, (batch, 1))
    calls = {}
    for name, call in runs.items():
        call(pixels, orders)
        calls[name] = max(1, round(ROUND_SECONDS / _seconds(call, pixels, orders, 1)))
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, call in runs.items():
            taken = _seconds(call, pixels, orders, calls[name])
            rates[name].append(batch * calls[name] / taken)
    return rates


def _seconds(call: Callable[..., Any], pixels: Any, orders: Any, times: int) -> float:
    """Of the process on all its cores."""
    start = time.process_time()
    for _ in range(times):
        call(pixels, orders)
    return max(time.process_time() - start, 1e-3)


def _median(rates: Sequence[float]) -> float:
    return statistics.median(rates)


def _least(races: dict[str, dict[str, list[float]]], name: str, peers: dict[str, str]) -> float:
    """Ratio to a peer, over the batch sizes the smallest."""
    ratios = []
    for batch, race in races.items():
        pairs = zip(race[name], race[peers[batch]], strict=True)
        ratios.append(_median([ours / theirs for ours, theirs in pairs]))
    return round(min(ratios), 3)


def _codes(call: Callable[..., Any], images: Any, order: Any) -> Any:
    import numpy as np

    found = []
    for start in range(0, len(images), 8):
        part = images[start : start + 8].astype(np.float32)
        found.append(call(part, np.tile(order, (len(part), 1)))[0])
    return np.concatenate(found)


if __name__ == "__main__":
    raise SystemExit(main())
