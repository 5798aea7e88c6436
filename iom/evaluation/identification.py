"""Identification, 1:N: search within pairs, in galleries apart, among distractors, and in the trials of BLUFR."""

import abc
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iom.codes.comparators import Comparator, SymbolComparator
from iom.config import ReportConfig
from iom.data.benchmarks.folders import split_galleries
from iom.errors import ConfigError, DataError
from iom.evaluation.records import Estimate, Figure, IdentificationResult, named_figures
from iom.evaluation.scores import (
    NO_KEY,
    OWN_KEY,
    STOLEN_KEY,
    CodeSystem,
    Embeddings,
    EvaluationInputs,
    keys_of,
    scenarios_of,
)
from iom.metrics.all_pairs import AllPairs
from iom.metrics.bootstrap import Interval
from iom.metrics.identification import RANKS, GallerySearch, Searches, identification_intervals
from iom.metrics.template_pooling import majority_codes

ROWS = 512
"""Rows compared at a time: the table of a block stays at some tens of megabytes."""
FPIRS = {"1e-3": 1e-3, "1e-2": 1e-2, "1e-1": 1e-1}
OPEN_SET_POINTS = 32
Rows = NDArray[np.int64]
NamedFigures = Iterator[tuple[str, float]]


class FigureEvaluator(abc.ABC):
    """Base of the evaluators whose results are figures alone, of a system in each of `scenarios`."""

    scenarios: tuple[str, ...] = (OWN_KEY, STOLEN_KEY)

    def __init__(self, inputs: EvaluationInputs) -> None:
        self._config, self._benchmark, self._embeddings = inputs.config, inputs.benchmark, inputs.embeddings
        images = len(self._benchmark.images)
        if self._embeddings.ndim != 2 or len(self._embeddings) != images:
            raise DataError(
                f"{self._benchmark.name}: expected an embedding for each of {images} images, "
                f"received {self._embeddings.shape}"
            )

    def run(self, system: CodeSystem) -> Iterator[Figure]:
        for scenario in scenarios_of(system, self.scenarios):
            for metric, value in self.figures(system, scenario):
                yield Figure(
                    system=system.name, scenario=scenario, protocol=self._benchmark.name, metric=metric, value=value
                )

    @abc.abstractmethod
    def figures(self, system: CodeSystem, scenario: str) -> NamedFigures:
        """Name and value of each figure; the names of the ends of an interval end in `_low` and `_high`."""

    def _repetitions(self, scenario: str) -> range:
        return range(1 if scenario == NO_KEY else self._config.scenario.keys)

    def _keys(self, scenario: str, subjects: Rows, repetition: int = 0) -> Any:
        return keys_of(scenario, subjects, seed=self._config.seed, repetition=repetition)


class IdentificationEvaluator(FigureEvaluator):
    """CMC and open-set rates in each gallery, as `G1/cmc_rank_1`, and their mean, as `cmc_rank_1`.

    Figures are means over keys, with 95 % intervals of a bootstrap over the subjects of the probes and over keys.
    `benchmark.pooling` of templates of several images: `mean` pools embeddings and protects the mean; `vote` protects
    each image, under one key, and takes the majority of symbols; `nearest` protects and keeps each image, and the
    nearest counts.
    """

    def figures(self, system: CodeSystem, scenario: str) -> NamedFigures:
        found = [self._searches(system, scenario, repetition) for repetition in self._repetitions(scenario)]
        galleries = list(self._benchmark.galleries)
        groups = {**{f"{name}/": [name] for name in galleries}, "": galleries}
        for figures in (_means, self._intervals):
            for prefix, names in groups.items():
                for name, value in figures([[searches[name] for name in names] for searches in found]):
                    yield f"{prefix}{name}", value

    def _searches(self, system: CodeSystem, scenario: str, repetition: int) -> dict[str, Searches]:
        """Searches of each gallery, under the keys of one repetition."""
        benchmark, pooled, way = self._benchmark, self._benchmark.pooling, self._config.benchmark.pooling
        if pooled is None or way == "mean":
            rows = self._embeddings if pooled is None else pooled.pooled(self._embeddings)
            templates = system.templates(rows, self._keys(scenario, benchmark.subjects, repetition))
        else:
            keys = self._keys(scenario, benchmark.subjects[pooled.template], repetition)
            if way == "nearest":
                return self._nearest_searches(system.comparator, system.templates(self._embeddings, keys))
            if not isinstance(system.comparator, SymbolComparator):
                raise ConfigError(f"pooling: {system.name} has no symbols to vote with; use 'mean'")
            codes = system.hash(self._embeddings, keys)
            templates = system.comparator.prepare(majority_codes(codes, pooled.template, system.alphabet_size))
        return gallery_searches(
            system.comparator, templates, benchmark.subjects, benchmark.galleries, probes=benchmark.probes
        )

    def _nearest_searches(self, comparator: Comparator, templates: Any) -> dict[str, Searches]:
        """The distance to a template of several images is that to the nearest of them."""
        benchmark, pooled = self._benchmark, self._benchmark.pooling
        images_of = np.argsort(pooled.template, kind="stable")
        starts = np.searchsorted(pooled.template[images_of], np.arange(len(pooled) + 1))
        if (np.diff(starts)[benchmark.probes] > 1).any():
            raise ConfigError(
                f"pooling: 'nearest' is for probes of one image, and {benchmark.name} has others; use 'mean' or 'vote'"
            )
        found = {}
        for gallery, references in benchmark.galleries.items():
            images = [images_of[starts[each] : starts[each + 1]] for each in references]
            found[gallery] = search_templates(
                comparator,
                templates,
                benchmark.subjects[pooled.template],
                gallery=np.concatenate(images),
                probes=images_of[starts[benchmark.probes]],
                first=np.cumsum([0, *map(len, images[:-1])]),
            )
        return found

    def _intervals(self, by_key: Sequence[Sequence[Searches]]) -> NamedFigures:
        """Ends of the intervals of the `identification_figures`, the mean over galleries."""
        if not all(found.enrolled.any() for found in by_key[0]):
            return
        asked = {(name, rank): (fpir, rank) for name, fpir in resolved_fpirs(by_key[0]).items() for rank in (1, RANKS)}
        subjects = self._benchmark.subjects[self._benchmark.probes]
        cmc, rates = identification_intervals(by_key, subjects, points=[*asked.values()], seed=self._config.seed)
        for rank, interval in enumerate(cmc, start=1):
            yield from _edges(f"cmc_rank_{rank}", interval)
        for (name, rank), interval in zip(asked, rates, strict=True):
            yield from _edges(f"dir_at_fpir_{name}_rank_{rank}", interval)
            yield from _edges(f"fnir_at_fpir_{name}_rank_{rank}", Interval(1.0 - interval.high, 1.0 - interval.low))


class DistractorEvaluator(FigureEvaluator):
    """Rank-1 to rank-10 rates of MegaFace's protocol, keys stolen, with 95 % intervals over probe subjects and keys.

    Each probe image looks for each other image of its subject, which stands alone among all distractors; a distractor
    at its distance is ranked before it.
    """

    scenarios = (STOLEN_KEY,)

    def figures(self, system: CodeSystem, scenario: str) -> NamedFigures:
        subjects = self._benchmark.subjects
        same = subjects[:, None] == subjects[None]
        np.fill_diagonal(same, False)
        by_key = []
        for repetition in self._repetitions(scenario):
            templates = system.templates(self._embeddings, self._keys(scenario, subjects, repetition))
            ranks = self._ranks(system, templates, same)
            nothing = np.zeros(len(ranks))
            by_key.append([Searches(nothing, ranks, nothing, len(self._benchmark.images) - len(subjects) + 1)])
        searched = np.repeat(subjects, same.sum(axis=1))
        intervals, _ = identification_intervals(by_key, searched, points=[], seed=self._config.seed)
        rates = np.mean([searches.cmc() for (searches,) in by_key], axis=0)
        for rank, (rate, interval) in enumerate(zip(rates, intervals, strict=True), start=1):
            yield f"distractors_rank_{rank}", float(rate)
            yield from _edges(f"distractors_rank_{rank}", interval)

    @staticmethod
    def _ranks(system: CodeSystem, templates: Any, same: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Rank of each other image of a probe's subject among the distractors, probe by probe."""
        probes, ranks = len(same), []
        for start in range(0, probes, ROWS):
            rows = np.arange(start, min(start + ROWS, probes))
            table = system.comparator.all_pairs(templates[rows], templates)
            others = np.sort(table[:, probes:], axis=1)
            for row, distances in zip(rows, table, strict=True):
                own = distances[:probes][same[row]]
                ranks.append(1 + np.searchsorted(others[row - start], own, side="right").astype(np.int64))
        return np.concatenate(ranks)


class BlufrEvaluator(FigureEvaluator):
    """Verification rate at FMR 0.1 % and open-set DIR at FPIR 1 %, rank 1, of BLUFR under one test key.

    `vr_at_fmr_1e-3` and `dir_at_fpir_1e-2` are quoted as the mean over trials less their sample standard deviation, as
    the authors do; both stand beside them.
    """

    def figures(self, system: CodeSystem, scenario: str) -> NamedFigures:
        subjects = self._benchmark.subjects
        templates = system.templates(self._embeddings, self._keys(scenario, subjects))
        values = []
        for trial in self._benchmark.trials:
            curve = AllPairs(subjects[trial.test]).curve(system.comparator, templates[trial.test])
            searches = search_templates(
                system.comparator, templates, subjects, gallery=trial.gallery, probes=trial.probes
            )
            values.append((1.0 - curve.fnmr_at_fmr(1e-3), searches.identification_rate_at_fpir(1e-2)))
        for name, rates in zip(("vr_at_fmr_1e-3", "dir_at_fpir_1e-2"), zip(*values, strict=True), strict=True):
            mean = float(np.mean(rates))
            std = float(np.std(rates, ddof=1)) if len(rates) > 1 else 0.0
            yield name, mean - std
            yield f"{name}_mean", mean
            yield f"{name}_std", std


class SearchEvaluator:
    """Search among the images of a benchmark of pairs, see `search_images`."""

    def __init__(self, inputs: EvaluationInputs) -> None:
        self._inputs = inputs

    def run(self, system: CodeSystem) -> Iterator[IdentificationResult | Figure]:
        inputs, config = self._inputs, self._inputs.config
        result = search_images(
            system,
            inputs.embeddings,
            inputs.people,
            config.report,
            confidence=config.scenario.confidence,
            seed=config.seed,
        )
        yield result
        place = {"system": system.name, "scenario": result.scenario, "protocol": f"{inputs.benchmark.name}, search"}
        yield from named_figures(result.figures, **place)


def search_images(
    system: CodeSystem, embeddings: Embeddings, subjects: Rows, report: ReportConfig, *, confidence: float, seed: int
) -> IdentificationResult:
    """CMC of rank 1 to 10 and DIR by FPIR, keys stolen: one key for all, with the galleries of `split_galleries`.

    A key of each subject's own would require knowing who the probe is. Intervals: the subjects of the probes and the
    keys are drawn anew; the galleries stay.
    """
    galleries, probes = split_galleries(subjects)
    (scenario,) = scenarios_of(system, (STOLEN_KEY,))
    by_key = []
    for repetition in range(report.keys if scenario == STOLEN_KEY else 1):
        templates = system.templates(embeddings, keys_of(scenario, subjects, seed=seed, repetition=repetition))
        found = gallery_searches(system.comparator, templates, subjects, galleries, probes=probes)
        by_key.append(list(found.values()))
    non_enrolled = min(int(np.count_nonzero(~found.enrolled)) for found in by_key[0])
    fpirs = np.geomspace(1 / max(non_enrolled, 2), 1.0, OPEN_SET_POINTS)
    asked = [*FPIRS.values(), *fpirs.tolist()]
    values = np.mean(
        [
            np.concatenate([found.cmc(), found.identification_rates_at_fpirs(asked)])
            for of_key in by_key
            for found in of_key
        ],
        axis=0,
    ).tolist()
    edges: list[Any] = [(None, None)] * len(values)
    if report.replicates:
        cmc, rates = identification_intervals(
            by_key,
            subjects[probes],
            points=[(fpir, 1) for fpir in asked],
            replicates=report.replicates,
            confidence=confidence,
            seed=seed,
        )
        edges = [*cmc, *rates]
    estimates = [Estimate(value=value, low=low, high=high) for value, (low, high) in zip(values, edges, strict=True)]
    names = [f"cmc_rank_{rank}" for rank in range(1, RANKS + 1)] + [f"dir_at_fpir_{name}_rank_1" for name in FPIRS]
    unseen = {f"dir_at_fpir_{name}_rank_1" for name, fpir in FPIRS.items() if fpir < fpirs[0]}
    curve = edges[len(names) :] if report.replicates else None
    return IdentificationResult(
        system=system.name,
        scenario=scenario,
        gallery_sizes=[len(rows) for rows in galleries.values()],
        probes=len(probes),
        figures={name: each for name, each in zip(names, estimates, strict=False) if name not in unseen},
        fpir=fpirs.tolist(),
        dir=values[len(names) :],
        low=curve and [low for low, _ in curve],
        high=curve and [high for _, high in curve],
    )


def gallery_searches(
    comparator: Comparator, templates: Any, subjects: Rows, galleries: Mapping[str, Rows], *, probes: Rows
) -> dict[str, Searches]:
    """`search_templates` in each gallery."""
    return {
        name: search_templates(comparator, templates, subjects, gallery=rows, probes=probes)
        for name, rows in galleries.items()
    }


def search_templates(
    comparator: Comparator,
    templates: Any,
    subjects: Rows,
    *,
    gallery: Rows,
    probes: Rows,
    first: NDArray[np.intp] | None = None,
) -> Searches:
    """Look for every probe in a gallery, in blocks of prepared templates.

    The gallery has one row for each subject; or several in a run, which begins at a place of `first`: the nearest
    counts.
    """
    references = templates[gallery]
    search = GallerySearch(subjects[gallery if first is None else gallery[first]])
    for start in range(0, len(probes), ROWS):
        rows = probes[start : start + ROWS]
        distances = comparator.all_pairs(templates[rows], references)
        search.add(distances if first is None else np.minimum.reduceat(distances, first, axis=1), subjects[rows])
    return search.searches()


def identification_figures(searches: Searches) -> NamedFigures:
    """`cmc_rank_1` to `_10`, and `dir_at_fpir_X`, `fnir_...` at each FPIR that the probes not enrolled can resolve."""
    if searches.enrolled.any():
        for rank, rate in enumerate(searches.cmc(RANKS), start=1):
            yield f"cmc_rank_{rank}", float(rate)
    for name, fpir in resolved_fpirs([searches]).items():
        for rank in (1, RANKS):
            rate = searches.identification_rate_at_fpir(fpir, rank)
            yield f"dir_at_fpir_{name}_rank_{rank}", rate
            yield f"fnir_at_fpir_{name}_rank_{rank}", 1.0 - rate


def resolved_fpirs(searches: Sequence[Searches]) -> dict[str, float]:
    """`FPIRS` that the probes without reference can tell from zero; none where no probe is enrolled."""
    if not all(found.enrolled.any() for found in searches):
        return {}
    others = min(int(np.count_nonzero(~found.enrolled)) for found in searches)
    return {name: fpir for name, fpir in FPIRS.items() if fpir * others >= 1}


def _means(by_key: Sequence[Sequence[Searches]]) -> NamedFigures:
    """Means over keys, of means over galleries, of the figures that all galleries give."""
    found = [[dict(identification_figures(searches)) for searches in of_key] for of_key in by_key]
    for name in found[0][0]:
        if all(name in figures for of_key in found for figures in of_key):
            yield name, float(np.mean([np.mean([figures[name] for figures in of_key]) for of_key in found]))


def _edges(name: str, interval: Interval) -> NamedFigures:
    yield f"{name}_low", interval.low
    yield f"{name}_high", interval.high
