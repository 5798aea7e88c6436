"""Evolution strategy with rank weights and step-size control, for many victims at once."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from iom._random import numpy_stream
from iom.attacks.base import Embeddings, unit
from iom.attacks.population import Population

Cost = Callable[[Embeddings, NDArray[np.intp]], NDArray[np.float64]]
"""Candidates `(C, D)` and the victim of each, `(C,)` -> cost, lower = better."""
FIRST_STEP = 0.5


def evolve(
    cost: Cost, start: Embeddings, population: Population, *, generations: int, offspring: int, seed: int
) -> Embeddings:
    """Minimise a cost for each victim by trying; nothing but the ranks of costs is used.

    A (mu / mu_w, lambda) evolution strategy with cumulative step-size adaptation: CMA-ES (Hansen, arXiv 1604.00772,
    eqs. 40 to 44) whose covariance is not learned but taken from the population.

    Args:
        cost: What to minimise.
        start: First guesses, `(N, D)`.
        population: Where candidates lie.
        generations: Rounds.
        offspring: Candidates of each victim in a round.
        seed: Of the candidates.

    Returns:
        `(N, D)`, unit length: the centre of the last round.
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
