"""YouTube Faces: pairs of videos, ten splits (Wolf, Hassner and Maoz, CVPR 2011)."""

from pathlib import Path

import numpy as np

from iom._files import list_images
from iom._untrusted import path_inside
from iom.data.benchmarks.pairs import PairBenchmark
from iom.data.benchmarks.pooling import Pooling
from iom.data.table_files import parsed, read_lines, shown, truth
from iom.errors import DataError


def read_youtube_faces(splits: Path, root: Path, *, name: str = "", frames: int = 0) -> PairBenchmark:
    """Video pairs of `splits.txt` over aligned frames `<root>/<subject>/<video>/<frame>.jpg`.

    Lines of the list: `split, number of the pair, first video, second video, is same`, splits from
    1, a video named as `subject/number`; a header is skipped. A template is the mean of a video's
    frames.

    Args:
        splits: The list.
        root: Folder of aligned frames.
        name: For reports.
        frames: Frames taken of a video, evenly spread; 0 takes all.

    Raises:
        DataError: A malformed line, a label that contradicts the subjects' names, videos without
            frames (the first ones and their count).
    """
    lines = read_lines(splits)
    if not lines[0][1].split(",")[0].strip().isdigit():
        lines = lines[1:]
    form = "'split, pair, first video, second video, 0|1'"
    pairs = [parsed(splits, *line, form, _pair, ",") for line in lines]
    wrong = [p for p in pairs if (_subject(p[1]) == _subject(p[2])) != p[3]]
    if wrong:
        raise DataError(
            f"{splits}: {len(wrong)} pairs whose label contradicts the names, first {wrong[0][1]} and {wrong[0][2]}"
        )
    videos = sorted({video for pair in pairs for video in pair[1:3]})
    files = [_frames(root, video, frames, splits) for video in videos]
    empty = [video for video, found in zip(videos, files, strict=True) if not found]
    if empty:
        raise DataError(f"{splits}: {len(empty)} of {len(videos)} videos have no frames in {root}: {shown(empty)}")
    index = {video: i for i, video in enumerate(videos)}
    template = np.repeat(np.arange(len(videos)), [len(found) for found in files])
    subjects = [_subject(video) for video in videos]
    return PairBenchmark(
        name=name or "youtube_faces",
        images=tuple(file for found in files for file in found),
        left=np.array([index[pair[1]] for pair in pairs], np.int64),
        right=np.array([index[pair[2]] for pair in pairs], np.int64),
        same=np.array([pair[3] for pair in pairs], bool),
        fold=np.unique([pair[0] for pair in pairs], return_inverse=True)[1].astype(np.int64),
        subjects=np.unique(subjects, return_inverse=True)[1].astype(np.int64),
        pooling=Pooling(template, np.arange(len(template))),
    )


def _pair(fields: list[str]) -> tuple[int, str, str, bool]:
    split, number, first, second, same = fields
    int(number)
    return int(split), first, second, truth(same)


def _subject(video: str) -> str:
    return video.split("/")[0]


def _frames(root: Path, video: str, frames: int, splits: Path) -> list[Path]:
    folder = path_inside(root, video, source=splits)
    if not folder.is_dir():
        return []
    found = [folder / name for name in list_images(folder, depth=1).images]
    if not frames or len(found) <= frames:
        return found
    return [found[i] for i in np.linspace(0, len(found) - 1, frames).round().astype(int)]
