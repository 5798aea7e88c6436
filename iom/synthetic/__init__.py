"""Synthetic faces: a linear Gaussian model of aligned faces, its fit, and its samples for demo, smoke runs and tests.

Its statistics come from LFW (docs/face_model.md): never evaluate on LFW a model that was trained on its samples.
"""

import dataclasses
import functools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from iom._files import atomic_path
from iom._progress import tqdm
from iom._random import numpy_stream
from iom._untrusted import read_arrays, reading
from iom.errors import DataError

Floats = NDArray[np.float32]

MODEL_PATH = Path(__file__).with_name("face_model.npz")
BETWEEN, WITHIN = 1.15, 0.35
"""Factors at which face verification is about as hard on samples as on photographs."""

_FILE_FORMAT = 1
_CHUNK = 256
# ITU-R BT.601, as JPEG uses it: RGB -> Y, Cb, Cr about zero.
_TO_YCC = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]], np.float32)
_FROM_YCC = np.linalg.inv(_TO_YCC.astype(np.float64)).astype(np.float32)

# A sum over the few chroma values would hardly count beside that over the many luma values. At equal area they would
# weigh 4; half of that, since eyes and networks see less in colour.
_CHROMA_WEIGHT = 2.0
_BACKGROUND_WEIGHT = 0.3
_SMOOTHING = 8.0

LUMA, CHROMA = 64, 16
"""Sides of the luma plane and of the two coarse chroma planes of a face, P values in all."""


@dataclasses.dataclass(frozen=True, eq=False)
class FaceModel:
    """The mean face plus components, weighted by Gaussian coefficients.

    Mirror-symmetric components carry the subject (a face is nearly symmetric) and the change between images;
    antisymmetric ones (light from the side, a turned head, half a smile) carry only the change between images. A
    coefficient is the sum of a subject part, which all images of a subject share, and an image part.

    Attributes:
        mean: Mean face, `(P,)` in grey levels: planes of `LUMA` and `CHROMA`.
        symmetric: Components `(K, P)`, in grey levels for a coefficient of 1.
        antisymmetric: Components `(A, P)`, likewise.
        between: Root R of the covariance R R' of the subject parts, `(K, K)`.
        within: Root of the covariance of the symmetric image parts, `(K, K)`. The coefficients of antisymmetric
            components are independent and have unit variance.
    """

    mean: Floats
    symmetric: Floats
    antisymmetric: Floats
    between: Floats
    within: Floats

    def sample(
        self, subjects: int, images: int, *, seed: int, between: float = BETWEEN, within: float = WITHIN
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Faces of subjects who do not exist: RGB pixels `(N, 112, 112, 3)`, and the subject of each, `(N,)`.

        The same seed gives the same faces, and image j of subject i does not depend on how many are asked for. From
        machine to machine a pixel may differ by a grey level, since matrix products are rounded differently; and NumPy
        does not promise its normal numbers between versions.

        `between` and `within` are factors on the deviations of subjects and of a subject's images: verification is
        easier with a larger `between`, harder with a larger `within`. Counts below one and negative factors are a
        `DataError`.
        """
        symmetric, antisymmetric = self.coefficients(subjects, images, seed=seed, between=between, within=within)
        return self.render(symmetric, antisymmetric), np.repeat(np.arange(subjects), images)

    def coefficients(
        self, subjects: int, images: int, *, seed: int, between: float = BETWEEN, within: float = WITHIN
    ) -> tuple[Floats, Floats]:
        """Coefficients that `sample` renders: `(subjects * images, K)` and `(subjects * images, A)`."""
        if subjects < 1 or images < 1 or between < 0 or within < 0:
            raise DataError(
                "synthetic faces need at least one subject and image and no negative factor, "
                f"received {subjects} subjects, {images} images, between {between}, within {within}"
            )
        size = len(self.symmetric)
        rows = subjects * images
        # One stream for the subjects and one for each image number, so that longer draws only append.
        stream = numpy_stream(seed, "synthetic/subjects")
        subject = between * stream.standard_normal((subjects, size)) @ self.between.T
        image = np.empty((subjects, images, size + len(self.antisymmetric)))
        for number in range(images):
            stream = numpy_stream(seed, f"synthetic/image-{number}")
            image[:, number] = within * stream.standard_normal(image[:, number].shape)
        symmetric = subject[:, None] + image[..., :size] @ self.within.T
        antisymmetric = image[..., size:]
        return symmetric.reshape(rows, -1).astype(np.float32), antisymmetric.reshape(rows, -1).astype(np.float32)

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
        rgb = to_rgb(planes).reshape(len(planes), -1)
        return rgb[0], rgb[1:]

    def save(self, path: Path) -> None:
        """Write the compact file: half of each plane, deflated components as int8 with one common step."""
        largest = max(float(np.abs(self.symmetric).max()), float(np.abs(self.antisymmetric).max()))
        values: dict[str, Any] = {"format": np.int64(_FILE_FORMAT), "step": np.float32(largest / 127)}
        for name in ("symmetric", "antisymmetric"):
            luma, chroma = split_planes(np.rint(getattr(self, name) / values["step"]))
            values[f"{name}_luma"] = luma[..., : LUMA // 2].astype(np.int8)
            values[f"{name}_chroma"] = chroma[..., : CHROMA // 2].astype(np.int8)
        for name in ("mean", "between", "within"):
            values[name] = getattr(self, name).astype(np.float16)
        with atomic_path(path) as temporary, temporary.open("wb") as stream:
            np.savez_compressed(stream, **values)

    @classmethod
    def load(cls, path: Path) -> "FaceModel":
        """Read a compact file; a missing or damaged one is a `DataError`."""
        with reading(path, "a face model"):
            values = read_arrays(path)
            if int(values["format"]) != _FILE_FORMAT:
                raise ValueError(f"expected format {_FILE_FORMAT}, received {int(values['format'])}")
            step = np.float32(values["step"])
            symmetric, antisymmetric = (
                join_planes(
                    *(
                        np.concatenate([half, sign * half[..., ::-1]], axis=-1)
                        for half in (step * values[f"{name}_luma"], step * values[f"{name}_chroma"])
                    )
                ).astype(np.float32)
                for name, sign in (("symmetric", 1), ("antisymmetric", -1))
            )
            mean, between, within = (values[name].astype(np.float32) for name in ("mean", "between", "within"))
            arrays = (symmetric, antisymmetric, mean, between, within)
            count, size = len(symmetric), LUMA**2 + 2 * CHROMA**2
            found = [array.shape for array in arrays]
            expected = [(count, size), (len(antisymmetric), size), (size,), (count, count), (count, count)]
            if found != expected or not all(np.isfinite(array).all() for array in arrays):
                raise ValueError(f"expected finite arrays of shapes {expected}, received {found}")
            return cls(mean, symmetric, antisymmetric, between, within)


@functools.cache
def load_face_model() -> FaceModel:
    """The face model of the package."""
    return FaceModel.load(MODEL_PATH)


def write_folder(root: Path, subjects: int, images: int, *, seed: int, progress: bool = False) -> None:
    """Write synthetic subjects as `<root>/<subject>/<image>.png`, all or nothing; `root` must be new or empty."""
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise DataError(f"{root}: expected a new or empty folder, and there is something in it")
    pixels, labels = load_face_model().sample(subjects, images, seed=seed)
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root.parent, prefix=f".tmp-{root.name}-") as temporary:
            faces = Path(temporary) / root.name
            for row, face in enumerate(tqdm(pixels, desc="writing faces", unit="image", disable=not progress)):
                folder = faces / f"subject_{labels[row]:04d}"
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(face).save(folder / f"{row % images:03d}.png")
            faces.rename(root)  # also in place of an empty folder
    except OSError as error:
        raise DataError(f"cannot write {root}: {error.strerror}") from error


def split_planes(flat: Floats) -> tuple[Floats, Floats]:
    """Views `(N, LUMA, LUMA)` and `(N, 2, CHROMA, CHROMA)` of flat planes `(N, P)`."""
    luma, chroma = np.split(flat, [LUMA**2], axis=1)
    return luma.reshape(-1, LUMA, LUMA), chroma.reshape(-1, 2, CHROMA, CHROMA)


def join_planes(luma: Floats, chroma: Floats) -> Floats:
    """Flat planes `(N, P)`."""
    return np.concatenate([luma.reshape(len(luma), -1), chroma.reshape(len(chroma), -1)], 1)


def mirror_planes(flat: Floats) -> Floats:
    """The planes `(N, P)` with left and right exchanged."""
    return join_planes(*(plane[..., ::-1] for plane in split_planes(flat)))


def to_planes(images: NDArray[np.uint8]) -> Floats:
    """RGB pixels `(N, S, S, 3)` as flat planes `(N, P)` in grey levels."""
    ycc = images.astype(np.float32) @ _TO_YCC.T
    side = images.shape[1]
    luma = _resize(ycc[..., 0], _averaging(side, LUMA))
    chroma = _resize(np.moveaxis(ycc[..., 1:], 3, 1), _averaging(side, CHROMA))
    return join_planes(luma, chroma)


def to_rgb(planes: Floats) -> Floats:
    """Flat planes `(N, P)` as RGB values `(N, 112, 112, 3)`, neither rounded nor clipped."""
    luma, chroma = split_planes(planes)
    ycc = np.empty((len(planes), 112, 112, 3), np.float32)
    ycc[..., 0] = _resize(luma, _cubic(LUMA))
    ycc[..., 1:] = np.moveaxis(_resize(chroma, _cubic(CHROMA)), 1, 3)
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
def _cubic(source: int, target: int = 112) -> Floats:
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


def select_frontal(
    images: NDArray[np.uint8], labels: NDArray[np.int64], *, share: float, min_images: int
) -> NDArray[np.intp]:
    """Rows of the most symmetric faces `(N, S, S, 3)`, as a linear model blurs turned heads.

    The `share` of images kept is by asymmetry without slow gradients of light; subjects need `min_images` of them.
    """
    from scipy import ndimage  # only a fit needs it

    luma, _ = split_planes(to_planes(images))
    sharp = luma - ndimage.gaussian_filter(luma, (0, _SMOOTHING, _SMOOTHING))
    sharp *= _face_weight(LUMA, 0.0)
    uneven = np.square(sharp - sharp[..., ::-1]).mean((1, 2)) / np.square(sharp).mean((1, 2))
    frontal = uneven <= np.quantile(uneven, share)
    enough = np.bincount(labels[frontal], minlength=labels.max() + 1) >= min_images
    return np.flatnonzero(frontal & enough[labels])


def fit_face_model(
    images: NDArray[np.uint8], labels: NDArray[np.int64], *, symmetric: int = 160, antisymmetric: int = 60
) -> tuple[FaceModel, dict[str, float]]:
    """Principal components of aligned faces `(N, S, S, 3)`, and covariances between and within subjects.

    Moment estimates of the one-way random-effects analysis of variance with groups of unequal size: `within` is the
    pooled covariance, `between` that of the subject means less the part that the images cause. Directions with a
    negative estimate are set to zero. `symmetric` and `antisymmetric` are numbers of components; the shares of the
    weighted variance that they hold are returned as `symmetric_share` and `antisymmetric_share`.
    """
    labels = np.unique(labels, return_inverse=True)[1]
    subjects = int(labels.max()) + 1 if len(labels) else 0
    needed = max(symmetric, antisymmetric)
    if len(images) <= needed or not 1 < subjects < len(images):
        raise DataError(
            f"a face model of {needed} components needs more images than that, of at least two "
            f"subjects with several each; received {len(images)} images of {subjects} subjects"
        )
    weight = join_planes(
        _face_weight(LUMA, _BACKGROUND_WEIGHT)[None],
        np.repeat(_face_weight(CHROMA, _BACKGROUND_WEIGHT)[None, None], 2, axis=1) * _CHROMA_WEIGHT,
    )[0]
    planes = to_planes(images) * weight
    mirrored = mirror_planes(planes)
    mean = (planes.mean(0) + mirrored.mean(0)) / 2
    even, even_scores, even_share = _components((planes + mirrored) / 2 - mean, symmetric)
    odd, _, odd_share = _components((planes - mirrored) / 2, antisymmetric)
    between, within = covariances(even_scores, labels)
    model = FaceModel(
        mean=mean / weight,
        symmetric=even / weight,
        antisymmetric=odd / weight,
        between=_root(between),
        within=_root(within),
    )
    return model, {"symmetric_share": even_share, "antisymmetric_share": odd_share}


def _face_weight(side: int, background: float) -> Floats:
    """An ellipse over the aligned face with a soft edge, `(side, side)`."""
    place = (np.arange(side) + 0.5) / side * 112
    across, down = np.meshgrid(place, place)
    radius = np.hypot((across - 56) / 44, (down - 66) / 56)
    inside = 1 / (1 + np.exp((radius - 1) / 0.06))
    return (background + (1 - background) * inside).astype(np.float32)


def _components(rows: Floats, count: int) -> tuple[Floats, NDArray[np.float64], float]:
    """Components scaled to unit scores, the scores `(N, count)`, and the share of variance held."""
    gram = (rows @ rows.T).astype(np.float64)
    power, directions = np.linalg.eigh(gram)
    power, directions = power[::-1][:count], directions[:, ::-1][:, :count]
    scores = directions * np.sqrt(len(rows))
    components = (scores.T @ rows) / len(rows)
    return components.astype(np.float32), scores, float(power.sum() / np.trace(gram))


def covariances(
    scores: NDArray[np.float64], labels: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Covariance between (not necessarily positive) and within subjects, `(K, K)`, of `(N, K)`: moment estimates."""
    counts = np.bincount(labels)
    total, groups = len(scores), len(counts)
    sums = np.zeros((groups, scores.shape[1]))
    np.add.at(sums, labels, scores)
    means = sums / counts[:, None]
    residual = scores - means[labels]
    within = residual.T @ residual / (total - groups)
    deviation = means - scores.mean(0)
    mean_square = (deviation * counts[:, None]).T @ deviation / (groups - 1)
    effective = (total - np.square(counts).sum() / total) / (groups - 1)
    return (mean_square - within) / effective, within


def _root(covariance: NDArray[np.float64]) -> Floats:
    """R with R R' = covariance, negative directions set to zero."""
    power, directions = np.linalg.eigh(covariance)
    root: Floats = (directions * np.sqrt(np.clip(power, 0, None))).astype(np.float32)
    return root
