"""Softmax cross-entropy descent: move x until its responses favour the stolen code."""

import numpy as np
from numpy.typing import NDArray

from iom._random import numpy_stream
from iom.attacks.base import Embeddings, Leak, Templates, Vectors, unit
from iom.attacks.closed_form import one_hot, read_back
from iom.attacks.population import Population
from iom.attacks.sphere_optimizer import Rows, descend_on_sphere

STEPS = 80
SHARPNESS = 6.0
"""Spread of the responses of a unit vector before the softmax."""


def cross_entropy_descent(leak: Leak) -> Embeddings:
    """Descend from a random start (no closed form needed), through vectors or a network.

    Through a network that is not linear it works on the first record only.
    """
    start = unit(numpy_stream(leak.seed, "attacks/descent").normal(size=(leak.victims, leak.size)))
    if leak.vectors is not None:
        return descend(*leak.stacked(), start)
    codes = leak.known("codes")[0]
    return unit(leak.known("responses")[0].descend(codes, start, steps=STEPS))


def posterior_mode(leak: Leak) -> Embeddings:
    """The most likely embedding given code, vectors, and the mean and covariance of other people.

    The same descent with the population's log density added; the likelihood of a code is softened, which puts the
    result nearer to the middle of the cone of embeddings that have this code.
    """
    vectors, codes = leak.stacked()
    population = Population.of(leak.known("population"))
    return descend(vectors, codes, unit(read_back(vectors, codes)), population=population)


def descend(
    vectors: Vectors, codes: Templates, start: Embeddings, *, population: Population | None = None, steps: int = STEPS
) -> Embeddings:
    """Unit vectors that lower the cross-entropy between softmax(T x W) and a code.

    Args:
        vectors: Centred, `(D, M, Q)`.
        codes: `(N, M)`.
        start: `(N, D)`, unit length.
        population: Adds minus the log density of x at unit length.
        steps: Of gradient descent with momentum.

    Returns:
        `(N, D)`, unit length.
    """
    size, length, alphabet_size = vectors.shape
    flat = vectors.reshape(size, -1)
    spread = np.sqrt(np.mean(np.sum(flat.astype(np.float64) ** 2, axis=0)) / size)
    flat = (flat * (SHARPNESS / max(spread, 1e-12))).astype(np.float32)
    wanted = one_hot(codes, alphabet_size)

    def gradient(rows: Rows) -> Rows:
        # Single precision: all the time goes into these two products.
        responses = (rows.astype(np.float32) @ flat).reshape(len(rows), length, alphabet_size)
        shares = _softmax(responses) - wanted
        slope = (shares.reshape(len(rows), -1) @ flat.T).astype(np.float64)
        return np.asarray(slope if population is None else slope + population.pull(rows))

    return descend_on_sphere(gradient, start, steps=steps).astype(np.float32)


def _softmax(responses: NDArray[np.float32]) -> NDArray[np.float32]:
    shares = np.exp(responses - responses.max(axis=2, keepdims=True))
    return np.asarray(shares / shares.sum(axis=2, keepdims=True), np.float32)
