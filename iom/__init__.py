"""Cancellable face templates: embedding, keyed rotation, learned Index-of-Max code.

The public names are loaded when they are first used, so that `import iom` imports neither TensorFlow nor NumPy.
`__init__.pyi` tells type checkers what they are.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "ArtifactFaceHasher": "iom.models.face_hasher:ArtifactFaceHasher",
    "Embedder": "iom.models.embedder:Embedder",
    "FaceHasher": "iom.models.face_hasher:FaceHasher",
    "Gallery": "iom.gallery.gallery:Gallery",
    "IomError": "iom.errors:IomError",
    "KerasFaceHasher": "iom.models.face_hasher:KerasFaceHasher",
    "TransformKey": "iom.keys:TransformKey",
    "build_backbone": "iom.nn.backbones.registry:build_backbone",
    "build_hasher": "iom.nn.hash_network:build_hasher",
    "evaluate": "iom.evaluation.evaluate:evaluate",
    "load": "iom.models.face_hasher:load",
    "load_embedder": "iom.models.embedder:load_embedder",
    "train_backbone": "iom.training.backbone:train_backbone",
    "train_hasher": "iom.training.hasher:train_hasher",
}
"""Public name to `module:name`. An export is `iom.export.exporter`: that name is a package."""

__all__ = [*sorted(_HOME), "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'iom' has no attribute '{name}'")
    module, _, attribute = _HOME[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return list(__all__)
