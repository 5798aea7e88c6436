"""Export to TensorFlow's formats: Keras, SavedModel, and LiteRT in float32, float16 and with integers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from iom.errors import WeightsError
from iom.export.context import ExportContext
from iom.pretrained.importers.keras_files import save_model

HASH_NODES = ("hasher/", "codes/")
"""Beginnings of the names of the nodes behind the embedding."""


def write_keras(context: ExportContext, path: Path) -> None:
    """Write a `.keras` file for backbone and hash."""
    save_model(context.source.graph(), path)


def write_saved_model(context: ExportContext, path: Path) -> None:
    """Write a SavedModel folder with the signature `serving_default`."""
    import tensorflow as tf

    module = _serving_module(context)
    tf.saved_model.save(module, str(path), signatures={"serving_default": module.serve})


def frozen_saved_model(context: ExportContext) -> Path:
    """SavedModel with constant weights for LiteRT, whose converter would leave Keras' variables empty, and TF.js."""
    return context.once("saved_model", lambda: _write_frozen_model(context, context.scratch / "source.saved_model"))


def write_litert(context: ExportContext, path: Path) -> None:
    """Write LiteRT with weights and activations as they are."""
    _convert(_converter(context), path)


def write_litert_float16(context: ExportContext, path: Path) -> None:
    """Write LiteRT with weights in half precision; a CPU computes with them in float32."""
    import tensorflow as tf

    converter = _converter(context)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_types = [tf.float16]
    _convert(converter, path)


def write_litert_dynamic(context: ExportContext, path: Path) -> None:
    """Write LiteRT with weights as integers, activations as integers of a range found at each call."""
    import tensorflow as tf

    converter = _converter(context)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    _convert(converter, path)


def write_litert_int8(context: ExportContext, path: Path) -> None:
    """Write LiteRT with weights and activations as integers, with ranges seen on real faces.

    The hash stays in floats: on integers whole positions would tie.
    """
    import tensorflow as tf

    def samples() -> Iterator[dict[str, Any]]:
        for face, order in zip(context.faces, context.orders, strict=True):
            yield {"image": face[None].astype(np.float32), "order": order[None]}

    converter = _converter(context)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = samples
    debugger = tf.lite.experimental.QuantizationDebugger(
        converter=converter,
        debug_dataset=samples,
        debug_options=tf.lite.experimental.QuantizationDebugOptions(denylisted_nodes=_hash_nodes(context)),
    )
    path.write_bytes(debugger.get_nondebug_quantized_model())


def _serving_module(context: ExportContext) -> Any:
    """A module that holds the weights, and in `serve` their traced function of `image` and `order`."""
    import tensorflow as tf

    graph = context.source.graph()
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
    return module


def _write_frozen_model(context: ExportContext, path: Path) -> Path:
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    source = _serving_module(context)
    traced = source.serve.get_concrete_function()
    frozen = convert_variables_to_constants_v2(traced)
    names = sorted(traced.structured_outputs)  # a dictionary is flattened in order of its keys

    def constant(image: Any, order: Any) -> dict[str, Any]:
        feed = {"image": image, "order": order}
        inputs = [feed[tensor.name.split(":")[0]] for tensor in frozen.inputs]
        return dict(zip(names, frozen(*inputs), strict=True))

    module = tf.Module()
    module.constant = tf.function(constant, input_signature=source.serve.input_signature)
    tf.saved_model.save(module, str(path), signatures={"serving_default": module.constant})
    return path


def _converter(context: ExportContext) -> Any:
    import tensorflow as tf

    return tf.lite.TFLiteConverter.from_saved_model(str(frozen_saved_model(context)))


def _convert(converter: Any, path: Path) -> None:
    try:
        path.write_bytes(converter.convert())
    except Exception as error:  # the converter's own errors have no common root
        raise WeightsError(f"{path.name}: TensorFlow cannot convert this graph: {error}") from error


def _hash_nodes(context: ExportContext) -> list[str]:
    """Names of the results behind the embedding, as the converted graph has them."""
    from ai_edge_litert.interpreter import Interpreter

    details = Interpreter(model_content=_converter(context).convert()).get_tensor_details()
    names = [str(detail["name"]) for detail in details]
    return [name for name in names if any(part in name for part in HASH_NODES)]
