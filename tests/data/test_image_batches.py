import numpy as np
import pytest
from PIL import Image

from iom.config import AugmentationConfig, FolderConfig
from iom.data.folders import scan_folder
from iom.data.image_batches import LABEL, ImageBatches
from iom.errors import DataError

SIDE = 16


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for subject in range(5):
        place = tmp_path / "faces" / f"s{subject}"
        place.mkdir(parents=True)
        for image in range(4):
            pixels = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(place / f"{image}.png")
    return scan_folder(FolderConfig(root=str(tmp_path / "faces")))


def batches(folder, **settings):
    return ImageBatches(folder, AugmentationConfig(), 3, **({"seed": 1, "input_size": SIDE} | settings))


def collect(dataset):
    return [(image.numpy(), {k: v.numpy() for k, v in truth.items()}) for image, truth in dataset]


def test_an_epoch_shows_every_image_at_most_once(folder):
    stage = batches(folder)
    rows = collect(stage.epoch(0))
    assert stage.steps == len(rows) == 6
    assert rows[0][0].shape == (3, SIDE, SIDE, 3)
    labels = np.concatenate([truth[LABEL] for _, truth in rows])
    assert np.bincount(labels).max() <= 4


def test_a_resumed_epoch_repeats_the_rest_exactly(folder):
    whole = collect(batches(folder).epoch(2))
    rest = collect(batches(folder).epoch(2, first_step=4))
    assert len(rest) == 2
    for (image, truth), (image_again, truth_again) in zip(whole[4:], rest, strict=True):
        np.testing.assert_array_equal(image, image_again)
        np.testing.assert_array_equal(truth[LABEL], truth_again[LABEL])


def test_epochs_differ(folder):
    first, second = collect(batches(folder).epoch(0)), collect(batches(folder).epoch(1))
    assert not np.array_equal(first[0][0], second[0][0])


def test_fewer_images_than_a_batch(folder):
    stage = ImageBatches(folder, AugmentationConfig(), 21, seed=1, input_size=SIDE)
    with pytest.raises(DataError, match="do not fill one batch of 21"):
        _ = stage.steps
