"""Training loop of both stages: one `fit` an epoch, verified, saved, resumable at any step, as Keras' `fit` is not.

Ctrl-C ends a training after the step, `n` typed in the terminal after the epoch; a loss or weights that are not finite
stop it and name the batch.
"""

import contextlib
import dataclasses
import math
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import Any

import keras

from iom._files import write_json
from iom._progress import tqdm
from iom.errors import IomError
from iom.training.run_dir import PLACES, Progress, RunDir, draw_curves, read_records

ACCURACY = "accuracy"
"""Figures with this ending are better the higher they are; all others the lower."""
NAN_FILE = "nan_batch.json"

_MAX_WATCHED = 100_000
"""Numbers in the variable that is checked after each step: few enough to cost nothing beside it."""
_STOP_LINE = "n"
_PICTURE_SECONDS = 10.0
"""Drawing takes a second: a picture of a run at work is at most so much older than its last epoch."""


class TrainingDivergedError(IomError):
    """The loss or the weights are no longer finite numbers."""


class TrainingStopped(KeyboardInterrupt):
    """The user stopped the training; everything up to here is saved."""


@dataclasses.dataclass(kw_only=True)
class TrainingLoop:
    """Training of a compiled model in a run's folder.

    Attributes:
        batches: `(epoch, first step) -> batches` of the rest of that epoch; a pure function, so that a resumed run sees
            the batches of the uninterrupted one.
        verify: Figures such as `held_out_eer`.
        save_model: Saves the current model under the name `best` or `last`.
        best_figure: The figure that decides which model is the best.
        checkpoint_steps: Also save the state every so many steps.
        verify_steps: Also verify every so many steps.
        state: Variables that belong to the run and neither to the model nor to its optimizer.
        files_of: `(epoch, step) -> files` of a batch, to name them if the loss is not finite.
        on_epoch: Takes the record of each epoch.
        report: Takes one line an epoch.
        fit: In place of `model.fit`, with its arguments.
    """

    model: keras.Model
    run: RunDir
    steps_per_epoch: int
    batches: Callable[[int, int], Any]
    verify: Callable[[], dict[str, float]]
    save_model: Callable[[str], None]
    best_figure: str = "held_out_eer"
    checkpoint_steps: int = 0
    verify_steps: int = 0
    state: Sequence[Any] = ()
    files_of: Callable[[int, int], Sequence[str]] | None = None
    on_epoch: Callable[[dict[str, Any]], None] = lambda record: None
    report: Callable[[str], None] = lambda line: None
    fit: Callable[..., keras.callbacks.History] | None = None
    progress: Progress = dataclasses.field(default_factory=Progress, init=False)

    def train(self, epochs: int, *, start: Progress | None = None, total_epochs: int = 0) -> Progress:
        """Train from the saved state of the run, or from `start` with the variables as they are, until epoch `epochs`.

        `epochs` may be that of a phase; `total_epochs` is that of the whole training, for reports.
        """
        self.progress = start or self.run.load_state(self.model, state=self.state)
        if not self.model.optimizer.built:  # a step that has slots to make is traced a second time
            self.model.optimizer.build(self.model.trainable_variables)
        drawn = time.monotonic()
        with interruptions() as requested:
            for epoch in range(self.progress.epoch, epochs):
                self._train_epoch(epoch, requested, total_epochs or epochs)
                if requested.is_set() or _stop_was_typed():
                    self._draw()
                    raise TrainingStopped(f"stopped after epoch {epoch + 1}, saved")
                if epoch + 1 < epochs and time.monotonic() - drawn > _PICTURE_SECONDS:
                    self._draw()
                    drawn = time.monotonic()
        self._draw()
        return self.progress

    def _draw(self) -> None:
        if records := read_records(self.run.metrics_path):
            draw_curves(self.run.path / "curves.png", {self.run.path.name: records})

    def _train_epoch(self, epoch: int, requested: threading.Event, total_epochs: int) -> None:
        first = self.progress.step
        started = time.monotonic()

        def after(batch: int, logs: dict[str, Any]) -> None:
            self.after_step(epoch, first + batch + 1, logs, stopping=requested.is_set())

        history = (self.fit or self.model.fit)(
            self.batches(epoch, first),
            initial_epoch=epoch,
            epochs=epoch + 1,
            callbacks=[keras.callbacks.LambdaCallback(on_train_batch_end=after)],
            shuffle=False,  # the order is already the epoch's own
            verbose="auto" if sys.stderr.isatty() else 0,
        )
        trained = time.monotonic() - started
        values = self.verify()
        record: dict[str, Any] = {"epoch": epoch + 1, "phase": self.progress.phase}
        record |= {name: float(rows[-1]) for name, rows in history.history.items()}
        record |= {**values, "learning_rate": self._learning_rate()}
        record["seconds"] = round(time.monotonic() - started, 1)
        record["fit_seconds"] = round(trained, 3)
        record["steps"] = self.steps_per_epoch - first
        improved = self._keep_best(values)
        self.save_model("last")
        self.run.log(record)
        self._save_state(epoch + 1, 0)
        self.on_epoch(record)
        self.report(_line(record, total_epochs) + (" (best)" if improved else ""))

    def after_step(self, epoch: int, step: int, logs: dict[str, Any], *, stopping: bool) -> None:
        """Check, verify and save after step `step` (from one) of epoch `epoch` (from zero), as far as due.

        The end of an epoch is left to the epoch. `logs` are the means of the losses in this epoch.
        """
        self.check_finite(logs, epoch=epoch, step=step)
        if step >= self.steps_per_epoch:
            return
        if self.verify_steps and step % self.verify_steps == 0:
            values = self.verify()
            self._keep_best(values)
            self.run.log({"epoch": epoch + 1, "step": step, **values, "learning_rate": self._learning_rate()})
        if stopping or (self.checkpoint_steps and step % self.checkpoint_steps == 0):
            self._save_state(epoch, step)
        if stopping:
            raise TrainingStopped(f"stopped at step {step} of epoch {epoch + 1}, saved")

    def check_finite(self, logs: dict[str, Any], *, epoch: int, step: int) -> None:
        """Refuse a loss or weights that are not finite; the batch is written to the run's folder.

        Looks at the loss and at the first small variable: a gradient that is not finite anywhere is not finite in the
        first layer either, so that its batch is found in its own step, and not one step later by the loss.
        """
        loss = float(logs.get("loss", 0.0))
        if math.isfinite(loss) and _is_finite(self.model):
            return
        losses = {name.removesuffix("_loss"): float(value) for name, value in logs.items() if name.endswith("_loss")}
        outputs = [name for name, value in losses.items() if not math.isfinite(value)]
        if not math.isfinite(loss) and not outputs:
            outputs = list(getattr(self.model, "output_names", ()))
        problem = f"the loss is {loss}" if not math.isfinite(loss) else "the weights are not finite"
        files = [str(file) for file in self.files_of(epoch, step - 1)] if self.files_of else []
        path = self.run.path / NAN_FILE
        batch = {"epoch": epoch + 1, "step": step, "found": problem, "outputs": outputs}
        write_json(path, {**batch, "learning_rate": self._learning_rate(), "files": files})
        state = self.run.state_path
        raise TrainingDivergedError(
            f"{problem} at step {step} of epoch {epoch + 1}"
            + (f" (output {', '.join(outputs)})" if outputs else "")
            + "; lower optimizer.learning_rate or set optimizer.clip_norm. "
            + (f"The images of that batch are listed in {path}. " if files else "")
            + (f"The last good state is {state}" if state.exists() else "No state was saved before")
        )

    def _keep_best(self, values: dict[str, float]) -> bool:
        """Save the model where it is the best so far; whether it is."""
        value = values[self.best_figure]
        if self.best_figure.endswith(ACCURACY):
            value = 1.0 - value
        if value >= self.progress.best:
            return False
        self.save_model("best")
        self.progress = dataclasses.replace(self.progress, best=value)
        return True

    def _save_state(self, epoch: int, step: int) -> None:
        """Write the state that the next step starts from."""
        self.progress = dataclasses.replace(self.progress, epoch=epoch, step=step)
        self.run.save_state(self.model, self.progress, state=self.state)

    def _learning_rate(self) -> float:
        """Learning rate of the next step."""
        return float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))


def fit_in_steps(model: keras.Model) -> Callable[..., keras.callbacks.History]:
    """In place of `model.fit` for batches that Python makes: each one is read once, ahead of its step, in a thread.

    `fit` opens the batches again at the end of an epoch and throws that iterator away while its thread reads the first
    of them: TensorFlow waits for the thread with the lock of the interpreter, which the thread waits for.
    """

    def fit(
        batches: Sequence[tuple[Any, Any]], *, callbacks: Sequence[keras.callbacks.Callback], verbose: Any, **_: Any
    ) -> keras.callbacks.History:
        history = keras.callbacks.History()
        logs: dict[str, Any] = {}
        model.reset_metrics()
        with ThreadPoolExecutor(1, "batches") as reader:
            following = reader.submit(batches.__getitem__, 0)
            for number in tqdm(range(len(batches)), unit="step", leave=False, disable=not verbose):
                inputs, targets = following.result()
                if number + 1 < len(batches):
                    following = reader.submit(batches.__getitem__, number + 1)
                logs = model.train_on_batch(inputs, targets, return_dict=True)  # means since the reset
                for callback in callbacks:
                    callback.on_train_batch_end(number, logs)
        history.history = {name: [float(value)] for name, value in logs.items()}
        return history

    return fit


def _is_finite(model: keras.Model) -> bool:
    """Whether the first small trainable variable is finite."""
    variables = model.trainable_variables
    small = [variable for variable in variables if math.prod(variable.shape) <= _MAX_WATCHED]
    watched = (small or variables)[:1]
    return all(math.isfinite(float(keras.ops.convert_to_numpy(keras.ops.sum(each)))) for each in watched)


def _line(record: dict[str, Any], epochs: int) -> str:
    hidden = (*PLACES, "learning_rate")
    values = "  ".join(f"{name} {value:.4f}" for name, value in record.items() if name not in hidden)
    rate = f"learning rate {record['learning_rate']:.3g}"
    return f"epoch {record['epoch']}/{epochs}  {values}  {rate}  {record['seconds']:.0f} s"


@contextlib.contextmanager
def interruptions() -> Iterator[threading.Event]:
    """An event that Ctrl-C sets; a second one acts at once.

    Outside the main thread signals cannot be caught, and are left as they are.
    """
    requested = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield requested
        return

    def note(number: int, frame: FrameType | None) -> None:
        requested.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        message = "\nstopping when this step is done and saved; Ctrl-C again stops at once\n"
        os.write(2, message.encode())  # a signal handler must not touch a buffered stream

    before = signal.signal(signal.SIGINT, note)
    try:
        yield requested
    finally:
        signal.signal(signal.SIGINT, before)


def _stop_was_typed() -> bool:
    """Whether one of the lines that were typed in the terminal so far is `n`."""
    terminal: Any = sys.stdin
    found = False
    try:
        # Reading in the background would suspend the whole process.
        if terminal is None or not terminal.isatty() or os.getpgrp() != os.tcgetpgrp(terminal.fileno()):
            return False
        while select.select([terminal], [], [], 0)[0] and (line := terminal.readline()):
            found |= line.strip().lower() == _STOP_LINE
    except (OSError, ValueError):
        pass  # the terminal is gone
    return found
