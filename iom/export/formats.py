"""Export formats: the one table of what `iom deploy` writes, from which its choices, checks and documents derive.

To add one, write its function and add a line here. Importing this module imports nothing heavy.
"""

from typing import NamedTuple

EXACT, HALF, INTEGER = 0.99, 0.97, 0.80
"""Lower bounds of the share of equal symbols.

Refined codes hold positions that are nearly ties: another order of additions moves up to 0.3 % of the symbols of a
512x8 code, and any difference above float32's rounding 5 % of them (1536x2: 2 %; plain codes: none and 1 %). That costs
no accuracy; the error rate counts there. Where a code keeps less than this when its embedding is turned by a
thousandth, that share less one percentage point is the bound (`iom.export.check`), except for float32.
"""


class Format(NamedTuple):
    """An export format.

    Attributes:
        suffix: Of the artefact.
        runtime: A key of `iom.models.sessions.RUNTIMES`, or `tfjs`.
        precision: Arithmetic it computes with.
        writer: `module:function` in `iom.export`; takes an `ExportContext` and the path of the artefact.
        extras: Extras of `iom` that writing and running need.
        min_equal_symbols: Bound of its check.
        max_eer_loss: Bound of its check, a share (0.001 is 0.1 percentage point).
    """

    suffix: str
    runtime: str
    precision: str
    writer: str
    extras: tuple[str, ...] = ()
    min_equal_symbols: float = EXACT
    max_eer_loss: float = 0.001


_ONNX, _OPENVINO, _LITERT = ("onnx", "onnxruntime"), ("onnx", "openvino"), ("litert",)
FORMATS: dict[str, Format] = {
    "keras": Format(".keras", "keras", "float32", "tensorflow:write_keras"),
    "saved_model": Format(".saved_model", "tensorflow", "float32", "tensorflow:write_saved_model"),
    "onnx": Format(".onnx", "onnxruntime", "float32", "onnx:write_onnx", _ONNX),
    "onnx_int8": Format(".int8.onnx", "onnxruntime", "int8", "onnx:write_int8", _ONNX, INTEGER, 0.01),
    "openvino": Format(".xml", "openvino", "float32", "onnx:write_openvino", _OPENVINO),
    "fast": Format(".fast.xml", "openvino", "bfloat16", "onnx:write_openvino", _OPENVINO, HALF),
    "litert": Format(".tflite", "litert", "float32", "tensorflow:write_litert", _LITERT),
    "litert_float16": Format(".float16.tflite", "litert", "float16", "tensorflow:write_litert_float16", _LITERT, 0.94),
    "litert_dynamic": Format(
        ".dynamic.tflite", "litert", "dynamic int8", "tensorflow:write_litert_dynamic", _LITERT, INTEGER, 0.01
    ),
    "litert_int8": Format(".int8.tflite", "litert", "int8", "tensorflow:write_litert_int8", _LITERT, INTEGER, 0.01),
    "tfjs": Format(".tfjs", "tfjs", "float32", "tfjs:write_tfjs"),
}
"""Name of a format, as of `iom deploy --to`, to its properties."""
