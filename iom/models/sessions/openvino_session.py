"""Running OpenVINO's format (`.xml` and `.bin`), in float32 or bfloat16."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iom.errors import WeightsError, missing_extra
from iom.models.sessions.session import check_ends

HINTS = {"float32": "f32", "bfloat16": "bf16"}


def cpu_capabilities() -> list[str]:
    """What this CPU computes fast in OpenVINO, such as FP32, BF16, INT8.

    Raises:
        MissingExtraError: OpenVINO is not installed.
    """
    try:
        import openvino
    except ImportError as error:
        raise missing_extra("running an OpenVINO model", "openvino", cause=error) from error
    return [str(name) for name in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")]


def check_precision(name: str, precision: str) -> None:
    """See that this CPU has a precision.

    Args:
        name: What computes in it, for the error.
        precision: A key of `HINTS`.

    Raises:
        WeightsError: It has not.
        MissingExtraError: OpenVINO is not installed.
    """
    if precision != "bfloat16":
        return
    able = cpu_capabilities()
    if "BF16" not in able:
        raise WeightsError(
            f"{name}: computes in bfloat16, which this CPU does not have (it has "
            f"{', '.join(able)}); take another format, such as openvino, the same in float32, or "
            "onnx, and enrol with that"
        )


class OpenVinoSession:
    """An OpenVINO model, compiled for the precision its manifest states.

    The precision is never left to the library, which takes bfloat16 where the CPU has it and
    float32 elsewhere: the same artefact would give other symbols on another machine.

    Args:
        path: The `.xml` file.
        precision: A key of `HINTS`.
        threads: Of a call; 0 takes all cores.
    """

    def __init__(self, path: Path, *, precision: str, threads: int = 0) -> None:
        try:
            import openvino
        except ImportError as error:
            raise missing_extra(f"running {path}", "openvino", cause=error) from error
        core = openvino.Core()
        check_precision(str(path), precision)
        settings = {"INFERENCE_PRECISION_HINT": HINTS.get(precision, "f32"), "NUM_STREAMS": "1"}
        if threads:
            settings["INFERENCE_NUM_THREADS"] = str(threads)
        try:
            model = core.read_model(path)
            ends = [[name for end in side for name in end.get_names()]
                    for side in (model.inputs, model.outputs)]  # fmt: skip
            check_ends(path, *ends)
            self._compiled = core.compile_model(model, "CPU", settings)
        except RuntimeError as error:
            raise WeightsError(f"{path}: OpenVINO cannot read it: {error}") from error

    def run(self, images: NDArray[np.float32], orders: NDArray[np.int32]) -> tuple[NDArray[Any], NDArray[np.float32]]:
        """Codes and embeddings."""
        found = self._compiled({"image": images, "order": orders}, share_inputs=True)
        return found["codes"], found["embedding"]
