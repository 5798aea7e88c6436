"""Decision threshold of a hasher, calibrated on all pairs of subjects it was not trained on.

Keys are stolen: every key compares all pairs of images.
"""

import contextlib
import dataclasses
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from iom._files import atomic_path, check_output
from iom._random import numpy_stream
from iom.codes.asymmetric import MAX_DISTANCE, SYMBOLS
from iom.codes.comparators import Comparator, CosineComparator
from iom.config import CalibrationConfig, FolderConfig, Stage2Config, load_config
from iom.data.benchmarks.folders import sample_subjects
from iom.data.folders import FaceFolder, hold_out, scan_folder
from iom.errors import ConfigError, DataError
from iom.keys import SECRET_BYTES, TransformKey
from iom.metrics.all_pairs import AllPairs
from iom.metrics.bootstrap import group_draws, percentile_intervals, rate_interval
from iom.metrics.likelihood import PRIOR, fit_likelihood_ratio, probability_text
from iom.metrics.verification import ErrorCurve
from iom.models.artifact import Calibration, OperatingPoint, is_artifact, manifest_path, read_manifest
from iom.models.embedder import Embedder, open_embedder
from iom.models.face_hasher import EMBEDDER_FILE, MODEL_FILE, NEW_MODEL_FILE, FaceHasher, load
from iom.pretrained import HASHER_FILE, checkout, package_folder

if TYPE_CHECKING:
    import keras

    from iom.baselines.protection import Protection

DRAW_FACTOR = 20
MAX_IMAGES = 4000
"""Images compared with each other; of a larger held-out part whole subjects are drawn."""


def embedder_in_training(backbone: "keras.Model", *, batch_size: int = 64) -> Embedder:
    """The embedder of a backbone as it is at the moment."""
    return Embedder(
        backbone.predict_on_batch,
        name="a backbone",
        fingerprint="in training",
        embedding_size=backbone.output_shape[-1],
        input_size=backbone.input_shape[1],
        batch_size=batch_size,
    )


def validation_keys(seed: int, purpose: str, count: int) -> list[TransformKey]:
    """Keys for measuring: they follow from the seed, and must never protect anyone."""
    stream = numpy_stream(seed, f"stage2/{purpose}")
    return [TransformKey(stream.bytes(SECRET_BYTES)) for _ in range(count)]


class ValidationPairs:
    """All pairs of held-out images but those of two subjects of one group, whose names agree up to `group_separator`.

    Kin look alike, and one person may stand under two names of a family: such pairs are neither surely non-mated nor
    like the impostors that a threshold is made for. `images` `(N,)` are the compared rows of `folder`, `labels` their
    subjects; of more than `MAX_IMAGES` whole subjects are drawn by `seed`.
    """

    def __init__(self, folder: FaceFolder, *, group_separator: str, seed: int) -> None:
        generator = numpy_stream(seed, "stage2/held-out")
        self.images = sample_subjects(folder.labels, generator, max_images=MAX_IMAGES)
        self.folder = folder
        self.labels = folder.labels[self.images]
        names = [subject.partition(group_separator)[0] if group_separator else subject for subject in folder.subjects]
        groups = np.unique(names, return_inverse=True)[1].astype(np.int64)
        try:
            self.all = AllPairs(self.labels, groups[self.labels] if group_separator else None)
        except DataError as error:
            raise DataError(
                f"{folder.root}: {error}; both are needed: raise data.holdout, or add subjects or images"
            ) from error

    @property
    def files(self) -> list[Path]:
        """Files of the images that are compared."""
        files = self.folder.files
        return [files[row] for row in self.images]

    def check_resolution(self, fmr: float) -> None:
        """Refuse a false match rate that these pairs are too few to show: fewer non-mated ones than 1 / fmr."""
        self.all.check_resolution(fmr, " (calibration.fmr, --fmr; data.holdout, --faces)")

    def curve_of_embeddings(self, embeddings: NDArray[np.float32]) -> ErrorCurve:
        """Error rates of the cosine distance of embeddings `(N, D)`."""
        comparator = CosineComparator()
        return self.all.curve(comparator, comparator.prepare(embeddings))

    def equal_error_rate(
        self,
        embeddings: NDArray[np.float32],
        coder: "FaceHasher | Protection",
        keys: Sequence[TransformKey],
        comparison: str = SYMBOLS,
    ) -> float:
        """Mean over the keys of the equal error rate of codes, in one of `iom._registry.COMPARISONS`."""
        comparator = coder.comparator_of(comparison)
        templates = (comparator.prepare(coder.templates(embeddings, key, comparison)) for key in keys)
        return float(np.mean([self.all.curve(comparator, each).equal_error_rate() for each in templates]))


def calibrate(
    coder: "FaceHasher | Protection",
    pairs: ValidationPairs,
    embeddings: NDArray[np.float32],
    config: CalibrationConfig,
    *,
    seed: int,
    comparison: str = SYMBOLS,
) -> Calibration:
    """For each of `config.fmrs` the largest threshold whose false match rate, over all keys, does not exceed it.

    Distances are those of `comparison`, one of `iom._registry.COMPARISONS`. Keys are stolen: every key compares
    all pairs of `embeddings` `(N, D)`, and the likelihood ratio is fitted to the same distances. The intervals come
    from drawing subjects and keys anew: of the threshold that would then have been chosen, and of FMR and FNMR at the
    threshold that was chosen.
    """
    pairs.check_resolution(min(config.fmrs))
    keys = validation_keys(seed, "calibration-keys", config.keys)
    comparator = coder.comparator_of(comparison)
    keyed = [comparator.prepare(coder.templates(embeddings, key, comparison)) for key in keys]
    curve = pairs.all.curve(comparator, *keyed)
    points = [_operating_point(curve, fmr) for fmr in config.fmrs]
    if config.bootstrap:
        distances = _candidates(curve, points)
        points = _with_intervals(points, distances, pairs.all, comparator, keyed, config, seed)
    own, *others = points
    return Calibration(
        **vars(own),
        subjects=len(pairs.all.images),
        keys=len(keys),
        confidence=config.confidence if config.bootstrap else None,
        others=tuple(others),
        likelihood=fit_likelihood_ratio(
            curve,
            comparisons=(pairs.all.mated_count, pairs.all.non_mated_count),
            units=pairs.all.units,
            confidence=config.confidence,
        ),
        comparison=comparison,
    )


def _operating_point(curve: ErrorCurve, fmr: float) -> OperatingPoint:
    threshold = curve.threshold_at_fmr(fmr)
    if not np.isfinite(threshold):
        raise DataError(
            f"no threshold keeps to calibration.fmr {fmr:g} on these subjects; are images of one person listed under "
            "two subjects?"
        )
    measured, fnmr = curve.rates_at(threshold)
    return OperatingPoint(threshold=int(threshold), fmr=fmr, fnmr=float(fnmr), measured_fmr=float(measured))


def describe(hasher: FaceHasher) -> str:
    """The calibration of a hasher in one line for people."""
    found = hasher.calibration
    if found is None:
        return "not calibrated"
    symbols = f"{hasher.code_length} differing positions"
    unit = symbols if found.comparison == SYMBOLS else f"{MAX_DISTANCE} ten-thousandths of 1 - cosine (asymmetric)"
    text = "; ".join(
        f"threshold {point.threshold}{_interval(point.threshold_low, point.threshold_high, 'd')} of {unit}: "
        f"FMR {point.fmr if point.measured_fmr is None else point.measured_fmr:.3g}"
        f"{_interval(point.fmr_low, point.fmr_high)} for {point.fmr:g} asked, "
        f"FNMR {point.fnmr:.3g}{_interval(point.fnmr_low, point.fnmr_high)}"
        for point in found.points
    )
    text = f"{text} on {found.subjects} subjects under {found.keys} keys"
    if found.likelihood:
        shown = (probability_text(found.likelihood.probability(point.threshold)) for point in found.points)
        text = f"{text}; probability of one person there, at a prior of {PRIOR:g}: {', '.join(shown)}"
    if found.confidence is None:
        return text
    return f"{text}; {100 * found.confidence:g} % intervals over subjects and keys"


def _interval(low: float | None, high: float | None, form: str = ".3g") -> str:
    return "" if low is None or high is None else f" [{low:{form}}, {high:{form}}]"


def _candidates(curve: ErrorCurve, points: Sequence[OperatingPoint]) -> NDArray[np.int64]:
    """Distances among which the threshold of a draw lies, rising by one.

    No draw accepts a non-mated pair below the nearest one, nor falls to an asked FMR where `DRAW_FACTOR` times as many
    are accepted.
    """
    first = int(curve.thresholds[1:][curve.fmr[1:] > 0][0])
    enough = curve.fmr >= min(1.0, DRAW_FACTOR * max(point.fmr for point in points))
    low = min(first - 1, *(point.threshold for point in points))
    return np.arange(low, int(curve.thresholds[enough][0]) + 1)


def _with_intervals(
    points: Sequence[OperatingPoint],
    distances: NDArray[np.int64],
    pairs: AllPairs,
    comparator: Comparator,
    keyed: Sequence[Any],
    config: CalibrationConfig,
    seed: int,
) -> list[OperatingPoint]:
    """The operating points with intervals over drawn subjects and keys."""
    subjects = group_draws(len(pairs.images), replicates=config.bootstrap, seed=seed, usable=pairs.usable)
    draws = [np.ones(len(pairs.images)), *subjects]
    by_key = np.stack(
        [
            # A mean over the keys exceeds the FMR wherever one key alone reaches as many times the FMR.
            pairs.drawn_figures(
                lambda curve: np.concatenate(curve.rates_at(distances)),
                draws,
                comparator,
                each,
                fmr=min(1.0, len(keyed) * max(config.fmrs)),
            )[1:]
            for each in keyed
        ]
    )
    keys = np.stack(list(group_draws(len(keyed), "keys", replicates=config.bootstrap, seed=seed)))
    fmr, fnmr = np.split(np.einsum("kr...,rk->r...", by_key, keys) / len(keyed), 2, axis=1)
    return [_with_interval(point, distances, fmr, fnmr, pairs, config.confidence) for point in points]


def _with_interval(
    point: OperatingPoint,
    distances: NDArray[np.int64],
    fmr: NDArray[np.float64],
    fnmr: NDArray[np.float64],
    pairs: AllPairs,
    confidence: float,
) -> OperatingPoint:
    """The operating point with intervals, of the rates of each draw at each of the distances, `(R, T)`."""
    thresholds = [distances[0] + np.searchsorted(row, point.fmr, side="right") - 1 for row in fmr]
    place = point.threshold - distances[0]
    threshold, fmr_edges, fnmr_edges = percentile_intervals(
        np.stack([thresholds, fmr[:, place], fnmr[:, place]], axis=1), confidence
    )
    fmr_edges = rate_interval(fmr_edges, point.measured_fmr or 0.0, units=len(pairs.images), confidence=confidence)
    fnmr_edges = rate_interval(fnmr_edges, point.fnmr, units=pairs.units[0], confidence=confidence)
    return dataclasses.replace(
        point,
        threshold_low=int(np.floor(threshold.low)),
        threshold_high=int(np.ceil(threshold.high)),
        fmr_low=fmr_edges.low,
        fmr_high=fmr_edges.high,
        fnmr_low=fnmr_edges.low,
        fnmr_high=fnmr_edges.high,
    )


def recalibrate(
    place: Path,
    config: Stage2Config,
    *,
    faces: Path | None = None,
    weights: str = "",
    comparison: str = "",
    progress: bool = False,
    report: Callable[[str], None] = lambda line: None,
) -> FaceHasher:
    """Calibrate a hasher folder, or an artefact, on subjects it was not trained on; store nothing.

    An artefact embeds for itself. The subjects are `faces`, aligned images `<faces>/<subject>/<image>`, embedded by
    `weights` (default: the hasher's own), or without them the held-out subjects of `config`, embedded as it says, or by
    an `embedder.keras` beside the hasher, trained along with it. The `comparison` is by default that of the calibration
    that the hasher has, else that of `config.hasher`. `report` takes a line about the data, such as the
    lowest FMR that they can show.
    """
    if faces is None:
        held_out = hold_out(scan_folder(config.data), config.data)[1]
        hasher = load(place, opens_embedder=False)
        pairs = ValidationPairs(held_out, group_separator=config.data.group_separator, seed=config.seed)
        pairs.check_resolution(min(config.calibration.fmrs))
        own = place if is_artifact(place) else place / EMBEDDER_FILE
        own_settings = {"weights": str(own), "second_weights": ""} if own.exists() else {}
        embedder = open_embedder(config.embedder.replace(**own_settings))
        hasher.check_embedder(embedder)
        with contextlib.suppress(ConfigError):  # there is no configuration, or one of an older version
            if load_config(Stage2Config, place / "config.yaml").data != config.data:
                report(
                    "note: the data section differs from the one this hasher was trained with; subjects "
                    "held out here may have been trained on, which flatters the rates"
                )
        embeddings = embedder.embed_files(pairs.files, progress=progress)
    else:
        listed = scan_folder(FolderConfig(root=str(faces), min_images=1))
        hasher = load(place, weights=weights)
        pairs = ValidationPairs(listed, group_separator="", seed=config.seed)
        mated, others = pairs.all.mated_count, pairs.all.non_mated_count
        drawn = "" if len(pairs.images) == len(listed) else f" (drawn from {len(listed):,})"
        report(
            f"{len(pairs.all.images):,} subjects, {len(pairs.images):,} images{drawn}: {mated:,} mated and "
            f"{others:,} non-mated comparisons; the lowest FMR that they can show is {1 / others:.2g}"
            f"{listed.describe_left_out(1)}"
        )
        pairs.check_resolution(min(config.calibration.fmrs))
        embeddings = hasher.embed_files(pairs.files, progress=progress)
    comparison = comparison or (hasher.comparison if hasher.calibration else config.hasher.comparison)
    hasher.calibration = calibrate(
        hasher, pairs, embeddings, config.calibration, seed=config.seed, comparison=comparison
    )
    return hasher


def copy_hasher(place: Path, output: Path) -> Path:
    """Copy a hasher byte for byte, so that its fingerprint stays, the metadata last; returns the path of the copy."""
    if is_artifact(place):
        names = [*read_manifest(place).files, manifest_path(place).name]
        source, copy = place.parent, output / place.name
    else:
        names = [EMBEDDER_FILE, "config.yaml", NEW_MODEL_FILE, MODEL_FILE, HASHER_FILE]
        source, copy = place, output
    for name in names:
        if (source / name).is_file():
            (output / name).parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(output / name) as temporary:
                shutil.copyfile(source / name, temporary)
    return copy


def check_target(place: Path, output: Path | None) -> None:
    """Refuse to store a threshold in the package's own hasher, or in an output that holds something already."""
    check_output(output or (place.parent if is_artifact(place) else place))
    if output is not None:
        if output.is_dir() and any(output.iterdir()):
            raise DataError(f"{output}: expected a new or empty folder for the copy of {place}")
        return
    root = checkout()
    own = [package_folder(), *([] if root is None else [root / "pre_models"])]
    if any(folder.resolve() in place.resolve().parents for folder in own):
        raise ConfigError(
            f"{place} came with the package and is not changed: store the threshold in a copy with --output DIR"
        )
