import numpy as np
import pytest
from PIL import Image

from iom.config import AugmentationConfig, FolderConfig
from iom.data.folders import scan_folder
from iom.data.image_batches import TARGET, ImageBatches
from iom.models.embedder import Embedder
from iom.training.backbone import teacher_targets

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


def mean_colour(batch):
    flat = batch.reshape(len(batch), -1)
    return flat @ np.random.default_rng(2).normal(size=(flat.shape[1], 8))


@pytest.fixture
def teacher():
    return Embedder(mean_colour, name="t", fingerprint="t", embedding_size=8, input_size=SIDE, batch_size=4)


@pytest.mark.parametrize("mix", [0.0, 0.4])
def test_the_target_belongs_to_the_very_image_shown(folder, teacher, tmp_path, mix):
    """The student sees a view; the teacher's embedding of the same pixels is its target."""
    stage = batches(folder, views=2, mix=mix)
    targets = teacher_targets(stage, teacher, cache=tmp_path / "cache", progress=False)
    assert targets.shape == (2, 20, 8)
    stage = batches(folder, views=2, mix=mix, targets=targets, labelled=())
    for epoch in range(3):
        for images, truth in collect(stage.epoch(epoch)):
            np.testing.assert_allclose(truth[TARGET], teacher.embed_pixels(images), atol=1e-5)


def test_targets_of_plain_images(folder, teacher, tmp_path):
    stage = batches(folder, views=0)
    targets = teacher_targets(stage, teacher, cache=tmp_path, progress=False)
    np.testing.assert_array_equal(targets[0], teacher.embed_files(folder.files))


def test_targets_are_computed_once(folder, teacher, tmp_path):
    stage = batches(folder, views=2)
    first = teacher_targets(stage, teacher, cache=tmp_path, progress=False)
    assert len(list(tmp_path.glob("teacher-*.npy"))) == 2
    (next(tmp_path.glob("teacher-*.npy"))).write_bytes(b"damaged")
    again = teacher_targets(stage, teacher, cache=tmp_path, progress=False)
    np.testing.assert_array_equal(first, again)
