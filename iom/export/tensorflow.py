"""Export to TensorFlow's formats: Keras, SavedModel, and LiteRT in float32, float16 and with integers."""

import functools
from pathlib import Path
from typing import Any

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
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    path = context.scratch / "source.saved_model"
    if path.exists():
        return path
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


def write_litert(context: ExportContext, path: Path, *, weights: str = "") -> None:
    """Write LiteRT with weights as they are, in half precision (`float16`) or as integers (`int8`).

    A CPU computes with half precision in float32. With integers, activations are integers of a range found at each
    call.
    """
    import tensorflow as tf

    converter = _converter(context, smaller=bool(weights))
    if weights == "float16":
        converter.target_spec.supported_types = [tf.float16]
    try:
        path.write_bytes(converter.convert())
    except Exception as error:  # the converter's own errors have no common root
        raise WeightsError(f"{path.name}: TensorFlow cannot convert this graph: {error}") from error


write_litert_float16 = functools.partial(write_litert, weights="float16")
write_litert_dynamic = functools.partial(write_litert, weights="int8")


def write_litert_int8(context: ExportContext, path: Path) -> None:
    """Write LiteRT with weights and activations as integers, with ranges seen on real faces.

    The hash stays in floats: on integers whole positions would tie.
    """
    import tensorflow as tf
    from ai_edge_litert.interpreter import Interpreter

    details = Interpreter(model_content=_converter(context).convert()).get_tensor_details()
    names = [str(detail["name"]) for detail in details]
    behind = [name for name in names if any(part in name for part in HASH_NODES)]
    converter = _converter(context, smaller=True)
    converter.representative_dataset = context.samples
    debugger = tf.lite.experimental.QuantizationDebugger(
        converter=converter,
        debug_dataset=context.samples,
        debug_options=tf.lite.experimental.QuantizationDebugOptions(denylisted_nodes=behind),
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


def _converter(context: ExportContext, *, smaller: bool = False) -> Any:
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_saved_model(str(frozen_saved_model(context)))
    converter.optimizations = [tf.lite.Optimize.DEFAULT] if smaller else []
    return converter
