"""The decision threshold of a hasher, found on subjects it was not trained on."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from iom._random import numpy_stream
from iom.config.hashing import CalibrationConfig
from iom.errors import DataError
from iom.metrics.error_curve import error_curve
from iom.metrics.uncertainty import Interval, rate_interval, subject_counts, subject_weights
from iom.models.face_hasher import Calibration, FaceHasher
from iom.training.held_out import HashFunction, HeldOutPairs, held_out_keys

Counts = NDArray[np.float64]
"""Weight of the pairs at each distance 0..M, `(M + 1,)`."""


def calibrate(
    pairs: HeldOutPairs,
    embeddings: NDArray[np.float32],
    hash_codes: HashFunction,
    *,
    code_length: int,
    alphabet_size: int,
    config: CalibrationConfig,
    seed: int,
) -> Calibration:
    """The largest threshold whose false match rate, over all keys, does not exceed `config.fmr`.

    Keys are stolen: every key compares all pairs. The intervals come from drawing subjects and keys
    anew: of the threshold that would then have been chosen, and of FMR and FNMR at the threshold
    that was chosen.

    Args:
        pairs: Which held-out images are compared.
        embeddings: Of the images of `pairs`, `(N, D)`.
        hash_codes: The hasher.
        code_length: M.
        alphabet_size: Q.
        config: FMR, number of keys, number of bootstrap draws and their confidence.
        seed: Of the keys and the draws.

    Raises:
        DataError: The pairs cannot show that FMR, or no threshold keeps to it.
    """
    pairs.check_resolution(config.fmr)
    keys = held_out_keys(seed, "calibration-keys", config.keys)
    distances = np.stack(pairs.code_distances(embeddings, hash_codes, alphabet_size, keys=keys))
    mated, non_mated = distances[:, pairs.same].ravel(), distances[:, ~pairs.same].ravel()
    threshold = error_curve(mated, non_mated).threshold_at_fmr(config.fmr)
    if not np.isfinite(threshold):
        raise DataError(
            f"no threshold keeps to calibration.fmr {config.fmr:g} on these subjects; are "
            "images of one person listed under two subjects?"
        )
    chosen = Calibration(
        threshold=int(threshold),
        fmr=config.fmr,
        fnmr=float(np.mean(mated > threshold)),
        subjects=pairs.subjects,
        keys=len(keys),
        measured_fmr=float(np.mean(non_mated <= threshold)),
    )
    if not config.bootstrap:
        return chosen
    return _with_intervals(chosen, pairs, distances, code_length, config, seed)


def describe(hasher: FaceHasher) -> str:
    """The calibration of a hasher in one line for people."""
    found = hasher.calibration
    if found is None:
        return "not calibrated"
    fmr = found.fmr if found.measured_fmr is None else found.measured_fmr
    text = (
        f"threshold {found.threshold}{_interval(found.threshold_low, found.threshold_high)} "
        f"of {hasher.code_length} differing positions: "
        f"FMR {fmr:.3g}{_interval(found.fmr_low, found.fmr_high)} for {found.fmr:g} asked, "
        f"FNMR {found.fnmr:.3g}{_interval(found.fnmr_low, found.fnmr_high)} "
        f"on {found.subjects} subjects under {found.keys} keys"
    )
    if found.confidence is None:
        return text
    return f"{text}; {100 * found.confidence:g} % intervals over subjects and keys"


def _interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f" [{low:.3g}, {high:.3g}]"


def _with_intervals(
    chosen: Calibration,
    pairs: HeldOutPairs,
    distances: NDArray[np.int32],
    code_length: int,
    config: CalibrationConfig,
    seed: int,
) -> Calibration:
    generator = numpy_stream(seed, "calibration/keys")
    columns = distances.astype(np.intp)  # what bincount counts without a copy
    mated = [row[pairs.same] for row in columns]
    non_mated = [row[~pairs.same] for row in columns]
    drawn = []
    for weights in subject_weights(
        pairs.labels[pairs.left], pairs.labels[pairs.right], pairs.same, replicates=config.bootstrap, seed=seed
    ):
        times = np.bincount(generator.integers(len(columns), size=len(columns)))
        fmr = _accepted(non_mated, weights[~pairs.same], times, code_length)
        fnmr = 1.0 - _accepted(mated, weights[pairs.same], times, code_length)
        threshold = int(np.searchsorted(fmr, config.fmr, side="right")) - 1
        drawn.append((threshold, fmr[chosen.threshold], fnmr[chosen.threshold]))
    tail = (1 - config.confidence) / 2
    low, high = np.quantile(np.array(drawn), (tail, 1 - tail), axis=0)
    units = subject_counts(pairs.labels[pairs.left], pairs.labels[pairs.right], pairs.same)
    fmr_edges, fnmr_edges = (
        rate_interval(Interval(a, b), value, units=count, confidence=config.confidence)
        for a, b, value, count in (
            (float(low[1]), float(high[1]), chosen.measured_fmr or 0.0, units["non-mated"]),
            (float(low[2]), float(high[2]), chosen.fnmr, units["mated"]),
        )
    )
    return dataclasses.replace(
        chosen,
        threshold_low=int(np.floor(low[0])),
        threshold_high=int(np.ceil(high[0])),
        fmr_low=fmr_edges.low,
        fmr_high=fmr_edges.high,
        fnmr_low=fnmr_edges.low,
        fnmr_high=fnmr_edges.high,
        confidence=config.confidence,
    )


def _accepted(distances: Sequence[NDArray[np.intp]], weights: Counts, times: NDArray[np.intp], length: int) -> Counts:
    """Share of the pairs at or below each distance, keys counted as often as they were drawn."""
    counts: Counts = np.zeros(length + 1)
    for row, often in zip(distances, times, strict=False):
        if often:
            counts += often * np.bincount(row, weights, length + 1)
    accepted: Counts = np.cumsum(counts) / counts.sum()
    return accepted
