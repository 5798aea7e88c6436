"""A public frame behind the keyed permutation, plain or refined: Index-of-Max without training.

The same steps as a learned hasher's with permutation keys, with nothing learned: what a structured frame
(`iom.nn.layers.frames`) and refined codes (`iom.nn.layers.refinement`) give by themselves, and so what training has to
beat.
"""

import functools
from collections.abc import Callable

import keras
import numpy as np
from numpy.typing import NDArray

from iom.baselines.protection import Keys, checked_rows, secrets_of
from iom.config.hashing import HasherConfig
from iom.errors import ConfigError
from iom.keys import TransformKey
from iom.nn.layers.cosine import UnitLength
from iom.nn.layers.index_of_max import IoMProjection

BATCH = 128
"""Rows a call, always as many: another batch size may round differently and flip a near tie."""
REFINEMENT_STEPS = 10


class FramedProjection:
    """Unit length -> keyed permutation, keep the first -> unit length -> frame -> argmax.

    Args:
        embedding_size: D.
        code: Shape of the code; `keep` is honoured, what is about learning is not.
        seed: Of the public frame.
        frame: A key of `iom.nn.layers.frames.FRAMES`.
        refined: Whether codes are refined: with the steps that `code` names, or `REFINEMENT_STEPS` where it names none,
            and with its gain.

    Raises:
        ConfigError: The frame cannot have this shape, or `keep` exceeds D.
    """

    def __init__(
        self, embedding_size: int, code: HasherConfig, seed: int = 0, *, frame: str, refined: bool = False
    ) -> None:
        if code.keep > embedding_size:
            raise ConfigError(f"code.keep: expected at most {embedding_size}, received {code.keep}")
        self.embedding_size = embedding_size
        self.code_length = code.code_length
        self.alphabet_size = code.alphabet_size
        self.keep = code.keep or embedding_size
        rows = keras.Input((self.keep,), name="rows")
        projection = IoMProjection(
            self.code_length,
            self.alphabet_size,
            initial=frame,
            seed=seed,
            refinement_steps=(code.refinement_steps or REFINEMENT_STEPS) if refined else 0,
            refinement_gain=code.refinement_gain,
            trainable=False,
        )
        responses = projection(UnitLength()(rows))
        self._projection = projection
        self._model = keras.Model(rows, keras.ops.argmax(responses, axis=-1))

    @property
    def public_projection(self) -> NDArray[np.float32]:
        """Projection vectors of the frame, `(K, M, Q)`."""
        kernel = np.asarray(self._projection.kernel, np.float32)
        return kernel.reshape(-1, self.code_length, self.alphabet_size)

    def hash(self, embeddings: NDArray[np.float32], keys: Keys) -> NDArray[np.uint8]:
        """Codes `(N, M)` of embeddings `(N, D)` under one key for all, or one for each."""
        rows = checked_rows(embeddings, self.embedding_size)
        order_of = {
            secret: TransformKey(secret).permutation(self.embedding_size)[: self.keep]
            for secret in set(secrets_of(keys, len(rows)))
        }
        orders = [order_of[secret] for secret in secrets_of(keys, len(rows))]
        shape = (len(rows), self.keep)
        kept = np.take_along_axis(rows, np.array(orders, np.intp).reshape(shape), axis=1)
        codes = np.empty((len(rows), self.code_length), np.uint8)
        batch = np.zeros((BATCH, self.keep), np.float32)
        for start in range(0, len(rows), BATCH):
            part = slice(start, start + BATCH)
            count = len(kept[part])
            batch[:count] = kept[part]
            codes[part] = self._model.predict_on_batch(batch)[:count]
        return codes


def framed(frame: str, *, refined: bool = False) -> Callable[[int, HasherConfig, int], FramedProjection]:
    """Builder of one kind of frame, for the table of baselines."""
    return functools.partial(FramedProjection, frame=frame, refined=refined)
