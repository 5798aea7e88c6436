"""Attacks on templates. To add one, write its function and add a line here."""

from iom.attacks.base import CODES, HASH, KEY, KNOWN_FACES, PHOTOGRAPHS, POPULATION, PUBLIC, SCORES, STORE, Attack
from iom.attacks.known_faces import (
    known_faces_assignment,
    known_faces_regression,
    known_faces_rotation,
    known_faces_solved,
    store_moments,
)
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
from iom.keys import KEY_KINDS

LINEAR = ("vectors",)
GRADIENT = ("vectors", "responses")

MOVING = tuple(name for name, kind in KEY_KINDS.items() if not kind.mixes)
MIXING = ("", *(name for name, kind in KEY_KINDS.items() if kind.mixes))
"""Kinds of key, and systems whose templates are read back up to a rotation."""
KNOWN = (STORE, PUBLIC, POPULATION, KNOWN_FACES)

ATTACKS: dict[str, Attack] = {
    "closed_form": Attack((CODES, KEY), needs=LINEAR, reconstruct=closed_form),
    "descent": Attack((CODES, KEY), needs=GRADIENT, reconstruct=cross_entropy_descent),
    "similarity_search": Attack((CODES, HASH, POPULATION), reconstruct=similarity_search),
    "prior_regressor": Attack((CODES, KEY, POPULATION), reconstruct=prior_regressor),
    "posterior_mode": Attack((CODES, KEY, POPULATION), needs=LINEAR, reconstruct=posterior_mode),
    "record_multiplicity": Attack((CODES, KEY, POPULATION), reconstruct=prior_regressor, records=2),
    "keyless_linker": Attack((CODES, PUBLIC, POPULATION), link=keyless_linker),
    "sorted_values": Attack(
        (CODES, PUBLIC, PHOTOGRAPHS),
        needs=("public_vectors",),
        link=link_by_sorted_values,
        identify=photographs_by_sorted_values,
    ),
    "keyed_linker": Attack((CODES, KEY, POPULATION), link=keyed_linker),
    "hill_climbing": Attack((SCORES, POPULATION), reconstruct=climb_scores),
    "dictionary": Attack((CODES, HASH, POPULATION), reconstruct=dictionary),
    "brute_force": Attack((SCORES, POPULATION), reconstruct=brute_force),
    "one_guess": Attack((POPULATION,), reconstruct=one_guess),
    "known_faces_assignment": Attack(KNOWN, kinds=MOVING, reconstruct=known_faces_assignment),
    "known_faces_rotation": Attack(KNOWN, kinds=MIXING, reconstruct=known_faces_rotation),
    "known_faces_regression": Attack(KNOWN, reconstruct=known_faces_regression),
    "known_faces_solved": Attack(KNOWN, needs=("recover",), reconstruct=known_faces_solved),
    "store_moments": Attack((STORE, PUBLIC, POPULATION), reconstruct=store_moments),
}
"""Name to attack; those of a stolen store have `STORE` among their knowledge."""
