"""Learning-rate schedules with a linear warm-up, as Keras schedules over steps; optimizers."""

import math
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from iom._registry import lookup
from iom.config.sections import OptimizerConfig
from iom.errors import ConfigError

NO_DECAY = ("beta", "gamma", "bias", "alpha")
"""Batch-norm parameters, biases and PReLU slopes are not decayed."""


@keras.saving.register_keras_serializable(package="iom")
class WarmUp(keras.optimizers.schedules.LearningRateSchedule):
    """Linear rise to the rate over `warmup_steps`, then a shape over the remaining steps.

    Args:
        learning_rate: The rate after the warm-up.
        total_steps: Steps of the whole training.
        warmup_steps: Steps of the rise.
        shape: Of `SHAPES`.
        milestones: Steps, counted from the first one, at which `step` multiplies by `factor`.
        factor: Of `step`.
        decay: Of `exponential`: what `decay_steps` steps multiply the rate by.
        decay_steps: Of `exponential`.
        restart_steps: Of `cosine_restarts`: length of the first cycle.
        t_mul: Of `cosine_restarts`: how much longer each cycle is than the one before.
        m_mul: Of `cosine_restarts`: where each cycle starts, as a share of the one before.
        floor: Smallest share of the rate, of the two cosines and `exponential`.
    """

    def __init__(
        self,
        learning_rate: float,
        *,
        total_steps: int,
        warmup_steps: int = 0,
        shape: str = "cosine",
        milestones: tuple[float, ...] = (),
        factor: float = 0.1,
        decay: float = 0.9,
        decay_steps: float = 1,
        restart_steps: float = 1,
        t_mul: float = 2.0,
        m_mul: float = 1.0,
        floor: float = 0.0,
    ) -> None:
        self.learning_rate = learning_rate
        self.total_steps = total_steps
        self.warmup_steps = warmup_steps
        self.shape = shape
        self.milestones = tuple(milestones)
        self.factor = factor
        self.decay = decay
        self.decay_steps = decay_steps
        self.restart_steps = restart_steps
        self.t_mul = t_mul
        self.m_mul = m_mul
        self.floor = floor
        self._share = lookup(SHAPES, shape, "learning-rate schedule")

    def __call__(self, step: Any) -> Any:
        """Rate at `step`, counted from zero."""
        step = ops.cast(step, "float32")
        rise = ops.minimum((step + 1.0) / max(1, self.warmup_steps), 1.0)
        return self.learning_rate * rise * self._share(self, step)

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        config = {name: value for name, value in vars(self).items() if not name.startswith("_")}
        return {**config, "milestones": list(self.milestones)}


def _constant(schedule: WarmUp, step: Any) -> Any:
    return ops.ones_like(step)


def _stepwise(schedule: WarmUp, step: Any) -> Any:
    share = ops.ones_like(step)
    for milestone in schedule.milestones:
        share = ops.where(step >= milestone, schedule.factor * share, share)
    return share


def _cosine(schedule: WarmUp, step: Any) -> Any:
    span = max(1, schedule.total_steps - schedule.warmup_steps)
    return _half_wave(schedule, ops.clip((step - schedule.warmup_steps) / span, 0.0, 1.0))


def _cosine_restarts(schedule: WarmUp, step: Any) -> Any:
    """SGDR (Loshchilov and Hutter, ICLR 2017, eq. 5); the cycles are listed, not computed back.

    The closed form takes a logarithm, which single precision rounds to the wrong cycle at a border.
    """
    starts, lengths, peaks = [0.0], [float(schedule.restart_steps)], [1.0]
    while starts[-1] + lengths[-1] < schedule.total_steps - schedule.warmup_steps:
        starts.append(starts[-1] + lengths[-1])
        lengths.append(lengths[-1] * schedule.t_mul)
        peaks.append(peaks[-1] * schedule.m_mul)
    after = ops.maximum(step - schedule.warmup_steps, 0.0)
    passed = ops.cast(after >= ops.convert_to_tensor(starts, "float32"), "int32")
    cycle = ops.sum(passed) - 1
    start, length, peak = (
        ops.take(ops.convert_to_tensor(values, "float32"), cycle) for values in (starts, lengths, peaks)
    )
    done = ops.clip((after - start) / length, 0.0, 1.0)
    return _half_wave(schedule, done, peak)


def _exponential(schedule: WarmUp, step: Any) -> Any:
    after = ops.maximum(step - schedule.warmup_steps, 0.0)
    # Not `decay ** x`: the power of a Python number is a double in some backends.
    share = ops.exp(math.log(schedule.decay) * after / schedule.decay_steps)
    return ops.maximum(share, schedule.floor)


def _half_wave(schedule: WarmUp, done: Any, peak: Any = 1.0) -> Any:
    return schedule.floor + (1.0 - schedule.floor) * peak * 0.5 * (1.0 + ops.cos(math.pi * done))


SHAPES: dict[str, Callable[[WarmUp, Any], Any]] = {
    "constant": _constant,
    "step": _stepwise,
    "cosine": _cosine,
    "cosine_restarts": _cosine_restarts,
    "exponential": _exponential,
}
"""Share of the rate at a step, behind the warm-up."""


def _sgd(config: OptimizerConfig, **settings: Any) -> keras.optimizers.Optimizer:
    return keras.optimizers.SGD(momentum=config.momentum, nesterov=config.nesterov, **settings)


def _nadam(config: OptimizerConfig, **settings: Any) -> keras.optimizers.Optimizer:
    return keras.optimizers.Nadam(**settings)


def _adam(config: OptimizerConfig, **settings: Any) -> keras.optimizers.Optimizer:
    return keras.optimizers.Adam(**settings)


def _adamw(config: OptimizerConfig, **settings: Any) -> keras.optimizers.Optimizer:
    return keras.optimizers.AdamW(**{**settings, "weight_decay": config.weight_decay})


OPTIMIZERS: dict[str, Callable[..., keras.optimizers.Optimizer]] = {
    "sgd": _sgd,
    "nadam": _nadam,
    "adam": _adam,
    "adamw": _adamw,
}


def build_optimizer(
    config: OptimizerConfig, *, epochs: int, steps_per_epoch: int, accumulate: int = 1
) -> keras.optimizers.Optimizer:
    """Optimizer with its schedule.

    Args:
        config: Which one.
        epochs: Epochs of the training, or of the phase: the schedule spans them.
        steps_per_epoch: Batches of an epoch.
        accumulate: Batches whose gradients are averaged into one update. The schedule counts
            batches all the same.

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
        factor=config.factor,
        decay=config.decay,
        decay_steps=steps_per_epoch,
        restart_steps=config.restart_epochs * steps_per_epoch,
        t_mul=config.t_mul,
        m_mul=config.m_mul,
        floor=config.floor,
    )
    optimizer = lookup(OPTIMIZERS, config.name, "optimizer")(
        config,
        learning_rate=rate,
        weight_decay=config.weight_decay or None,
        global_clipnorm=config.clip_norm or None,
        gradient_accumulation_steps=accumulate if accumulate > 1 else None,
    )
    if config.weight_decay:
        optimizer.exclude_from_weight_decay(var_names=list(NO_DECAY))
    return optimizer
