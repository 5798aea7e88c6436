import json
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest

from iom.config import HasherConfig
from iom.errors import ConfigError, DataError, KeyMaterialError, WeightsError
from iom.keys import TransformKey
from iom.models.artifact import Calibration
from iom.models.embedder import Embedder
from iom.models.face_hasher import KerasFaceHasher
from iom.nn.hash_network import build_hasher, shape_of

SIZE = 32


def config(**settings):
    plain = {"projection": "orthonormal", "refinement_steps": 0, "whitening": 0.0}
    return HasherConfig(**({"code_length": 24, "alphabet_size": 4, "key_kind": "permutation"} | plain | settings))


def hasher(**settings):
    return KerasFaceHasher(
        build_hasher(SIZE, config(**settings), seed=1),
        embedder_name="stand-in.tag",
        embedder_fingerprint="ab" * 32,
        calibration=Calibration(threshold=11, fmr=1e-3, fnmr=0.02, subjects=30, keys=5),
    )


@pytest.fixture
def rows():
    values = np.random.default_rng(0).normal(size=(20, SIZE)).astype("float32")
    return values / np.linalg.norm(values, axis=1, keepdims=True)


@pytest.mark.parametrize("keep", [0, 10])
def test_codes_follow_the_definition(rows, keep):
    """Order, projection and argmax by hand; the learned layer starts as the identity."""
    system, key = hasher(keep=keep), TransformKey.generate()
    kernel = np.asarray(system.model.get_layer("projection").kernel)
    order = key.permutation(SIZE)[: keep or SIZE]
    responses = (rows[:, order] @ kernel).reshape(len(rows), 24, 4)
    expected = responses.argmax(-1)
    agreement = (system.hash(rows, key) == expected).mean()
    assert agreement > 0.999  # a tie within rounding may fall either way


def test_the_learned_layer_stands_before_the_key(rows):
    system, key = hasher(), TransformKey.generate()
    weights = np.random.default_rng(3).normal(size=(SIZE, SIZE)).astype("float32")
    system.model.get_layer("learned_layer").set_weights([weights])
    learned = rows @ weights
    plain = hasher(learned_layer=False)
    np.testing.assert_array_equal(system.hash(rows, key), plain.hash(learned, key))


def test_a_key_for_each_row(rows):
    system = hasher()
    keys = [TransformKey.generate() for _ in rows]
    together = system.hash(rows, keys)
    for row, key, code in zip(rows, keys, together, strict=True):
        np.testing.assert_array_equal(system.hash(row[None], key)[0], code)


def test_another_key_gives_another_code(rows):
    system = hasher()
    one, two = (system.hash(rows, TransformKey.generate()) for _ in range(2))
    assert 0.05 < (one == two).mean() < 0.5


def test_round_trip(rows, tmp_path):
    system, key = hasher(keep=12), TransformKey.generate()
    system.save(tmp_path)
    again = KerasFaceHasher.load(tmp_path)
    np.testing.assert_array_equal(system.hash(rows, key), again.hash(rows, key))
    assert shape_of(again.model) == shape_of(system.model)
    assert again.calibration == system.calibration
    assert again.embedder_fingerprint == system.embedder_fingerprint


def test_the_fingerprint_tells_hashers_apart(tmp_path):
    system = hasher()
    system.save(tmp_path)
    assert KerasFaceHasher.load(tmp_path).fingerprint == system.fingerprint == hasher().fingerprint
    others = [hasher(keep=12), hasher(refinement_steps=2), hasher(key_kind="subset", keep=12)]
    others.append(hasher())
    others[-1].embedder_fingerprint = "cd" * 32
    others.append(hasher())
    kernel = others[-1].model.get_layer("projection").kernel
    kernel.assign(np.asarray(kernel) * 2)
    assert len({system.fingerprint, *(other.fingerprint for other in others)}) == 6


def test_no_secret_is_saved(rows, tmp_path):
    """Neither the secret nor the order stands in any file after hashing with it."""
    system, key = hasher(), TransformKey.generate()
    system.hash(rows, key)
    system.save(tmp_path)
    order = key.permutation(SIZE)
    needles = [key.secret, key.secret.hex().encode()]
    needles += [order.astype(kind).tobytes() for kind in ("<i4", "<i8", "u1", "<f4")]
    needles += [json.dumps(order.tolist()).encode()]
    contents = [path.read_bytes() for path in tmp_path.iterdir()]
    with zipfile.ZipFile(tmp_path / "hasher.keras") as archive:
        contents += [archive.read(name) for name in archive.namelist()]
    for needle in needles:
        assert not any(needle in content for content in contents)


def test_the_graph_loads_without_custom_objects(tmp_path):
    hasher().save(tmp_path)
    model = keras.saving.load_model(tmp_path / "hasher.keras", safe_mode=True)
    assert model.output_shape == (None, 24, 4)


def test_every_trainable_weight_gets_a_gradient(rows):
    import tensorflow as tf

    model = build_hasher(SIZE, config(train_projection=True, keep=20), seed=1)
    order = np.tile(TransformKey.generate().permutation(SIZE), (len(rows), 1))
    with tf.GradientTape() as tape:
        value = tf.reduce_sum(model({"embedding": rows, "order": order}) ** 3)
    assert len(model.trainable_weights) == 2
    for weight, gradient in zip(model.trainable_weights, tape.gradient(value, model.trainable_weights), strict=True):
        assert np.abs(gradient).max() > 0, weight.path


def test_wrong_embeddings(rows):
    with pytest.raises(DataError, match=r"expected embeddings \(N, 32\)"):
        hasher().hash(rows[:, :16], TransformKey.generate())
    with pytest.raises(DataError, match="finite"):
        hasher().hash(rows * np.nan, TransformKey.generate())


@pytest.mark.parametrize("keys", [[], [TransformKey(bytes(32))], [b"x" * 32] * 20, ["k"] * 20])
def test_wrong_keys(rows, keys):
    with pytest.raises(KeyMaterialError, match="one for each of 20"):
        hasher().hash(rows, keys)


def test_keep_larger_than_the_embedding():
    with pytest.raises(ConfigError, match=r"hasher\.keep: expected at most the 32"):
        build_hasher(SIZE, config(keep=33))


@pytest.mark.parametrize(
    "settings",
    [
        {"code_length": 0},
        {"code_length": 70000},
        {"alphabet_size": 1},
        {"alphabet_size": 257},
        {"keep": -1},
        {"inverse_temperature": 0.0},
    ],
)
def test_shapes_out_of_range(settings):
    with pytest.raises(ConfigError):
        config(**settings)


def test_another_embedder_is_refused():
    other = Embedder(lambda batch: batch, name="other.tag", fingerprint="cd" * 32, embedding_size=SIZE)
    with pytest.raises(WeightsError, match=r"trained with the embedder stand-in\.tag"):
        hasher().check_embedder(other)


def test_missing_hasher(tmp_path):
    with pytest.raises(WeightsError, match=r"no hasher '.*': .* iom train-stage2.*no such file or folder"):
        KerasFaceHasher.load(tmp_path / "none")
    hasher().save(tmp_path)
    (tmp_path / "hasher.keras").unlink()
    with pytest.raises(WeightsError, match="found none"):
        KerasFaceHasher.load(tmp_path)


def test_damaged_hasher(tmp_path):
    hasher().save(tmp_path)
    path = tmp_path / "hasher.keras"
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    for damaged in (b"", whole[: len(whole) // 2], bytes(flipped)):
        path.write_bytes(damaged)
        with pytest.raises(WeightsError, match="SHA-256 differs"):
            KerasFaceHasher.load(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 2}', '{"format": 1}'])
def test_damaged_metadata(tmp_path, text):
    hasher().save(tmp_path)
    (tmp_path / "hasher.json").write_text(text)
    with pytest.raises(WeightsError):
        KerasFaceHasher.load(tmp_path)


class PowerFailure(BaseException):
    pass


@pytest.mark.parametrize("moment", ["before the metadata", "before the renaming"])
def test_a_crash_while_saving_leaves_the_old_hasher_or_the_new_one(rows, tmp_path, monkeypatch, moment):
    old, new = hasher(projection="gaussian"), hasher(projection="orthonormal")
    key = TransformKey(bytes(32))
    old.save(tmp_path)
    with monkeypatch.context() as patch:
        if moment == "before the metadata":
            patch.setattr("iom.models.face_hasher.write_json", crash)
        else:
            real = Path.replace
            patch.setattr(
                Path,
                "replace",
                lambda self, target: crash() if Path(target).name == "hasher.keras" else real(self, target),
            )
        with pytest.raises(PowerFailure):
            new.save(tmp_path)
    expected = old if moment == "before the metadata" else new
    np.testing.assert_array_equal(KerasFaceHasher.load(tmp_path).hash(rows, key), expected.hash(rows, key))
    new.save(tmp_path)
    np.testing.assert_array_equal(KerasFaceHasher.load(tmp_path).hash(rows, key), new.hash(rows, key))
    assert {path.name for path in tmp_path.iterdir()} == {"hasher.keras", "hasher.json"}


def crash(*_, **__):
    raise PowerFailure


def test_a_code_does_not_depend_on_its_neighbours_in_the_batch():
    """Same key and embedding, same code, whichever rows are hashed along."""
    system, key = hasher(code_length=256, alphabet_size=8), TransformKey(bytes(32))
    rows = np.random.default_rng(5).normal(size=(300, SIZE)).astype("float32")
    together = system.hash(rows, key)
    np.testing.assert_array_equal(together[::-1], system.hash(rows[::-1], key))
    for row in (0, 127, 128, 299):
        np.testing.assert_array_equal(together[row], system.hash(rows[row : row + 1], key)[0])
