"""Names, files, statements and fingerprints."""

import hashlib
import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest

from iom import pretrained
from iom.errors import WeightsError
from iom.nn.backbones.registry import build_backbone
from iom.pretrained import manifest, weights
from iom.pretrained.manifest import RANGES, find_entry, locate, read_manifest
from iom.pretrained.weights import load_backbone_model

SOURCES = Path(__file__).parent / "sources"
SLIM = {"widths": (16, 16), "depths": (1, 1), "input_size": 16, "embedding_size": 8}


def entry_of(digest, **changes):
    return {
        "format": "onnx",
        "folder": "slim",
        "files": {"slim.onnx": digest},
        "colour_order": "RGB",
        "range": "-1..1",
        "size": 16,
        "embedding_size": 24,
        "bytes": 1,
        "licence": "none",
        "training_data": "none",
        "source": "the tests",
        "figures": [{"by": "nobody"}],
    } | changes


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project folder with a manifest of its own, and a slim ONNX model in place."""
    root = tmp_path / "project"
    (root / "pre_models" / "slim").mkdir(parents=True)
    monkeypatch.setattr(pretrained, "checkout", lambda: root)
    monkeypatch.setattr(manifest, "package_folder", lambda: root / "pre_models")
    monkeypatch.delenv("IOM_WEIGHTS", raising=False)
    shutil.copy(SOURCES / "iresnet_slim-legacy.onnx", root / "pre_models" / "slim" / "slim.onnx")
    digest = hashlib.sha256((SOURCES / "iresnet_slim-legacy.onnx").read_bytes()).hexdigest()
    write(root, {"iresnet_slim.legacy": entry_of(digest)})
    return root


def write(root, table, version=1):
    text = json.dumps({"version": version, "entries": table})
    (root / "pre_models" / "manifest.json").write_text(text)


def cosines(a, b):
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def source():
    return np.load(SOURCES / "iresnet_slim-legacy.npz")


@pytest.mark.parametrize("name", ["iresnet_slim.legacy", "iresnet_slim"])
def test_by_name(project, name):
    loaded = load_backbone_model(name)
    assert loaded.name == "iresnet_slim.legacy"
    assert (loaded.embedding_size, loaded.input_size) == (24, 16)
    assert loaded.check is None
    assert not loaded.trainable_model.jit_compile
    result = loaded.predict(source()["images"].astype("f4"))
    assert cosines(result, source()["embeddings"]).min() > 0.9999


def test_the_fingerprint_is_that_of_the_file(project):
    data = (SOURCES / "iresnet_slim-legacy.onnx").read_bytes()
    loaded = load_backbone_model("iresnet_slim")
    assert loaded.fingerprint == hashlib.sha256(data).hexdigest()


def test_an_ambiguous_name_is_refused(project):
    write(project, {"iresnet_slim.a": entry_of("0" * 64), "iresnet_slim.b": entry_of("0" * 64)})
    with pytest.raises(WeightsError, match=r"ambiguous: .*iresnet_slim\.a, iresnet_slim\.b"):
        load_backbone_model("iresnet_slim")


def test_an_unknown_name_lists_the_known(project):
    with pytest.raises(WeightsError, match=r"did you mean 'iresnet_slim\.legacy'"):
        load_backbone_model("iresnet_slim.legasy")
    with pytest.raises(WeightsError, match="does not exist"):
        load_backbone_model("folder/none.onnx")


def test_missing_weights_say_where_from_and_where_to(project, monkeypatch, tmp_path):
    monkeypatch.setenv("IOM_WEIGHTS", str(tmp_path / "elsewhere"))
    (project / "pre_models" / "slim" / "slim.onnx").unlink()
    with pytest.raises(WeightsError) as caught:
        load_backbone_model("iresnet_slim.legacy")
    message = str(caught.value)
    for part in ("iresnet_slim.legacy", "slim.onnx", "the tests", "none", "pre_models", "elsewhere"):
        assert part in message
    assert "shared" in message


def test_the_environment_names_a_folder(project, monkeypatch, tmp_path):
    place = tmp_path / "elsewhere" / "slim"
    place.mkdir(parents=True)
    shutil.move(project / "pre_models" / "slim" / "slim.onnx", place)
    monkeypatch.setenv("IOM_WEIGHTS", str(tmp_path / "elsewhere"))
    entry = read_manifest(project / "pre_models" / "manifest.json")["iresnet_slim.legacy"]
    assert locate(entry) == [place / "slim.onnx"]


def test_another_file_of_that_name_is_an_error(project):
    path = project / "pre_models" / "slim" / "slim.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    with pytest.raises(WeightsError, match="is not the file of the manifest: expected SHA-256"):
        load_backbone_model("iresnet_slim.legacy")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"colour_order": "GBR"}, "colour_order"),
        ({"range": "0..2"}, "range: expected '0..255'"),
        ({"size": "112"}, "size: expected an integer"),
        ({"licence": ""}, "licence"),
        ({"files": {}}, "files"),
        ({"files": {"x": "abc"}}, r"files\.x: expected a text like"),
        ({"colour": "RGB"}, "unknown key 'colour' - did you mean 'colour_order'"),
        ({"size": None}, "size: expected an integer"),
    ],
)
def test_a_wrong_entry_is_an_error(project, changes, message):
    write(project, {"iresnet_slim.x": entry_of("0" * 64, **changes)})
    with pytest.raises(WeightsError, match=message):
        load_backbone_model("iresnet_slim.x")


def test_a_wrong_manifest_is_an_error(project):
    path = project / "pre_models" / "manifest.json"
    write(project, {}, version=2)
    with pytest.raises(WeightsError, match="version 1"):
        read_manifest(path)
    write(project, {"noname": entry_of("0" * 64)})
    with pytest.raises(WeightsError, match=r"architecture\.tag"):
        read_manifest(path)
    path.write_text("{")
    with pytest.raises(WeightsError, match="not valid JSON"):
        read_manifest(path)
    path.unlink()
    with pytest.raises(WeightsError, match=r"cannot read .*manifest\.json"):
        read_manifest(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 112}, "size: 112 is stated, the file holds 16"),
        ({"embedding_size": 512}, "embedding size: 512 is stated"),
        ({"architecture": "iresnet50"}, "architecture: iresnet50 is stated"),
        ({"format": "tflite"}, "received 'tflite'"),
    ],
)
def test_a_wrong_statement_of_the_manifest_is_an_error(project, changes, message):
    table = json.loads((project / "pre_models" / "manifest.json").read_text())["entries"]
    write(project, {"iresnet_slim.legacy": table["iresnet_slim.legacy"] | changes})
    with pytest.raises(WeightsError, match=message):
        _ = load_backbone_model("iresnet_slim.legacy").trainable_model


def test_a_file_needs_a_statement(tmp_path):
    path = tmp_path / "x.onnx"
    shutil.copy(SOURCES / "iresnet_slim-legacy.onnx", path)
    with pytest.raises(WeightsError) as caught:
        load_backbone_model(str(path))
    for part in ("x.onnx.input.json", "colour_order", "BGR", '"size": 112', *RANGES):
        assert part in str(caught.value)
    statement = tmp_path / "x.onnx.input.json"
    statement.write_text(json.dumps({"colour_order": "RGB", "range": "-1..1", "size": 16}))
    loaded = load_backbone_model(str(path), check=False)
    result = loaded.predict(source()["images"].astype("f4"))
    assert cosines(result, source()["embeddings"]).min() > 0.9999
    statement.write_text("{")
    with pytest.raises(WeightsError, match="damaged or not a statement: not valid JSON"):
        load_backbone_model(str(path))


def test_a_stated_sha_is_compared(tmp_path):
    path = tmp_path / "x.onnx"
    shutil.copy(SOURCES / "iresnet_slim-legacy.onnx", path)
    values = {"colour_order": "RGB", "range": "-1..1", "size": 16, "sha256": "0" * 64}
    (tmp_path / "x.onnx.input.json").write_text(json.dumps(values))
    with pytest.raises(WeightsError, match="another file than the one stated"):
        load_backbone_model(str(path))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("iresnet_slim", SLIM), ("mobilefacenet", {"input_size": 32, "embedding_size": 8, "blocks": (1, 1, 1, 1)})],
)
def test_own_models_need_no_statement(tmp_path, name, arguments):
    model = build_backbone(name, **arguments)
    model.save(tmp_path / "best.keras")
    loaded = load_backbone_model(str(tmp_path / "best.keras"))
    side = arguments["input_size"]
    images = np.random.default_rng(0).uniform(0, 255, (2, side, side, 3)).astype("f4")
    np.testing.assert_allclose(loaded.predict(images), model(images), atol=1e-4)
    assert (loaded.embedding_size, loaded.input_size, loaded.check) == (8, side, None)


def test_every_format_by_path(tmp_path, mxnet_files, mmdnn, images, expected):
    """From the file to embeddings of raw pixels, and a fingerprint over all parts."""
    mmdnn.write(tmp_path / "slim.npy", mmdnn.layers)
    image = keras.Input((16, 16, 3))
    flat = keras.Model(image, keras.layers.Dense(4)(keras.layers.Flatten()(image)))
    flat.export(tmp_path / "saved", verbose=False)
    values = {"colour_order": "RGB", "range": "0..255", "size": 16}
    fingerprints = set()
    for path in (mxnet_files[0], tmp_path / "slim.npy", tmp_path / "saved"):
        (tmp_path / f"{path.name}.input.json").write_text(json.dumps(values))
        loaded = load_backbone_model(str(path), check=False)
        truth = flat(images.astype("f4")) if path.name == "saved" else expected
        result = np.asarray(loaded.predict(images.astype("f4")))
        np.testing.assert_allclose(result, truth, rtol=1e-3, atol=1e-3)
        fingerprints.add(loaded.fingerprint)
        if path.name != "saved":
            assert loaded.trainable_model is loaded.model
    with pytest.raises(WeightsError, match="cannot be trained further"):
        _ = loaded.trainable_model
    assert len(fingerprints) == 3
    before = load_backbone_model(str(mxnet_files[0]), check=False).fingerprint
    mxnet_files[1].write_text(mxnet_files[1].read_text() + " ")
    assert load_backbone_model(str(mxnet_files[0]), check=False).fingerprint != before
    mxnet_files[1].unlink()
    with pytest.raises(WeightsError, match=r"symbol\.json is missing"):
        load_backbone_model(str(mxnet_files[0]))


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_weights_that_embed_nothing_are_an_error(tmp_path, value):
    model = build_backbone("iresnet_slim", **SLIM)
    kernel = model.get_layer("fc").kernel
    kernel.assign(np.full(kernel.shape, value))
    model.save(tmp_path / "x.keras")
    with pytest.raises(WeightsError, match="damaged weights"):
        load_backbone_model(str(tmp_path / "x.keras"))


def test_the_content_tells_the_format(tmp_path):
    model = build_backbone("iresnet_slim", **SLIM)
    model.save(tmp_path / "best.keras")
    (tmp_path / "best.keras").rename(tmp_path / "best.onnx")
    with pytest.raises(WeightsError, match=r"must be named \.keras"):
        load_backbone_model(str(tmp_path / "best.onnx"))
    (tmp_path / "x.txt").write_text("hello")
    (tmp_path / "empty").mkdir()
    for name in ("x.txt", "empty"):
        with pytest.raises(WeightsError, match="expected"):
            load_backbone_model(str(tmp_path / name))


def test_the_check_on_faces_is_kept(tmp_path, monkeypatch):
    path = tmp_path / "x.onnx"
    shutil.copy(SOURCES / "iresnet_slim-legacy.onnx", path)
    values = {"colour_order": "RGB", "range": "-1..1", "size": 16}
    (tmp_path / "x.onnx.input.json").write_text(json.dumps(values))
    calls = []

    def check(predict, spec, *, source):
        calls.append(spec)
        return weights.FaceCheck({"RGB -1..1": 4.0}, {"BGR -1..1": 5.0})

    monkeypatch.setattr(weights, "check_on_faces", check)
    first = load_backbone_model(str(path))
    assert load_backbone_model(str(path)).check == first.check
    assert first.check.is_confirmed
    assert len(calls) == 1
    (tmp_path / "x.onnx.input.json").write_text(json.dumps(values | {"colour_order": "BGR"}))
    load_backbone_model(str(path))
    assert len(calls) == 2
    (tmp_path / "x.onnx.checked.json").write_text("[]")
    load_backbone_model(str(path))
    assert len(calls) == 3


def test_the_manifest_of_this_project():
    table = read_manifest()
    assert find_entry("mobilefacenet_y1", table) is table["mobilefacenet_y1.ms1m"]
    for entry in table.values():
        assert entry.embedding_size > 0
        assert entry.licence


def test_the_real_weights(foreign_weights):
    foreign_weights("mobilefacenet_y1/model-0000.params")
    loaded = load_backbone_model("mobilefacenet_y1.ms1m")
    assert (loaded.embedding_size, loaded.input_size) == (128, 112)
