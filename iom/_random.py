"""Randomness by name: the same seed and purpose give the same numbers, whatever else was drawn."""

import hashlib

import numpy as np


def numpy_stream(seed: int, purpose: str) -> np.random.Generator:
    """Generator for one purpose, such as `"stage2/keys/epoch-3"`; two purposes never share a stream."""
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return np.random.Generator(np.random.PCG64(np.frombuffer(digest, dtype="<u4").tolist()))


def seed_everything(seed: int, *, deterministic: bool = False) -> None:
    """Seed Python, NumPy and the Keras backend; `deterministic` kernels repeat a run bit for bit, more slowly."""
    import keras

    keras.utils.set_random_seed(seed)
    if deterministic:
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
