"""How much a code can hold and does hold: entropies, joint statistics, effective bits.

Nominal bits are M log2 Q. Symbols that are not balanced, positions that go together and a decision
threshold above zero each take from it; the figures here say how much.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from iom._random import numpy_stream
from iom.errors import CodeError, DataError
from iom.metrics.error_curve import ErrorCurve


class PairDependence(NamedTuple):
    """Mutual information of pairs of positions, in bits, less what chance gives a sample.

    Attributes:
        mean: Over pairs.
        highest: Largest one.
        pairs: How many pairs were looked at.
    """

    mean: float
    highest: float
    pairs: int


def nominal_bits(code_length: int, alphabet_size: int) -> float:
    """Bits of a code if all codes were equally likely, M log2 Q.

    Example:
        >>> nominal_bits(512, 8)
        1536.0
    """
    return float(code_length * np.log2(alphabet_size))


def symbol_shares(codes: NDArray[Any], alphabet_size: int) -> NDArray[np.float64]:
    """Share of each symbol at each position, `(N, M)` codes -> `(M, Q)`.

    Raises:
        CodeError: No codes, or a symbol outside the alphabet.
    """
    codes = np.asarray(codes)
    if codes.ndim != 2 or not codes.size or not np.issubdtype(codes.dtype, np.integer):
        raise CodeError(f"codes: expected integers (N, M), received {codes.dtype} {codes.shape}")
    if codes.min() < 0 or codes.max() >= alphabet_size:
        raise CodeError(f"codes: expected symbols below {alphabet_size}, received others")
    counts = [(codes == symbol).sum(axis=0) for symbol in range(alphabet_size)]
    return np.stack(counts, axis=1) / len(codes)


def symbol_entropy(codes: NDArray[Any], alphabet_size: int) -> NDArray[np.float64]:
    """Shannon entropy of the symbol at each position, bits, `(M,)`; log2 Q where balanced.

    Example:
        >>> symbol_entropy(np.array([[0, 1], [1, 1], [2, 1], [3, 1]]), 4).tolist()
        [2.0, 0.0]
    """
    shares = symbol_shares(codes, alphabet_size)
    logs = np.log2(shares, out=np.zeros_like(shares), where=shares > 0)
    return np.asarray(np.abs((shares * logs).sum(axis=1)))


def min_entropy(codes: NDArray[Any], alphabet_size: int) -> NDArray[np.float64]:
    """Min-entropy of each position, `-log2` of the likeliest symbol's share, bits, `(M,)`.

    Example:
        >>> min_entropy(np.array([[0, 1], [1, 1], [0, 1], [2, 1]]), 4).tolist()
        [1.0, 0.0]
    """
    return np.asarray(np.abs(np.log2(symbol_shares(codes, alphabet_size).max(axis=1))))


def pair_mutual_information(first: NDArray[Any], second: NDArray[Any], alphabet_size: int) -> float:
    """Mutual information of the symbols of two positions, `(N,)` each, bits, as sampled.

    Example:
        >>> pair_mutual_information(np.array([0, 1, 0, 1]), np.array([1, 0, 1, 0]), 2)
        1.0
    """
    joint = np.bincount(first.astype(np.int64) * alphabet_size + second, minlength=alphabet_size**2).reshape(
        alphabet_size, alphabet_size
    ) / len(first)
    independent = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    held = joint > 0
    return float((joint[held] * np.log2(joint[held] / independent[held])).sum())


def pair_dependence(codes: NDArray[Any], alphabet_size: int, *, pairs: int = 2000, seed: int = 1) -> PairDependence:
    """Mutual information of pairs of positions, all of them or so many drawn at random.

    From each value the expectation for independent symbols is taken, `(Q - 1)^2 / (2 N ln 2)`
    (Miller and Madow), so that independent positions give 0 on average, and some negative values.

    Raises:
        CodeError: Fewer than two positions.
    """
    codes = np.asarray(codes)
    if codes.ndim != 2 or codes.shape[1] < 2:
        raise CodeError(f"codes: expected two positions or more, received {codes.shape}")
    left, right = np.triu_indices(codes.shape[1], k=1)
    if len(left) > pairs:
        drawn = numpy_stream(seed, "metrics/position-pairs").choice(len(left), pairs, replace=False)
        left, right = left[drawn], right[drawn]
    columns = np.ascontiguousarray(codes.T)
    values = np.array(
        [pair_mutual_information(columns[a], columns[b], alphabet_size) for a, b in zip(left, right, strict=True)]
    )
    values -= (alphabet_size - 1) ** 2 / (2 * len(codes) * np.log(2))
    return PairDependence(float(values.mean()), float(values.max()), len(values))


def degrees_of_freedom(non_mated: ArrayLike) -> float:
    """Daugman's degrees of freedom `p (1 - p) / sigma^2` of non-mated distances.

    As many independent positions would make the share of mismatches spread as it does
    (Daugman, Pattern Recognition 36, 2003).

    Args:
        non_mated: Count of non-mated comparisons at each distance 0..M, `(M + 1,)`.

    Raises:
        DataError: No comparisons, or all at one distance.

    Example:
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
    falsely_accepted = curve.fmr[np.searchsorted(curve.thresholds, threshold, side="right") - 1]
    return float(-np.log2(falsely_accepted)) if falsely_accepted > 0 else float("inf")
