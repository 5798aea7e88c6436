import math

import keras
import numpy as np
import pytest

from iom.config import OptimizerConfig
from iom.errors import ConfigError
from iom.training.optimizers import OPTIMIZERS, build_optimizer, build_schedule


def rates(steps, *, epochs=None, epoch=1, **settings):
    """Rates of a training whose epochs have `epoch` steps."""
    settings = {"learning_rate": 1.0, "warmup_epochs": 0.0, **settings}
    schedule = build_schedule(OptimizerConfig(**settings), epochs=epochs or steps, steps_per_epoch=epoch)
    return [float(schedule(step)) for step in range(steps)]


def test_warm_up_rises_to_the_rate_and_cosine_falls_to_zero():
    values = rates(21, epochs=20, learning_rate=0.4, warmup_epochs=4, schedule="cosine")
    np.testing.assert_allclose(values[:4], [0.1, 0.2, 0.3, 0.4], rtol=1e-6)
    expected = [0.2 * (1 + math.cos(math.pi * (step - 4) / 16)) for step in range(4, 21)]
    np.testing.assert_allclose(values[4:], expected, atol=1e-7)


def test_steps_divide_by_ten():
    values = rates(9, schedule="step", milestones=(3, 6))
    np.testing.assert_allclose(values, [1] * 3 + [0.1] * 3 + [0.01] * 3, rtol=1e-5)


def test_steps_count_from_the_start_of_the_warm_up():
    values = rates(8, schedule="step", milestones=(2.5,), warmup_epochs=1, epoch=2, epochs=4)
    np.testing.assert_allclose(values, [0.5, 1, 1, 1, 1, 0.1, 0.1, 0.1], rtol=1e-5)
    within = rates(8, schedule="step", milestones=(1,), warmup_epochs=2, epoch=2, epochs=4)
    np.testing.assert_allclose(within, [0.25, 0.5, 0.075, 0.1, 0.1, 0.1, 0.1, 0.1], rtol=1e-5)


def test_constant():
    assert set(rates(5, schedule="constant", learning_rate=0.5)) == {0.5}
    assert set(rates(5, schedule="step", learning_rate=0.5)) == {0.5}


def test_cosine_with_restarts_is_that_of_the_paper():
    """Loshchilov and Hutter, eq. 5: cycles of 4, 8 and 16 steps, each peak 0.7 of the one before.

    No outside implementation for the borders: Keras' own rounds a logarithm there.
    """
    values = rates(
        31,
        learning_rate=0.2,
        warmup_epochs=3,
        schedule="cosine_restarts",
        restart_epochs=4,
        t_mul=2.0,
        m_mul=0.7,
        floor=0.1,
    )
    expected = [0.2 / 3, 0.4 / 3, 0.2]
    for length, peak in ((4, 1.0), (8, 0.7), (16, 0.49)):
        for i in range(length):
            wave = 0.5 * (1 + math.cos(math.pi * i / length))
            expected.append(0.2 * (0.1 + 0.9 * peak * wave))
    np.testing.assert_allclose(values, expected, rtol=1e-5)


@pytest.mark.parametrize("t_mul", [1.0, 1.5, 2.0])
def test_cosine_with_restarts_agrees_with_keras(t_mul):
    values = rates(60, learning_rate=0.3, schedule="cosine_restarts", restart_epochs=7, t_mul=t_mul, m_mul=0.8)
    theirs = keras.optimizers.schedules.CosineDecayRestarts(0.3, 7, t_mul=t_mul, m_mul=0.8)
    starts = {0.0}
    while max(starts) < 60:
        starts.add(max(starts) + 7 * t_mul ** (len(starts) - 1))
    steps = [s for s in range(60) if min(abs(s - start) for start in starts) > 1e-3]
    np.testing.assert_allclose([values[s] for s in steps], [float(theirs(s)) for s in steps], rtol=1e-4)


def test_exponential_falls_smoothly_down_to_its_floor():
    values = rates(30, epoch=4, epochs=8, warmup_epochs=0.5, schedule="exponential", decay=0.5, floor=0.05)
    expected = [0.5, 1.0] + [max(0.5 ** (i / 4), 0.05) for i in range(28)]
    np.testing.assert_allclose(values, expected, rtol=1e-5)


def test_cosine_ends_at_its_floor():
    expected = [0.2 + 0.4 * (1 + math.cos(math.pi * step / 10)) for step in range(11)]
    np.testing.assert_allclose(rates(11, epochs=10, schedule="cosine", floor=0.2), expected, rtol=1e-5)


def test_a_step_by_another_factor():
    np.testing.assert_allclose(rates(4, schedule="step", milestones=(1, 3), factor=0.5), [1, 0.5, 0.5, 0.25])


def test_epochs_of_the_configuration_become_steps():
    values = rates(40, epoch=10, epochs=4, schedule="cosine_restarts", warmup_epochs=0.5, restart_epochs=1.5)
    np.testing.assert_allclose([values[4], values[5], values[20]], [1, 1, 1])
    assert values[19] < 0.02


def plain_update(name, weight, gradients, *, rate, decay):
    """The optimizers as their papers give them, in double precision."""
    w, m, v, product = float(weight), 0.0, 0.0, 1.0
    for t, g in enumerate(gradients, start=1):
        w -= rate * decay * w
        if name.startswith("sgd"):
            m = 0.9 * m - rate * g
            w += 0.9 * m - rate * g if name == "sgd_nesterov" else m
            continue
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        second = math.sqrt(v / (1 - 0.999**t)) + 1e-7
        if name == "nadam":
            now, after = (0.9 * (1 - 0.5 * 0.96**i) for i in (t, t + 1))
            product *= now
            w -= rate * (after * m / (1 - product * after) + (1 - now) * g / (1 - product)) / second
        else:
            w -= rate * m / (1 - 0.9**t) / second
    return w


@pytest.mark.parametrize("name", ["sgd", "sgd_nesterov", "nadam", "adam", "adamw"])
def test_optimizers_against_their_formulas(name):
    gradients = [0.3, -0.2, 0.5, 0.1]
    config = OptimizerConfig(
        name=name.split("_")[0], nesterov=name == "sgd_nesterov", learning_rate=0.05,
        weight_decay=0.1, schedule="constant", warmup_epochs=0,
    )  # fmt: skip
    variable = keras.Variable([1.5], name="kernel")
    optimizer = build_optimizer(config, epochs=1, steps_per_epoch=4)
    for gradient in gradients:
        optimizer.apply([keras.ops.array([gradient])], [variable])
    expected = plain_update(name, 1.5, gradients, rate=0.05, decay=0.1)
    np.testing.assert_allclose(np.array(variable), [expected], rtol=1e-5)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_decay_leaves_out_norms_biases_and_slopes(name):
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(4, bias_initializer="ones"),
            keras.layers.BatchNormalization(),
            keras.layers.PReLU(alpha_initializer="ones"),
        ]
    )
    config = OptimizerConfig(name=name, learning_rate=0.1, weight_decay=0.5, schedule="constant")
    optimizer = build_optimizer(config, epochs=2, steps_per_epoch=2)
    optimizer.build(model.trainable_variables)
    before = [np.array(variable) for variable in model.trainable_variables]
    optimizer.apply([np.zeros_like(array) for array in before], model.trainable_variables)
    after = [np.array(variable) for variable in model.trainable_variables]
    changed = [not np.array_equal(a, b) for a, b in zip(before, after, strict=True)]
    assert changed == [True, False, False, False, False]


def test_no_decay_is_none_at_all():
    for name in OPTIMIZERS:
        config = OptimizerConfig(name=name, weight_decay=0.0, warmup_epochs=0)
        assert not build_optimizer(config, epochs=1, steps_per_epoch=1).weight_decay


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "sdg"}, "did you mean 'sgd'"),
        ({"schedule": "cosin"}, "did you mean 'cosine'"),
        ({"warmup_epochs": 5.0}, "less than the 2 epochs"),
        ({"t_mul": 0.5}, "^t_mul: expected"),
        ({"restart_epochs": 0.0}, "^restart_epochs: expected"),
        ({"floor": 1.0}, "^floor: expected"),
        ({"decay": 0.0}, "^decay: expected"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ConfigError, match=message):
        build_optimizer(OptimizerConfig(**settings), epochs=2, steps_per_epoch=3)
