"""Keras files: own and foreign models, weights alone, wrong statements, code, damage."""

import json
import zipfile

import h5py
import keras
import numpy as np
import pytest
from keras import layers

from iom.errors import WeightsError
from iom.nn.backbones.registry import build_backbone
from iom.pretrained.importers.keras_files import on_raw_pixels, own_statement, read_keras, save_model
from iom.pretrained.manifest import Statement

SIDE = 16
SLIM = {"widths": (16, 16), "depths": (1, 1), "input_size": SIDE, "embedding_size": 8}


def stated(colours="RGB", values="0..255", size=SIDE, **settings):
    return Statement(colour_order=colours, range=values, size=size, **settings)


def foreign_model():
    """A model that expects scaled pixels and says nothing about it."""
    image = keras.Input((SIDE, SIDE, 3))
    x = layers.Conv2D(16, 3, activation="relu")(image)
    return keras.Model(image, layers.Dense(8)(layers.GlobalAveragePooling2D()(x)))


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE, 3)).astype("f4")


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5")
def test_own_backbone_states_its_input(tmp_path, images, suffix):
    model = build_backbone("iresnet_slim", **SLIM)
    path = tmp_path / f"x{suffix}"
    model.save(path)
    read = read_keras(path, None)
    assert own_statement(read) == stated()
    np.testing.assert_allclose(read(images), model(images), atol=1e-5)
    assert on_raw_pixels(read, stated(), path) is read


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5")
def test_foreign_model_is_wrapped(tmp_path, images, suffix):
    model = foreign_model()
    path = tmp_path / f"x{suffix}"
    model.save(path)
    read = read_keras(path, stated())
    assert own_statement(read) is None
    wrapped = on_raw_pixels(read, stated("BGR", "-1..1"), path)
    expected = model(images[..., ::-1] / 127.5 - 1)
    np.testing.assert_allclose(wrapped(images), expected, atol=1e-5)
    wrapped.save(tmp_path / "again.keras")
    again = keras.models.load_model(tmp_path / "again.keras")
    np.testing.assert_allclose(again(images), expected, atol=1e-5)


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5")
def test_a_file_of_keras_2(tmp_path, images):
    """As Keras 2.10 wrote it: nodes as lists, a batch input shape, `groups` at depthwise layers."""
    image = keras.Input((SIDE, SIDE, 3))
    x = layers.DepthwiseConv2D(3, activation="relu")(image)
    model = keras.Model(image, layers.Dense(8)(layers.Flatten()(x)))
    path = tmp_path / "x.h5"
    model.save(path)
    with h5py.File(path, "r+") as file:
        tree = json.loads(file.attrs["model_config"])
        before = None
        for layer in tree["config"]["layers"]:
            config = layer["config"]
            config["dtype"] = "float32"
            if layer["class_name"] == "InputLayer":
                config["batch_input_shape"] = config.pop("batch_shape")
                del config["optional"]
            if layer["class_name"] == "DepthwiseConv2D":
                config["groups"] = 1
            if before:
                layer["inbound_nodes"] = [[[before, 0, 0, {}]]]
            before = layer["name"]
        file.attrs["model_config"] = json.dumps(tree)
        file.attrs["keras_version"] = "2.10.0"
    read = read_keras(path, stated())
    np.testing.assert_allclose(read(images), model(images), rtol=1e-4, atol=1e-3)


def test_weights_alone_need_their_architecture(tmp_path, images):
    model = build_backbone("iresnet_slim", **SLIM)
    path = tmp_path / "x.weights.h5"
    model.save_weights(path)
    with pytest.raises(WeightsError, match="state its 'architecture'"):
        read_keras(path, None)
    arguments = {"widths": [16, 16], "depths": [1, 1]}
    known = stated(architecture="iresnet_slim", arguments=arguments, embedding_size=8)
    np.testing.assert_allclose(read_keras(path, known)(images), model(images), atol=1e-5)
    other = stated(architecture="iresnet_slim", arguments=arguments, embedding_size=9)
    with pytest.raises(WeightsError, match="does not fit iresnet_slim"):
        read_keras(path, other)
    with pytest.raises(WeightsError, match="unknown backbone 'iresnet_slimm'"):
        read_keras(path, stated(architecture="iresnet_slimm"))


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        (stated(size=112), "size: 112 is stated, the model takes 16"),
        (stated(embedding_size=512), "embedding size: 512 is stated, the model has 8"),
        (stated(values="-1..1"), "itself scales pixels"),
    ],
)
def test_a_wrong_statement_is_an_error(tmp_path, statement, message):
    model = build_backbone("iresnet_slim", **SLIM)
    with pytest.raises(WeightsError, match=message):
        on_raw_pixels(model, statement, tmp_path / "x.keras")


def test_another_shape_is_an_error(tmp_path):
    image = keras.Input((SIDE, SIDE, 3))
    maps = keras.Model(image, layers.Conv2D(16, 3)(image))
    free = keras.Input((None, None, 3))
    anything = keras.Model(free, layers.GlobalAveragePooling2D()(free))
    for model in (maps, anything):
        with pytest.raises(WeightsError, match="square colour image"):
            on_raw_pixels(model, stated(), tmp_path / "x.keras")


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5")
def test_lambda_layers_are_refused(tmp_path, suffix):
    image = keras.Input((SIDE, SIDE, 3))
    flat = layers.Lambda(lambda x: x[:, 0, 0], output_shape=(3,))(image)
    path = tmp_path / f"x{suffix}"
    keras.Model(image, flat).save(path)
    with pytest.raises(WeightsError, match="refused: its configuration holds a Lambda"):
        read_keras(path, stated())


def test_foreign_modules_are_refused(tmp_path):
    path = tmp_path / "x.keras"
    foreign_model().save(path)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    tree = json.loads(parts["config.json"])
    tree["config"]["layers"][1] |= {"module": "os", "class_name": "system"}
    parts["config.json"] = json.dumps(tree).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    with pytest.raises(WeightsError, match=r"names 'os\.system', which is outside Keras"):
        read_keras(path, stated())


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5")
def test_damage_is_an_error_or_harmless(tmp_path, damage, suffix):
    path = tmp_path / f"x{suffix}"
    foreign_model().save(path)
    original = path.read_bytes()
    for name, data in damage(original, cuts=5, flips=16):
        path.write_bytes(data)
        try:
            read_keras(path, stated())
        except WeightsError as error:
            assert "\n" not in str(error), name  # noqa: PT017 - both outcomes are right
        else:
            assert len(data) == len(original), name


def test_other_files_are_errors(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["data"] = np.ones(3)
    with pytest.raises(WeightsError, match="weights without a model"):
        read_keras(tmp_path / "x.h5", None)
    with zipfile.ZipFile(tmp_path / "x.keras", "w") as archive:
        archive.writestr("a.txt", "b")
    with pytest.raises(WeightsError, match="damaged or not a Keras model"):
        read_keras(tmp_path / "x.keras", stated())
    with pytest.raises(WeightsError, match="cannot read"):
        read_keras(tmp_path / "none.keras", stated())


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
