"""ONNX, for onnxruntime and whatever else reads it."""

from pathlib import Path
from typing import Any

import keras

from iom.errors import missing_extra
from iom.export.context import Material
from iom.export.onnx_graph import OnnxGraph, add_keras_graph
from iom.export.onnx_hash import HASH_LAYERS
from iom.export.onnx_pixels import fold_pixel_scaling


def onnx_model(backbone: keras.Model, hasher: keras.Model) -> Any:
    """One graph from pixels and order to code and embedding.

    Args:
        backbone: Raw RGB pixels to embedding, batch norms folded.
        hasher: Embedding and order to responses.

    Returns:
        An ONNX model: `image` `(B, S, S, 3)` float32 0..255 and `order` `(B, W)` int32 to `codes`
        `(B, M)` int32 and `embedding` `(B, D)` float32, not of unit length.
    """
    onnx = require_onnx()
    graph = OnnxGraph()
    raw = add_keras_graph(graph, backbone, {backbone.inputs[0].name: "image"})
    fold_pixel_scaling(graph, backbone.inputs[0].shape[1])
    embedding = graph.add("Identity", [raw], "embedding")
    names = {"embedding": embedding, "order": "order"}
    responses = add_keras_graph(graph, hasher, names, more=HASH_LAYERS)
    indexes = graph.add("ArgMax", [responses], "indexes", axis=2, keepdims=0, select_last_index=0)
    graph.add("Cast", [indexes], "codes", to=onnx.TensorProto.INT32)
    floats, integers = onnx.TensorProto.FLOAT, onnx.TensorProto.INT32
    size = backbone.inputs[0].shape[1]
    width = hasher.get_layer("order").output.shape[1]
    return graph.model(
        {"image": (floats, ["batch", size, size, 3]), "order": (integers, ["batch", width])},
        {
            "codes": (integers, ["batch", hasher.output_shape[1]]),
            "embedding": (floats, ["batch", backbone.output_shape[1]]),
        },
    )


def write_onnx(material: Material, path: Path) -> None:
    """Write an `.onnx` file."""
    require_onnx().save_model(material.onnx, str(path))


def require_onnx() -> Any:
    """The package `onnx`.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        import onnx
    except ImportError as error:
        raise missing_extra("writing ONNX", "onnx", cause=error) from error
    return onnx
