"""1:N protocols for every system and scenario: galleries apart, and probes among distractors."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from iom.codes.comparators import SymbolComparator
from iom.data.benchmarks.base import DistractorBenchmark, IdentificationBenchmark, Pooling
from iom.errors import ConfigError, DataError
from iom.evaluation.protocols import FPIRS, ROWS, identification_figures, keys_of, scenarios_of, search_templates
from iom.evaluation.scores import OWN_KEY, STOLEN_KEY, CodeSystem, Embeddings
from iom.metrics.identification import RANKS, GallerySearch, Searches, identification_intervals
from iom.metrics.template_pooling import majority_codes

Figure = tuple[str, str, str, float]
"""System, scenario, name, value: the mean over keys."""
POOLINGS = ("mean", "vote", "nearest")


def search_figures(
    benchmark: IdentificationBenchmark,
    embeddings: Embeddings,
    systems: Sequence[CodeSystem],
    *,
    keys: int = 1,
    seed: int = 1,
    scenarios: tuple[str, ...] = (OWN_KEY, STOLEN_KEY),
    pooling: str = "mean",
) -> Iterator[Figure]:
    """CMC and open-set rates in each gallery, as `G1/cmc_rank_1`, and their mean, as `cmc_rank_1`.

    The rates of each gallery and the means have a 95 % interval, as `G1/cmc_rank_1_low` and `_high`: a bootstrap over
    the subjects of the probes and over keys.

    Args:
        benchmark: Who is looked for, and where.
        embeddings: Unit-length, of its images, `(N, D)`.
        systems: `protocols.float_system` and others.
        keys: Repetitions, each under fresh test keys.
        seed: Of the test keys.
        scenarios: Of the systems that have a key.
        pooling: Of templates of several images: `mean` pools embeddings and protects the mean; `vote` protects each
            image, under one key, and takes the majority of symbols; `nearest` protects and keeps each image, and the
            nearest counts.

    Raises:
        ConfigError: Unknown pooling, a vote among templates that are no symbols, or the nearest where probes have
            several images, too.
        DataError: Not one embedding for each image.
    """
    if pooling not in POOLINGS:
        raise ConfigError(f"pooling: expected one of {', '.join(POOLINGS)}, received '{pooling}'")
    if embeddings.ndim != 2 or len(embeddings) != len(benchmark.images):
        raise DataError(
            f"{benchmark.name}: expected an embedding for each of {len(benchmark.images)} images, "
            f"received {embeddings.shape}"
        )
    for system in systems:
        for scenario in scenarios_of(system, scenarios):
            by_key, found = [], []
            for repetition in range(keys if scenario in scenarios else 1):
                found.append(_searches(benchmark, embeddings, system, scenario, pooling, seed, repetition))
                by_key.append(dict(_figures(found[-1])))
            for name in by_key[0]:
                value = float(np.mean([figures[name] for figures in by_key]))
                yield system.name, scenario, name, value
            for gallery in benchmark.galleries:
                each = [[searches[gallery]] for searches in found]
                for name, value in _intervals(each, benchmark.subjects[benchmark.probes], seed):
                    yield system.name, scenario, f"{gallery}/{name}", value
            every = [list(searches.values()) for searches in found]
            for name, value in _intervals(every, benchmark.subjects[benchmark.probes], seed):
                yield system.name, scenario, name, value


def distractor_figures(
    benchmark: DistractorBenchmark,
    embeddings: Embeddings,
    systems: Sequence[CodeSystem],
    *,
    keys: int = 1,
    seed: int = 1,
) -> Iterator[Figure]:
    """Rank-1 to rank-10 rates of MegaFace's protocol, keys stolen.

    Each probe image looks for each other image of its subject, which stands alone among all distractors; a distractor
    at its distance is ranked before it. Beside each rate stand the ends of its 95 % interval, `_low` and `_high`, over
    the subjects of the probes and keys.
    """
    probes = len(benchmark.subjects)
    if embeddings.ndim != 2 or len(embeddings) != len(benchmark.images):
        raise DataError(
            f"{benchmark.name}: expected an embedding for each of {len(benchmark.images)} images, "
            f"received {embeddings.shape}"
        )
    same = benchmark.subjects[:, None] == benchmark.subjects[None]
    np.fill_diagonal(same, False)
    searched = np.repeat(benchmark.subjects, same.sum(axis=1))
    for system in systems:
        (scenario,) = scenarios_of(system, (STOLEN_KEY,))
        by_key = []
        for repetition in range(keys if scenario == STOLEN_KEY else 1):
            key = keys_of(scenario, benchmark.subjects, seed=seed, repetition=repetition)
            templates = system.templates(embeddings, key)
            ranks: list[NDArray[np.int64]] = []
            for start in range(0, probes, ROWS):
                rows = np.arange(start, min(start + ROWS, probes))
                table = system.comparator.all_pairs(templates[rows], templates)
                others = np.sort(table[:, probes:], axis=1)
                for row, distances in zip(rows, table, strict=True):
                    own = distances[:probes][same[row]]
                    before = np.searchsorted(others[row - start], own, side="right")
                    ranks.append(1 + before.astype(np.int64))
            found = np.concatenate(ranks)
            nothing = np.zeros(len(found))
            by_key.append([Searches(nothing, found, nothing, len(benchmark.images) - probes + 1)])
        intervals, _ = identification_intervals(by_key, searched, points=[], seed=seed)
        rates = np.mean([searches.cmc() for (searches,) in by_key], axis=0)
        for rank, (rate, (low, high)) in enumerate(zip(rates, intervals, strict=True), start=1):
            yield system.name, scenario, f"distractors_rank_{rank}", float(rate)
            yield system.name, scenario, f"distractors_rank_{rank}_low", low
            yield system.name, scenario, f"distractors_rank_{rank}_high", high


def _searches(
    benchmark: IdentificationBenchmark,
    embeddings: Embeddings,
    system: CodeSystem,
    scenario: str,
    pooling: str,
    seed: int,
    repetition: int,
) -> dict[str, Searches]:
    """Of each gallery, under the keys of one repetition."""
    comparator = system.comparator
    pooled = benchmark.pooling
    if pooled is None or pooling == "mean":
        rows = embeddings if pooled is None else pooled.pooled(embeddings)
        keys = keys_of(scenario, benchmark.subjects, seed=seed, repetition=repetition)
        templates = system.templates(rows, keys)
    elif pooling == "nearest":
        return _nearest_searches(benchmark, pooled, embeddings, system, scenario, seed, repetition)
    else:
        if not isinstance(comparator, SymbolComparator):
            raise ConfigError(f"pooling: {system.name} has no symbols to vote with; use 'mean'")
        subjects = benchmark.subjects[pooled.template]
        keys = keys_of(scenario, subjects, seed=seed, repetition=repetition)
        codes = system.hash(embeddings, keys)
        templates = comparator.prepare(majority_codes(codes, pooled.template, system.alphabet_size))
    return {
        gallery: search_templates(
            comparator, templates, benchmark.subjects, gallery=references, probes=benchmark.probes
        )
        for gallery, references in benchmark.galleries.items()
    }


def _nearest_searches(
    benchmark: IdentificationBenchmark,
    pooled: Pooling,
    embeddings: Embeddings,
    system: CodeSystem,
    scenario: str,
    seed: int,
    repetition: int,
) -> dict[str, Searches]:
    """The distance to a template of several images is that to the nearest of them."""
    images_of = np.argsort(pooled.template, kind="stable")
    starts = np.searchsorted(pooled.template[images_of], np.arange(len(pooled) + 1))
    if (np.diff(starts)[benchmark.probes] > 1).any():
        raise ConfigError(
            f"pooling: 'nearest' is for probes of one image, and {benchmark.name} has others; use 'mean' or 'vote'"
        )
    subjects = benchmark.subjects[pooled.template]
    keys = keys_of(scenario, subjects, seed=seed, repetition=repetition)
    templates = system.templates(embeddings, keys)
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


def _figures(of_galleries: dict[str, Searches]) -> Iterator[tuple[str, float]]:
    of_gallery: dict[str, list[float]] = {}
    for gallery, searches in of_galleries.items():
        for name, value in identification_figures(searches):
            of_gallery.setdefault(name, []).append(value)
            yield f"{gallery}/{name}", value
    for name, values in of_gallery.items():
        if len(values) == len(of_galleries):
            yield name, float(np.mean(values))


def _intervals(
    by_key: Sequence[Sequence[Searches]], subjects: NDArray[np.int64], seed: int
) -> Iterator[tuple[str, float]]:
    """Ends of the intervals of what `identification_figures` names, the mean over galleries."""
    if not all(found.enrolled.any() for found in by_key[0]):
        return
    strangers = min(int(np.count_nonzero(~found.enrolled)) for found in by_key[0])
    asked = {(name, rank): (fpir, rank) for name, fpir in FPIRS.items() for rank in (1, RANKS) if fpir * strangers >= 1}
    cmc, rates = identification_intervals(by_key, subjects, points=[*asked.values()], seed=seed)
    for rank, (low, high) in enumerate(cmc, start=1):
        yield f"cmc_rank_{rank}_low", low
        yield f"cmc_rank_{rank}_high", high
    for (name, rank), (low, high) in zip(asked, rates, strict=True):
        yield f"dir_at_fpir_{name}_rank_{rank}_low", low
        yield f"dir_at_fpir_{name}_rank_{rank}_high", high
        yield f"fnir_at_fpir_{name}_rank_{rank}_low", 1.0 - high
        yield f"fnir_at_fpir_{name}_rank_{rank}_high", 1.0 - low
