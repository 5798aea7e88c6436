"""Sections of a report beside the pairs: identification, unlinkability between keys, attacks under full disclosure."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from iom._random import numpy_stream
from iom._registry import lookup
from iom.attacks import ATTACKS
from iom.attacks.targets import attacked_hasher, attacked_protection
from iom.baselines import BASELINES
from iom.config import EvaluateConfig, ReportConfig
from iom.data.benchmarks.base import PairBenchmark
from iom.data.benchmarks.folders import split_galleries
from iom.errors import DataError
from iom.evaluation.attacks import AttackKeys, AttackRow, Victims, attack_rows, measuring_keys
from iom.evaluation.identification import FPIRS, search_templates
from iom.evaluation.report.data import Estimate, IdentificationResult, LinkabilityResult
from iom.evaluation.scores import FLOAT, STOLEN_KEY, CodeSystem, Embeddings, common_key, keys_of, scenarios_of
from iom.evaluation.systems import hasher_folders
from iom.metrics.bootstrap import Counts, PairSubjects, bootstrap_samples
from iom.metrics.identification import RANKS, identification_intervals
from iom.metrics.protection import linkability_floor, local_linkability, maximal_linkability, system_linkability
from iom.models.artifact import is_artifact
from iom.models.face_hasher import load
from iom.pretrained import hasher_path

OPEN_SET_POINTS = 32
MAX_BINS = 64
MAX_SAMPLES = 3
NORMAL = 1.96
NO_ATTACK = "the embedding itself"
Rows = NDArray[np.int64]


def bin_edges(mated: NDArray[Any], non_mated: NDArray[Any]) -> NDArray[np.float64]:
    """Bins over both kinds of distance; of whole width for codes, or bins would fill unevenly."""
    both = np.concatenate([mated, non_mated])
    low, high = both.min(), both.max()
    if np.issubdtype(both.dtype, np.integer):
        step = max(1, math.ceil((high - low + 1) / MAX_BINS))
        return np.arange(low, high + 1 + step, step) - 0.5
    return np.linspace(low, max(high, low + 1e-6), MAX_BINS + 1)


def identification_section(
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
        by_key.append(
            [
                search_templates(system.comparator, templates, subjects, gallery=rows, probes=probes)
                for rows in galleries.values()
            ]
        )
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
    names = [f"cmc_rank_{rank}" for rank in range(1, RANKS + 1)]
    names += [f"dir_at_fpir_{name}_rank_1" for name in FPIRS]
    resolved = [True] * RANKS + [fpir >= fpirs[0] for fpir in FPIRS.values()]
    curve = edges[len(names) :] if report.replicates else None
    return IdentificationResult(
        system=system.name,
        scenario=scenario,
        gallery_sizes=[len(rows) for rows in galleries.values()],
        probes=len(probes),
        figures={
            name: Estimate(value=value, low=low, high=high)
            for name, value, (low, high), kept in zip(names, values, edges, resolved, strict=False)
            if kept
        },
        fpir=fpirs.tolist(),
        dir=values[len(names) :],
        low=curve and [low for low, _ in curve],
        high=curve and [high for _, high in curve],
    )


class ComparedPairs(NamedTuple):
    """Rows of templates under a first and a second key that are compared; the first `mated` pairs are mated."""

    left: Rows
    right: Rows
    mated: int


def compared_pairs(benchmark: PairBenchmark, *, named: bool, limit: int, seed: int) -> ComparedPairs:
    """Pairs of a benchmark for linking, at most `limit` of each kind, else drawn.

    Where its subjects are its people (`named`) all images of a subject are compared, else the listed pairs.
    """
    if named:
        return pairs_of_subjects(benchmark.subjects, limit=limit, seed=seed)
    sides = np.stack([benchmark.left, benchmark.right])
    both = np.concatenate([sides, sides[::-1]], axis=1)
    same = np.tile(benchmark.same, 2)
    return _limited(limit, both[:, same], both[:, ~same], seed)


def pairs_of_subjects(subjects: Rows, *, limit: int, seed: int) -> ComparedPairs:
    """All ordered pairs of images of one subject, and randomly drawn ones of two subjects."""
    stream = numpy_stream(seed, "report/linkability-strangers")
    other = np.asarray(stream.integers(len(subjects), size=(2, 2 * limit)), np.int64)
    other = other[:, subjects[other[0]] != subjects[other[1]]]
    order = np.argsort(subjects, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(subjects[order])) + 1)
    within = [np.stack(np.nonzero(~np.eye(len(rows), dtype=bool))) for rows in groups]
    mated = np.concatenate([rows[found] for rows, found in zip(groups, within, strict=True)], axis=1).astype(np.int64)
    if not mated.shape[1] or not other.shape[1]:
        raise DataError("linkability: expected two subjects or more, one of them with two images")
    return _limited(limit, mated, other, seed)


def _limited(limit: int, mated: Rows, other: Rows, seed: int) -> ComparedPairs:
    stream = numpy_stream(seed, "report/linkability-pairs")
    mated, other = (
        pairs if pairs.shape[1] <= limit else pairs[:, stream.permutation(pairs.shape[1])[:limit]]
        for pairs in (mated, other)
    )
    joined = np.concatenate([mated, other], axis=1)
    return ComparedPairs(joined[0], joined[1], mated.shape[1])


def linkability_section(
    system: CodeSystem, embeddings: Embeddings, subjects: Rows, pairs: ComparedPairs, report: ReportConfig, *, seed: int
) -> LinkabilityResult:
    """D_sys, its value by sampling alone, maximal linkability, and D(s) by distance (ISO/IEC 30136).

    Templates of a pair are made under two keys; all pairs of keys are counted together; the float embedding links
    fully. The interval of D_sys is 1.96 standard deviations of the bootstrap to either side: noise only adds to D_sys,
    so that percentiles would lie above it.
    """
    distances = np.stack(list(_across_keys(system, embeddings, pairs, report.keys, seed)))
    mated, non_mated = distances[:, : pairs.mated], distances[:, pairs.mated :]
    edges = bin_edges(mated.ravel(), non_mated.ravel())
    size = len(edges) - 1
    bins = [np.clip(np.searchsorted(edges, kind, side="right") - 1, 0, size - 1) for kind in (mated, non_mated)]
    counts = [np.bincount(kind.ravel(), minlength=size) for kind in bins]
    value = system_linkability(*counts)
    deviation = _deviation(bins, size, subjects, pairs, report.replicates, seed)
    return LinkabilityResult(
        system=system.name,
        unit=system.comparator.unit,
        pairs_of_keys=len(distances),
        mated=int(counts[0].sum()),
        non_mated=int(counts[1].sum()),
        d_sys=value,
        low=None if deviation is None else max(0.0, value - NORMAL * deviation),
        high=None if deviation is None else min(1.0, value + NORMAL * deviation),
        d_sys_floor=linkability_floor(*counts),
        maximal_linkability=maximal_linkability(*counts),
        edges=edges.tolist(),
        mated_share=(counts[0] / counts[0].sum()).tolist(),
        non_mated_share=(counts[1] / counts[1].sum()).tolist(),
        local=local_linkability(*counts).tolist(),
    )


def _across_keys(
    system: CodeSystem, embeddings: Embeddings, pairs: ComparedPairs, keys: int, seed: int
) -> Iterator[NDArray[Any]]:
    first = system.templates(embeddings, common_key(seed, 0))
    for number in range(1, 2 if system.name == FLOAT else keys + 1):
        second = system.templates(embeddings, common_key(seed, number))
        yield system.comparator.paired(first[pairs.left], second[pairs.right])
        first = second


def _deviation(
    bins: Sequence[Rows], size: int, subjects: Rows, pairs: ComparedPairs, replicates: int, seed: int
) -> float | None:
    if replicates < 2:
        return None
    same = np.arange(len(pairs.left)) < pairs.mated
    of_pairs = PairSubjects(subjects[pairs.left], subjects[pairs.right], same)

    def d_sys(subjects: Counts, keys: Counts) -> list[float]:
        weights, drawn = of_pairs.weights(subjects), np.flatnonzero(keys)
        kinds = (weights[: pairs.mated], weights[pairs.mated :])
        return [
            system_linkability(
                *(
                    sum(keys[key] * np.bincount(kind[key], weight, minlength=size) for key in drawn)
                    for kind, weight in zip(bins, kinds, strict=True)
                )
            )
        ]

    samples = bootstrap_samples(
        d_sys,
        {"subjects": of_pairs.subjects, "keys": len(bins[0])},
        replicates=replicates,
        seed=seed,
        usable=of_pairs.usable,
    )
    return float(np.std(samples, ddof=1))


def check_attacks(config: EvaluateConfig) -> None:
    """Refuse systems and attacks that cannot be run, before anything is computed."""
    for name in config.report.attack_names:
        lookup(ATTACKS, name, "attack")
    folders = hasher_folders(config)
    for name in config.scenario.systems if config.report.attacks else ():
        if name in folders and is_artifact(hasher_path(folders[name])):
            attacked_hasher(name, load(folders[name]))


def attack_keys(config: EvaluateConfig) -> AttackKeys:
    """Test keys of the attacks."""
    report, seed = config.report, config.seed
    return AttackKeys(
        measuring_keys(seed, "old", report.old_keys),
        measuring_keys(seed, "fresh", report.fresh_keys),
        measuring_keys(seed, "records", max(report.records, default=2) - 1),
    )


def attack_section(
    config: EvaluateConfig, name: str, victims: Victims, keys: AttackKeys, threshold: float
) -> list[AttackRow]:
    """Attacks on a system at its operating threshold, with model, key and template disclosed."""
    if name == FLOAT:
        return [unprotected_row(victims, threshold)]
    folders, size = hasher_folders(config), victims.samples.shape[-1]
    if name in folders:
        system = attacked_hasher(name, load(folders[name], opens_embedder=False))
    else:
        protection = lookup(BASELINES, name, "baseline")(size, config.code, config.seed)
        system = attacked_protection(name, protection, size)
    return list(
        attack_rows(
            [(system, threshold)],
            config.report.attack_names,
            victims,
            keys,
            records=config.report.records,
            seed=config.seed,
            replicates=config.scenario.bootstrap,
        )
    )


def unprotected_row(victims: Victims, threshold: float) -> AttackRow:
    """The value of a leak of plain embeddings: another sample is accepted as often as the subject is."""
    first, last = victims.samples[:, 0], victims.samples[:, -1]
    distances = 1.0 - np.einsum("nd,nd->n", first, last, dtype=np.float64)
    return AttackRow(
        FLOAT,
        NO_ATTACK,
        "codes",
        subjects=len(first),
        threshold=threshold,
        cosine=1.0,
        sar=1.0,
        prar=1.0,
        prar_other=float(np.mean(distances <= threshold)),
    )


def draw_victims(embeddings: Embeddings, subjects: Rows, *, wanted: int, seed: int) -> Victims:
    """Victims with two or three samples each, at most half of the subjects; the attacker learns from all others."""
    counts = np.bincount(subjects)
    able = np.flatnonzero(counts >= 2)
    if len(able) < 4:
        raise DataError(
            f"attacks: expected four subjects or more with two images, received {len(able)}; leave "
            "them out with --set report.attacks=false"
        )
    count = min(wanted, len(able) // 2)
    many = np.flatnonzero(counts >= MAX_SAMPLES)
    samples = MAX_SAMPLES if len(many) >= count else 2
    stream = numpy_stream(seed, "report/victims")
    drawn = stream.permutation(many if samples == MAX_SAMPLES else able)[:count]
    rows = [stream.permutation(np.flatnonzero(subjects == one))[:samples] for one in drawn]
    others = ~np.isin(subjects, drawn)
    labels = np.unique(subjects[others], return_inverse=True)[1].astype(np.int64)
    return Victims(embeddings[np.stack(rows)], embeddings[others], labels)
