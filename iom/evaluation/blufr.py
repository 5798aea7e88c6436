"""BLUFR's two figures for one system: verification and open-set identification, over ten trials."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iom.codes.comparators import Comparator
from iom.errors import DataError
from iom.evaluation.blufr_protocol import Blufr
from iom.evaluation.protocols import search_templates, verification_rate

FMR, FPIR, RANK = 1e-3, 1e-2, 1


class BlufrEvaluator:
    """Verification rate at FMR 0.1 % and open-set DIR at FPIR 1 %, rank 1.

    Each is quoted as the mean over trials less their sample standard deviation, as the authors do.

    Args:
        protocol: The lists.
        templates: Prepared templates of the listed images.
        comparator: How they are compared.

    Raises:
        DataError: Not one template for each image.
    """

    def __init__(self, protocol: Blufr, templates: Any, comparator: Comparator) -> None:
        if len(templates) != len(protocol.images):
            raise DataError(
                f"BLUFR: expected a template for each of {len(protocol.images)} images, received {len(templates)}"
            )
        self._protocol = protocol
        self._templates = templates
        self._comparator = comparator

    def run(self) -> Iterator[tuple[str, float]]:
        """`vr_at_fmr_1e-3` and `dir_at_fpir_1e-2`, each with `_mean` and `_std` beside it."""
        trials = [self._trial(number) for number in range(len(self._protocol.trials))]
        for name, values in zip(("vr_at_fmr_1e-3", "dir_at_fpir_1e-2"), zip(*trials, strict=True), strict=True):
            mean = float(np.mean(values))
            std = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
            yield name, mean - std
            yield f"{name}_mean", mean
            yield f"{name}_std", std

    def _trial(self, number: int) -> tuple[float, float]:
        trial = self._protocol.trials[number]
        subjects: NDArray[np.int64] = self._protocol.subjects
        rate = verification_rate(self._comparator, self._templates[trial.test], subjects[trial.test], FMR)
        searches = search_templates(
            self._comparator, self._templates, subjects, gallery=trial.gallery, probes=trial.probes
        )
        return rate, searches.identification_rate_at_fpir(FPIR, RANK)
