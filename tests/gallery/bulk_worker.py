"""A loader of an embedder without a network, for workers in other processes; and a run to kill."""

import sys
import time
from pathlib import Path

import numpy as np

from iom.photos.align import TEMPLATES

SIZE = 32
PAUSE = 0.0


class PixelEmbedder:
    """The first pixels of an image as a unit vector; black images have no embedding."""

    input_size, embedding_size, fingerprint = 112, SIZE, "pixels"
    template = TEMPLATES["arcface"]

    def chips(self, images):
        return images

    def embed(self, images):
        from iom.errors import WeightsError

        time.sleep(PAUSE * len(images))
        rows = images[:, :4, :4].reshape(len(images), -1)[:, :SIZE].astype(np.float32)
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        if (norms == 0).any():
            raise WeightsError("the embedding of an image is zero")
        return rows / norms


def load(weights, *, batch_size):
    return PixelEmbedder()


def opened(folder, *, create=False):
    from benchmarks.gallery_crash import FakeHasher
    from iom.gallery.gallery import Gallery
    from iom.gallery.key_source import Seal
    from iom.gallery.key_store import KeyStore
    from iom.gallery.stores.sqlite import SqliteStore

    keys = KeyStore.open(folder / "keys", Seal("key", lambda *_: bytes(32)), create=create)
    return Gallery(SqliteStore(folder / "g.db", create=create), keys, FakeHasher())


def enrol(folder, *, engine="here", batch=8, workers=2, batch_size=4):
    from iom._registry import lookup
    from iom.gallery.bulk import ENGINES, WorkerSettings, enroll_in_bulk, read_rows

    with opened(folder) as gallery:
        return enroll_in_bulk(
            gallery,
            "door",
            read_rows("folder", folder / "people"),
            lookup(ENGINES, engine, "engine"),
            WorkerSettings("none", "pixels", batch_size=batch_size, workers=workers, load=load),
            report=folder / "report.jsonl",
            batch=batch,
        )


if __name__ == "__main__":
    sys.modules["bulk_worker"] = sys.modules["__main__"]
    PAUSE = 0.004
    print("ready", flush=True)
    print(enrol(Path(sys.argv[1]), engine=sys.argv[2]))
