"""Which kind of data can be turned into which."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from iom.data.formats.face_sources import SOURCES
from iom.data.formats.folder_writer import bin_to_pairs, carray_to_bin, carray_to_pairs, pairs_to_bin, write_folder
from iom.errors import ConfigError, DataError

Conversion = Callable[..., dict[str, Any]]


def convert(kind: tuple[str, str], source: Path, target: Path, **settings: Any) -> dict[str, Any]:
    """Convert; see `CONVERSIONS`.

    Args:
        kind: From and to, such as `("recordio", "tfrecord")`.
        source: What is read.
        target: What is written.
        settings: `size`, `workers`, `skip_damaged`, `progress`; for shards also `per_shard`.

    Raises:
        ConfigError: No such conversion.
        DataError: Bad input.
    """
    if kind in PAIR_CONVERSIONS:
        return PAIR_CONVERSIONS[kind](source, target, progress=settings.get("progress", False))
    if kind not in CONVERSIONS:
        known = ", ".join(f"{a} to {b}" for a, b in (*CONVERSIONS, *PAIR_CONVERSIONS))
        raise ConfigError(f"cannot convert {kind[0]} to {kind[1]}; there are: {known}")
    faces = SOURCES[kind[0]](source)
    if not faces.paths:
        raise DataError(f"{source}: expected images, found none")
    return CONVERSIONS[kind](faces, target, **settings)


def _shards(*arguments: Any, **settings: Any) -> dict[str, Any]:
    from iom.data.formats.shard_writer import write_shards

    return write_shards(*arguments, **settings)


def _folder(*arguments: Any, per_shard: int = 0, **settings: Any) -> dict[str, Any]:
    return write_folder(*arguments, **settings)


CONVERSIONS: dict[tuple[str, str], Conversion] = {
    ("folder", "tfrecord"): _shards,
    ("recordio", "tfrecord"): _shards,
    ("recordio", "folder"): _folder,
    ("tfrecord", "folder"): _folder,
}
"""Labelled images."""

PAIR_CONVERSIONS: dict[tuple[str, str], Conversion] = {
    ("bin", "pairs"): bin_to_pairs,
    ("carray", "pairs"): carray_to_pairs,
    ("carray", "bin"): carray_to_bin,
    ("pairs", "bin"): pairs_to_bin,
}
"""Pairs to verify; `pairs` is a folder with `images/` and `pairs.txt`."""
