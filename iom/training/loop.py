"""The loop both stages share: one `fit` an epoch, verified, saved, resumable at any step."""

import math
import sys
import time
from collections.abc import Callable
from typing import Any

import keras

from iom.errors import IomError
from iom.training.run_dir import Progress, RunDir

HIDDEN = ("epoch", "steps", "seconds", "fit_seconds")
"""Fields of a record that its line leaves out, or tells elsewhere."""


class TrainingDivergedError(IomError):
    """The loss is no longer a finite number."""


class _StepCheckpoint(keras.callbacks.Callback):
    """Save the state every `every` steps, and stop on a loss that is not finite."""

    def __init__(self, run: RunDir, progress: Progress, every: int) -> None:
        super().__init__()
        self._run = run
        self._start = progress
        self._every = every

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Count the step; save where one is due."""
        taken = self._start.step + batch + 1
        loss = float((logs or {}).get("loss", 0.0))
        if not math.isfinite(loss):
            raise TrainingDivergedError(
                f"the loss is {loss} at step {taken} of epoch {self._start.epoch + 1}; lower "
                f"optimizer.learning_rate or set optimizer.clip_norm. The last good state is "
                f"{self._run.state_path}"
            )
        if self._every and taken % self._every == 0:
            self._run.save_state(self.model, Progress(self._start.epoch, taken, self._start.best))


def run_epochs(
    model: keras.Model,
    run: RunDir,
    *,
    epochs: int,
    steps_per_epoch: int,
    batches: Callable[[int, int], Any],
    verify: Callable[[], dict[str, float]],
    save_model: Callable[[str], None],
    checkpoint_steps: int = 0,
    report: Callable[[str], None] = lambda line: None,
) -> Progress:
    """Train from where the run stands to the last epoch.

    Args:
        model: Compiled model.
        run: The run's folder; its state, if any, is restored first.
        epochs: Epochs of the whole training.
        steps_per_epoch: Steps of one epoch.
        batches: `(epoch, first step) -> batches` of the rest of that epoch; a pure function, so
            that a resumed run sees what the uninterrupted one would have seen.
        verify: Results on held-out subjects; `eer` decides which epoch is the best.
        save_model: Saves the model to be kept, under the name `best` or `last`.
        checkpoint_steps: Also save the state every so many steps.
        report: Takes one line an epoch.
    """
    progress = run.load_state(model)
    for epoch in range(progress.epoch, epochs):
        started = time.monotonic()
        history = model.fit(
            batches(epoch, progress.step),
            initial_epoch=epoch,
            epochs=epoch + 1,
            callbacks=[_StepCheckpoint(run, progress, checkpoint_steps)],
            shuffle=False,  # the order is already the epoch's own
            verbose="auto" if _interactive() else 0,
        )
        trained = time.monotonic() - started
        values = verify()
        record = {"epoch": epoch + 1, **{k: float(v[-1]) for k, v in history.history.items()}}
        record |= {f"held_out_{name}": value for name, value in values.items()}
        record["seconds"] = round(time.monotonic() - started, 1)
        record["fit_seconds"] = round(trained, 3)
        record["steps"] = steps_per_epoch - progress.step
        improved = values["eer"] < progress.best
        if improved:
            save_model("best")
        save_model("last")
        run.log(record)
        progress = Progress(epoch + 1, 0, min(values["eer"], progress.best))
        run.save_state(model, progress)
        report(_line(record, epochs) + (" (best)" if improved else ""))
    return progress


def _interactive() -> bool:
    return sys.stderr.isatty()


def _line(record: dict[str, Any], epochs: int) -> str:
    shown = {k: v for k, v in record.items() if k not in HIDDEN}
    values = "  ".join(f"{name} {value:.4f}" for name, value in shown.items())
    return f"epoch {record['epoch']}/{epochs}  {values}  {record['seconds']:.0f} s"
