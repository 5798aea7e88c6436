"""MTCNN (Zhang et al., IEEE SPL 2016) under onnxruntime: the packaged detector of faces with five landmarks.

Weights, thresholds and steps are those of the registry package `mtcnn` 1.0.0 (MIT), whose landmarks it gives; see
`NOTICE` in `mtcnn.bundled`. `iom.pretrained.importers.mtcnn` makes the files there.

The first network scores a window of 12 pixels at every place of a pyramid of smaller and smaller images; the second
and third look at the windows that are left, again and larger, move their edges, and the third gives the landmarks.
"""

import functools
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iom.photos.align import TEMPLATE
from iom.photos.images import Pixels

FOLDER = Path(__file__).parent / "mtcnn.bundled"
NETWORKS = {"pnet": 0, "rnet": 24, "onet": 48}
"""Name to side of the image in pixels, 0: any."""
MIN_FACE = 20
"""Side in pixels of the smallest face that is looked for."""
SCALE = 0.709
"""Of one level of the pyramid to that before."""
PROPOSED, REFINED = 0.6, 0.7
"""Scores below which a box does not come to the second and to the third network."""
ALIGNED_SCORE, ALIGNED_OFFSET = 0.9, 18.0
"""An aligned face has a box of more than this score and less than this mean distance of its landmarks, in pixels."""
_ALIGNED = np.array(
    [
        (56 + beside - half, middle - half, 56 + beside + half, middle + half)
        for half, beside, middle in itertools.product((40, 48, 56), (-12, 12), (62, 74))
    ],
    np.float64,
)
"""Boxes around the face of a crop of 112 pixels: of three sizes, at four places, since profiles lie aside."""
_CELL, _STRIDE = 12, 2
_MAX_BOXES = 5000
_OUTSIDE = 127.5
_BLOCK = 512
_BATCH = 16  # of patches: what is between the layers stays in the cache

Floats = NDArray[np.float64]


class Mtcnn:
    """Faces of RGB pixels `(H, W, 3)` uint8; `threads` for each network, 0: one for each core."""

    def __init__(self, *, threads: int = 1) -> None:
        self._threads = threads

    def __call__(self, image: Pixels, *, min_score: float) -> tuple[Floats, Floats]:
        """Landmarks `(N, 5, 2)`, the eye on the left of the image first, and scores `(N,)`, best first."""
        boxes = self._proposed(image)
        offsets = self._answers("rnet", image, boxes)
        scores = _sigmoid(offsets[:, -1])
        good = scores > REFINED
        boxes, scores = _moved(boxes, offsets)[good], scores[good]
        boxes = _squares(boxes[_best(boxes, scores, 0.7)])
        answers, points, scores = self._third(image, boxes)
        good = scores > min_score
        boxes, points, scores = _moved(boxes, answers)[good], points[good], scores[good]
        kept = _best(boxes, scores, 0.7, of_smaller=True)
        return points[kept], scores[kept]

    def holds_face(self, crop: Pixels) -> bool:
        """Whether an aligned crop `(112, 112, 3)` shows a face, with its landmarks about where they belong."""
        _, points, scores = self._third(crop, _ALIGNED)
        offsets = np.linalg.norm(points - TEMPLATE, axis=2).mean(axis=1)
        return bool(((scores > ALIGNED_SCORE) & (offsets < ALIGNED_OFFSET)).any())

    def _third(self, image: Pixels, boxes: Floats) -> tuple[Floats, Floats, Floats]:
        """Answers of the third network about boxes; from them landmarks `(N, 5, 2)` and scores `(N,)`."""
        answers = self._answers("onet", image, boxes)
        corners, sides = boxes[:, None, :2], (boxes[:, None, 2:] - boxes[:, None, :2]) + 1
        points = answers[:, 4:14].reshape(-1, 2, 5).transpose(0, 2, 1) * sides + corners - 1
        return answers, points, _sigmoid(answers[:, -1])

    def _run(self, network: str, images: NDArray[np.float32]) -> Floats:
        (answers,) = _session(network, self._threads).run(None, {"image": images})
        return np.asarray(answers, np.float64)

    def _answers(self, network: str, image: Pixels, boxes: Floats) -> Floats:
        """Answers of a network on boxes of the image, a row for each."""
        parts = [
            self._run(network, _patches(image, boxes[i : i + _BATCH], NETWORKS[network]))
            for i in range(0, max(len(boxes), 1), _BATCH)
        ]
        return np.concatenate(parts)

    def _proposed(self, image: Pixels) -> Floats:
        """Square boxes (left, top, right, bottom) `(N, 4)` that the first network finds on any scale."""
        boxes, scores = [np.zeros((0, 4))], [np.zeros(0)]
        rows = image.reshape(len(image), -1).astype(np.float32)
        sums = np.zeros((len(rows) + 1, rows.shape[1]), np.float32)  # exact: whole numbers below 2 ** 24
        for i, row in enumerate(rows):
            np.add(sums[i], row, out=sums[i + 1])
        for scale in _scales(min(image.shape[:2])):
            found, score = self._proposed_at(rows, sums, image.shape, scale)
            kept = _best(found, score, 0.5)
            boxes.append(found[kept])
            scores.append(score[kept])
        found = np.concatenate(boxes)
        return _squares(found[_best(found, np.concatenate(scores), 0.7)])

    def _proposed_at(
        self, rows: NDArray[np.float32], sums: NDArray[np.float32], shape: tuple[int, ...], scale: float
    ) -> tuple[Floats, Floats]:
        height, width = (int(side * scale) for side in shape[:2])
        lines = _averaged_lines(rows, sums, height).reshape(height, shape[1], 3)
        columns = np.ascontiguousarray(lines.transpose(1, 0, 2)).reshape(shape[1], -1)
        small = _averaged(columns, width).reshape(width, height, 3)
        answers = self._run("pnet", small.transpose(1, 0, 2)[None])[0]
        down, across = np.nonzero(answers[4] > math.log(PROPOSED / (1 - PROPOSED)))
        corner = np.stack([across, down], axis=1) * _STRIDE
        offsets = answers[:4, down, across].T * (_CELL - 1)
        boxes = np.concatenate([corner + 1, corner + _CELL], axis=1) + offsets
        return boxes / scale, _sigmoid(answers[4, down, across])


@functools.cache
def _session(network: str, threads: int) -> Any:
    """The network under onnxruntime, opened when it is first needed and shared."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(FOLDER / f"{network}.onnx"), options, providers=["CPUExecutionProvider"])


def _scales(side: int) -> Floats:
    """Scales at which the first network looks at an image of this shorter side."""
    levels = round(-math.log(side / _CELL) / math.log(SCALE) - 1)
    return np.asarray(_CELL / MIN_FACE * SCALE ** np.arange(levels), np.float64)


def _averaged_lines(rows: NDArray[np.float32], sums: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """`_averaged` of whole numbers, given the sums of the rows before each: faster where there are many bands."""
    size = len(rows)
    edges = np.arange(count + 1) * (size / count)
    first = np.minimum(np.floor(edges).astype(np.int64), size - 1)
    parts = rows[first] * (edges - first).astype(np.float32)[:, None]
    before = sums[first]
    return np.asarray((before[1:] - before[:-1] + (parts[1:] - parts[:-1])) * np.float32(count / size))


def _averaged(rows: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """Rows `(size, K)` averaged to `count` bands of equal width, parts of rows by their share."""
    size = len(rows)
    edges = np.arange(count + 1) * (size / count)
    first = np.floor(edges[:-1]).astype(np.int64)
    averaged = np.zeros((count, rows.shape[1]), np.float32)
    for row in range(math.ceil(size / count) + 1):
        place = first + row
        share = np.minimum(place + 1, edges[1:]) - np.maximum(place, edges[:-1])
        part = rows[np.minimum(place, size - 1)]
        part *= np.maximum(share * (count / size), 0).astype(np.float32)[:, None]
        averaged += part
    return averaged


def _patches(image: Pixels, boxes: Floats, side: int) -> NDArray[np.float32]:
    """Boxes of an image as `(N, side, side, 3)`, bilinear, grey outside; as TensorFlow's `crop_and_resize`."""
    height, width = image.shape[:2]
    top, bottom, down, above = _samples(boxes[:, 1], boxes[:, 3], height, side)
    left, right, across, beside = _samples(boxes[:, 0], boxes[:, 2], width, side)
    pixels = image.reshape(-1, 3)
    down, across = down[:, :, None, None], across[:, None, :, None]

    def line(rows: NDArray[np.int64]) -> NDArray[np.float32]:
        near, far = (pixels.take(rows[:, :, None] * width + columns[:, None, :], axis=0) for columns in (left, right))
        return np.asarray(near + (far.astype(np.float32) - near) * across, np.float32)

    upper = line(top)
    patches = upper + (line(bottom) - upper) * down
    patches[above[:, :, None] | beside[:, None, :]] = _OUTSIDE
    return patches


def _samples(
    first: Floats, last: Floats, size: int, side: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32], NDArray[np.bool_]]:
    """Of `side` samples between two edges: pixel before, pixel behind, share of the latter, and whether outside."""
    step = (last - first) * ((size - 1) / size / (side - 1))
    places = (first * ((size - 1) / size))[:, None] + step[:, None] * np.arange(side)
    before = np.clip(np.floor(places), 0, size - 1).astype(np.int64)
    behind = np.minimum(before + 1, size - 1)
    return before, behind, (places - before).astype(np.float32), (places < 0) | (places > size - 1)


def _sigmoid(logits: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-logits)), np.float64)


def _moved(boxes: Floats, offsets: Floats) -> Floats:
    """Boxes with their edges moved by offsets, in widths and heights, of the first four columns."""
    sides = boxes[:, 2:] - boxes[:, :2] + 1
    return boxes + offsets[:, :4] * np.tile(sides, 2)


def _squares(boxes: Floats) -> Floats:
    """The least squares around boxes, with the same middle."""
    middle, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    half = sides.max(axis=1, keepdims=True) / 2
    return np.concatenate([middle - half, middle + half], axis=1)


def _best(boxes: Floats, scores: Floats, most: float, *, of_smaller: bool = False) -> NDArray[np.int64]:
    """Boxes that have at most the share `most` in common with each better one; best first, and `_MAX_BOXES` of them.

    The share is that of the union, or of the smaller of both. A box counts as better even where it is left out itself.
    """
    order = np.argsort(-scores, kind="stable")[:_MAX_BOXES]
    left, top, right, bottom = boxes[order].T
    areas = (right - left) * (bottom - top)
    kept = []
    for start in range(0, len(order), _BLOCK):
        stop = min(start + _BLOCK, len(order))

        def shared(first: Floats, last: Floats, start: int = start, stop: int = stop) -> Floats:
            ends = np.minimum(last[start:stop, None], last[:stop])
            return np.asarray(np.maximum(ends - np.maximum(first[start:stop, None], first[:stop]), 0))

        common = shared(left, right) * shared(top, bottom)
        mine, theirs = areas[start:stop, None], areas[:stop]
        whole = np.minimum(mine, theirs) if of_smaller else mine + theirs - common
        surpassed = np.tril(common > most * whole, k=start - 1).any(axis=1)
        kept.append(order[start:stop][~surpassed])
    return np.concatenate([np.zeros(0, np.int64), *kept])
