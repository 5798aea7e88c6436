"""Pairs made from labels, in the manner of LFW: all mated ones, as many others, in folds."""

import numpy as np
from numpy.typing import NDArray

FOLDS = 10

Pairs = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64]]


def dealt_pairs(labels: NDArray[np.int64], generator: np.random.Generator) -> Pairs:
    """All mated pairs, and in each fold as many non-mated ones; no subject stands in two folds.

    Args:
        labels: Subject of each image, `(N,)`, ascending from 0 without gaps.
        generator: Draws the non-mated pairs.

    Returns:
        Left and right image, whether they are mated, and the fold of each pair, `(P,)` each.
    """
    subjects = int(labels.max()) + 1
    fold_of_subject = np.arange(subjects) * max(1, min(FOLDS, subjects // 2)) // subjects
    fold_of_image = fold_of_subject[labels]
    parts = []
    for number in range(int(fold_of_image.max()) + 1):
        rows = np.flatnonzero(fold_of_image == number)
        left, right = np.triu_indices(len(rows), k=1)
        left, right = rows[left], rows[right]
        same = labels[left] == labels[right]
        others = np.flatnonzero(~same)
        drawn = generator.choice(others, min(int(same.sum()), len(others)), replace=False)
        chosen = np.sort(np.concatenate([np.flatnonzero(same), drawn]))
        fold = np.full(len(chosen), number, np.int64)
        parts.append((left[chosen], right[chosen], same[chosen], fold))
    left, right, same, fold = (np.concatenate(part) for part in zip(*parts, strict=True))
    return left, right, same, fold


def drawn_subjects(labels: NDArray[np.int64], generator: np.random.Generator, *, largest: int) -> NDArray[np.int64]:
    """Rows of whole subjects, drawn up to `largest` images; all rows if there are not more."""
    if len(labels) <= largest:
        return np.arange(len(labels))
    counts = np.bincount(labels)
    order = generator.permutation(len(counts))
    kept = order[np.cumsum(counts[order]) <= largest]
    return np.flatnonzero(np.isin(labels, kept))
