"""Benchmarks of a folder of subjects `<root>/<subject>/<image>`, and of synthetic faces."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from iom._random import numpy_stream
from iom.config import FolderConfig
from iom.data.benchmarks.base import FOLDS, IdentificationBenchmark, PairBenchmark, Pooling
from iom.data.folders import scan_folder
from iom.errors import DataError
from iom.synthetic import load_face_model

MAX_IMAGES = 10_000
"""Images of a folder that pairs are made of; of a larger one, subjects are drawn."""


def folder_pairs(root: Path, *, path: str = "", seed: int) -> PairBenchmark:
    """Pairs of a folder of subjects, in the manner of LFW; `path` may be a list of the images taken."""
    folder = scan_folder(FolderConfig(root=str(root), include=path))
    generator = numpy_stream(seed, "folder/non-mated-pairs")
    rows = sample_subjects(folder.labels, generator, max_images=MAX_IMAGES)
    labels = np.unique(folder.labels[rows], return_inverse=True)[1].astype(np.int64)
    files = folder.files
    images = tuple(files[row] for row in rows)
    return PairBenchmark(root.name, images, *sample_pairs(labels, generator), subjects=labels)


def synthetic_pairs(subjects: int, images: int, *, seed: int) -> PairBenchmark:
    """Pairs of synthetic faces, in the manner of LFW."""
    if subjects < 4 or images < 2:
        raise DataError(
            f"a synthetic benchmark needs at least 4 subjects with 2 images, received {subjects} with {images}"
        )
    pixels, labels = load_face_model().sample(subjects, images, seed=seed)
    pairs = sample_pairs(labels, numpy_stream(seed, "synthetic/non-mated-pairs"))
    return PairBenchmark("synthetic", pixels, *pairs, subjects=labels)


def folder_identification(root: Path, *, gallery_images: int = 1) -> IdentificationBenchmark:
    """Identification within a folder of subjects, in two galleries as IJB has them.

    Subjects with more than `gallery_images` images go in turn into the galleries `1` and `2`, each with its first ones
    as one template. All other images are probes for both, so that a gallery also meets subjects that it does not hold.
    """
    if gallery_images < 1:
        raise DataError(f"gallery_images: expected 1 or more, received {gallery_images}")
    folder = scan_folder(FolderConfig(root=str(root), min_images=1))
    labels = np.asarray(folder.labels)
    try:
        enrolled = _first_images(labels, gallery_images + 1)  # one is left as a probe
    except DataError as error:
        raise DataError(f"{root}: {error}") from error
    leader = np.arange(len(labels))  # the first image of each image's template
    for image in enrolled:
        own = np.flatnonzero(labels == labels[image])
        leader[own[:gallery_images]] = image
    leaders, template = np.unique(leader, return_inverse=True)
    references = template[enrolled]
    return IdentificationBenchmark(
        name=root.name,
        images=tuple(folder.files),
        pooling=None if gallery_images == 1 else Pooling(template, np.arange(len(labels))),
        subjects=labels[leaders],
        galleries=_two_galleries(references),
        probes=np.setdiff1d(np.arange(len(leaders)), references),
    )


def split_galleries(subjects: NDArray[np.int64]) -> tuple[dict[str, NDArray[np.int64]], NDArray[np.int64]]:
    """The galleries and probes of `folder_identification` for templates of these subjects, `(T,)`."""
    enrolled = _first_images(subjects, 2)
    return _two_galleries(enrolled), np.setdiff1d(np.arange(len(subjects)), enrolled)


def _first_images(labels: NDArray[np.int64], min_images: int) -> NDArray[np.int64]:
    """First image of each subject that has enough images."""
    _, first, counts = np.unique(labels, return_index=True, return_counts=True)
    enrolled: NDArray[np.int64] = first[counts >= min_images]
    if len(enrolled) < 2:
        wanted = "two" if min_images == 2 else min_images
        raise DataError(f"expected two subjects or more with {wanted} images, received {len(enrolled)}")
    return enrolled


def _two_galleries(enrolled: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    return {"1": enrolled[0::2], "2": enrolled[1::2]}


def sample_pairs(
    labels: NDArray[np.int64], generator: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64]]:
    """All mated pairs, and in each of ten folds as many non-mated ones; no subject stands in two folds.

    `labels` `(N,)` ascend from 0 without gaps. Returns left and right image, mated or not, and fold, `(P,)` each.
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
        parts.append((left[chosen], right[chosen], same[chosen], np.full(len(chosen), number, np.int64)))
    left, right, same, fold = (np.concatenate(part) for part in zip(*parts, strict=True))
    return left, right, same, fold


def sample_subjects(labels: NDArray[np.int64], generator: np.random.Generator, *, max_images: int) -> NDArray[np.int64]:
    """Rows of whole subjects, drawn up to `max_images` images; all rows if there are not more."""
    if len(labels) <= max_images:
        return np.arange(len(labels))
    counts = np.bincount(labels)
    order = generator.permutation(len(counts))
    kept = order[np.cumsum(counts[order]) <= max_images]
    return np.flatnonzero(np.isin(labels, kept))
