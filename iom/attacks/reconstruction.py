"""Reconstruction of embeddings: closed form, descent, regression on other people's data, hill climbing, guessing."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from iom._random import numpy_stream
from iom.attacks.base import Embeddings, Leak, Templates, Vectors, one_hot, read_back, unit
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


def evolve(leak: Leak, cost: Cost, start: Embeddings, *, generations: int, offspring: int) -> Embeddings:
    """Minimise a cost for each victim from `start` `(N, D)`; nothing but the ranks of costs is used.

    A (mu / mu_w, lambda) evolution strategy with cumulative step-size adaptation: CMA-ES (Hansen, arXiv 1604.00772,
    eqs. 40 to 44) whose covariance is not learned but taken from the population. The result is the centre of the last
    generation, of unit length.
    """
    victims, size = start.shape
    population = Population.of(leak.known("population"))
    stream = numpy_stream(leak.seed, "attacks/evolution")
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
    start = unit(numpy_stream(leak.seed, "attacks/descent").normal(size=(leak.victims, leak.system.embedding_size)))
    if leak.vectors is not None:
        return descend(*leak.stacked(), start, half_norms=leak.stacked_half_norms())
    codes = leak.known("codes")[0]
    return unit(leak.known("responses")[0].descend(codes, start, steps=STEPS))


def posterior_mode(leak: Leak) -> Embeddings:
    """The most likely embedding given code, vectors, and the mean and covariance of other people.

    `cross_entropy_descent` with the population's log density; the likelihood of a code is softened, which puts the
    result nearer to the middle of the cone of embeddings that have this code.
    """
    vectors, codes = leak.stacked()
    population = Population.of(leak.known("population"))
    start = unit(read_back(vectors, codes))
    return descend(vectors, codes, start, half_norms=leak.stacked_half_norms(), population=population)


def descend(
    vectors: Vectors,
    codes: Templates,
    start: Embeddings,
    *,
    half_norms: Vectors | None = None,
    population: Population | None = None,
    steps: int = STEPS,
) -> Embeddings:
    """Unit vectors `(N, D)` that lower the cross-entropy between softmax(T (x W - b)) and codes `(N, M)`.

    W is `(D, M, Q)`, centred where there is no b = `half_norms` `(M, Q)`. A population adds minus the log density of x
    at unit length.
    """
    size, length, alphabet_size = vectors.shape
    flat = vectors.reshape(size, -1)
    spread = np.sqrt(np.mean(np.sum(flat.astype(np.float64) ** 2, axis=0)) / size)
    sharpness = np.float32(SHARPNESS / max(spread, 1e-12))
    flat = flat * sharpness
    bias = np.float32(0) if half_norms is None else half_norms * sharpness
    wanted = one_hot(codes, alphabet_size)

    def gradient(rows: Rows) -> Rows:
        # Single precision: all the time goes into these two products.
        responses = (rows.astype(np.float32) @ flat).reshape(len(rows), length, alphabet_size)
        shares = softmax(responses - bias, axis=2) - wanted
        slope = (shares.reshape(len(rows), -1) @ flat.T).astype(np.float64)
        return np.asarray(slope if population is None else slope + population.pull(rows))

    return descend_on_sphere(gradient, start, steps=steps).astype(np.float32)


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
            parts.append(read_back(leak.system.centred(vectors), template))
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


GENERATIONS, QUERY_GENERATIONS = 120, 100
"""Hill climbing asks less than a search of one's own: a matcher counts its queries (2,000 of each victim)."""
TRIES = 1000
"""Faces that are tried by brute force on each victim."""


def similarity_search(leak: Leak) -> Embeddings:
    """Search for embeddings whose code is near to the stolen one (Dong et al., arXiv 1910.07770).

    Takes any system as a function, starts at the nearest of the population, and lowers the sum over several records.
    """
    codes, boxes = leak.known("codes"), leak.known("hashers")

    def cost(candidates: Embeddings, owners: NDArray[np.intp]) -> NDArray[np.float64]:
        total = np.zeros(len(candidates))
        for code, box in zip(codes, boxes, strict=True):
            total += leak.system.distances(box(candidates), code[owners])
        return total

    return evolve(leak, cost, dictionary(leak), generations=GENERATIONS, offspring=32)


def climb_scores(leak: Leak) -> Embeddings:
    """Climb by a matcher's scores alone, from the mean of the population (Galbally et al., PR 2010)."""
    start = np.repeat(leak.known("population").mean(axis=0, keepdims=True), leak.victims, axis=0)
    return evolve(leak, leak.known("oracle"), start, generations=QUERY_GENERATIONS, offspring=20)


def dictionary(leak: Leak) -> Embeddings:
    """The one of the attacker's own people whose code is nearest to the stolen one."""
    people = leak.known("population")
    codes, boxes = leak.known("codes"), leak.known("hashers")
    comparator = leak.system.comparator
    total = np.zeros((leak.victims, len(people)))
    for code, box in zip(codes, boxes, strict=True):
        total += comparator.all_pairs(comparator.prepare(code), comparator.prepare(box(people)))
    return np.asarray(people[np.argmin(total, axis=1)], np.float32)


def brute_force(leak: Leak) -> Embeddings:
    """Try other people's faces at the matcher, and keep the best; on average 1 / FMR faces until one is accepted."""
    people, oracle = leak.known("population"), leak.known("oracle")
    order = numpy_stream(leak.seed, "attacks/brute-force").permutation(len(people))[:TRIES]
    costs = [oracle(people[order], np.full(len(order), victim)) for victim in range(leak.victims)]
    return np.asarray(people[order[np.argmin(costs, axis=1)]], np.float32)


def one_guess(leak: Leak) -> Embeddings:
    """Another person's face, drawn at random: the false match rate, seen as an attack."""
    people = leak.known("population")
    drawn = numpy_stream(leak.seed, "attacks/guess").integers(len(people), size=leak.victims)
    return np.asarray(people[drawn], np.float32)
