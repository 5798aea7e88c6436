"""Folder of subjects, `<root>/<subject>/<image>`: listed, merged, filtered, split by group."""

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iom._files import IMAGE_SUFFIXES, data_path, list_subjects
from iom._random import numpy_stream
from iom._untrusted import shown
from iom.config import FolderConfig
from iom.data.table_files import present, read_lines, read_rows
from iom.data.tfrecord import ShardRow, is_shards, open_shards
from iom.errors import DataError


@dataclasses.dataclass(frozen=True)
class FaceFolder:
    """Images with dense subject labels.

    `paths` `(N,)` are relative to `root` and sorted, `labels` `(N,)` index `subjects`, where a merged one has its first
    name. `left_out` counts the subjects with too few images, `linked_folders` the links to folders, which are not
    followed. `shards` hold the images, where they are not files.
    """

    root: Path
    paths: tuple[str, ...]
    labels: NDArray[np.int64]
    subjects: tuple[str, ...]
    left_out: int = 0
    shards: Mapping[str, ShardRow] | None = None
    linked_folders: int = 0

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def files(self) -> list[Path]:
        """Full paths, in the order of `paths`; of shards, objects that are read like a path."""
        return [self._file(path) for path in self.paths]

    def read_many(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Encoded images `(B,)` of rows `(B,)`, as bytes."""
        return np.array([self._file(self.paths[row]).read_bytes() for row in rows], dtype=object)

    def _file(self, path: str) -> Path:
        return self.root / path if self.shards is None else self.shards[path]  # type: ignore[return-value]

    def describe_left_out(self, min_images: int) -> str:
        """Text about subjects and links that are left out; empty when there are none."""
        text = ""
        if self.left_out:
            text += f"; {self.left_out:,} subjects with fewer than {min_images} images are left out"
        if self.linked_folders:
            text += f"; {self.linked_folders:,} links to folders are not followed"
        return text

    def of_subjects(self, wanted: set[str]) -> "FaceFolder":
        """The part whose subject is in `wanted`, relabelled densely."""
        kept = [label for label, name in enumerate(self.subjects) if name in wanted]
        rows = np.flatnonzero(np.isin(self.labels, kept))
        paths, names = tuple(self.paths[row] for row in rows), tuple(self.subjects[label] for label in kept)
        labels = np.searchsorted(kept, self.labels[rows])
        return dataclasses.replace(self, paths=paths, labels=labels, subjects=names)


def scan_folder(config: FolderConfig) -> FaceFolder:
    """List the images of a folder, as `config` says."""
    root = data_path(config.root)
    if not config.root or not root.is_dir():
        missing = root if config.root else "of images"
        raise DataError(f"no folder {missing}: set data.root to a folder <root>/<subject>/<image>")
    shards = open_shards(root) if is_shards(root) else None
    linked = 0
    if config.include:
        paths = _listed(root, data_path(config.include), shards)
    elif shards:
        paths = list(shards)
    else:
        listing = list_subjects(root)
        paths, linked = list(listing.images), listing.linked_folders
    if not paths:
        raise DataError(
            f"{root}: expected <subject>/<image> ({', '.join(IMAGE_SUFFIXES)}), found no image"
            + (f"; {linked} links to folders are not followed" if linked else "")
        )
    merged = _merged_names(config)
    images_of: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        subject = path.split("/", 1)[0]
        images_of[merged.get(subject, subject)].append(path)
    kept = {name for name, images in images_of.items() if len(images) >= config.min_images}
    if len(kept) < 2:
        raise DataError(
            f"{root}: expected at least two subjects with {config.min_images} images or more, "
            f"found {len(kept)} among {len(images_of)}; lower data.min_images or add images"
        )
    subjects = tuple(sorted(kept))
    ordered = [(path, i) for i, name in enumerate(subjects) for path in sorted(images_of[name])]
    return FaceFolder(
        root,
        tuple(path for path, _ in ordered),
        np.array([label for _, label in ordered], dtype=np.int64),
        subjects,
        left_out=len(images_of) - len(kept),
        shards=shards,
        linked_folders=linked,
    )


def hold_out(folder: FaceFolder, config: FolderConfig) -> tuple[FaceFolder, FaceFolder]:
    """Split into training and held-out subjects; a group (family) never stands on both sides.

    The same `data` section gives the same split, whatever the seed of the run.
    """
    if config.holdout == 0:
        raise DataError("data.holdout is 0: verification needs held-out subjects, set e.g. 0.1")
    group_of = _groups(folder, config.group_separator)
    groups = sorted(set(group_of.values()))
    order = numpy_stream(config.holdout_seed, "data/hold-out").permutation(len(groups))
    held = {groups[i] for i in order[: max(1, round(config.holdout * len(groups)))]}
    inside = {name for name, group in group_of.items() if group in held}
    outside = set(folder.subjects) - inside
    if len(inside) < 2 or len(outside) < 2:
        raise DataError(
            f"{folder.root}: cannot hold out {config.holdout:.0%} of {len(groups)} groups: "
            f"{len(outside)} subjects would train and {len(inside)} verify, both need two"
        )
    return folder.of_subjects(outside), folder.of_subjects(inside)


def _groups(folder: FaceFolder, separator: str) -> dict[str, str]:
    """Group of each subject. A subject merged from labels of two groups makes them one."""
    group_of: dict[str, str] = {}
    pairs = []
    for path, label in zip(folder.paths, folder.labels, strict=True):
        name = folder.subjects[label]
        own = path.split("/", 1)[0].split(separator, 1)[0] if separator else name
        pairs.append((group_of.setdefault(name, own), own))
    merged = _first_names(pairs)
    return {name: merged[group] for name, group in group_of.items()}


def _first_names(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """First name, in order, of the set that each name belongs to; pairs are of one set."""
    from scipy.cluster.hierarchy import DisjointSet

    sets = DisjointSet()
    for pair in pairs:
        for name in pair:
            sets.add(name)
        sets.merge(*pair)
    return {name: min(subset) for subset in sets.subsets() for name in subset}


def _listed(root: Path, include: Path, shards: Mapping[str, ShardRow] | None) -> list[str]:
    """Images of a list, all of them in the folder."""
    paths = sorted({line for _, line in read_lines(include)})
    odd = [path for path in paths if path.count("/") != 1 or path.startswith(("/", "..", "./"))]
    if odd:
        raise DataError(f"{include}: expected lines <subject>/<image>, received '{odd[0]}'")
    if shards is None:
        present(paths, root, include)
    elif missing := sorted(set(paths) - shards.keys()):
        raise DataError(f"{include}: {len(missing)} of {len(paths)} images are not in {root}: {shown(missing)}")
    return paths


def _merged_names(config: FolderConfig) -> dict[str, str]:
    """Name of the merged subject for each name in the list of pairs."""
    if not config.same_subject:
        return {}
    form = "two subjects parted by a tab, and optionally their similarity"
    path = data_path(config.same_subject)
    pairs = read_rows(path, form, lambda f: (f[0], f[1], float(f[2]) if f[2:] else np.inf), "\t")
    least = config.same_subject_similarity
    return _first_names((first, second) for first, second, similarity in pairs if similarity >= least)
