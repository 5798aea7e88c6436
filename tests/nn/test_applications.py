"""Networks of keras.applications: scaling, replaced layers, ImageNet weights, saving."""

import importlib
import inspect
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from iom.errors import ConfigError, WeightsError
from iom.nn.backbones.applications import APPLICATIONS, CAFFE, imagenet_model
from iom.nn.backbones.blocks import scale_pixels
from iom.nn.backbones.registry import BACKBONES, build_backbone

PREPROCESSED = {
    "mobilenet": "mobilenet",
    "mobilenet_v2": "mobilenet_v2",
    "nasnet": "nasnet",
    "resnet50_v2": "resnet_v2",
    "resnet101_v2": "resnet_v2",
    "resnet152_v2": "resnet_v2",
    "resnet": "resnet",
    "inception_v3": "inception_v3",
    "xception": "xception",
    "inception_resnet_v2": "inception_resnet_v2",
    "densenet": "densenet",
    "vgg16": "vgg16",
    "vgg19": "vgg19",
}
"""Start of a name -> the module whose `preprocess_input` its weights want; longest start wins."""


def pixels(count, size, seed=0):
    return np.random.default_rng(seed).uniform(0, 255, (count, size, size, 3)).astype("f4")


def deferred(name, **settings):
    """The graph alone: no weight is drawn."""
    with keras.StatelessScope(initialize_variables=False):
        return build_backbone(name, **settings)


def expected_pixels(name, images):
    """What Keras feeds the first convolution with, from its own modules and constants."""
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    if name.startswith("mobilenet_v3"):  # Rescaling(1 / 127.5, -1) inside
        return images / 127.5 - 1
    if name.startswith("efficientnet_b"):
        # Rescaling, a Normalization whose stored variance is the deviation, and a second root.
        normalised = (images / 255 - mean) / np.sqrt(deviation)
        return normalised / np.sqrt(deviation)
    if name.startswith(("efficientnet_v2_b", "convnext")):
        return (images / 255 - mean) / deviation
    if name.startswith("efficientnet_v2"):
        return images / 128 - 1
    start = max((start for start in PREPROCESSED if name.startswith(start)), key=len)
    module = importlib.import_module(f"keras.applications.{PREPROCESSED[start]}")
    return module.preprocess_input(images.copy())


@pytest.mark.parametrize("name", APPLICATIONS)
def test_pixels_are_scaled_as_keras_does(name):
    images = pixels(2, 8)
    image = keras.Input((8, 8, 3))
    model = keras.Model(image, scale_pixels(image, APPLICATIONS[name].scaling))
    np.testing.assert_allclose(model(images), expected_pixels(name, images), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["efficientnet_v2_b0", "efficientnet_v2_s", "convnext_tiny"])
def test_the_built_in_scaling_of_keras_is_what_we_expect(name):
    """Its layers in front of the first one with a kernel, on random pixels."""
    builder = getattr(keras.applications, APPLICATIONS[name].builder)
    with keras.StatelessScope(initialize_variables=False):
        model = builder(include_top=False, weights=None, input_shape=(32, 32, 3))
    images = pixels(2, 32)
    result = images
    for layer in model.layers[1:]:
        if not isinstance(layer, keras.layers.Rescaling | keras.layers.Normalization):
            break
        result = layer(result)
    np.testing.assert_allclose(result, expected_pixels(name, images), atol=1e-5)


def asked_file(name, monkeypatch):
    """The file that Keras would fetch, and the error that it becomes."""

    class AskedError(Exception):
        pass

    def ask(fname=None, *arguments, **settings):
        raise AskedError(fname)

    monkeypatch.setattr("keras.src.utils.file_utils.get_file", ask)
    entry = APPLICATIONS[name]
    with (
        keras.StatelessScope(initialize_variables=False),
        pytest.raises(WeightsError, match="ImageNet weights") as caught,
    ):
        imagenet_model(entry, imagenet=True)
    assert isinstance(caught.value.__cause__, AskedError)
    return str(caught.value.__cause__), str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "mobilenet",
        "mobilenet_v2",
        "mobilenet_v3_small",
        "mobilenet_v3_large",
        "resnet50",
        "resnet50_v2",
        "inception_v3",
        "xception",
        "vgg16",
        "vgg19",
        "densenet121",
        "efficientnet_b0",
        "efficientnet_v2_b0",
        "convnext_tiny",
    ],
)
def test_a_failed_download_names_the_file(name, monkeypatch):
    asked, error = asked_file(name, monkeypatch)
    assert asked in error


@pytest.mark.parametrize(("name", "smallest"), [("inception_v3", 75), ("xception", 71), ("resnet50", 32)])
def test_too_small_images(name, smallest):
    with pytest.raises(ConfigError, match=rf"{name}: expected input_size >= {smallest}, received"):
        build_backbone(name, input_size=smallest - 1)


@pytest.mark.parametrize("name", ["inception_v3", "xception"])
def test_the_smallest_images(name):
    smallest = APPLICATIONS[name].smallest
    assert deferred(name, input_size=smallest, embedding_size=8).output_shape == (None, 8)


def test_only_one_scaling_is_left_and_no_grouped_convolution():
    scalings = (keras.layers.Rescaling, keras.layers.Normalization)
    for name in ("efficientnet_b0", "convnext_tiny", "mobilenet_v3_small"):
        model = deferred(name)
        assert [x.name for x in model.layers if isinstance(x, scalings)] == ["pixel_scaling"]
        assert all(
            getattr(layer, "groups", 1) == 1 or isinstance(layer, keras.layers.DepthwiseConv2D)
            for layer in model.layers
        )


def randomised(name, size, path):
    """Keras' own network with other weights than a new one has, and its file."""
    entry = APPLICATIONS[name]
    builder = getattr(keras.applications, entry.builder)
    scales = "include_preprocessing" in inspect.signature(builder).parameters
    settings = {"include_preprocessing": False} if scales else {}
    model = builder(include_top=False, weights=None, input_shape=(size, size, 3), **settings)
    stream = np.random.default_rng(1)
    for layer in model.layers:
        values = [np.asarray(weight) for weight in layer.weights]
        if isinstance(layer, keras.layers.Normalization):  # as in the published files
            published = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]], "f4")
            layer.set_weights([*published, values[2]])
            layer.finalize_state()
        elif any(weight.path.endswith("gamma") for weight in layer.weights):
            layer.set_weights([value + stream.uniform(0, 1, value.shape) for value in values])
    model.save_weights(path)
    return model


@pytest.mark.parametrize(
    "name", ["mobilenet", "efficientnet_b0", "vgg16", pytest.param("convnext_tiny", marks=pytest.mark.proof)]
)
def test_weights_from_a_file_give_what_keras_gives(name, tmp_path):
    """ConvNeXt with its convolutions replaced, EfficientNet without its scaling, BGR for VGG."""
    path = tmp_path / "imagenet.weights.h5"
    source = randomised(name, 32, path)
    model = build_backbone(name, input_size=32, embedding_size=8, imagenet=str(path))
    images = pixels(2, 32)
    ours = np.asarray(keras.Model(model.inputs[0], model.get_layer("head_bn").input)(images))
    if name == "efficientnet_b0":  # as Keras builds it with its ImageNet weights
        roots = np.sqrt(np.array([0.229, 0.224, 0.225]))
        names = [layer.name for layer in source.layers]
        first = next(x for x in names if x == "stem_conv_pad")
        behind = keras.Model(source.get_layer(first).input, source.output)
        before = keras.Model(source.inputs[0], source.get_layer(first).input)
        theirs = behind(np.asarray(before(images)) / roots)
    else:
        theirs = source(expected_pixels(name, images))
    theirs = np.asarray(theirs)
    scale = np.abs(theirs).max()
    assert scale > 0
    np.testing.assert_allclose(ours / scale, theirs / scale, atol=1e-4)
    model.save(tmp_path / "x.keras")
    again = keras.models.load_model(tmp_path / "x.keras")
    np.testing.assert_allclose(again(images), model(images), atol=1e-5)


def test_untrained_asks_for_no_weights():
    """For a network whose weights are about to be replaced."""
    settings = {"input_size": 32, "embedding_size": 8, "imagenet": "no such file"}
    with keras.StatelessScope(initialize_variables=False):
        model = build_backbone("mobilenet", untrained=True, **settings)
    assert model.output_shape == (None, 8)
    with pytest.raises(WeightsError, match="no such file"):
        build_backbone("mobilenet", **settings)


def test_files_that_do_not_serve(tmp_path):
    with pytest.raises(WeightsError, match="there is none at"):
        build_backbone("mobilenet", imagenet=str(tmp_path / "none.h5"))
    damaged = tmp_path / "damaged.weights.h5"
    damaged.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(WeightsError, match="MobileNet without a classifier"):
        build_backbone("mobilenet", imagenet=str(damaged))
    other = tmp_path / "other.weights.h5"
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]).save_weights(other)
    with pytest.raises(WeightsError, match="does not fit"):
        build_backbone("mobilenet", imagenet=str(other))


CACHED = """
import os, sys
import h5py, keras, numpy as np
from keras.src.legacy.saving import legacy_h5_format
from iom.errors import WeightsError
from iom.nn.backbones.registry import build_backbone

folder = os.path.join(os.environ["KERAS_HOME"], "models")
try:
    build_backbone("mobilenet", input_size=32, imagenet=True)
except WeightsError as error:
    assert "mobilenet_1_0_224_tf_no_top.h5" in str(error) and folder in str(error), error
else:
    sys.exit("random weights instead of an error")
source = keras.applications.MobileNet(include_top=False, weights=None)
os.makedirs(folder, exist_ok=True)
with h5py.File(os.path.join(folder, "mobilenet_1_0_224_tf_no_top.h5"), "w") as file:
    legacy_h5_format.save_weights_to_hdf5_group(file, source)
model = build_backbone("mobilenet", input_size=32, embedding_size=8, imagenet=True)
for weight, expected in zip(model.get_weights(), source.get_weights()):
    np.testing.assert_array_equal(weight, expected)
print("the same", len(source.weights))
"""


def test_keras_cache_and_a_failed_download(tmp_path):
    """No network is asked: the proxy that is named does not exist."""
    closed = {f"{kind}_proxy": "http://127.0.0.1:9" for kind in ("http", "https")}
    environment = {
        **os.environ,
        **closed,
        "no_proxy": "",
        "KERAS_HOME": str(tmp_path / "keras"),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    result = subprocess.run(
        [sys.executable, "-c", CACHED], env=environment, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert "the same 135" in result.stdout


def test_round_trip(tmp_path):
    """Others are saved and read above."""
    model = build_backbone("mobilenet_v3_small", input_size=32, embedding_size=16)
    model.save(tmp_path / "x.keras")
    again = keras.models.load_model(tmp_path / "x.keras")
    images = pixels(2, 32)
    result = np.asarray(model(images))
    assert np.isfinite(result).all()
    assert not np.array_equal(result[0], result[1])
    np.testing.assert_allclose(again(images), result, atol=1e-5)


def test_caffe_networks_see_bgr(tmp_path):
    model = build_backbone("vgg16", input_size=32, embedding_size=8)
    model.save(tmp_path / "x.keras")
    again = keras.models.load_model(tmp_path / "x.keras")
    first = again.get_layer("block1_conv1").input
    images = pixels(1, 32)
    seen = np.asarray(keras.Model(again.inputs[0], first)(images))
    expected = images[..., ::-1] + np.array(CAFFE.offset, "f4")[::-1]
    np.testing.assert_allclose(seen, expected, atol=1e-4)


@pytest.mark.proof
@pytest.mark.parametrize("name", APPLICATIONS)
def test_every_network_is_saved_and_read(tmp_path, name):
    model = build_backbone(name, input_size=96, embedding_size=16)
    model.save(tmp_path / "x.keras")
    again = keras.models.load_model(tmp_path / "x.keras")
    images = pixels(1, 96)
    np.testing.assert_allclose(again(images), model(images), atol=1e-4)
    keras.backend.clear_session()


def test_names():
    assert set(APPLICATIONS) <= set(BACKBONES)
