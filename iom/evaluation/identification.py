"""Identification, 1:N: search within pairs, in galleries apart, among distractors, and in the trials of BLUFR."""

import abc
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iom.codes.asymmetric import ASYMMETRIC
from iom.codes.comparators import AsymmetricTemplates, Comparator, SymbolComparator
from iom.data.benchmarks.folders import split_galleries
from iom.errors import ConfigError, DataError
from iom.evaluation.records import Estimate, Figure, IdentificationResult, named_figures
from iom.evaluation.scores import NO_KEY, OWN_KEY, STOLEN_KEY, CodeSystem, EvaluationInputs, keys_of, scenarios_of
from iom.metrics.all_pairs import AllPairs
from iom.metrics.bootstrap import Interval
from iom.metrics.identification import RANKS, GallerySearch, Searches, identification_rates
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
        galleries, subjects = list(self._benchmark.galleries), self._benchmark.subjects[self._benchmark.probes]
        edges: dict[str, float] = {}
        for prefix, names in {**{f"{name}/": [name] for name in galleries}, "": galleries}.items():
            by_key = [[searches[name] for name in names] for searches in found]
            for name, value, interval in identification_figures(by_key, subjects, seed=self._config.seed):
                yield f"{prefix}{name}", value
                edges |= _edges(f"{prefix}{name}", interval)
        yield from edges.items()

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
            templates = self._voted(system, keys)
        return {
            name: search_templates(
                system.comparator, templates, benchmark.subjects, gallery=rows, probes=benchmark.probes
            )
            for name, rows in benchmark.galleries.items()
        }

    def _voted(self, system: CodeSystem, keys: Any) -> Any:
        """Templates of several images: the majority of their symbols, and as probes the sum of their keyed rows."""
        template, is_asymmetric = self._benchmark.pooling.template, system.comparison == ASYMMETRIC
        if not is_asymmetric and not isinstance(system.comparator, SymbolComparator):
            raise ConfigError(f"pooling: {system.name} has no symbols to vote with; use 'mean'")
        codes = majority_codes(system.hash(self._embeddings, keys), template, system.alphabet_size)
        if not is_asymmetric or system.made_of is None:
            return system.comparator.prepare(codes)
        rows = system.made_of.rows(self._embeddings, keys)
        sums = np.zeros((len(codes), rows.shape[1]), np.int32)
        np.add.at(sums, template, rows)
        return system.comparator.prepare(AsymmetricTemplates(codes, sums))

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
            by_key.append([Searches(nothing, ranks, nothing)])
        searched = np.repeat(subjects, same.sum(axis=1))
        estimates = identification_rates(by_key, searched, points=[], seed=self._config.seed)
        for rank, (rate, interval) in enumerate(zip(*estimates, strict=True), start=1):
            yield f"distractors_rank_{rank}", rate
            yield from _edges(f"distractors_rank_{rank}", interval).items()

    @staticmethod
    def _ranks(system: CodeSystem, templates: Any, same: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Rank of each other image of a probe's subject among the distractors, probe by probe."""
        probes, ranks = len(same), []
        for start in range(0, probes, ROWS):
            rows = np.arange(start, min(start + ROWS, probes))
            table = system.comparator.all_pairs(templates, templates[rows]).T
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
            values.append((1.0 - curve.fnmr_at_fmr(1e-3), searches.identification_rates_at_fpirs([1e-2])[0]))
        for name, rates in zip(("vr_at_fmr_1e-3", "dir_at_fpir_1e-2"), zip(*values, strict=True), strict=True):
            mean = float(np.mean(rates))
            std = float(np.std(rates, ddof=1)) if len(rates) > 1 else 0.0
            yield name, mean - std
            yield f"{name}_mean", mean
            yield f"{name}_std", std


class SearchEvaluator:
    """CMC of rank 1 to 10 and DIR by FPIR of the images of a benchmark of pairs, in the galleries of `split_galleries`.

    Keys are stolen, one for all: a key of each subject's own would require knowing who the probe is. Intervals: the
    subjects of the probes and the keys are drawn anew; the galleries stay.
    """

    def __init__(self, inputs: EvaluationInputs) -> None:
        self._inputs = inputs
        self._galleries, self._probes = split_galleries(inputs.people)

    def run(self, system: CodeSystem) -> Iterator[IdentificationResult | Figure]:
        config, subjects, probes = self._inputs.config, self._inputs.people, self._probes
        (scenario,) = scenarios_of(system, (STOLEN_KEY,))
        by_key = []
        for repetition in range(config.report.keys if scenario == STOLEN_KEY else 1):
            keys = keys_of(scenario, subjects, seed=config.seed, repetition=repetition)
            templates = system.templates(self._inputs.embeddings, keys)
            by_key.append(
                [
                    search_templates(system.comparator, templates, subjects, gallery=rows, probes=probes)
                    for rows in self._galleries.values()
                ]
            )
        non_enrolled = min(int(np.count_nonzero(~found.enrolled)) for found in by_key[0])
        fpirs = np.geomspace(1 / max(non_enrolled, 2), 1.0, OPEN_SET_POINTS).tolist()
        values, edges = identification_rates(
            by_key,
            subjects[probes],
            points=[(fpir, 1) for fpir in (*FPIRS.values(), *fpirs)],
            replicates=config.report.replicates,
            confidence=config.scenario.confidence,
            seed=config.seed,
        )
        named = [f"cmc_rank_{rank}" for rank in range(1, RANKS + 1)] + [f"dir_at_fpir_{name}_rank_1" for name in FPIRS]
        unseen = {f"dir_at_fpir_{name}_rank_1" for name, fpir in FPIRS.items() if fpir < fpirs[0]}
        figures = {
            name: Estimate(value=value, low=low, high=high)
            for name, value, (low, high) in zip(named, values, edges or itertools.repeat((None, None)), strict=False)
            if name not in unseen
        }
        curve = edges[len(named) :]
        yield IdentificationResult(
            system=system.name,
            scenario=scenario,
            gallery_sizes=[len(rows) for rows in self._galleries.values()],
            probes=len(probes),
            figures=figures,
            fpir=fpirs,
            dir=values[len(named) :],
            low=[low for low, _ in curve] or None,
            high=[high for _, high in curve] or None,
        )
        place = {"system": system.name, "scenario": scenario, "protocol": f"{self._inputs.benchmark.name}, search"}
        yield from named_figures(figures, **place)


def search_templates(
    comparator: Comparator,
    templates: Any,
    subjects: Rows,
    *,
    gallery: Rows,
    probes: Rows,
    first: NDArray[np.intp] | None = None,
) -> Searches:
    """Look for every probe in a gallery, whose templates are the stored side, in blocks of prepared templates.

    The gallery has one row for each subject; or several in a run, which begins at a place of `first`: the nearest
    counts.
    """
    references = templates[gallery]
    search = GallerySearch(subjects[gallery if first is None else gallery[first]])
    for start in range(0, len(probes), ROWS):
        rows = probes[start : start + ROWS]
        distances = comparator.all_pairs(references, templates[rows]).T
        search.add(distances if first is None else np.minimum.reduceat(distances, first, axis=1), subjects[rows])
    return search.searches()


def identification_figures(
    by_key: Sequence[Sequence[Searches]], probe_subjects: Rows, *, replicates: int = 200, seed: int = 1
) -> Iterator[tuple[str, float, Interval | None]]:
    """Figures with intervals over subjects and keys, means over keys and galleries, as `identification_rates`.

    `cmc_rank_1` to `_10`, and `dir_at_fpir_X`, `fnir_...` at each FPIR that the probes not enrolled can resolve;
    nothing where a gallery has no enrolled probe.
    """
    if not all(found.enrolled.any() for found in by_key[0]):
        return
    others = min(int(np.count_nonzero(~found.enrolled)) for found in by_key[0])
    points = {(name, rank): (fpir, rank) for name, fpir in FPIRS.items() if fpir * others >= 1 for rank in (1, RANKS)}
    values, intervals = identification_rates(
        by_key, probe_subjects, points=[*points.values()], replicates=replicates, seed=seed
    )
    estimates = itertools.zip_longest(values, intervals)
    for rank, (rate, interval) in enumerate(itertools.islice(estimates, RANKS), start=1):
        yield f"cmc_rank_{rank}", rate, interval
    for (name, rank), (rate, interval) in zip(points, estimates, strict=True):
        yield f"dir_at_fpir_{name}_rank_{rank}", rate, interval
        missed = interval and Interval(1.0 - interval.high, 1.0 - interval.low)
        yield f"fnir_at_fpir_{name}_rank_{rank}", 1.0 - rate, missed


def _edges(name: str, interval: Interval | None) -> dict[str, float]:
    return {f"{name}_low": interval.low, f"{name}_high": interval.high} if interval else {}
