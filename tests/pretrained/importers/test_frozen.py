"""Frozen graphs and SavedModels that TensorFlow wrote: tensors, switches, refusals, damage."""

import shutil

import numpy as np
import pytest
import tensorflow as tf

from iom.errors import WeightsError
from iom.pretrained.importers.tensorflow_graphs import read_frozen, read_saved_model
from iom.pretrained.manifest import Statement

SIDE = 20
v1 = tf.compat.v1


def stated(colours="RGB", values="-1..1", size=SIDE, **settings):
    return Statement(colour_order=colours, range=values, size=size, **settings)


@pytest.fixture(scope="module")
def weights():
    draw = np.random.default_rng(3)
    return {
        "kernel": draw.normal(0, 0.3, (3, 3, 3, 16)).astype("f4"),
        "matrix": draw.normal(0, 0.1, (16, 12)).astype("f4"),
        "mean": draw.normal(0, 0.1, 16).astype("f4"),
    }


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(4).integers(0, 256, (3, SIDE, SIDE, 3)).astype("f4")


def network(image, weights):
    x = tf.nn.relu(tf.nn.conv2d(image, weights["kernel"], 2, "SAME"))
    return tf.matmul(tf.reduce_mean(x, [1, 2]), weights["matrix"])


def expected(scaled, weights):
    return network(tf.constant(scaled, tf.float32), weights).numpy()


def write(path, build):
    graph = tf.Graph()
    with graph.as_default():
        build()
    path.write_bytes(graph.as_graph_def().SerializeToString())
    return path


def test_a_plain_graph(tmp_path, weights, images):
    def build():
        image = v1.placeholder(tf.float32, [None, SIDE, SIDE, 3], name="image_batch")
        tf.identity(network(image, weights), name="anything")

    embedder = read_frozen(write(tmp_path / "x.pb", build), stated())
    assert embedder.embedding_size == 12
    result = embedder(images)
    np.testing.assert_allclose(result, expected(images / 127.5 - 1, weights), atol=1e-5)
    np.testing.assert_allclose(embedder(images.astype(np.uint8)), result, atol=1e-5)


def test_colour_order_and_range_are_taken_over(tmp_path, weights, images):
    def build():
        image = v1.placeholder(tf.float32, [None, SIDE, SIDE, 3], name="input")
        tf.identity(network(image, weights), name="embeddings")

    path = write(tmp_path / "x.pb", build)
    result = read_frozen(path, stated("BGR", "0..1"))(images)
    np.testing.assert_allclose(result, expected(images[..., ::-1] / 255, weights), atol=1e-5)
    result = read_frozen(path, stated(values="0..255"))(images)
    np.testing.assert_allclose(result, expected(images, weights), rtol=1e-4)


@pytest.mark.parametrize("old_control_flow", [True, False])
def test_facenet(tmp_path, weights, images, old_control_flow):
    """The image comes out of a file queue, and a switch turns training off."""

    def build():
        queue = v1.FIFOQueue(4, tf.float32, shapes=[[SIDE, SIDE, 3]], name="batch_join")
        image = tf.identity(queue.dequeue_many(2), name="input")
        training = v1.placeholder(tf.bool, name="phase_train")
        x = v1.cond(training, lambda: image * 100, lambda: image * 1)
        tf.identity(network(x, weights), name="embeddings")
        tf.constant(1, name="label_batch")

    if old_control_flow:
        v1.disable_control_flow_v2()
    try:
        path = write(tmp_path / "x.pb", build)
    finally:
        v1.enable_control_flow_v2()
    ops = {node.op for node in v1.GraphDef.FromString(path.read_bytes()).node}
    assert ("Switch" in ops) == old_control_flow
    result = read_frozen(path, stated(values="-1..1 (/128)"))(images)
    np.testing.assert_allclose(result, expected((images - 127.5) / 128, weights), atol=1e-5)


def tf_insightface():
    image = v1.placeholder(tf.float32, [None, SIDE, SIDE, 3], name="img_inputs")
    keep = v1.placeholder(tf.float32, [], name="dropout_rate")
    return image, keep


def test_a_further_input_must_be_stated(tmp_path, weights, images):
    def build():
        image, keep = tf_insightface()
        tf.identity(network(image, weights) * keep, name="E_BN2")

    path = write(tmp_path / "x.pb", build)
    with pytest.raises(WeightsError, match=r"dropout_rate.*not clear.*feed"):
        read_frozen(path, stated())
    result = read_frozen(path, stated(tensors={"feed": {"dropout_rate:0": 1.0}}))(images)
    np.testing.assert_allclose(result, expected(images / 127.5 - 1, weights), atol=1e-5)
    with pytest.raises(WeightsError, match="no operation 'drop'"):
        read_frozen(path, stated(tensors={"feed": {"drop:0": 1.0}}))


def test_several_ends_must_be_stated(tmp_path, weights, images):
    def build():
        image = v1.placeholder(tf.float32, [None, SIDE, SIDE, 3])
        x = network(image, weights)
        tf.identity(x, name="first")
        tf.identity(x * 2, name="second")

    path = write(tmp_path / "x.pb", build)
    with pytest.raises(WeightsError, match="2 tensors could be the output"):
        read_frozen(path, stated())
    result = read_frozen(path, stated(tensors={"output": "second:0"}))(images)
    np.testing.assert_allclose(result, 2 * expected(images / 127.5 - 1, weights), atol=1e-5)
    with pytest.raises(WeightsError, match="no operation 'third'"):
        read_frozen(path, stated(tensors={"output": "third:0"}))


def test_defaults_are_kept(tmp_path, weights, images):
    def build():
        image = v1.placeholder(tf.float32, [None, SIDE, SIDE, 3])
        factor = v1.placeholder_with_default(1.0, [])
        training = v1.placeholder_with_default(True, [])
        x = network(image, weights) * factor
        tf.where(training, x * 100, x, name="embeddings")

    result = read_frozen(write(tmp_path / "x.pb", build), stated())(images)
    np.testing.assert_allclose(result, expected(images / 127.5 - 1, weights), atol=1e-5)


@pytest.mark.parametrize("kind", ["read", "write", "python", "print"])
def test_operations_that_reach_out_are_refused(tmp_path, weights, kind):
    mark = tmp_path / "mark"
    mark.write_bytes(b"secret")

    def build():
        image = v1.placeholder(tf.float32, [None, SIDE, SIDE, 3])
        x = network(image, weights)
        if kind == "read":
            extra = tf.cast(tf.strings.length(tf.io.read_file(str(mark))), tf.float32)
        elif kind == "write":
            with tf.control_dependencies([tf.io.write_file(str(tmp_path / "ran"), "x")]):
                extra = tf.constant(0.0)
        elif kind == "python":
            extra = v1.py_func(lambda: np.float32((tmp_path / "ran").touch() or 0), [], tf.float32)
        else:
            extra = v1.Print(tf.constant(0.0), [x])
        tf.add(x, extra, name="embeddings")

    with pytest.raises(WeightsError, match="refused: the graph holds"):
        read_frozen(write(tmp_path / "x.pb", build), stated())
    assert not (tmp_path / "ran").exists()


def test_wrong_sizes_are_errors(tmp_path, weights):
    def build():
        image = v1.placeholder(tf.float32, [None, SIDE, SIDE, 3])
        tf.identity(network(image, weights), name="embeddings")

    path = write(tmp_path / "x.pb", build)
    with pytest.raises(WeightsError, match="size: 112 is stated"):
        read_frozen(path, stated(size=112))
    with pytest.raises(WeightsError, match="embedding size: 512 is stated, the graph has 12"):
        read_frozen(path, stated(embedding_size=512))


def test_a_map_is_no_embedding(tmp_path, weights):
    def build():
        image = v1.placeholder(tf.float32, [None, SIDE, SIDE, 3])
        tf.nn.conv2d(image, weights["kernel"], 2, "SAME", name="output")

    with pytest.raises(WeightsError, match=r"expected embeddings \(B, D\)"):
        read_frozen(write(tmp_path / "x.pb", build), stated())


def test_damage_is_an_error_or_harmless(tmp_path, weights, damage):
    def build():
        image = v1.placeholder(tf.float32, [None, SIDE, SIDE, 3])
        tf.identity(network(image, weights), name="embeddings")

    path = write(tmp_path / "x.pb", build)
    for name, data in damage(path.read_bytes()):
        path.write_bytes(data)
        try:
            read_frozen(path, stated())
        except WeightsError as error:
            assert "\n" not in str(error), name  # noqa: PT017 - both outcomes are right


@pytest.fixture
def saved_model(tmp_path, weights):
    module = tf.Module()
    module.kernel = tf.Variable(weights["kernel"])

    @tf.function(input_signature=[tf.TensorSpec([None, SIDE, SIDE, 3], tf.float32)])
    def serve(image):
        return {"embedding": network(image, {**weights, "kernel": module.kernel})}

    tf.saved_model.save(module, str(tmp_path / "saved"), signatures=serve)
    return tmp_path / "saved"


def test_saved_model(saved_model, weights, images):
    embedder = read_saved_model(saved_model, stated("BGR"))
    scaled = images[..., ::-1] / 127.5 - 1
    np.testing.assert_allclose(embedder(images), expected(scaled, weights), atol=1e-5)


def test_saved_model_of_keras(tmp_path, images):
    import keras

    image = keras.Input((SIDE, SIDE, 3))
    model = keras.Model(image, keras.layers.Dense(4)(keras.layers.Flatten()(image)))
    model.export(tmp_path / "saved", verbose=False)
    embedder = read_saved_model(tmp_path / "saved", stated(values="0..255"))
    np.testing.assert_allclose(embedder(images), np.asarray(model(images)), rtol=1e-4, atol=1e-3)


def test_saved_model_that_reaches_out_is_refused(tmp_path, weights):
    module = tf.Module()

    @tf.function(input_signature=[tf.TensorSpec([None, SIDE, SIDE, 3], tf.float32)])
    def serve(image):
        tf.io.write_file(str(tmp_path / "ran"), "x")
        return network(image, weights)

    tf.saved_model.save(module, str(tmp_path / "saved"), signatures=serve)
    with pytest.raises(WeightsError, match="refused: the graph holds 'WriteFile'"):
        read_saved_model(tmp_path / "saved", stated())
    assert not (tmp_path / "ran").exists()


def test_damaged_saved_model(tmp_path, saved_model, damage):
    original = (saved_model / "saved_model.pb").read_bytes()
    for name, data in damage(original, cuts=3, flips=10):
        (saved_model / "saved_model.pb").write_bytes(data)
        try:
            read_saved_model(saved_model, stated())
        except WeightsError as error:
            assert "\n" not in str(error), name  # noqa: PT017 - both outcomes are right
    (saved_model / "saved_model.pb").write_bytes(original)
    shutil.rmtree(saved_model / "variables")
    with pytest.raises(WeightsError, match="damaged or not a SavedModel"):
        read_saved_model(saved_model, stated())


def test_missing_files(tmp_path):
    with pytest.raises(WeightsError, match="cannot read"):
        read_frozen(tmp_path / "none.pb", stated())
    with pytest.raises(WeightsError, match="cannot read"):
        read_saved_model(tmp_path / "none", stated())
    (tmp_path / "empty.pb").write_bytes(b"")
    with pytest.raises(WeightsError, match="no operations"):
        read_frozen(tmp_path / "empty.pb", stated())
