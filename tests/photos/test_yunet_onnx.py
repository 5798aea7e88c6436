"""YuNet under onnxruntime against OpenCV, and its parts against loops."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from iom.photos.detect import _decoded, _distinct, build_detector
from iom.photos.images import read_images


@pytest.mark.parametrize("size", [(300, 420), (256, 320), (33, 70)])
def test_it_finds_what_opencv_finds(prepared_data, foreign_weights, size):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("cv2")
    weights = foreign_weights("yunet/*.onnx")
    ours, theirs = (build_detector(name, weights=weights) for name in ("yunet_onnx", "yunet"))
    files = sorted((prepared_data / "lfw_112x112").glob("A*/*_0001.jpg"))[:12]
    draw = np.random.default_rng(1)
    for first, second in zip(*[iter(read_images(files))] * 2, strict=True):
        photo = draw.integers(90, 150, (*size, 3)).astype(np.uint8)
        for left, face in ((4, first), (150, second)):
            room = photo[20:132, left : left + 112]
            room[:] = face[: room.shape[0], : room.shape[1]]
        found, expected = ours(photo), theirs(photo)
        assert len(found) == len(expected)
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a.points, b.points, atol=0.01)
            assert a.score == pytest.approx(b.score, abs=1e-4)


@given(st.integers(0, 99), st.integers(0, 12))
def test_overlaps_against_a_loop(seed, count):
    draw = np.random.default_rng(seed)
    corners = draw.uniform(0, 10, (count, 2))
    boxes = np.concatenate([corners, corners + draw.uniform(1, 8, (count, 2))], axis=1)
    kept = []
    for i, a in enumerate(boxes):
        shares = []
        for j in kept:
            b = boxes[j]
            width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
            common = width * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
            both = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common
            shares.append(common / both)
        if all(share <= 0.3 for share in shares):
            kept.append(i)
    assert _distinct(boxes).tolist() == kept


def test_cells_against_a_loop():
    draw = np.random.default_rng(3)
    rows, columns, stride = 3, 4, 16
    cells = rows * columns
    face, is_object = draw.uniform(-0.2, 1.2, (2, cells, 1))
    box, points = draw.normal(size=(cells, 4)), draw.normal(size=(cells, 10))
    scores, corners, found = _decoded([face, is_object, box, points], stride, columns, 0.4)
    place = 0
    for cell in range(cells):
        score = np.sqrt(np.clip(face[cell, 0], 0, 1) * np.clip(is_object[cell, 0], 0, 1))
        if score < 0.4:
            continue
        row, column = divmod(cell, columns)
        x, y = (column + box[cell, 0]) * stride, (row + box[cell, 1]) * stride
        width, height = np.exp(box[cell, 2:]) * stride
        expected = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
        np.testing.assert_allclose(corners[place], expected)
        for i in range(5):
            point = [points[cell, 2 * i] + column, points[cell, 2 * i + 1] + row]
            np.testing.assert_allclose(found[place, i], np.array(point) * stride)
        assert scores[place] == pytest.approx(score)
        place += 1
    assert place == len(scores) > 0
