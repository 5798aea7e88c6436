"""The folder of one run: resolved configuration, metrics, resumable state, best and last model."""

import dataclasses
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np

from iom.config.loading import load_config, save_config
from iom.errors import CheckpointError, ConfigError
from iom.files import atomic_path

HEADER = "header"
STATE_VERSION = 1
LONGEST_VALUE = 100


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a run has come: the next step to take, and the best result so far."""

    epoch: int = 0
    step: int = 0
    best: float = float("inf")


class RunDir:
    """A run's folder.

    Attributes:
        path: The folder.
        config: The resolved configuration of the run.
    """

    def __init__(self, path: Path, config: Any) -> None:
        self.path = path
        self.config = config

    @classmethod
    def open(cls, path: Path, config: Any, *, resume: bool) -> "RunDir":
        """Start a run in an empty folder, or take one up again.

        Raises:
            CheckpointError: A new run in a folder that holds one; a resumed run whose
                configuration differs from the stored one.
        """
        run = cls(path, config)
        stored = path / "config.yaml"
        if stored.exists():
            if not resume:
                raise CheckpointError(
                    f"{path} already holds a run: continue it with --resume, or choose another "
                    "--output"
                )
            run._check_same_config(stored)
            return run
        if path.exists() and any(path.iterdir()):
            raise CheckpointError(f"{path} is not empty and holds no run: choose another --output")
        path.mkdir(parents=True, exist_ok=True)
        save_config(config, stored)
        return run

    def _check_same_config(self, stored: Path) -> None:
        try:
            before = load_config(type(self.config), stored)
        except ConfigError as error:
            raise CheckpointError(f"cannot resume: {error}") from error
        if before == self.config:
            return
        old, new = _flat(before), _flat(self.config)
        changed = [
            f"{key}: {_short(old[key])} -> {_short(new[key])}"
            for key in old
            if old[key] != new[key]
        ]
        raise CheckpointError(
            f"cannot resume {self.path}: it was started with another configuration "
            f"({'; '.join(changed[:3])})"
        )

    @property
    def state_path(self) -> Path:
        """Resumable state: model and optimizer variables and the progress."""
        return self.path / "state.npz"

    @property
    def metrics_path(self) -> Path:
        """One JSON object a line and epoch."""
        return self.path / "metrics.jsonl"

    def log(self, record: dict[str, Any]) -> None:
        """Append the record of an epoch; one of the same epoch or a later one is replaced."""
        kept = [row for row in self.records() if row["epoch"] < record["epoch"]]
        with atomic_path(self.metrics_path) as temporary:
            lines = [json.dumps(row) for row in [*kept, record]]
            temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def records(self) -> list[dict[str, Any]]:
        """The records of all epochs so far."""
        if not self.metrics_path.exists():
            return []
        try:
            lines = self.metrics_path.read_text(encoding="utf-8").splitlines()
            return [json.loads(line) for line in lines]
        except ValueError as error:
            raise CheckpointError(f"{self.metrics_path} is damaged: {error}") from error

    def save_state(self, model: keras.Model, progress: Progress) -> None:
        """Write every variable of the model and its optimizer, atomically."""
        arrays = {
            f"{index:05d}": np.asarray(keras.ops.convert_to_numpy(variable))
            for index, variable in enumerate(_variables(model))
        }
        header = {"version": STATE_VERSION, **dataclasses.asdict(progress)}
        with atomic_path(self.state_path) as temporary, temporary.open("wb") as stream:
            np.savez(stream, allow_pickle=False, **{HEADER: np.array(json.dumps(header)), **arrays})
            stream.flush()
            os.fsync(stream.fileno())

    def load_state(self, model: keras.Model) -> Progress:
        """Restore what `save_state` wrote; a run that has not saved yet starts at the beginning.

        Raises:
            CheckpointError: The file is damaged or belongs to another model. Nothing is restored.
        """
        if not self.state_path.exists():
            return Progress()
        variables = _variables(model)
        try:
            # NumPy leaves a damaged file open when it opens it itself.
            with (
                self.state_path.open("rb") as stream,
                np.load(stream, allow_pickle=False) as stored,
            ):
                header = json.loads(str(stored[HEADER]))
                arrays = [stored[f"{index:05d}"] for index in range(len(stored.files) - 1)]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise CheckpointError(
                f"{self.state_path} is damaged ({error}); the run cannot be resumed from it. "
                "The best and last models beside it are not touched; start anew in another folder"
            ) from error
        shapes = [tuple(variable.shape) for variable in variables]
        if header.get("version") != STATE_VERSION or [a.shape for a in arrays] != shapes:
            raise CheckpointError(
                f"{self.state_path}: expected state version {STATE_VERSION} with {len(shapes)} "
                f"variables of this model, received version {header.get('version')} with "
                f"{len(arrays)} variables; it belongs to another model"
            )
        for variable, array in zip(variables, arrays, strict=True):
            variable.assign(array)
        return Progress(header["epoch"], header["step"], header["best"])


def _variables(model: keras.Model) -> list[Any]:
    """Model and optimizer variables in a fixed order; metrics are no part of the state."""
    model.optimizer.build(model.trainable_variables)
    return [*model.variables, *model.optimizer.variables]


def _flat(config: Any, prefix: str = "") -> dict[str, Any]:
    result: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            result |= _flat(value, f"{prefix}{field.name}.")
        else:
            result[f"{prefix}{field.name}"] = value
    return result


def _short(value: Any) -> str:
    """The value as a message shows it: a long list is cut."""
    text = repr(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}..."
