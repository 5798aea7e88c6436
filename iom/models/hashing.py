"""The hashing network: embedding and order in, responses out."""

from typing import Any

import keras

from iom.config.hashing import HasherConfig
from iom.errors import ConfigError
from iom.layers.cosine import UnitLength
from iom.layers.index_of_max import IoMProjection
from iom.layers.permutation import KeyedPermutation

LEARNED_LAYER = "learned_layer"
PROJECTION = "projection"


def build_hasher(embedding_size: int, config: HasherConfig, *, seed: int = 0) -> keras.Model:
    """Build the network between embedding and code.

    unit length -> learned layer (linear, starts as the identity) -> unit length -> keyed
    permutation, keep the first -> unit length -> Index-of-Max projection, with its refinement.

    What is learned and key-independent stands before the key: a projection trained behind one
    fixed order fails under every other one.

    Args:
        embedding_size: D.
        config: Shape of the code and of the network.
        seed: Of the initial projection.

    Returns:
        Functional model with inputs `embedding` `(B, D)` and `order` `(B, D)` int32, and the
        responses `(B, M, Q)` as output.

    Raises:
        ConfigError: `keep` exceeds D, or the initial projection is unknown.
    """
    if config.keep > embedding_size:
        raise ConfigError(
            f"hasher.keep: expected at most the {embedding_size} dimensions of the embedding, "
            f"received {config.keep}"
        )
    embedding = keras.Input((embedding_size,), name="embedding")
    order = keras.Input((embedding_size,), dtype="int32", name="order")
    rows = UnitLength(name="unit_embedding")(embedding)
    if config.learned_layer:
        rows = keras.layers.Dense(
            embedding_size, use_bias=False, kernel_initializer="identity", name=LEARNED_LAYER
        )(rows)
        rows = UnitLength(name="unit_learned")(rows)
    rows = KeyedPermutation(keep=config.keep, name="keyed_permutation")([rows, order])
    if config.keep:
        rows = UnitLength(name="unit_kept")(rows)
    responses = IoMProjection(
        config.code_length,
        config.alphabet_size,
        initial=config.projection,
        seed=seed,
        refinement_steps=config.refinement_steps,
        refinement_gain=config.refinement_gain,
        trainable=config.train_projection,
        name=PROJECTION,
    )(rows)
    return keras.Model({"embedding": embedding, "order": order}, responses, name="hasher")


def shape_of(model: keras.Model) -> dict[str, Any]:
    """Sizes of a hashing network: `embedding_size`, `code_length`, `alphabet_size`, `keep`."""
    _, code_length, alphabet_size = model.output_shape
    return {
        "embedding_size": model.get_layer("embedding").output.shape[1],
        "code_length": code_length,
        "alphabet_size": alphabet_size,
        "keep": model.get_layer("keyed_permutation").keep,
    }
