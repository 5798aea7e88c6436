"""OpenVINO's format. It is written from ONNX; the runtime decides what it computes with."""

from pathlib import Path

from iom.errors import missing_extra
from iom.export.context import Material


def write_openvino(material: Material, path: Path) -> None:
    """Write `.xml` and `.bin` with weights in float32.

    Raises:
        MissingExtraError: OpenVINO is not installed.
    """
    try:
        import openvino
    except ImportError as error:
        raise missing_extra("writing OpenVINO's format", "openvino", cause=error) from error
    source = material.scratch / "source.onnx"
    source.write_bytes(material.onnx.SerializeToString())
    openvino.save_model(openvino.convert_model(source), path, compress_to_fp16=False)
