"""Unlinkability of templates (ISO/IEC 24745, 30136; Gomez-Barrero et al., IEEE TIFS 2018).

Two templates of **different keys** are compared. Mated: of one subject, from different images.
Non-mated: of two subjects. If both kinds of distance are spread alike, nobody can tell from a
distance whether two templates of two applications belong to one person.

A sample of n mated comparisons makes the local measure noisy, and noise only ever adds: templates
that cannot be linked at all give about 0.4 * sqrt(bins / n) rather than 0. `linkability_floor` says
how much that is; merged bins lower it.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from iom._random import numpy_stream
from iom.errors import DataError

Histogram = NDArray[np.float64]


def local_linkability(mated: ArrayLike, non_mated: ArrayLike, *, omega: float = 1.0) -> Histogram:
    """D(s) for each bin: how much a distance in it speaks for one person, 0 to 1.

    With LR = p(s | mated) / p(s | non-mated): `2 omega LR / (1 + omega LR) - 1` where that is
    positive, else 0 (equation 9 of the paper); 1 where only mated distances fall.

    Args:
        mated: Count of mated comparisons in each bin, `(T,)`.
        non_mated: Count of non-mated ones, `(T,)`.
        omega: Prior odds of mated against non-mated.

    Raises:
        DataError: Lengths that differ, a kind without comparisons, or `omega` not positive.

    Example:
        >>> local_linkability([2, 1, 1, 0], [0, 1, 3, 4]).tolist()  # shares 2:0, 2:1, 2:3, 0:2
        [1.0, 0.3333333333333333, 0.0, 0.0]
    """
    if not omega > 0:
        raise DataError(f"omega: expected a positive number, received {omega}")
    mated_share, non_mated_share = _shares(mated, non_mated)
    weight = omega * mated_share
    total = weight + non_mated_share
    # The same as with the ratio, and defined where the non-mated share is zero: 1 there.
    measure = (weight - non_mated_share) / np.where(total > 0, total, 1.0)
    return np.maximum(measure, 0.0)


def system_linkability(mated: ArrayLike, non_mated: ArrayLike, *, omega: float = 1.0) -> float:
    """D_sys: the mean of D(s) over mated distances, 0 (unlinkable) to 1 (fully linkable).

    Example:
        >>> system_linkability([2, 1, 1, 0], [0, 1, 3, 4])  # 1/2 * 1 + 1/4 * 1/3
        0.5833333333333334
        >>> system_linkability([5, 0], [0, 5])
        1.0
    """
    mated_share, _ = _shares(mated, non_mated)
    return float(mated_share @ local_linkability(mated, non_mated, omega=omega))


def maximal_linkability(mated: ArrayLike, non_mated: ArrayLike) -> float:
    """Maximal leakage from 'mated or not' to the distance, `log2 sum_s max(p_m, p_nm)` bits.

    0 where both are spread alike, 1 bit where every distance tells.

    Example:
        >>> maximal_linkability([5, 0], [0, 5])
        1.0
    """
    return float(np.log2(np.maximum(*_shares(mated, non_mated)).sum()))


def linkability_floor(mated: ArrayLike, non_mated: ArrayLike, *, draws: int = 20, seed: int = 1) -> float:
    """Mean D_sys of as many mated comparisons drawn from the non-mated distances themselves.

    What sampling alone gives: a D_sys near it is no evidence of linkability.
    """
    _, share = _shares(mated, non_mated)
    count = int(np.asarray(mated).sum())
    stream = numpy_stream(seed, "metrics/linkability-floor")
    drawn = [system_linkability(stream.multinomial(count, share), non_mated) for _ in range(draws)]
    return float(np.mean(drawn))


def merge_bins(mated: ArrayLike, non_mated: ArrayLike, bins: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Merge neighbouring bins so that at most `bins` cover the distances that occur.

    Merging never raises D_sys but by the noise it removes; quote the number of bins.

    Example:
        >>> merged = merge_bins([0, 1, 2, 3, 4, 0], [0, 0, 0, 1, 1, 0], 2)
        >>> [counts.tolist() for counts in merged]
        [[3, 7], [0, 2]]
    """
    kinds = (np.asarray(mated), np.asarray(non_mated))
    if bins < 1:
        raise DataError(f"bins: expected at least 1, received {bins}")
    occurring = np.flatnonzero(kinds[0] + kinds[1])
    first, last = int(occurring[0]), int(occurring[-1])
    width = -(-(last - first + 1) // bins)
    starts = np.arange(first, last + 1, width)
    return (
        np.add.reduceat(kinds[0][: last + 1], starts).astype(np.int64),
        np.add.reduceat(kinds[1][: last + 1], starts).astype(np.int64),
    )


def bin_scores(mated: ArrayLike, non_mated: ArrayLike, bins: int = 100) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Counts of real-valued distances in `bins` equal bins over the range of both kinds."""
    kinds = (np.asarray(mated, np.float64), np.asarray(non_mated, np.float64))
    for scores, kind in zip(kinds, ("mated", "non-mated"), strict=True):
        if scores.ndim != 1 or not scores.size or not np.isfinite(scores).all():
            raise DataError(f"{kind} distances: expected a list of finite numbers, received others")
    edges = np.histogram_bin_edges(np.concatenate(kinds), bins=bins)
    return np.histogram(kinds[0], edges)[0], np.histogram(kinds[1], edges)[0]


def _shares(mated: ArrayLike, non_mated: ArrayLike) -> tuple[Histogram, Histogram]:
    first, second = np.asarray(mated, np.float64), np.asarray(non_mated, np.float64)
    if first.ndim != 1 or first.shape != second.shape:
        raise DataError(
            f"linkability: expected two histograms over the same bins, received shapes {first.shape} and {second.shape}"
        )
    for counts, kind in ((first, "mated"), (second, "non-mated")):
        if not np.all(counts >= 0) or not counts.sum() > 0:
            raise DataError(f"linkability: expected {kind} comparisons, received none")
    return first / first.sum(), second / second.sum()
