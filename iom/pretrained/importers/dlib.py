"""dlib's face recognition network, `dlib_face_recognition_resnet_model_v1.dat`, from dlib's own serialisation.

Each layer with weights is a tag (`con_4`, `affine_`, `fc_2`) and a tensor: version 2, four sizes, and raw float32. An
integer is a byte that counts the bytes that follow, little-endian. A convolution holds its filters `(O, I, h, w)` and
then its biases, an affine layer gamma and then beta, the last layer a matrix `(I, O)`.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from iom._untrusted import read_bytes
from iom.errors import WeightsError
from iom.nn.backbones.dlib_resnet import STAGES
from iom.pretrained.importers.foreign import IMAGE, ForeignGraph

NAME = "dlib_face_recognition_resnet_model_v1.dat"
INPUT_SIZE = 150
EMBEDDING_SIZE = 128
MEAN = (122.782, 117.001, 104.298)
"""Subtracted from red, green, blue."""
DEVIATION = 256.0
SIGNATURE = b"\x01\x01\x01\x0dloss_metric_2"
"""The first bytes of a network of dlib with a metric loss."""
MAX_BYTES = 64 << 20
_GAP = 4096
"""More bytes than dlib writes between two tensors."""

Array = NDArray[np.float32]


def read_dlib(path: Path) -> ForeignGraph:
    """The network of a `.dat` file, with affine layers and the scaling of pixels folded into convolutions.

    Raises:
        WeightsError: Damaged, truncated, or another network of dlib.
    """
    try:
        file = _DlibFile(read_bytes(path, MAX_BYTES), str(path))
    except OSError as error:
        raise WeightsError(f"cannot read weights {path}: {error.strerror}") from error
    graph = ForeignGraph(str(path), input_size=INPUT_SIZE)
    last = graph.append("conv", "con0", (IMAGE,), _on_raw_pixels(*file.convolution(32, 3, 7)), stride=2)
    last = graph.append("relu", "relu0", (last,))
    last = graph.append("max_pool", "max_pool", (last,), window=3, stride=2)
    channels = 32
    for block, (width, stride) in enumerate(_blocks()):
        name = f"block{block}"
        kernel, bias = file.convolution(width, channels, 3)
        first = {"kernel": kernel, "bias": bias}
        y = graph.append("conv", f"{name}_con1", (last,), first, stride=stride, padding=int(stride == 1))
        y = graph.append("relu", f"{name}_relu1", (y,))
        kernel, bias = file.convolution(width, width, 3)
        y = graph.append("conv", f"{name}_con2", (y,), {"kernel": kernel, "bias": bias}, padding=1)
        if stride != 1:
            last = graph.append("average_pool", f"{name}_pool", (last,), window=2, stride=2)
        last = graph.append("add", f"{name}_add", (y, last))
        last = graph.append("relu", f"{name}_relu2", (last,))
        channels = width
    last = graph.append("global_average_pool", "pool", (last,))
    return graph.finish(graph.append("dense", "fc", (last,), {"kernel": file.dense(channels, EMBEDDING_SIZE)}))


def _blocks() -> Iterator[tuple[int, int]]:
    """Channels and stride of each block."""
    for channels, depth, stride in STAGES:
        for unit in range(depth):
            yield channels, stride if unit == 0 else 1


def _on_raw_pixels(kernel: Array, bias: Array) -> dict[str, Array]:
    """The first convolution for pixels 0..255; it has no padding, so that this is exact."""
    shift = np.einsum("oihw,i->o", kernel.astype(np.float64), np.array(MEAN) / DEVIATION)
    return {"kernel": kernel / np.float32(DEVIATION), "bias": (bias - shift).astype(np.float32)}


class _DlibFile:
    """A reader of the tensors of a file, in their order."""

    def __init__(self, data: bytes, source: str) -> None:
        self._data, self._source, self._position = data, source, 0
        if not data.startswith(SIGNATURE):
            raise WeightsError(f"{source}: expected {NAME}, received another file")

    def convolution(self, outputs: int, inputs: int, side: int) -> tuple[Array, Array]:
        """Kernel `(O, I, h, w)` and bias `(O,)` of a convolution and the affine layer behind it."""
        size = outputs * inputs * side * side
        values = self._tensor(b"\x05con_4", size + outputs)
        affine = self._tensor(b"\x07affine_", 2 * outputs)
        gamma, beta = affine[:outputs], affine[outputs:]
        kernel = values[:size].reshape(outputs, inputs, side, side) * gamma[:, None, None, None]
        return kernel, values[size:] * gamma + beta

    def dense(self, inputs: int, outputs: int) -> Array:
        """Kernel `(O, I)` of the last layer, which has no bias."""
        kernel = self._tensor(b"\x04fc_2", inputs * outputs, before=(outputs, inputs)).reshape(inputs, outputs).T
        if any(tag in self._data[self._position :] for tag in (b"con_", b"fc_")):
            raise self._differs("it has more layers")
        return kernel

    def _tensor(self, tag: bytes, size: int, before: tuple[int, ...] = ()) -> Array:
        """The next tensor, whose layer has this tag, behind the integers `before`."""
        start = self._data.find(tag, self._position, self._position + _GAP)
        if start < 0:
            raise self._differs(f"no {tag[1:].decode()} behind byte {self._position}")
        self._position = start + len(tag)
        for wanted in before:
            if (found := self._integer()) != wanted:
                raise self._differs(f"a layer of {found} instead of {wanted}")
        version = self._integer()
        sizes = [self._integer() for _ in range(4)]
        if version != 2 or any(side < 0 for side in sizes) or np.prod(sizes, dtype=object) != size:
            raise self._differs(f"a tensor of {sizes}, version {version}, where {size} numbers are expected")
        end = self._position + 4 * size
        if end > len(self._data):
            raise WeightsError(f"{self._source}: truncated: expected {end} bytes or more, received {len(self._data)}")
        values = np.frombuffer(self._data[self._position : end], "<f4").astype(np.float32)
        self._position = end
        if not np.isfinite(values).all():
            raise WeightsError(f"{self._source}: damaged weights: values that are not finite")
        return values

    def _integer(self) -> int:
        data = self._data[self._position : self._position + 9]
        count = data[0] & 0x0F if data else 0
        if not 1 <= count <= 8 or len(data) < 1 + count:
            raise self._differs("no number where one is expected")
        self._position += 1 + count
        value = int.from_bytes(data[1 : 1 + count], "little")
        return -value if data[0] & 0x80 else value

    def _differs(self, reason: str) -> WeightsError:
        return WeightsError(f"{self._source}: expected {NAME}, received another or a damaged network: {reason}")
