"""Ray Data engine of bulk enrolment: a pool of workers on one machine or many, each with its own network.

The environment variable RAY_ADDRESS names a cluster; without it, workers are started here for the time of the call.
Embeddings travel through Ray's object store, which is not spilled to disk; set RAY_USE_TLS=1 on clusters.
"""

import dataclasses
import logging
import os
from collections.abc import Iterator, Sequence
from typing import Any

from iom.errors import DataError, IomError, missing_extra
from iom.gallery.bulk import EmbeddingWorker, ImageEmbedding, ImageRow, WorkerSettings

_ROUND = 200_000
"""Images of one Ray data set; its pool of workers is made anew for each."""
_STORE_BYTES = 256 << 20


def embed_on_ray(rows: Sequence[ImageRow], settings: WorkerSettings) -> Iterator[list[ImageEmbedding]]:
    """Embed images on Ray; an `iom.gallery.bulk.Engine`."""
    ray = _started(settings.workers)
    try:
        for start in range(0, len(rows), _ROUND):
            yield from _round(ray, rows[start : start + _ROUND], start, settings)
    except ray.exceptions.RayError as error:
        raise _own_error(error) from error
    finally:
        ray.shutdown()


def _started(workers: int) -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no telemetry
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise missing_extra("the engine ray", "bulk", cause=error, otherwise="use --engine here") from error
    local: dict[str, Any] = {
        "num_cpus": workers,
        "include_dashboard": False,
        "object_store_memory": _STORE_BYTES,
        "_system_config": {"automatic_object_spilling_enabled": False},
    }
    ray.init(log_to_driver=False, logging_level=logging.ERROR, **({} if os.environ.get("RAY_ADDRESS") else local))
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return ray


def _round(ray: Any, rows: Sequence[ImageRow], first: int, settings: WorkerSettings) -> Iterator[list[ImageEmbedding]]:
    items = [{"number": number, **dataclasses.asdict(row)} for number, row in enumerate(rows, first)]
    blocks = max(settings.workers, -(-len(items) // (4 * settings.batch_size)))
    data = ray.data.from_items(items, override_num_blocks=min(blocks, len(items))).map_batches(
        EmbeddingWorker,
        fn_constructor_args=(settings,),
        batch_size=settings.batch_size,
        batch_format="numpy",
        concurrency=settings.workers,
        num_cpus=1,
    )
    for part in data.iter_batches(batch_size=None, batch_format="numpy"):
        columns = zip(part["number"].tolist(), part["embedding"], part["problem"], strict=True)
        yield [ImageEmbedding(number, None if text else row.copy(), str(text)) for number, row, text in columns]


def _own_error(error: Exception) -> IomError:
    """The error of a worker without Ray's traceback."""
    cause: BaseException | None = error
    while cause is not None:
        inner = getattr(cause, "cause", None) or cause.__cause__
        if isinstance(inner, IomError):
            return inner
        cause = inner if isinstance(inner, BaseException) else None
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return DataError(f"a worker failed: {lines[-1][:300] if lines else type(error).__name__}")
