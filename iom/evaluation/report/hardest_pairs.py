"""The pairs that a system finds hardest, by file name."""

import base64
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from iom.data.benchmarks.base import PairBenchmark
from iom.errors import DataError
from iom.evaluation.report.curves import operating_threshold
from iom.evaluation.scores import OWN_KEY, SystemScores

QUALITY = 80


def image_names(benchmark: PairBenchmark) -> list[str]:
    """A name for each template: the last two parts of its file, or the benchmark and a number."""
    if benchmark.pooling is not None or not isinstance(benchmark.images, tuple):
        return [f"{benchmark.name}/{row}" for row in range(benchmark.templates)]
    return ["/".join(path.parts[-2:]) for path in benchmark.images]


def worst_pairs(scores: Sequence[SystemScores], benchmark: PairBenchmark, *, most: int) -> Iterator[dict[str, Any]]:
    """Mated pairs furthest apart and non-mated ones nearest, by the mean distance over keys.

    Not in `own_key`, where the keys tell the non-mated pairs apart.

    Args:
        scores: Of all systems.
        benchmark: Whose pairs they are.
        most: Pairs of each kind.
    """
    names = image_names(benchmark)
    for entry in scores:
        if entry.scenario == OWN_KEY:
            continue
        by_key = np.stack([scored.distances for scored in entry.by_key]).astype(np.float64)
        threshold, _ = operating_threshold(entry)
        mean, matches = by_key.mean(axis=0), (by_key <= threshold).mean(axis=0)
        for kind, of_kind, order in (
            ("mated, furthest apart", benchmark.same, -mean),
            ("non-mated, nearest", ~benchmark.same, mean),
        ):
            rows = np.flatnonzero(of_kind)
            for row in rows[np.argsort(order[rows], kind="stable")[:most]].tolist():
                left, right = int(benchmark.left[row]), int(benchmark.right[row])
                yield {
                    "system": entry.system,
                    "scenario": entry.scenario,
                    "kind": kind,
                    "left": names[left],
                    "right": names[right],
                    "distance": float(mean[row]),
                    "threshold": threshold,
                    "matches": float(matches[row]),
                }


def thumbnails(benchmark: PairBenchmark, names: Sequence[str]) -> dict[str, str]:
    """The named images as `data:` addresses (JPEG); names of pooled templates are left out.

    Raises:
        DataError: An image is missing or damaged.
    """
    if benchmark.pooling is not None:
        return {}
    row_of = {name: row for row, name in enumerate(image_names(benchmark))}
    shown = {}
    for name in dict.fromkeys(names):
        image = benchmark.images[row_of[name]]
        stream = io.BytesIO()
        _picture(image).save(stream, "JPEG", quality=QUALITY)
        shown[name] = "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()
    return shown


def _picture(image: Any) -> Image.Image:
    if not isinstance(image, Path):
        return Image.fromarray(np.asarray(image, np.uint8))
    try:
        with Image.open(image) as opened:
            return opened.convert("RGB")
    except OSError as error:
        raise DataError(f"cannot read image {image}: {error}") from error
