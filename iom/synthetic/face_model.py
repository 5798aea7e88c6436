"""A linear Gaussian model of aligned faces: subjects differ, and so do the images of a subject."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iom._files import atomic_path
from iom._random import numpy_stream
from iom._untrusted import read_arrays
from iom.errors import DataError
from iom.synthetic.ycbcr import Floats, PlaneShape, to_rgb

BETWEEN = 1.15
WITHIN = 0.35
"""Factors at which face verification is about as hard on samples as on photographs."""

_FORMAT = 1
_CHUNK = 256


@dataclasses.dataclass(frozen=True, eq=False)
class FaceModel:
    """The mean face plus components, weighted by Gaussian coefficients.

    Mirror-symmetric components carry the subject (a face is nearly symmetric) and the change
    between images; antisymmetric ones (light from the side, a head turned, half a smile) carry only
    the change between images. A coefficient is the sum of a subject part, which all images of a
    subject share, and an image part.

    Attributes:
        shape: Sides of the luma and chroma planes; P values in all.
        mean: Mean face, `(P,)` in grey levels.
        symmetric: Components `(K, P)`, in grey levels for a coefficient of 1.
        antisymmetric: Components `(A, P)`, likewise.
        between: Root R of the covariance R R' of the subject parts, `(K, K)`.
        within: Root of the covariance of the symmetric image parts, `(K, K)`. The coefficients of
            antisymmetric components are independent and have unit variance.
    """

    shape: PlaneShape
    mean: Floats
    symmetric: Floats
    antisymmetric: Floats
    between: Floats
    within: Floats

    def sample(
        self, subjects: int, images: int, *, seed: int, between: float = BETWEEN, within: float = WITHIN
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Faces of subjects who do not exist.

        The same seed gives the same faces, and image j of subject i does not depend on how many are
        asked for. From machine to machine a pixel may differ by a grey level, since matrix products
        are rounded differently; and NumPy does not promise its normal numbers between versions.

        Args:
            subjects: How many subjects.
            images: How many images of each.
            seed: Any non-negative integer.
            between: Factor on the deviation of subjects: a larger one makes it easier.
            within: Factor on the deviation of a subject's images: a larger one makes it harder.

        Returns:
            RGB pixels `(subjects * images, 112, 112, 3)`, and the subject of each image.

        Raises:
            DataError: A count below one, or a negative factor.
        """
        symmetric, antisymmetric = self.coefficients(subjects, images, seed=seed, between=between, within=within)
        return self.render(symmetric, antisymmetric), np.repeat(np.arange(subjects), images)

    def coefficients(
        self, subjects: int, images: int, *, seed: int, between: float = BETWEEN, within: float = WITHIN
    ) -> tuple[Floats, Floats]:
        """What `sample` renders: `(subjects * images, K)` and `(subjects * images, A)`."""
        if subjects < 1 or images < 1 or between < 0 or within < 0:
            raise DataError(
                "synthetic faces need at least one subject and image and no negative factor, "
                f"received {subjects} subjects, {images} images, between {between}, within {within}"
            )
        size = len(self.symmetric)
        rows = subjects * images
        # One stream for the subjects and one for each image number, so that longer draws only
        # append: the first subjects and images stay as they are.
        stream = numpy_stream(seed, "synthetic/subjects")
        subject = between * stream.standard_normal((subjects, size)) @ self.between.T
        image = np.empty((subjects, images, size + len(self.antisymmetric)))
        for number in range(images):
            stream = numpy_stream(seed, f"synthetic/image-{number}")
            image[:, number] = within * stream.standard_normal(image[:, number].shape)
        symmetric = subject[:, None] + image[..., :size] @ self.within.T
        antisymmetric = image[..., size:]
        return (symmetric.reshape(rows, -1).astype(np.float32), antisymmetric.reshape(rows, -1).astype(np.float32))

    def render(self, symmetric: Floats, antisymmetric: Floats) -> NDArray[np.uint8]:
        """Faces of coefficients `(N, K)` and `(N, A)`: RGB pixels `(N, 112, 112, 3)`."""
        mean, components = self._rgb
        coefficients = np.concatenate([symmetric, antisymmetric], axis=1)
        images = np.empty((len(coefficients), 112 * 112 * 3), np.uint8)
        for start in range(0, len(coefficients), _CHUNK):
            rows = slice(start, start + _CHUNK)
            levels = np.rint(coefficients[rows] @ components + mean)
            images[rows] = np.clip(levels, 0, 255, out=levels)
        return images.reshape(-1, 112, 112, 3)

    @functools.cached_property
    def _rgb(self) -> tuple[Floats, Floats]:
        """Mean and components as full RGB images, so that a face is one matrix product."""
        planes = np.concatenate([self.mean[None], self.symmetric, self.antisymmetric])
        rgb = to_rgb(planes, self.shape).reshape(len(planes), -1)
        return rgb[0], rgb[1:]

    def save(self, path: Path) -> None:
        """Write the compact file: half of each plane, components as int8 with one common step.

        One step for all components spends the bytes where they are seen, and deflate shrinks the
        weak components to little.
        """
        luma, chroma = self.shape.luma // 2, self.shape.chroma // 2
        largest = max(float(np.abs(self.symmetric).max()), float(np.abs(self.antisymmetric).max()))
        values: dict[str, Any] = {"format": np.int64(_FORMAT), "step": np.float32(largest / 127)}
        for name in ("symmetric", "antisymmetric"):
            halves = self.shape.split(np.rint(getattr(self, name) / values["step"]))
            values[f"{name}_luma"] = halves[0][..., :luma].astype(np.int8)
            values[f"{name}_chroma"] = halves[1][..., :chroma].astype(np.int8)
        for name in ("mean", "between", "within"):
            values[name] = getattr(self, name).astype(np.float16)
        with atomic_path(path) as temporary, temporary.open("wb") as stream:
            np.savez_compressed(stream, **values)

    @classmethod
    def load(cls, path: Path) -> "FaceModel":
        """Read a compact file.

        Raises:
            DataError: Missing, damaged, or not a face model of this format.
        """
        try:
            return _from_values(read_arrays(path))
        except FileNotFoundError as error:
            raise DataError(f"no face model {path}; it is part of the package") from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: damaged face model ({error})") from error


def _from_values(values: dict[str, NDArray[Any]]) -> FaceModel:
    if int(values["format"]) != _FORMAT:
        raise ValueError(f"expected format {_FORMAT}, received {int(values['format'])}")
    shape = PlaneShape(values["symmetric_luma"].shape[1], values["symmetric_chroma"].shape[2])
    step = np.float32(values["step"])
    symmetric, antisymmetric = (
        shape.join(
            *(
                np.concatenate([half, sign * half[..., ::-1]], axis=-1)
                for half in (step * values[f"{name}_luma"], step * values[f"{name}_chroma"])
            )
        ).astype(np.float32)
        for name, sign in (("symmetric", 1), ("antisymmetric", -1))
    )
    mean, between, within = (values[name].astype(np.float32) for name in ("mean", "between", "within"))
    count = len(symmetric)
    expected = {"mean": (shape.size,), "between": (count, count), "within": (count, count)}
    for name, expected_shape in expected.items():
        if values[name].shape != expected_shape:
            raise ValueError(f"{name}: expected {expected_shape}, received {values[name].shape}")
    for array in (symmetric, antisymmetric, mean, between, within):
        if array.shape[-1] not in (shape.size, count) or not np.isfinite(array).all():
            raise ValueError("components of unequal size or values that are not finite")
    return FaceModel(shape, mean, symmetric, antisymmetric, between, within)
