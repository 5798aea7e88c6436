"""Identification benchmarks: who is in which gallery, and who is looked for."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from iom.config.sections import FolderConfig
from iom.data.benchmarks.pooling import Pooling
from iom.data.folders import scan_folder
from iom.data.table_files import shown
from iom.errors import DataError


@dataclasses.dataclass(frozen=True, eq=False)
class SearchBenchmark:
    """Probes to be looked for in one gallery after the other.

    Attributes:
        name: For reports.
        images: Image files.
        pooling: Which images make which template; `None`: each image is one.
        subjects: Subject of each template, `(T,)`.
        galleries: Templates of each gallery, rows, by its name.
        probes: Templates that are looked for, rows.

    Raises:
        DataError: Lengths that differ, a row that is not there, or a subject that stands in a
            gallery twice.
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


def folder_searches(root: Path, *, name: str = "", gallery_images: int = 1) -> SearchBenchmark:
    """Identification within a folder `<root>/<subject>/<image>`, in two galleries as IJB has them.

    Subjects with more than `gallery_images` images are dealt in turn into the galleries `1` and
    `2`, each with its first ones as one template. All other images are probes for both, so that a
    gallery meets subjects it does not hold: those of the other one, and those with too few images.

    Raises:
        DataError: No such folder, or fewer than two subjects with enough images.
    """
    if gallery_images < 1:
        raise DataError(f"gallery_images: expected 1 or more, received {gallery_images}")
    folder = scan_folder(FolderConfig(root=str(root), min_images=1))
    labels = np.asarray(folder.labels)
    first, counts = np.unique(labels, return_index=True, return_counts=True)[1:]
    wanted = gallery_images + 1  # one is left as a probe
    enrolled = first[counts >= wanted]
    if len(enrolled) < 2:
        raise DataError(
            f"{root}: expected two subjects or more with {'two' if wanted == 2 else wanted} "
            f"images, received {len(enrolled)}"
        )
    leader = np.arange(len(labels))  # the first image of each image's template
    for image in enrolled:
        own = np.flatnonzero(labels == labels[image])
        leader[own[:gallery_images]] = image
    leaders, template = np.unique(leader, return_inverse=True)
    references = template[enrolled]
    return SearchBenchmark(
        name=name or root.name,
        images=tuple(folder.files),
        pooling=None if gallery_images == 1 else Pooling(template, np.arange(len(labels))),
        subjects=labels[leaders],
        galleries=_dealt(references),
        probes=np.setdiff1d(np.arange(len(leaders)), references),
    )


def dealt_galleries(subjects: NDArray[np.int64]) -> tuple[dict[str, NDArray[np.int64]], NDArray[np.int64]]:
    """The galleries and probes of `folder_searches` for templates of these subjects, `(T,)`.

    Raises:
        DataError: Fewer than two subjects with two images.
    """
    _, first, counts = np.unique(subjects, return_index=True, return_counts=True)
    enrolled = first[counts >= 2]
    if len(enrolled) < 2:
        raise DataError(f"expected two subjects or more with two images, received {len(enrolled)}")
    return _dealt(enrolled), np.setdiff1d(np.arange(len(subjects)), enrolled)


def _dealt(enrolled: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    return {"1": enrolled[0::2], "2": enrolled[1::2]}
