"""One template from several images of a subject: the mean of vectors, the vote of symbols."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from iom.errors import DataError


def mean_vectors(vectors: ArrayLike, groups: ArrayLike) -> NDArray[np.float64]:
    """Mean of each group's rows, at unit length.

    Args:
        vectors: `(N, D)`; give them unit length first if all are to count alike.
        groups: Group of each row, 0 to G - 1 without gaps, `(N,)`.

    Returns:
        `(G, D)`.

    Raises:
        DataError: Groups with gaps or of another length, or a mean that is zero.

    Examples:
        >>> mean_vectors([[1, 0], [0, 1], [0, 2]], [0, 0, 1]).round(3).tolist()
        [[0.707, 0.707], [0.0, 1.0]]
    """
    rows = np.asarray(vectors, np.float64)
    labels, count = _groups(groups, rows)
    sums = _sums(rows, labels, count)
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    empty = np.flatnonzero(~(lengths[:, 0] > 0))
    if len(empty):
        raise DataError(
            f"template of several images: the mean of group {empty[0]} has no direction ({len(empty)} such groups)"
        )
    return np.asarray(sums / lengths)


def mean_by_media(vectors: ArrayLike, media: ArrayLike, groups: ArrayLike) -> NDArray[np.float64]:
    """Mean over media of the means within a medium, so that a long video counts once (IJB).

    Args:
        vectors: `(N, D)`.
        media: Medium of each row; rows of one group and medium are pooled first, `(N,)`.
        groups: Template of each row, 0 to G - 1 without gaps, `(N,)`.

    Returns:
        `(G, D)`, unit length.
    """
    rows = np.asarray(vectors, np.float64)
    labels, _ = _groups(groups, rows)
    pairs = np.stack([labels, np.asarray(media).astype(np.int64)], axis=1)
    unique, place = np.unique(pairs, axis=0, return_inverse=True)
    place = place.reshape(-1)
    means = _sums(rows, place, len(unique)) / np.bincount(place)[:, None]
    return mean_vectors(means, unique[:, 0])


def majority_codes(codes: ArrayLike, groups: ArrayLike, alphabet_size: int) -> NDArray[np.uint8]:
    """The commonest symbol at each position of a group's codes, the lowest of equally common ones.

    Args:
        codes: `(N, M)` of images under one key.
        groups: Group of each row, 0 to G - 1 without gaps, `(N,)`.
        alphabet_size: Q.

    Returns:
        `(G, M)`.

    Raises:
        DataError: Symbols outside of the alphabet, groups with gaps.

    Examples:
        >>> majority_codes([[0, 2], [1, 2], [1, 0], [3, 3]], [0, 0, 0, 1], 4).tolist()
        [[1, 2], [3, 3]]
    """
    symbols: NDArray[Any] = np.asarray(codes)
    labels, count = _groups(groups, symbols)
    if symbols.size and not 0 <= symbols.min() <= symbols.max() < alphabet_size:
        raise DataError(
            f"majority vote: expected symbols 0 to {alphabet_size - 1}, received {symbols.min()} to {symbols.max()}"
        )
    best = np.zeros((count, symbols.shape[1]), np.uint8)
    votes = np.zeros((count, symbols.shape[1]))
    for symbol in range(alphabet_size):
        found = _sums((symbols == symbol).astype(np.float64), labels, count)
        best[found > votes] = symbol
        votes = np.maximum(votes, found)
    return best


def _groups(groups: ArrayLike, rows: NDArray[Any]) -> tuple[NDArray[np.int64], int]:
    labels: NDArray[Any] = np.asarray(groups)
    if rows.ndim != 2 or labels.shape != (len(rows),) or not len(rows):
        raise DataError(f"groups: expected one for each row (N, D), received {labels.shape} for {rows.shape}")
    if labels.min() < 0 or not np.bincount(labels).all():
        raise DataError("groups: expected numbers from 0 without gaps")
    return labels.astype(np.int64), int(labels.max()) + 1


def _sums(rows: NDArray[Any], labels: NDArray[np.int64], count: int) -> NDArray[np.float64]:
    from scipy.sparse import coo_array

    places = (labels, np.arange(len(rows)))
    weights = coo_array((np.ones(len(rows)), places), shape=(count, len(rows))).tocsr()
    return np.asarray(weights @ rows, np.float64)
