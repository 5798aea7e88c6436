"""Index-of-Max hashing without training: GRP and URP (Jin et al., TIFS 2018, III-A and III-B), structured frames."""

import functools
from collections.abc import Callable, Sequence

import keras
import numpy as np
from numpy.typing import NDArray

from iom._random import numpy_stream
from iom.baselines.protection import Protection, keyed_orders
from iom.config import CodeConfig
from iom.errors import ConfigError
from iom.keys import TransformKey
from iom.nn.hash_numpy import padded_batches
from iom.nn.layers import UnitLength
from iom.nn.layers.index_of_max import IoMProjection

GRP_BATCH = 1024
FRAME_BATCH = 128
"""Rows a call, always as many: another batch size may round differently and flip a near tie."""
REFINEMENT_STEPS = 10
FACTORS = 2
"""Permuted vectors in a product of URP; the paper's best value on faces."""


class GaussianRandomProjection(Protection):
    """GRP-IoM: a public Gaussian projection behind the keyed permutation, hence one that follows from the key."""

    takes_keep = True

    def __init__(self, embedding_size: int, code: CodeConfig, seed: int = 0) -> None:
        super().__init__(embedding_size, code)
        shape = (self.keep, self.code_length * self.alphabet_size)
        self._projection = numpy_stream(seed, "baselines/grp").standard_normal(shape).astype(np.float32)

    @property
    def public_projection(self) -> NDArray[np.float32]:
        """Projection vectors, `(K, M, Q)`."""
        return self._projection.reshape(-1, self.code_length, self.alphabet_size)

    def _hash_rows(self, rows: NDArray[np.float32], key: TransformKey) -> NDArray[np.intp]:
        order = key.permutation(self.embedding_size)[: self.keep]
        blocks = [
            (rows[start : start + GRP_BATCH, order] @ self._projection)
            .reshape(-1, self.code_length, self.alphabet_size)
            .argmax(axis=2)
            for start in range(0, len(rows), GRP_BATCH)
        ]
        return np.concatenate(blocks) if blocks else np.empty((0, self.code_length), np.intp)


class UniformRandomPermutation(Protection):
    """At each position: permute the vector p times by the key, multiply, argmax of the first q = Q entries."""

    title = "URP"

    def __init__(self, embedding_size: int, code: CodeConfig, seed: int = 0) -> None:
        if code.alphabet_size > embedding_size:
            raise ConfigError(
                f"code.alphabet_size: URP takes at most the {embedding_size} entries of an embedding, received "
                f"{code.alphabet_size}"
            )
        super().__init__(embedding_size, code)

    def windows(self, key: TransformKey) -> NDArray[np.intp]:
        """Dimensions that are multiplied, `(P, M, q)`."""
        orders = keyed_orders(key, "urp", FACTORS * self.code_length, self.embedding_size)
        return orders[:, : self.alphabet_size].reshape(FACTORS, self.code_length, -1)

    def _hash_rows(self, rows: NDArray[np.float32], key: TransformKey) -> NDArray[np.intp]:
        responses = np.ones((len(rows), self.code_length, self.alphabet_size), np.float32)
        for window in self.windows(key):
            responses *= rows[:, window]
        codes: NDArray[np.intp] = np.argmax(responses, axis=2)
        return codes


class FramedProjection(Protection):
    """Unit length -> keyed permutation, keep the first -> unit length -> frame of `FRAMES` -> argmax.

    With nothing learned these are the steps of a learned hasher with permutation keys, and the result that training has
    to exceed. Refined codes take the steps that `code` names, else `REFINEMENT_STEPS`, and its gain.
    """

    takes_keep = True

    def __init__(
        self, embedding_size: int, code: CodeConfig, seed: int = 0, *, frame: str, refined: bool = False
    ) -> None:
        super().__init__(embedding_size, code)
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

    def _hash_each(self, rows: NDArray[np.float32], keys: Sequence[TransformKey]) -> NDArray[np.uint8]:
        order_of = {secret: self._order(TransformKey(secret)) for secret in {key.secret for key in keys}}
        orders = np.array([order_of[key.secret] for key in keys], np.intp).reshape(len(rows), self.keep)
        return self._codes(np.take_along_axis(rows, orders, axis=1))

    def _hash_rows(self, rows: NDArray[np.float32], key: TransformKey) -> NDArray[np.uint8]:
        return self._codes(rows[:, self._order(key)])

    def _order(self, key: TransformKey) -> NDArray[np.intp]:
        return np.asarray(key.permutation(self.embedding_size)[: self.keep], np.intp)

    def _codes(self, kept: NDArray[np.float32]) -> NDArray[np.uint8]:
        codes = np.empty((len(kept), self.code_length), np.uint8)
        for part, (batch,) in padded_batches(FRAME_BATCH, kept):
            codes[part] = self._model.predict_on_batch(batch)[: part.stop - part.start]
        return codes


def framed(frame: str, *, refined: bool = False) -> Callable[[int, CodeConfig, int], FramedProjection]:
    """Builder of one kind of frame, for the table of baselines."""
    return functools.partial(FramedProjection, frame=frame, refined=refined)
