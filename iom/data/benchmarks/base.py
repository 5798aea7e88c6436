"""Benchmark types: verification pairs, identification galleries and probes, templates of several images."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from iom._untrusted import shown
from iom.data.table_files import present
from iom.errors import DataError
from iom.metrics.template_pooling import mean_by_media
from iom.photos.images import Pixels

FOLDS = 10


@dataclasses.dataclass(frozen=True, eq=False)
class Pooling:
    """Template, medium and weight of each image, `(N,)` each; images of a medium (video) are averaged first.

    Templates count from 0 without gaps; weights, such as scores of a detector, are one by default.
    """

    template: NDArray[np.int64]
    media: NDArray[np.int64]
    weight: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        lengths = {len(self.template), len(self.media)}
        if self.weight is not None:
            lengths.add(len(self.weight))
            if not (np.isfinite(self.weight).all() and (self.weight > 0).all()):
                raise DataError("templates: expected positive weights of images, received others")
        if len(lengths) > 1 or not len(self.template):
            raise DataError("templates: expected a template and a medium for each image")
        empty = np.flatnonzero(np.bincount(self.template) == 0)
        if len(empty):
            raise DataError(f"templates: {len(empty)} have no image, the first is {empty[0]}")

    def __len__(self) -> int:
        return int(self.template.max()) + 1

    def pooled(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        """Unit-length embedding of each template, `(N, D)` -> `(T, D)`."""
        rows: NDArray[Any] = embeddings if self.weight is None else embeddings * self.weight[:, None]
        return mean_by_media(rows, self.media, self.template).astype(np.float32)


@dataclasses.dataclass(frozen=True, eq=False)
class PairBenchmark:
    """Pairs to verify.

    Attributes:
        images: The distinct images: files, or RGB pixels `(N, S, S, 3)` uint8.
        left, right: Images of each pair, indices into `images`, `(P,)`.
        same: Whether a pair is mated, `(P,)`.
        fold: Fold of each pair, 0 to F - 1, `(P,)`.
        subjects: Subject of each image, `(N,)`, the unit of a bootstrap. Where a benchmark does not name subjects,
            the images that mated pairs link are one subject.
        pooling: Templates of several images, such as videos; `left`, `right` and `subjects` then index templates.
    """

    name: str
    images: tuple[Path, ...] | Pixels
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    same: NDArray[np.bool_]
    fold: NDArray[np.int64]
    subjects: NDArray[np.int64]
    pooling: Pooling | None = None

    def __post_init__(self) -> None:
        pairs = {len(self.left), len(self.right), len(self.same), len(self.fold)}
        pooled = len(self.images) if self.pooling is None else len(self.pooling.template)
        if len(pairs) > 1 or len(self.subjects) != self.templates or pooled != len(self.images):
            raise DataError(f"{self.name}: the arrays of this benchmark differ in length")
        if not self.same.any() or self.same.all():
            raise DataError(
                f"{self.name}: expected mated and non-mated pairs, received "
                f"{int(self.same.sum())} mated and {int((~self.same).sum())} non-mated"
            )
        indexes = np.concatenate([self.left, self.right])
        if indexes.min() < 0 or indexes.max() >= self.templates:
            raise DataError(f"{self.name}: a pair names an image that is not there")

    def __len__(self) -> int:
        return len(self.same)

    @property
    def templates(self) -> int:
        """Number of embeddings compared: one for each image, or for each group of images."""
        return len(self.images) if self.pooling is None else len(self.pooling)

    @property
    def folds(self) -> int:
        return int(self.fold.max()) + 1

    @classmethod
    def of_files(
        cls,
        source: Path,
        root: Path,
        pairs: Sequence[tuple[str, str, bool]],
        *,
        fold: NDArray[np.int64] | None = None,
        subjects: NDArray[np.int64] | None = None,
    ) -> "PairBenchmark":
        """The benchmark of listed pairs `(left, right, same)` of files below `root`.

        `source` is the list. By default each of ten folds has its share of both kinds, and mated pairs link `subjects`
        (given in the order of the images' names).
        """
        names = sorted({image for pair in pairs for image in pair[:2]})
        files = present(names, root, source)
        index = {image: i for i, image in enumerate(names)}
        left = np.array([index[pair[0]] for pair in pairs], np.int64)
        right = np.array([index[pair[1]] for pair in pairs], np.int64)
        same = np.array([pair[2] for pair in pairs], bool)
        if fold is None:
            fold = stratified_folds(same)
        if subjects is None:
            subjects = linked_subjects(left, right, same, len(names))
        return cls(source.stem, files, left, right, same, fold, subjects)


@dataclasses.dataclass(frozen=True, eq=False)
class IdentificationBenchmark:
    """Probes to be identified in one gallery after the other; templates of both are rows of `subjects` `(T,)`.

    `pooling` gives templates of several images; `None`: each image is one.
    """

    name: str
    images: tuple[Path, ...]
    pooling: Pooling | None
    subjects: NDArray[np.int64]
    galleries: Mapping[str, NDArray[np.int64]]
    probes: NDArray[np.int64]

    def __post_init__(self) -> None:
        templates = len(self.images) if self.pooling is None else len(self.pooling)
        if len(self.subjects) != templates:
            raise DataError(
                f"{self.name}: expected a subject for each of {templates} templates, received {len(self.subjects)}"
            )
        for name, rows in {**self.galleries, "probes": self.probes}.items():
            if not len(rows) or rows.min() < 0 or rows.max() >= templates:
                raise DataError(f"{self.name}, {name}: expected templates 0 to {templates - 1}")
        for name, rows in self.galleries.items():
            subjects, counts = np.unique(self.subjects[rows], return_counts=True)
            twice = subjects[counts > 1]
            if len(twice):
                raise DataError(
                    f"{self.name}, gallery {name}: {len(twice)} of {len(subjects)} subjects stand "
                    f"in it more than once: {shown(twice.tolist())}"
                )


@dataclasses.dataclass(frozen=True, eq=False)
class DistractorBenchmark:
    """Probe images, each searched for among all distractors and one other image of its subject.

    `images` are the probes, then the distractors; `subjects` `(P,)` those of the probes, of whom no distractor is one.
    """

    name: str
    images: tuple[Path, ...]
    subjects: NDArray[np.int64]

    def __post_init__(self) -> None:
        _, counts = np.unique(self.subjects, return_counts=True)
        if not len(counts) or counts.max() < 2:
            raise DataError(f"{self.name}: expected subjects with two images or more among probes")
        if len(self.images) <= len(self.subjects):
            raise DataError(f"{self.name}: expected distractors, received none")


def linked_subjects(left: ArrayLike, right: ArrayLike, same: ArrayLike, count: int) -> NDArray[np.int64]:
    """Label of each image, `(count,)`: images that mated pairs link, directly or through others, are one subject."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    mated = np.asarray(same, bool)
    rows, columns = np.asarray(left)[mated], np.asarray(right)[mated]
    graph = coo_array((np.ones(len(rows), np.int8), (rows, columns)), shape=(count, count))
    _, labels = connected_components(graph, directed=False)
    return np.asarray(labels, np.int64)


def block_folds(count: int) -> NDArray[np.int64]:
    """Ten blocks in order, the first ones longer by one: scikit-learn's unshuffled `KFold`."""
    blocks = np.array_split(np.arange(count), min(FOLDS, count))
    return np.repeat(np.arange(len(blocks)), [len(block) for block in blocks])


def stratified_folds(same: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Blocks in order among the mated pairs and among the others, so that no fold lacks a kind."""
    fold = np.zeros(len(same), np.int64)
    folds = max(1, min(FOLDS, int(same.sum()), int((~same).sum())))
    for kind in (same, ~same):
        count = int(kind.sum())
        fold[kind] = np.arange(count) * folds // max(count, 1)
    return fold
