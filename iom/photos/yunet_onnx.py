"""YuNet (Wu et al., MIR 2023) under onnxruntime, which takes half the time OpenCV does."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iom.data.images import Pixels
from iom.errors import DataError, missing_extra

STRIDES = (8, 16, 32)
_BLOCK = 32
_OVERLAP = 0.3  # as OpenCV: of two boxes with more in common, the better stays
_AT_MOST = 5000
_OUTPUTS = tuple(f"{kind}_{stride}" for kind in ("cls", "obj", "bbox", "kps") for stride in STRIDES)


class YuNet:
    """Faces of pixels, like OpenCV's `FaceDetectorYN`.

    Args:
        weights: Its ONNX file, the one that takes any size.
        threads: Of one call; 0 leaves it to onnxruntime.

    Raises:
        MissingExtraError: The package `onnxruntime` is not installed.
        DataError: No YuNet that takes images of any size.
    """

    def __init__(self, weights: Path, *, threads: int = 1) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise missing_extra("the detector yunet_onnx", "yunet-onnx", cause=error) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4  # it repeats on standard error what it raises
        try:
            self._session = onnxruntime.InferenceSession(str(weights), options, providers=["CPUExecutionProvider"])
            self._input = self._session.get_inputs()[0].name
            for size in (_BLOCK, 2 * _BLOCK):
                self(np.zeros((size, size, 3), np.uint8), lowest_score=1.0)
        except Exception as error:  # onnxruntime's own have no common base
            raise DataError(
                f"{weights}: onnxruntime cannot run it as a YuNet detector of images of any size"
            ) from error

    def __call__(self, image: Pixels, *, lowest_score: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Landmarks `(N, 5, 2)` and scores `(N,)`, best first.

        The points begin with the person's right eye, which is left in the image.
        """
        height, width = image.shape[:2]
        rows, columns = (-(-side // _BLOCK) * _BLOCK for side in (height, width))
        planes = np.zeros((1, 3, rows, columns), np.float32)
        planes[0, :, :height, :width] = image[:, :, ::-1].transpose(2, 0, 1)  # as BGR
        values = dict(zip(_OUTPUTS, self._session.run(_OUTPUTS, {self._input: planes}), strict=True))
        found = [
            _decoded(
                [values[f"{kind}_{stride}"][0] for kind in ("cls", "obj", "bbox", "kps")],
                stride,
                columns // stride,
                lowest_score,
            )
            for stride in STRIDES
        ]
        scores, boxes, points = (np.concatenate(part) for part in zip(*found, strict=True))
        order = np.argsort(-scores, kind="stable")[:_AT_MOST]
        kept = order[_distinct(boxes[order])]
        return points[kept], scores[kept]


def _decoded(
    values: list[NDArray[Any]], stride: int, columns: int, lowest_score: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Scores, boxes (left, top, right, bottom) and points of the cells of one stride."""
    face, is_object, box, points = (np.asarray(value, np.float64) for value in values)
    scores = np.sqrt(np.clip(face[:, 0], 0, 1) * np.clip(is_object[:, 0], 0, 1))
    cells = np.flatnonzero(scores >= lowest_score)
    places = np.stack([cells % columns, cells // columns], axis=1)
    middle = (places + box[cells, :2]) * stride
    half = np.exp(np.minimum(box[cells, 2:], 20.0)) * stride / 2
    corners = np.concatenate([middle - half, middle + half], axis=1)
    found = (points[cells].reshape(-1, 5, 2) + places[:, None]) * stride
    return scores[cells], corners, found


def _distinct(boxes: NDArray[np.float64]) -> NDArray[np.int64]:
    """Rows that no earlier kept row overlaps by more than `_OVERLAP`."""
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    left, kept = np.arange(len(boxes)), []
    while len(left):
        first, left = left[0], left[1:]
        kept.append(first)
        low = np.maximum(boxes[first, :2], boxes[left, :2])
        high = np.minimum(boxes[first, 2:], boxes[left, 2:])
        common = np.prod(np.maximum(high - low, 0.0), axis=1)
        left = left[common <= _OVERLAP * (areas[first] + areas[left] - common)]
    return np.array(kept, np.int64)
