"""IJB-B, IJB-C, MegaFace and BLUFR.

IJB-B and IJB-C (Whitelam et al. 2017; Maze et al. 2018) are read from the lists that InsightFace ships. A folder `meta`
holds, with `ijbb` or `ijbc` as prefix:
`*_name_5pts_score.txt`   image, ten landmark coordinates, score of the detector; one line a face
`*_face_tid_mid.txt`      image, template, medium; the same faces in the same order
`*_template_pair_label.txt`  template, template, 1 or 0
`*_1N_gallery_G1.csv`, `G2` (IJB-B: `S1`, `S2`), `*_1N_probe_mixed.csv`  TEMPLATE_ID, SUBJECT_ID

The images are aligned to 112 x 112 already, or are the published `loose_crop`, then aligned by those landmarks as
InsightFace does.

MegaFace (Kemelmacher-Shlizerman et al., CVPR 2016) searches for probes among distractors.
`facescrub_features_list.json`: `{"id": [...], "path": [...]}`, and `megaface_features_list.json_SIZE_SET`:
`{"path": [...]}`, one list for each number of distractors.

BLUFR (Liao et al., IJCB 2014) has ten trials of verification and open-set identification on LFW.
"""

import dataclasses
import itertools
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from iom._files import data_path
from iom._untrusted import shown
from iom.data.benchmarks.base import (
    DistractorBenchmark,
    IdentificationBenchmark,
    PairBenchmark,
    Pooling,
    linked_subjects,
)
from iom.data.table_files import present, read_lines, read_object, read_rows, truth
from iom.errors import DataError
from iom.photos.align import aligned_crops

GALLERIES = {"ijbb": ("S1", "S2"), "ijbc": ("G1", "G2")}
LANDMARKS = 10


def read_ijb_pairs(meta: Path, root: Path, *, align_into: str | Path = "") -> PairBenchmark:
    """1:1 verification of templates, by the lists in `meta`.

    Faces are weighted with the detector's score, as InsightFace does. With `align_into`, `root` holds loose crops,
    aligned into that folder and kept for the next run.
    """
    prefix = _prefix(meta)
    path = meta / f"{prefix}_template_pair_label.txt"
    pairs = read_rows(path, "'template template 0|1'", lambda f: (int(f[0]), int(f[1]), truth(f[2])))
    images, pooling, names = _faces(meta, root, prefix, align_into)
    left, right = (_rows(names, np.array([pair[side] for pair in pairs], np.int64), path) for side in (0, 1))
    same = np.array([pair[2] for pair in pairs], bool)
    return PairBenchmark(
        name=f"{prefix}_1:1",
        images=images,
        left=left,
        right=right,
        same=same,
        fold=np.zeros(len(pairs), np.int64),
        subjects=linked_subjects(left, right, same, len(names)),
        pooling=pooling,
    )


def read_ijb_identification(meta: Path, root: Path, *, align_into: str | Path = "") -> IdentificationBenchmark:
    """1:N identification: mixed probes against two galleries, which are evaluated apart; see `read_ijb_pairs`."""
    prefix = _prefix(meta)
    images, pooling, names = _faces(meta, root, prefix, align_into)
    subject_of = np.full(len(names), -1, np.int64)
    rows_of = {}
    for part in (*(f"gallery_{name}" for name in GALLERIES[prefix]), "probe_mixed"):
        path = meta / f"{prefix}_1N_{part}.csv"
        templates, subjects = _template_list(path)
        rows = _rows(names, templates, path)
        clash = (subject_of[rows] >= 0) & (subject_of[rows] != subjects)
        if clash.any():
            raise DataError(
                f"{path}: {int(clash.sum())} templates belong to another subject in another list: "
                f"{shown(templates[clash].tolist())}"
            )
        subject_of[rows] = subjects
        rows_of[part] = rows
    # A template that no list names takes no part, but it needs a subject of its own.
    unnamed = subject_of < 0
    subject_of[unnamed] = subject_of.max() + 1 + np.arange(int(unnamed.sum()))
    return IdentificationBenchmark(
        name=f"{prefix}_1:N",
        images=images,
        pooling=pooling,
        subjects=subject_of,
        galleries={name: rows_of[f"gallery_{name}"] for name in GALLERIES[prefix]},
        probes=rows_of["probe_mixed"],
    )


def _prefix(meta: Path) -> str:
    for prefix in GALLERIES:
        if (meta / f"{prefix}_face_tid_mid.txt").is_file():
            return prefix
    raise DataError(f"{meta}: expected ijbb_face_tid_mid.txt or ijbc_face_tid_mid.txt, found neither")


def _faces(
    meta: Path, root: Path, prefix: str, align_into: str | Path
) -> tuple[tuple[Path, ...], Pooling, NDArray[np.int64]]:
    """Images of the lists, the templates they make, and the number of each template in the lists, rising, `(T,)`."""
    listed = meta / f"{prefix}_face_tid_mid.txt"
    rows = read_rows(listed, "'image template medium'", _face)
    points = meta / f"{prefix}_name_5pts_score.txt"
    scored = read_rows(points, "'image x1 y1 ... x5 y5 score'", _scored)
    differ = [i for i, (a, b) in enumerate(zip(rows, scored, strict=False)) if a[0] != b[0]]
    if differ or len(rows) != len(scored):
        place = f"first at line {differ[0] + 1}" if differ else "one is longer"
        raise DataError(
            f"{points} and {listed}: expected the same faces in the same order, received "
            f"{len(scored)} and {len(rows)}, {len(differ)} that differ, {place}"
        )
    names, template = np.unique([row[1] for row in rows], return_inverse=True)
    weight = np.array([score for *_, score in scored])
    media = np.array([row[2] for row in rows], np.int64)
    images = present([row[0] for row in rows], root, listed)
    if align_into:
        landmarks = np.array([row[1] for row in scored], np.float64).reshape(-1, 5, 2)
        images = aligned_crops(images, landmarks, data_path(str(align_into)), progress=True)
    return images, Pooling(template.astype(np.int64), media, weight), names


def _rows(names: NDArray[np.int64], templates: NDArray[np.int64], source: Path) -> NDArray[np.int64]:
    """Rows of listed templates among all, by number; those without a face are an error."""
    rows = np.minimum(np.searchsorted(names, templates), len(names) - 1)
    unknown = np.unique(templates[names[rows] != templates])
    if len(unknown):
        raise DataError(
            f"{source}: {len(unknown)} templates have no face in the list of faces: {shown(unknown.tolist())}"
        )
    return rows


def _face(fields: list[str]) -> tuple[str, int, int]:
    image, template, medium = fields
    return image, int(template), int(medium)


def _scored(fields: list[str]) -> tuple[str, list[float], float]:
    image, *points, score = fields
    if len(points) != LANDMARKS:
        raise ValueError(fields)
    return image, [float(point) for point in points], float(score)


def _template_list(path: Path) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Templates and subjects, each template once; a header is skipped, further columns unread."""
    rows = read_rows(path, "'TEMPLATE_ID,SUBJECT_ID'", lambda f: (int(f[0]), int(f[1])), ",", header=True)
    ordered = sorted(set(rows))
    torn = [a[0] for a, b in itertools.pairwise(ordered) if a[0] == b[0]]
    if torn:
        raise DataError(f"{path}: {len(torn)} templates belong to two subjects: {shown(torn)}")
    templates, subjects = np.array(ordered, np.int64).reshape(-1, 2).T
    return templates, subjects


def read_megaface(probes: Path, distractors: Path, probe_root: Path, distractor_root: Path) -> DistractorBenchmark:
    """MegaFace: two lists over two folders of aligned images."""
    listed = _lists(probes, "id", "path")
    others = _lists(distractors, "path")
    for source, paths in ((probes, listed["path"]), (distractors, others["path"])):
        names, counts = np.unique(paths, return_counts=True)
        if (counts > 1).any():
            twice = names[counts > 1].tolist()
            raise DataError(f"{source}: {len(twice)} images are listed twice: {shown(twice)}")
    return DistractorBenchmark(
        name=f"megaface_{len(others['path'])}",
        images=present(listed["path"], probe_root, probes) + present(others["path"], distractor_root, distractors),
        subjects=np.unique(listed["id"], return_inverse=True)[1].astype(np.int64),
    )


def _lists(path: Path, *keys: str) -> dict[str, list[str]]:
    content = read_object(path, "expected a list of MegaFace")
    lists: dict[str, list[str]] = {}
    for key in keys:
        values = content.get(key)
        if not isinstance(values, list) or not values or not all(isinstance(v, str) for v in values):
            raise DataError(f"{path}: expected a list of texts under '{key}'")
        lists[key] = values
    if len({len(values) for values in lists.values()}) > 1:
        raise DataError(f"{path}: expected lists of one length under {', '.join(keys)}")
    return lists


@dataclasses.dataclass(frozen=True, eq=False)
class BlufrTrial:
    """One trial: rows of the image list.

    All pairs of `test` are verified; `gallery` has one image of each enrolled subject, `probes` are of enrolled
    subjects and others.
    """

    test: NDArray[np.int64]
    gallery: NDArray[np.int64]
    probes: NDArray[np.int64]


@dataclasses.dataclass(frozen=True, eq=False)
class Blufr:
    """The protocol: listed images, subject of each from 0, `(N,)`, and ten trials."""

    images: tuple[Path, ...]
    subjects: NDArray[np.int64]
    trials: tuple[BlufrTrial, ...]
    name: str = "BLUFR"


def read_blufr(lists: Path, root: Path) -> Blufr:
    """Read the lists over a folder `<root>/<subject>/<subject>_NNNN.jpg`, and check them.

    `lists` has `image_list.txt`, and `test_set.txt`, `gallery_set.txt`, `probe_set.txt`, whose lines are trials:
    1-based indexes into the list.
    """
    source = lists / "image_list.txt"
    names = [line for _, line in read_lines(source)]
    people = [name.rpartition("_")[0] for name in names]
    nameless = [name for name, person in zip(names, people, strict=True) if not person]
    if nameless:
        raise DataError(f"{source}: expected names as Person_0001.jpg, received {shown(nameless)}")
    images = present([f"{p}/{n}" for p, n in zip(people, names, strict=True)], root, source)
    subjects = np.unique(people, return_inverse=True)[1].astype(np.int64)
    sets = [_trials(lists / f"{kind}_set.txt", len(names)) for kind in ("test", "gallery", "probe")]
    if len({len(trials) for trials in sets}) > 1:
        raise DataError(
            f"{lists}: expected as many trials in each set, received {', '.join(str(len(trials)) for trials in sets)}"
        )
    trials = tuple(BlufrTrial(*rows) for rows in zip(*sets, strict=True))
    for number, trial in enumerate(trials, start=1):
        _check_trial(trial, subjects, f"{lists}, trial {number}", names)
    return Blufr(images, subjects, trials)


def _trials(path: Path, images: int) -> list[NDArray[np.int64]]:
    def rows(fields: list[str]) -> NDArray[np.int64]:
        indexes = np.array([int(field) for field in fields], np.int64)
        if indexes.min() < 1 or indexes.max() > images or len(np.unique(indexes)) < len(indexes):
            raise ValueError(path)
        return indexes - 1

    return read_rows(path, f"distinct indexes 1 to {images}", rows)


def _check_trial(trial: BlufrTrial, subjects: NDArray[np.int64], place: str, names: list[str]) -> None:
    counts = np.bincount(subjects[trial.gallery])
    twice = trial.gallery[counts[subjects[trial.gallery]] > 1]
    if len(twice):
        raise DataError(f"{place}: {len(twice)} gallery images share a subject: {shown([names[row] for row in twice])}")
    searched = np.concatenate([trial.gallery, trial.probes])
    outside = searched[~np.isin(searched, trial.test)]
    if len(outside):
        raise DataError(
            f"{place}: {len(outside)} gallery or probe images are not in the test set: "
            f"{shown([names[row] for row in outside])}"
        )
    if np.isin(trial.probes, trial.gallery).any():
        raise DataError(f"{place}: an image stands both in the gallery and among the probes")
