import zipfile

import keras
import numpy as np

from iom.models.archive import save_model


def test_a_compressed_model_is_the_same_model(tmp_path):
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(64)])
    rows = np.random.default_rng(0).normal(size=(3, 8)).astype("float32")
    save_model(model, tmp_path / "small.keras")
    model.save(tmp_path / "plain.keras")
    again = keras.saving.load_model(tmp_path / "small.keras", safe_mode=True)
    np.testing.assert_array_equal(again.predict_on_batch(rows), model.predict_on_batch(rows))
    sizes = [(tmp_path / name).stat().st_size for name in ("small.keras", "plain.keras")]
    assert sizes[0] < sizes[1]
    with zipfile.ZipFile(tmp_path / "small.keras") as archive:
        assert archive.testzip() is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plain.keras", "small.keras"]
