"""The training graph of stage 2: from embedding (or image) and order to what the losses read."""

import keras
import numpy as np
from numpy.typing import NDArray

from iom.config.hashing import HasherConfig
from iom.errors import ConfigError
from iom.layers.index_of_max import relaxed_codes
from iom.losses.objectives import COLLISIONS, RELAXED, SOFT
from iom.losses.pairs import expected_collision
from iom.models.hashing import LEARNED_LAYER, build_hasher


def start_hasher(
    embedding_size: int,
    config: HasherConfig,
    *,
    seed: int,
    learned_start: NDArray[np.float32] | None = None,
) -> keras.Model:
    """Hashing network at the start of its training.

    Args:
        embedding_size: D.
        config: Shape of the code and of the network.
        seed: Of the initial projection.
        learned_start: Start of the learned layer, `(D, D)`; none leaves it at the identity.
    """
    model = build_hasher(embedding_size, config, seed=seed)
    if not config.learned_layer:
        return model
    layer = model.get_layer(LEARNED_LAYER)
    if learned_start is not None:
        layer.set_weights([learned_start])
    layer.trainable = config.train_learned_layer
    return model


def training_graph(
    hasher: keras.Model,
    config: HasherConfig,
    reads: dict[str, str],
    *,
    backbone: keras.Model | None = None,
) -> keras.Model:
    """Graph whose outputs bear the names of the losses, over the layers of `hasher`.

    Args:
        hasher: Made by `start_hasher`.
        config: Inverse temperature, and whether codes are hard in the forward pass.
        reads: Name of each loss -> what it reads: collisions, soft or relaxed codes.
        backbone: Trained along, from images; otherwise the input is the embedding.

    Raises:
        ConfigError: Nothing in the graph is left to train.
    """
    responses = hasher.output
    inputs = dict(hasher.input)
    if backbone is not None:
        image = keras.Input(backbone.input_shape[1:], name="image")
        inputs = {"image": image, "order": inputs["order"]}
        responses = hasher({"embedding": backbone(image), "order": inputs["order"]})
    temperature = config.inverse_temperature
    soft = relaxed_codes(responses, temperature)
    relaxed = (
        relaxed_codes(responses, temperature, straight_through=True)
        if config.straight_through
        else soft
    )
    parts = {COLLISIONS: expected_collision(relaxed, relaxed), SOFT: soft, RELAXED: relaxed}
    model = keras.Model(inputs, {name: parts[part] for name, part in reads.items()}, name="stage2")
    if not model.trainable_variables:
        raise ConfigError(
            "nothing to train: set hasher.train_learned_layer, hasher.train_projection or "
            "fine_tune to true"
        )
    return model
