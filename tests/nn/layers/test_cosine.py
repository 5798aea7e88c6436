import keras
import numpy as np

from iom.nn.layers import UnitLength
from iom.nn.layers.cosine import CosineLogits


def test_cosines_match_a_loop():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(4, 16)).astype("float32")
    layer = CosineLogits(5)
    values = np.asarray(layer(rows))
    centres = np.asarray(layer.centres)
    for i in range(4):
        for j in range(5):
            norm = np.linalg.norm(rows[i]) * np.linalg.norm(centres[:, j])
            assert abs(values[i, j] - rows[i] @ centres[:, j] / norm) < 1e-5


def test_zero_rows_stay_finite():
    assert np.isfinite(CosineLogits(3)(np.zeros((2, 8), "float32"))).all()
    assert (np.asarray(UnitLength()(np.zeros((2, 8), "float32"))) == 0).all()


def test_unit_length():
    rows = np.random.default_rng(0).normal(size=(4, 16)).astype("float32")
    np.testing.assert_allclose(np.linalg.norm(UnitLength()(rows), axis=1), 1.0, rtol=1e-6)


def test_every_argument_is_in_the_configuration():
    assert CosineLogits(9).get_config()["classes"] == 9
    layer = keras.layers.deserialize(keras.layers.serialize(CosineLogits(9, name="cosines")))
    assert (layer.classes, layer.name) == (9, "cosines")


def test_float32_under_mixed_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        assert CosineLogits(3)(np.ones((1, 4), "float32")).dtype == "float32"
    finally:
        keras.config.set_dtype_policy("float32")
