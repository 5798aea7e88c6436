"""Attacks on templates. To add one, write its function and add a line here."""

from iom.attacks.base import CODES, HASH, KEY, PHOTOGRAPHS, POPULATION, PUBLIC, SCORES, Attack
from iom.attacks.linkage import keyed_linker, keyless_linker, link_by_sorted_values, photographs_by_sorted_values
from iom.attacks.reconstruction import (
    brute_force,
    climb_scores,
    closed_form,
    cross_entropy_descent,
    dictionary,
    one_guess,
    posterior_mode,
    prior_regressor,
    similarity_search,
)

LINEAR = ("vectors",)
GRADIENT = ("vectors", "responses")

ATTACKS: dict[str, Attack] = {
    "closed_form": Attack("sum of the chosen vectors", (CODES, KEY), needs=LINEAR, reconstruct=closed_form),
    "descent": Attack(
        "gradient descent on the embedding", (CODES, KEY), needs=GRADIENT, reconstruct=cross_entropy_descent
    ),
    "similarity_search": Attack(
        "evolution strategy on the distance of codes", (CODES, HASH, POPULATION), reconstruct=similarity_search
    ),
    "prior_regressor": Attack(
        "ridge regression learned on other people", (CODES, KEY, POPULATION), reconstruct=prior_regressor
    ),
    "posterior_mode": Attack(
        "descent with the density of other people", (CODES, KEY, POPULATION), needs=LINEAR, reconstruct=posterior_mode
    ),
    "record_multiplicity": Attack(
        "ridge regression on several records of a subject",
        (CODES, KEY, POPULATION),
        reconstruct=prior_regressor,
        records=2,
    ),
    "keyless_linker": Attack(
        "linker learned under the attacker's own keys", (CODES, PUBLIC, POPULATION), link=keyless_linker
    ),
    "sorted_values": Attack(
        "sorted values of the row that a code points at",
        (CODES, PUBLIC, PHOTOGRAPHS),
        needs=("public_vectors",),
        link=link_by_sorted_values,
        identify=photographs_by_sorted_values,
    ),
    "keyed_linker": Attack("reconstruct under both keys and compare", (CODES, KEY, POPULATION), link=keyed_linker),
    "hill_climbing": Attack("evolution strategy on a matcher's scores", (SCORES, POPULATION), reconstruct=climb_scores),
    "dictionary": Attack(
        "the one of other people with the nearest code", (CODES, HASH, POPULATION), reconstruct=dictionary
    ),
    "brute_force": Attack("1,000 other faces tried at the matcher", (SCORES, POPULATION), reconstruct=brute_force),
    "one_guess": Attack("another person's face", (POPULATION,), reconstruct=one_guess),
}
"""Name to attack."""
