"""Face detectors with five landmarks behind one interface: MTCNN, which is packaged, and YuNet by the user's file."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from iom._registry import lookup
from iom.errors import DataError, needs_extra
from iom.photos.align import Face
from iom.photos.images import Pixels
from iom.photos.mtcnn import Mtcnn

MAX_SIDE = 1024
"""Photographs are shrunk to this side for the detector; landmarks are those of the photograph."""
MIN_SCORE = 0.3
"""Lowest score that any detector reports."""


YUNET_STRIDES = (8, 16, 32)
_BLOCK = 32
_OVERLAP = 0.3  # as OpenCV: of two boxes with more in common, the better stays
_MAX_BOXES = 5000
_OUTPUTS = tuple(f"{kind}_{stride}" for kind in ("cls", "obj", "bbox", "kps") for stride in YUNET_STRIDES)

Detect = Callable[[Pixels], list[Face]]
"""Faces of an RGB photograph `(H, W, 3)`, best score first."""


@dataclasses.dataclass(frozen=True)
class Detector:
    """A choice of `DETECTORS`."""

    build: Callable[[Path | None, int], Detect]
    """Builder, from the file of its weights, or `None` where it brings them, and the number of threads."""
    min_score: float
    """Faces below are not reported, unless asked for."""


def build_detector(name: str, *, weights: Path | None = None, max_side: int = MAX_SIDE, threads: int = 1) -> Detect:
    """The detector `name`, working on photographs of any size; `threads` 0: one for each core."""
    detect = lookup(DETECTORS, name, "detector").build(weights, threads)

    def detect_any_size(image: Pixels) -> list[Face]:
        height, width = image.shape[:2]
        shrink = min(1.0, max_side / max(height, width))
        if shrink == 1.0:
            return detect(image)
        size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
        small = np.asarray(Image.fromarray(image).resize(size, reducing_gap=1.0))
        # Pixel centres: the corner of the picture, half a pixel before the first, stays in place.
        ratio = np.array([width / size[0], height / size[1]])
        return [dataclasses.replace(face, points=(face.points + 0.5) * ratio - 0.5) for face in detect(small)]

    return detect_any_size


def _mtcnn(weights: Path | None, threads: int) -> Detect:
    """The packaged detector, `iom.photos.mtcnn`."""
    if weights is not None:
        raise DataError(f"{weights}: the detector mtcnn brings its own weights; give none")
    network = Mtcnn(threads=threads)
    return lambda image: _faces(*network(image, min_score=MIN_SCORE))


def _yunet(weights: Path | None, _: int) -> Detect:
    """YuNet (Wu et al., MIR 2023) in OpenCV's `FaceDetectorYN`; its ONNX file is the user's."""
    path = _onnx_file("yunet", weights)
    with needs_extra("the detector yunet", "yunet"):
        import cv2
    network: Any = None
    try:
        network = cv2.FaceDetectorYN.create(str(path), "", (320, 320), score_threshold=MIN_SCORE)
        network.detect(np.zeros((320, 320, 3), np.uint8))
    except cv2.error as error:
        raise DataError(f"{path}: OpenCV cannot run it as a YuNet detector") from error

    def detect(image: Pixels) -> list[Face]:
        network.setInputSize((image.shape[1], image.shape[0]))
        _, rows = network.detect(np.ascontiguousarray(image[:, :, ::-1]))
        if rows is None:
            return []
        # Row: box (4), landmarks from the person's right eye on, which is left in the image, score.
        return _faces(rows[:, 4:14], rows[:, 14])

    return detect


def _yunet_onnx(weights: Path | None, threads: int) -> Detect:
    """YuNet under onnxruntime; its ONNX file is the user's."""
    network = YuNet(_onnx_file("yunet_onnx", weights), threads=threads)
    return lambda image: _faces(*network(image, min_score=MIN_SCORE))


def _onnx_file(detector: str, weights: Path | None) -> Path:
    if weights is None or not weights.is_file():
        received = "none" if weights is None else f"{weights}, which does not exist"
        raise DataError(f"the detector {detector} needs its ONNX file (--detector-weights FILE), received {received}")
    return weights


def _faces(points: NDArray[Any], scores: NDArray[Any]) -> list[Face]:
    """Faces by falling score; points `(N, 5, 2)` or `(N, 10)` that are not finite are none."""
    order = np.argsort(-scores, kind="stable")
    points = np.asarray(points, np.float64).reshape(-1, 5, 2)
    whole = np.asarray(np.isfinite(points).all(axis=(1, 2)))
    return [Face(points[i], float(scores[i])) for i in order if whole[i]]


class YuNet:
    """Faces of pixels, like OpenCV's `FaceDetectorYN`, by the ONNX file that takes any size."""

    def __init__(self, weights: Path, *, threads: int = 1) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4  # it repeats on standard error what it raises
        try:
            self._session = onnxruntime.InferenceSession(str(weights), options, providers=["CPUExecutionProvider"])
            self._input = self._session.get_inputs()[0].name
            for size in (_BLOCK, 2 * _BLOCK):
                self(np.zeros((size, size, 3), np.uint8), min_score=1.0)
        except Exception as error:  # onnxruntime's own have no common base
            raise DataError(
                f"{weights}: onnxruntime cannot run it as a YuNet detector of images of any size"
            ) from error

    def __call__(self, image: Pixels, *, min_score: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Landmarks `(N, 5, 2)`, the eye on the left of the image first, and scores `(N,)`, best first."""
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
                min_score,
            )
            for stride in YUNET_STRIDES
        ]
        scores, boxes, points = (np.concatenate(part) for part in zip(*found, strict=True))
        order = np.argsort(-scores, kind="stable")[:_MAX_BOXES]
        kept = order[_distinct(boxes[order])]
        return points[kept], scores[kept]


def _decoded(
    values: list[NDArray[Any]], stride: int, columns: int, min_score: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Scores, boxes (left, top, right, bottom) and points of the cells of one stride."""
    face, is_object, box, points = (np.asarray(value, np.float64) for value in values)
    scores = np.sqrt(np.clip(face[:, 0], 0, 1) * np.clip(is_object[:, 0], 0, 1))
    cells = np.flatnonzero(scores >= min_score)
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


DETECTORS = {
    "mtcnn": Detector(_mtcnn, min_score=0.9),
    "yunet": Detector(_yunet, min_score=0.6),
    "yunet_onnx": Detector(_yunet_onnx, min_score=0.6),
}
