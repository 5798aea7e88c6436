"""ONNX recognisers under onnxruntime, on raw pixels: embeddings without TensorFlow."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iom.errors import WeightsError
from iom.pretrained.manifest import Statement

EMBEDDING_AXES = 2


class OnnxNetwork:
    """A recogniser in an ONNX file with one image as input and one embedding as output.

    Args:
        path: The file; its image is `(B, 3, S, S)` or `(B, S, S, 3)`.
        statement: The kind of input: raw RGB pixels are scaled and reordered as it says.
        threads: Of a call; 0 takes all cores.

    Raises:
        WeightsError: Not an ONNX file, or other inputs and outputs.
    """

    def __init__(self, path: Path, statement: Statement, *, threads: int = 0) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4  # it repeats on standard error what it raises
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its errors have no common root
            raise WeightsError(f"{path}: expected an ONNX model: onnxruntime cannot read it: {error}") from error
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1 or len(outputs) != 1:
            raise WeightsError(
                f"{path}: not a recognition network: expected one input and one output, received {len(inputs)} and "
                f"{len(outputs)}"
            )
        shape, size = inputs[0].shape, statement.size
        self._channels_first = len(shape) == 4 and shape[1] == 3
        sides = shape[2:] if self._channels_first else shape[1:3]
        if len(shape) != 4 or 3 not in (shape[1], shape[3]):
            raise WeightsError(f"{path}: expected a colour image (B, 3, S, S) or (B, S, S, 3), received {shape}")
        if any(isinstance(side, int) and side != size for side in sides):
            raise WeightsError(f"{path}: size: {size} is stated, the file holds {sides[0]}")
        self._batched = not isinstance(shape[0], int)
        self._input = inputs[0].name
        self._scale, self._offset = (np.float32(value) for value in statement.scaling)
        self._is_bgr = statement.colour_order == "BGR"
        self.path, self.statement = path, statement
        row = outputs[0].shape[-1]
        probe = np.zeros((1, size, size, 3), np.float32)
        self.embedding_size = row if isinstance(row, int) else int(self.predict_on_batch(probe).shape[-1])

    def predict_on_batch(self, pixels: NDArray[Any]) -> NDArray[np.float32]:
        """Embeddings `(B, D)`, not normalised, of raw RGB pixels 0..255 `(B, S, S, 3)`."""
        x = np.asarray(pixels, np.float32)[..., ::-1] if self._is_bgr else np.asarray(pixels, np.float32)
        if (float(self._scale), float(self._offset)) != (1.0, 0.0):
            x = x * self._scale + self._offset
        if self._channels_first:
            x = x.transpose(0, 3, 1, 2)
        x = np.ascontiguousarray(x)
        parts = [x] if self._batched else np.split(x, len(x))  # some exports take one image a call
        rows = [np.asarray(self._session.run(None, {self._input: part})[0], np.float32) for part in parts]
        found = np.concatenate(rows)
        if found.ndim != EMBEDDING_AXES:
            raise WeightsError(f"{self.path}: expected embeddings (B, D), the model returned {found.shape}")
        return found

    __call__ = predict_on_batch
