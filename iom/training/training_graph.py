"""Training graph of stage 2: from embedding (or image) and order to the inputs of the losses."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from iom.config import HasherConfig
from iom.errors import ConfigError
from iom.nn.adapter import BOTTLENECK
from iom.nn.hash_network import LEARNED_LAYER, build_hasher
from iom.nn.layers.cosine import ClassCentres, CosineLogits
from iom.nn.layers.index_of_max import relaxed_codes
from iom.nn.losses.code.base import CLASS_COSINES, COLLISIONS, COLLISIONS_ACROSS, HASHED_CLASS_COSINES, RELAXED, SOFT
from iom.nn.losses.code.pairs import code_cosine, expected_collision


def start_hasher(
    embedding_size: int,
    config: HasherConfig,
    *,
    seed: int,
    learned_start: NDArray[np.float32] | None = None,
    bottleneck_start: NDArray[np.float32] | None = None,
) -> keras.Model:
    """Hashing network at the start of its training.

    `learned_start` `(D, D)` is by default the identity, `bottleneck_start` a random orthonormal map; `seed` is that of
    the initial projection.
    """
    model = build_hasher(embedding_size, config, seed=seed)
    for name, present, start in (
        (LEARNED_LAYER, config.learned_layer, learned_start),
        (BOTTLENECK, config.bottleneck > 0, bottleneck_start),
    ):
        if not present:
            continue
        layer = model.get_layer(name)
        if start is not None:
            layer.set_weights([start])
        layer.trainable = config.train_learned_layer
    return model


def temperature_schedule(config: HasherConfig, *, steps: int) -> Callable[[int], float] | None:
    """Inverse temperature at each step of a run, annealed from a soft code to a hard one; `None` where it is fixed.

    A pure function of the step, which reaches the graph as an input of the batch: there is no state to save.
    """
    start, end = config.inverse_temperature, config.inverse_temperature_end
    if end in (0.0, start):
        return None
    last = max(steps - 1, 1)

    def at(step: int) -> float:
        share = min(step / last, 1.0)
        if config.annealing == "linear":
            return start + (end - start) * share
        return float(start * (end / start) ** share)

    return at


def training_graph(
    hasher: keras.Model,
    config: HasherConfig,
    reads: dict[str, str],
    *,
    backbone: keras.Model | None = None,
    keys: int = 1,
    temperature_input: bool = False,
    classes: int = 0,
) -> keras.Model:
    """Graph whose outputs bear the names of the losses, over the layers of `hasher`.

    Args:
        hasher: Made by `start_hasher`.
        config: Inverse temperature, and whether codes are hard in the forward pass.
        reads: Name of each loss -> its input, of `iom.nn.losses.code.base`. `COLLISIONS_ACROSS` adds the input
            `second_order`, like `order` under one key; `CLASS_COSINES` and `HASHED_CLASS_COSINES` add a head that is no
            part of `hasher`.
        backbone: Trained along, from images; otherwise the input is the embedding.
        keys: G, keys that each batch is hashed under. With more than one, `order` is `(B, G, W)` and each output gets
            an axis for the keys behind the rows, for `PerKeyLoss`.
        temperature_input: The inverse temperature is an input `(B, 1)` instead of a constant.
        classes: Training subjects, for that head.
    """
    inputs, embedding = _embedding_inputs(hasher, backbone)
    if keys > 1:
        width = hasher.input["order"].shape[1]
        inputs["order"] = keras.Input((keys, width), dtype="int32", name="order")
    temperature: Any = config.inverse_temperature
    if temperature_input:
        inputs["inverse_temperature"] = keras.Input((1,), name="inverse_temperature")
        temperature = ops.reshape(inputs["inverse_temperature"], (-1, 1, 1))
    orders = [inputs["order"]] if keys == 1 else [inputs["order"][:, key] for key in range(keys)]
    parts = [_loss_inputs(hasher({"embedding": embedding, "order": order}), config, temperature) for order in orders]
    if COLLISIONS_ACROSS in reads.values():
        shape = hasher.input["order"].shape[1:]
        second = keras.Input(shape, dtype="int32", name="second_order")
        inputs["second_order"] = second
        other = _loss_inputs(hasher({"embedding": embedding, "order": second}), config, temperature)
        for part in parts:
            part[COLLISIONS_ACROSS] = expected_collision(part[RELAXED], other[RELAXED])
    if CLASS_COSINES in reads.values():
        flatten, head = keras.layers.Flatten(), CosineLogits(classes, name="class_head")
        for part in parts:
            part[CLASS_COSINES] = head(flatten(part[RELAXED]))
    if HASHED_CLASS_COSINES in reads.values():
        centres = ClassCentres(classes, name="class_centres")(embedding)
        own_temperature = temperature[:1, :, :] if temperature_input else temperature
        for part, order in zip(parts, orders, strict=True):
            same_key = ops.repeat(order[:1, :], classes, axis=0)  # all rows of a batch share it
            hashed = _loss_inputs(hasher({"embedding": centres, "order": same_key}), config, own_temperature)
            agreement = expected_collision(part[RELAXED], hashed[RELAXED])
            part[HASHED_CLASS_COSINES] = code_cosine(agreement, config.alphabet_size)
    outputs = {name: _merged([part[read] for part in parts]) for name, read in reads.items()}
    model = keras.Model(inputs, outputs, name="stage2")
    if not model.trainable_variables:
        raise ConfigError(
            "nothing to train: set hasher.train_learned_layer, hasher.train_projection or fine_tune to true"
        )
    return model


def _embedding_inputs(hasher: keras.Model, backbone: keras.Model | None) -> tuple[dict[str, Any], Any]:
    """Inputs of the graph, and the embedding."""
    inputs = dict(hasher.input)
    if backbone is None:
        return inputs, inputs["embedding"]
    image = keras.Input(backbone.input_shape[1:], name="image")
    return {"image": image, "order": inputs["order"]}, backbone(image)


def _merged(values: list[Any]) -> Any:
    """Values under one key as they are, under several on an axis behind the rows."""
    return values[0] if len(values) == 1 else ops.stack(values, axis=1)


def _loss_inputs(responses: Any, config: HasherConfig, temperature: Any) -> dict[str, Any]:
    """Inputs of the losses, for the rows under one key."""
    soft = relaxed_codes(responses, temperature)
    relaxed = relaxed_codes(responses, temperature, straight_through=True) if config.straight_through else soft
    return {COLLISIONS: expected_collision(relaxed, relaxed), SOFT: soft, RELAXED: relaxed}
