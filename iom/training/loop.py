"""The loop both stages share: one `fit` an epoch, verified, saved, resumable at any step."""

import dataclasses
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import keras

from iom.training.curves import draw_curves
from iom.training.guard import FiniteGuard, TrainingDivergedError
from iom.training.run_dir import Progress, RunDir
from iom.training.stopping import StopRequests, TrainingStopped, stop_requests

__all__ = ["TrainingDivergedError", "TrainingStopped", "run_epochs"]

HIDDEN = ("epoch", "step", "phase", "steps", "seconds", "fit_seconds")
"""Fields of a record that its line leaves out, or tells elsewhere."""
ACCURACY = "accuracy"
"""Figures with this ending are better the higher they are; all others the lower."""


@dataclasses.dataclass(kw_only=True)
class _Session:
    """What the steps and the epochs of one call of `run_epochs` share."""

    run: RunDir
    verify: Callable[[], dict[str, float]]
    save_model: Callable[[str], None]
    decides: str
    requests: StopRequests
    state: Sequence[Any]
    checkpoint_steps: int
    verify_steps: int
    steps_per_epoch: int
    progress: Progress

    def judge(self, values: dict[str, float]) -> bool:
        """Save the best model where it is one; whether it is."""
        value = values[self.decides]
        if self.decides.endswith(ACCURACY):
            value = 1.0 - value
        if value >= self.progress.best:
            return False
        self.save_model("best")
        self.progress = dataclasses.replace(self.progress, best=value)
        return True

    def save(self, model: keras.Model, epoch: int, step: int) -> None:
        """Write the state that the next step starts from."""
        progress = dataclasses.replace(self.progress, epoch=epoch, step=step)
        self.run.save_state(model, progress, state=self.state)


class _StepCheckpoint(keras.callbacks.Callback):
    """Within an epoch: guard the loss, verify and save the state where it is due, stop gently."""

    def __init__(self, session: _Session, guard: FiniteGuard) -> None:
        super().__init__()
        self._session = session
        self._guard = guard
        self._epoch, self._first = session.progress.epoch, session.progress.step

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Count the step; do what is due. The last step of an epoch leaves it to the epoch."""
        session, taken = self._session, self._first + batch + 1
        self._guard.check(self.model, logs or {}, epoch=self._epoch, step=taken)
        if taken >= session.steps_per_epoch:
            return
        if session.verify_steps and taken % session.verify_steps == 0:
            values = session.verify()
            session.judge(values)
            place = {"epoch": self._epoch + 1, "step": taken}
            session.run.log({**place, **values, **_rate(self.model)})
        stopping = session.requests.after_step
        if stopping or (session.checkpoint_steps and taken % session.checkpoint_steps == 0):
            session.save(self.model, self._epoch, taken)
        if stopping:
            raise TrainingStopped(f"stopped at step {taken} of epoch {self._epoch + 1}, saved")


def run_epochs(
    model: keras.Model,
    run: RunDir,
    *,
    epochs: int,
    steps_per_epoch: int,
    batches: Callable[[int, int], Any],
    verify: Callable[[], dict[str, float]],
    save_model: Callable[[str], None],
    decides: str = "held_out_eer",
    checkpoint_steps: int = 0,
    verify_steps: int = 0,
    of_epochs: int = 0,
    start: Progress | None = None,
    state: Sequence[Any] = (),
    files_of: Callable[[int, int], Sequence[str]] | None = None,
    watch: Callable[[dict[str, Any]], None] = lambda record: None,
    report: Callable[[str], None] = lambda line: None,
    fit: Callable[..., keras.callbacks.History] | None = None,
) -> Progress:
    """Train from where the run stands to the last epoch.

    Ctrl-C stops behind the step, `n` typed in the terminal behind the epoch, saved either way.

    Args:
        model: Compiled model.
        run: The run's folder; its state, if any, is restored first.
        epochs: The epoch to stop before: that of the whole training, or of its phase.
        of_epochs: Epochs of the whole training, for reports; `epochs` by default.
        steps_per_epoch: Steps of one epoch.
        batches: `(epoch, first step) -> batches` of the rest of that epoch; a pure function, so
            that a resumed run sees what the uninterrupted one would have seen.
        verify: Figures such as `held_out_eer`.
        save_model: Saves the model to be kept, under the name `best` or `last`.
        decides: The figure that decides which model is the best.
        checkpoint_steps: Also save the state every so many steps.
        verify_steps: Also verify every so many steps.
        start: Where to go on with the variables as they are, without restoring any state.
        state: Variables that belong to the run and neither to the model nor to its optimizer.
        files_of: `(epoch, step) -> files` of a batch, to name them if the loss is not finite.
        watch: Takes the record of each epoch.
        report: Takes one line an epoch.
        fit: In place of `model.fit`, with its arguments.

    Raises:
        TrainingDivergedError: The loss or the weights are no finite numbers.
        TrainingStopped: The user stopped the training.
    """
    progress = start or run.load_state(model, state=state)
    guard = FiniteGuard(run, files_of)
    with stop_requests() as requests:
        session = _Session(
            run=run, verify=verify, save_model=save_model, decides=decides, requests=requests,
            state=state, checkpoint_steps=checkpoint_steps, verify_steps=verify_steps,
            steps_per_epoch=steps_per_epoch, progress=progress,
        )  # fmt: skip
        for epoch in range(progress.epoch, epochs):
            first = session.progress.step
            started = time.monotonic()
            history = (fit or model.fit)(
                batches(epoch, first),
                initial_epoch=epoch,
                epochs=epoch + 1,
                callbacks=[_StepCheckpoint(session, guard)],
                shuffle=False,  # the order is already the epoch's own
                verbose="auto" if _interactive() else 0,
            )
            trained = time.monotonic() - started
            values = verify()
            record: dict[str, Any] = {"epoch": epoch + 1, "phase": progress.phase}
            record |= {name: float(rows[-1]) for name, rows in history.history.items()}
            record |= {**values, **_rate(model)}
            record["seconds"] = round(time.monotonic() - started, 1)
            record["fit_seconds"] = round(trained, 3)
            record["steps"] = steps_per_epoch - first
            improved = session.judge(values)
            save_model("last")
            run.log(record)
            session.save(model, epoch + 1, 0)
            session.progress = dataclasses.replace(session.progress, epoch=epoch + 1, step=0)
            draw_curves(run.path / "curves.png", {run.path.name: run.records()})
            watch(record)
            report(_line(record, of_epochs or epochs) + (" (best)" if improved else ""))
            if requests.any:
                raise TrainingStopped(f"stopped after epoch {epoch + 1}, saved")
    return session.progress


def _interactive() -> bool:
    return sys.stderr.isatty()


def _rate(model: keras.Model) -> dict[str, float]:
    """Learning rate that the next step is taken with."""
    return {"learning_rate": float(keras.ops.convert_to_numpy(model.optimizer.learning_rate))}


def _line(record: dict[str, Any], epochs: int) -> str:
    shown = {k: v for k, v in record.items() if k not in HIDDEN and k != "learning_rate"}
    values = "  ".join(f"{name} {value:.4f}" for name, value in shown.items())
    rate = f"learning rate {record['learning_rate']:.3g}"
    return f"epoch {record['epoch']}/{epochs}  {values}  {rate}  {record['seconds']:.0f} s"
