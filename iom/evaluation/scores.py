"""Distances of a benchmark's pairs, by system and scenario, and figures of verification, 1:1.

To add a figure, write its function and name it in `PAIR_METRICS`.

Keys here are **test keys**, derived from the configuration's seed for repetition; they must never be used to enrol
anyone.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iom.codes.comparators import Comparator, CosineComparator, SymbolComparator
from iom.data.benchmarks.base import PairBenchmark
from iom.errors import DataError
from iom.keys import TransformKey
from iom.metrics.bootstrap import Kind
from iom.metrics.verification import ErrorCurve, FoldedScores, RankedScores

FLOAT = "float"
NO_KEY, OWN_KEY, STOLEN_KEY = "none", "own_key", "stolen_key"
COSINE_UNIT = "1 - cosine"

Embeddings = NDArray[np.float32]
Keys = TransformKey | Sequence[TransformKey]
HashFunction = Callable[[Embeddings, Keys], NDArray[Any]]
"""Embeddings `(N, D)` and one key, or a key for each -> codes `(N, M)`."""


@dataclasses.dataclass(frozen=True, eq=False)
class PairScores:
    """Distances `(P,)` of a benchmark's pairs under one key; `decision` is a threshold calibrated on other data."""

    distances: NDArray[Any]
    same: NDArray[np.bool_]
    fold: NDArray[np.int64]
    decision: float | None = None

    @property
    def mated(self) -> NDArray[Any]:
        return self.distances[self.same]

    @property
    def non_mated(self) -> NDArray[Any]:
        return self.distances[~self.same]

    @functools.cached_property
    def ranked(self) -> RankedScores:
        """The distances sorted, once for all weightings."""
        return RankedScores(self.mated, self.non_mated)

    def curve(self, weights: NDArray[np.float64] | None = None) -> ErrorCurve:
        """The error curve, each pair counting as often as `weights` `(P,)` say."""
        if weights is None:
            return self.ranked.curve()
        return self.ranked.curve(weights[self.same], weights[~self.same])

    @functools.cached_property
    def folded(self) -> FoldedScores:
        """The distances ranked within folds, once for all weightings."""
        return FoldedScores(self.distances, self.same, self.fold)


@dataclasses.dataclass(frozen=True)
class SystemScores:
    """Scores of one system in one scenario (`none`, `own_key`, `stolen_key`), by key; one entry where there is none."""

    system: str
    scenario: str
    unit: str
    by_key: tuple[PairScores, ...]


@dataclasses.dataclass(frozen=True)
class CodeSystem:
    """A protection to be evaluated: `hash` takes embeddings `(N, D)` and keys to codes `(N, M)` of Q symbols (0: real).

    `decision` is a threshold calibrated on other data; `own_comparator` replaces the count of differing positions.
    """

    name: str
    code_length: int
    alphabet_size: int
    hash: HashFunction
    decision: float | None = None
    own_comparator: Comparator | None = None

    @property
    def comparator(self) -> Comparator:
        """How templates are compared: by differing positions, if not in a way of their own."""
        return self.own_comparator or SymbolComparator(self.alphabet_size)

    def templates(self, embeddings: Embeddings, keys: Keys) -> Any:
        """Templates of embeddings `(N, D)`, prepared for the comparator."""
        return self.comparator.prepare(self.hash(embeddings, keys))


def common_key(seed: int, repetition: int) -> TransformKey:
    """Test key that all subjects share in one repetition of `stolen_key`."""
    return _master(seed).derive(application="stolen_key", subject="", record=repetition)


def subject_key(seed: int, repetition: int, subject: int) -> TransformKey:
    """Test key of one subject in one repetition of `own_key`."""
    return _master(seed).derive(application="own_key", subject=str(subject), record=repetition)


def float_system(embedding_size: int) -> CodeSystem:
    """The unprotected embedding as a system whose key does nothing, compared by `1 - cosine`."""
    return CodeSystem(FLOAT, embedding_size, 0, lambda embeddings, keys: embeddings, own_comparator=CosineComparator())


def keys_of(scenario: str, subjects: NDArray[np.int64], *, seed: int, repetition: int = 0) -> Keys:
    """Test keys of images in a scenario: one for all, or that of each image's subject."""
    if scenario != OWN_KEY:
        return common_key(seed, repetition)
    key_of = {subject: subject_key(seed, repetition, subject) for subject in np.unique(subjects).tolist()}
    return [key_of[subject] for subject in subjects.tolist()]


def scenarios_of(system: CodeSystem, scenarios: tuple[str, ...]) -> tuple[str, ...]:
    """The scenarios that mean something for a system: without a key there is none."""
    return (NO_KEY,) if system.name == FLOAT else scenarios


def float_scores(benchmark: PairBenchmark, embeddings: Embeddings) -> SystemScores:
    """Cosine distances, `1 - cosine`, of the unprotected unit-length embeddings `(N, D)` of the benchmark's images."""
    _check(benchmark, embeddings)
    wide = embeddings.astype(np.float64)
    cosines = np.einsum("pd,pd->p", wide[benchmark.left], wide[benchmark.right])
    return SystemScores(FLOAT, NO_KEY, COSINE_UNIT, (PairScores(1.0 - cosines, benchmark.same, benchmark.fold),))


def code_scores(
    system: CodeSystem,
    benchmark: PairBenchmark,
    embeddings: Embeddings,
    *,
    keys: int,
    seed: int,
    scenarios: Sequence[str] = (OWN_KEY, STOLEN_KEY),
) -> Iterator[SystemScores]:
    """Code distances in the scenarios, under `keys` test keys each, of unit-length embeddings `(N, D)`.

    `stolen_key`: probe and reference are hashed under one common key, as when an impostor holds the victim's key; the
    key adds nothing and the code alone must tell people apart. `own_key`: every subject has its own key, so a non-mated
    pair meets under two keys; this flatters every protection and says nothing about a stolen key.
    """
    _check(benchmark, embeddings)
    for scenario in (OWN_KEY, STOLEN_KEY):
        if scenario not in scenarios:
            continue
        by_key = []
        for repetition in range(keys):
            test_keys = keys_of(scenario, benchmark.subjects, seed=seed, repetition=repetition)
            codes = system.templates(embeddings, test_keys)
            distances = system.comparator.paired(codes[benchmark.left], codes[benchmark.right])
            by_key.append(PairScores(distances, benchmark.same, benchmark.fold, system.decision))
        yield SystemScores(system.name, scenario, system.comparator.unit, tuple(by_key))


def _master(seed: int) -> TransformKey:
    return TransformKey(hashlib.sha256(f"iom/evaluation-test-keys/v1/{seed}".encode()).digest())


def _check(benchmark: PairBenchmark, embeddings: Embeddings) -> None:
    if embeddings.ndim != 2 or len(embeddings) != benchmark.templates:
        what = "images" if benchmark.pooling is None else "templates"
        raise DataError(
            f"{benchmark.name}: expected an embedding for each of {benchmark.templates} {what}, "
            f"received {embeddings.shape}"
        )
    lengths = np.linalg.norm(embeddings.astype(np.float64), axis=1)
    wrong = np.flatnonzero(~(np.abs(lengths - 1.0) <= 1e-3))
    if len(wrong):
        rows = ", ".join(f"{row} (length {lengths[row]:g})" for row in wrong[:3])
        raise DataError(
            f"{benchmark.name}: expected unit-length embeddings, received {len(wrong)} others "
            f"among {len(lengths)}: rows {rows}"
        )


FMRS = {"1e-2": 1e-2, "1e-3": 1e-3}
"""False match rates at which the FNMR is quoted, by the name that the figure bears."""

RATES: dict[str, Kind] = {
    "accuracy": "both",
    "eer": "both",
    "auc": "both",
    **dict.fromkeys((f"fnmr_at_fmr_{name}" for name in FMRS), "mated"),
    "fmr_at_decision": "non-mated",
    "fnmr_at_decision": "mated",
}
"""Figures that are rates, and the pairs whose subjects they rest on."""

GIVEN = ("decision",)
"""Figures that are not measured and so have no interval."""

REJECTS_EVERYTHING = -1.0
"""Threshold where only rejecting everything keeps to an FMR: no distance is negative."""


Weights = NDArray[np.float64]
"""How often each pair counts, `(P,)`; None counts each once."""


def fold_accuracy(scores: PairScores, weights: Weights | None = None) -> Iterator[tuple[str, float]]:
    """LFW's `accuracy`, the threshold of nine folds applied to the tenth, and `accuracy_std`; none of a single fold."""
    if has_folds(scores):
        accuracy = scores.folded.accuracy(weights)
        yield "accuracy", accuracy.mean
        yield "accuracy_std", accuracy.std


def operating_points(scores: PairScores, weights: Weights | None = None) -> Iterator[tuple[str, float]]:
    """`eer`, `auc`, `fnmr_at_fmr_X` at each resolved FMR, and thresholds `threshold_at_eer`, `threshold_at_fmr_X`."""
    fmrs = {name: fmr for name, fmr in FMRS.items() if resolves(scores, fmr)}
    curve = scores.curve(weights)
    yield "eer", curve.equal_error_rate()
    yield "auc", curve.area_under_curve()
    for name, fmr in fmrs.items():
        yield f"fnmr_at_fmr_{name}", curve.fnmr_at_fmr(fmr)
    yield "threshold_at_eer", curve.threshold_at_equal_error()
    for name, fmr in fmrs.items():
        yield f"threshold_at_fmr_{name}", max(curve.threshold_at_fmr(fmr), REJECTS_EVERYTHING)


def own_decision(scores: PairScores, weights: Weights | None = None) -> Iterator[tuple[str, float]]:
    """`fmr_at_decision`, `fnmr_at_decision` at the system's own `decision` threshold, calibrated on other data."""
    if scores.decision is None:
        return
    same, matches = scores.same, scores.distances <= scores.decision
    weights = np.ones(len(same)) if weights is None else weights
    yield "fmr_at_decision", float(np.average(matches[~same], weights=weights[~same]))
    yield "fnmr_at_decision", float(np.average(~matches[same], weights=weights[same]))
    yield "decision", float(scores.decision)


def has_folds(scores: PairScores) -> bool:
    """Whether a threshold can be chosen on other folds than those it is judged on."""
    return bool(np.any(scores.fold != scores.fold[0]))


def resolves(scores: PairScores, fmr: float) -> bool:
    """Whether there are enough non-mated pairs for one false match at this FMR."""
    return fmr * int(np.count_nonzero(~scores.same)) >= 1


PAIR_METRICS = (fold_accuracy, operating_points, own_decision)
"""All are computed, in this order, for every system, scenario and key; reports and intervals follow."""


def figures(scores: PairScores, weights: Weights | None = None) -> Iterator[tuple[str, float]]:
    """Name and value of every figure of the pairs under one key."""
    for metric in PAIR_METRICS:
        yield from metric(scores, weights)
