"""What the protocols of identification and of large verification share.

Every system is treated alike: the float embedding is a system whose templates are the embeddings
and whose key does nothing. `own_key` gives every subject a key of its own, for references and
probes; `stolen_key` gives all the same.
"""

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from iom._random import numpy_stream
from iom.codes.comparators import Comparator, CosineComparator
from iom.errors import DataError
from iom.evaluation.scores import FLOAT, NO_KEY, OWN_KEY, CodeSystem, Keys, common_key, subject_key
from iom.metrics.error_curve import ErrorCurve
from iom.metrics.histogram_curve import StreamedDistances, histogram_curve
from iom.metrics.identification import RANKS, GallerySearch, Searches

ROWS = 512
"""Rows compared at a time: the table of a block stays at some tens of megabytes."""
SAMPLE = 1500
FPIRS = {"1e-3": 1e-3, "1e-2": 1e-2, "1e-1": 1e-1}


def float_system(embedding_size: int) -> CodeSystem:
    """The unprotected embedding as a system, compared by `1 - cosine`."""
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


def search_templates(
    comparator: Comparator,
    templates: Any,
    subjects: NDArray[np.int64],
    *,
    gallery: NDArray[np.int64],
    probes: NDArray[np.int64],
) -> Searches:
    """Look for every probe in a gallery, in blocks.

    Args:
        comparator: Of the templates.
        templates: Prepared templates of all images.
        subjects: Subject of each template.
        gallery: Rows of the references, one for each subject.
        probes: Rows of the probes.

    Raises:
        DataError: A gallery with a subject twice.
    """
    search = GallerySearch(subjects[gallery])
    references = templates[gallery]
    for start in range(0, len(probes), ROWS):
        rows = probes[start : start + ROWS]
        search.add(comparator.all_pairs(templates[rows], references), subjects[rows])
    return search.searches()


def identification_figures(searches: Searches) -> Iterator[tuple[str, float]]:
    """`cmc_rank_1` to `_10`, and where some probes are not enrolled `dir_at_fpir_X`, `fnir_...`.

    Rates at an FPIR that the number of probes cannot tell from zero are left out.
    """
    if searches.enrolled.any():
        for rank, rate in enumerate(searches.cmc(RANKS), start=1):
            yield f"cmc_rank_{rank}", float(rate)
    strangers = int(np.count_nonzero(~searches.enrolled))
    if not searches.enrolled.any() or not strangers:
        return
    for name, fpir in FPIRS.items():
        if fpir * strangers < 1:
            continue
        threshold = searches.threshold_at_fpir(fpir)
        for rank in (1, RANKS):
            rate = searches.identification_rate(threshold, rank)
            yield f"dir_at_fpir_{name}_rank_{rank}", rate
            yield f"fnir_at_fpir_{name}_rank_{rank}", 1.0 - rate


class LowTail:
    """Collects the lowest of many distances, exactly, in bounded memory.

    Args:
        limit: Distances above it are only counted.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.count = 0
        self._kept: list[NDArray[Any]] = []

    def add(self, distances: NDArray[Any]) -> None:
        """Add a block of distances of any shape; an infinite one does not count."""
        kept = distances[distances <= self.limit]
        self._kept.append(kept)
        self.count += distances.size

    def threshold_at(self, fmr: float, levels: NDArray[Any]) -> float | None:
        """Largest level, or kept distance, that at most a share `fmr` of all lies at or below.

        `None` where the tail is too short to tell.
        """
        kept = np.sort(np.concatenate(self._kept)) if self._kept else np.empty(0)
        allowed = int(np.floor(fmr * self.count * (1 + 1e-12)))
        if len(kept) <= allowed:
            return None
        first_refused = kept[allowed]
        below = [values[values < first_refused] for values in (kept[:allowed], levels)]
        candidates = np.concatenate(below)
        return float(candidates.max()) if len(candidates) else -np.inf


def verification_rate(comparator: Comparator, templates: Any, subjects: NDArray[np.int64], fmr: float) -> float:
    """1 - FNMR at an FMR over all pairs of images; equal to `fnmr_at_fmr` of all distances.

    Args:
        comparator: Of the templates.
        templates: Prepared templates, `(N, ...)`.
        subjects: Subject of each, `(N,)`.
        fmr: The false match rate.

    Raises:
        DataError: No mated or no non-mated pair, or distances that are not finite.
    """
    order = np.argsort(subjects, kind="stable")
    templates, subjects = templates[order], subjects[order]
    ends = _ends(subjects)
    share = 2.0
    while True:
        tail = LowTail(_limit(comparator, templates, subjects, min(1.0, share * fmr)))
        mated = _all_pairs(comparator, templates, ends, tail)
        threshold = tail.threshold_at(fmr, mated)
        if threshold is not None:
            return float(np.mean(mated <= threshold))
        if share * fmr >= 1.0:
            return float(np.mean(mated <= tail.limit))
        share *= 4.0


def all_pairs_curve(
    comparator: Comparator, templates: Any, subjects: NDArray[np.int64], *, fmr: float = 0.1, highest: float = 2.0
) -> ErrorCurve:
    """The error curve over all pairs of images, whatever the comparator.

    Counted where distances are integers, and then exact; else exact up to an FMR of about `fmr`
    (see `StreamedDistances`).

    Args:
        comparator: Of the templates.
        templates: Prepared templates, `(N, ...)`.
        subjects: Subject of each, `(N,)`.
        fmr: FMR up to which real distances are kept one by one.
        highest: Largest real distance there can be.

    Raises:
        DataError: No mated or no non-mated pair, or distances that are not finite.
    """
    order = np.argsort(subjects, kind="stable")
    templates, subjects = templates[order], subjects[order]
    ends = _ends(subjects)
    if np.issubdtype(comparator.all_pairs(templates[:1], templates[:1]).dtype, np.integer):
        counts = Counts()
        mated = _all_pairs(comparator, templates, ends, counts)
        size = max(len(counts.counts), int(mated.max()) + 1)
        return histogram_curve(np.bincount(mated, minlength=size), counts.padded(size))
    limit = min(_limit(comparator, templates, subjects, fmr), 0.99 * highest)
    streamed = StreamedDistances(limit, highest=highest)
    mated = _all_pairs(comparator, templates, ends, Streamed(streamed))
    streamed.add(mated.astype(np.float64), np.empty(0))
    return streamed.curve()


class Sink(Protocol):
    """What takes non-mated distances, block by block."""

    def add(self, distances: NDArray[Any]) -> None:
        """Add a block of any shape."""
        ...


class Streamed:
    """Passes blocks on to `StreamedDistances`."""

    def __init__(self, distances: StreamedDistances) -> None:
        self._distances = distances

    def add(self, distances: NDArray[Any]) -> None:
        """Add a block of any shape."""
        self._distances.add(np.empty(0), distances.ravel().astype(np.float64))


class Counts:
    """Counts integer distances."""

    def __init__(self) -> None:
        self.counts = np.zeros(1, np.int64)

    def add(self, distances: NDArray[Any]) -> None:
        """Add a block of any shape."""
        found = np.bincount(distances.ravel(), minlength=len(self.counts))
        self.counts = self.padded(len(found)) + found

    def padded(self, size: int) -> NDArray[np.int64]:
        """The counts of 0 to `size - 1`."""
        return np.pad(self.counts, (0, max(0, size - len(self.counts))))


def _ends(subjects: NDArray[np.int64]) -> NDArray[np.intp]:
    """Row after the last of each row's subject; subjects in order.

    Raises:
        DataError: No mated or no non-mated pair.
    """
    ends = np.searchsorted(subjects, subjects, side="right")
    if not len(ends) or ends[0] == len(ends) or (ends == np.arange(1, len(ends) + 1)).all():
        raise DataError("all pairs: expected two subjects or more, one of them with two images")
    return ends


def _all_pairs(comparator: Comparator, templates: Any, ends: NDArray[np.intp], sink: Sink) -> NDArray[Any]:
    """Mated distances; the non-mated ones go to the sink. Each pair once."""
    mated = []
    count = len(ends)
    for start in range(0, count, ROWS):
        stop = min(start + ROWS, count)
        table = comparator.all_pairs(templates[start:stop], templates[start:])
        if not np.issubdtype(table.dtype, np.integer) and not np.isfinite(table).all():
            raise DataError("all pairs: expected finite distances, received others")
        rows = np.arange(start, stop)
        width = int(ends[stop - 1]) - start  # further columns are of other subjects
        columns = np.arange(start, start + width)
        near = table[:, :width]
        later = columns[None] > rows[:, None]
        own = columns[None] < ends[start:stop, None]
        mated.append(near[later & own])
        sink.add(near[~own])
        sink.add(table[:, width:])
    return np.concatenate(mated)


def _limit(comparator: Comparator, templates: Any, subjects: NDArray[np.int64], share: float) -> float:
    """Distance below which about this share of the non-mated pairs lies, from a sample."""
    if share >= 1.0:
        return np.inf
    drawn = np.sort(numpy_stream(0, "evaluation/tail-sample").permutation(len(subjects))[:SAMPLE])
    table = comparator.all_pairs(templates[drawn], templates[drawn])
    differ = subjects[drawn][:, None] != subjects[drawn][None]
    if not differ.any():
        return np.inf
    return float(np.quantile(table[differ], share))
