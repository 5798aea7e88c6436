"""`metrics.jsonl` of a run: one JSON object a line, for an epoch or for a step within one."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from iom._files import atomic_path
from iom._untrusted import parse_json
from iom.errors import CheckpointError


def read_records(path: Path) -> list[dict[str, Any]]:
    """All records; none where there is no file yet.

    Raises:
        CheckpointError: The file is damaged.
    """
    if not path.exists():
        return []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        records = [parse_json(line) for line in lines]
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    if not all(isinstance(row, dict) and isinstance(row.get("epoch"), int) for row in records):
        raise CheckpointError(f"{path} is damaged: expected objects with an epoch")
    return records


def write_records(path: Path, records: Sequence[dict[str, Any]]) -> None:
    """Write all records, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text("".join(f"{json.dumps(row)}\n" for row in records), encoding="utf-8")


def place(record: dict[str, Any]) -> tuple[int, float]:
    """Where a record stands in the training: steps of an epoch come before its end."""
    return record["epoch"], record.get("step", float("inf"))
