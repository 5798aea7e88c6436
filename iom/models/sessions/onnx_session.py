"""Running ONNX in onnxruntime."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iom.errors import WeightsError, missing_extra
from iom.models.sessions.session import OUTPUTS, check_ends


class OnnxSession:
    """An ONNX file.

    Args:
        path: The file.
        precision: Of the file; onnxruntime computes with what is in there.
        threads: Of a call; 0 takes all cores.
    """

    def __init__(self, path: Path, *, precision: str, threads: int = 0) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise missing_extra(f"running {path}", "onnxruntime", cause=error) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its errors have no common root
            raise WeightsError(f"{path}: onnxruntime cannot read it: {error}") from error
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        check_ends(path, [end.name for end in inputs], [end.name for end in outputs])

    def run(self, images: NDArray[np.float32], orders: NDArray[np.int32]) -> tuple[NDArray[Any], NDArray[np.float32]]:
        """Codes and embeddings."""
        codes, rows = self._session.run(list(OUTPUTS), {"image": images, "order": orders})
        return codes, rows
