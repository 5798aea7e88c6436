"""Engines: what spreads the embedding of many images over workers."""

import importlib
from collections.abc import Callable, Iterator, Sequence

from iom._registry import lookup
from iom.gallery.bulk.embedding_worker import Embedded, EmbeddingWorker, WorkerSettings
from iom.gallery.bulk.rows import ImageRow

Engine = Callable[[Sequence[ImageRow], WorkerSettings, int], Iterator[list[Embedded]]]
"""`(rows, settings, workers)`: results in any order, each row once."""


def embed_here(rows: Sequence[ImageRow], settings: WorkerSettings, workers: int) -> Iterator[list[Embedded]]:
    """In this process, one batch after the other."""
    worker = EmbeddingWorker(settings)
    for start in range(0, len(rows), settings.batch_size):
        part = rows[start : start + settings.batch_size]
        yield worker.embedded(part, range(start, start + len(part)))


ENGINES = {"ray": "iom.gallery.bulk.ray_engine:embed_on_ray", "here": "iom.gallery.bulk.engines:embed_here"}
"""Name to `module:function`, an `Engine`."""


def open_engine(name: str) -> Engine:
    """The engine of a name.

    Raises:
        ConfigError: No such engine.
        MissingExtraError: Its package is not installed.
    """
    module, _, function = lookup(ENGINES, name, "engine").partition(":")
    engine: Engine = getattr(importlib.import_module(module), function)
    return engine
