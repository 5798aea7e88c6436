"""Prior-aware regression: learn on other people's data how a code tells an embedding."""

import numpy as np
from numpy.typing import NDArray

from iom.attacks.base import BlackBox, Embeddings, Leak, Templates, unit
from iom.attacks.closed_form import one_hot, read_back

LARGEST = 4000
"""People's embeddings to learn from, at most; more bring little."""
RIDGE = 0.01
"""Penalty, in units of the features' mean square."""


def prior_regressor(leak: Leak) -> Embeddings:
    """Ridge regression from templates under the disclosed keys to embeddings of other people.

    The attacker hashes people of their own under the disclosed key of each record, so that the regression holds the
    population's mean and covariance as well as what the key cuts off: with `keep`, dimensions that are gone are told
    from those that are there. Of a linear system the features are the closed-form reconstructions of the records, side
    by side, which makes it the linear-Gaussian posterior mean; of any other, the templates themselves.
    """
    people = leak.known("population")
    people = people[:: -(-len(people) // LARGEST)]
    told = _features(leak, leak.known("codes"))
    seen = _features(leak, [box(people) for box in _boxes(leak)])
    return unit(ridge(seen, people, told))


def _boxes(leak: Leak) -> tuple[BlackBox, ...]:
    boxes: tuple[BlackBox, ...] = leak.known("hashers")
    return boxes


def _features(leak: Leak, templates: tuple[Templates, ...] | list[Templates]) -> Embeddings:
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
    """Predict rows for `told` `(N, F)` from examples `seen` `(T, F)` -> `targets` `(T, D)`.

    Solved in whichever of features and examples is smaller; both give the same.
    """
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
