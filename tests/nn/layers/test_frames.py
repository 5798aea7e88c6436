import numpy as np
import pytest

from iom._random import numpy_stream
from iom.errors import ConfigError
from iom.nn.frames import FRAMES, cross_polytope_frame, gaussian_frame, orthonormal_frame, simplex_frame


@pytest.mark.parametrize("frame", sorted(FRAMES))
def test_frames_follow_the_seed(frame):
    values = [FRAMES[frame](16, 10, 4, numpy_stream(seed, "x")) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(values[0], values[1])
    assert not np.array_equal(values[0], values[2])
    assert values[0].shape == (16, 40)
    assert values[0].dtype == np.float32


def test_gaussian_columns_have_length_one_on_average():
    norms = np.linalg.norm(gaussian_frame(128, 1000, 4, numpy_stream(0, "x")), axis=0)
    assert abs((norms**2).mean() - 1) < 0.02


def test_orthonormal_columns():
    frame = orthonormal_frame(16, 10, 4, numpy_stream(0, "x"))
    for start in (0, 16):
        block = frame[:, start : start + 16]
        np.testing.assert_allclose(block.T @ block, np.eye(16), atol=1e-5)


@pytest.mark.parametrize("corners", [2, 3, 4, 8, 16])
def test_positions_of_a_simplex_frame_are_regular_simplices(corners):
    frame = simplex_frame(16, 20, corners, numpy_stream(0, "x")).reshape(16, 20, corners)
    wanted = np.full((corners, corners), -1 / (corners - 1))
    np.fill_diagonal(wanted, 1)
    for position in range(20):
        vectors = frame[:, position]
        np.testing.assert_allclose(vectors.T @ vectors, wanted, atol=1e-5)


def test_cross_polytope_positions_are_directions_and_their_opposites():
    frame = cross_polytope_frame(16, 12, 4, numpy_stream(0, "x")).reshape(16, 12, 4)
    np.testing.assert_allclose(frame[:, :, :2], -frame[:, :, 2:], atol=1e-6)
    np.testing.assert_allclose((frame[:, :, 0] * frame[:, :, 1]).sum(0), 0, atol=1e-6)


@pytest.mark.parametrize("frame", [simplex_frame, cross_polytope_frame])
def test_full_bases_are_tight(frame):
    """16 positions of two opposite vectors fill two bases of 8 dimensions: W W' = 4 I."""
    vectors = frame(8, 16, 2, numpy_stream(0, "x"))
    np.testing.assert_allclose(vectors @ vectors.T, 4 * np.eye(8), atol=1e-5)


@pytest.mark.parametrize(
    ("frame", "alphabet_size"), [(simplex_frame, 18), (cross_polytope_frame, 3), (cross_polytope_frame, 34)]
)
def test_a_shape_that_does_not_fit_is_refused(frame, alphabet_size):
    with pytest.raises(ConfigError, match="take 'orthonormal'"):
        frame(16, 10, alphabet_size, numpy_stream(0, "x"))
