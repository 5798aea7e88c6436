"""Saving Keras models: atomically, compressed."""

import zipfile
from pathlib import Path

import keras

from iom._files import atomic_path

EARLIEST = (1980, 1, 1, 0, 0, 0)
"""Date of every entry: the bytes depend on the content alone."""


def save_model(model: keras.Model, path: Path) -> None:
    """Write `model` as a compressed `.keras` file, which Keras reads as any other.

    Keras itself stores without compression, which costs about an eighth more.
    """
    with atomic_path(path) as temporary:
        model.save(temporary)
        with zipfile.ZipFile(temporary) as archive:
            entries = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            for name, content in entries.items():
                entry = zipfile.ZipInfo(name, EARLIEST)
                archive.writestr(entry, content, compress_type=zipfile.ZIP_DEFLATED)
