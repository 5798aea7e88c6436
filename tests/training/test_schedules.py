import math

import keras
import numpy as np
import pytest

from iom.config.sections import OptimizerConfig
from iom.errors import ConfigError
from iom.training.schedules import WarmUp, build_optimizer


def rates(schedule, steps):
    return [float(schedule(step)) for step in range(steps)]


def test_warm_up_rises_to_the_rate_and_cosine_falls_to_zero():
    values = rates(WarmUp(0.4, total_steps=20, warmup_steps=4, shape="cosine"), 21)
    np.testing.assert_allclose(values[:4], [0.1, 0.2, 0.3, 0.4], rtol=1e-6)
    expected = [0.2 * (1 + math.cos(math.pi * (step - 4) / 16)) for step in range(4, 21)]
    np.testing.assert_allclose(values[4:], expected, atol=1e-7)


def test_steps_divide_by_ten():
    schedule = WarmUp(1.0, total_steps=9, shape="step", milestones=(3, 6))
    np.testing.assert_allclose(rates(schedule, 9), [1] * 3 + [0.1] * 3 + [0.01] * 3, rtol=1e-5)


def test_constant():
    assert set(rates(WarmUp(0.5, total_steps=5, shape="constant"), 5)) == {0.5}


def test_every_argument_is_in_the_configuration():
    schedule = WarmUp(0.1, total_steps=9, warmup_steps=2, shape="step", milestones=(3,))
    again = WarmUp.from_config(schedule.get_config())
    assert rates(again, 9) == rates(schedule, 9)


def test_decay_leaves_out_norms_biases_and_slopes():
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(4, bias_initializer="ones"),
            keras.layers.BatchNormalization(),
        ]
    )
    config = OptimizerConfig(learning_rate=0.1, weight_decay=0.5, schedule="constant")
    optimizer = build_optimizer(config, epochs=2, steps_per_epoch=2)
    optimizer.build(model.trainable_variables)
    before = [np.array(variable) for variable in model.trainable_variables]
    optimizer.apply([np.zeros_like(array) for array in before], model.trainable_variables)
    after = [np.array(variable) for variable in model.trainable_variables]
    changed = [not np.array_equal(a, b) for a, b in zip(before, after, strict=True)]
    assert changed == [True, False, False, False]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "sdg"}, "did you mean 'sgd'"),
        ({"schedule": "cosin"}, "did you mean 'cosine'"),
        ({"warmup_epochs": 5.0}, "less than the 2 epochs"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ConfigError, match=message):
        build_optimizer(OptimizerConfig(**settings), epochs=2, steps_per_epoch=3)
