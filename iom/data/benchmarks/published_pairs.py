"""Pair lists in the layouts that CALFW, CPLFW and CFP were published in.

AgeDB-30 was published as pairs only in InsightFace's `.bin`; a list of it in lines of
`left right same` is read as any other.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from iom._files import list_folders
from iom.data.benchmarks.pairs import PairBenchmark, linked
from iom.data.table_files import parsed, present, read_lines, truth
from iom.errors import DataError

FOLDS = 10


def read_two_line_pairs(path: Path, root: Path, *, name: str = "") -> PairBenchmark:
    """CALFW and CPLFW: two lines `image label` make a pair; both bear 1 (mated) or 0.

    Ten folds in order, mated and non-mated pairs dealt apart.

    Raises:
        DataError: An odd number of lines, a malformed line, two lines of a pair that bear different
            labels (the first and their count), missing images.
    """
    entries = [
        parsed(path, number, line, "'image 0|1'", lambda f: (f[0], truth(f[1])), None)
        for number, line in read_lines(path)
    ]
    if len(entries) % 2:
        raise DataError(f"{path}: expected two lines a pair, received {len(entries)} lines")
    first, second = entries[0::2], entries[1::2]
    differ = [i for i, (a, b) in enumerate(zip(first, second, strict=True)) if a[1] != b[1]]
    if differ:
        raise DataError(
            f"{path}: the two lines of {len(differ)} pairs bear different labels, first at "
            f"{first[differ[0]][0]} and {second[differ[0]][0]}"
        )
    same = np.array([label for _, label in first], bool)
    fold = np.zeros(len(same), np.int64)
    for kind in (same, ~same):
        count = int(kind.sum())
        fold[kind] = np.arange(count) * FOLDS // max(count, 1)
    return _benchmark(path, root, name, [a for a, _ in first], [b for b, _ in second], same, fold)


def read_cfp(split: Path, root: Path, *, name: str = "") -> PairBenchmark:
    """CFP: `Protocol/Split/FP` (or `FF`) with folders `01` to `10` of `same.txt` and `diff.txt`.

    Their lines `i,j` count from 1 in `Pair_list_F.txt` (frontal) and `Pair_list_P.txt` (profile) of
    the Protocol folder; for `FF` both are frontal. Paths of those lists begin at the folder that
    holds the lists or at `root`, whatever stands before `Data`.

    Raises:
        DataError: A missing file, a malformed line, a number outside the lists, missing images.
    """
    lists = {kind: _numbered_list(split.parent.parent / f"Pair_list_{kind}.txt") for kind in ("F", "P")}
    kinds = split.name.upper()
    if kinds not in ("FF", "FP"):
        raise DataError(f"{split}: expected the folder Split/FF or Split/FP of the protocol")
    folds = list_folders(split) if split.is_dir() else []
    if not folds:
        raise DataError(f"{split}: expected folders 01 to 10 with same.txt and diff.txt")
    left, right, same, fold = [], [], [], []
    for index, folder in enumerate(folds):
        for file, label in (("same.txt", True), ("diff.txt", False)):
            for number, line in read_lines(folder / file):
                pair = parsed(
                    folder / file,
                    number,
                    line,
                    "'i,j' within the lists",
                    lambda f: tuple(_entry(lists[kind], int(text)) for kind, text in zip(kinds, f, strict=True)),
                    ",",
                )
                left.append(pair[0])
                right.append(pair[1])
                same.append(label)
                fold.append(index)
    return _benchmark(split, root, name, left, right, np.array(same, bool), np.array(fold, np.int64))


def _numbered_list(path: Path) -> list[str]:
    """Lines `number path`; the path from `Data` on, or as it stands."""
    names: list[str] = []
    for number, line in read_lines(path):
        entry = parsed(path, number, line, "'number path'", lambda f: (int(f[0]), f[1]), None)
        if entry[0] != len(names) + 1:
            raise DataError(f"{path}, line {number}: expected number {len(names) + 1}")
        parts = Path(entry[1]).parts
        start = parts.index("Data") if "Data" in parts else 0
        names.append("/".join(part for part in parts[start:] if part not in (".", "..")))
    return names


def _entry(names: Sequence[str], number: int) -> str:
    if not 1 <= number <= len(names):
        raise ValueError(number)
    return names[number - 1]


def _benchmark(
    source: Path,
    root: Path,
    name: str,
    left: Sequence[str],
    right: Sequence[str],
    same: NDArray[np.bool_],
    fold: NDArray[np.int64],
) -> PairBenchmark:
    names = sorted({*left, *right})
    index = {image: i for i, image in enumerate(names)}
    rows = np.array([index[image] for image in left], np.int64)
    columns = np.array([index[image] for image in right], np.int64)
    return PairBenchmark(
        name=name or source.stem,
        images=present(names, root, source),
        left=rows,
        right=columns,
        same=same,
        fold=fold,
        subjects=linked(rows, columns, same, len(names)),
    )
