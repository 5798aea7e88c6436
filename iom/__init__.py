"""Cancellable face templates: embedding, keyed rotation, learned Index-of-Max code.

The public names are loaded when they are first used, so that `import iom` imports neither TensorFlow nor NumPy.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from iom.errors import IomError as IomError
    from iom.evaluation.evaluate import evaluate as evaluate
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
    from iom.training.backbone import train_stage1 as train_backbone
    from iom.training.hasher import train_stage2 as train_hasher

__version__ = "0.1.0"

_HOME = {
    "ArtifactFaceHasher": "iom.models.artifact:ArtifactFaceHasher",
    "Embedder": "iom.models.embedder:Embedder",
    "FaceHasher": "iom.models.face_hasher:FaceHasher",
    "Gallery": "iom.gallery.gallery:Gallery",
    "IomError": "iom.errors:IomError",
    "KerasFaceHasher": "iom.models.keras_face_hasher:KerasFaceHasher",
    "TransformKey": "iom.keys:TransformKey",
    "build_backbone": "iom.nn.backbones.registry:build_backbone",
    "build_hasher": "iom.nn.hash_network:build_hasher",
    "evaluate": "iom.evaluation.evaluate:evaluate",
    "load": "iom.models.face_hasher:load",
    "load_embedder": "iom.models.embedder:load_embedder",
    "train_backbone": "iom.training.backbone:train_stage1",
    "train_hasher": "iom.training.hasher:train_stage2",
}
"""Public name to `module:name`. An export is `iom.export.export`: that name is a package."""

__all__ = [*sorted(_HOME), "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'iom' has no attribute '{name}'")
    module, _, attribute = _HOME[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return list(__all__)
