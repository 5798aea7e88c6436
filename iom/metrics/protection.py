"""Protection metrics: entropy and effective bits of codes, and unlinkability of templates.

Nominal bits of a code are M log2 Q; unbalanced symbols, dependent positions and a decision threshold above zero reduce
them.

Unlinkability (ISO/IEC 24745, 30136; Gomez-Barrero et al., IEEE TIFS 2018) compares two templates of **different keys**,
mated from different images of one subject. Equal distributions of both kinds of distance mean unlinkable. A sample of n
mated comparisons makes the local measure noisy, and noise only adds: unlinkable templates give about 0.4 * sqrt(bins /
n) rather than 0. `linkability_floor` estimates that.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import entropy

from iom._random import numpy_stream
from iom.errors import CodeError, DataError
from iom.metrics.verification import ErrorCurve

Histogram = NDArray[np.float64]


def nominal_bits(code_length: int, alphabet_size: int) -> float:
    """Bits of a code if all codes were equally likely, M log2 Q.

    Examples:
        >>> nominal_bits(512, 8)
        1536.0
    """
    return float(code_length * np.log2(alphabet_size))


def symbol_shares(codes: NDArray[Any], alphabet_size: int) -> NDArray[np.float64]:
    """Share of each symbol at each position, `(N, M)` codes -> `(M, Q)`."""
    codes = np.asarray(codes)
    if codes.ndim != 2 or not codes.size or not np.issubdtype(codes.dtype, np.integer):
        raise CodeError(f"codes: expected integers (N, M), received {codes.dtype} {codes.shape}")
    if codes.min() < 0 or codes.max() >= alphabet_size:
        raise CodeError(f"codes: expected symbols below {alphabet_size}, received others")
    counts = [(codes == symbol).sum(axis=0) for symbol in range(alphabet_size)]
    return np.stack(counts, axis=1) / len(codes)


def symbol_entropy(codes: NDArray[Any], alphabet_size: int) -> NDArray[np.float64]:
    """Shannon entropy of the symbol at each position, bits, `(M,)`; log2 Q where balanced.

    Examples:
        >>> symbol_entropy(np.array([[0, 1], [1, 1], [2, 1], [3, 1]]), 4).tolist()
        [2.0, 0.0]
    """
    return np.asarray(entropy(symbol_shares(codes, alphabet_size), base=2, axis=1))


def min_entropy(codes: NDArray[Any], alphabet_size: int) -> NDArray[np.float64]:
    """Min-entropy of each position, `-log2` of the likeliest symbol's share, bits, `(M,)`.

    Examples:
        >>> min_entropy(np.array([[0, 1], [1, 1], [0, 1], [2, 1]]), 4).tolist()
        [1.0, 0.0]
    """
    return np.asarray(np.abs(np.log2(symbol_shares(codes, alphabet_size).max(axis=1))))


def degrees_of_freedom(non_mated: ArrayLike) -> float:
    """Daugman's degrees of freedom `p (1 - p) / sigma^2` of non-mated distances.

    As many independent positions would make the share of mismatches spread as it does (Daugman, Pattern Recognition 36,
    2003).

    Args:
        non_mated: Count of non-mated comparisons at each distance 0..M, `(M + 1,)`.

    Raises:
        DataError: No comparisons, or all at one distance.

    Examples:
        >>> from math import comb
        >>> round(degrees_of_freedom([comb(20, k) for k in range(21)]), 6)
        20.0
    """
    counts = np.asarray(non_mated, np.float64)
    if counts.ndim != 1 or len(counts) < 2 or not counts.sum() > 0:
        raise DataError("degrees of freedom: expected counts for the distances 0..M")
    share = np.arange(len(counts)) / (len(counts) - 1)
    mean = np.average(share, weights=counts)
    variance = np.average((share - mean) ** 2, weights=counts)
    if not variance > 0:
        raise DataError("degrees of freedom: all non-mated comparisons have one distance")
    return float(mean * (1 - mean) / variance)


def effective_bits(curve: ErrorCurve, threshold: float) -> float:
    """`-log2 FMR` at a threshold: the guesses, in bits, that one false match costs.

    Infinite where no comparison matches falsely: too few were made to tell.
    """
    fmr = float(curve.rates_at(threshold)[0])
    return float(-np.log2(fmr)) if fmr > 0 else float("inf")


def local_linkability(mated: ArrayLike, non_mated: ArrayLike, *, omega: float = 1.0) -> Histogram:
    """D(s) for each bin: how much a distance in it speaks for one person, 0 to 1.

    With LR = p(s | mated) / p(s | non-mated): `2 omega LR / (1 + omega LR) - 1` where that is positive, else 0
    (equation 9 of the paper); 1 where only mated distances fall.

    Args:
        mated: Count of mated comparisons in each bin, `(T,)`.
        non_mated: Count of non-mated ones, `(T,)`.
        omega: Prior odds of mated against non-mated.

    Raises:
        DataError: Lengths that differ, a kind without comparisons, or `omega` not positive.

    Examples:
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

    Examples:
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

    Examples:
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
