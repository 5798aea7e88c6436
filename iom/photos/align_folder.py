"""A folder of photographs becomes a folder of aligned faces: parallel, and continued when stopped.

`align.jsonl` in the output is the journal: the settings, then one line a finished photograph,
written after its faces. A run that is started again skips what stands there, unless the photograph
changed or its faces are gone. From it come `landmarks.csv`, `report.csv` and `report.json`.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from tqdm import tqdm

from iom._files import IMAGE_SUFFIXES, list_images, remove_temporary_files
from iom.errors import DataError
from iom.photos.align_journal import Journal, write_reports
from iom.photos.align_photo import AlignSettings, Outcome, align_photo
from iom.photos.detectors import Detect, Face, build_detector, use_one_core

Points = Mapping[str, Sequence[Face]]


def align_folder(
    photos: Path,
    output: Path,
    *,
    settings: AlignSettings,
    weights: Path | None = None,
    points: Points | None = None,
    workers: int = 1,
    progress: bool = False,
) -> dict[str, Any]:
    """Align every photograph below `photos`, keeping the folders.

    Args:
        photos: Folder; files of other kinds and hidden files are counted, not read.
        output: Folder of the aligned faces, `.../<name>.jpg`. Photographs of one folder that differ
            in their suffix alone keep it in the name.
        settings: See there; the same as before where a run is continued.
        weights: File of the detector's weights.
        points: Known landmarks by path within `photos`; then no detector is used, and only listed
            photographs are read.
        workers: Processes.
        progress: Show a progress bar.

    Returns:
        The contents of `report.json`.

    Raises:
        DataError: No photographs, a missing listed one, an output with other settings or within
            `photos`; a worker that was killed from outside.
        MissingExtraError: The detector's package is not installed.
    """
    names, others = find_photographs(photos, output, points)
    stems = _stems(names)
    with Journal.open(output, settings) as journal:
        remove_temporary_files(output)
        left = [name for name in names if not journal.holds(name, photos / name)]
        done = len(names) - len(left)
        jobs = [(name, stems[name], list(points[name]) if points else None) for name in left]
        results = _outcomes(jobs, photos, output, settings, weights, workers)
        bar = tqdm(
            results, total=len(names), initial=done, unit="photo", desc="aligning",
            disable=not progress,
        )  # fmt: skip
        for name, outcome in bar:
            journal.add(name, photos / name, outcome)
        outcomes = {name: journal.outcomes[name] for name in names}
    return write_reports(output, outcomes, settings, others=others, continued=done)


def find_photographs(photos: Path, output: Path, points: Points | None) -> tuple[list[str], dict[str, int]]:
    """Photographs by path within the folder, and how many files of each other kind there are."""
    listing = list_images(photos)
    root, target = photos.resolve(), output.resolve()
    if target == root or root in target.parents:
        raise DataError(f"{output}: expected an output folder outside of {photos}")
    names = list(listing.images)
    others = Counter(
        Path(name).suffix.lower() or "no suffix" if status == "wrong_type" else status.replace("_", " ")
        for name, status, _ in listing.unusable
    )
    if points is not None:
        missing = sorted(set(points) - set(names))
        if missing:
            raise DataError(
                f"{photos}: {len(missing)} of {len(points)} listed photographs are not there: {', '.join(missing[:3])}"
            )
        names = [name for name in names if name in points]
    if not names:
        raise DataError(f"{photos}: no photographs ({', '.join(IMAGE_SUFFIXES)})")
    return names, dict(others)


def _stems(names: Sequence[str]) -> dict[str, str]:
    """Name without suffix, or with it where two would become one."""
    short = {name: str(Path(name).with_suffix("").as_posix()) for name in names}
    count = Counter(stem.casefold() for stem in short.values())
    return {name: stem if count[stem.casefold()] == 1 else name for name, stem in short.items()}


Job = tuple[str, str, list[Face] | None]


class _Worker:
    """What a process keeps between photographs."""

    def __init__(self, photos: Path, output: Path, settings: AlignSettings, weights: Path | None) -> None:
        self.photos, self.output, self.settings = photos, output, settings
        self.detect: Detect | None = None
        if settings.detector != "points":
            self.detect = build_detector(settings.detector, weights=weights)

    def __call__(self, job: Job) -> tuple[str, Outcome]:
        name, stem, known = job
        detect = self.detect if known is None else (lambda _: known)
        assert detect is not None  # noqa: S101 - without a detector every job has landmarks
        return name, align_photo(self.photos / name, stem, self.output, settings=self.settings, detect=detect)


def _outcomes(
    jobs: Sequence[Job], photos: Path, output: Path, settings: AlignSettings, weights: Path | None, workers: int
) -> Iterator[tuple[str, Outcome]]:
    """Outcomes as they come; the detector is built here once, so that its errors are ours."""
    if not jobs:
        return
    if workers <= 1 or len(jobs) == 1:
        yield from map(_Worker(photos, output, settings, weights), jobs)
        return
    if settings.detector != "points":
        build_detector(settings.detector, weights=weights)
    context = multiprocessing.get_context("spawn")  # TensorFlow does not survive a fork
    pool = ProcessPoolExecutor(workers, context, initializer=_start, initargs=(photos, output, settings, weights))
    try:
        with _interrupts_blocked():
            futures = [pool.submit(_work, job) for job in jobs]
        yield from (future.result() for future in as_completed(futures))
    except BrokenProcessPool as error:
        raise DataError(
            "a worker process ended (killed, or out of memory?): start the command again to go on, with fewer workers"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Processes that are started in here never see Ctrl-C; this one sees it afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_worker: _Worker | None = None


def _start(photos: Path, output: Path, settings: AlignSettings, weights: Path | None) -> None:
    """Start of a process: end with the parent, use one core, build the detector."""
    global _worker
    threading.Thread(target=_end_with_parent, daemon=True).start()
    use_one_core(settings.detector)
    _worker = _Worker(photos, output, settings, weights)


def _work(job: Job) -> tuple[str, Outcome]:
    assert _worker is not None  # noqa: S101 - set by the initializer
    return _worker(job)


def _end_with_parent() -> None:
    """A parent that was killed tells nobody: without this its workers would wait for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
