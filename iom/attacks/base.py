"""What every attack sees and gives: an attacked system, what leaked of it, and an attack.

An attack says what it needs to know, and gets exactly that: `Leak.only` takes everything else away before it runs. No
key is part of a leak, only what an attacker makes of a key.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from iom.codes.comparators import Comparator
from iom.errors import DataError
from iom.keys import TransformKey

Embeddings = NDArray[np.float32]
Templates = NDArray[Any]
Vectors = NDArray[np.float32]
"""Projection vectors of a linear Index-of-Max in embedding space, `(D, M, Q)`."""
BlackBox = Callable[[Embeddings], Templates]
Oracle = Callable[[Embeddings, NDArray[np.intp]], NDArray[np.float64]]

CODES, KEY, HASH, POPULATION, SCORES, PUBLIC, PHOTOGRAPHS = (
    "codes", "key", "hash", "population", "scores", "public", "photographs"
)  # fmt: skip
KNOWLEDGE = {
    CODES: "the stored codes",
    KEY: "model and key, and so whatever can be computed from them",
    HASH: "codes of any embedding under the same key: a device that has the key inside",
    POPULATION: "embeddings of other people",
    SCORES: "the distance of any probe to the stored code",
    PUBLIC: "the model, and keys of the attacker's own; not the victim's key",
    PHOTOGRAPHS: "embeddings of public photographs, the victims' enrolled ones among them",
}
"""What an attacker may know. An attack lists the parts that it uses."""
PARTS = {
    CODES: ("codes",),
    KEY: ("hashers", "vectors", "responses"),
    HASH: ("hashers",),
    POPULATION: ("population", "population_labels"),
    SCORES: ("oracle",),
    PHOTOGRAPHS: ("photographs",),
}
"""Fields of a `Leak` that a piece of knowledge opens."""


class ResponseGradient(Protocol):
    """Descends on the embedding through a network that is not linear."""

    def descend(self, codes: Templates, start: Embeddings, *, steps: int) -> Embeddings:
        """Rows `(N, D)` whose responses favour `codes` `(N, M)`, from `start`."""
        ...


@dataclasses.dataclass(frozen=True)
class AttackedSystem:
    """A protection, with what its makers and a leaked key give away.

    Attributes:
        name: As in reports.
        embedding_size: D.
        alphabet_size: Q; 0 where templates are not codes.
        hash: Embeddings `(N, D)` and one key -> templates `(N, M)`.
        comparator: How templates are compared.
        vectors: Projection vectors under a key, `(D, M, Q)`; None where the system is not linear.
        responses: Gradients under a key; None where there are none (or `vectors` are there).
        public_vectors: The projection behind the key, `(K, M, Q)`, if it is the same for all keys.
        before_key: Embeddings `(N, D)` -> the rows that the key of such a system is applied to, one array `(N, W)` for
            each window of dimensions that a key may choose; W >= K.
    """

    name: str
    embedding_size: int
    alphabet_size: int
    hash: Callable[[Embeddings, TransformKey], Templates]
    comparator: Comparator
    vectors: Callable[[TransformKey], Vectors] | None = None
    responses: Callable[[TransformKey], ResponseGradient] | None = None
    public_vectors: Vectors | None = dataclasses.field(default=None, repr=False)
    before_key: Callable[[Embeddings], list[Embeddings]] | None = None

    def public(self, part: str) -> Any:
        """`public_vectors` or `before_key`, which must be there.

        Raises:
            DataError: It is not: nothing public stands behind the key of this system.
        """
        value = getattr(self, part)
        if value is None:
            raise DataError(f"{self.name}: this attack needs '{part}', which this system has not")
        return value

    def distances(self, a: Templates, b: Templates) -> NDArray[np.float64]:
        """Distance of row i of `a` and row i of `b`, `(N,)`; lower = more alike."""
        sides = (self.comparator.prepare(a), self.comparator.prepare(b))
        return np.asarray(self.comparator.paired(*sides), np.float64)


@dataclasses.dataclass(frozen=True, eq=False)
class Leak:
    """What one attacker holds about N victims, of each one or several records.

    Records of all victims are made under the same list of keys, one key a record, so that what is learned about a key
    serves for all victims. Parts are None where the attacker lacks them.

    Attributes:
        system: The public part of the system.
        victims: N.
        seed: Of the attack's own randomness.
        codes: Stored templates, one array `(N, M)` for each record.
        hashers: The black box under each record's key.
        vectors: Projection vectors under each record's key, `(D, M, Q)` each.
        responses: Gradients under each record's key.
        population: Embeddings of other people, `(T, D)`.
        population_labels: Who they are, `(T,)`.
        oracle: Candidates `(C, D)` and the victim of each, `(C,)` -> distances to the stored code.
        photographs: Embeddings of photographs that anyone can find, `(T, D)`.
    """

    system: AttackedSystem
    victims: int
    seed: int = 0
    codes: tuple[Templates, ...] | None = None
    hashers: tuple[BlackBox, ...] | None = None
    vectors: tuple[Vectors, ...] | None = None
    responses: tuple[ResponseGradient, ...] | None = None
    population: Embeddings | None = None
    population_labels: NDArray[np.int64] | None = None
    oracle: Oracle | None = None
    photographs: Embeddings | None = None

    def only(self, knowledge: tuple[str, ...]) -> "Leak":
        """The same leak without what is not in `knowledge`."""
        shown = {field for part in knowledge for field in PARTS.get(part, ())}
        hidden: dict[str, Any] = {field: None for fields in PARTS.values() for field in fields if field not in shown}
        return dataclasses.replace(self, **hidden)

    def known(self, part: str) -> Any:
        """A part that must be there.

        Raises:
            DataError: It is not: the attack uses what it did not ask for, or was given too little.
        """
        value = getattr(self, part)
        if value is None:
            raise DataError(f"{self.system.name}: this attack needs '{part}', which did not leak")
        return value

    @property
    def size(self) -> int:
        """D."""
        return self.system.embedding_size

    def stacked(self) -> tuple[Vectors, NDArray[np.intp]]:
        """All records as one long code: centred vectors `(D, S, Q)`, codes `(N, S)`.

        The mean of a position's vectors is invisible to its argmax and is taken off.
        """
        vectors = np.concatenate(self.known("vectors"), axis=1)
        codes = np.concatenate(self.known("codes"), axis=1).astype(np.intp)
        return vectors - vectors.mean(axis=2, keepdims=True), codes


@dataclasses.dataclass(frozen=True)
class Attack:
    """One way to misuse a leak.

    Attributes:
        title: What it does, in words.
        knowledge: Keys of `KNOWLEDGE`: all it gets to see.
        needs: Parts of a system of which it takes the first that is there: `vectors`, `responses`, `public_vectors`.
        reconstruct: A leak -> embeddings `(N, D)`, unit length.
        link: Two leaks, one record each, of the same people under two keys, and pairs of rows -> scores `(P,)`, higher
            = more likely the same subject.
        identify: A leak -> scores `(N, T)` of its photographs, higher = more likely the enrolled one.
        records: Fewest records of a victim that it needs.
    """

    title: str
    knowledge: tuple[str, ...]
    _: dataclasses.KW_ONLY
    needs: tuple[str, ...] = ()
    reconstruct: Callable[[Leak], Embeddings] | None = None
    link: Callable[[Leak, Leak, NDArray[np.intp], NDArray[np.intp]], NDArray[np.float64]] | None = None
    identify: Callable[[Leak], NDArray[np.float64]] | None = None
    records: int = 1

    def obstacle(self, system: AttackedSystem) -> str:
        """Why it does not apply to a system; empty where it does."""
        if not self.needs or any(getattr(system, part) is not None for part in self.needs):
            return ""
        if self.needs == ("vectors",):
            return "templates are not an argmax of linear projections: there is nothing to solve"
        if self.needs == ("public_vectors",):
            return "no public projection stands behind the key: a code is not read back without it"
        return "no gradient is known of the system, only its templates"


def unit(rows: NDArray[Any]) -> Embeddings:
    """Rows at length one; a zero row stays zero."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(lengths, 1e-12), np.float32)


def read_back(vectors: Vectors, codes: Templates) -> Embeddings:
    """Sum of the chosen vectors, `sum_i w_{i, t_i}`, `(N, D)`.

    Args:
        vectors: Centred projection vectors, `(D, M, Q)`.
        codes: `(N, M)`.
    """
    size, length, alphabet_size = vectors.shape
    chosen = one_hot(codes, alphabet_size).reshape(len(codes), length * alphabet_size)
    return np.asarray(chosen @ vectors.reshape(size, -1).T)


def one_hot(codes: Templates, alphabet_size: int) -> Embeddings:
    """Codes `(N, M)` as `(N, M, Q)`, zeros and ones."""
    symbols = np.arange(alphabet_size, dtype=codes.dtype)
    return np.asarray(codes[:, :, None] == symbols, np.float32)
