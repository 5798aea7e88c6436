"""TensorFlow's SavedModel, and the way to LiteRT and TF.js."""

from pathlib import Path
from typing import Any

from iom.export.context import Material


def write_saved_model(material: Material, path: Path) -> None:
    """Write a SavedModel folder with the signature `serving_default`."""
    import tensorflow as tf

    module, function = serving_function(material)
    signatures = {"serving_default": function}
    tf.saved_model.save(module, str(path), signatures=signatures)


def write_frozen_model(material: Material, path: Path) -> None:
    """Write a SavedModel whose weights are constants, for LiteRT and TF.js.

    LiteRT's converter keeps the variables of Keras as resources that nobody fills: NaN.
    """
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    _module, serve = serving_function(material)
    traced = serve.get_concrete_function()
    frozen = convert_variables_to_constants_v2(traced)
    names = sorted(traced.structured_outputs)  # a dictionary is flattened in order of its keys

    def constant(image: Any, order: Any) -> dict[str, Any]:
        feed = {"image": image, "order": order}
        inputs = [feed[tensor.name.split(":")[0]] for tensor in frozen.inputs]
        return dict(zip(names, frozen(*inputs), strict=True))

    module = tf.Module()
    module.constant = tf.function(constant, input_signature=serve.input_signature)
    signatures = {"serving_default": module.constant}
    tf.saved_model.save(module, str(path), signatures=signatures)


def serving_function(material: Material) -> tuple[Any, Any]:
    """A module that holds the weights, and its traced function of `image` and `order`."""
    import tensorflow as tf

    graph = material.source.graph()
    image, order = (graph.get_layer(name).output.shape[1:] for name in ("image", "order"))

    def serve(image: Any, order: Any) -> dict[str, Any]:
        found = graph({"image": image, "order": order}, training=False)
        return {name: found[name] for name in ("codes", "embedding")}

    module = tf.Module()
    signature = [
        tf.TensorSpec((None, *image), tf.float32, name="image"),
        tf.TensorSpec((None, *order), tf.int32, name="order"),
    ]
    module.graph, module.serve = graph, tf.function(serve, input_signature=signature)
    return module, module.serve
