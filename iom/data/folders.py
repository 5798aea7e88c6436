"""A folder of subjects, `<root>/<subject>/<image>`: listed, merged, filtered, split by group."""

import dataclasses
from collections import defaultdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from iom._files import IMAGE_SUFFIXES, list_subjects
from iom._random import numpy_stream
from iom._untrusted import paths_inside
from iom.config.sections import FolderConfig
from iom.data.formats.shards import ShardStore, is_shards, open_shards
from iom.errors import DataError


@dataclasses.dataclass(frozen=True)
class FaceFolder:
    """Images with dense subject labels.

    Attributes:
        root: The folder.
        paths: Image paths relative to `root`, `(N,)`, sorted.
        labels: Index into `subjects` of each image, `(N,)`.
        subjects: Subject names; a merged subject bears its first name.
        left_out: Subjects left out for having too few images.
        store: The TFRecord shards that hold the images; none: they are files.
        linked_folders: Links to folders, which were not followed.
    """

    root: Path
    paths: tuple[str, ...]
    labels: NDArray[np.int64]
    subjects: tuple[str, ...]
    left_out: int = 0
    store: ShardStore | None = None
    linked_folders: int = 0

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def files(self) -> list[Path]:
        """Full paths, in the order of `paths`; in shards, what can be read like a path."""
        if self.store is not None:
            return [self.store.file(path) for path in self.paths]  # type: ignore[misc]
        return [self.root / path for path in self.paths]

    def describe_left_out(self, min_images: int) -> str:
        """What was left out, in words; empty when nothing was."""
        text = ""
        if self.left_out:
            text += f"; {self.left_out:,} subjects with fewer than {min_images} images are left out"
        if self.linked_folders:
            text += f"; {self.linked_folders:,} links to folders are not followed"
        return text

    def of_subjects(self, wanted: set[str]) -> "FaceFolder":
        """The part whose subject is in `wanted`, relabelled densely."""
        rows = [i for i, label in enumerate(self.labels) if self.subjects[label] in wanted]
        names = sorted({self.subjects[self.labels[i]] for i in rows})
        index = {name: i for i, name in enumerate(names)}
        labels = np.array([index[self.subjects[self.labels[i]]] for i in rows], dtype=np.int64)
        paths = tuple(self.paths[i] for i in rows)
        return FaceFolder(self.root, paths, labels, tuple(names), store=self.store)


def scan_folder(config: FolderConfig) -> FaceFolder:
    """List the images of a folder, as `config` says.

    Raises:
        DataError: The folder is missing or empty, a list names an image that is not there, or no
            subject has enough images.
    """
    if not config.root:
        raise DataError("no folder of images: set data.root to a folder <root>/<subject>/<image>")
    root = Path(config.root)
    if not root.is_dir():
        raise DataError(f"no folder {root}: set data.root to a folder <root>/<subject>/<image>")
    store = open_shards(root) if is_shards(root) else None
    every = store.paths if store else None
    linked = 0
    if config.include:
        paths = _listed(root, Path(config.include), every)
    elif every:
        paths = every
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
        store=store,
        linked_folders=linked,
    )


def hold_out(folder: FaceFolder, config: FolderConfig) -> tuple[FaceFolder, FaceFolder]:
    """Split into training and held-out subjects; a group (family) never stands on both sides.

    The same `data` section gives the same split, whatever the seed of the run.

    Raises:
        DataError: Either side would have fewer than two subjects.
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
    train = dataclasses.replace(
        folder.of_subjects(outside), left_out=folder.left_out, linked_folders=folder.linked_folders
    )
    return train, folder.of_subjects(inside)


def _groups(folder: FaceFolder, separator: str) -> dict[str, str]:
    """Group of each subject. A subject merged from labels of two groups makes them one."""
    parent: dict[str, str] = {}
    group_of: dict[str, str] = {}
    for path, label in zip(folder.paths, folder.labels, strict=True):
        name = folder.subjects[label]
        own = path.split("/", 1)[0].split(separator, 1)[0] if separator else name
        first = _root(parent, group_of.setdefault(name, own))
        second = _root(parent, own)
        parent[max(first, second)] = min(first, second)
    return {name: _root(parent, group) for name, group in group_of.items()}


def _root(parent: dict[str, str], name: str) -> str:
    """Representative of the set that `name` belongs to."""
    while parent.setdefault(name, name) != name:
        name = parent[name]
    return name


def _listed(root: Path, include: Path, every: list[str] | None) -> list[str]:
    try:
        lines = include.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the list of images {include}: {error}") from error
    paths = sorted({line.strip() for line in lines if line.strip()})
    odd = [path for path in paths if path.count("/") != 1 or path.startswith(("/", "..", "./"))]
    if odd:
        raise DataError(f"{include}: expected lines <subject>/<image>, received '{odd[0]}'")
    if every is None:
        files = paths_inside(root, paths, source=include)
        missing = [path for path, file in zip(paths, files, strict=True) if not file.is_file()]
    else:
        stored = frozenset(every)
        missing = [path for path in paths if path not in stored]
    if missing:
        raise DataError(f"{include}: {len(missing)} of {len(paths)} images are not in {root}, first '{missing[0]}'")
    return paths


def _merged_names(config: FolderConfig) -> dict[str, str]:
    """Name of the merged subject for each name in the list of pairs (union of the pairs)."""
    if not config.same_subject:
        return {}
    path = Path(config.same_subject)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the list of pairs {path}: {error}") from error
    parent: dict[str, str] = {}

    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        fields = line.split("\t")
        try:
            similar = len(fields) < 3 or float(fields[2]) >= config.same_subject_similarity
        except ValueError as error:
            raise DataError(f"{path}, line {number}: '{fields[2]}' is not a number") from error
        if len(fields) < 2:
            raise DataError(f"{path}, line {number}: expected two subjects parted by a tab")
        if similar:
            first, second = sorted((_root(parent, fields[0]), _root(parent, fields[1])))
            parent[second] = first
    return {name: _root(parent, name) for name in list(parent)}
