"""Maker of the bundled recogniser's ONNX file from dlib's weights, for maintainers.

    python -m iom.pretrained.make_bundled dlib_face_recognition_resnet_model_v1.dat

The source is the registry package face-recognition-models 0.3.0. The hasher is made afterwards; see
iom/pretrained/dlib_resnet.bundled/README.md.
"""

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iom._files import atomic_path, sha256_of
from iom._untrusted import read_json
from iom.errors import IomError, WeightsError
from iom.export.folding import fold_batch_norms
from iom.export.onnx import OnnxGraph, add_keras_graph
from iom.pretrained import package_folder
from iom.pretrained.importers.dlib import read_dlib
from iom.pretrained.importers.foreign import build_foreign
from iom.pretrained.manifest import RAW, Statement

SOURCE_SHA256 = "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30"
OUTPUT = "dlib_resnet.bundled/dlib_resnet.onnx"
DIRECTION = "dlib_resnet.bundled/direction.json"
"""Mean embedding of training faces, and the share of `steadied`, as `python -m benchmarks.direction` found them."""
STORAGE = ("uint8", "float16", "float32")
MIN_SIZE = 4096
"""Arrays with fewer numbers stay float32."""
LEVELS = 255


class CompactGraph(OnnxGraph):
    """An ONNX graph whose large constants are stored in fewer bits, and become float32 when a session is opened.

    `uint8`: `(stored - zero) * scale` for each output channel, plain operations that any runtime computes once.
    """

    def __init__(self, storage: str) -> None:
        super().__init__()
        self._storage = storage

    def constant(self, values: Any, kind: Any = np.float32) -> str:
        array = np.asarray(values, kind)
        if self._storage == "float32" or array.dtype != np.float32 or array.size < MIN_SIZE:
            return super().constant(values, kind)
        if self._storage == "float16":
            return self.add("Cast", super().constant(array, np.float16), to=1)
        stored, zero, scale = quantised(array)
        centred = self.add("Sub", self.add("Cast", super().constant(stored, np.uint8), to=1), super().constant(zero))
        return self.add("Mul", centred, super().constant(scale))


def quantised(kernel: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32]]:
    """Stored values, zero and scale of a kernel `(O, I, h, w)`, or `(I, O)`, by output channel."""
    axes = (1, 2, 3) if kernel.ndim == 4 else (0,)
    low, high = kernel.min(axes, keepdims=True), kernel.max(axes, keepdims=True)
    scale = np.maximum(high - low, np.finfo(np.float32).tiny) / np.float32(LEVELS)
    zero = -low / scale
    return np.clip(np.rint(kernel / scale + zero), 0, LEVELS).astype(np.uint8), zero, scale


def steadied(
    kernel: NDArray[np.float32], mean: NDArray[np.float64], share: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Kernel `(O, I)` and bias `(O,)` of the last layer, so that its rows vary less along their mean.

    dlib's embedding is made for Euclidean distance. All of its rows lie around one mean, and their component along it
    says more of the image than of the person: it is moved by `share` towards the mean's own length.
    """
    unit = mean / np.linalg.norm(mean)
    moved = kernel - share * np.outer(unit, unit @ kernel)
    return moved.astype(np.float32), (share * mean).astype(np.float32)


def make_bundled(
    source: Path, output: Path, *, storage: str = "uint8", direction: Path | None = None, check: bool = True
) -> Path:
    """Write the ONNX file `image` (B, 150, 150, 3) raw RGB -> `embedding` (B, 128).

    Args:
        source: dlib's file.
        output: The ONNX file.
        storage: How large arrays are stored, one of `STORAGE`.
        direction: JSON with `mean` (128 numbers) and `share` of `steadied`; `None` leaves the embedding as dlib has it.
        check: Compare the SHA-256 of the source.

    Raises:
        WeightsError: The source is another file, damaged or truncated.
    """
    from onnx import TensorProto

    graph, statement = read_dlib(source), Statement(colour_order="RGB", range=RAW, size=150)
    if check and (found := sha256_of(source)) != SOURCE_SHA256:
        raise WeightsError(f"{source}: expected SHA-256 {SOURCE_SHA256}, received {found}")
    if direction is not None:
        found, last = read_json(direction), graph.ops[-1]
        kernel, bias = steadied(last.arrays["kernel"], np.array(found["mean"]), found["share"])
        graph.ops[-1] = dataclasses.replace(last, arrays={"kernel": kernel, "bias": bias})
    model = fold_batch_norms(build_foreign(graph, statement))
    onnx = CompactGraph(storage)
    onnx.add("Identity", add_keras_graph(onnx, model, {model.inputs[0].name: "image"}), name="embedding")
    size, dimensions = statement.size, model.output_shape[1]
    made = onnx.model(
        {"image": (TensorProto.FLOAT, ["batch", size, size, 3])},
        {"embedding": (TensorProto.FLOAT, ["batch", dimensions])},
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(output) as temporary:
        temporary.write_bytes(made.SerializeToString(deterministic=True))
    return output


def main() -> int:
    """Entry point of `python -m iom.pretrained.make_bundled`."""
    parser = argparse.ArgumentParser("python -m iom.pretrained.make_bundled", description=__doc__)
    parser.add_argument("source", type=Path, metavar="PATH.dat")
    parser.add_argument("--output", type=Path, default=package_folder() / OUTPUT, help="default: %(default)s")
    parser.add_argument("--storage", choices=STORAGE, default=STORAGE[0], help="default: %(default)s")
    arguments = parser.parse_args()
    try:
        direction = package_folder() / DIRECTION
        path = make_bundled(arguments.source, arguments.output, storage=arguments.storage, direction=direction)
    except IomError as error:
        sys.exit(f"error: {error}")
    print(f"{path}: {path.stat().st_size} bytes, SHA-256 {sha256_of(path)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
