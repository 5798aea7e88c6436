import numpy as np
import pytest
from PIL import Image

from iom.config import EmbedderConfig, HasherConfig
from iom.errors import WeightsError
from iom.models import embedder
from iom.models.embedder import Embedder, FusedEmbedder, load_embedder, open_embedder
from iom.models.face_hasher import KerasFaceHasher
from iom.nn.hash_network import build_hasher
from iom.pretrained.manifest import Statement


def part(name, size, *, seed, **settings):
    """A stand-in for a backbone, which counts its calls."""
    weights = np.random.default_rng(seed).normal(size=(16 * 16 * 3, size)) / 255
    calls = []

    def predict(batch):
        calls.append(len(batch))
        return batch.reshape(len(batch), -1) @ weights

    made = Embedder(
        predict, name=name, fingerprint=name * 8, embedding_size=size, input_size=16, batch_size=4, **settings
    )
    made.calls = calls
    return made


@pytest.fixture
def images():
    return np.random.default_rng(5).integers(0, 256, (7, 16, 16, 3), dtype=np.uint8)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("weight", [0.2, 0.5, 0.9])
def test_the_cosine_is_the_weighted_mean(images, weight, flip):
    parts = part("a", 8, seed=1, flip=flip), part("b", 5, seed=2, flip=flip)
    fused = FusedEmbedder(*parts, weight=weight)
    rows, first, second = (embedder.embed(images) for embedder in (fused, *parts))
    assert rows.shape == (7, 13)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-6)
    expected = weight * first @ first.T + (1 - weight) * second @ second.T
    np.testing.assert_allclose(rows @ rows.T, expected, atol=1e-6)


def test_the_fingerprint_covers_both_and_the_weight():
    a, b, c = (part(name, 8, seed=0) for name in "abc")
    made = [(a, b, 0.5), (b, a, 0.5), (a, c, 0.5), (a, b, 0.6), (a, a, 0.5)]
    prints = [FusedEmbedder(one, two, weight=w).fingerprint for one, two, w in made]
    assert len({*prints, a.fingerprint}) == 6
    assert prints[0] == FusedEmbedder(a, b, weight=0.5).fingerprint


def test_each_part_has_its_own_cache(images, tmp_path):
    paths = []
    for number, image in enumerate(images):
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(image).save(paths[-1])
    parts = [part(n, 6, seed=s, cache=tmp_path / "cache") for s, n in enumerate("ab")]
    rows = FusedEmbedder(*parts, weight=0.5).embed_files(paths)
    np.testing.assert_allclose(rows, FusedEmbedder(*parts, weight=0.5).embed(images), atol=1e-6)
    counts = [len(made.calls) for made in parts]
    other = part("c", 4, seed=9, cache=tmp_path / "cache")
    FusedEmbedder(parts[0], other, weight=0.3).embed_files(paths)
    assert [len(made.calls) for made in parts] == counts
    assert other.calls


def test_a_hasher_knows_its_fusion():
    a, b = part("a", 8, seed=1), part("b", 4, seed=2)
    fused = FusedEmbedder(a, b, weight=0.5)
    model = build_hasher(12, HasherConfig(code_length=8, alphabet_size=4))
    hasher = KerasFaceHasher(model, embedder_name=fused.name, embedder_fingerprint=fused.fingerprint)
    hasher.check_embedder(fused)
    with pytest.raises(WeightsError, match=r"a\+b@0\.6"):
        hasher.check_embedder(FusedEmbedder(a, b, weight=0.6))
    with pytest.raises(WeightsError, match=r"\(12 dimensions, .* received a \(8 dimensions"):
        hasher.check_embedder(a)


def test_flip_at_test_time_is_left_to_the_user(images):
    """The fingerprint is that of the weights; the embeddings differ."""
    plain, flipped = (part("a", 12, seed=1, flip=flip) for flip in (False, True))
    model = build_hasher(12, HasherConfig(code_length=8, alphabet_size=4))
    hasher = KerasFaceHasher(model, embedder_name="a", embedder_fingerprint=plain.fingerprint)
    hasher.check_embedder(plain)
    hasher.check_embedder(flipped)
    rows = [each.embed(images) for each in (plain, flipped)]
    assert not np.allclose(*rows)
    assert np.abs(plain.embed(images) - flipped.embed(images)).max() > 1e-3


def test_different_image_sizes():
    small = Embedder(len, name="small", fingerprint="s", embedding_size=4, input_size=8)
    with pytest.raises(WeightsError, match="a takes 16 pixels a side, small 8"):
        FusedEmbedder(part("a", 8, seed=1), small, weight=0.5)


def test_by_configuration(monkeypatch):
    asked = []

    def load(weights, *, batch_size, flip, cache):
        asked.append((weights, batch_size, flip, cache))
        return part(weights, 4, seed=0)

    monkeypatch.setattr(embedder, "load_embedder", load)
    settings = {"batch_size": 7, "flip": True, "cache": ""}
    assert open_embedder(EmbedderConfig(weights="a", **settings)).name == "a"
    both = EmbedderConfig(weights="a", second_weights="b", fusion_weight=0.7, **settings)
    assert open_embedder(both).name == "a+b@0.7"
    assert asked == [("a", 7, True, ""), ("a", 7, True, ""), ("b", 7, True, "")]


def test_a_hasher_of_a_fusion_finds_its_embedder_by_name(monkeypatch):
    monkeypatch.setattr("iom.pretrained.weights.load_backbone_model", lambda name: Loaded(name, 8))
    fused = FusedEmbedder(load_embedder("net.a"), load_embedder("net.b"), weight=0.6)
    assert fused.name == "net.a+net.b@0.6"
    model = build_hasher(16, HasherConfig(code_length=8, alphabet_size=4))
    hasher = KerasFaceHasher(model, embedder_name=fused.name, embedder_fingerprint=fused.fingerprint, batch_size=3)
    assert isinstance(hasher.embedder, FusedEmbedder)
    assert hasher.embedder.fingerprint == fused.fingerprint
    assert [part.batch_size for part in hasher.embedder.parts] == [3, 3]


class Loaded:
    """A stand-in for `LoadedBackbone`."""

    input = Statement(colour_order="RGB", range="0..255", size=16)

    def __init__(self, name, embedding_size):
        self.name = name
        self.fingerprint = name * 4
        self.embedding_size = embedding_size

    def predict(self, batch):
        return batch.reshape(len(batch), -1)[:, : self.embedding_size] + 1
