import numpy as np
import pytest

from iom.data.batches import CodeBatches, SubjectBatches, TrainingKeys
from iom.synthetic import write_folder

SIZE = 16


def batches(key="random", first_step=0, epoch=1, kind="permutation", **settings):
    labels = np.repeat(np.arange(8), 4)
    rows = np.random.default_rng(0).normal(size=(32, SIZE)).astype("float32")
    return CodeBatches(
        SubjectBatches(labels, 3, 2, 5),
        rows,
        {"triplet": labels.astype("float32"), "distillation": rows},
        TrainingKeys(SIZE, 5, key, kind, **settings),
        epoch=epoch,
        first_step=first_step,
        steps=6,
    )


def test_one_fresh_order_for_each_batch():
    orders = []
    for inputs, _ in (batches()[i] for i in range(6)):
        assert (inputs["order"] == inputs["order"][0]).all()
        assert sorted(inputs["order"][0]) == list(range(SIZE))
        orders.append(tuple(inputs["order"][0]))
    assert len(set(orders)) == 6
    assert tuple(batches(epoch=2)[0][0]["order"][0]) not in orders


@pytest.mark.parametrize("keys", [1, 3])
def test_a_second_key_is_none_of_the_others(keys):
    plain, data = batches(count=keys), batches(count=keys, second=True)
    rest = batches(count=keys, second=True, first_step=4)
    for step in range(6):
        inputs, _ = data[step]
        np.testing.assert_array_equal(inputs["order"], plain[step][0]["order"])
        second = inputs["second_order"]
        assert (second == second[0]).all()
        assert sorted(second[0]) == list(range(SIZE))
        firsts = inputs["order"][0].reshape(keys, SIZE)
        assert not (firsts == second[0]).all(axis=1).any()
    np.testing.assert_array_equal(rest[1][0]["second_order"], data[5][0]["second_order"])


def test_identity_key_leaves_the_order():
    assert (batches("identity")[0][0]["order"] == np.arange(SIZE)).all()


def test_truth_belongs_to_the_rows():
    inputs, truths = batches()[2]
    np.testing.assert_array_equal(inputs["embedding"], truths["distillation"])
    labels = truths["triplet"].reshape(3, 2)
    assert (labels[:, 0] == labels[:, 1]).all()


@pytest.mark.parametrize("first", [1, 4])
def test_the_rest_of_an_epoch_is_the_end_of_the_whole(first):
    whole, rest = batches(), batches(first_step=first)
    assert len(rest) == 6 - first
    for index in range(len(rest)):
        for part in (0, 1):
            for name, values in whole[first + index][part].items():
                np.testing.assert_array_equal(values, rest[index][part][name])


def test_orders_are_those_of_transform_keys():
    order = TrainingKeys(SIZE, 5).order(epoch=1, step=0)
    assert order.dtype == np.int32
    assert order.shape == (3 * SIZE,)
    np.testing.assert_array_equal(order, batches(kind="orthogonal")[0][0]["order"][0])


def test_images_are_read_as_raw_pixels(tmp_path):
    write_folder(tmp_path / "faces", 4, 2, seed=3)
    files = sorted((tmp_path / "faces").glob("*/*.png"))
    labels = np.repeat(np.arange(4), 2)
    data = CodeBatches(
        SubjectBatches(labels, 2, 2, 5),
        files,
        {"triplet": labels.astype("float32")},
        TrainingKeys(SIZE, 5),
        epoch=0,
        steps=1,
    )
    inputs, _ = data[0]
    assert inputs["image"].shape == (4, 112, 112, 3)
    assert inputs["image"].dtype == np.float32
    assert inputs["image"].max() > 1
