import numpy as np
import pytest
import tensorflow as tf

from iom.config import AugmentationConfig
from iom.data.image_batches import DRAWS, augment_batch

OFF = {"flip": False, "crop": 0.0, "brightness": 0.0, "contrast": 0.0, "saturation": 0.0}


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)


def run(image, seed, **settings):
    config = AugmentationConfig(**(OFF | settings))
    draws = np.random.default_rng(seed).random((1, DRAWS), np.float32)
    return augment_batch(tf.constant(image[None]), tf.constant(draws), config).numpy()[0]


def test_nothing_on_changes_nothing(image):
    np.testing.assert_array_equal(run(image, 0), image)


def test_the_same_seed_gives_the_same_image(image):
    everything = {"flip": True, "crop": 0.1, "brightness": 0.2, "contrast": 0.2, "saturation": 0.2}
    first = run(image, 5, **everything)
    np.testing.assert_array_equal(first, run(image, 5, **everything))
    assert not np.array_equal(first, run(image, 6, **everything))
    assert first.shape == image.shape
    assert first.min() >= 0
    assert first.max() <= 255


def test_flip_happens_to_about_half(image):
    flipped = [np.array_equal(run(image, seed, flip=True), image[:, ::-1]) for seed in range(60)]
    plain = [np.array_equal(run(image, seed, flip=True), image) for seed in range(60)]
    assert sum(flipped) + sum(plain) == 60
    assert 15 < sum(flipped) < 45


def test_a_crop_moves_by_no_more_than_its_share():
    """A single bright spot stays within crop x side plus half a zoom of its place."""
    image = np.zeros((40, 40, 3), np.uint8)
    image[20, 20] = 255
    for seed in range(20):
        rows, columns = np.nonzero(run(image, seed, crop=0.1).sum(axis=2) > 30)
        assert len(rows)
        assert abs(rows - 20).max() <= 7
        assert abs(columns - 20).max() <= 7


def test_brightness_shifts_all_pixels_alike():
    image = np.full((32, 32, 3), 128, np.uint8)
    for seed in range(10):
        result = run(image, seed, brightness=0.2)
        assert np.ptp(result) < 1e-3
        assert abs(result.mean() - 128) <= 51.001


def test_saturation_leaves_grey_grey():
    image = np.repeat(np.arange(32 * 32).reshape(32, 32, 1) % 256, 3, axis=2).astype(np.uint8)
    np.testing.assert_allclose(run(image, 3, saturation=0.5), image, atol=1e-3)


def by_the_formula(image, draws, config):
    """The changes of one image, step by step in float64."""
    side = len(image)
    pixels = image.astype(np.float64)
    if draws[0] < 0.5:
        pixels = pixels[:, ::-1]
    signed = 2 * draws.astype(np.float64) - 1
    half = 0.5 * side * (1 + signed[3] * config.crop)
    border = side - 1
    padded = np.pad(pixels, ((border, border), (border, border), (0, 0)), mode="reflect")
    for axis in range(2):
        centre = border + 0.5 * side + signed[1 + axis] * config.crop * side
        places = np.linspace(centre - half, centre + half, side)
        low = np.floor(places).astype(int)
        share = (places - low).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        padded = (1 - share) * padded.take(low, axis) + share * padded.take(low + 1, axis)
    changed = padded + 255 * signed[4] * config.brightness
    mean = changed.mean(axis=(0, 1))
    changed = mean + (1 + signed[5] * config.contrast) * (changed - mean)
    grey = changed.mean(axis=2, keepdims=True)
    return np.clip(grey + (1 + signed[6] * config.saturation) * (changed - grey), 0, 255)


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_a_batch_is_changed_by_the_formula(kind):
    rng = np.random.default_rng(4)
    images = rng.integers(0, 256, (12, 24, 24, 3)).astype(kind)
    draws = rng.random((12, DRAWS), np.float32)
    config = AugmentationConfig(flip=True, crop=0.1, brightness=0.2, contrast=0.2, saturation=0.3)
    changed = augment_batch(tf.constant(images), tf.constant(draws), config).numpy()
    for image, numbers, result in zip(images, draws, changed, strict=True):
        np.testing.assert_allclose(result, by_the_formula(image, numbers, config), atol=0.01)
