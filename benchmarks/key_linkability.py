"""Unlinkability of a system's codes between keys, as counts of code distances."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from iom.codes.comparators import SymbolComparator
from iom.codes.packing import PackedCodes
from iom.errors import DataError
from iom.metrics.all_pairs import AllPairs
from iom.metrics.protection import linkability_floor, maximal_linkability, system_linkability

BINS = 100


class Linkability(NamedTuple):
    """Linkability between templates of different keys; 0 is good.

    Attributes:
        d_sys: D_sys of all pairs of keys together, one bin to a distance.
        d_sys_merged: The same with at most `BINS` bins.
        d_sys_floor: What sampling alone gives, one bin to a distance (`linkability_floor`).
        d_sys_key_pair: Mean over pairs of keys, each measured alone: more noise, and a shift that
            a pair of keys has of its own does not average out.
        d_sys_key_pair_highest: The largest of them.
        maximal_linkability: Bits, of all pairs of keys together.
    """

    d_sys: float
    d_sys_merged: float
    d_sys_floor: float
    d_sys_key_pair: float
    d_sys_key_pair_highest: float
    maximal_linkability: float


def key_linkability(pairs: AllPairs, keyed_codes: Sequence[PackedCodes]) -> Linkability:
    """Compare the codes of each key with those of the next one.

    Args:
        pairs: Of the images.
        keyed_codes: Codes of all images, once for each key, two keys or more.
    """
    if len(keyed_codes) < 2:
        raise DataError(f"linkability: expected two keys or more, received {len(keyed_codes)}")
    following = [*keyed_codes[1:], keyed_codes[0]] if len(keyed_codes) > 2 else keyed_codes[1:]
    comparator = SymbolComparator(keyed_codes[0].alphabet_size)
    single = [pairs.count_across_keys(comparator, *two) for two in zip(keyed_codes, following, strict=False)]
    pooled = np.sum(single, axis=0)
    alone = [system_linkability(*counts) for counts in single]
    return Linkability(
        d_sys=system_linkability(*pooled),
        d_sys_merged=system_linkability(*merge_bins(*pooled, BINS)),
        d_sys_floor=linkability_floor(*pooled),
        d_sys_key_pair=float(np.mean(alone)),
        d_sys_key_pair_highest=float(np.max(alone)),
        maximal_linkability=maximal_linkability(*pooled),
    )


def merge_bins(mated: ArrayLike, non_mated: ArrayLike, bins: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Merge neighbouring bins so that at most `bins` cover the distances that occur.

    Merging never raises D_sys; quote the number of bins.

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
