"""ONNX: files that PyTorch wrote, hand-written graphs run by onnxruntime, damaged ones."""

import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from iom.errors import MissingExtraError, WeightsError
from iom.pretrained.importers.foreign import build_foreign
from iom.pretrained.importers.onnx import read_onnx
from iom.pretrained.manifest import Statement
from iom.pretrained.weights import files_of

SOURCES = Path(__file__).parent / "sources"
EXPORTERS = ("legacy", "unfolded", "dynamo")


def stated(colours="RGB", values="-1..1", size=16):
    return Statement(colour_order=colours, range=values, size=size)


def cosines(a, b):
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_exports_of_pytorch(exporter):
    """`make_onnx_sources.py` wrote these: an IResNet with 16 and 32 channels."""
    path = SOURCES / f"iresnet_slim-{exporter}.onnx"
    source = np.load(path.with_suffix(".npz"))
    model = build_foreign(read_onnx(path), stated())
    assert model.name == "iresnet_slim"
    result = np.asarray(model(source["images"].astype(np.float32)))
    similarity = cosines(result, source["embeddings"]).min()
    print(f"{path.name}: lowest cosine {similarity:.7f}")
    assert similarity > 0.999999
    np.testing.assert_allclose(result, source["embeddings"], atol=1e-4)


@pytest.mark.parametrize(("statement", "highest"), [(stated("BGR"), 0.999), (stated(values="0..1"), 0.999)])
def test_a_wrong_input_would_show(statement, highest):
    path = SOURCES / "iresnet_slim-legacy.onnx"
    source = np.load(path.with_suffix(".npz"))
    model = build_foreign(read_onnx(path), statement)
    result = np.asarray(model(source["images"].astype(np.float32)))
    assert cosines(result, source["embeddings"]).max() < highest


class Network:
    """A hand-written ONNX graph."""

    def __init__(self, side, *, seed=0):
        self.side = side
        self.random = np.random.default_rng(seed)
        self.nodes, self.initialisers = [], []
        self.last = "data"
        self.channels = 3

    def array(self, values):
        name = f"w{len(self.initialisers)}"
        self.initialisers.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def node(self, kind, inputs, **attributes):
        name = f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        self.last = name
        return name

    def conv(self, filters, window, stride=1, padding=0, groups=1, source=None):
        fan = self.channels // groups * window**2
        kernel = self.random.normal(0, 1.4 / np.sqrt(fan), (filters, self.channels // groups, window, window))
        self.channels = filters
        return self.node(
            "Conv",
            [source or self.last, self.array(kernel.astype("f4"))],
            strides=[stride] * 2,
            pads=[padding] * 4,
            group=groups,
        )

    def batch_norm(self, epsilon=1e-5):
        draw = self.random.uniform
        bounds = ((0.7, 1.3), (-0.2, 0.2), (-0.2, 0.2), (0.5, 2.0))
        arrays = [self.array(draw(*bound, self.channels).astype("f4")) for bound in bounds]
        return self.node("BatchNormalization", [self.last, *arrays], epsilon=epsilon)

    def prelu(self, shape=(-1, 1, 1)):
        slopes = self.random.uniform(0.1, 0.4, self.channels).astype("f4")
        before = self.last
        if shape is None:
            name = self.node("Unsqueeze", [self.array(slopes)], axes=[1, 2])
        else:
            name = self.array(slopes.reshape(shape))
        return self.node("PRelu", [before, name])

    def unit(self, *window, activation=True, **settings):
        self.conv(*window, **settings)
        self.batch_norm()
        return self.prelu() if activation else self.last

    def save(self, path, *, batch="batch", colours=3):
        float32 = onnx.TensorProto.FLOAT
        image = helper.make_tensor_value_info("data", float32, [batch, colours] + [self.side] * 2)
        output = helper.make_tensor_value_info(self.last, float32, None)
        graph = helper.make_graph(self.nodes, "g", [image], [output], self.initialisers)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=8)
        onnx.save(model, path)

    def run(self, path, images):
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return session.run(None, {"data": images.astype("f4").transpose(0, 3, 1, 2)})[0]


def mobile_network(scale, blocks):
    """InsightFace's MobileFaceNet, node by node, with the flatten as a chain of shape nodes."""
    network = Network(112)
    network.unit(64 * scale, 3, stride=2, padding=1)
    if blocks[0] == 1:
        network.unit(64 * scale, 3, padding=1, groups=64)

    def bottleneck(groups, filters, stride, *, residual):
        before = network.last
        network.unit(groups, 1)
        network.unit(groups, 3, stride=stride, padding=1, groups=groups)
        network.unit(filters, 1, activation=False)
        if residual:
            network.node("Add", [before, network.last])

    for _ in range(blocks[0] if blocks[0] > 1 else 0):
        bottleneck(128, 64 * scale, 1, residual=True)
    stages = ((128, 64 * scale, 128), (256, 128 * scale, 256), (512, 128 * scale, 256))
    for (first, filters, groups), count in zip(stages, blocks[1:], strict=True):
        bottleneck(first, filters, 2, residual=False)
        for _ in range(count):
            bottleneck(groups, filters, 1, residual=True)
    network.unit(512, 1)
    network.unit(512, 7, groups=512, activation=False)
    flat = network.last
    network.node("Shape", [flat])
    network.node("Gather", [network.last, network.array(np.int64(0))])
    network.node("Unsqueeze", [network.last], axes=[0])
    network.node("Concat", [network.last, network.array(np.array([-1], np.int64))], axis=0)
    network.node("Reshape", [flat, network.last])
    network.channels = 32
    kernel = network.random.normal(0, 0.05, (512, 32)).astype("f4")
    network.node("MatMul", [network.last, network.array(kernel)])
    network.batch_norm()
    return network


@pytest.mark.parametrize(
    ("scale", "blocks", "name"),
    [(2, (1, 1, 1, 1), "mobilefacenet"), (1, (2, 1, 1, 1), "mobilefacenet"), (1, (1, 4, 6, 2), "mobilefacenet_y1")],
)
def test_mobilefacenet_equals_onnxruntime(tmp_path, scale, blocks, name):
    network = mobile_network(scale, blocks)
    network.save(tmp_path / "x.onnx")
    images = np.random.default_rng(1).integers(0, 256, (2, 112, 112, 3)).astype("f4")
    expected = network.run(tmp_path / "x.onnx", (images - 127.5) / 127.5)
    model = build_foreign(read_onnx(tmp_path / "x.onnx"), stated(size=112))
    assert model.name == name
    result = np.asarray(model(images))
    assert cosines(result, expected).min() > 0.999999


def residual_network(*, scaling=(), bias=False, transposed=True, epsilon=1e-5, swap=False, unfolded=False):
    """A stem and one block of an IResNet, in the dialects of several exporters."""
    network = Network(16)
    for kind, value in scaling:
        network.node(kind, [network.last, network.array(np.float32(value))])
    network.unit(16, 3, padding=1)
    before = network.last
    network.batch_norm(epsilon)
    network.conv(16, 3, padding=1)
    network.batch_norm()
    network.prelu(None if unfolded else (1, -1, 1, 1))
    network.conv(16, 3, stride=2, padding=1)
    main = network.batch_norm()
    network.conv(16, 1, stride=2, source=before)
    shortcut = network.batch_norm()
    network.node("Add", [shortcut, main] if swap else [main, shortcut])
    network.batch_norm()
    network.node("Dropout", [network.last])
    network.node("Flatten", [network.last])
    network.channels = 24
    kernel = network.random.normal(0, 0.05, (24, 1024)).astype("f4")
    offset = network.array(network.random.normal(0, 1, 24).astype("f4"))
    if transposed:
        weights = [network.array(kernel), *([offset] if bias else [])]
        network.node("Gemm", [network.last, *weights], transB=1)
    else:
        flat = network.last
        if unfolded:
            matrix = network.node("Transpose", [network.array(kernel)], perm=[1, 0])
        else:
            matrix = network.array(np.ascontiguousarray(kernel.T))
        network.node("MatMul", [flat, matrix])
        if bias:
            network.node("Add", [network.last, offset])
    # InsightFace fixes its scale at one; here it is another, which must be absorbed.
    network.batch_norm()
    return network


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"bias": True},
        {"transposed": False},
        {"transposed": False, "bias": True},
        {"epsilon": 1e-3},
        {"swap": True},
        {"unfolded": True, "transposed": False, "bias": True},
        {"scaling": (("Sub", 127.5), ("Mul", 0.0078125))},
        {"scaling": (("Div", 127.5), ("Sub", 1.0))},
        {"scaling": (("Mul", 1 / 127.5), ("Add", -1.0))},
    ],
)
def test_iresnet_variants_equal_onnxruntime(tmp_path, settings):
    network = residual_network(**settings)
    network.save(tmp_path / "x.onnx")
    images = np.random.default_rng(1).integers(0, 256, (3, 16, 16, 3)).astype("f4")
    scaled = "scaling" in settings
    expected = network.run(tmp_path / "x.onnx", images if scaled else images / 127.5 - 1)
    graph = read_onnx(tmp_path / "x.onnx")
    assert (graph.scaling is not None) == scaled
    model = build_foreign(graph, stated(values="0..255" if scaled else "-1..1"))
    result = np.asarray(model(images))
    assert cosines(result, expected).min() > 0.999999
    np.testing.assert_allclose(result, expected, atol=1e-4)
    if scaled:
        with pytest.raises(WeightsError, match="graph itself scales pixels"):
            build_foreign(graph, stated(values="-1..1"))


def test_the_size_is_found_where_the_file_is_mute(tmp_path):
    network = residual_network()
    network.side = "side"
    network.save(tmp_path / "x.onnx")
    with pytest.raises(WeightsError, match="size: 112 is stated, the file holds 16"):
        build_foreign(read_onnx(tmp_path / "x.onnx"), stated(size=112))
    assert build_foreign(read_onnx(tmp_path / "x.onnx"), stated()).input_shape[1] == 16


def test_an_operation_that_the_backbone_lacks_is_an_error(tmp_path):
    network = residual_network()
    network.node("Relu", [network.last])
    network.save(tmp_path / "x.onnx")
    with pytest.raises(WeightsError, match="ends before relu"):
        build_foreign(read_onnx(tmp_path / "x.onnx"), stated())


def tanh(network):
    network.node("Tanh", [network.last])


def scaled_inside(network):
    network.node("Mul", [network.last, network.array(np.float32(2))])


def two_outputs(network):
    network.nodes[-1].output.append("second")


def unused_end(network):
    network.nodes.append(helper.make_node("Conv", ["data", "w0"], ["side"], pads=[1] * 4))


@pytest.mark.parametrize("change", [tanh, scaled_inside, unused_end])
def test_unknown_operations_are_errors(tmp_path, change):
    network = residual_network()
    change(network)
    network.save(tmp_path / "x.onnx")
    with pytest.raises(WeightsError, match="not a recognition network known here"):
        read_onnx(tmp_path / "x.onnx")


def test_a_grey_input_is_an_error(tmp_path):
    network = residual_network()
    network.save(tmp_path / "x.onnx", colours=1)
    with pytest.raises(WeightsError, match="square colour image"):
        read_onnx(tmp_path / "x.onnx")


def test_damage_is_an_error_or_harmless(tmp_path, damage):
    path = tmp_path / "x.onnx"
    original = (SOURCES / "iresnet_slim-legacy.onnx").read_bytes()
    for name, data in damage(original, flips=40):
        path.write_bytes(data)
        try:
            build_foreign(read_onnx(path), stated())
        except WeightsError as error:
            assert "\n" not in str(error), name  # noqa: PT017 - both outcomes are right
        else:
            assert len(data) == len(original), name


def test_external_arrays_belong_to_the_file(tmp_path):
    path = shutil.copy(SOURCES / "iresnet_slim-dynamo.onnx", tmp_path)
    with pytest.raises(WeightsError, match=r"onnx\.data"):
        files_of(Path(path), "onnx")
    with pytest.raises(WeightsError, match="iresnet_slim-dynamo"):
        read_onnx(Path(path))
    shutil.copy(SOURCES / "iresnet_slim-dynamo.onnx.data", tmp_path)
    assert len(files_of(Path(path), "onnx")) == 2


def test_missing_file_and_missing_package(tmp_path, monkeypatch):
    with pytest.raises(WeightsError, match="cannot read"):
        read_onnx(tmp_path / "none.onnx")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingExtraError, match=r"extra 'onnx', .*: pip install "):
        read_onnx(SOURCES / "iresnet_slim-legacy.onnx")
