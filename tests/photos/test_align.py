"""Alignment against numbers of scikit-image 0.26 (transform) and OpenCV 5.0 (pixels)."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from iom.errors import DataError
from iom.photos.align import TEMPLATE, TEMPLATES, align, face_size, is_mirrored, similarity

POINTS = np.array([[101.5, 140.25], [171.0, 118.0], [150.5, 170.0], [130.25, 215.5], [190.75, 196]])
# What SimilarityTransform.from_estimate gives for POINTS and TEMPLATE.
SCIKIT_IMAGE = [[0.46932746, -0.14651391, 10.79724426], [0.14651391, 0.46932746, -28.72403661]]
# The same with x -> 300 - x: left and right confused.
SCIKIT_IMAGE_MIRRORED = [
    [9.04105253e-02, 2.82884634e-02, 3.76050412e01],
    [-2.82884634e-02, 9.04105253e-02, 6.09935479e01],
]
# cv2.warpAffine(picture(), SCIKIT_IMAGE, (112, 112), borderValue=0.0) at (y, x)
OPENCV = {
    (0, 0): [0, 0, 0],
    (5, 80): [124, 21, 114],
    (20, 17): [33, 81, 30],
    (56, 56): [111, 123, 30],
    (77, 31): [82, 173, 84],
    (90, 100): [196, 158, 30],
    (111, 111): [223, 189, 71],
    (33, 64): [112, 79, 104],
}


def picture():
    y, x = np.mgrid[0:260, 0:300]
    board = ((x // 8 + y // 8) % 2) * 180 + 30
    return np.stack([(x * 0.8) % 256, (y * 0.9) % 256, board], -1).astype(np.uint8)


def mapped(matrix, points):
    return points @ matrix[:, :2].T + matrix[:, 2]


def test_the_transform_is_that_of_scikit_image():
    np.testing.assert_allclose(similarity(POINTS), SCIKIT_IMAGE, atol=2e-8)
    mirrored = POINTS * np.array([-1, 1]) + np.array([300, 0])
    np.testing.assert_allclose(similarity(mirrored), SCIKIT_IMAGE_MIRRORED, rtol=1e-7)
    assert is_mirrored(mirrored)
    assert not is_mirrored(POINTS)


def test_the_pixels_are_those_of_opencv():
    face = align(picture(), POINTS, smooth=False).astype(int)
    for place, expected in OPENCV.items():
        np.testing.assert_allclose(face[place], expected, atol=2)


@given(st.floats(0.05, 40), st.floats(-3.1, 3.1), st.tuples(st.floats(-2000, 2000), st.floats(-2000, 2000)))
def test_an_exact_similarity_is_found(scale, angle, shift):
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = TEMPLATE @ turn.T + shift
    np.testing.assert_allclose(mapped(similarity(points), points), TEMPLATE, atol=1e-6)
    assert face_size(points) == pytest.approx(112 * scale)


@given(st.integers(0, 2**32 - 1))
def test_no_transform_near_by_is_better(seed):
    draw = np.random.default_rng(seed)
    points = TEMPLATE + draw.normal(0, 8, (5, 2))
    best = similarity(points)
    least = ((mapped(best, points) - TEMPLATE) ** 2).sum()
    for _ in range(20):
        a, b, x, y = draw.normal(0, [1e-3, 1e-3, 0.1, 0.1])
        other = best + np.array([[a, -b, x], [b, a, y]])
        assert ((mapped(other, points) - TEMPLATE) ** 2).sum() >= least


def test_an_aligned_face_stays_as_it_is():
    face = picture()[:112, :112]
    changed = np.abs(align(face, TEMPLATE).astype(int) - face)[1:-1, 1:-1]
    assert changed.max() <= 1


def test_smoothing_shifts_nothing():
    slope = np.repeat(np.mgrid[0:900, 0:1000][1][:, :, None] // 4, 3, axis=2).astype(np.uint8)
    points = TEMPLATE * 6.3 + np.array([50, 80])
    smooth, plain = (align(slope, points, smooth=kind).astype(int) for kind in (True, False))
    assert np.abs(smooth - plain).max() <= 1


def test_smoothing_averages_what_sampling_would_skip():
    draw = np.random.default_rng(0)
    noise = np.repeat(draw.choice([0, 255], (1200, 1200, 1)), 3, axis=2).astype(np.uint8)
    points = TEMPLATE * 10 + 20
    assert align(noise, points).std() < 0.3 * align(noise, points, smooth=False).std()


def test_what_lies_outside_is_black():
    face = align(np.full((112, 112, 3), 200, np.uint8), TEMPLATE + np.array([40, 0]))
    assert (face[:, -30:] == 0).all()
    assert (face[2:-2, :70] >= 199).all()


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (np.zeros((4, 2)), r"\(4, 2\)"),
        (np.full((5, 2), np.nan), "finite"),
        (np.full((5, 2), 70.0), "one point"),
        (np.full((5, 2), 1e6), "one point"),
    ],
)
def test_degenerate_landmarks_are_refused(points, message):
    with pytest.raises(DataError, match=f"photo.jpg.*{message}"):
        similarity(points, "photo.jpg")


def test_a_template_places_the_landmarks_of_the_arcface_crop():
    template = TEMPLATES["dlib"]
    points = np.concatenate([POINTS @ np.array(template.matrix(POINTS))[:, :2].T + template.matrix(POINTS)[:, 2]])
    expected = template.scale * (POINTS @ similarity(POINTS)[:, :2].T + similarity(POINTS)[:, 2]) + template.shift
    np.testing.assert_allclose(points, expected, atol=1e-9)


def test_chips_of_crops_are_those_cut_by_the_landmarks_of_the_arcface_template():
    template = TEMPLATES["dlib"]
    rows, columns = np.mgrid[:112, :112]
    smooth = np.stack([columns * 2, rows * 2, columns + rows], axis=2).astype(np.uint8)
    chip = template.chips(smooth[None])[0]
    cut = align(smooth, TEMPLATE, template=template)
    assert chip.shape == cut.shape == (150, 150, 3)
    inside = slice(0, int(template.scale * 111 + template.shift[1]) - 1)
    difference = np.abs(chip[inside].astype(int) - cut[inside])
    assert difference.max() <= 1
    lowest = template.chips(smooth[None])[0, -3:]  # beyond the crop: its last row again
    assert (lowest == lowest[0]).all()


def test_the_arcface_template_leaves_crops_as_they_are():
    crops = np.zeros((2, 112, 112, 3), np.uint8)
    assert TEMPLATES["arcface"].chips(crops) is crops
