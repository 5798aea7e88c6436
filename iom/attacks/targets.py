"""Attacked systems, made of disclosed models and keys."""

import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from iom.attacks.base import AttackedSystem, Embeddings, ResponseGradient, Vectors, unit
from iom.attacks.inversions import (
    BloomInversion,
    FirstOneInversion,
    NetworkInversion,
    PerceptronInversion,
    PolynomialInversion,
    ProductInversion,
    RotationInversion,
    solved_polynomial,
)
from iom.baselines.binary import BioHash, BloomFilter, IndexingFirstOne, MlpHash, vectors_of_signs
from iom.baselines.index_of_max import UniformRandomPermutation
from iom.baselines.polyprotect import PolyProtect
from iom.baselines.protection import Protection
from iom.baselines.scalar import ScalarQuantiser
from iom.codes.comparators import SymbolComparator
from iom.errors import WeightsError
from iom.keys import KEY_KINDS, TransformKey, part_count, part_window
from iom.models.face_hasher import ArtifactFaceHasher, FaceHasher, KerasFaceHasher
from iom.nn.hash_network import KEYED_LAYER

INVERSIONS: dict[type, Callable[[Any, TransformKey], ResponseGradient]] = {
    PolyProtect: lambda its, key: PolynomialInversion(*its.polynomial(key)),
    MlpHash: lambda its, key: PerceptronInversion(its.layers(key)),
    UniformRandomPermutation: lambda its, key: ProductInversion(its.windows(key), its.embedding_size),
    IndexingFirstOne: lambda its, key: FirstOneInversion(its.directions, its.windows(key)),
    BloomFilter: lambda its, key: BloomInversion(its.directions(key)),
    ScalarQuantiser: lambda its, key: RotationInversion(its.rotation(key)),
}
"""Protection that is not linear to its inversion, when a key is disclosed."""


def attacked_protection(name: str, protection: Protection, embedding_size: int) -> AttackedSystem:
    """A data-agnostic protection, with what it gives away."""
    system = functools.partial(
        AttackedSystem,
        name=name,
        embedding_size=embedding_size,
        alphabet_size=protection.alphabet_size,
        hash=protection.hash,
        comparator=protection.comparator,
    )
    invert = INVERSIONS.get(type(protection))
    if invert:
        recover = solved_polynomial if isinstance(protection, PolyProtect) else None
        return system(responses=functools.partial(invert, protection), recover=recover)
    if isinstance(protection, BioHash):
        return system(vectors=lambda key: vectors_of_signs(protection.projection(key).T))
    public = protection.public_projection
    if public is None:
        return system()

    def vectors(key: TransformKey) -> Vectors:
        full = np.zeros((embedding_size, *public.shape[1:]), np.float32)
        full[key.permutation(embedding_size)[: len(public)]] = public
        return full

    return system(
        vectors=vectors, public_vectors=public, before_key=lambda embeddings: [unit(embeddings)], key_kind="permutation"
    )


def attacked_hasher(name: str, hasher: FaceHasher) -> AttackedSystem:
    """A hashing network, solved where it is linear up to lengths, else descended through, which needs Keras."""
    kind = KEY_KINDS[hasher.key_kind]
    shape = (-1, hasher.code_length, hasher.alphabet_size)
    if not isinstance(hasher, ArtifactFaceHasher | KerasFaceHasher):
        raise TypeError(f"expected a hasher of a folder or an artefact, received {type(hasher)}")
    model = hasher.model if isinstance(hasher, KerasFaceHasher) else None
    linear, keyed_rows, kernel, bias = hasher.head.disclosed(hasher.embedding_size)
    if linear is None and model is None:
        raise WeightsError(
            f"attacks on {hasher.name}: its network has hidden layers, and descending through them "
            "needs the Keras network, which an artefact lacks; name the folder that it was made "
            "from, or leave the attacks out with --set report.attacks=false"
        )

    def before_key(embeddings: Embeddings) -> list[Embeddings]:
        if model is not None and linear is None:  # hidden layers: what enters the keyed layer
            before = keras.Model(model.get_layer("embedding").output, model.get_layer(KEYED_LAYER).input[0])
            rows = np.asarray(before.predict(embeddings, batch_size=1024, verbose=0), np.float32)
        else:
            rows = unit(unit(embeddings) @ np.asarray(linear))
        if not kind.renews:
            return [rows]
        parts = range(part_count(hasher.key_size, hasher.keep))
        return [rows[:, part_window(part, hasher.key_size, hasher.keep)] for part in parts]

    def order(key: TransformKey) -> NDArray[np.int32]:
        return kind.order(key, hasher.key_size, hasher.keep)

    def vectors(key: TransformKey) -> Vectors:
        rows = np.asarray(linear, np.float32)
        orders = np.repeat(order(key)[None], len(rows), axis=0)
        keyed = np.asarray(keyed_rows(rows, orders), np.float32)
        return np.asarray((keyed @ kernel).reshape(shape))

    return AttackedSystem(
        name=name,
        embedding_size=hasher.embedding_size,
        alphabet_size=hasher.alphabet_size,
        hash=hasher.hash,
        comparator=SymbolComparator(hasher.alphabet_size),
        vectors=None if linear is None else vectors,
        responses=None if linear is not None else lambda key: NetworkInversion(model, order(key)),
        public_vectors=kernel.reshape(shape),
        half_norms=0.5 * np.square(kernel.reshape(shape)).sum(axis=0) if bias else None,
        before_key=before_key,
        key_kind=hasher.key_kind,
    )
