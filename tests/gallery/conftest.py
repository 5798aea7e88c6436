"""A hasher without a network, and galleries of every kind over it."""

import functools
import types

import numpy as np
import pytest

from iom.codes.asymmetric import CodeVectors, keyed_rows
from iom.codes.comparators import Coder
from iom.gallery.gallery import Gallery
from iom.gallery.key_source import passphrase_seal
from iom.gallery.key_store import KeyStore
from iom.gallery.stores.sqlite import SqliteStore

SIZE = 32


class FakeHasher(Coder):
    """Keyed Index-of-Max over a fixed Gaussian matrix."""

    comparison = "symbols"

    code_length, alphabet_size, embedding_size, parts = 96, 8, SIZE, 1
    fingerprint, key_kind = "fake-model", "orthogonal"
    calibration = types.SimpleNamespace(
        threshold=50, probability=lambda distance: 0.5, comparison="symbols"
    )  # mated: 20 to 33, others: 84

    def __init__(self):
        self._rows = np.random.default_rng(7).normal(size=(96 * 8, SIZE)).astype(np.float32)

    @functools.cached_property
    def vectors(self):
        return CodeVectors.of_kernel(self._rows.T, 8)

    def rows(self, embeddings, keys):
        return keyed_rows(self._turned(embeddings, keys))

    def hash(self, embeddings, keys):
        turned = self._turned(embeddings, keys)
        return (turned @ self._rows.T).reshape(-1, 96, 8).argmax(-1).astype(np.uint8)

    @staticmethod
    def _turned(embeddings, keys):
        keys = keys if isinstance(keys, list) else [keys] * len(embeddings)
        orders = np.array([key.permutation(SIZE) for key in keys]).reshape(-1, SIZE)
        return np.take_along_axis(np.asarray(embeddings), orders, axis=1)


def faces(count, seed=0):
    rows = np.random.default_rng(seed).normal(size=(count, SIZE))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def again(embedding, seed=1):
    """Another image of the same person."""
    row = embedding + 0.05 * np.random.default_rng(seed).normal(size=SIZE)
    return (row / np.linalg.norm(row)).astype(np.float32)


class Place:
    """A folder with a gallery that can be opened again and again."""

    def __init__(self, folder):
        self.folder, self.database, self.key_file = folder, folder / "g.db", folder / "g.keys"
        self.opened = []

    def keys(self, *, create=False, passphrase="correct horse"):
        keys = KeyStore.open(self.key_file, passphrase_seal(lambda: passphrase, cost=2), create=create)
        self.opened.append(keys)
        return keys

    def open(self, *, create=False):
        store = SqliteStore(self.database, create=create)
        self.opened.append(store)
        return Gallery(store, self.keys(create=create), FakeHasher())

    def close(self):
        while self.opened:
            self.opened.pop().close()


@pytest.fixture
def place(tmp_path):
    place = Place(tmp_path)
    yield place
    place.close()


KINDS = [("subject", False), ("subject", True), ("application", False), ("application", True)]


UNMASKED = pytest.mark.filterwarnings("ignore::iom.errors.UnmaskedWarning")
"""Of tests of codes under a common key without masks, as older versions made them."""
PARAMETERS = [pytest.param(kind, marks=UNMASKED if kind == ("application", False) else ()) for kind in KINDS]


@pytest.fixture(params=PARAMETERS, ids=lambda kind: f"{kind[0]}{'-masked' * kind[1]}")
def gallery(request, place):
    gallery = place.open(create=True)
    gallery.create_application("door", key_mode=request.param[0], masked=request.param[1])
    return gallery
