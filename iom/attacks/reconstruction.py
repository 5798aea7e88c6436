"""Reconstruction of embeddings from disclosed keys: closed form, descent, and regression on other people's data."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from iom._random import numpy_stream
from iom.attacks.base import Embeddings, Leak, Templates, Vectors, one_hot, read_back, unit
from iom.attacks.optimizers import Population, Rows, descend_on_sphere

STEPS = 80
SHARPNESS = 6.0
"""Spread of the responses of a unit vector before the softmax."""
MAX_PEOPLE = 4000
"""People's embeddings to learn from, at most; more bring little."""
RIDGE = 0.01
"""Penalty, in units of the features' mean square."""


def closed_form(leak: Leak) -> Embeddings:
    """`x = sum_i (w_{i, t_i} - mean_j w_ij)` over all positions of all records.

    For independent vectors it is parallel to the embedding on average, and its error falls with the number of
    positions.
    """
    return unit(read_back(*leak.stacked()))


def cross_entropy_descent(leak: Leak) -> Embeddings:
    """Descend from a random start, through vectors or a network; through the latter on the first record only."""
    start = unit(numpy_stream(leak.seed, "attacks/descent").normal(size=(leak.victims, leak.size)))
    if leak.vectors is not None:
        return descend(*leak.stacked(), start)
    codes = leak.known("codes")[0]
    return unit(leak.known("responses")[0].descend(codes, start, steps=STEPS))


def posterior_mode(leak: Leak) -> Embeddings:
    """The most likely embedding given code, vectors, and the mean and covariance of other people.

    `cross_entropy_descent` with the population's log density; the likelihood of a code is softened, which puts the
    result nearer to the middle of the cone of embeddings that have this code.
    """
    vectors, codes = leak.stacked()
    population = Population.of(leak.known("population"))
    return descend(vectors, codes, unit(read_back(vectors, codes)), population=population)


def descend(
    vectors: Vectors, codes: Templates, start: Embeddings, *, population: Population | None = None, steps: int = STEPS
) -> Embeddings:
    """Unit vectors `(N, D)` that lower the cross-entropy between softmax(T x W) and codes `(N, M)`.

    W is centred, `(D, M, Q)`. A population adds minus the log density of x at unit length.
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


def prior_regressor(leak: Leak) -> Embeddings:
    """Ridge regression from templates under the disclosed keys to embeddings of other people.

    The attacker hashes people of their own under the disclosed key of each record, so that the regression holds the
    population's mean and covariance and the dimensions that the key removes. Of a linear system the features are the
    closed-form reconstructions of the records, side by side, which makes it the linear-Gaussian posterior mean; of any
    other, the templates themselves.
    """
    people = leak.known("population")
    people = people[:: -(-len(people) // MAX_PEOPLE)]
    told = _features(leak, leak.known("codes"))
    seen = _features(leak, [box(people) for box in leak.known("hashers")])
    return unit(ridge(seen, people, told))


def _features(leak: Leak, templates: Sequence[Templates]) -> Embeddings:
    parts = []
    for record, template in enumerate(templates):
        if leak.vectors is not None:
            vectors = leak.vectors[record]
            parts.append(read_back(vectors - vectors.mean(axis=2, keepdims=True), template))
        elif leak.system.alphabet_size:
            parts.append(one_hot(template, leak.system.alphabet_size).reshape(len(template), -1))
        else:
            parts.append(template.astype(np.float32))
    return np.concatenate(parts, axis=1)


def ridge(seen: NDArray[np.float32], targets: Embeddings, told: NDArray[np.float32]) -> NDArray[np.float64]:
    """Predict rows for `told` `(N, F)` from examples `seen` `(T, F)` -> `targets` `(T, D)`, by T or F equations."""
    centre, spread = seen.mean(axis=0), seen.std(axis=0)
    spread = np.where(spread > 1e-6 * (spread.max() + 1e-12), spread, np.inf)
    seen, told = (seen - centre) / spread, (told - centre) / spread
    mean = targets.mean(axis=0)
    wanted = targets - mean
    penalty = RIDGE * len(seen)
    if seen.shape[1] <= len(seen):
        gram = (seen.T @ seen).astype(np.float64) + penalty * np.eye(seen.shape[1])
        weights = np.linalg.solve(gram, (seen.T @ wanted).astype(np.float64))
        return np.asarray(mean + told @ weights)
    gram = (seen @ seen.T).astype(np.float64) + penalty * np.eye(len(seen))
    weights = np.linalg.solve(gram, wanted.astype(np.float64))
    return np.asarray(mean + (told @ seen.T) @ weights)
