"""Face detectors with five landmarks, behind one interface; each an extra of the installation."""

import contextlib
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from iom._registry import lookup
from iom._tensorflow_log import silence
from iom.data.images import Pixels
from iom.errors import DataError, missing_extra

LARGEST_SIDE = 1024
"""A photograph is shrunk to it for the detector; landmarks are of the photograph again."""
LOWEST_SCORE = 0.3
"""Below it a detector finds nothing, whatever is asked for."""


@dataclasses.dataclass(frozen=True, eq=False)
class Face:
    """One face of a photograph: `points` (5, 2) as in `iom.photos.align`, score in 0..1."""

    points: NDArray[np.float64]
    score: float


Detect = Callable[[Pixels], list[Face]]
"""Faces of an RGB photograph `(H, W, 3)`, best score first."""


@dataclasses.dataclass(frozen=True)
class Detector:
    """A choice of `DETECTORS`."""

    build: Callable[[Path | None], Detect]
    """Given the file of its weights, or `None` where it brings them."""
    min_score: float
    """Faces below are not reported, unless asked for."""


def build_detector(name: str, *, weights: Path | None = None, largest_side: int = LARGEST_SIDE) -> Detect:
    """The detector `name`, working on photographs of any size.

    Raises:
        ConfigError: Unknown name.
        MissingExtraError: Its package is not installed.
        DataError: It needs a file of weights, and there is none or a damaged one.
    """
    detect = lookup(DETECTORS, name, "detector").build(weights)

    def detect_any_size(image: Pixels) -> list[Face]:
        height, width = image.shape[:2]
        shrink = min(1.0, largest_side / max(height, width))
        if shrink == 1.0:
            return detect(image)
        size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
        small = np.asarray(Image.fromarray(image).resize(size, reducing_gap=1.0))
        # Pixel centres: the corner of the picture, half a pixel before the first, stays in place.
        ratio = np.array([width / size[0], height / size[1]])
        return [dataclasses.replace(face, points=(face.points + 0.5) * ratio - 0.5) for face in detect(small)]

    return detect_any_size


def use_one_core(name: str) -> None:
    """Let the detector `name` use one core in this process; before it is built."""
    with contextlib.suppress(ImportError):  # building it says what is missing
        if name == "mtcnn":
            silence()
            import tensorflow as tf

            tf.config.threading.set_intra_op_parallelism_threads(1)
            tf.config.threading.set_inter_op_parallelism_threads(1)
        elif name == "yunet":
            import cv2

            cv2.setNumThreads(1)


def _mtcnn(weights: Path | None) -> Detect:
    """MTCNN (Zhang et al., IEEE SPL 2016) of the package `mtcnn`, which carries its weights."""
    if weights is not None:
        raise DataError(f"{weights}: the detector mtcnn brings its own weights; give none")
    try:
        from mtcnn import MTCNN
    except ImportError as error:
        raise missing_extra("the detector mtcnn", "align", cause=error) from error
    network = MTCNN()

    def detect(image: Pixels) -> list[Face]:
        # Not "json", which rounds landmarks to whole pixels. Row: image, box (4), score, the five
        # x, the five y (its documentation says x y by turns, and is wrong).
        rows = network.detect_faces(
            image, output_type="numpy", box_format="xyxy", fit_to_image=False, threshold_onet=LOWEST_SCORE
        )
        rows = np.asarray(rows, np.float64).reshape(-1, 16)
        return _faces(rows[:, 6:].reshape(-1, 2, 5).transpose(0, 2, 1), rows[:, 5])

    return detect


def _yunet(weights: Path | None) -> Detect:
    """YuNet (Wu et al., MIR 2023) in OpenCV's `FaceDetectorYN`; its ONNX file is the user's."""
    if weights is None or not weights.is_file():
        received = "none" if weights is None else f"{weights}, which is not there"
        raise DataError(
            "the detector yunet needs its ONNX file (--weights FILE; of iom hash: "
            f"--detector-weights FILE), received {received}"
        )
    try:
        import cv2
    except ImportError as error:
        raise missing_extra("the detector yunet", "yunet", cause=error) from error
    network: Any = None
    try:
        network = cv2.FaceDetectorYN.create(str(weights), "", (320, 320), score_threshold=LOWEST_SCORE)
        network.detect(np.zeros((320, 320, 3), np.uint8))
    except cv2.error as error:
        raise DataError(f"{weights}: OpenCV cannot run it as a YuNet detector") from error

    def detect(image: Pixels) -> list[Face]:
        network.setInputSize((image.shape[1], image.shape[0]))
        _, rows = network.detect(np.ascontiguousarray(image[:, :, ::-1]))
        if rows is None:
            return []
        # Row: box (4), landmarks from the person's right eye on, which is left in the image, score.
        return _faces(rows[:, 4:14], rows[:, 14])

    return detect


def _yunet_onnx(weights: Path | None) -> Detect:
    """YuNet under onnxruntime; its ONNX file is the user's."""
    if weights is None or not weights.is_file():
        received = "none" if weights is None else f"{weights}, which is not there"
        raise DataError(
            "the detector yunet_onnx needs its ONNX file (--weights FILE; of iom hash: "
            f"--detector-weights FILE), received {received}"
        )
    from iom.photos.yunet_onnx import YuNet

    network = YuNet(weights)
    return lambda image: _faces(*network(image, lowest_score=LOWEST_SCORE))


def _faces(points: NDArray[Any], scores: NDArray[Any]) -> list[Face]:
    """Faces by falling score; points `(N, 5, 2)` or `(N, 10)` that are not finite are none."""
    order = np.argsort(-scores, kind="stable")
    points = np.asarray(points, np.float64).reshape(-1, 5, 2)
    whole = np.asarray(np.isfinite(points).all(axis=(1, 2)))
    return [Face(points[i], float(scores[i])) for i in order if whole[i]]


DETECTORS = {
    "mtcnn": Detector(_mtcnn, min_score=0.9),
    "yunet": Detector(_yunet, min_score=0.6),
    "yunet_onnx": Detector(_yunet_onnx, min_score=0.6),
}
