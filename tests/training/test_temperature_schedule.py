import keras
import numpy as np
import pytest

from iom.config import HasherConfig
from iom.data.batches import CodeBatches, SubjectBatches, TrainingKeys
from iom.nn.losses.code.objectives import SOFT
from iom.training.hasher import start_hasher, temperature_schedule, training_graph

SIZE = 16


def config(**settings):
    trained = {"train_learned_layer": True, "train_projection": True, "inverse_temperature": 16.0}
    return HasherConfig(**{"code_length": 8, "alphabet_size": 4, **trained, **settings})


@pytest.mark.parametrize("end", [0.0, 16.0])
def test_a_fixed_temperature_is_no_input(end):
    assert temperature_schedule(config(inverse_temperature_end=end), steps=10) is None


@pytest.mark.parametrize(("kind", "middle"), [("linear", (2.0 + 32.0) / 2), ("exponential", (2.0 * 32.0) ** 0.5)])
def test_from_start_to_end(kind, middle):
    settings = config(inverse_temperature=2.0, inverse_temperature_end=32.0, annealing=kind)
    at = temperature_schedule(settings, steps=11)
    assert at(0) == 2.0
    assert abs(at(5) - middle) < 1e-9
    assert abs(at(10) - 32.0) < 1e-9
    assert at(99) == at(10)
    values = [at(step) for step in range(11)]
    assert values == sorted(values)


def test_it_may_fall_and_a_run_may_have_one_step():
    settings = config(inverse_temperature=8.0, inverse_temperature_end=1.0)
    at = temperature_schedule(settings, steps=3)
    assert [round(at(step), 6) for step in range(3)] == [8.0, round(8**0.5, 6), 1.0]
    assert temperature_schedule(settings, steps=1)(0) == 8.0


def batches(epoch, first_step, at):
    labels = np.repeat(np.arange(8), 4)
    rows = np.random.default_rng(0).normal(size=(32, SIZE)).astype("float32")
    keys = TrainingKeys(SIZE, 5, count=2)
    return CodeBatches(
        SubjectBatches(labels, 3, 2, 5),
        rows,
        {"triplet": labels},
        keys,
        epoch=epoch,
        first_step=first_step,
        steps=6,
        inverse_temperature=at,
    )


def test_a_resumed_epoch_goes_on_at_its_temperature():
    settings = config(inverse_temperature=2.0, inverse_temperature_end=32.0)
    at = temperature_schedule(settings, steps=18)
    for index in range(4):
        whole, rest = batches(1, 0, at)[index + 2][0], batches(1, 2, at)[index][0]
        for name in ("embedding", "order", "inverse_temperature"):
            np.testing.assert_array_equal(whole[name], rest[name])
        expected = np.full((6, 1), at(6 + 2 + index), "float32")
        np.testing.assert_array_equal(whole["inverse_temperature"], expected)


def test_several_fresh_keys_a_step():
    inputs = [batches(0, 0, None)[step][0] for step in range(3)]
    assert inputs[0]["order"].shape == (6, 2, 3 * SIZE)
    assert set(inputs[0]) == {"order", "embedding"}
    for given in inputs:
        assert (given["order"] == given["order"][0]).all()
    assert len({given["order"][0, key].tobytes() for given in inputs for key in range(2)}) == 6


def test_the_graph_reads_the_temperature_of_the_step():
    settings = config(inverse_temperature=2.0, inverse_temperature_end=32.0)
    hasher = start_hasher(SIZE, settings, seed=1)
    graph = training_graph(hasher, settings, {"x": SOFT}, temperature_input=True)
    rows = np.random.default_rng(0).normal(size=(5, SIZE)).astype("float32")
    given = {"embedding": rows, "order": np.tile(np.arange(SIZE, dtype="int32"), (5, 3))}
    responses = np.asarray(hasher(given))
    for value in (2.0, 7.0, 32.0):
        expected = keras.ops.softmax(value * responses, axis=-1)
        found = graph({**given, "inverse_temperature": np.full((5, 1), value, "float32")})["x"]
        np.testing.assert_allclose(found, expected, atol=1e-6)
