"""Hill climbing and guessing: with the stolen code, or against a matcher that returns scores."""

import numpy as np
from numpy.typing import NDArray

from iom._random import numpy_stream
from iom.attacks.base import Embeddings, Leak
from iom.attacks.optimizers import Population, evolve

GENERATIONS, OFFSPRING = 120, 32
TRIES = 1000
"""Faces that are tried by brute force on each victim."""
QUERY_GENERATIONS, QUERY_OFFSPRING = 100, 20
"""Hill climbing asks less: a matcher counts its queries (2,000 of each victim)."""


def similarity_search(leak: Leak) -> Embeddings:
    """Search for embeddings whose code is near to the stolen one (Dong et al., arXiv 1910.07770).

    Takes any system as a function, starts at the nearest of the population, and lowers the sum over several records.
    """
    people = leak.known("population")
    codes, boxes = leak.known("codes"), leak.known("hashers")

    def cost(candidates: Embeddings, owners: NDArray[np.intp]) -> NDArray[np.float64]:
        total = np.zeros(len(candidates))
        for code, box in zip(codes, boxes, strict=True):
            total += leak.system.distances(box(candidates), code[owners])
        return total

    return evolve(
        cost, dictionary(leak), Population.of(people), generations=GENERATIONS, offspring=OFFSPRING, seed=leak.seed
    )


def climb_scores(leak: Leak) -> Embeddings:
    """Climb by a matcher's scores alone, from the mean of the population (Galbally et al., PR 2010)."""
    people = leak.known("population")
    start = np.repeat(people.mean(axis=0, keepdims=True), leak.victims, axis=0)
    return evolve(
        leak.known("oracle"),
        start,
        Population.of(people),
        generations=QUERY_GENERATIONS,
        offspring=QUERY_OFFSPRING,
        seed=leak.seed,
    )


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
    costs = np.empty((leak.victims, len(order)))
    for victim in range(leak.victims):
        costs[victim] = oracle(people[order], np.full(len(order), victim))
    return np.asarray(people[order[np.argmin(costs, axis=1)]], np.float32)


def one_guess(leak: Leak) -> Embeddings:
    """Another person's face, drawn at random: the false match rate, seen as an attack."""
    people = leak.known("population")
    drawn = numpy_stream(leak.seed, "attacks/guess").integers(len(people), size=leak.victims)
    return np.asarray(people[drawn], np.float32)
