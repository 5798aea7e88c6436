"""Randomness by name: the same seed and purpose give the same numbers, whatever else was drawn."""

import hashlib

import numpy as np


def numpy_stream(seed: int, purpose: str) -> np.random.Generator:
    """Generator for one purpose.

    Args:
        seed: The run's seed.
        purpose: What the numbers are for, such as `"stage2/keys/epoch-3"`. Two purposes never share
            a stream, so adding a draw in one place changes nothing elsewhere.
    """
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return np.random.Generator(np.random.PCG64(np.frombuffer(digest, dtype="<u4").tolist()))


def seed_everything(seed: int, *, deterministic: bool = False) -> None:
    """Seed Python, NumPy and the Keras backend.

    Args:
        seed: Any non-negative integer.
        deterministic: Also force deterministic kernels: a run repeats bit for bit, more slowly.
    """
    import keras

    keras.utils.set_random_seed(seed)
    if deterministic:
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
