"""Export formats: the one table of the targets of `iom deploy`, from which its choices, checks and documents derive.

To add one, write its function and add a line here. Importing this module imports nothing heavy.
"""

from typing import NamedTuple

EXACT, HALF, INTEGER = 0.99, 0.97, 0.80
"""Lower bounds of the share of equal symbols.

Refined codes hold near ties: another order of additions moves up to 0.3 % of the symbols of a 512x8 code, and any
difference above float32's rounding 5 % of them (1536x2: 2 %; plain codes: none and 1 %), at no cost of accuracy. Where
the source itself keeps less under a turn of its embeddings by a thousandth, the bound is that share less one percentage
point (`iom.export.trial`), except for float32.
"""


class Format(NamedTuple):
    """An export format: suffix, runtime (of `iom.models.artifact`), arithmetic, bounds of its check.

    `writer` is a `module:function` of `iom.export` that takes an `ExportContext` and the path of the artefact; `extras`
    are those of `iom` that running needs (writing needs `train`, too); `max_eer_loss` is a share (0.001 is 0.1
    percentage point); `hashes` says whether the graph gives codes, else the head does, in NumPy. Of a format and its
    `others`, the one that passes its check and is quickest on this CPU is kept, under the same suffix.
    """

    suffix: str
    runtime: str
    precision: str
    writer: str
    extras: tuple[str, ...] = ()
    min_equal_symbols: float = EXACT
    max_eer_loss: float = 0.001
    others: tuple[str, ...] = ()
    hashes: bool = True


_OPENVINO, _LITERT = ("openvino",), ("litert",)
FORMATS: dict[str, Format] = {
    "keras": Format(".keras", "keras", "float32", "tensorflow:write_keras"),
    "saved_model": Format(".saved_model", "tensorflow", "float32", "tensorflow:write_saved_model"),
    "onnx": Format(".onnx", "onnxruntime", "float32", "onnx:write_onnx"),
    "embedder": Format(".onnx", "onnxruntime", "float32", "onnx:write_embedder", hashes=False),
    "onnx_int8": Format(".int8.onnx", "onnxruntime", "int8", "onnx:write_int8", (), INTEGER, 0.01),
    "openvino": Format(".xml", "openvino", "float32", "onnx:write_openvino", _OPENVINO),
    "openvino_int8": Format(".int8.xml", "openvino", "int8", "onnx:write_openvino_int8", _OPENVINO, HALF),
    "fast": Format(
        ".fast.xml",
        "openvino",
        "bfloat16",
        "onnx:write_openvino",
        _OPENVINO,
        HALF,
        others=("openvino_int8", "openvino"),
    ),
    "litert": Format(".tflite", "litert", "float32", "tensorflow:write_litert", _LITERT),
    "litert_float16": Format(".float16.tflite", "litert", "float16", "tensorflow:write_litert_float16", _LITERT, 0.94),
    "litert_dynamic": Format(
        ".dynamic.tflite", "litert", "dynamic int8", "tensorflow:write_litert_dynamic", _LITERT, INTEGER, 0.01
    ),
    "litert_int8": Format(".int8.tflite", "litert", "int8", "tensorflow:write_litert_int8", _LITERT, INTEGER, 0.01),
    "tfjs": Format(".tfjs", "tfjs", "float32", "tfjs:write_tfjs"),
    "web": Format(".web", "web", "float32", "web:write_web", hashes=False),
}
"""Name of a format, as of `iom deploy --to`, to its properties."""
