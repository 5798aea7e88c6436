"""Inputs of evaluators: systems, test keys, distances of a benchmark's pairs, and figures of verification, 1:1.

To add a figure, write its function and name it in `PAIR_METRICS`.

Keys here are **test keys**, derived from the configuration's seed for repetition; they must never be used to enrol
anyone.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from iom.codes.asymmetric import ASYMMETRIC, SYMBOLS
from iom.codes.comparators import Comparator, CosineComparator, SymbolComparator
from iom.data.benchmarks.base import PairBenchmark
from iom.errors import DataError
from iom.evaluation.records import EmbedderSummary, Record
from iom.keys import TransformKey
from iom.metrics.bootstrap import Kind, Weights
from iom.metrics.likelihood import LikelihoodRatio, isotonic_log_ratios, log_ratio_cost
from iom.metrics.verification import ErrorCurve, FoldedScores, RankedScores

if TYPE_CHECKING:
    from iom.baselines.protection import Protection
    from iom.config import EvaluateConfig, ScenarioConfig
    from iom.models.artifact import Calibration
    from iom.models.face_hasher import FaceHasher

FLOAT = "float"
NO_KEY, OWN_KEY, STOLEN_KEY = "none", "own_key", "stolen_key"

Embeddings = NDArray[np.float32]
Keys = TransformKey | Sequence[TransformKey]


@dataclasses.dataclass(frozen=True, eq=False)
class PairScores:
    """Distances `(P,)` of a benchmark's pairs under one key.

    `decision` is a threshold, `likelihood` the likelihood ratio, both calibrated on other data.
    """

    distances: NDArray[Any]
    same: NDArray[np.bool_]
    fold: NDArray[np.int64]
    decision: float | None = None
    likelihood: LikelihoodRatio | None = None

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

    @property
    def place(self) -> dict[str, Any]:
        """System and scenario, for the records of a report."""
        return {"system": self.system, "scenario": self.scenario}


@dataclasses.dataclass(frozen=True)
class CodeSystem:
    """A protection to be evaluated.

    `hash` takes embeddings `(N, D)` and one key, or a key for each, to codes `(N, M)` of Q symbols (0: real numbers).
    `calibration` was made on other data; `own_comparator` replaces the count of differing positions; `made_of` is what
    attacks are directed at. With the `comparison` "asymmetric" codes are compared with keyed rows, which `made_of`
    gives.
    """

    name: str
    code_length: int
    alphabet_size: int
    hash: Callable[[Embeddings, Keys], NDArray[Any]]
    calibration: "Calibration | None" = None
    own_comparator: Comparator | None = None
    made_of: "Protection | FaceHasher | None" = None
    comparison: str = SYMBOLS

    @property
    def comparator(self) -> Comparator:
        """How templates are compared: by differing positions, if not in a way of their own."""
        return self.own_comparator or SymbolComparator(self.alphabet_size)

    def templates(self, embeddings: Embeddings, keys: Keys) -> Any:
        """Templates of embeddings `(N, D)`, prepared for the comparator."""
        if self.comparison == SYMBOLS or self.made_of is None:
            return self.comparator.prepare(self.hash(embeddings, keys))
        return self.comparator.prepare(self.made_of.templates(embeddings, keys, self.comparison))


@dataclasses.dataclass(frozen=True, eq=False)
class EvaluationInputs:
    """Prepared inputs, the same for all evaluators.

    `benchmark` is a `PairBenchmark` or that of an identification protocol; `embeddings` `(N, D)`, unit length, are of
    its images, or of the templates that its pairs compare; `systems` are the code systems by name. `full` asks for all
    that `config.report` names.
    """

    config: "EvaluateConfig"
    benchmark: Any
    embeddings: Embeddings
    systems: Mapping[str, CodeSystem]
    embedder: EmbedderSummary
    full: bool = False
    _scores: dict[str, tuple[SystemScores, ...]] = dataclasses.field(default_factory=dict, init=False, repr=False)

    @property
    def chosen(self) -> list[CodeSystem]:
        """The systems of `config.scenario.systems`, the unprotected embedding among them."""
        named = {**self.systems, FLOAT: float_system(self.embeddings.shape[1])}
        names = [(name, asymmetric_name(name)) for name in self.config.scenario.systems]
        return [named[name] for both in names for name in both if name in named]

    @functools.cached_property
    def people(self) -> NDArray[np.int64]:
        """Subject of each template, from 0 without gaps, `(N,)`."""
        return np.unique(self.benchmark.subjects, return_inverse=True)[1].astype(np.int64)

    def scores(self, system: CodeSystem) -> tuple[SystemScores, ...]:
        """Distances of all pairs in each scenario; computed once."""
        if system.name not in self._scores:
            config = self.config
            found = code_scores(system, self.benchmark, self.embeddings, config.scenario, seed=config.seed)
            self._scores[system.name] = tuple(found)
        return self._scores[system.name]


class Evaluator(Protocol):
    """Evaluation of one system after the other on the inputs that it was made of, `Evaluator(inputs)`."""

    def run(self, system: CodeSystem) -> Iterator[Record]:
        """Figures and other parts of a report (`iom.evaluation.records`), of one system."""
        ...


def asymmetric_name(system: str) -> str:
    """Name of the row of a system whose codes are compared with keyed rows."""
    return f"{system}, {ASYMMETRIC}"


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


def code_scores(
    system: CodeSystem, benchmark: PairBenchmark, embeddings: Embeddings, scenario: "ScenarioConfig", *, seed: int
) -> Iterator[SystemScores]:
    """Code distances in the scenarios, under so many test keys each, of unit-length embeddings `(N, D)`.

    The unprotected embedding has no key and one scenario; its distances are `1 - cosine` of the embeddings as they are.

    `stolen_key`: probe and reference are hashed under one common key, as when an impostor holds the victim's key; the
    key adds nothing and the code alone must tell people apart. `own_key`: every subject has its own key, so a non-mated
    pair meets under two keys; this flatters every protection and says nothing about a stolen key.

    Where the sides differ, the left image of a pair is the stored one, the right one the probe.
    """
    _check(benchmark, embeddings)
    if system.name == FLOAT:
        wide = embeddings.astype(np.float64)
        cosines = np.einsum("pd,pd->p", wide[benchmark.left], wide[benchmark.right])
        scores = PairScores(1.0 - cosines, benchmark.same, benchmark.fold)
        yield SystemScores(FLOAT, NO_KEY, CosineComparator.unit, (scores,))
        return
    found = system.calibration
    calibrated = (found.threshold, found.likelihood) if found else (None, None)
    for name in (OWN_KEY, STOLEN_KEY):
        if name not in scenario.scenarios:
            continue
        by_key = []
        for repetition in range(scenario.keys):
            test_keys = keys_of(name, benchmark.subjects, seed=seed, repetition=repetition)
            codes = system.templates(embeddings, test_keys)
            distances = system.comparator.paired(codes[benchmark.left], codes[benchmark.right])
            by_key.append(PairScores(distances, benchmark.same, benchmark.fold, *calibrated))
        yield SystemScores(system.name, name, system.comparator.unit, tuple(by_key))


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


FMRS = {name: float(name) for name in ("1e-1", "1e-2", "1e-3", "1e-4", "1e-5", "1e-6")}
"""False match rates at which an FNMR is quoted where they can be seen, by the name that the figure bears."""
REPORT_FMRS = ("1e-2", "1e-3")
"""Those that a report quotes."""

RATES: dict[str, Kind] = {
    "accuracy": "both",
    "eer": "both",
    "auc": "both",
    **dict.fromkeys((f"fnmr_at_fmr_{name}" for name in REPORT_FMRS), "mated"),
    "fmr_at_decision": "non-mated",
    "fnmr_at_decision": "mated",
}
"""Figures that are rates, and the pairs whose subjects they rest on."""

REJECTS_EVERYTHING = -1.0
"""Threshold where only rejecting everything keeps to an FMR: no distance is negative."""


def fold_accuracy(scores: PairScores, weights: Weights | None = None) -> Iterator[tuple[str, float]]:
    """LFW's `accuracy`, the threshold of nine folds applied to the tenth, and `accuracy_std`; none of a single fold."""
    if np.any(scores.fold != scores.fold[0]):
        accuracy = scores.folded.accuracy(weights)
        yield "accuracy", accuracy.mean
        yield "accuracy_std", accuracy.std


def operating_points(scores: PairScores, weights: Weights | None = None) -> Iterator[tuple[str, float]]:
    """`eer`, `auc`, `fnmr_at_fmr_X` at each resolved FMR, and thresholds `threshold_at_eer`, `threshold_at_fmr_X`."""
    fmrs = resolved_fmrs(len(scores.non_mated), REPORT_FMRS)
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


def likelihood_cost(scores: PairScores, weights: Weights | None = None) -> Iterator[tuple[str, float]]:
    """`cllr` of the system's own likelihood ratio, calibrated on other data, and `min_cllr` of the best one, bits."""
    if scores.likelihood is None:
        return
    curve = scores.curve(weights)
    yield "cllr", log_ratio_cost(curve, scores.likelihood.log10(curve.thresholds[1:]))
    yield "min_cllr", log_ratio_cost(curve, isotonic_log_ratios(curve))


def resolved_fmrs(non_mated: int, names: Sequence[str] = tuple(FMRS), *, false_matches: int = 1) -> dict[str, float]:
    """Those of `FMRS` that are made up of so many false matches or more among the non-mated comparisons."""
    return {name: FMRS[name] for name in names if FMRS[name] * non_mated >= false_matches}


PAIR_METRICS = (fold_accuracy, operating_points, own_decision, likelihood_cost)
"""All are computed, in this order, for every system, scenario and key; reports and intervals follow."""


def figures(scores: PairScores, weights: Weights | None = None) -> Iterator[tuple[str, float]]:
    """Name and value of every figure of the pairs under one key."""
    for metric in PAIR_METRICS:
        yield from metric(scores, weights)
