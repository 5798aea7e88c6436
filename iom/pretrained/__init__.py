"""Pretrained models of the package, and the folders that hold other weights and hashers.

`manifest.json` lists the weights that are known. The bundled model, an embedder with its hasher, lies beside it, so
that an installed package works in any folder.
"""

import importlib.resources
import os
from pathlib import Path

from iom._registry import did_you_mean
from iom.errors import WeightsError

BUNDLED = "bundled"
"""Name of the bundled hasher."""
HASHER_FILE = "hasher.json"


def package_folder() -> Path:
    """The folder of this package's own files."""
    return Path(str(importlib.resources.files(__name__)))


def checkout() -> Path | None:
    """The top folder of the sources, where the package runs from a clone of them."""
    root = Path(__file__).resolve().parents[2]
    return root if (root / "pre_models" / "README.md").is_file() else None


def cache_folder() -> Path:
    """`$IOM_CACHE`, or `iom` in the user's cache (`$XDG_CACHE_HOME`, by default `~/.cache`)."""
    given = os.environ.get("IOM_CACHE")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "iom"


def search_folders() -> list[Path]:
    """Folders whose sub-folders may hold weights and hashers; the first that has one wins.

    `$IOM_WEIGHTS`, the package, `weights` in the cache folder, in a checkout `pre_models` and `shared/weights` beside
    it, and the models of an installation of InsightFace, `$INSIGHTFACE_HOME/models`, by default
    `~/.insightface/models`.
    """
    given = os.environ.get("IOM_WEIGHTS")
    folders = [Path(given)] if given else []
    folders += [package_folder(), cache_folder() / "weights"]
    root = checkout()
    if root is not None:
        folders += [root / "pre_models", root.parent / "shared" / "weights"]
    insightface = os.environ.get("INSIGHTFACE_HOME")
    return [*folders, (Path(insightface) if insightface else Path.home() / ".insightface") / "models"]


def hasher_path(name_or_path: str | Path = BUNDLED) -> Path:
    """Where a hasher is: the folder of a trained one, or an artefact of `iom deploy`.

    Args:
        name_or_path: A path, which wins where it exists; "bundled"; or the name of a folder with a hasher in one of
            `search_folders()`.

    Raises:
        WeightsError: Neither a path that exists nor a known name.
    """
    path = Path(name_or_path)
    if path.exists():
        return path
    names = hashers()
    if str(name_or_path) in names:
        return names[str(name_or_path)]
    hint = f"; give its name alone: {path.name}" if path.name in names else did_you_mean(str(path), names)
    raise WeightsError(
        f"no hasher '{path}'{hint}: expected a folder that iom train-stage2 wrote, an artefact of iom deploy, or one "
        f"of the names {', '.join(names)}; there is no such file or folder"
    )


def hashers() -> dict[str, Path]:
    """Name to place of the hashers that are found by name: the bundled artefact, and folders."""
    found = {BUNDLED: package_folder() / "dlib_resnet.bundled" / "dlib_resnet.onnx"}
    for folder in search_folders():
        for metadata in sorted(folder.glob(f"*/{HASHER_FILE}")):
            found.setdefault(metadata.parent.name, metadata.parent)
    return found
