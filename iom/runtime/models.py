"""Embedder and hasher for whoever hashes faces: a trained hasher's folder, or one artefact."""

from pathlib import Path
from typing import Any

from iom.errors import ConfigError
from iom.pretrained import hasher_path
from iom.runtime.runtimes import is_artefact


def open_models(hasher: Path | str, *, weights: str = "", batch_size: int = 8) -> tuple[Any, Any]:
    """What embeds and what hashes, checked against each other.

    Of an artefact both are the same object, and TensorFlow is imported only where its runtime is
    TensorFlow.

    Args:
        hasher: Folder of a trained hasher, an artefact of `iom deploy`, or a name
            (`iom.pretrained.hasher_path`).
        weights: Manifest name or file of the embedder; empty takes the hasher's own.
        batch_size: Faces a call.

    Raises:
        ConfigError: Weights beside an artefact, which embeds for itself.
        WeightsError: Missing, damaged, or the two do not belong together.
        MissingExtraError: The runtime of the artefact is not installed.
    """
    found = open_hasher(hasher, batch_size=batch_size)
    if is_artefact(hasher_path(hasher)):
        if weights:
            raise ConfigError(f"{hasher} is an artefact that embeds for itself: give no weights")
        return found, found
    from iom.models.embedder import load_embedder

    embedder = load_embedder(weights or found.embedder_name, batch_size=batch_size)
    found.check_embedder(embedder)
    return embedder, found


def open_hasher(path: Path | str, *, batch_size: int = 8) -> Any:
    """A trained hasher, or an artefact of `iom deploy` in the runtime its file wants.

    Raises:
        WeightsError: Missing or damaged.
        MissingExtraError: The runtime of the artefact is not installed.
    """
    path = hasher_path(path)
    if is_artefact(path):
        from iom.runtime.deployed import DeployedHasher

        return DeployedHasher.load(path, batch_size=batch_size)
    from iom.models.hasher import Hasher

    return Hasher.load(path)
