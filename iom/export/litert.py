"""LiteRT (TensorFlow Lite), in float32, float16 and with integers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from iom.errors import WeightsError
from iom.export.context import Material

HASH_NODES = ("hasher/", "codes/")
"""Names of the nodes behind the embedding start so."""


def write_float32(material: Material, path: Path) -> None:
    """Write weights and activations as they are."""
    _write(_converter(material), path)


def write_float16(material: Material, path: Path) -> None:
    """Write weights in half precision; they are computed with in float32 on a CPU."""
    import tensorflow as tf

    converter = _converter(material)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_types = [tf.float16]
    _write(converter, path)


def write_dynamic_int8(material: Material, path: Path) -> None:
    """Write weights as integers; activations become integers as they come, each with its range."""
    import tensorflow as tf

    converter = _converter(material)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    _write(converter, path)


def write_full_int8(material: Material, path: Path) -> None:
    """Write weights and activations as integers, with ranges seen on real faces.

    The hash behind the embedding stays in floats: on integers whole positions would tie, and a
    code would say which symbol comes first instead of which responds most.
    """
    import tensorflow as tf

    converter = _converter(material)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]

    def samples() -> Iterator[dict[str, Any]]:
        for face, order in zip(material.faces, material.orders, strict=True):
            yield {"image": face[None].astype(np.float32), "order": order[None]}

    converter.representative_dataset = samples
    debugger = tf.lite.experimental.QuantizationDebugger(
        converter=converter,
        debug_dataset=samples,
        debug_options=tf.lite.experimental.QuantizationDebugOptions(denylisted_nodes=_hash_nodes(material)),
    )
    path.write_bytes(debugger.get_nondebug_quantized_model())


def _converter(material: Material) -> Any:
    import tensorflow as tf

    return tf.lite.TFLiteConverter.from_saved_model(str(material.saved_model))


def _write(converter: Any, path: Path) -> None:
    try:
        path.write_bytes(converter.convert())
    except Exception as error:  # the converter's own errors have no common root
        raise WeightsError(f"{path.name}: TensorFlow cannot convert this graph: {error}") from error


def _hash_nodes(material: Material) -> list[str]:
    """Names of the results behind the embedding, as the converted graph has them."""
    from ai_edge_litert.interpreter import Interpreter

    content = _converter(material).convert()
    details = Interpreter(model_content=content).get_tensor_details()
    return [detail["name"] for detail in details if _is_of_hash(detail["name"])]


def _is_of_hash(name: str) -> bool:
    return any(part in name for part in HASH_NODES)
