"""What a hasher can be exported to. To add one, write its file and add a line here."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from iom.export import keras_file, litert, onnx, onnx_int8, openvino, saved_model
from iom.export.context import Material
from iom.export.tfjs import write_tfjs

EXACT, HALF, INTEGER = 0.99, 0.97, 0.80
"""Least share of equal symbols.

Refined codes hold positions that are nearly ties: another order of additions moves up to 0.3 % of
the symbols of a 512x8 code, and any difference above float32's rounding 5 % of them (1536x2: 2 %;
plain codes: none and 1 %). That costs no accuracy; what counts there is the error rate. Where a
code keeps less than this under a turn of its embedding by a thousandth, that is the bound, less one
percentage point (`iom.export.check`); never for float32.
"""


class Format(NamedTuple):
    """One target.

    Attributes:
        suffix: Of the artefact.
        runtime: A key of `iom.models.sessions.RUNTIMES`, or `tfjs`.
        precision: What it computes with.
        write: Writes the artefact.
        least_equal_symbols: Bound of its check.
        largest_eer_loss: Bound of its check, a share (0.001 is 0.1 percentage point).
    """

    suffix: str
    runtime: str
    precision: str
    write: Callable[[Material, Path], None]
    least_equal_symbols: float
    largest_eer_loss: float


FORMATS: dict[str, Format] = {
    "keras": Format(".keras", "keras", "float32", keras_file.write_keras, EXACT, 0.001),
    "saved_model": Format(".saved_model", "tensorflow", "float32", saved_model.write_saved_model, EXACT, 0.001),
    "onnx": Format(".onnx", "onnxruntime", "float32", onnx.write_onnx, EXACT, 0.001),
    "onnx_int8": Format(".int8.onnx", "onnxruntime", "int8", onnx_int8.write_int8, INTEGER, 0.01),
    "openvino": Format(".xml", "openvino", "float32", openvino.write_openvino, EXACT, 0.001),
    "fast": Format(".fast.xml", "openvino", "bfloat16", openvino.write_openvino, HALF, 0.001),
    "litert": Format(".tflite", "litert", "float32", litert.write_float32, EXACT, 0.001),
    "litert_float16": Format(".float16.tflite", "litert", "float16", litert.write_float16, 0.94, 0.001),
    "litert_dynamic": Format(".dynamic.tflite", "litert", "dynamic int8", litert.write_dynamic_int8, INTEGER, 0.01),
    "litert_int8": Format(".int8.tflite", "litert", "int8", litert.write_full_int8, INTEGER, 0.01),
    "tfjs": Format(".tfjs", "tfjs", "float32", write_tfjs, EXACT, 0.001),
}
"""Name of a target to what it is."""
