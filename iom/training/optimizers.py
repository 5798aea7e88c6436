"""Optimizers with their learning-rate schedules: Keras' schedules behind a linear warm-up."""

import math
from collections.abc import Callable
from typing import Any

import keras
from keras import ops
from keras.optimizers.schedules import CosineDecay, ExponentialDecay, LearningRateSchedule, PiecewiseConstantDecay

from iom.config import OptimizerConfig
from iom.errors import ConfigError

Rate = Callable[[Any], Any]
"""Learning rate of a step, a tensor of float32."""
NO_DECAY = ("beta", "gamma", "bias", "alpha")
"""Batch-norm parameters, biases and PReLU slopes are not decayed."""


class WarmUp(LearningRateSchedule):
    """Linear rise over a schedule: step k of the warm-up has k / `warmup_steps` of the rate.

    Keras' own warm-up ends one step later. `rate` begins after `delay` steps and does not fall below `min_rate`. It is
    never stored: a resumed run builds it from the configuration.
    """

    def __init__(self, rate: Rate, *, warmup_steps: int, delay: int, min_rate: float) -> None:
        self.rate = rate
        self.warmup_steps = warmup_steps
        self.delay = delay
        self.min_rate = min_rate

    def __call__(self, step: Any) -> Any:
        step = ops.cast(step, "float32")
        rise = ops.minimum((step + 1.0) / max(1, self.warmup_steps), 1.0)
        return rise * ops.maximum(self.rate(ops.maximum(step - self.delay, 0.0)), self.min_rate)


def build_schedule(config: OptimizerConfig, *, epochs: int, steps_per_epoch: int) -> WarmUp:
    """Learning rate at each step, counted from zero."""
    if config.warmup_epochs >= epochs and config.warmup_epochs > 0:
        raise ConfigError(
            f"optimizer.warmup_epochs: expected less than the {epochs} epochs of training, "
            f"received {config.warmup_epochs}"
        )
    warmup = round(config.warmup_epochs * steps_per_epoch)
    steps = max(1, epochs * steps_per_epoch - warmup)
    rate = SCHEDULES[config.schedule](config, steps, steps_per_epoch)
    delay = 0 if config.schedule == "step" else warmup  # milestones are epochs of the whole training
    floor = config.floor * config.learning_rate if config.schedule == "exponential" else 0.0
    return WarmUp(rate, warmup_steps=warmup, delay=delay, min_rate=floor)


def _stepwise(config: OptimizerConfig, steps: int, epoch: int) -> Rate:
    milestones = sorted(round(milestone * epoch) for milestone in config.milestones)
    if not milestones:
        return lambda step: config.learning_rate
    rates = [config.learning_rate * config.factor**passed for passed in range(len(milestones) + 1)]
    # A rate changes behind its boundary.
    return PiecewiseConstantDecay([milestone - 0.5 for milestone in milestones], rates)  # type: ignore[no-any-return]


def _cosine_restarts(config: OptimizerConfig, steps: int, epoch: int) -> Rate:
    """SGDR (Loshchilov and Hutter, ICLR 2017, eq. 5), with a list of cycles.

    Keras' `CosineDecayRestarts` takes a logarithm, which single precision rounds to the wrong cycle at a border.
    """
    starts, lengths, peaks = [0.0], [config.restart_epochs * epoch], [1.0]
    while starts[-1] + lengths[-1] < steps:
        starts.append(starts[-1] + lengths[-1])
        lengths.append(lengths[-1] * config.t_mul)
        peaks.append(peaks[-1] * config.m_mul)

    def rate(step: Any) -> Any:
        cycle = ops.sum(ops.cast(step >= ops.convert_to_tensor(starts, "float32"), "int32")) - 1
        start, length, peak = (
            ops.take(ops.convert_to_tensor(values, "float32"), cycle) for values in (starts, lengths, peaks)
        )
        wave = 0.5 * (1.0 + ops.cos(math.pi * ops.clip((step - start) / length, 0.0, 1.0)))
        return config.learning_rate * (config.floor + (1.0 - config.floor) * peak * wave)

    return rate


SCHEDULES: dict[str, Callable[[OptimizerConfig, int, int], Rate]] = {
    "constant": lambda config, steps, epoch: lambda step: config.learning_rate,
    "step": _stepwise,
    "cosine": lambda config, steps, epoch: CosineDecay(config.learning_rate, steps, alpha=config.floor),
    "cosine_restarts": _cosine_restarts,
    "exponential": lambda config, steps, epoch: ExponentialDecay(config.learning_rate, epoch, config.decay),
}
"""Schedule of a configuration, by its steps behind the warm-up and the steps of an epoch."""

OPTIMIZERS: dict[str, type[keras.optimizers.Optimizer]] = {
    "sgd": keras.optimizers.SGD,
    "nadam": keras.optimizers.Nadam,
    "adam": keras.optimizers.Adam,
    "adamw": keras.optimizers.AdamW,
}


def build_optimizer(
    config: OptimizerConfig, *, epochs: int, steps_per_epoch: int, accumulate: int = 1
) -> keras.optimizers.Optimizer:
    """Optimizer with its schedule, which spans `epochs` and counts batches.

    `accumulate` is the number of batches whose gradients are averaged into one update.
    """
    settings: dict[str, Any] = {"weight_decay": config.weight_decay or None}
    if config.name == "sgd":
        settings |= {"momentum": config.momentum, "nesterov": config.nesterov}
    if config.name == "adamw":
        settings["weight_decay"] = config.weight_decay  # its own default is not zero
    optimizer = OPTIMIZERS[config.name](
        learning_rate=build_schedule(config, epochs=epochs, steps_per_epoch=steps_per_epoch),
        global_clipnorm=config.clip_norm or None,
        gradient_accumulation_steps=accumulate if accumulate > 1 else None,
        **settings,
    )
    if config.weight_decay:
        optimizer.exclude_from_weight_decay(var_names=list(NO_DECAY))
    return optimizer
