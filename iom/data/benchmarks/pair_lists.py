"""Published lists of pairs: LFW, plain lists (AgeDB-30), CALFW and CPLFW, CFP, YouTube Faces."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from iom._files import check_folder, list_folders, list_images
from iom._untrusted import check_name, paths_inside, shown
from iom.data.benchmarks.base import PairBenchmark, Pooling
from iom.data.table_files import read_lines, read_rows, truth
from iom.errors import DataError

MAX_CONTRADICTIONS = 0.05
"""Share of pairs that contradict the folders' names; with more of them, folders are not those of subjects."""

_TRUTH = {"1": True, "true": True, "0": False, "false": False}

Pair = tuple[str, str, bool]
"""Two image paths relative to the folder, and whether they are mated."""


def read_pair_list(path: Path, root: Path) -> PairBenchmark:
    """Pairs of a list (see `parse_pair_list`) over a folder of images.

    LFW's header gives the folds; other lists are split into ten folds in order, each with its share of both kinds. A
    few labels that contradict folders named by subject are an error.
    """
    check_folder(root)
    pairs, folds = parse_pair_list(path)
    fold = None if folds is None else np.arange(len(pairs)) * folds // len(pairs)
    return PairBenchmark.of_files(path, root, pairs, fold=fold, subjects=_subjects_of_folders(pairs))


def parse_pair_list(path: Path) -> tuple[list[Pair], int | None]:
    """Pairs of a text list in order, and the number of folds, `None` where the list does not say.

    LFW's format: a header `folds pairs` (or `pairs` alone), then for each fold `pairs` lines `name n1 n2` (mated) and
    `pairs` lines `name1 n1 name2 n2`; image n of a subject is `<name>/<name>_%04d.jpg`. Any other list: lines `left
    right same` with two paths relative to the folder and 1 or 0. Fields are separated by tabs, or by blanks where a
    line holds no tab; empty lines and lines that begin with `#` are skipped.
    """
    lines = [(number, line) for number, line in read_lines(path) if not line.startswith("#")]
    if not lines:
        raise DataError(f"{path}: expected a pair list, received comments only")
    header = _fields(lines[0][1])
    is_lfw = len(header) <= 2 and all(_is_number(field) for field in header)
    parse, lines = (_lfw_pair, lines[1:]) if is_lfw else (_plain_pair, lines)
    pairs = [parse(path, number, line) for number, line in lines]
    for (number, _), (left, right, _) in zip(lines, pairs, strict=True):
        if left == right:
            raise DataError(f"{path}, line {number}: {left} is paired with itself")
    return pairs, _lfw_folds(path, [int(field) for field in header], pairs) if is_lfw else None


def _lfw_folds(path: Path, header: Sequence[int], pairs: Sequence[Pair]) -> int | None:
    """Number of folds of LFW's list, which the pairs must confirm."""
    folds, each = (1, header[0]) if len(header) == 1 else header
    if folds < 1 or each < 1 or len(pairs) != 2 * folds * each:
        raise DataError(
            f"{path}: the header promises {folds} x {each} mated and as many non-mated pairs, found {len(pairs)} pairs"
        )
    for fold in range(folds):
        mated = sum(same for *_, same in pairs[2 * each * fold : 2 * each * (fold + 1)])
        if mated != each:
            raise DataError(f"{path}: fold {fold + 1}: expected {each} mated pairs, found {mated}")
    return folds if len(header) == 2 else None


def _lfw_pair(path: Path, number: int, line: str) -> Pair:
    fields = _fields(line)
    if len(fields) == 3:
        fields = [fields[0], fields[1], fields[0], fields[2]]
    elif len(fields) == 4 and fields[0] == fields[2]:
        raise DataError(f"{path}, line {number}: a non-mated pair names {fields[0]} twice")
    # Anything but a plain name could lead out of the folder.
    valid = (
        len(fields) == 4
        and all(_is_number(field) for field in fields[1::2])
        and not any("/" in name or "\\" in name or name == ".." for name in fields[0::2])
    )
    if not valid:
        raise DataError(f"{path}, line {number}: expected 'name n1 n2' or 'name1 n1 name2 n2', received '{line[:80]}'")
    left, right = (f"{n}/{n}_{int(i):04d}.jpg" for n, i in (fields[:2], fields[2:]))
    return left, right, fields[0] == fields[2]


def _plain_pair(path: Path, number: int, line: str) -> Pair:
    fields = _fields(line)
    if len(fields) != 3 or fields[2].lower() not in _TRUTH:
        raise DataError(
            f"{path}, line {number}: expected 'left right same' with same 1 or 0 (or LFW's list, "
            f"whose first line is 'folds pairs'), received '{line[:80]}'"
        )
    for name in fields[:2]:
        check_name(name, source=f"{path}, line {number}")
    left, right = (Path(name).as_posix() for name in fields[:2])
    return left, right, _TRUTH[fields[2].lower()]


def _is_number(field: str) -> bool:
    return field.isdecimal() and len(field) <= 9


def _fields(line: str) -> list[str]:
    if "\t" in line:
        return [field.strip() for field in line.split("\t")]
    return line.split()


def _subjects_of_folders(pairs: Sequence[Pair]) -> NDArray[np.int64] | None:
    """Subjects of the images in the order of their names, where the folders are those of subjects; else `None`."""
    folder_of = {image: image.rpartition("/")[0] for pair in pairs for image in pair[:2]}
    odd = [(a, b, same) for a, b, same in pairs if (folder_of[a] == folder_of[b]) != same]
    if len(odd) > MAX_CONTRADICTIONS * len(pairs):
        return None
    if odd:
        first = ", ".join(f"{a} with {b} as {'mated' if same else 'non-mated'}" for a, b, same in odd[:3])
        raise DataError(
            f"{len(odd)} of {len(pairs)} pairs have a label that contradicts the folders of the subjects: {first}"
        )
    folders = [folder_of[image] for image in sorted(folder_of)]
    return np.unique(folders, return_inverse=True)[1].astype(np.int64)


def read_two_line_pairs(path: Path, root: Path) -> PairBenchmark:
    """CALFW and CPLFW: two lines `image label` make a pair, both 1 (mated) or 0; ten folds in order, by kind."""
    entries = read_rows(path, "'image 0|1'", lambda f: (f[0], truth(f[1])))
    if len(entries) % 2:
        raise DataError(f"{path}: expected two lines a pair, received {len(entries)} lines")
    both = list(zip(entries[0::2], entries[1::2], strict=True))
    differ = [(first[0], second[0]) for first, second in both if first[1] != second[1]]
    if differ:
        raise DataError(
            f"{path}: the two lines of {len(differ)} pairs bear different labels, first at "
            f"{differ[0][0]} and {differ[0][1]}"
        )
    return PairBenchmark.of_files(path, root, [(first[0], second[0], first[1]) for first, second in both])


def read_cfp(split: Path, root: Path) -> PairBenchmark:
    """CFP: `Protocol/Split/FP` (or `FF`) with folders `01` to `10` of `same.txt` and `diff.txt`.

    Their lines `i,j` count from 1 in `Pair_list_F.txt` (frontal) and `Pair_list_P.txt` (profile) of the Protocol
    folder; for `FF` both are frontal. Paths of those lists begin at the folder that holds the lists or at `root`,
    whatever stands before `Data`.
    """
    lists = {kind: _numbered_list(split.parent.parent / f"Pair_list_{kind}.txt") for kind in ("F", "P")}
    kinds = split.name.upper()
    if kinds not in ("FF", "FP"):
        raise DataError(f"{split}: expected the folder Split/FF or Split/FP of the protocol")
    folders = list_folders(split) if split.is_dir() else []
    if not folders:
        raise DataError(f"{split}: expected folders 01 to 10 with same.txt and diff.txt")

    def entries(fields: list[str]) -> tuple[str, str]:
        left, right = map(int, fields)
        if min(left, right) < 1:
            raise ValueError(fields)
        return lists[kinds[0]][left - 1], lists[kinds[1]][right - 1]

    pairs, fold = [], []
    for index, folder in enumerate(folders):
        for file, same in (("same.txt", True), ("diff.txt", False)):
            rows = read_rows(folder / file, "'i,j' within the lists", entries, ",")
            pairs += [(left, right, same) for left, right in rows]
            fold += [index] * len(rows)
    return PairBenchmark.of_files(split, root, pairs, fold=np.array(fold, np.int64))


def _numbered_list(path: Path) -> list[str]:
    """Lines `number path`; the path from `Data` on, or as it stands."""
    names: list[str] = []
    for number, name in read_rows(path, "'number path'", lambda f: (int(f[0]), f[1])):
        if number != len(names) + 1:
            raise DataError(f"{path}: expected number {len(names) + 1}, received {number}")
        parts = Path(name).parts
        start = parts.index("Data") if "Data" in parts else 0
        names.append("/".join(part for part in parts[start:] if part not in (".", "..")))
    return names


def read_youtube_faces(splits: Path, root: Path) -> PairBenchmark:
    """YouTube Faces (Wolf, Hassner and Maoz, CVPR 2011): video pairs over frames `<root>/<subject>/<video>/<frame>`.

    Lines of the list: `split, number of the pair, first video, second video, is same`, splits from 1, a video named as
    `subject/number`; a header is skipped. A template is the mean of a video's frames.
    """
    pairs = read_rows(splits, "'split, pair, first video, second video, 0|1'", _video_pair, ",", header=True)
    wrong = [p for p in pairs if (_subject(p[1]) == _subject(p[2])) != p[3]]
    if wrong:
        raise DataError(
            f"{splits}: {len(wrong)} pairs whose label contradicts the names, first {wrong[0][1]} and {wrong[0][2]}"
        )
    videos = sorted({video for pair in pairs for video in pair[1:3]})
    folders = paths_inside(root, videos, source=splits)
    files = [
        [folder / name for name in list_images(folder, depth=1).images] if folder.is_dir() else [] for folder in folders
    ]
    empty = [video for video, found in zip(videos, files, strict=True) if not found]
    if empty:
        raise DataError(f"{splits}: {len(empty)} of {len(videos)} videos have no frames in {root}: {shown(empty)}")
    index = {video: i for i, video in enumerate(videos)}
    template = np.repeat(np.arange(len(videos)), [len(found) for found in files])
    subjects = [_subject(video) for video in videos]
    return PairBenchmark(
        name="youtube_faces",
        images=tuple(file for found in files for file in found),
        left=np.array([index[pair[1]] for pair in pairs], np.int64),
        right=np.array([index[pair[2]] for pair in pairs], np.int64),
        same=np.array([pair[3] for pair in pairs], bool),
        fold=np.unique([pair[0] for pair in pairs], return_inverse=True)[1].astype(np.int64),
        subjects=np.unique(subjects, return_inverse=True)[1].astype(np.int64),
        pooling=Pooling(template, np.arange(len(template))),
    )


def _video_pair(fields: list[str]) -> tuple[int, str, str, bool]:
    split, number, first, second, same = fields
    int(number)
    return int(split), first, second, truth(same)


def _subject(video: str) -> str:
    return video.split("/")[0]
