"""1:N identification for every system and scenario: galleries apart, and probes among distractors."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iom.codes.comparators import Comparator, SymbolComparator
from iom.data.benchmarks.base import DistractorBenchmark, IdentificationBenchmark, Pooling
from iom.errors import ConfigError, DataError
from iom.evaluation.scores import NO_KEY, OWN_KEY, STOLEN_KEY, CodeSystem, Embeddings, keys_of
from iom.metrics.identification import RANKS, GallerySearch, Searches, identification_intervals
from iom.metrics.template_pooling import majority_codes

ROWS = 512
"""Rows compared at a time: the table of a block stays at some tens of megabytes."""
FPIRS = {"1e-3": 1e-3, "1e-2": 1e-2, "1e-1": 1e-1}
POOLINGS = ("mean", "vote", "nearest")
NamedFigures = Iterator[tuple[str, float]]


class IdentificationEvaluator:
    """CMC and open-set rates in each gallery, as `G1/cmc_rank_1`, and their mean, as `cmc_rank_1`.

    The 95 % intervals, as `G1/cmc_rank_1_low` and `_high`, are of a bootstrap over the subjects of the probes and over
    keys. `pooling` of templates of several images: `mean` pools embeddings and protects the mean; `vote` protects each
    image, under one key, and takes the majority of symbols; `nearest` protects and keeps each image, and the nearest
    counts.
    """

    scenarios: tuple[str, ...] = (OWN_KEY, STOLEN_KEY)

    def __init__(
        self,
        benchmark: IdentificationBenchmark,
        embeddings: Embeddings,
        *,
        keys: int = 1,
        seed: int = 1,
        pooling: str = "mean",
    ) -> None:
        if pooling not in POOLINGS:
            raise ConfigError(f"pooling: expected one of {', '.join(POOLINGS)}, received '{pooling}'")
        _check(benchmark, embeddings)
        self._benchmark, self._embeddings = benchmark, embeddings
        self._keys, self._seed, self._pooling = keys, seed, pooling

    def run(self, system: CodeSystem, scenario: str) -> NamedFigures:
        """Figures of a system in a scenario: means over keys, then intervals."""
        found = [
            self._searches(system, scenario, repetition) for repetition in range(_repetitions(scenario, self._keys))
        ]
        by_key = [dict(_gallery_figures(searches)) for searches in found]
        for name in by_key[0]:
            yield name, float(np.mean([figures[name] for figures in by_key]))
        subjects = self._benchmark.subjects[self._benchmark.probes]
        for gallery in self._benchmark.galleries:
            for name, value in _intervals([[searches[gallery]] for searches in found], subjects, self._seed):
                yield f"{gallery}/{name}", value
        yield from _intervals([list(searches.values()) for searches in found], subjects, self._seed)

    def _searches(self, system: CodeSystem, scenario: str, repetition: int) -> dict[str, Searches]:
        """Searches of each gallery, under the keys of one repetition."""
        benchmark, pooled = self._benchmark, self._benchmark.pooling
        if pooled is None or self._pooling == "mean":
            rows = self._embeddings if pooled is None else pooled.pooled(self._embeddings)
            templates = system.templates(rows, self._test_keys(benchmark.subjects, scenario, repetition))
        else:
            keys = self._test_keys(benchmark.subjects[pooled.template], scenario, repetition)
            if self._pooling == "nearest":
                return _nearest_searches(benchmark, pooled, system.templates(self._embeddings, keys), system)
            if not isinstance(system.comparator, SymbolComparator):
                raise ConfigError(f"pooling: {system.name} has no symbols to vote with; use 'mean'")
            codes = system.hash(self._embeddings, keys)
            templates = system.comparator.prepare(majority_codes(codes, pooled.template, system.alphabet_size))
        return {
            gallery: search_templates(
                system.comparator, templates, benchmark.subjects, gallery=references, probes=benchmark.probes
            )
            for gallery, references in benchmark.galleries.items()
        }

    def _test_keys(self, subjects: NDArray[np.int64], scenario: str, repetition: int) -> Any:
        return keys_of(scenario, subjects, seed=self._seed, repetition=repetition)


class DistractorEvaluator:
    """Rank-1 to rank-10 rates of MegaFace's protocol, keys stolen, with 95 % intervals over probe subjects and keys.

    Each probe image looks for each other image of its subject, which stands alone among all distractors; a distractor
    at its distance is ranked before it.
    """

    scenarios: tuple[str, ...] = (STOLEN_KEY,)

    def __init__(self, benchmark: DistractorBenchmark, embeddings: Embeddings, *, keys: int = 1, seed: int = 1) -> None:
        _check(benchmark, embeddings)
        self._benchmark, self._embeddings = benchmark, embeddings
        self._keys, self._seed = keys, seed

    def run(self, system: CodeSystem, scenario: str) -> NamedFigures:
        """`distractors_rank_1` to `_10` with their intervals."""
        subjects = self._benchmark.subjects
        same = subjects[:, None] == subjects[None]
        np.fill_diagonal(same, False)
        by_key = []
        for repetition in range(_repetitions(scenario, self._keys)):
            key = keys_of(scenario, subjects, seed=self._seed, repetition=repetition)
            ranks = self._ranks(system, system.templates(self._embeddings, key), same)
            nothing = np.zeros(len(ranks))
            by_key.append([Searches(nothing, ranks, nothing, len(self._benchmark.images) - len(subjects) + 1)])
        searched = np.repeat(subjects, same.sum(axis=1))
        intervals, _ = identification_intervals(by_key, searched, points=[], seed=self._seed)
        rates = np.mean([searches.cmc() for (searches,) in by_key], axis=0)
        for rank, (rate, (low, high)) in enumerate(zip(rates, intervals, strict=True), start=1):
            yield f"distractors_rank_{rank}", float(rate)
            yield f"distractors_rank_{rank}_low", low
            yield f"distractors_rank_{rank}_high", high

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


def search_templates(
    comparator: Comparator,
    templates: Any,
    subjects: NDArray[np.int64],
    *,
    gallery: NDArray[np.int64],
    probes: NDArray[np.int64],
) -> Searches:
    """Look for every probe in a gallery, in blocks of prepared templates; the gallery has one row for each subject."""
    search = GallerySearch(subjects[gallery])
    references = templates[gallery]
    for start in range(0, len(probes), ROWS):
        rows = probes[start : start + ROWS]
        search.add(comparator.all_pairs(templates[rows], references), subjects[rows])
    return search.searches()


def identification_figures(searches: Searches) -> Iterator[tuple[str, float]]:
    """`cmc_rank_1` to `_10`, and `dir_at_fpir_X`, `fnir_...` at each FPIR that the probes not enrolled can resolve."""
    if searches.enrolled.any():
        for rank, rate in enumerate(searches.cmc(RANKS), start=1):
            yield f"cmc_rank_{rank}", float(rate)
    for name, fpir in resolved_fpirs([searches]).items():
        threshold = searches.threshold_at_fpir(fpir)
        for rank in (1, RANKS):
            rate = searches.identification_rate(threshold, rank)
            yield f"dir_at_fpir_{name}_rank_{rank}", rate
            yield f"fnir_at_fpir_{name}_rank_{rank}", 1.0 - rate


def resolved_fpirs(searches: Sequence[Searches]) -> dict[str, float]:
    """`FPIRS` that the probes without reference can tell from zero; none where no probe is enrolled."""
    if not all(found.enrolled.any() for found in searches):
        return {}
    others = min(int(np.count_nonzero(~found.enrolled)) for found in searches)
    return {name: fpir for name, fpir in FPIRS.items() if fpir * others >= 1}


def _nearest_searches(
    benchmark: IdentificationBenchmark, pooled: Pooling, templates: Any, system: CodeSystem
) -> dict[str, Searches]:
    """The distance to a template of several images is that to the nearest of them."""
    images_of = np.argsort(pooled.template, kind="stable")
    starts = np.searchsorted(pooled.template[images_of], np.arange(len(pooled) + 1))
    if (np.diff(starts)[benchmark.probes] > 1).any():
        raise ConfigError(
            f"pooling: 'nearest' is for probes of one image, and {benchmark.name} has others; use 'mean' or 'vote'"
        )
    subjects = benchmark.subjects[pooled.template]
    probes = images_of[starts[benchmark.probes]]
    found = {}
    for gallery, references in benchmark.galleries.items():
        images = [images_of[starts[each] : starts[each + 1]] for each in references]
        first = np.cumsum([0, *map(len, images[:-1])])
        kept = templates[np.concatenate(images)]
        search = GallerySearch(benchmark.subjects[references])
        for start in range(0, len(probes), ROWS):
            rows = probes[start : start + ROWS]
            distances = system.comparator.all_pairs(templates[rows], kept)
            search.add(np.minimum.reduceat(distances, first, axis=1), subjects[rows])
        found[gallery] = search.searches()
    return found


def _gallery_figures(of_galleries: dict[str, Searches]) -> NamedFigures:
    of_gallery: dict[str, list[float]] = {}
    for gallery, searches in of_galleries.items():
        for name, value in identification_figures(searches):
            of_gallery.setdefault(name, []).append(value)
            yield f"{gallery}/{name}", value
    for name, values in of_gallery.items():
        if len(values) == len(of_galleries):
            yield name, float(np.mean(values))


def _intervals(by_key: Sequence[Sequence[Searches]], subjects: NDArray[np.int64], seed: int) -> NamedFigures:
    """Ends of the intervals of the `identification_figures`, the mean over galleries."""
    if not all(found.enrolled.any() for found in by_key[0]):
        return
    asked = {(name, rank): (fpir, rank) for name, fpir in resolved_fpirs(by_key[0]).items() for rank in (1, RANKS)}
    cmc, rates = identification_intervals(by_key, subjects, points=[*asked.values()], seed=seed)
    for rank, (low, high) in enumerate(cmc, start=1):
        yield f"cmc_rank_{rank}_low", low
        yield f"cmc_rank_{rank}_high", high
    for (name, rank), (low, high) in zip(asked, rates, strict=True):
        yield f"dir_at_fpir_{name}_rank_{rank}_low", low
        yield f"dir_at_fpir_{name}_rank_{rank}_high", high
        yield f"fnir_at_fpir_{name}_rank_{rank}_low", 1.0 - high
        yield f"fnir_at_fpir_{name}_rank_{rank}_high", 1.0 - low


def _repetitions(scenario: str, keys: int) -> int:
    return 1 if scenario == NO_KEY else keys


def _check(benchmark: IdentificationBenchmark | DistractorBenchmark, embeddings: Embeddings) -> None:
    if embeddings.ndim != 2 or len(embeddings) != len(benchmark.images):
        raise DataError(
            f"{benchmark.name}: expected an embedding for each of {len(benchmark.images)} images, "
            f"received {embeddings.shape}"
        )
