"""What embeddings of other people tell about a victim's: mean and covariance."""

import dataclasses
import functools

import numpy as np
from numpy.typing import NDArray

from iom.attacks.base import Embeddings
from iom.errors import DataError

SHRINKAGE = 0.01
"""Share of a multiple of the identity in the covariance, so that it can be inverted."""


@dataclasses.dataclass(frozen=True, eq=False)
class Population:
    """A normal distribution over embeddings.

    Attributes:
        mean: `(D,)`.
        values: Eigenvalues of the covariance, `(D,)`.
        axes: Its eigenvectors as columns, `(D, D)`.
    """

    mean: NDArray[np.float64]
    values: NDArray[np.float64]
    axes: NDArray[np.float64]

    @classmethod
    def of(cls, rows: Embeddings) -> "Population":
        """Estimate from embeddings `(T, D)`.

        Raises:
            DataError: Fewer than two rows.
        """
        if len(rows) < 2:
            raise DataError(f"a population needs two embeddings or more, received {len(rows)}")
        wide = rows.astype(np.float64)
        covariance = np.cov(wide, rowvar=False)
        size = wide.shape[1]
        floor = SHRINKAGE * np.trace(covariance) / size
        values, axes = np.linalg.eigh((1 - SHRINKAGE) * covariance + floor * np.eye(size))
        return cls(wide.mean(axis=0), values, axes)

    @classmethod
    def uniform(cls, size: int) -> "Population":
        """All directions alike: what an attacker takes who knows nobody."""
        return cls(np.zeros(size), np.full(size, 1 / size), np.eye(size))

    def place(self, coordinates: NDArray[np.float64]) -> NDArray[np.float64]:
        """Embeddings of standard normal coordinates, `(..., D)` -> `(..., D)`."""
        return np.asarray(self.mean + (coordinates * np.sqrt(self.values)) @ self.axes.T)

    def coordinates(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Inverse of `place`."""
        return np.asarray(((rows - self.mean) @ self.axes) / np.sqrt(self.values))

    def pull(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Gradient of minus the log density at rows `(N, D)`."""
        return np.asarray((rows - self.mean) @ self.precision)

    @functools.cached_property
    def precision(self) -> NDArray[np.float64]:
        """Inverse of the covariance, `(D, D)`."""
        return np.asarray((self.axes / self.values) @ self.axes.T)
