"""Estimation of the face model from aligned photographs of many subjects."""

import dataclasses

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from iom.errors import DataError
from iom.synthetic.face_model import FaceModel, Floats, PlaneShape, to_planes

SHAPE = PlaneShape(luma=64, chroma=16)

# A sum over the few chroma values would hardly count beside that over the many luma values. At equal area they would
# weigh 4; half of that, since eyes and networks see less in colour.
_CHROMA_WEIGHT = 2.0
_BACKGROUND_WEIGHT = 0.3
_SMOOTHING = 8.0


@dataclasses.dataclass(frozen=True)
class FitSummary:
    """Size of the data of a fit, and the shares of the weighted variance that its components hold."""

    images: int
    subjects: int
    symmetric_share: float
    antisymmetric_share: float


def select_frontal(
    images: NDArray[np.uint8], labels: NDArray[np.int64], *, share: float, min_images: int
) -> NDArray[np.intp]:
    """Rows of the most symmetric faces `(N, S, S, 3)`, as a linear model blurs turned heads.

    The `share` of images kept is by asymmetry without slow gradients of light; subjects need `min_images` of them.
    """
    luma, _ = SHAPE.split(to_planes(images, SHAPE))
    sharp = luma - ndimage.gaussian_filter(luma, (0, _SMOOTHING, _SMOOTHING))
    sharp *= _face_weight(SHAPE.luma, 0.0)
    uneven = np.square(sharp - sharp[..., ::-1]).mean((1, 2)) / np.square(sharp).mean((1, 2))
    frontal = uneven <= np.quantile(uneven, share)
    enough = np.bincount(labels[frontal], minlength=labels.max() + 1) >= min_images
    return np.flatnonzero(frontal & enough[labels])


def fit_face_model(
    images: NDArray[np.uint8], labels: NDArray[np.int64], *, symmetric: int = 160, antisymmetric: int = 60
) -> tuple[FaceModel, FitSummary]:
    """Principal components of aligned faces `(N, S, S, 3)`, and covariances between and within subjects.

    Moment estimates of the one-way random-effects analysis of variance with groups of unequal size: `within` is the
    pooled covariance, `between` that of the subject means less the part that the images cause. Directions with a
    negative estimate are set to zero. `symmetric` and `antisymmetric` are numbers of components.
    """
    labels = np.unique(labels, return_inverse=True)[1]
    subjects = int(labels.max()) + 1 if len(labels) else 0
    needed = max(symmetric, antisymmetric)
    if len(images) <= needed or not 1 < subjects < len(images):
        raise DataError(
            f"a face model of {needed} components needs more images than that, of at least two "
            f"subjects with several each; received {len(images)} images of {subjects} subjects"
        )
    weight = SHAPE.join(
        _face_weight(SHAPE.luma, _BACKGROUND_WEIGHT)[None],
        np.repeat(_face_weight(SHAPE.chroma, _BACKGROUND_WEIGHT)[None, None], 2, axis=1) * _CHROMA_WEIGHT,
    )[0]
    planes = to_planes(images, SHAPE) * weight
    mirrored = SHAPE.mirror(planes)
    mean = (planes.mean(0) + mirrored.mean(0)) / 2
    even, even_scores, even_share = _components((planes + mirrored) / 2 - mean, symmetric)
    odd, _, odd_share = _components((planes - mirrored) / 2, antisymmetric)
    between, within = covariances(even_scores, labels)
    model = FaceModel(
        shape=SHAPE,
        mean=mean / weight,
        symmetric=even / weight,
        antisymmetric=odd / weight,
        between=_root(between),
        within=_root(within),
    )
    return model, FitSummary(len(images), subjects, even_share, odd_share)


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
