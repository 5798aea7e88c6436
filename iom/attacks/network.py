"""Descent on the embedding through a hashing network of any architecture."""

from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from iom.attacks.base import Embeddings, Templates, unit

SHARPNESS = 6.0
RATE = 0.1


class CandidateRows(keras.layers.Layer):
    """Embeddings as weights, so that a stock optimizer can move them; row i is asked for by i."""

    def __init__(self, start: Embeddings) -> None:
        super().__init__()
        self.rows = self.add_weight(
            shape=start.shape, initializer=lambda shape, dtype=None: keras.ops.cast(start, dtype)
        )

    def call(self, index: Any) -> Any:
        """`(B,)` row numbers -> `(B, D)`."""
        return keras.ops.take(self.rows, keras.ops.cast(index, "int32"), axis=0)


class NetworkGradient:
    """Softmax cross-entropy descent through a frozen hashing network under one key.

    Args:
        model: Made by `build_hasher`.
        order: What the key became, `(W,)`.
    """

    def __init__(self, model: keras.Model, order: NDArray[np.int32]) -> None:
        self._model = model
        self._order = order

    def descend(self, codes: Templates, start: Embeddings, *, steps: int) -> Embeddings:
        """Rows `(N, D)`, unit length, whose responses favour `codes` `(N, M)`."""
        candidates = CandidateRows(unit(start))
        frozen = keras.models.clone_model(self._model)
        frozen.set_weights(self._model.get_weights())
        frozen.trainable = False
        number = keras.Input((), dtype="int32")
        order = keras.Input((len(self._order),), dtype="int32")
        rows = candidates(number)
        responses = frozen({"embedding": rows, "order": order})
        spread = float(np.std(self._responses(start)))
        attack = keras.Model([number, order], responses * (SHARPNESS / max(spread, 1e-12)))
        attack.compile(
            optimizer=keras.optimizers.Adam(RATE),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            jit_compile=False,
        )
        everyone = np.arange(len(codes), dtype=np.int32)
        orders = np.repeat(self._order[None], len(codes), axis=0)
        attack.fit(
            [everyone, orders], codes.astype(np.int32), batch_size=len(codes), epochs=steps, shuffle=False, verbose=0
        )
        return unit(np.asarray(candidates.rows))

    def _responses(self, rows: Embeddings) -> NDArray[np.float32]:
        orders = np.repeat(self._order[None], len(rows), axis=0)
        responses: NDArray[np.float32] = self._model.predict_on_batch({"embedding": rows, "order": orders})
        return responses
