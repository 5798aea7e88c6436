"""Running LiteRT's format (`.tflite`)."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iom.errors import WeightsError, missing_extra
from iom.models.sessions.session import check_ends

SIGNATURE = "serving_default"


class LiteRtSession:
    """A LiteRT file.

    Ranges of activations that are chosen as they come could be those of a whole batch, and a code
    would depend on who else is in it: such a file gets one face a call.

    Args:
        path: The file.
        precision: Of the file.
        threads: Of a call; 0 takes all cores.
    """

    def __init__(self, path: Path, *, precision: str, threads: int = 0) -> None:
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError as error:
            raise missing_extra(f"running {path}", "litert", cause=error) from error
        try:
            self._interpreter = Interpreter(model_path=str(path), num_threads=threads or os.cpu_count() or 1)
            self._interpreter.allocate_tensors()  # fails for operations that LiteRT has not got
            signature = self._interpreter.get_signature_list()[SIGNATURE]
            check_ends(path, signature["inputs"], signature["outputs"])
            self._runner = self._interpreter.get_signature_runner(SIGNATURE)
            self._alone = precision.startswith("dynamic")
        except (ValueError, RuntimeError, KeyError) as error:
            raise WeightsError(f"{path}: LiteRT cannot read it: {error}") from error

    def run(self, images: NDArray[np.float32], orders: NDArray[np.int32]) -> tuple[NDArray[Any], NDArray[np.float32]]:
        """Codes and embeddings."""
        codes, rows = [], []
        step = 1 if self._alone else len(images)
        for start in range(0, len(images), step):
            part = slice(start, start + step)
            found = self._runner(image=images[part], order=orders[part])
            codes.append(found["codes"].copy())
            rows.append(found["embedding"].copy())
        return np.concatenate(codes), np.concatenate(rows)
