"""The hashing network: embedding and order in, responses out."""

from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from iom._random import numpy_stream
from iom._registry import lookup
from iom.errors import WeightsError
from iom.keys import KEY_KINDS
from iom.nn.adapter import orthonormal_map
from iom.nn.frames import PRODUCT, drawn_codebook
from iom.nn.hash_numpy import DECAY, RATE, check_sizes
from iom.nn.layers import UnitLength, graph_nodes, keyed
from iom.nn.layers.index_of_max import IoMProjection
from iom.nn.layers.product import ProductProjection

if TYPE_CHECKING:
    from iom.config import HasherConfig

LEARNED_LAYER = "learned_layer"
BOTTLENECK = "bottleneck"
PROJECTION = "projection"
KEYED_LAYER = "keyed_permutation"
"""Name of the layer that applies a key of any kind; saved files of all versions have it."""
FIRST_PART = 0.01
"""Approximate length that a hidden layer adds to a row at the start."""
FIRST_SLOPE = 0.25


def keyed_layer(kind: str, **settings: Any) -> keras.layers.Layer:
    """The layer that applies keys of a kind, a class of `iom.nn.layers.keyed`."""
    return getattr(keyed, lookup(KEY_KINDS, kind, "kind of key").layer)(kind=kind, **settings)


def build_hasher(embedding_size: int, config: "HasherConfig", *, seed: int = 0) -> keras.Model:
    """Build the network between embedding and code.

    unit length -> learned layer (linear, starts as the identity) -> hidden layers (residual, start near the identity)
    -> bottleneck (linear, to another size) -> keyed permutation or rotation, keep the first -> Index-of-Max projection,
    with its refinement. Rows are brought to unit length after each.

    What is learned and key-independent stands before the key: a projection trained behind one fixed order fails under
    every other one.

    Args:
        embedding_size: D.
        config: Shape of the code and of the network.
        seed: Of the initial projection, and of the start of hidden layers and bottleneck.

    Returns:
        Functional model with inputs `embedding` `(B, D)` and `order` `(B, W)` int32, and the responses `(B, M, Q)` as
        output. W is the size the key works on (the bottleneck's, else D) times the rounds of its kind.

    Raises:
        ConfigError: `keep` exceeds that size, or the initial projection or kind is unknown.
    """
    size = check_sizes(embedding_size, config)
    width = size * lookup(KEY_KINDS, config.key_kind, "kind of key").rounds
    embedding = keras.Input((embedding_size,), name="embedding")
    order = keras.Input((width,), dtype="int32", name="order")
    rows = UnitLength(name="unit_embedding")(embedding)
    if config.learned_layer:
        rows = keras.layers.Dense(embedding_size, use_bias=False, kernel_initializer="identity", name=LEARNED_LAYER)(
            rows
        )
        rows = UnitLength(name="unit_learned")(rows)
    for number in range(1, config.hidden_layers + 1):
        rows = _add_hidden_layer(rows, number, units=config.hidden_size or embedding_size)
    if config.bottleneck:
        rows = keras.layers.Dense(config.bottleneck, use_bias=False, name=BOTTLENECK)(rows)
        rows = UnitLength(name="unit_bottleneck")(rows)
    rows = keyed_layer(config.key_kind, keep=config.keep, name=KEYED_LAYER)([rows, order])
    if config.keep:
        rows = UnitLength(name="unit_kept")(rows)
    responses = _projection(config, seed=seed)(rows)
    model = keras.Model({"embedding": embedding, "order": order}, responses, name="hasher")
    _set_starting_weights(model, seed=seed)
    return model


def _projection(config: "HasherConfig", *, seed: int) -> keras.layers.Layer:
    """The layer behind the key."""
    shape = config.code_length, config.alphabet_size
    named = {"trainable": config.train_projection, "name": PROJECTION}
    if config.projection == PRODUCT:
        return ProductProjection(*shape, half_norm_bias=config.half_norm_bias, window=config.window, **named)
    return IoMProjection(
        *shape,
        initial=config.projection,
        seed=seed,
        refinement_steps=config.refinement_steps,
        refinement_gain=config.refinement_gain,
        **named,
    )


def _add_hidden_layer(rows: Any, number: int, *, units: int) -> Any:
    """Residual layer x + W PReLU(V x + b) of rows `(B, D)` of unit length, brought to unit length again.

    Training starts next to the identity, so that the embedding is kept. There is no batch norm: the code of a face must
    not depend on the faces it is trained along with. `number` is part of the layers' names, `units` are the rows of V.
    """
    name = f"hidden_{number}"
    size = rows.shape[-1]
    inner = keras.layers.Dense(units, name=f"{name}_in")(rows)
    slopes = keras.initializers.Constant(FIRST_SLOPE)
    inner = keras.layers.PReLU(alpha_initializer=slopes, name=f"{name}_slope")(inner)
    added = keras.layers.Dense(size, use_bias=False, name=f"{name}_out")(inner)
    rows = keras.layers.Add(name=f"{name}_sum")([rows, added])
    return UnitLength(name=f"unit_{name}")(rows)


def _set_starting_weights(model: keras.Model, *, seed: int) -> None:
    """Draw the weights of these layers with NumPy, the same on every machine."""
    for layer in model.layers:
        if isinstance(layer, ProductProjection):
            size = layer.codebook.shape[0] // layer.window * layer.code_length
            shape = size, layer.code_length, layer.alphabet_size
            layer.set_weights([drawn_codebook(*shape, window=layer.window, seed=seed)])
        elif layer.name == BOTTLENECK:
            layer.set_weights([orthonormal_map(*layer.kernel.shape, seed=seed)])
        elif layer.name.startswith("hidden_") and layer.name.endswith(("_in", "_out")):
            shape = tuple(layer.kernel.shape)
            length = FIRST_PART if layer.name.endswith("_out") else 1.0
            stream = numpy_stream(seed, f"hashing/{layer.name}")
            values = (stream.standard_normal(shape) * length / np.sqrt(shape[1])).astype(np.float32)
            layer.set_weights([values, *layer.get_weights()[1:]])


def shape_of(model: keras.Model) -> dict[str, Any]:
    """Sizes of a hashing network, `key_size` (dimensions the key works on) and `key_kind` among them."""
    _, code_length, alphabet_size = model.output_shape
    layer = model.get_layer(KEYED_LAYER)
    width = model.get_layer("order").output.shape[1]
    return {
        "embedding_size": model.get_layer("embedding").output.shape[1],
        "code_length": code_length,
        "alphabet_size": alphabet_size,
        "keep": layer.keep,
        "key_size": width // KEY_KINDS[layer.kind].rounds,
        "key_kind": layer.kind,
    }


def head_program(model: keras.Model) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Steps of a hash network and the arrays they name, of which `iom.nn.hash_numpy.Head` is made."""
    known = {id(tensor): ("embedding", "order").index(tensor.name) for tensor in model.inputs}
    steps: list[dict[str, Any]] = []
    arrays: dict[str, Any] = {}
    for number, node in enumerate(graph_nodes(model)):
        name, settings, values = _step(node.operation)
        keys = {setting: f"{number}/{setting}" for setting in values}
        arrays |= {keys[setting]: value for setting, value in values.items()}
        reads = [known[id(tensor)] for tensor in node.input_tensors]
        steps.append({"step": name, "reads": reads, "settings": settings, "arrays": keys})
        known[id(node.output_tensors[0])] = number + 2
    return steps, arrays


def _step(layer: Any) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Name, settings and arrays."""
    kind = type(layer).__name__
    if kind in ("UnitLength", "Add"):
        return {"UnitLength": "unit", "Add": "sum"}[kind], {}, {}
    if kind == "Dense":
        return "dense", {}, dict(zip(("kernel", "bias"), layer.get_weights(), strict=False))
    if kind == "PReLU":
        return "prelu", {}, {"slopes": np.asarray(layer.alpha)}
    if kind in {key_kind.layer for key_kind in KEY_KINDS.values()}:
        return KEY_KINDS[layer.kind].step, {"keep": layer.keep}, {}
    if kind == "IoMProjection":
        settings = {
            "alphabet_size": layer.alphabet_size,
            "steps": layer.refinement_steps,
            "gain": layer.refinement_gain,
            "rate": RATE,
            "decay": DECAY,
        }
        return "projection", settings, {"kernel": np.asarray(layer.kernel)}
    if kind == "ProductProjection":
        settings = {name: getattr(layer, name) for name in ("code_length", "half_norm_bias", "window")}
        return PRODUCT, settings, {"codebook": np.asarray(layer.codebook)}
    raise WeightsError(f"{layer.name}: the layer {kind} has no step in iom/nn/hash_numpy.py")
