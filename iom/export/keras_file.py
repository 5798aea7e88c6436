"""Keras' own format, one file for backbone and hash."""

from pathlib import Path

from iom.export.context import Material
from iom.pretrained.importers.keras_files import save_model


def write_keras(material: Material, path: Path) -> None:
    """Write a `.keras` file."""
    save_model(material.source.graph(), path)
