"""Bootstrap over subjects when there are too many pairs to weigh them all.

All pairs of 11,450 images are 65 million, and a hundred draws under ten keys would weigh each a
thousand times. But no false match rate of interest needs the many non-mated pairs far above every
threshold: only their number enters. So the non-mated pairs up to a limit are weighed one by one,
and the weight of all others follows from the subjects' counts, since a pair of subjects a, b weighs
c_a c_b: all non-mated weight is `((sum c n)^2 - sum (c n)^2) / 2` for n images each. The curve of a
draw is **exact** at every threshold up to the limit.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from iom._random import numpy_stream
from iom.errors import DataError
from iom.metrics.error_curve import ErrorCurve

Counts = NDArray[np.float64]
"""How often each subject was drawn, `(S,)`."""


class NearPairsError(DataError):
    """The near pairs do not reach as far as FMR and FNMR meet; take them with a higher limit."""


class SubjectPairs(NamedTuple):
    """Comparisons with their subjects; for mated ones both are the same.

    Attributes:
        distances: `(P,)`.
        left: Subject of the first image, `(P,)`.
        right: Subject of the second, `(P,)`.
    """

    distances: NDArray[np.float64] | NDArray[np.int32]
    left: NDArray[np.int32]
    right: NDArray[np.int32]


def subject_draws(subjects: int, *, replicates: int, seed: int) -> Iterator[Counts]:
    """Subjects drawn with replacement, as many as there are.

    The same seed gives the same draws, so that the difference of two systems has an interval.
    """
    stream = numpy_stream(seed, "bootstrap/subjects")
    for _ in range(replicates):
        drawn = stream.integers(subjects, size=subjects)
        yield np.bincount(drawn, minlength=subjects).astype(np.float64)


def key_draws(keys: int, *, replicates: int, seed: int) -> NDArray[np.int64]:
    """Keys drawn with replacement, as many as there are, `(replicates, keys)`."""
    return numpy_stream(seed, "bootstrap/keys").integers(keys, size=(replicates, keys))


class SubjectBootstrap:
    """Error curves of one system under one key when subjects are drawn anew.

    Args:
        mated: All mated comparisons.
        near: Every non-mated comparison up to a limit, which is the largest distance among them.
        images: Images of each subject, `(S,)`.

    Raises:
        DataError: No mated or no near comparison.
    """

    def __init__(self, mated: SubjectPairs, near: SubjectPairs, images: NDArray[np.int64]) -> None:
        if not len(mated.distances) or not len(near.distances):
            raise DataError(
                "bootstrap: expected mated and near non-mated comparisons, received "
                f"{len(mated.distances)} and {len(near.distances)}"
            )
        self._images = images
        self._mated, self._near = _sorted(mated), _sorted(near)
        limit = self._near.distances[-1]
        reached = self._mated.distances[self._mated.distances <= limit]
        self._levels = np.union1d(self._near.distances, reached).astype(np.float64)
        self._accepted = np.searchsorted(self._mated.distances, self._levels, side="right")
        self._falsely = np.searchsorted(self._near.distances, self._levels, side="right")

    def curve(self, counts: Counts) -> ErrorCurve:
        """The curve when each subject counts so often, exact up to the limit.

        Above it there is one point only, at infinity, where everything is accepted.

        Raises:
            NearPairsError: FMR and FNMR meet above the limit.
            DataError: The drawn subjects have no mated or no non-mated pair.
        """
        mated = _cumulative(counts[self._mated.left])
        near = _cumulative(counts[self._near.left] * counts[self._near.right])
        weights = counts * self._images
        non_mated = (weights.sum() ** 2 - (weights**2).sum()) / 2
        if not (mated[-1] > 0 and non_mated > 0):
            raise DataError("bootstrap: a draw has no mated or no non-mated pair; too few subjects")
        curve = ErrorCurve(
            thresholds=np.concatenate([[-np.inf], self._levels, [np.inf]]),
            fmr=np.concatenate([[0.0], near[self._falsely] / non_mated, [1.0]]),
            fnmr=np.concatenate([[1.0], (mated[-1] - mated[self._accepted]) / mated[-1], [0.0]]),
        )
        if curve.fmr[-2] < curve.fnmr[-2]:
            raise NearPairsError(
                f"bootstrap: at an FMR of {curve.fmr[-2]:.4f}, the last among the near pairs, the "
                f"FNMR is still {curve.fnmr[-2]:.4f}; keep more near pairs"
            )
        return curve


def _sorted(pairs: SubjectPairs) -> SubjectPairs:
    order = np.argsort(pairs.distances, kind="stable")
    return SubjectPairs(pairs.distances[order], pairs.left[order], pairs.right[order])


def _cumulative(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate([[0.0], np.cumsum(weights)])
