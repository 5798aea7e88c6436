"""The weights of the registry package `mtcnn` (MIT) as the three ONNX files of `iom.photos.mtcnn`.

`python -m iom.pretrained.importers.mtcnn mtcnn-1.0.0-py3-none-any.whl` writes them. It needs `joblib` and `lz4`, which
come with that package.
"""

import hashlib
import io
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iom.errors import WeightsError, needs_extra
from iom.photos.mtcnn import FOLDER, NETWORKS

SOURCE_SHA256 = "0a96b4868e56db9ae984449519642be6dba03240e608a67e928ebb47833e9144"
"""Of `mtcnn-1.0.0-py3-none-any.whl`."""
OPSET, IR_VERSION = 17, 8
NOTICE = """\
pnet.onnx, rnet.onnx, onet.onnx: the three networks of MTCNN, the packaged detector of faces.

What: K. Zhang, Z. Zhang, Z. Li, Y. Qiao, "Joint face detection and alignment using multitask cascaded convolutional
networks", IEEE Signal Processing Letters 23(10), 2016. The paper trains them on WIDER FACE and CelebA; the licence
below is that of the weights, not of those photographs.

From: the package mtcnn 1.0.0 of the Python Package Index, by Iván de Paz Centeno,
mtcnn-1.0.0-py3-none-any.whl, SHA-256 {source},
whose licence is below. `python -m iom.pretrained.importers.mtcnn WHEEL` wrote these files from it.

Changed: from Keras weights to ONNX; the scaling of pixels is folded into the first convolution, and the two classes are
one logit.

{files}

{licence}"""
_BLOCK = 16
"""Channels that onnxruntime convolves and pools together."""
_POOLS = {
    "pnet": [(2, "SAME_UPPER"), None, None],
    "rnet": [(3, "SAME_UPPER"), (3, "VALID"), None],
    "onet": [(3, "SAME_UPPER"), (3, "VALID"), (2, "SAME_UPPER"), None],
}
"""Side and padding of the pool of stride 2 behind each convolution."""


def read_wheel(wheel: Path) -> tuple[dict[str, list[NDArray[np.float32]]], str]:
    """Weights of each of `NETWORKS`, in the order of its layers, and the licence; another file is a `WeightsError`."""
    try:
        content = wheel.read_bytes()
    except OSError as error:
        raise WeightsError(f"{wheel}: cannot be read: {error.strerror}") from error
    if hashlib.sha256(content).hexdigest() != SOURCE_SHA256:
        raise WeightsError(f"{wheel}: expected mtcnn-1.0.0-py3-none-any.whl, SHA-256 {SOURCE_SHA256}, received another")
    with needs_extra("reading the weights of mtcnn", "train"):
        import joblib
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        weights = {  # pickles, but those of the hash above
            name: joblib.load(io.BytesIO(archive.read(f"mtcnn/assets/weights/{name}.lz4"))) for name in NETWORKS
        }
        return weights, archive.read("mtcnn-1.0.0.dist-info/LICENSE").decode()


def onnx_model(name: str, weights: list[NDArray[np.float32]]) -> Any:
    """A network of `NETWORKS`: `image` (N, H, W, 3) float32 0..255 to `answers`, a column for each of its outputs.

    Outputs: four offsets of the box, landmarks (five x, five y; `onet` alone), the logit of "face". The scaling
    (x - 127.5) / 128 is folded into the first convolution; the softmax of two classes is the logit's sigmoid.
    """
    from onnx import TensorProto, helper

    graph = _Graph()
    first, *rest = _layers(name, weights)
    value = graph.first(graph.add("Transpose", "image", perm=[0, 3, 1, 2]), *first)
    while rest[0][2] is not None:
        value = graph.layer(value, *rest.pop(0))
    kernels, biases = [layer[0] for layer in rest], [layer[1] for layer in rest]
    kernels[-1], biases[-1] = (each[..., 1:] - each[..., :1] for each in (kernels[-1], biases[-1]))
    value = graph.linear(value, np.concatenate(kernels, axis=-1), np.concatenate(biases))
    graph.nodes[-1].output[0] = "answers"
    side, count = NETWORKS[name], sum(map(len, biases))
    shape = ["faces", side, side, 3] if side else ["faces", "height", "width", 3]
    answers = ["faces", count] if side else ["faces", count, "rows", "columns"]
    made = helper.make_graph(
        graph.nodes,
        name,
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("answers", TensorProto.FLOAT, answers)],
        graph.constants,
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


def _layers(name: str, weights: list[NDArray[np.float32]]) -> list[tuple[Any, Any, Any, Any]]:
    """Kernel, bias, slope (`None`: an output) and pool of each layer, in float64."""
    rest = [np.asarray(values, np.float64) for values in weights]
    rest[1] = rest[1] - rest[0].sum(axis=(0, 1, 2)) * 127.5 / 128
    rest[0] = rest[0] / 128
    more = -len(rest[1]) % _BLOCK
    for i, axis in ((0, 3), (1, 0), (2, 2), (3, 2)):  # channels of zeros, so that they come in whole blocks
        widths = [(0, more if axis == each else 0) for each in range(rest[i].ndim)]
        rest[i] = np.pad(rest[i], widths)
    hidden = len(_POOLS[name]) + (name != "pnet")
    pools = [*_POOLS[name], None][:hidden]
    layers: list[tuple[Any, Any, Any, Any]] = [
        (rest[3 * i], rest[3 * i + 1], rest[3 * i + 2], pools[i]) for i in range(hidden)
    ]
    outputs = rest[3 * hidden :]
    return layers + [(outputs[i], outputs[i + 1], None, None) for i in range(0, len(outputs), 2)]


class _Graph:
    """Nodes and constants of a network, collected one by one."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        from onnx import helper

        out = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [out], **attributes))
        return out

    def constant(self, values: Any, kind: Any = np.float32) -> str:
        from onnx import numpy_helper

        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.array(values, kind, order="C"), name))
        return name

    def linear(self, value: str, kernel: NDArray[Any], bias: NDArray[Any]) -> str:
        if kernel.ndim == 2:
            return self.add("Gemm", value, self.constant(kernel), self.constant(bias))
        return self.add("Conv", value, self.constant(kernel.transpose(3, 2, 0, 1)), self.constant(bias))

    def pooled(self, value: str, pool: tuple[int, str] | None) -> str:
        if pool is None:
            return value
        return self.add("MaxPool", value, kernel_shape=[pool[0]] * 2, strides=[2, 2], auto_pad=pool[1])

    def layer(self, value: str, kernel: NDArray[Any], bias: NDArray[Any], slope: NDArray[Any], pool: Any) -> str:
        """A hidden layer: linear, PReLU, pool."""
        if kernel.ndim == 2:  # columns of the map before rows, as they were trained
            value = self.add("Flatten", self.add("Transpose", value, perm=[0, 3, 2, 1]))
        slope = slope if kernel.ndim == 2 else slope.reshape(-1, 1, 1)
        value = self.linear(value, kernel, bias)
        return self.pooled(self.prelu(value, self.add("Mul", value, self.constant(np.minimum(slope, 1))), slope), pool)

    def first(self, value: str, kernel: NDArray[Any], bias: NDArray[Any], slope: NDArray[Any], pool: Any) -> str:
        """`layer` with the PReLU behind the pool, where there is a fourth of the values: max(pool(x), pool(s x))."""
        small = np.minimum(slope.ravel(), 1)
        kernels, biases = (np.concatenate([each, each * small], axis=-1) for each in (kernel, bias))
        value = self.pooled(self.linear(value, kernels, biases), pool)
        start, middle, end, axis = (self.constant([each], np.int64) for each in (0, len(bias), 2 * len(bias), 1))
        plain = self.add("Slice", value, start, middle, axis)
        return self.prelu(plain, self.add("Slice", value, middle, end, axis), slope.reshape(-1, 1, 1))

    def prelu(self, value: str, scaled: str, slope: NDArray[Any]) -> str:
        """PReLU of slope s: max(x, s x), or min(x, s x) for s above 1; `scaled` is s x up to s = 1, else x.

        Several times faster than the operation of that name in onnxruntime.
        """
        value = self.add("Max", value, scaled)
        if (slope > 1).any():
            value = self.add("Min", value, self.add("Mul", value, self.constant(np.maximum(slope, 1))))
        return value


def main(arguments: list[str]) -> None:
    """Write the three files and their notice from the wheel that is named."""
    import onnx

    (wheel,) = arguments
    networks, licence = read_wheel(Path(wheel))
    lines = []
    for name, weights in networks.items():
        model = onnx_model(name, weights)
        onnx.checker.check_model(model, full_check=True)
        content = model.SerializeToString(deterministic=True)
        (FOLDER / f"{name}.onnx").write_bytes(content)
        lines.append(f"{hashlib.sha256(content).hexdigest()}  {name}.onnx")
    text = NOTICE.format(source=SOURCE_SHA256, files="\n".join(lines), licence=licence)
    (FOLDER / "NOTICE").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
