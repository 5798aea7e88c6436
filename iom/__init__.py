"""Cancellable face templates: embedding, keyed rotation, learned Index-of-Max code.

The public names are loaded when first used, so that `import iom` imports neither TensorFlow nor
NumPy.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from iom.errors import IomError as IomError
    from iom.gallery.gallery import Gallery as Gallery
    from iom.keys import TransformKey as TransformKey
    from iom.models.artifact import ArtifactFaceHasher as ArtifactFaceHasher
    from iom.models.embedder import Embedder as Embedder
    from iom.models.embedder import load_embedder as load_embedder
    from iom.models.face_hasher import FaceHasher as FaceHasher
    from iom.models.face_hasher import load as load
    from iom.models.keras_face_hasher import KerasFaceHasher as KerasFaceHasher
    from iom.nn.backbones.registry import build_backbone as build_backbone
    from iom.nn.hash_network import build_hasher as build_hasher

__version__ = "0.1.0"

_HOME = {
    "ArtifactFaceHasher": "iom.models.artifact",
    "Embedder": "iom.models.embedder",
    "FaceHasher": "iom.models.face_hasher",
    "Gallery": "iom.gallery.gallery",
    "KerasFaceHasher": "iom.models.keras_face_hasher",
    "IomError": "iom.errors",
    "TransformKey": "iom.keys",
    "build_backbone": "iom.nn.backbones.registry",
    "build_hasher": "iom.nn.hash_network",
    "load": "iom.models.face_hasher",
    "load_embedder": "iom.models.embedder",
}

__all__ = [*sorted(_HOME), "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'iom' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return list(__all__)
