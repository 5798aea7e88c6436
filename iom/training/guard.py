"""Stop a training whose loss or weights are no longer finite, and name the batch that did it."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras

from iom._files import write_json
from iom.errors import IomError
from iom.training.run_dir import RunDir

NAN_FILE = "nan_batch.json"
SMALL = 100_000
"""Numbers in the variable that is looked at: few enough to cost nothing beside a step."""


class TrainingDivergedError(IomError):
    """The loss is no longer a finite number."""


class FiniteGuard:
    """Looks at the loss and at the first small variable after each step.

    A gradient that is not finite anywhere is not finite in the first layer either, so that its
    batch is found in its own step, and not one step later by the loss.

    Args:
        run: The run's folder; the batch is written there.
        files_of: `(epoch, step) -> files` of a batch, both counted from zero.
    """

    def __init__(self, run: RunDir, files_of: Callable[[int, int], Sequence[str]] | None = None) -> None:
        self._run = run
        self._files_of = files_of

    def check(self, model: keras.Model, logs: dict[str, Any], *, epoch: int, step: int) -> None:
        """Look.

        Args:
            model: After the step.
            logs: Means of the losses in this epoch, as Keras gives them: one number that is not
                finite stays in them.
            epoch: Counted from zero.
            step: Counted from one: the step just done.

        Raises:
            TrainingDivergedError: Something is not finite.
        """
        loss = float(logs.get("loss", 0.0))
        if math.isfinite(loss) and _finite(_watched(model)):
            return
        names = [name.removesuffix("_loss") for name in logs if name.endswith("_loss")]
        parts = [name for name in names if not math.isfinite(float(logs[f"{name}_loss"]))]
        if not math.isfinite(loss) and not parts:
            parts = list(getattr(model, "output_names", ()))
        what = f"the loss is {loss}" if not math.isfinite(loss) else "the weights are not finite"
        files = [str(file) for file in self._files_of(epoch, step - 1)] if self._files_of else []
        place = self._run.path / NAN_FILE
        write_json(
            place,
            {
                "epoch": epoch + 1,
                "step": step,
                "found": what,
                "outputs": parts,
                "learning_rate": float(keras.ops.convert_to_numpy(model.optimizer.learning_rate)),
                "files": files,
            },
        )
        state = self._run.state_path
        good = f"The last good state is {state}" if state.exists() else "No state was saved before"
        raise TrainingDivergedError(
            f"{what} at step {step} of epoch {epoch + 1}"
            + (f" (output {', '.join(parts)})" if parts else "")
            + "; lower optimizer.learning_rate or set optimizer.clip_norm. "
            + (f"The images of that batch are listed in {place}. " if files else "")
            + good
        )


def _watched(model: keras.Model) -> Any:
    variables = model.trainable_variables
    small = [v for v in variables if math.prod(v.shape) <= SMALL]
    return (small or variables)[0] if variables else None


def _finite(variable: Any) -> bool:
    if variable is None:
        return True
    return math.isfinite(float(keras.ops.convert_to_numpy(keras.ops.sum(variable))))
