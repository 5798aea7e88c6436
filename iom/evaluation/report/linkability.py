"""Unlinkability between keys for any kind of template, with D(s) and intervals, for a report.

Mated: two images of one subject, each under another key; non-mated: images of two subjects,
likewise (ISO/IEC 30136). All pairs of keys are counted together.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from iom._random import numpy_stream
from iom.data.benchmarks.base import PairBenchmark
from iom.errors import DataError
from iom.evaluation.report.plots import bin_edges
from iom.evaluation.scores import FLOAT, CodeSystem, Embeddings, common_key
from iom.metrics.bootstrap import Counts, PairSubjects, bootstrap_samples
from iom.metrics.protection import linkability_floor, local_linkability, maximal_linkability, system_linkability

NORMAL = 1.96
Rows = NDArray[np.int64]


class Compared(NamedTuple):
    """Which templates are compared between keys.

    Attributes:
        left: Rows under the first key of a pair, `(P,)`.
        right: Rows under the second, `(P,)`.
        mated: How many of them, the first ones, are mated.
    """

    left: Rows
    right: Rows
    mated: int


def compared_pairs(benchmark: PairBenchmark, *, named: bool, most: int, seed: int) -> Compared:
    """Pairs for linking: all of a subject's images where subjects are named, else the listed ones.

    Args:
        benchmark: The images.
        named: Whether its subjects are the people, and not only what mated pairs link.
        most: Largest number of each kind; drawn if there are more.
        seed: Of the draw.
    """
    if named:
        return pairs_of_subjects(benchmark.subjects, most=most, seed=seed)
    sides = np.stack([benchmark.left, benchmark.right])
    both = np.concatenate([sides, sides[::-1]], axis=1)
    same = np.tile(benchmark.same, 2)
    return _at_most(most, both[:, same], both[:, ~same], seed)


def pairs_of_subjects(subjects: Rows, *, most: int, seed: int) -> Compared:
    """All images of a subject with each other, and drawn ones of two subjects.

    Raises:
        DataError: No subject has two images, or there is only one subject.
    """
    stream = numpy_stream(seed, "report/linkability-strangers")
    other = np.asarray(stream.integers(len(subjects), size=(2, 2 * most)), np.int64)
    other = other[:, subjects[other[0]] != subjects[other[1]]]
    mated = _within(subjects)
    if not mated.shape[1] or not other.shape[1]:
        raise DataError("linkability: expected two subjects or more, one of them with two images")
    return _at_most(most, mated, other, seed)


def _at_most(most: int, mated: Rows, other: Rows, seed: int) -> Compared:
    stream = numpy_stream(seed, "report/linkability-pairs")
    mated, other = (
        pairs if pairs.shape[1] <= most else pairs[:, stream.permutation(pairs.shape[1])[:most]]
        for pairs in (mated, other)
    )
    joined = np.concatenate([mated, other], axis=1)
    return Compared(joined[0], joined[1], mated.shape[1])


def linkability_sections(
    systems: Sequence[CodeSystem],
    embeddings: Embeddings,
    subjects: Rows,
    pairs: Compared,
    *,
    keys: int,
    replicates: int,
    seed: int,
    advance: Callable[[], object],
) -> Iterator[dict[str, Any]]:
    """D_sys, what sampling alone gives of it, maximal linkability and D(s) by distance.

    The interval of D_sys is 1.96 standard deviations of the bootstrap over subjects and pairs of
    keys to either side: noise only adds to D_sys, so that percentiles would lie above it.

    Args:
        systems: The systems; the float embedding has no key and links fully.
        embeddings: Unit length, `(N, D)`.
        subjects: `(N,)`, numbers from 0.
        pairs: What is compared.
        keys: Pairs of keys.
        replicates: Draws of the bootstrap; 0 for no interval.
        seed: Of test keys and draws.
        advance: Called after each system.
    """
    for system in systems:
        distances = np.stack(list(_across_keys(system, embeddings, pairs, keys, seed)))
        mated, non_mated = distances[:, : pairs.mated], distances[:, pairs.mated :]
        edges = bin_edges(mated.ravel(), non_mated.ravel())
        bins = [
            np.clip(np.searchsorted(edges, kind, side="right") - 1, 0, len(edges) - 2) for kind in (mated, non_mated)
        ]
        counts = [np.bincount(kind.ravel(), minlength=len(edges) - 1) for kind in bins]
        value = system_linkability(*counts)
        spread = _spread(bins, len(edges) - 1, subjects, pairs, replicates, seed)
        advance()
        yield {
            "system": system.name,
            "unit": system.comparator.unit,
            "pairs_of_keys": len(distances),
            "mated": int(counts[0].sum()),
            "non_mated": int(counts[1].sum()),
            "d_sys": value,
            "low": None if spread is None else max(0.0, value - NORMAL * spread),
            "high": None if spread is None else min(1.0, value + NORMAL * spread),
            "d_sys_floor": linkability_floor(*counts),
            "maximal_linkability": maximal_linkability(*counts),
            "edges": edges.tolist(),
            "mated_share": (counts[0] / counts[0].sum()).tolist(),
            "non_mated_share": (counts[1] / counts[1].sum()).tolist(),
            "local": local_linkability(*counts).tolist(),
        }


def _within(subjects: Rows) -> Rows:
    """Both orders of every two rows of one subject, `(2, P)`."""
    order = np.argsort(subjects, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(subjects[order])) + 1)
    pairs = [np.stack(np.nonzero(~np.eye(len(rows), dtype=bool))) for rows in groups]
    return np.concatenate([rows[found] for rows, found in zip(groups, pairs, strict=True)], axis=1).astype(np.int64)


def _across_keys(
    system: CodeSystem, embeddings: Embeddings, pairs: Compared, keys: int, seed: int
) -> Iterator[NDArray[Any]]:
    first = system.templates(embeddings, common_key(seed, 0))
    for number in range(1, 2 if system.name == FLOAT else keys + 1):
        second = system.templates(embeddings, common_key(seed, number))
        yield system.comparator.paired(first[pairs.left], second[pairs.right])
        first = second


def _spread(
    bins: Sequence[Rows], size: int, subjects: Rows, pairs: Compared, replicates: int, seed: int
) -> float | None:
    """Standard deviation of D_sys when subjects and pairs of keys are drawn anew."""
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
