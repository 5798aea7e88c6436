"""What turns faces into codes: an artefact, or embedder and hasher; faces without an embedding."""

import numpy as np
import pytest

from iom.errors import ConfigError, WeightsError
from iom.photos import photo_hasher
from iom.photos.photo_hasher import embed_all, open_photo_hasher
from tests.photos.conftest import FakeModels


def test_an_artefact_is_opened_in_its_runtime(monkeypatch, tmp_path):
    opened = {}

    def load(path, **options):
        opened[path] = options
        return FakeModels()

    monkeypatch.setattr(photo_hasher.DeployedHasher, "load", load)
    assert isinstance(open_photo_hasher("hasher.onnx", batch_size=4), FakeModels)
    assert opened == {"hasher.onnx": {"batch_size": 4}}
    with pytest.raises(ConfigError, match="embeds for itself"):
        open_photo_hasher("hasher.onnx", weights="other")
    with pytest.raises(WeightsError, match="no hasher in"):
        open_photo_hasher(str(tmp_path / "none"))


def test_faces_without_an_embedding_are_told_apart():
    faces = list(np.random.default_rng(1).integers(1, 256, (4, 112, 112, 3)).astype(np.uint8))
    black = np.zeros((112, 112, 3), np.uint8)
    models = FakeModels()
    expected = models.embed(np.stack(faces))
    rows = embed_all(models, [faces[0], black, *faces[1:]])
    assert rows[1] is None
    np.testing.assert_array_equal(np.stack([*rows[:1], *rows[2:]]), expected)
    assert embed_all(models, [black]) == [None]
    with pytest.raises(WeightsError, match="not finite"):
        embed_all(models, [black, black])
