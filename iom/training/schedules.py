"""Learning-rate schedules with a linear warm-up, as Keras schedules over steps."""

import math
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from iom.config.sections import OptimizerConfig
from iom.errors import ConfigError
from iom.lookup import lookup

NO_DECAY = ("beta", "gamma", "bias", "alpha")
"""Batch-norm parameters, biases and PReLU slopes are not decayed."""


@keras.saving.register_keras_serializable(package="iom")
class WarmUp(keras.optimizers.schedules.LearningRateSchedule):
    """Linear rise to the rate over `warmup_steps`, then a shape over the remaining steps.

    Args:
        learning_rate: The rate after the warm-up.
        total_steps: Steps of the whole training.
        warmup_steps: Steps of the rise.
        shape: `constant`, `cosine` (to zero) or `step` (a tenth at each milestone).
        milestones: Steps at which `step` divides the rate by ten.
    """

    def __init__(
        self,
        learning_rate: float,
        *,
        total_steps: int,
        warmup_steps: int = 0,
        shape: str = "cosine",
        milestones: tuple[int, ...] = (),
    ) -> None:
        self.learning_rate = learning_rate
        self.total_steps = total_steps
        self.warmup_steps = warmup_steps
        self.shape = shape
        self.milestones = tuple(milestones)
        self._factor: Callable[[Any], Any] = lookup(
            {"constant": ops.ones_like, "cosine": self._cosine, "step": self._step},
            shape,
            "learning-rate schedule",
        )

    def __call__(self, step: Any) -> Any:
        """Rate at `step`, counted from zero."""
        step = ops.cast(step, "float32")
        rise = ops.minimum((step + 1.0) / max(1, self.warmup_steps), 1.0)
        return self.learning_rate * rise * self._factor(step)

    def _cosine(self, step: Any) -> Any:
        span = max(1, self.total_steps - self.warmup_steps)
        done = ops.clip((step - self.warmup_steps) / span, 0.0, 1.0)
        return 0.5 * (1.0 + ops.cos(math.pi * done))

    def _step(self, step: Any) -> Any:
        factor = ops.ones_like(step)
        for milestone in self.milestones:
            factor = ops.where(step >= milestone, 0.1 * factor, factor)
        return factor

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {
            "learning_rate": self.learning_rate,
            "total_steps": self.total_steps,
            "warmup_steps": self.warmup_steps,
            "shape": self.shape,
            "milestones": list(self.milestones),
        }


def _sgd(config: OptimizerConfig, **settings: Any) -> keras.optimizers.Optimizer:
    return keras.optimizers.SGD(momentum=config.momentum, **settings)


def _adam(config: OptimizerConfig, **settings: Any) -> keras.optimizers.Optimizer:
    return keras.optimizers.Adam(**settings)


OPTIMIZERS: dict[str, Callable[..., keras.optimizers.Optimizer]] = {"sgd": _sgd, "adam": _adam}


def build_optimizer(
    config: OptimizerConfig, *, epochs: int, steps_per_epoch: int
) -> keras.optimizers.Optimizer:
    """Optimizer with its schedule.

    Raises:
        ConfigError: Unknown optimizer or schedule, or a warm-up longer than the training.
    """
    if config.warmup_epochs >= epochs and config.warmup_epochs > 0:
        raise ConfigError(
            f"optimizer.warmup_epochs: expected less than the {epochs} epochs of training, "
            f"received {config.warmup_epochs}"
        )
    rate = WarmUp(
        config.learning_rate,
        total_steps=epochs * steps_per_epoch,
        warmup_steps=round(config.warmup_epochs * steps_per_epoch),
        shape=config.schedule,
        milestones=tuple(round(epoch * steps_per_epoch) for epoch in config.milestones),
    )
    optimizer = lookup(OPTIMIZERS, config.name, "optimizer")(
        config,
        learning_rate=rate,
        weight_decay=config.weight_decay or None,
        global_clipnorm=config.clip_norm or None,
    )
    if config.weight_decay:
        optimizer.exclude_from_weight_decay(var_names=list(NO_DECAY))
    return optimizer
