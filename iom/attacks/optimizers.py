"""Optimizers of embeddings: gradient descent on the sphere, and an evolution strategy within a population."""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from iom._random import numpy_stream
from iom.attacks.base import Embeddings, unit
from iom.errors import DataError

Rows = NDArray[np.float64]
Cost = Callable[[Embeddings, NDArray[np.intp]], NDArray[np.float64]]
"""Candidates `(C, D)` and the victim of each, `(C,)` -> cost, lower = better."""
RATE, MOMENTUM = 0.1, 0.8
"""Learning rate and momentum of the descent."""
FIRST_STEP = 0.5
"""Initial step size of the evolution."""
SHRINKAGE = 0.01
"""Share of a multiple of the identity in the covariance, so that it can be inverted."""


@dataclasses.dataclass(frozen=True, eq=False)
class Population:
    """A normal distribution over embeddings: mean, and eigenvalues and eigenvectors (columns) of the covariance."""

    mean: NDArray[np.float64]
    values: NDArray[np.float64]
    axes: NDArray[np.float64]

    @classmethod
    def of(cls, rows: Embeddings) -> "Population":
        """Estimate from two or more embeddings `(T, D)`."""
        if len(rows) < 2:
            raise DataError(f"a population needs two embeddings or more, received {len(rows)}")
        wide = rows.astype(np.float64)
        covariance = np.cov(wide, rowvar=False)
        size = wide.shape[1]
        floor = SHRINKAGE * np.trace(covariance) / size
        values, axes = np.linalg.eigh((1 - SHRINKAGE) * covariance + floor * np.eye(size))
        return cls(wide.mean(axis=0), values, axes)

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


def descend_on_sphere(gradient: Callable[[Rows], Rows], start: Embeddings | Rows, *, steps: int) -> Rows:
    """Unit vectors `(N, D)` that lower a loss, from `start`, by its gradient `(N, D)` -> `(N, D)`.

    A step is relative to the gradient's length, and falls to zero.
    """
    rows = start.astype(np.float64)
    velocity = np.zeros_like(rows)
    for step in range(steps):
        slope = gradient(rows)
        slope = slope - np.sum(slope * rows, axis=1, keepdims=True) * rows
        velocity = MOMENTUM * velocity - (1 - step / steps) * RATE * unit(slope)
        rows = unit(rows + velocity).astype(np.float64)
    return rows


def evolve(
    cost: Cost, start: Embeddings, population: Population, *, generations: int, offspring: int, seed: int
) -> Embeddings:
    """Minimise a cost for each victim from `start` `(N, D)`; nothing but the ranks of costs is used.

    A (mu / mu_w, lambda) evolution strategy with cumulative step-size adaptation: CMA-ES (Hansen, arXiv 1604.00772,
    eqs. 40 to 44) whose covariance is not learned but taken from the population. The result is the centre of the last
    generation, of unit length.
    """
    victims, size = start.shape
    stream = numpy_stream(seed, "attacks/evolution")
    parents = max(1, offspring // 2)
    weights = np.log(parents + 0.5) - np.log(np.arange(1, parents + 1))
    weights /= weights.sum()
    effective = 1.0 / np.sum(weights**2)
    memory = (effective + 2) / (size + effective + 5)
    damping = 1 + 2 * max(0.0, np.sqrt((effective - 1) / (size + 1)) - 1) + memory
    usual_length = np.sqrt(size) * (1 - 1 / (4 * size) + 1 / (21 * size**2))

    centre = population.coordinates(start.astype(np.float64))
    step = np.full((victims, 1), FIRST_STEP)
    path = np.zeros((victims, size))
    owners = np.repeat(np.arange(victims), offspring)
    for _ in range(generations):
        tries = stream.standard_normal((victims, offspring, size))
        places = population.place(centre[:, None] + step[:, :, None] * tries)
        costs = cost(unit(places.reshape(-1, size)), owners).reshape(victims, offspring)
        best = np.argsort(costs, axis=1, kind="stable")[:, :parents]
        move = np.einsum("p,npd->nd", weights, np.take_along_axis(tries, best[:, :, None], axis=1))
        centre += step * move
        path = (1 - memory) * path + np.sqrt(memory * (2 - memory) * effective) * move
        length = np.linalg.norm(path, axis=1, keepdims=True)
        step = step * np.exp((memory / damping) * (length / usual_length - 1))
    return unit(population.place(centre))
