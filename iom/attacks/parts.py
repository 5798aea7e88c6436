"""A protection whose renewals go to other dimensions: what a leak told is of no use there.

Under `keep`, old and new key share dimensions by chance, and what is known of those is accepted
again. Here the dimensions are parted once for all; a key lives in one part, which follows from its
stream, and a victim is renewed under a key of another part. With k parts there are k - 1 renewals;
after that every dimension has leaked.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from iom.attacks.interface import AttackedSystem, Embeddings, Templates, Vectors
from iom.errors import ConfigError
from iom.keys import TransformKey
from iom.seeding import numpy_stream


def part_of(key: TransformKey, parts: int) -> int:
    """The part that a key lives in, 0 to parts - 1."""
    return int.from_bytes(key.stream("part", 8), "little") % parts


def in_parts(
    build: Callable[[int], AttackedSystem],
    linear: NDArray[np.float32],
    *,
    parts: int,
    shared: int = 0,
    seed: int = 1,
) -> AttackedSystem:
    """A system that hashes one part of the dimensions, by the key.

    Args:
        build: The system for embeddings of a part's size.
        linear: Public map of embeddings before they are parted, `(D, D)`; a whitening leaves less
            for a regression to tell of one part from another.
        parts: How many, 2 or more.
        shared: Dimensions that neighbouring parts have in common, for better accuracy and more
            leaking.
        seed: Of the public order in which dimensions are parted.

    Raises:
        ConfigError: Fewer than two parts, or more than there are dimensions.
    """
    size = len(linear)
    if not 2 <= parts <= size // 2 or not 0 <= shared <= size // parts:
        raise ConfigError(f"parts: expected 2 to {size // 2}, received {parts} sharing {shared}")
    order = numpy_stream(seed, "attacks/parts").permutation(size)
    width = size // parts + shared
    columns = [np.take(order, np.arange(width) + number * (size // parts) - (shared // 2),
                       mode="wrap") for number in range(parts)]  # fmt: skip
    inner = build(width)
    maps = [np.ascontiguousarray(linear[:, chosen]) for chosen in columns]

    def hashed(rows: Embeddings, key: TransformKey) -> Templates:
        return inner.hash(rows @ maps[part_of(key, parts)], key)

    def vectors(key: TransformKey) -> Vectors:
        if inner.vectors is None:
            raise ConfigError(f"{inner.name}: not linear")
        return np.asarray(np.tensordot(maps[part_of(key, parts)], inner.vectors(key), axes=1))

    return dataclasses.replace(
        inner,
        name=f"{inner.name} in {parts} parts",
        embedding_size=size,
        hash=hashed,
        vectors=vectors if inner.vectors else None,
        responses=None,
    )
