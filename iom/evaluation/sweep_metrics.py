"""Figures of one row of a search: on held-out subjects, and on a test set where one is named."""

from pathlib import Path
from typing import Any

import numpy as np

from iom.config import EvaluateConfig, load_config
from iom.data.benchmarks import load_benchmark
from iom.evaluation.evaluate import embed_benchmark
from iom.evaluation.pairs import operating_points
from iom.evaluation.scores import STOLEN_KEY, CodeSystem, code_scores, float_scores
from iom.metrics.verification import ErrorCurve
from iom.models.embedder import Embedder
from iom.training.calibration import validation_keys
from iom.training.hasher import Stage2Data

FMRS = {"fnmr_1e-2": 1e-2, "fnmr_1e-3": 1e-3, "fnmr_1e-4": 1e-4}
NON_MATED_PAIRS = 10
"""An FMR is quoted where at least as many false matches make it up."""


def held_out_figures(codes: CodeSystem | None, data: Stage2Data, *, keys: int, seed: int) -> dict[str, float]:
    """EER and FNMR with the keys stolen; means over keys, and standard deviations as `*_std`.

    Args:
        codes: The codes; none means the embeddings themselves, under no key.
        data: Held-out embeddings and their pairs.
        keys: Number of keys.
        seed: Of the keys.
    """
    pairs, rows = data.pairs, data.held_out_embeddings
    if codes is None:
        curves = [pairs.curve_of_embeddings(rows)]
    else:
        curves = []
        for key in validation_keys(seed, "search-keys", keys):
            curves.append(pairs.all.curve(codes.comparator, codes.templates(rows, key), fmr=1.0))
    return _summary([_rates(curve, pairs.all.non_mated_count) for curve in curves])


class SearchBenchmark:
    """A benchmark that every row is measured on too; loaded and embedded once for an embedder.

    Args:
        path: Evaluation configuration; its benchmark, keys and seed count, nothing else.
    """

    def __init__(self, path: Path) -> None:
        self._config = load_config(EvaluateConfig, path)
        self._benchmark = load_benchmark(self._config.benchmark, seed=self._config.seed)
        self._fingerprint = ""
        self._embeddings: Any = None

    def figures(self, codes: CodeSystem | None, embedder: Embedder) -> dict[str, float]:
        """Figures as `held_out_figures` gives them, their names led by `test_`."""
        if self._fingerprint != embedder.fingerprint:
            self._embeddings = embed_benchmark(embedder, self._benchmark, progress=True)
            self._fingerprint = embedder.fingerprint
        if codes is None:
            entries = [float_scores(self._benchmark, self._embeddings)]
        else:
            keys, seed = self._config.scenario.keys, self._config.seed
            scores = code_scores(codes, self._benchmark, self._embeddings, keys=keys, seed=seed)
            entries = [entry for entry in scores if entry.scenario == STOLEN_KEY]
        values = []
        for score in entries[0].by_key:
            found = dict(operating_points(score))
            values.append(
                {
                    name.replace("fnmr_at_fmr_", "fnmr_"): value
                    for name, value in found.items()
                    if name == "eer" or name.startswith("fnmr_at_fmr_")
                }
            )
        return {f"test_{name}": value for name, value in _summary(values).items()}


def _rates(curve: ErrorCurve, non_mated: int) -> dict[str, float]:
    rates = {"eer": curve.equal_error_rate()}
    for name, fmr in FMRS.items():
        if fmr * non_mated >= NON_MATED_PAIRS:
            rates[name] = curve.fnmr_at_fmr(fmr)
    return rates


def _summary(by_key: list[dict[str, float]]) -> dict[str, float]:
    result = {}
    for name in by_key[0]:
        values = [rates[name] for rates in by_key]
        result[name] = float(np.mean(values))
        if len(values) > 1:
            result[f"{name}_std"] = float(np.std(values, ddof=1))
    return result
