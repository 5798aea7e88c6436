"""Every backbone: its graph at 112 pixels, its heads, its size against the published one."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from iom.errors import ConfigError
from iom.nn.backbones.blocks import HEADS
from iom.nn.backbones.registry import BACKBONES, build_backbone

QUICK = (
    "iresnet18",
    "iresnet34",
    "iresnet50",
    "iresnet_slim",
    "mobilefacenet",
    "mobilefacenet_y1",
    "dlib_resnet",
    "ghostnet",
    "efficientnet_lite0",
    "mnasnet_a1",
    "mnasnet_b1",
    "mnasnet_small",
    "mobilenet",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "mobilenet_v3_large",
    "resnet50",
    "resnet50_v2",
    "xception",
    "vgg16",
    "efficientnet_b0",
    "efficientnet_v2_b0",
    "convnext_tiny",
)
"""Built within a second; the others take one to five each."""
OWN = {
    "ghostnet": {"width": 0.5},
    "mnasnet_a1": {"width": 0.5},
    "efficientnet_lite0": {"head": "GAP"},
    "iresnet_slim": {"squeeze_excitation": True, "depths": (1, 1, 1, 1)},
}
"""Each kind of block and head of our own networks."""
OTHERS = {
    "ghostnet": {},
    "mnasnet_a1": {},
    "mnasnet_b1": {},
    "mnasnet_small": {"head": "E"},
    **{f"efficientnet_lite{variant}": {} for variant in range(5)},
    "iresnet18": {},
    "iresnet50": {"squeeze_excitation": True},
    "mobilefacenet": {},
    "mobilefacenet_y1": {},
}


def deferred(name, **settings):
    """The graph alone: no weight is drawn."""
    with keras.StatelessScope(initialize_variables=False):
        return build_backbone(name, **settings)


def check(name):
    model = deferred(name)
    assert model.input_shape == (None, 112, 112, 3)
    assert model.output_shape == (None, 512)
    assert model.layers[0].name == "image"
    assert [layer.name for layer in model.layers[1:]].index("pixel_scaling") == 0
    assert model.layers[-1].name == "embedding"
    for layer in model.layers:
        assert getattr(layer, "groups", 1) == 1 or isinstance(layer, keras.layers.DepthwiseConv2D)


@pytest.mark.parametrize("name", QUICK)
def test_graph(name):
    check(name)


@pytest.mark.proof
@pytest.mark.parametrize("name", [x for x in BACKBONES if x not in QUICK])
def test_graph_of_the_others(name):
    check(name)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("name", ["iresnet18", "mobilefacenet", "mobilefacenet_y1", "mobilenet"])
def test_heads(name, head):
    model = deferred(name, head=head, dropout=0.3, embedding_size=24)
    assert model.output_shape == (None, 24)
    assert sum(isinstance(layer, keras.layers.Dropout) for layer in model.layers[-7:]) == 1
    kinds = {"E": keras.layers.Flatten, "GDC": keras.layers.DepthwiseConv2D, "GAP": keras.layers.GlobalAveragePooling2D}
    assert any(type(layer) is kinds[head] for layer in model.layers[-8:])


def test_a_head_that_is_none():
    with pytest.raises(ConfigError, match="unknown head 'GDX' - did you mean 'GDC'"):
        build_backbone("iresnet18", head="GDX")


@pytest.mark.parametrize("name", ["ghostnet", "mnasnet_a1"])
def test_widths_out_of_range(name):
    with pytest.raises(ConfigError, match="expected a positive width"):
        build_backbone(name, width=0)


PUBLISHED = {
    # TensorFlow's tpu repository says 4.7, 5.4, 6.1, 8.2, 13.0 M; keras-hub has 4,652,008.
    "efficientnet_lite0": (4_652_008, "last_relu6", 1280),
    "efficientnet_lite1": (5.4e6, "last_relu6", 1280),
    "efficientnet_lite2": (6.1e6, "last_relu6", 1280),
    "efficientnet_lite3": (8.2e6, "last_relu6", 1280),
    "efficientnet_lite4": (13.0e6, "last_relu6", 1280),
    # 3.9 and 2.0 M there; torchvision has 4,383,312 for B1.
    "mnasnet_a1": (3.9e6, "last_relu", 1280),
    "mnasnet_b1": (4_383_312, "last_relu", 1280),
    "mnasnet_small": (2.0e6, "last_relu", 1280),
    # 5.2 M in the paper. Its classifier is a layer of 1,280 units and one of 1,000.
    "ghostnet": (5.2e6, "last_relu", 960),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_as_many_parameters_as_published(name):
    published, last, channels = PUBLISHED[name]
    model = deferred(name)
    trunk = keras.Model(model.input, model.get_layer(last).output)
    assert trunk.output_shape[-1] == channels
    counted = sum(int(np.prod(weight.shape)) for weight in trunk.trainable_weights)
    counted += 1280 * 1000 + 1000
    if name == "ghostnet":
        counted += 960 * 1280 + 1280
    if isinstance(published, int):
        assert counted == published
    else:
        assert round(counted / 1e6, 1) == published / 1e6


def test_squeeze_and_excitation_in_iresnet():
    """Two matrices of C * C / 16 for each block, and nothing else; all else keeps its name."""
    plain, squeezed = (deferred("iresnet50", squeeze_excitation=on) for on in (False, True))
    added = squeezed.count_params() - plain.count_params()
    depths = zip((64, 128, 256, 512), (3, 4, 14, 3), strict=True)
    assert added == sum(depth * width * width // 8 for width, depth in depths)
    names = {layer.name for layer in plain.layers}
    assert names < {layer.name for layer in squeezed.layers}


def test_squeeze_and_excitation_in_numpy():
    settings = {"stem": 16, "widths": (16,), "depths": (1,), "squeeze_excitation": True}
    model = build_backbone("iresnet_slim", embedding_size=8, input_size=16, **settings)
    gate = [model.get_layer(f"layer1_0_se_{part}") for part in ("reduce", "expand")]
    scale = model.get_layer("layer1_0_se_scale")
    outputs = keras.Model(model.input, [scale.input[0], scale.output])
    images = np.random.default_rng(0).uniform(0, 255, (3, 16, 16, 3)).astype("f4")
    before, after = (np.asarray(x) for x in outputs(images))
    inner = np.maximum(before.mean((1, 2)) @ np.asarray(gate[0].kernel), 0)
    weights = 1 / (1 + np.exp(-inner @ np.asarray(gate[1].kernel)))
    np.testing.assert_allclose(after, before * weights[:, None, None], rtol=1e-4, atol=1e-5)


GRADIENTS = """
import json, sys
import keras, numpy as np, tensorflow as tf
from iom.nn.backbones.registry import build_backbone

for name, settings in json.loads(sys.argv[1]).items():
    keras.utils.set_random_seed(1)
    model = build_backbone(name, embedding_size=16, input_size=32, **settings)
    images = np.random.default_rng(0).uniform(0, 255, (8, 32, 32, 3)).astype("f4")

    with tf.GradientTape() as tape:
        value = tf.reduce_sum(model(images, training=True) ** 3)
    gradients = tape.gradient(value, [weight.value for weight in model.trainable_weights])
    for weight, gradient in zip(model.trainable_weights, gradients, strict=True):
        assert np.isfinite(gradient).all(), (name, weight.path)
        assert np.abs(gradient).max() > 0, (name, weight.path)
    path = sys.argv[2] + "/" + name + ".keras"
    model.save(path)
    again = keras.models.load_model(path)
    np.testing.assert_allclose(again(images), model(images), atol=1e-4)
    print(name, "trains")
"""


def train(networks, folder):
    """A gradient for every weight, then saved and read.

    Without oneDNN, which corrupts the heap where widths are no multiples of 16.
    """
    environment = {**os.environ, "TF_ENABLE_ONEDNN_OPTS": "0", "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run(
        [sys.executable, "-c", GRADIENTS, json.dumps(networks), str(folder)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.count("trains") == len(networks)


def test_every_weight_gets_a_gradient(tmp_path):
    train(OWN, tmp_path)


@pytest.mark.proof
def test_every_weight_of_the_whole_networks_gets_a_gradient(tmp_path):
    train(OTHERS, tmp_path)
