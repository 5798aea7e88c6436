"""Quality measures against faces that were turned, blurred and darkened here."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from PIL import Image, ImageFilter

from iom.photos.align import TEMPLATE, head_shape, pose_of, qualities_of


def turned(yaw, pitch, roll):
    """Rotation of a head: down, then to the right, then clockwise."""
    y, p, r = np.radians([yaw, pitch, roll])
    down = [[1, 0, 0], [0, np.cos(p), np.sin(p)], [0, -np.sin(p), np.cos(p)]]
    right = [[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]]
    clockwise = [[np.cos(r), -np.sin(r), 0], [np.sin(r), np.cos(r), 0], [0, 0, 1]]
    return np.array(clockwise) @ np.array(right) @ np.array(down)


ANGLES = st.tuples(st.floats(-60, 60), st.floats(-50, 50), st.floats(-170, 170))


@given(ANGLES, st.floats(0.1, 30), st.floats(-900, 900))
def test_the_pose_of_a_turned_head_comes_back(angles, scale, shift):
    seen = (head_shape() @ turned(*angles).T)[:, :2] * scale + shift
    pose = pose_of(seen)
    np.testing.assert_allclose(list(pose.values()), angles, atol=1e-6)


@given(ANGLES, st.integers(0, 999))
def test_a_mirrored_face_looks_the_other_way(angles, seed):
    noise = np.random.default_rng(seed).normal(size=(5, 2))
    points = (head_shape() @ turned(*angles).T)[:, :2] + noise
    pose = pose_of(points)
    mirrored = pose_of((points * [-1, 1])[[1, 0, 2, 4, 3]])
    np.testing.assert_allclose(list(mirrored.values()), list(pose.values()) * np.array([-1, 1, -1]), atol=1e-6)


def test_the_template_is_frontal():
    pose = pose_of(TEMPLATE * 3 + 40)
    assert max(map(abs, pose.values())) < 0.5


def test_the_nose_shows_the_way():
    points = np.array(TEMPLATE)
    points[2] += [8, 0]  # the nose to the right
    assert pose_of(points)["yaw"] > 10
    points[2] += [-8, 6]  # the nose down
    assert pose_of(points)["pitch"] > 5


def test_blur_lowers_the_sharpness_and_dark_the_brightness():
    noise = np.random.default_rng(1).integers(0, 256, (112, 112, 3)).astype(np.uint8)
    picture = Image.fromarray(noise)
    values = [qualities_of(np.asarray(picture.filter(ImageFilter.GaussianBlur(r))))["sharpness"] for r in (0, 1, 2)]
    assert values[0] > 10 * values[1] > 20 * values[2]
    flat = np.full((112, 112, 3), 77, np.uint8)
    assert qualities_of(flat)["sharpness"] == 0.0
    assert qualities_of(flat)["brightness"] == pytest.approx(77)
    flat[:16] = 255  # the edge is not looked at
    assert qualities_of(flat)["brightness"] == pytest.approx(77)


def test_sharpness_against_a_loop():
    face = np.random.default_rng(2).integers(0, 256, (112, 112, 3)).astype(np.uint8)
    grey = face @ np.array([0.299, 0.587, 0.114])
    values = []
    for y in range(17, 95):
        for x in range(17, 95):
            around = grey[y - 1, x] + grey[y + 1, x] + grey[y, x - 1] + grey[y, x + 1]
            values.append(around - 4 * grey[y, x])
    assert qualities_of(face)["sharpness"] == pytest.approx(np.var(values))
