"""Models without a network, and folders of aligned faces."""

import numpy as np
import pytest
from PIL import Image

from iom.errors import WeightsError
from iom.keys import TransformKey


class FakeModels:
    """Embeddings are the colours of sixteen blocks, codes a keyed Gaussian Index-of-Max."""

    code_length, alphabet_size, fingerprint = 100, 6, "f" * 64

    def __init__(self):
        self._rows = np.random.default_rng(5).normal(size=(600, 48)).astype(np.float32)
        self.embedded = 0

    def embed(self, faces):
        if (faces == 0).all(axis=(1, 2, 3)).any():
            raise WeightsError("the embedding of an image is zero or not finite")
        self.embedded += len(faces)
        blocks = faces.reshape(-1, 4, 28, 4, 28, 3).mean(axis=(2, 4)).reshape(len(faces), 48)
        rows = blocks - blocks.mean(axis=1, keepdims=True) + 1e-3
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    def hash(self, embeddings, key):
        turned = embeddings[:, key.permutation(48)]
        return (turned @ self._rows.T).reshape(-1, 100, 6).argmax(-1).astype(np.uint8)


@pytest.fixture
def models():
    return FakeModels()


@pytest.fixture
def key():
    return TransformKey(bytes(range(32)))


def write_faces(root, count, *, seed=1):
    """`count` aligned faces in three folders; their pixels by name."""
    draw = np.random.default_rng(seed)
    pixels = {}
    for i in range(count):
        name = f"{'abc'[i % 3]}/{i:03d}.png"
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        blocks = draw.integers(0, 256, (4, 4, 3)).astype(np.uint8)
        pixels[name] = blocks.repeat(28, axis=0).repeat(28, axis=1)
        Image.fromarray(pixels[name]).save(root / name)
    return pixels
