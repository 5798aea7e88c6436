"""Optimizers with their learning-rate schedules: Keras' schedules behind a linear warm-up."""

import math
from collections.abc import Callable
from typing import Any

import keras
from keras import ops
from keras.optimizers.schedules import CosineDecay, ExponentialDecay, LearningRateSchedule, PiecewiseConstantDecay

from iom._registry import lookup
from iom.config.sections import OptimizerConfig
from iom.errors import ConfigError

NO_DECAY = ("beta", "gamma", "bias", "alpha")
"""Batch-norm parameters, biases and PReLU slopes are not decayed."""


@keras.saving.register_keras_serializable(package="iom")
class WarmUp(LearningRateSchedule):
    """Linear rise to the rate over `warmup_steps`, then a schedule over the remaining steps.

    Args:
        schedule: Rate at each step behind the warm-up; a number for a constant rate.
        warmup_steps: Steps of the rise. Keras' own warm-up starts below its first step, so that it ends one later.
        min_rate: The rate does not fall below it.
    """

    def __init__(self, schedule: LearningRateSchedule | float, *, warmup_steps: int = 0, min_rate: float = 0.0) -> None:
        self.schedule = schedule
        self.warmup_steps = warmup_steps
        self.min_rate = min_rate

    def __call__(self, step: Any) -> Any:
        step = ops.cast(step, "float32")
        rate: Any = self.schedule
        if isinstance(rate, LearningRateSchedule):
            rate = rate(ops.maximum(step - self.warmup_steps, 0.0))
        rise = ops.minimum((step + 1.0) / max(1, self.warmup_steps), 1.0)
        return rise * ops.maximum(rate, self.min_rate)

    def get_config(self) -> dict[str, Any]:
        return {"schedule": self.schedule, "warmup_steps": self.warmup_steps, "min_rate": self.min_rate}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "WarmUp":
        schedule = config["schedule"]
        if isinstance(schedule, dict):
            schedule = keras.saving.deserialize_keras_object(schedule)
        return cls(**{**config, "schedule": schedule})


@keras.saving.register_keras_serializable(package="iom")
class CosineRestarts(LearningRateSchedule):
    """SGDR (Loshchilov and Hutter, ICLR 2017, eq. 5), with a list of cycles.

    Keras' `CosineDecayRestarts` takes a logarithm, which single precision rounds to the wrong cycle at a border.

    Args:
        learning_rate: Rate at the start.
        total_steps: Steps of all cycles.
        restart_steps: Length of the first cycle.
        t_mul: Length of each cycle, as a multiple of the one before.
        m_mul: Start of each cycle, as a share of the one before.
        floor: Smallest share of the rate.
    """

    def __init__(
        self,
        learning_rate: float,
        *,
        total_steps: int,
        restart_steps: float,
        t_mul: float = 2.0,
        m_mul: float = 1.0,
        floor: float = 0.0,
    ) -> None:
        self.learning_rate = learning_rate
        self.total_steps = total_steps
        self.restart_steps = restart_steps
        self.t_mul = t_mul
        self.m_mul = m_mul
        self.floor = floor

    def __call__(self, step: Any) -> Any:
        starts, lengths, peaks = [0.0], [float(self.restart_steps)], [1.0]
        while starts[-1] + lengths[-1] < self.total_steps:
            starts.append(starts[-1] + lengths[-1])
            lengths.append(lengths[-1] * self.t_mul)
            peaks.append(peaks[-1] * self.m_mul)
        step = ops.cast(step, "float32")
        passed = ops.cast(step >= ops.convert_to_tensor(starts, "float32"), "int32")
        cycle = ops.sum(passed) - 1
        start, length, peak = (
            ops.take(ops.convert_to_tensor(values, "float32"), cycle) for values in (starts, lengths, peaks)
        )
        done = ops.clip((step - start) / length, 0.0, 1.0)
        wave = 0.5 * (1.0 + ops.cos(math.pi * done))
        return self.learning_rate * (self.floor + (1.0 - self.floor) * peak * wave)

    def get_config(self) -> dict[str, Any]:
        return dict(vars(self))


def build_schedule(config: OptimizerConfig, *, epochs: int, steps_per_epoch: int) -> WarmUp:
    """Learning rate at each step, counted from zero.

    Raises:
        ConfigError: Unknown schedule, or a warm-up longer than the training.
    """
    if config.warmup_epochs >= epochs and config.warmup_epochs > 0:
        raise ConfigError(
            f"optimizer.warmup_epochs: expected less than the {epochs} epochs of training, "
            f"received {config.warmup_epochs}"
        )
    warmup = round(config.warmup_epochs * steps_per_epoch)
    steps = max(1, epochs * steps_per_epoch - warmup)
    schedule = lookup(SCHEDULES, config.schedule, "learning-rate schedule")(config, steps, steps_per_epoch, warmup)
    floor = config.floor * config.learning_rate if config.schedule == "exponential" else 0.0
    return WarmUp(schedule, warmup_steps=warmup, min_rate=floor)


def _constant(config: OptimizerConfig, steps: int, epoch: int, warmup: int) -> float:
    return config.learning_rate


def _stepwise(config: OptimizerConfig, steps: int, epoch: int, warmup: int) -> LearningRateSchedule | float:
    milestones = sorted(round(milestone * epoch) for milestone in config.milestones)
    if not milestones:
        return config.learning_rate
    rates = [config.learning_rate * config.factor**passed for passed in range(len(milestones) + 1)]
    # Milestones count from the first step of the warm-up; Keras changes the rate behind a boundary.
    return PiecewiseConstantDecay([milestone - warmup - 0.5 for milestone in milestones], rates)


def _cosine(config: OptimizerConfig, steps: int, epoch: int, warmup: int) -> LearningRateSchedule:
    return CosineDecay(config.learning_rate, steps, alpha=config.floor)


def _cosine_restarts(config: OptimizerConfig, steps: int, epoch: int, warmup: int) -> LearningRateSchedule:
    return CosineRestarts(
        config.learning_rate,
        total_steps=steps,
        restart_steps=config.restart_epochs * epoch,
        t_mul=config.t_mul,
        m_mul=config.m_mul,
        floor=config.floor,
    )


def _exponential(config: OptimizerConfig, steps: int, epoch: int, warmup: int) -> LearningRateSchedule:
    return ExponentialDecay(config.learning_rate, epoch, config.decay)


SCHEDULES: dict[str, Callable[[OptimizerConfig, int, int, int], LearningRateSchedule | float]] = {
    "constant": _constant,
    "step": _stepwise,
    "cosine": _cosine,
    "cosine_restarts": _cosine_restarts,
    "exponential": _exponential,
}
"""Builders from the configuration, the steps behind the warm-up, those of an epoch, and those of the warm-up."""

OPTIMIZERS: dict[str, type[keras.optimizers.Optimizer]] = {
    "sgd": keras.optimizers.SGD,
    "nadam": keras.optimizers.Nadam,
    "adam": keras.optimizers.Adam,
    "adamw": keras.optimizers.AdamW,
}


def build_optimizer(
    config: OptimizerConfig, *, epochs: int, steps_per_epoch: int, accumulate: int = 1
) -> keras.optimizers.Optimizer:
    """Optimizer with its schedule.

    Args:
        config: Its settings.
        epochs: Epochs of the training, or of the phase: the schedule spans them.
        steps_per_epoch: Batches of an epoch.
        accumulate: Batches whose gradients are averaged into one update. The schedule counts batches all the same.

    Raises:
        ConfigError: Unknown optimizer or schedule, or a warm-up longer than the training.
    """
    kind = lookup(OPTIMIZERS, config.name, "optimizer")
    settings: dict[str, Any] = {"weight_decay": config.weight_decay or None}
    if config.name == "sgd":
        settings |= {"momentum": config.momentum, "nesterov": config.nesterov}
    if config.name == "adamw":
        settings["weight_decay"] = config.weight_decay  # its own default is not zero
    optimizer = kind(
        learning_rate=build_schedule(config, epochs=epochs, steps_per_epoch=steps_per_epoch),
        global_clipnorm=config.clip_norm or None,
        gradient_accumulation_steps=accumulate if accumulate > 1 else None,
        **settings,
    )
    if config.weight_decay:
        optimizer.exclude_from_weight_decay(var_names=list(NO_DECAY))
    return optimizer
