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
    from onnx import TensorProto, helper, numpy_helper

    nodes: list[Any] = []
    constants: list[Any] = []

    def add(kind: str, *inputs: str, **attributes: Any) -> str:
        out = f"{kind.lower()}_{len(nodes)}"
        nodes.append(helper.make_node(kind, inputs, [out], **attributes))
        return out

    def constant(values: NDArray[Any]) -> str:
        constants.append(numpy_helper.from_array(np.ascontiguousarray(values, np.float32), f"weight_{len(constants)}"))
        return str(constants[-1].name)

    rest = [np.asarray(values, np.float64) for values in weights]
    rest[1] = rest[1] - rest[0].sum(axis=(0, 1, 2)) * 127.5 / 128
    rest[0] = rest[0] / 128
    value = add("Transpose", "image", perm=[0, 3, 1, 2])
    for pool in _POOLS[name]:
        kernel, bias, slope, *rest = rest
        value = add("Conv", value, constant(kernel.transpose(3, 2, 0, 1)), constant(bias))
        value = add("PRelu", value, constant(slope.reshape(-1, 1, 1)))
        if pool is not None:
            value = add("MaxPool", value, kernel_shape=[pool[0]] * 2, strides=[2, 2], auto_pad=pool[1])
    is_map = name == "pnet"
    if not is_map:
        kernel, bias, slope, *rest = rest
        value = add("Flatten", add("Transpose", value, perm=[0, 3, 2, 1]))  # x before y, as they were trained
        value = add("PRelu", add("Gemm", value, constant(kernel), constant(bias)), constant(slope))
    kernels, biases = rest[0::2], rest[1::2]
    kernels[-1], biases[-1] = (each[..., 1:] - each[..., :1] for each in (kernels[-1], biases[-1]))
    kernel, bias = np.concatenate(kernels, axis=-1), np.concatenate(biases)
    if is_map:
        value = add("Conv", value, constant(kernel.transpose(3, 2, 0, 1)), constant(bias))
    else:
        value = add("Gemm", value, constant(kernel), constant(bias))
    nodes[-1].output[0] = "answers"
    side = NETWORKS[name]
    shape = ["faces", side, side, 3] if side else ["faces", "height", "width", 3]
    answers = ["faces", len(bias), "rows", "columns"] if is_map else ["faces", len(bias)]
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("answers", TensorProto.FLOAT, answers)],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


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
