"""One system over all pairs, under many keys (`stolen_key`), with intervals over subjects and keys.

In every draw subjects are drawn with replacement, and keys are; all systems see the same draws, so
that the difference of two has an interval that is much narrower than those of the two themselves.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iom.codes.comparators import Comparator, CosineComparator, SymbolComparator
from iom.codes.packing import PackedCodes, pack
from iom.errors import DataError
from iom.evaluation.scores import CodeSystem, common_key
from iom.metrics.all_pairs import AllPairs
from iom.metrics.bootstrap import Interval, group_draws, percentile_intervals, rate_interval
from iom.metrics.protection import effective_bits
from iom.metrics.verification import ErrorCurve

FIGURES: dict[str, Callable[[ErrorCurve], float]] = {
    "eer": lambda curve: curve.equal_error_rate(),
    "fnmr_1e3": lambda curve: curve.fnmr_at_fmr(1e-3),
    "fnmr_1e4": lambda curve: curve.fnmr_at_fmr(1e-4),
    "fnmr_1e5": lambda curve: curve.fnmr_at_fmr(1e-5),
}
"""What is measured under each key, and in each draw."""
COVERED_FMR = 0.02
"""Non-mated pairs are weighed one by one up to this FMR at least."""


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
        `iom.metrics.bootstrap.rate_interval`).
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
        if not self.by_draw:
            raise DataError("bootstrap: no draws were made, so there is no interval")
        values = self.by_draw[figure]
        keys = values.shape[1]
        counts = group_draws(keys, "keys", replicates=len(values), seed=self.draws.seed)
        return np.array([row @ drawn / keys for row, drawn in zip(values, counts, strict=True)])

    def _percentiles(self, samples: NDArray[np.float64]) -> Interval:
        return percentile_intervals(samples[:, None], self.draws.confidence)[0]


def float_curve(pairs: AllPairs, embeddings: NDArray[np.float32]) -> ErrorCurve:
    """Error curve of the unprotected embeddings, compared by cosine in double precision."""
    comparator = CosineComparator(precision=np.float64)
    return pairs.curve(comparator, comparator.prepare(embeddings), fmr=COVERED_FMR)


def code_curve(pairs: AllPairs, codes: PackedCodes) -> ErrorCurve:
    """Error curve of codes under one key."""
    return pairs.curve(SymbolComparator(codes.alphabet_size), codes)


def float_trial(pairs: AllPairs, embeddings: NDArray[np.float32], draws: Draws) -> KeyTrials:
    """The unprotected embeddings, as `float_curve`, with intervals."""
    comparator = CosineComparator(precision=np.float64)
    return trials(pairs, comparator, [comparator.prepare(embeddings)], draws)


def code_trials(pairs: AllPairs, keyed_codes: Sequence[PackedCodes], draws: Draws) -> KeyTrials:
    """Codes of all images, once for each key."""
    return trials(pairs, SymbolComparator(keyed_codes[0].alphabet_size), keyed_codes, draws)


def system_trials(
    pairs: AllPairs, system: CodeSystem, embeddings: NDArray[np.float32], *, keys: int, seed: int, draws: Draws
) -> KeyTrials:
    """A system as it compares, under each of `keys` test keys, the key common to all (`stolen_key`)."""
    keyed = (system.templates(embeddings, common_key(seed, number)) for number in range(keys))
    return trials(pairs, system.comparator, keyed, draws)


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


def trials(pairs: AllPairs, comparator: Comparator, keyed: Iterable[Any], draws: Draws) -> KeyTrials:
    """Prepared templates of all images, once for each key."""
    counts = list(group_draws(len(pairs.images), replicates=draws.replicates, seed=draws.seed, usable=pairs.usable))
    figures, drawn = [], []
    for templates in keyed:
        curve = pairs.curve(comparator, templates, fmr=COVERED_FMR)
        figures.append(figures_of(curve))
        covered = max(COVERED_FMR, min(1.0, 1.5 * curve.equal_error_rate()))
        if counts:
            drawn.append(pairs.drawn_figures(_measured, counts, comparator, templates, fmr=covered))
    by_key = {name: np.array([of_key[name] for of_key in figures]) for name in figures[0]}
    by_draw = dict(zip(FIGURES, np.array(drawn).T, strict=True)) if drawn else {}
    return KeyTrials(by_key, by_draw, draws, int(np.count_nonzero(pairs.images > 1)))


def _measured(curve: ErrorCurve) -> list[float]:
    return [figure(curve) for figure in FIGURES.values()]
