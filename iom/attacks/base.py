"""Attack interface: an attacked system, the leak of it, and an attack.

`Leak.only` takes away everything that an attack does not declare, before it runs. No key is part of a leak, only what
an attacker derives from a key.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from iom.codes.asymmetric import CodeVectors
from iom.codes.comparators import AsymmetricComparator, AsymmetricTemplates, Comparator
from iom.errors import DataError
from iom.keys import KEY_KINDS, TransformKey

Embeddings = NDArray[np.float32]
Templates = NDArray[Any]
Vectors = NDArray[np.float32]
"""Projection vectors of a linear Index-of-Max in embedding space, `(D, M, Q)`."""
Keys = TransformKey | Sequence[TransformKey]
BlackBox = Callable[[Embeddings], Templates]
Oracle = Callable[[Embeddings, NDArray[np.intp]], NDArray[np.float64]]

CODES, KEY, HASH, POPULATION, SCORES, PUBLIC, PHOTOGRAPHS, STORE, KNOWN_FACES = (
    "codes", "key", "hash", "population", "scores", "public", "photographs", "store", "known_faces"
)  # fmt: skip
KNOWLEDGE = {
    CODES: ("codes",),  # that are stored
    KEY: ("hashers", "vectors", "responses"),  # model and key, and so whatever can be computed from them
    HASH: ("hashers",),  # codes of any embedding under the same key: a device that has the key inside
    POPULATION: ("population", "population_labels"),  # embeddings of other people
    SCORES: ("oracle",),  # the distance of any probe to the stored code
    PUBLIC: (),  # the model, and keys of the attacker's own; not the victim's key
    PHOTOGRAPHS: ("photographs",),  # embeddings of public photographs, the victims' enrolled ones among them
    STORE: ("store",),  # all templates of a stolen record store, which were made under one key
    KNOWN_FACES: ("known_faces",),  # photographs of some of the enrolled, and which of its templates are theirs
}
"""Parts of an attacker's knowledge, of which an attack lists those it uses, and the fields of a `Leak` they open."""


class ResponseGradient(Protocol):
    """Descends on the embedding through a network that is not linear."""

    def descend(self, codes: Templates, start: Embeddings, *, steps: int) -> Embeddings:
        """Rows `(N, D)` whose responses favour `codes` `(N, M)`, from `start`."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class StolenStore:
    """Templates `(N, M)` of one image each of N subjects, and the rows `(V,)` of those to reconstruct.

    `rows` `(N, K)` are what the templates tell of the embeddings without a key (`iom.attacks.known_faces.store_rows`).
    """

    templates: Templates = dataclasses.field(repr=False)
    wanted: NDArray[np.intp]
    rows: Embeddings = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True, eq=False)
class KnownFaces:
    """Embeddings `(k, D)` of enrolled subjects, and the rows of the store `(k,)` that are theirs."""

    rows: NDArray[np.intp]
    embeddings: Embeddings = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True)
class AttackedSystem:
    """A protection of embeddings `(N, D)`, and the parts that its makers or a leaked key give away.

    `alphabet_size` is 0 where templates are not codes. `vectors` `(D, M, Q)` is None where the system is not linear,
    `responses` (gradients) where there are none or `vectors` are there. `public_vectors` `(K, M, Q)` is the projection
    behind the key, if it is the same for all keys; `half_norms` `(M, Q)` are what its responses are less by, of a
    product frame with a bias; `before_key` then maps embeddings to the rows that the key is applied to, `(N, W)` with
    W >= K for each window of dimensions that a key may choose; `key_kind`, a key of `KEY_KINDS`, says how it is
    applied. `recover` finds the key of templates `(k, M)` of known embeddings `(k, D)`, if it has so few parameters
    that they can be solved for. `rows` are the keyed rows of probes `(N, K)`, where the matcher compares codes with
    those, by `code_vectors`; whoever has codes alone compares them by `comparator`.
    """

    name: str
    embedding_size: int
    alphabet_size: int
    hash: Callable[[Embeddings, Keys], Templates]
    comparator: Comparator
    vectors: Callable[[TransformKey], Vectors] | None = None
    responses: Callable[[TransformKey], ResponseGradient] | None = None
    public_vectors: Vectors | None = dataclasses.field(default=None, repr=False)
    half_norms: Vectors | None = dataclasses.field(default=None, repr=False)
    before_key: Callable[[Embeddings], list[Embeddings]] | None = None
    key_kind: str = ""
    recover: Callable[[Templates, Embeddings], ResponseGradient] | None = None
    rows: Callable[[Embeddings, Keys], NDArray[np.int32]] | None = None
    code_vectors: CodeVectors | None = dataclasses.field(default=None, repr=False)

    def public(self, part: str) -> Any:
        """`public_vectors` or `before_key`; a `DataError` where the system has no public part behind the key."""
        value = getattr(self, part)
        if value is None:
            raise DataError(f"{self.name}: this attack needs '{part}', which this system has not")
        return value

    def centred(self, vectors: Vectors) -> Vectors:
        """Vectors `(K, M, Q)` less the mean of each position, which no argmax without a bias sees."""
        return vectors if self.half_norms is not None else vectors - vectors.mean(axis=2, keepdims=True)

    def distances(self, a: Templates, b: Templates) -> NDArray[np.float64]:
        """Distance of row i of `a` and row i of `b`, `(N,)`; lower = more alike."""
        sides = (self.comparator.prepare(a), self.comparator.prepare(b))
        return np.asarray(self.comparator.paired(*sides), np.float64)

    def probes(self, embeddings: Embeddings, keys: Keys) -> Any:
        """What the matcher compares stored templates with: templates, or keyed rows."""
        return self.hash(embeddings, keys) if self.rows is None else self.rows(embeddings, keys)

    def matched(self, stored: Templates, probes: Any) -> NDArray[np.float64]:
        """Distance of row i of stored templates to row i of `probes`, as the matcher has it, `(N,)`."""
        if self.code_vectors is None:
            return self.distances(stored, probes)
        comparator = AsymmetricComparator(self.code_vectors)
        sides = AsymmetricTemplates(stored, None), AsymmetricTemplates(None, probes)
        return np.asarray(comparator.paired(*map(comparator.prepare, sides)), np.float64)


@dataclasses.dataclass(frozen=True, eq=False)
class Leak:
    """The information one attacker holds about N victims, of each one or several records.

    Records of all victims are made under the same list of keys, one key a record, so that knowledge of a key serves for
    all victims. `codes` `(N, M)`, `hashers`, `vectors` `(D, M, Q)` and `responses` have one entry a record;
    `population` and `photographs` are embeddings `(T, D)` of other people and of public photographs; `oracle` takes
    candidates `(C, D)` and the victim of each to distances. Of a stolen `store`, the victims are its wanted rows. Parts
    are None where the attacker lacks them.
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
    store: StolenStore | None = None
    known_faces: KnownFaces | None = None

    def only(self, knowledge: tuple[str, ...]) -> "Leak":
        """The same leak without what is not in `knowledge`."""
        shown = {field for part in knowledge for field in KNOWLEDGE[part]}
        parts = {field for fields in KNOWLEDGE.values() for field in fields}
        hidden: dict[str, Any] = dict.fromkeys(parts - shown)
        return dataclasses.replace(self, **hidden)

    def known(self, part: str) -> Any:
        """A part that must be there; else a `DataError`."""
        value = getattr(self, part)
        if value is None:
            raise DataError(f"{self.system.name}: this attack needs '{part}', which did not leak")
        return value

    def stacked(self) -> tuple[Vectors, NDArray[np.intp]]:
        """All records as one long code: vectors `(D, S, Q)`, centred, and codes `(N, S)`."""
        vectors = np.concatenate(self.known("vectors"), axis=1)
        codes = np.concatenate(self.known("codes"), axis=1).astype(np.intp)
        return self.system.centred(vectors), codes

    def stacked_half_norms(self) -> Vectors | None:
        """What the responses of all records are less by, `(S, Q)`; None where there is no bias."""
        found = self.system.half_norms
        return None if found is None else np.tile(found, (len(self.known("vectors")), 1))


@dataclasses.dataclass(frozen=True)
class Attack:
    """One way to misuse a leak; it sees only the parts that `knowledge`, keys of `KNOWLEDGE`, names.

    Of the parts in `needs` it takes the first that a system has; `kinds`, if any, are the kinds of key that it applies
    to, "" among them for systems without a public part; `records` is the minimum of records of a victim.
    `reconstruct` gives embeddings `(N, D)` of unit length; `link` takes two leaks of the same people under two keys and
    pairs of rows to scores `(P,)`; `identify` gives scores `(N, T)` of photographs. Higher scores = more likely mated.
    """

    knowledge: tuple[str, ...]
    _: dataclasses.KW_ONLY
    needs: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    reconstruct: Callable[[Leak], Embeddings] | None = None
    link: Callable[[Leak, Leak, NDArray[np.intp], NDArray[np.intp]], NDArray[np.float64]] | None = None
    identify: Callable[[Leak], NDArray[np.float64]] | None = None
    records: int = 1

    @property
    def of_store(self) -> bool:
        """Whether it is directed at a stolen record store, not at leaked templates and keys."""
        return STORE in self.knowledge

    def obstacle(self, system: AttackedSystem) -> str:
        """Why it does not apply to a system; empty where it does."""
        if self.kinds and system.key_kind not in self.kinds:
            if not system.key_kind:
                return "no public projection stands behind the key: a code is not read back without it"
            moved = "mixes the dimensions" if KEY_KINDS[system.key_kind].mixes else "only moves the dimensions"
            return f"a key of kind '{system.key_kind}' {moved}: another attack fits"
        if not self.needs or any(getattr(system, part) is not None for part in self.needs):
            return ""
        if self.needs == ("vectors",):
            return "templates are not an argmax of linear projections: there is nothing to solve"
        if self.needs == ("recover",):
            return "the key has too many parameters to solve for"
        if self.needs == ("public_vectors",):
            return "no public projection stands behind the key: a code is not read back without it"
        return "no gradient is known of the system, only its templates"


def unit(rows: NDArray[Any]) -> Embeddings:
    """Rows at length one; a zero row stays zero."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(lengths, 1e-12), np.float32)


def read_back(vectors: Vectors, codes: Templates) -> Embeddings:
    """Sum of the chosen vectors, `sum_i w_{i, t_i}`, `(N, D)`, of centred vectors `(D, M, Q)` and codes `(N, M)`."""
    size, length, alphabet_size = vectors.shape
    chosen = one_hot(codes, alphabet_size).reshape(len(codes), length * alphabet_size)
    return np.asarray(chosen @ vectors.reshape(size, -1).T)


def one_hot(codes: Templates, alphabet_size: int) -> Embeddings:
    """Codes `(N, M)` as `(N, M, Q)`, zeros and ones."""
    symbols = np.arange(alphabet_size, dtype=codes.dtype)
    return np.asarray(codes[:, :, None] == symbols, np.float32)
