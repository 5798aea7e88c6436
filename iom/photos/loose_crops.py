"""Faces aligned from loose crops by listed landmarks, kept in a folder for the next run.

As InsightFace evaluates IJB-B and IJB-C: similarity transform of the five points, bilinear sampling
without smoothing, black outside.
"""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from iom._files import write_text
from iom.errors import DataError
from iom.photos.align import align
from iom.photos.align_photo import write_face
from iom.photos.decode import read_photograph

STAMP = "landmarks.sha256"


def aligned_crops(
    crops: Sequence[Path], points: NDArray[np.float64], folder: Path, *, workers: int = 2, progress: bool = False
) -> tuple[Path, ...]:
    """Align each crop into `folder`, as `<number>.png`; what is there already is kept.

    Args:
        crops: Files.
        points: Landmarks of each in its pixels, `(N, 5, 2)`.
        folder: Of these crops with these landmarks alone.
        workers: Threads; Pillow decodes and samples without the interpreter lock.
        progress: Show a progress bar.

    Raises:
        DataError: A damaged crop, landmarks that define no transform, a folder that was made from
            other landmarks or holds something else.
    """
    text = "\n".join(path.as_posix() for path in crops)
    stamp = hashlib.sha256(text.encode() + np.ascontiguousarray(points).tobytes()).hexdigest()
    _check_stamp(folder, stamp)
    files = tuple(folder / f"{i // 1000:04d}" / f"{i:07d}.png" for i in range(len(crops)))

    def write(i: int) -> None:
        if not files[i].is_file():
            image, _ = read_photograph(crops[i])
            write_face(files[i], align(image, points[i], source=str(crops[i]), smooth=False))

    with ThreadPoolExecutor(workers) as pool:
        done = pool.map(write, range(len(crops)))
        for _ in tqdm(done, total=len(crops), desc="aligning", unit="face", disable=not progress):
            pass
    return files


def _check_stamp(folder: Path, stamp: str) -> None:
    path = folder / STAMP
    if not folder.is_dir() or not any(folder.iterdir()):
        write_text(path, stamp + "\n")
        return
    if not path.is_file() or path.read_text(encoding="utf-8").strip() != stamp:
        raise DataError(
            f"{folder}: expected faces aligned from these crops and landmarks, found others; "
            "name another folder, or remove it"
        )
