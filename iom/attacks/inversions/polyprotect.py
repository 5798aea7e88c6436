"""Inversion of PolyProtect: as many polynomial equations as unknowns, nearly."""

import numpy as np
from numpy.typing import NDArray

from iom.attacks.base import Embeddings, Templates

DAMPING = 1e-3
"""Weight of staying near the current solution, relative to the equations."""
LARGEST_STEPS = 40


class PolynomialInversion:
    """Levenberg's steps on `sum_j c_j v_{i + j}^{e_j} = p_i` under disclosed c and e.

    The numerical solution that its authors try (Krivokuca Hahn and Marcel, 2110.00434, IV-C).

    Args:
        coefficients: c, `(m,)`.
        exponents: e, `(m,)`.
    """

    def __init__(self, coefficients: NDArray[np.intp], exponents: NDArray[np.intp]) -> None:
        self._coefficients = coefficients.astype(np.float64)
        self._exponents = exponents.astype(np.float64)

    def descend(self, codes: Templates, start: Embeddings, *, steps: int) -> Embeddings:
        """Rows `(N, D)` that solve for templates `(N, P)`, from `start`; 40 steps at most."""
        solved = np.array(start, np.float64) / np.sqrt(start.shape[1])
        for row, template in zip(solved, codes.astype(np.float64), strict=True):
            row[:] = self._solve(template, row, min(steps, LARGEST_STEPS))
        return np.asarray(solved, np.float32)

    def _solve(self, template: NDArray[np.float64], row: NDArray[np.float64], steps: int) -> NDArray[np.float64]:
        damping = DAMPING * float(np.sum(self._coefficients**2))
        error, slopes = self._linearised(row, template)
        for _ in range(steps):
            inner = slopes @ slopes.T + damping * np.eye(len(template))
            tried = np.clip(row - slopes.T @ np.linalg.solve(inner, error), -1, 1)
            new_error, new_slopes = self._linearised(tried, template)
            if np.sum(new_error**2) < np.sum(error**2):
                row, error, slopes, damping = tried, new_error, new_slopes, damping / 3
            else:
                damping *= 4
        return row

    def _linearised(
        self, row: NDArray[np.float64], template: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Errors of the equations `(P,)` and their slopes `(P, D)`."""
        terms, count = len(self._exponents), len(template)
        step = 1 if count == 1 else -(-(len(row) - terms) // (count - 1))
        padded = np.pad(row, (0, (count - 1) * step + terms - len(row)))
        places = step * np.arange(count)[:, None] + np.arange(terms)
        windows = padded[places]
        slopes = np.zeros((count, len(padded)))
        partial = self._coefficients * self._exponents * windows ** (self._exponents - 1)
        np.put_along_axis(slopes, places, partial, axis=1)
        values = windows**self._exponents @ self._coefficients
        return values - template, slopes[:, : len(row)]
