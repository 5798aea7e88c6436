"""The decision threshold of a hasher, found on subjects it was not trained on."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from iom.codes.comparators import SymbolComparator
from iom.codes.packing import PackedCodes, pack
from iom.config.hashing import CalibrationConfig
from iom.errors import DataError
from iom.metrics.all_pairs import AllPairs
from iom.metrics.bootstrap import group_draws, percentile_intervals, rate_interval
from iom.models.face_hasher import Calibration, FaceHasher
from iom.training.held_out import HashFunction, HeldOutPairs, held_out_keys


def calibrate(
    pairs: HeldOutPairs,
    embeddings: NDArray[np.float32],
    hash_codes: HashFunction,
    *,
    alphabet_size: int,
    config: CalibrationConfig,
    seed: int,
) -> Calibration:
    """The largest threshold whose false match rate, over all keys, does not exceed `config.fmr`.

    Keys are stolen: every key compares all pairs. The intervals come from drawing subjects and keys anew: of the
    threshold that would then have been chosen, and of FMR and FNMR at the threshold that was chosen.

    Args:
        pairs: Which held-out images are compared.
        embeddings: Of the images of `pairs`, `(N, D)`.
        hash_codes: The hasher.
        alphabet_size: Q.
        config: FMR, number of keys, number of bootstrap draws and their confidence.
        seed: Of the keys and the draws.

    Raises:
        DataError: The pairs cannot show that FMR, or no threshold keeps to it.
    """
    pairs.check_resolution(config.fmr)
    keys = held_out_keys(seed, "calibration-keys", config.keys)
    codes = [pack(hash_codes(embeddings, key), alphabet_size) for key in keys]
    curve = pairs.all.curve(SymbolComparator(alphabet_size), *codes)
    threshold = curve.threshold_at_fmr(config.fmr)
    if not np.isfinite(threshold):
        raise DataError(
            f"no threshold keeps to calibration.fmr {config.fmr:g} on these subjects; are "
            "images of one person listed under two subjects?"
        )
    fmr, fnmr = curve.rates_at(threshold)
    chosen = Calibration(
        threshold=int(threshold),
        fmr=config.fmr,
        fnmr=float(fnmr),
        subjects=len(pairs.all.images),
        keys=len(keys),
        measured_fmr=float(fmr),
    )
    return _with_intervals(chosen, pairs.all, codes, config, seed) if config.bootstrap else chosen


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
    chosen: Calibration, pairs: AllPairs, codes: Sequence[PackedCodes], config: CalibrationConfig, seed: int
) -> Calibration:
    """The calibration with intervals over drawn subjects and keys."""
    distances = np.arange(codes[0].code_length + 1)
    subjects = group_draws(len(pairs.images), replicates=config.bootstrap, seed=seed, usable=pairs.usable)
    draws = [np.ones(len(pairs.images)), *subjects]
    by_key = np.stack(
        [
            # A mean over the keys exceeds the FMR wherever one key alone reaches as many times the FMR.
            pairs.drawn_figures(
                lambda curve: np.concatenate(curve.rates_at(distances)),
                draws,
                SymbolComparator(each.alphabet_size),
                each,
                fmr=min(1.0, len(codes) * config.fmr),
            )[1:]
            for each in codes
        ]
    )
    keys = np.stack(list(group_draws(len(codes), "keys", replicates=config.bootstrap, seed=seed)))
    fmr, fnmr = np.split(np.einsum("kr...,rk->r...", by_key, keys) / len(codes), 2, axis=1)
    thresholds = [np.searchsorted(row, config.fmr, side="right") - 1 for row in fmr]
    threshold, fmr_edges, fnmr_edges = percentile_intervals(
        np.stack([thresholds, fmr[:, chosen.threshold], fnmr[:, chosen.threshold]], axis=1), config.confidence
    )
    non_mated_units, mated_units = len(pairs.images), int(np.count_nonzero(pairs.images > 1))
    fmr_edges = rate_interval(
        fmr_edges, chosen.measured_fmr or 0.0, units=non_mated_units, confidence=config.confidence
    )
    fnmr_edges = rate_interval(fnmr_edges, chosen.fnmr, units=mated_units, confidence=config.confidence)
    return dataclasses.replace(
        chosen,
        threshold_low=int(np.floor(threshold.low)),
        threshold_high=int(np.ceil(threshold.high)),
        fmr_low=fmr_edges.low,
        fmr_high=fmr_edges.high,
        fnmr_low=fnmr_edges.low,
        fnmr_high=fnmr_edges.high,
        confidence=config.confidence,
    )
