"""Images per CPU-second from aligned face to code, ours against the usual runtimes used plainly.

    python -m benchmarks.inference

Every runtime computes the whole of it: backbone, hash, argmax. Ours is the `fast` artefact
(OpenVINO, bfloat16, batch norms folded); `ratio_ort_NETWORK` is against onnxruntime in float32 on
the same folded graph, the smaller of those at batch 1 and 8. Rounds alternate between the runtimes,
one thread each where the runtime lets one choose; seconds are of the process on all its cores, so
that the figures are those of a core. `openvino` is OpenVINO left to its own choice of precision.

`mobilefacenet` is `mobilefacenet_y1.ms1m` where ../shared has it. There are no weights of
IResNet-50 and 100: those are random, with batch norm statistics of real faces; `equal_symbols` then
says what precision does to the codes, and `eer_difference` is null, as an error rate would mean
nothing.
Ends with one line of JSON.
"""

import argparse
import dataclasses
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from iom.cli.arguments import new_parser, run

BATCHES = (1, 8)
SHAPE = {"code_length": 1536, "alphabet_size": 2}
TRAINED = {
    "mobilefacenet": "pre_models/mobilefacenet_y1_1536x2",
    "bundled": "pre_models/iresnet_slim.bundled",
}
DERIVED = ("iresnet50", "iresnet100")
STATISTICS_FACES = 16


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `python -m benchmarks.inference`."""
    parser = new_parser("python -m benchmarks.inference", str(__doc__))
    parser.add_argument(
        "--shared", type=Path, default=Path("../shared"), help="default: %(default)s"
    )
    parser.add_argument("--networks", nargs="+", default=[*DERIVED, *TRAINED])
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--pairs", type=int, default=6000, help="of LFW; default: %(default)s")
    parser.add_argument(
        "--derived-faces", type=int, default=64,
        help="faces for equal symbols of networks without weights (default: %(default)s)",
    )  # fmt: skip
    return run(_measure, parser, argv)


def _measure(arguments: argparse.Namespace) -> int:
    figures: dict[str, Any] = {}
    for name in arguments.networks:
        with tempfile.TemporaryDirectory() as folder:
            _network(name, arguments, Path(folder), figures)
    print(json.dumps(figures))
    return 0


def _network(
    name: str, arguments: argparse.Namespace, folder: Path, figures: dict[str, Any]
) -> None:
    from iom.export.check import Reference
    from iom.export.formats import FORMATS
    from iom.keys import KEY_KINDS, TransformKey
    from iom.runtime.openvino_session import OpenVinoSession

    plain, source, faces = _source(name, arguments)
    runs, fast = _runners(plain, source, folder)
    hasher = source.hasher
    key = TransformKey(bytes(32))
    order = KEY_KINDS[hasher.key_kind].order(key, hasher.key_size, hasher.keep)
    speeds = {str(b): _race(runs, faces.images, order, b, arguments.rounds) for b in BATCHES}

    session = OpenVinoSession(fast, precision="bfloat16")
    check = Reference(source, faces, key).check(
        lambda images, _: _codes(session.run, images, order), FORMATS["fast"]
    )
    ratios = [speed["ours"] / speed["onnxruntime"] for speed in speeds.values()]
    figures[f"ratio_ort_{name}"] = round(min(ratios), 2)
    known = check.eer is not None and check.source_eer is not None
    figures[f"eer_difference_{name}"] = round(check.eer - check.source_eer, 5) if known else None
    figures[f"equal_symbols_{name}"] = round(check.equal_symbols, 4)
    figures[f"per_core_{name}"] = speeds
    print(name, json.dumps(speeds), f"equal symbols {check.equal_symbols:.4f}", flush=True)


def _source(name: str, arguments: argparse.Namespace) -> tuple[Any, Any, Any]:
    """The Keras graph as it was trained, the source with batch norms folded, faces."""
    from iom.data.images import read_images
    from iom.errors import DataError
    from iom.export.check import Faces, faces_of_pairs
    from iom.export.source import load_source
    from iom.models.weights.manifest import load_backbone_model

    root = arguments.shared / "data"
    if name in TRAINED:
        source = load_source(TRAINED[name])
        backbone = load_backbone_model(source.hasher.embedder_name).model
        pairs = root / "lists" / "lfw_pairs.txt"
        faces = faces_of_pairs(pairs, root / "lfw_112x112", size=112, most=arguments.pairs)
        return dataclasses.replace(source, backbone=backbone).graph(), source, faces
    paths = sorted((root / "fiw_112x112").glob("*/*.jpg"))
    if not paths:
        raise DataError(f"{root / 'fiw_112x112'}: expected aligned faces, found none")
    step = len(paths) // (arguments.derived_faces + STATISTICS_FACES)
    images = read_images(paths[::step])
    backbone, source = _derived(name, images[:STATISTICS_FACES])
    faces = Faces("Families in the Wild", images[STATISTICS_FACES:][: arguments.derived_faces])
    return dataclasses.replace(source, backbone=backbone).graph(), source, faces


def _derived(name: str, images: Any) -> tuple[Any, Any]:
    """A network with random weights whose batch norms have the statistics of real faces."""
    import keras

    from iom.config.hashing import HasherConfig
    from iom.export.folding import fold_batch_norms
    from iom.export.source import Source
    from iom.models.backbones import build_backbone
    from iom.models.embedder import Embedder
    from iom.models.hasher import Hasher
    from iom.models.hashing import build_hasher

    keras.utils.set_random_seed(1)
    backbone = build_backbone(name, embedding_size=512)
    norms = [x for x in backbone.layers if isinstance(x, keras.layers.BatchNormalization)]
    for norm in norms:
        norm.momentum = 0.0  # the statistics become those of this one batch
    backbone(images.astype("float32"), training=True)
    backbone.compile(jit_compile=False)
    config = HasherConfig(**SHAPE)
    embedder = Embedder(
        backbone.predict_on_batch, name=name, fingerprint="0" * 64, embedding_size=512, batch_size=8
    )
    network = build_hasher(512, config)
    hasher = Hasher(network, embedder_name=name, embedder_fingerprint="0" * 64)
    return backbone, Source(fold_batch_norms(backbone), hasher, embedder)


def _runners(plain: Any, source: Any, folder: Path) -> tuple[dict[str, Callable[..., Any]], Path]:
    """Runtime to a function of images and orders, and the fast artefact."""
    import numpy as np
    import openvino
    import tensorflow as tf

    from iom.export import litert, onnx
    from iom.export import openvino as to_openvino
    from iom.export.material import Material
    from iom.runtime.litert_session import LiteRtSession
    from iom.runtime.onnx_session import OnnxSession
    from iom.runtime.openvino_session import OpenVinoSession

    nothing = np.zeros((0, 112, 112, 3), np.uint8)
    material = Material(source, nothing, np.zeros((0, 1), np.int32), folder)
    fast, ort, lite = folder / "fast.xml", folder / "plain.onnx", folder / "plain.tflite"
    to_openvino.write_openvino(material, fast)
    onnx.write_onnx(material, ort)
    litert.write_float32(material, lite)
    plain.compile(jit_compile=False)
    traced = tf.function(lambda image, order: plain({"image": image, "order": order}))
    own_choice = openvino.Core().compile_model(str(fast), "CPU", {"INFERENCE_NUM_THREADS": "1"})
    sessions = {
        "ours": OpenVinoSession(fast, precision="bfloat16", threads=1),
        "onnxruntime": OnnxSession(ort, precision="float32", threads=1),
        "openvino float32": OpenVinoSession(fast, precision="float32", threads=1),
        "litert": LiteRtSession(lite, precision="float32", threads=1),
    }
    runs: dict[str, Callable[..., Any]] = {name: one.run for name, one in sessions.items()}
    runs["openvino"] = lambda image, order: own_choice({"image": image, "order": order})
    runs["tf.function"] = lambda image, order: traced(tf.constant(image), tf.constant(order))
    runs["keras predict"] = lambda image, order: plain.predict(
        {"image": image, "order": order}, verbose=0, batch_size=len(image)
    )
    return runs, fast


def _race(
    runs: dict[str, Callable[..., Any]], images: Any, order: Any, batch: int, rounds: int
) -> dict[str, float]:
    """Images per CPU-second of each, the median of alternating rounds."""
    import numpy as np

    pixels = images[:batch].astype(np.float32)
    orders = np.tile(order, (batch, 1))
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for name in runs:
        runs[name](pixels, orders)
    for _ in range(rounds):
        for name, call in runs.items():
            start = time.process_time()
            call(pixels, orders)
            seconds[name].append(time.process_time() - start)
    return {name: round(batch / float(np.median(taken)), 2) for name, taken in seconds.items()}


def _codes(call: Callable[..., Any], images: Any, order: Any) -> Any:
    import numpy as np

    found = []
    for start in range(0, len(images), 8):
        part = images[start : start + 8].astype(np.float32)
        found.append(call(part, np.tile(order, (len(part), 1)))[0])
    return np.concatenate(found)


if __name__ == "__main__":
    raise SystemExit(main())
