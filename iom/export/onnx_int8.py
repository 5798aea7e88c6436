"""ONNX with integer weights and activations (QDQ), ranges seen on real faces."""

from pathlib import Path
from typing import Any

import numpy as np

from iom.errors import missing_extra
from iom.export.context import Material

QUANTISED = ("Conv", "Gemm", "Add", "PRelu")


def write_int8(material: Material, path: Path) -> None:
    """Write per-channel integer weights; the first layer, the last and the hash stay floats.

    Raises:
        MissingExtraError: onnxruntime is not installed.
    """
    try:
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    except ImportError as error:
        raise missing_extra("int8 in ONNX", "onnx", "onnxruntime", cause=error) from error

    class Faces(CalibrationDataReader):
        """One face after the other."""

        def __init__(self) -> None:
            self._pairs = iter(zip(material.faces, material.orders, strict=True))

        def get_next(self) -> dict[str, Any] | None:
            """The next inputs, or `None` behind the last."""
            pair = next(self._pairs, None)
            if pair is None:
                return None
            return {"image": pair[0][None].astype(np.float32), "order": pair[1][None]}

    source = material.scratch / "source.onnx"
    source.write_bytes(material.onnx.SerializeToString())
    quantize_static(
        source, path, Faces(), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        op_types_to_quantize=list(QUANTISED), nodes_to_exclude=_float_nodes(material.onnx),
    )  # fmt: skip


def _float_nodes(model: Any) -> list[str]:
    """The first convolution, the layer that makes the embedding, and all behind it."""
    names = [node.name for node in model.graph.node]
    behind = names.index("embedding")
    last = max(i for i, node in enumerate(model.graph.node[:behind]) if node.op_type in QUANTISED)
    first = next(node.name for node in model.graph.node if node.op_type == "Conv")
    return [first, *names[last:]]
