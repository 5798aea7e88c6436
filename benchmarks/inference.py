"""Images per CPU-second from aligned face to code, ours against the usual runtimes used plainly.

    python -m benchmarks.inference --dlib dlib_face_recognition_resnet_model_v1.dat

Every runtime computes the whole of it: backbone, hash, argmax. Ours is OpenVINO on our graph with
batch norms and pixel scaling folded: in bfloat16 where the CPU has it, with the integers that keep
the codes (`openvino_int8`, ranges from Families in the Wild) and in float32. `fast` is the quickest
of them at batch 8 that keeps 97 % of the symbols, as `iom deploy --to fast` chooses it, and
`ratio_int8_NETWORK` compares the integers with bfloat16 (with float32 where there is none).
`ratio_ort_NETWORK` is `fast` against onnxruntime in float32 on that same graph, the smaller of those
at batch 1 and 8. `ratio_plain_NETWORK` is against OpenVINO left to itself, which takes bfloat16 too
where the CPU has it, on the SavedModel of the Keras graph as it was trained;
`ratio_plain_float32_NETWORK` compares our `openvino` artefact with the best of onnxruntime, LiteRT
and OpenVINO in float32, the last two on plain graphs. `ratio_dlib_bundled` is `fast` against dlib
itself, which embeds without a hash; it needs the package dlib-bin and the file of its weights, and is
left out without them. One thread each where the runtime lets one choose. Rounds alternate between
the runtimes, a round is a number of calls; seconds are of the process on all its cores, so that the
figures are those of a core. Ratios are medians of the ratios of rounds.

`kept_NETWORK` holds, for each of ours, the share of equal symbols and the EER less that of the hasher,
means over ten keys (`stolen_key`), with the largest loss of a key.

`mobilefacenet` is `mobilefacenet_y1.ms1m` where its weights are; any other hasher may be named.
Ends with one line of JSON, which names the CPU.
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
from iom.errors import ConfigError

BATCHES = (1, 8)
TRAINED = {"mobilefacenet": "pre_models/mobilefacenet_y1_1536x2", "bundled": "bundled"}
OURS_FLOAT32, OURS_INTEGERS, OURS_BFLOAT16 = "ours float32", "ours int8", "ours bfloat16"
PLAIN, DLIB = "openvino", "dlib"
PLAIN_FLOAT32 = ("onnxruntime", "litert", "openvino float32")
ROUND_SECONDS = 1.0
KEYS, KEPT = 10, 0.97
CALIBRATION_FACES = 64


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `python -m benchmarks.inference`."""
    parser = new_parser("python -m benchmarks.inference", str(__doc__))
    add_data_option(parser)
    parser.add_argument("--networks", nargs="+", default=list(TRAINED), help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--pairs", type=int, default=6000, help="of LFW; default: %(default)s")
    parser.add_argument("--dlib", type=Path, help="weights of dlib's recogniser, to measure dlib itself, too")
    return run(_measure, parser, argv)


def _measure(arguments: argparse.Namespace) -> int:
    from iom._environment import environment

    figures: dict[str, Any] = {"cpu": environment()["processor"]}
    for name in arguments.networks:
        with tempfile.TemporaryDirectory() as folder:
            _network(name, arguments, Path(folder), figures)
    print(json.dumps(figures))
    return 0


def _network(name: str, arguments: argparse.Namespace, folder: Path, figures: dict[str, Any]) -> None:
    plain, source, faces = _source(name, arguments)
    runs = _runners(plain, source, folder, _calibration(arguments))
    figures[f"kept_{name}"] = kept = _accuracy(
        source, faces, {one: runs[one] for one in runs if one.startswith("ours")}
    )
    print(name, json.dumps(kept), flush=True)
    if name == "bundled" and arguments.dlib:
        runs[DLIB] = _dlib(arguments.dlib)
    races = {str(b): _race(runs, _inputs(source, faces.images[:b]), arguments.rounds) for b in BATCHES}
    speeds = {b: {one: round(_median(rates), 2) for one, rates in race.items()} for b, race in races.items()}
    figures[f"per_core_{name}"] = speeds
    print(name, json.dumps(speeds), flush=True)

    enough = [one for one in kept if kept[one]["equal_symbols"] >= KEPT or one == OURS_FLOAT32]
    figures[f"fast_{name}"] = fast = max(enough, key=lambda one: _median(races["8"][one]))
    best = {b: max(PLAIN_FLOAT32, key=lambda one: _median(race[one])) for b, race in races.items()}
    rival = OURS_BFLOAT16 if OURS_BFLOAT16 in runs else OURS_FLOAT32
    figures[f"ratio_int8_{name}"] = _least(races, OURS_INTEGERS, dict.fromkeys(races, rival))
    figures[f"ratio_ort_{name}"] = _least(races, fast, dict.fromkeys(races, "onnxruntime"))
    figures[f"ratio_plain_{name}"] = _least(races, fast, dict.fromkeys(races, PLAIN))
    figures[f"ratio_plain_float32_{name}"] = _least(races, OURS_FLOAT32, best)
    if DLIB in runs:
        figures[f"ratio_dlib_{name}"] = _least(races, fast, dict.fromkeys(races, DLIB))
    figures[f"images_{name}"] = len(faces.images)


def _calibration(arguments: argparse.Namespace) -> Any:
    from iom.export.exporter import calibration_faces

    return calibration_faces(arguments.data / "fiw_112x112", CALIBRATION_FACES, size=112)


def _accuracy(source: Any, faces: Any, calls: dict[str, Callable[..., Any]]) -> dict[str, dict[str, float]]:
    """What each call keeps of the codes of the hasher, over ten keys."""
    import numpy as np

    from iom.keys import TransformKey
    from iom.metrics.verification import error_curve
    from iom.models.embedder import unit_rows

    def error_rate(codes: Any) -> float:
        pairs = faces.benchmark
        distances = np.sum(codes[pairs.left] != codes[pairs.right], axis=1)
        return float(error_curve(distances[pairs.same], distances[~pairs.same]).equal_error_rate())

    rows = {name: unit_rows(_embeddings(source, faces.images, call), name) for name, call in calls.items()}
    exact_rows = source.embedder.embed(faces.images)
    equal: dict[str, list[float]] = {name: [] for name in calls}
    losses: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(KEYS):
        key = TransformKey(bytes([number]) * 32)
        exact = source.hasher.hash(exact_rows, key)
        for name in calls:
            codes = source.hasher.hash(rows[name], key)
            equal[name].append(float(np.mean(codes == exact)))
            losses[name].append(error_rate(codes) - error_rate(exact))
    return {
        name: {
            "equal_symbols": round(statistics.mean(equal[name]), 4),
            "eer_difference": round(statistics.mean(losses[name]), 5),
            "largest_eer_difference": round(max(losses[name]), 5),
            "angle": round(float(np.sqrt(np.mean(np.sum((rows[name] - exact_rows) ** 2, axis=1)))), 4),
        }
        for name in calls
    }


def _embeddings(source: Any, images: Any, call: Callable[..., Any]) -> Any:
    import numpy as np

    parts = (images[start : start + BATCHES[-1]] for start in range(0, len(images), BATCHES[-1]))
    return np.concatenate([call(*_inputs(source, part))[1] for part in parts])


def _inputs(source: Any, images: Any) -> tuple[Any, Any]:
    """What the graph takes: pixels, and the order of one key for each."""
    import numpy as np

    from iom.export.context import ExportContext
    from iom.keys import KEY_KINDS, TransformKey

    hasher = source.hasher
    order = KEY_KINDS[hasher.key_kind].order(TransformKey(bytes(32)), hasher.key_size, hasher.keep)
    orders = np.tile(order, (len(images), 1)).astype(np.int32)
    samples = list(ExportContext(source, images, orders, Path()).samples())
    return tuple(np.concatenate([sample[name] for sample in samples]) for name in ("image", "order"))


def _dlib(weights: Path) -> Callable[..., Any]:
    """The network of dlib itself: chips to embeddings, without a hash."""
    import numpy as np

    try:
        import dlib
    except ImportError as error:
        raise ConfigError("--dlib: the package dlib-bin is not installed") from error
    network = dlib.face_recognition_model_v1(str(weights))
    return lambda image, order: network.compute_face_descriptor(list(image.astype(np.uint8)))


def _source(name: str, arguments: argparse.Namespace) -> tuple[Any, Any, Any]:
    """The source as it was trained, the source with batch norms folded, faces."""
    from iom.export.context import load_source
    from iom.export.trial import faces_of_pairs
    from iom.pretrained.weights import load_backbone_model

    source = load_source(TRAINED.get(name, name))
    backbone = load_backbone_model(source.hasher.weights).trainable_model
    pairs = arguments.data / "lists" / "lfw_pairs.txt"
    faces = faces_of_pairs(pairs, arguments.data / "lfw_112x112", size=112, max_pairs=arguments.pairs)
    return dataclasses.replace(source, backbone=backbone), source, faces


def _runners(plain: Any, source: Any, folder: Path, calibration: Any) -> dict[str, Callable[..., Any]]:
    """Runtime to a function of images and orders."""
    import numpy as np
    import openvino
    import tensorflow as tf

    from iom.export.context import ExportContext
    from iom.export.onnx import write_onnx, write_openvino, write_openvino_int8
    from iom.export.tensorflow import frozen_saved_model, write_litert
    from iom.models.artifact import has_bfloat16, open_litert, open_onnx, open_openvino

    (folder / "plain").mkdir()
    orders = np.zeros((len(calibration), source.hasher.order_width), np.int32)
    context = ExportContext(source, calibration, orders, folder)
    as_trained = ExportContext(plain, calibration[:0], orders[:0], folder / "plain")
    floats, integers = folder / "floats.xml", folder / "integers.xml"
    ort, lite = folder / "folded.onnx", folder / "plain.tflite"
    write_openvino(context, floats)
    write_openvino_int8(context, integers)
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
        OURS_INTEGERS: open_openvino(integers, precision="int8", threads=1),
        OURS_FLOAT32: open_openvino(floats, precision="float32", threads=1),
        PLAIN: left_alone(),
        "openvino float32": left_alone(INFERENCE_PRECISION_HINT="f32"),
        "onnxruntime": open_onnx(ort, precision="float32", threads=1),
        "litert": open_litert(lite, precision="float32", threads=1),
        "tf.function": lambda image, order: traced(tf.constant(image), tf.constant(order)),
        "keras predict": lambda image, order: graph.predict(
            {"image": image, "order": order}, verbose=0, batch_size=len(image)
        ),
    }
    if has_bfloat16():
        runs[OURS_BFLOAT16] = open_openvino(floats, precision="bfloat16", threads=1)
    return runs


def _race(runs: dict[str, Callable[..., Any]], inputs: tuple[Any, Any], rounds: int) -> dict[str, list[float]]:
    """Images per CPU-second of each, round by round."""
    calls = {}
    for name, call in runs.items():
        call(*inputs)
        calls[name] = max(1, round(ROUND_SECONDS / _seconds(call, *inputs, 1)))
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, call in runs.items():
            taken = _seconds(call, *inputs, calls[name])
            rates[name].append(len(inputs[0]) * calls[name] / taken)
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


if __name__ == "__main__":
    raise SystemExit(main())
