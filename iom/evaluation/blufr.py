"""BLUFR on LFW: ten trials of verification and open-set identification (Liao et al., IJCB 2014)."""

import dataclasses
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from iom._untrusted import shown
from iom.data.table_files import present, read_lines, read_rows
from iom.errors import DataError
from iom.evaluation.identification import FigureEvaluator, NamedFigures, search_templates
from iom.evaluation.scores import CodeSystem
from iom.metrics.all_pairs import AllPairs

FMR, FPIR, RANK = 1e-3, 1e-2, 1
NAMES = ("vr_at_fmr_1e-3", "dir_at_fpir_1e-2")


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
        _check(trial, subjects, f"{lists}, trial {number}", names)
    return Blufr(images, subjects, trials)


class BlufrEvaluator(FigureEvaluator):
    """Verification rate at FMR 0.1 % and open-set DIR at FPIR 1 %, rank 1, under one test key.

    `vr_at_fmr_1e-3` and `dir_at_fpir_1e-2` are quoted as the mean over trials less their sample standard deviation, as
    the authors do; both stand beside them.
    """

    def figures(self, system: CodeSystem, scenario: str) -> NamedFigures:
        subjects = self._benchmark.subjects
        templates = system.templates(self._embeddings, self._keys(scenario, subjects))
        values = []
        for trial in self._benchmark.trials:
            curve = AllPairs(subjects[trial.test]).curve(system.comparator, templates[trial.test], fmr=FMR)
            searches = search_templates(
                system.comparator, templates, subjects, gallery=trial.gallery, probes=trial.probes
            )
            values.append((1.0 - curve.fnmr_at_fmr(FMR), searches.identification_rate_at_fpir(FPIR, RANK)))
        for name, rates in zip(NAMES, zip(*values, strict=True), strict=True):
            mean = float(np.mean(rates))
            std = float(np.std(rates, ddof=1)) if len(rates) > 1 else 0.0
            yield name, mean - std
            yield f"{name}_mean", mean
            yield f"{name}_std", std


def _trials(path: Path, images: int) -> list[NDArray[np.int64]]:
    def rows(fields: list[str]) -> NDArray[np.int64]:
        indexes = np.array([int(field) for field in fields], np.int64)
        if indexes.min() < 1 or indexes.max() > images or len(np.unique(indexes)) < len(indexes):
            raise ValueError(path)
        return indexes - 1

    form = f"distinct indexes 1 to {images}"
    return read_rows(path, form, rows)


def _check(trial: BlufrTrial, subjects: NDArray[np.int64], place: str, names: list[str]) -> None:
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
