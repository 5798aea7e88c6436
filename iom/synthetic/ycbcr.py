"""Faces as one luma and two coarse chroma planes: the form in which the face model holds them."""

import dataclasses
import functools

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

# ITU-R BT.601, as JPEG uses it: RGB -> Y, Cb, Cr about zero.
_TO_YCC = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]], np.float32)
_FROM_YCC = np.linalg.inv(_TO_YCC.astype(np.float64)).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class PlaneShape:
    """Sides of the planes, both even: `luma` x `luma`, and twice `chroma` x `chroma`."""

    luma: int
    chroma: int

    @property
    def size(self) -> int:
        """Values of a face, P."""
        return self.luma**2 + 2 * self.chroma**2

    def split(self, flat: Floats) -> tuple[Floats, Floats]:
        """Views `(N, luma, luma)` and `(N, 2, chroma, chroma)` of flat planes `(N, P)`."""
        count = len(flat)
        luma = flat[:, : self.luma**2].reshape(count, self.luma, self.luma)
        chroma = flat[:, self.luma**2 :].reshape(count, 2, self.chroma, self.chroma)
        return luma, chroma

    def join(self, luma: Floats, chroma: Floats) -> Floats:
        """Flat planes `(N, P)`."""
        return np.concatenate([luma.reshape(len(luma), -1), chroma.reshape(len(chroma), -1)], 1)

    def mirror(self, flat: Floats) -> Floats:
        """The planes `(N, P)` with left and right exchanged."""
        luma, chroma = self.split(flat)
        return self.join(luma[..., ::-1], chroma[..., ::-1])


def to_planes(images: NDArray[np.uint8], shape: PlaneShape) -> Floats:
    """RGB pixels `(N, S, S, 3)` as flat planes `(N, P)` in grey levels."""
    ycc = images.astype(np.float32) @ _TO_YCC.T
    side = images.shape[1]
    luma = _resize(ycc[..., 0], _averaging(side, shape.luma))
    chroma = _resize(np.moveaxis(ycc[..., 1:], 3, 1), _averaging(side, shape.chroma))
    return shape.join(luma, chroma)


def to_rgb(planes: Floats, shape: PlaneShape, *, side: int = 112) -> Floats:
    """Flat planes `(N, P)` as RGB values `(N, side, side, 3)`, neither rounded nor clipped."""
    luma, chroma = shape.split(planes)
    ycc = np.empty((len(planes), side, side, 3), np.float32)
    ycc[..., 0] = _resize(luma, _cubic(shape.luma, side))
    ycc[..., 1:] = np.moveaxis(_resize(chroma, _cubic(shape.chroma, side)), 1, 3)
    rgb: Floats = ycc.reshape(-1, 3) @ _FROM_YCC.T
    return rgb.reshape(ycc.shape)


def _resize(planes: Floats, matrix: Floats) -> Floats:
    """Resize the last two axes. Two large products: many small ones are ten times slower."""
    for _ in range(2):
        *others, height, width = planes.shape
        turned = planes.reshape(-1, width) @ matrix.T
        planes = np.swapaxes(turned.reshape(*others, height, len(matrix)), -1, -2)
    return planes


@functools.cache
def _averaging(source: int, target: int) -> Floats:
    """Matrix `(target, source)`: the mean over the source interval of each target pixel."""
    edges = np.arange(target + 1) * source / target
    pixels = np.arange(source)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    matrix: Floats = (np.clip(overlap, 0, None) * target / source).astype(np.float32)
    return matrix


@functools.cache
def _cubic(source: int, target: int) -> Floats:
    """Matrix `(target, source)` of Keys' cubic convolution (a = -1/2), edge pixels repeated."""
    place = (np.arange(target) + 0.5) * source / target - 0.5
    matrix = np.zeros((target, source))
    for offset in range(-1, 3):
        tap = np.floor(place) + offset
        d = np.abs(place - tap)
        near = 1.5 * d**3 - 2.5 * d**2 + 1
        far = -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2
        column = np.clip(tap, 0, source - 1).astype(int)
        np.add.at(matrix, (np.arange(target), column), np.where(d <= 1, near, far))
    return matrix.astype(np.float32)
