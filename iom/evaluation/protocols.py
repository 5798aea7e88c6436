"""What the protocols of identification and of large verification share.

Every system is treated alike: the float embedding is a system whose templates are the embeddings and whose key does
nothing. `own_key` gives every subject a key of its own, for references and probes; `stolen_key` gives all the same.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iom.codes.comparators import Comparator, CosineComparator
from iom.evaluation.scores import FLOAT, NO_KEY, OWN_KEY, CodeSystem, Keys, common_key, subject_key
from iom.metrics.all_pairs import AllPairs
from iom.metrics.identification import RANKS, GallerySearch, Searches

ROWS = 512
"""Rows compared at a time: the table of a block stays at some tens of megabytes."""
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


def verification_rate(comparator: Comparator, templates: Any, subjects: NDArray[np.int64], fmr: float) -> float:
    """1 - FNMR at an FMR over all pairs of images.

    Args:
        comparator: Of the templates.
        templates: Prepared templates, `(N, ...)`.
        subjects: Subject of each, `(N,)`.
        fmr: The false match rate.

    Raises:
        DataError: No mated or no non-mated pair, or distances that are not finite.
    """
    return 1.0 - AllPairs(subjects).curve(comparator, templates, fmr=fmr).fnmr_at_fmr(fmr)
