"""One system over all pairs, under many keys (`stolen_key`), with intervals over subjects and keys.

In every draw subjects are drawn with replacement, and keys are; all systems see the same draws, so
that the difference of two has an interval that is much narrower than those of the two themselves.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from iom.codes.packing import PackedCodes, pack
from iom.errors import DataError
from iom.evaluation.all_pairs import FLOAT_FMR, AllPairs, CodeDistances
from iom.evaluation.scores import CodeSystem, common_key
from iom.metrics.code_statistics import effective_bits
from iom.metrics.error_curve import ErrorCurve
from iom.metrics.subject_bootstrap import Counts, NearPairsError, SubjectBootstrap, key_draws, subject_draws
from iom.metrics.uncertainty import Interval, rate_interval

FIGURES: dict[str, Callable[[ErrorCurve], float]] = {
    "eer": lambda curve: curve.equal_error_rate(),
    "fnmr_1e3": lambda curve: curve.fnmr_at_fmr(1e-3),
    "fnmr_1e4": lambda curve: curve.fnmr_at_fmr(1e-4),
    "fnmr_1e5": lambda curve: curve.fnmr_at_fmr(1e-5),
}
"""What is measured under each key, and in each draw."""
LEAST_COVERED, TIMES_EER = 0.01, 2.0
"""Non-mated pairs are weighed one by one up to this FMR, or so many times the EER."""


@dataclasses.dataclass(frozen=True)
class Draws:
    """How the bootstrap draws: as often as `replicates` says, 0 for no intervals."""

    replicates: int = 100
    seed: int = 1
    confidence: float = 0.95


@dataclasses.dataclass(frozen=True, eq=False)
class KeyTrials:
    """Figures of one system, by key and by draw.

    Attributes:
        by_key: Figure name to its value under each key, `(K,)`; K is 1 for the float embedding.
        by_draw: Figure name to its value for each draw of subjects and each key, `(R, K)`.
        draws: Of the bootstrap.
        subjects: Number of those with two images or more.
    """

    by_key: dict[str, NDArray[np.float64]]
    by_draw: dict[str, NDArray[np.float64]]
    draws: Draws
    subjects: int

    def mean(self, figure: str) -> float:
        """Over keys."""
        return float(self.by_key[figure].mean())

    def std(self, figure: str) -> float:
        """Sample standard deviation over keys; 0 for a single one."""
        values = self.by_key[figure]
        return float(values.std(ddof=1)) if len(values) > 1 else 0.0

    def interval(self, figure: str) -> Interval:
        """Of the mean over keys: percentiles over draws of subjects and keys.

        Where there is no error it reaches to the exact bound for the number of subjects (see
        `iom.metrics.uncertainty.rate_interval`).
        """
        return rate_interval(
            self._percentiles(self.samples(figure)),
            self.mean(figure),
            units=self.subjects,
            confidence=self.draws.confidence,
        )

    def difference(self, other: "KeyTrials", figure: str) -> Interval:
        """Interval of this mean less that of `other`, on the same draws of subjects.

        Where both have as many keys, the same keys are drawn too.

        Raises:
            DataError: The two were drawn differently.
        """
        if self.draws != other.draws:
            raise DataError(f"bootstrap: expected the same draws, received {self.draws} and others")
        return self._percentiles(self.samples(figure) - other.samples(figure))

    def samples(self, figure: str) -> NDArray[np.float64]:
        """The mean over drawn keys in each draw, `(R,)`."""
        values = self.by_draw[figure]
        if not len(values):
            raise DataError("bootstrap: no draws were made, so there is no interval")
        drawn = key_draws(values.shape[1], replicates=len(values), seed=self.draws.seed)
        return np.asarray(np.take_along_axis(values, drawn, axis=1).mean(axis=1))

    def _percentiles(self, samples: NDArray[np.float64]) -> Interval:
        tail = (1 - self.draws.confidence) / 2
        return Interval(*(float(edge) for edge in np.quantile(samples, (tail, 1 - tail))))


def float_trial(pairs: AllPairs, embeddings: NDArray[np.float32], draws: Draws) -> KeyTrials:
    """The unprotected embeddings, compared by cosine."""
    curve, bootstrap = pairs.float_distances(embeddings)
    drawn = drawn_figures(
        pairs,
        lambda fmr: bootstrap if fmr == FLOAT_FMR else pairs.float_distances(embeddings, fmr=fmr)[1],
        draws,
        covered=FLOAT_FMR,
    )
    return _trials([figures_of(curve)], [drawn], draws, pairs)


def code_trials(pairs: AllPairs, keyed_codes: Sequence[PackedCodes], draws: Draws) -> KeyTrials:
    """Codes of all images, once for each key."""
    figures, drawn = [], []
    for codes in keyed_codes:
        distances = pairs.count_codes(codes)
        curve = distances.curve()
        figures.append(figures_of(curve))
        if draws.replicates:
            covered = max(LEAST_COVERED, min(1.0, TIMES_EER * curve.equal_error_rate()))
            bootstrap_to = functools.partial(_bootstrap_codes, pairs, codes, distances)
            drawn.append(drawn_figures(pairs, bootstrap_to, draws, covered=covered))
    return _trials(figures, drawn, draws, pairs)


def codes_under_keys(system: CodeSystem, embeddings: NDArray[np.float32], *, keys: int, seed: int) -> list[PackedCodes]:
    """Codes of all images under each of `keys` test keys, the key common to all (`stolen_key`)."""
    return [pack(system.hash(embeddings, common_key(seed, number)), system.alphabet_size) for number in range(keys)]


def figures_of(curve: ErrorCurve) -> dict[str, float]:
    """`FIGURES`, and the effective bits at the EER and at an FMR of 1e-4."""
    return {
        **{name: figure(curve) for name, figure in FIGURES.items()},
        "effective_bits_eer": effective_bits(curve, curve.threshold_at_equal_error()),
        "effective_bits_1e4": effective_bits(curve, curve.threshold_at_fmr(1e-4)),
    }


def drawn_figures(
    pairs: AllPairs, bootstrap_to: Callable[[float], SubjectBootstrap], draws: Draws, *, covered: float
) -> list[dict[str, float]]:
    """`FIGURES` in each draw of subjects.

    Args:
        pairs: Of the images.
        bootstrap_to: Makes the bootstrap that is exact up to an FMR.
        draws: Of the bootstrap.
        covered: That FMR at first; doubled until FMR and FNMR meet below it in every draw.
    """
    while True:
        bootstrap = bootstrap_to(covered)
        try:
            return [
                {name: figure(curve) for name, figure in FIGURES.items()}
                for curve in map(bootstrap.curve, _subject_draws(pairs, draws))
            ]
        except NearPairsError:
            if covered >= 1:
                raise
            covered = min(1.0, 2 * covered)


def _subject_draws(pairs: AllPairs, draws: Draws) -> Iterator[Counts]:
    return subject_draws(len(pairs.images), replicates=draws.replicates, seed=draws.seed)


def _bootstrap_codes(pairs: AllPairs, codes: PackedCodes, distances: CodeDistances, fmr: float) -> SubjectBootstrap:
    return pairs.bootstrap_codes(codes, distances.limit(fmr))


def _trials(
    figures: list[dict[str, float]], drawn: list[list[dict[str, float]]], draws: Draws, pairs: AllPairs
) -> KeyTrials:
    by_key = {name: np.array([of_key[name] for of_key in figures]) for name in figures[0]}
    by_draw = {
        name: np.array([[draw[name] for draw in of_key] for of_key in drawn]).reshape(len(drawn), draws.replicates).T
        for name in FIGURES
    }
    return KeyTrials(by_key, by_draw, draws, int(np.count_nonzero(pairs.images > 1)))
