"""Sources of exports: a backbone with the hasher that was made for it, and the data that writers of formats need."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from iom.export.folding import fold_batch_norms
from iom.models.embedder import Embedder
from iom.models.face_hasher import EMBEDDER_BATCH, KerasFaceHasher
from iom.nn.layers.index_of_max import Symbols
from iom.pretrained.weights import load_backbone_model


@dataclasses.dataclass(frozen=True)
class ExportSource:
    """A trained hasher, its backbone (raw RGB pixels to embedding, batch norms folded) and the embedder as trained."""

    backbone: keras.Model
    hasher: KerasFaceHasher
    embedder: Embedder
    network: Any = None
    """The network as its file was read."""

    def graph(self) -> keras.Model:
        """One Keras graph: `image` and `order` to `codes` and `embedding`."""
        image = keras.Input(self.backbone.inputs[0].shape[1:], name="image")
        order = keras.Input((self.hasher.order_width,), dtype="int32", name="order")
        embedding = self.backbone(image)
        responses = self.hasher.model({"embedding": embedding, "order": order})
        outputs = {
            "codes": Symbols(name="codes")(responses),
            "embedding": keras.layers.Identity(name="embedding")(embedding),
        }
        return keras.Model({"image": image, "order": order}, outputs, name="deployed_hasher")


def load_source(folder: Path | str, *, weights: str = "") -> ExportSource:
    """The hasher of a folder and its backbone, which must be a single Keras graph; `weights` as of `iom.load`."""
    hasher = KerasFaceHasher.load(folder, weights=weights)
    loaded = load_backbone_model(hasher.weights)
    embedder = Embedder.of_backbone(loaded, batch_size=EMBEDDER_BATCH)
    hasher.check_embedder(embedder)
    return ExportSource(fold_batch_norms(loaded.trainable_model), hasher, embedder, loaded.model)


@dataclasses.dataclass(frozen=True)
class ExportContext:
    """A source, a scratch folder, and faces `(N, S, S, 3)` uint8 to calibrate integers on, never those of the check.

    `orders` holds one row for each face, `(N, W)`, of random keys that are thrown away.
    """

    source: ExportSource
    faces: NDArray[np.uint8]
    orders: NDArray[np.int32]
    scratch: Path

    def samples(self) -> Iterator[dict[str, NDArray[Any]]]:
        """Inputs of the graph, one face each."""
        for face, order in zip(self.source.embedder.template.chips(self.faces), self.orders, strict=True):
            yield {"image": face[None].astype(np.float32), "order": order[None]}
