"""MXNet checkpoints: against a NumPy oracle, against real embeddings, damaged and mismatched."""

import copy
import json

import numpy as np
import pytest
from PIL import Image

from iom.errors import WeightsError
from iom.nn.backbones.registry import build_backbone
from iom.pretrained.importers.foreign import assign_weights, build_foreign
from iom.pretrained.importers.mxnet import read_mxnet, read_params
from iom.pretrained.manifest import Statement

RAW = Statement(colour_order="RGB", range="0..255", size=16)


def cosines(a, b):
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def test_small_network_equals_numpy(mxnet_files, images, expected):
    graph = read_mxnet(mxnet_files[0])
    assert graph.scaling == pytest.approx((0.0078125, -127.5 * 0.0078125))
    model = build_foreign(graph, RAW)
    result = np.asarray(model(images.astype(np.float32)))
    np.testing.assert_allclose(result, expected, atol=2e-5)
    assert cosines(result, expected).min() > 0.999999


def test_bgr_is_taken_over(mxnet_files, images, expected):
    statement = Statement(colour_order="BGR", range="0..255", size=16)
    model = build_foreign(read_mxnet(mxnet_files[0]), statement)
    result = np.asarray(model(images[..., ::-1].astype(np.float32)))
    np.testing.assert_allclose(result, expected, atol=2e-5)


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        (Statement(colour_order="RGB", range="-1..1", size=16), "graph itself scales pixels"),
        (Statement(colour_order="RGB", range="0..255", size=112), "size: 112 is stated, the file holds 16"),
        (RAW.model_copy(update={"embedding_size": 512}), "embedding size: 512 is stated"),
        (RAW.model_copy(update={"architecture": "iresnet50"}), "architecture: iresnet50 is stated"),
    ],
)
def test_a_wrong_statement_is_an_error(mxnet_files, statement, message):
    with pytest.raises(WeightsError, match=message):
        build_foreign(read_mxnet(mxnet_files[0]), statement)


@pytest.mark.parametrize("magic", [0xF993FAC9, 0xF993FACA, 0xF993FAC8, None])
def test_all_array_forms(tmp_path, write_params, magic):
    arrays = {"arg:a": np.arange(6, dtype=np.float32).reshape(2, 3), "aux:b": np.ones(4, "f4")}
    write_params(tmp_path / "x.params", arrays, magic=magic)
    result = read_params(tmp_path / "x.params")
    assert list(result) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(result[name], array)


def changed_symbol(symbol, change):
    tree = copy.deepcopy(symbol)
    nodes = {node["name"]: node for node in tree["nodes"]}
    change(tree, nodes)
    return tree


def set_stride(tree, nodes):
    nodes["stage1_unit1_conv2"]["attrs"]["stride"] = "(1, 1)"


def set_padding(tree, nodes):
    nodes["conv0"]["attrs"]["pad"] = "(0, 0)"


def set_uneven(tree, nodes):
    nodes["conv0"]["attrs"]["stride"] = "(1, 2)"


def set_relu(tree, nodes):
    nodes["relu0"]["attrs"]["act_type"] = "leaky"


def set_unknown(tree, nodes):
    nodes["stage2_unit1_plus"]["op"] = "elemwise_mul"


def set_source(tree, nodes):
    """The shortcut is taken from the stem instead of the block before."""
    stem = next(i for i, node in enumerate(tree["nodes"]) if node["name"] == "conv0")
    nodes["stage1_unit2_plus"]["inputs"][1][0] = stem


def set_order(tree, nodes):
    names = [node["name"] for node in tree["nodes"]]
    a, b = names.index("bn0"), names.index("relu0")
    tree["nodes"][a]["op"], tree["nodes"][b]["op"] = "LeakyReLU", "BatchNorm"


def set_other_array(tree, nodes):
    nodes["bn0_beta"]["name"] = "bn99_beta"


def set_head(tree, nodes):
    tree["heads"] = [[10, 0, 0]]


def set_two_heads(tree, nodes):
    tree["heads"] *= 2


def set_no_nodes(tree, nodes):
    del tree["nodes"]


@pytest.mark.parametrize(
    "change",
    [
        set_stride,
        set_padding,
        set_uneven,
        set_relu,
        set_unknown,
        set_source,
        set_order,
        set_other_array,
        set_head,
        set_two_heads,
        set_no_nodes,
    ],
)
def test_another_graph_is_an_error(mxnet_files, change):
    params, symbol = mxnet_files
    symbol.write_text(json.dumps(changed_symbol(json.loads(symbol.read_text()), change)))
    with pytest.raises(WeightsError) as caught:
        build_foreign(read_mxnet(params), RAW)
    assert "\n" not in str(caught.value)


def test_an_array_too_many_is_an_error(tmp_path, mxnet_files, write_params):
    arrays = read_params(mxnet_files[0]) | {"arg:extra": np.ones(2, np.float32)}
    write_params(mxnet_files[0], arrays)
    with pytest.raises(WeightsError, match="arg:extra"):
        read_mxnet(mxnet_files[0])


def test_an_array_of_another_shape_is_an_error(mxnet_files, write_params):
    arrays = read_params(mxnet_files[0])
    arrays["arg:bn0_beta"] = np.ones(5, np.float32)
    write_params(mxnet_files[0], arrays)
    with pytest.raises(WeightsError, match="bn0"):
        build_foreign(read_mxnet(mxnet_files[0]), RAW)


def test_another_architecture_is_an_error(mxnet_files):
    with pytest.raises(WeightsError, match="does not fit mobilefacenet_y1"):
        assign_weights(build_backbone("mobilefacenet_y1", embedding_size=128), read_mxnet(mxnet_files[0]))


def test_damage_is_an_error_or_harmless(mxnet_files, damage):
    params, _ = mxnet_files
    original = params.read_bytes()
    for name, data in damage(original):
        params.write_bytes(data)
        try:
            read_mxnet(params)
        except WeightsError as error:
            assert "\n" not in str(error), name  # noqa: PT017 - both outcomes are right
        else:
            assert len(data) == len(original), name


def test_damaged_symbol_is_an_error_or_harmless(mxnet_files, damage):
    params, symbol = mxnet_files
    for name, data in damage(symbol.read_bytes(), cuts=6, flips=40):
        symbol.write_bytes(data)
        try:
            build_foreign(read_mxnet(params), RAW)
        except WeightsError as error:
            assert "\n" not in str(error), name  # noqa: PT017 - both outcomes are right


def test_missing_files(tmp_path, mxnet_files):
    with pytest.raises(WeightsError, match="cannot read"):
        read_params(tmp_path / "none.params")
    mxnet_files[1].unlink()
    with pytest.raises(WeightsError, match="cannot read"):
        read_mxnet(mxnet_files[0])


def test_real_faces(prepared_data, foreign_weights):
    """The embeddings that MXNet itself gave for these photographs."""
    folder = foreign_weights("mobilefacenet_y1/model-0000.params").parent
    model = build_backbone("mobilefacenet_y1", embedding_size=128)
    graph = read_mxnet(folder / "model-0000.params")
    assign_weights(model, graph)
    stored = np.load(prepared_data / "embeddings" / "lfw_112x112.mobilefacenet_y1.npz")
    rows = np.random.default_rng(0).choice(len(stored["path"]), 48, replace=False)
    faces = [Image.open(prepared_data / "lfw_112x112" / stored["path"][row]) for row in rows]
    pixels = np.stack([np.asarray(face, np.float32) for face in faces])
    similarity = cosines(np.asarray(model(pixels)), stored["embedding"][rows])
    print(f"mobilefacenet_y1 on LFW: lowest cosine {similarity.min():.7f}")
    assert similarity.min() > 0.9999
    mirrored = cosines(np.asarray(model(pixels[:, :, ::-1])), stored["embedding"][rows])
    assert mirrored.max() < 0.9999
