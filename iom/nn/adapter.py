"""Starts of the layers before the key from data: whitening, and a bottleneck that sets the size of the key."""

import numpy as np
from numpy.typing import NDArray

from iom._random import numpy_stream
from iom.errors import DataError
from iom.nn.frames import orthonormal_columns

SHRINKAGE = 0.2
"""Share of a multiple of the identity in the covariance whose axes are the discriminant directions."""


def orthonormal_map(size: int, new_size: int, *, seed: int) -> NDArray[np.float32]:
    """Random matrix `(size, new_size)` with orthonormal columns, or orthonormal rows if it is wider than high."""
    stream = numpy_stream(seed, "hashing/bottleneck")
    shape = (max(size, new_size), min(size, new_size))
    columns = orthonormal_columns(stream.standard_normal(shape))
    return np.asarray(columns if new_size <= size else columns.T, np.float32)


def within_class_whitening(
    embeddings: NDArray[np.float32], labels: NDArray[np.int64], share: float
) -> NDArray[np.float32]:
    """Matrix `(D, D)` of a shrunk within-class covariance normalisation (Hatch et al., Interspeech 2006).

    It gives less weight to directions in which images of one subject differ. With S the pooled within-class covariance
    of `embeddings` `(N, D)`, scaled to a mean eigenvalue of one, the matrix is ((1 - share) I + share S)^(-1/2):
    symmetric, so that it stays as near to the identity as a whitening can. Rows are multiplied from the right.
    """
    rows = embeddings.astype(np.float64)
    deviations = rows - _class_means(rows, labels)[labels]
    scatter = deviations.T @ deviations
    mean = np.trace(scatter) / len(scatter)
    if mean <= 0:
        raise DataError(
            "within-class whitening needs subjects with two different images, found none; set hasher.whitening to 0"
        )
    blend = (1.0 - share) * np.eye(len(scatter)) + share * scatter / mean
    values, vectors = np.linalg.eigh(blend)
    matrix: NDArray[np.float32] = ((vectors / np.sqrt(values)) @ vectors.T).astype(np.float32)
    return matrix


def discriminant_whitening(
    embeddings: NDArray[np.float32], labels: NDArray[np.int64], share: float, equalisation: float
) -> NDArray[np.float32]:
    """Matrix `(D, D)` of `within_class_whitening`, and behind it a partial whitening of all rows by direction.

    The directions are those of a linear discriminant analysis: behind the within-class whitening, the axes of the
    second moment of the rows, shrunk by `SHRINKAGE`. Each is divided by its root mean square to the power of
    `equalisation`: 0 leaves the cosines of the within-class whitening, 1 gives all directions the same weight. Some
    of it favours low false match rates: few directions in which many subjects are alike no longer make a score.
    """
    whitening = within_class_whitening(embeddings, labels, share).astype(np.float64)
    moment = np.cov(embeddings.astype(np.float64), rowvar=False)
    size = len(moment)
    shrunk = SHRINKAGE * np.trace(moment) / size * np.eye(size) + (1.0 - SHRINKAGE) * moment
    directions = np.linalg.eigh(whitening @ shrunk @ whitening)[1]
    turned = whitening @ directions
    spread = np.sqrt(np.mean(np.square(embeddings.astype(np.float64) @ turned), axis=0))
    matrix: NDArray[np.float32] = ((turned / spread**equalisation) @ directions.T).astype(np.float32)
    return matrix


def _class_means(rows: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean row of each label `(C, D)`; zero for one without rows."""
    counts = np.bincount(labels)
    sums = np.zeros((len(counts), rows.shape[1]))
    np.add.at(sums, labels, rows)
    return np.asarray(sums / np.maximum(counts, 1)[:, None])


def leading_directions(embeddings: NDArray[np.float32], size: int, *, seed: int) -> NDArray[np.float32]:
    """Start of a bottleneck: the `size` directions `(D, size)` that hold most of the rows, turned at random.

    The eigenvectors of the second moment (not centred, as a cosine is not); a random rotation behind them spreads their
    variance evenly over the new dimensions, so that any subset keeps a fair share (Gong et al., ITQ, TPAMI 2013).
    """
    rows = embeddings.astype(np.float64)
    vectors = np.linalg.eigh(rows.T @ rows)[1][:, ::-1][:, :size]
    turned = vectors @ orthonormal_map(size, size, seed=seed).astype(np.float64)
    return np.asarray(turned, np.float32)


def independent_parts(
    embeddings: NDArray[np.float32], labels: NDArray[np.int64], share: float, *, keep: int
) -> NDArray[np.float32]:
    """Start of the learned layer `(D, D)` for keys of kind `part`: two windows that predict little of each other.

    Linear discriminant directions: in them both the within-class covariance (shrunk as in `within_class_whitening`) and
    the covariance of subjects' means are diagonal, so that no direction predicts another as far as second moments go.
    They go to the first and the second window of `keep` dimensions in turn by how much they discriminate; directions of
    both windows, if `keep` is more than half, lie between and discriminate averagely, and those of neither, if it is
    less, discriminate least. With more windows than two the order is not balanced.
    """
    whitening = within_class_whitening(embeddings, labels, share).astype(np.float64)
    rows = embeddings.astype(np.float64) @ whitening
    means = _class_means(rows, labels)[np.bincount(labels) > 1]
    directions = np.linalg.eigh(np.atleast_2d(np.cov(means, rowvar=False)))[1][:, ::-1]
    ordered = (whitening @ directions)[:, _window_order(rows.shape[1], keep)]
    return np.asarray(ordered, np.float32)


def _window_order(size: int, keep: int) -> NDArray[np.intp]:
    """Ranks 0 to size - 1 in an order whose first and last `keep` are of like quality."""
    ranks = np.arange(size)
    both = max(2 * keep - size, 0)
    first = (size - both) // 2
    between = ranks[first : first + both] if both else ranks[2 * keep :]
    others = np.setdiff1d(ranks, between)
    # First, second, second, first, and so on: both windows get an equal share.
    turns = np.arange(len(others)) % 4
    left, right = others[(turns == 0) | (turns == 3)], others[(turns == 1) | (turns == 2)]
    return np.concatenate([left, between, right])
