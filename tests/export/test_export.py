"""Exports of every kind of key, run by their own runtimes, and what is refused."""

import builtins
import dataclasses
import json
import os
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest

from iom.config import HasherConfig
from iom.errors import ConfigError, DataError, KeyMaterialError, MissingExtraError, PrecisionWarning, WeightsError
from iom.export import exporter as exporting
from iom.export.context import ExportSource
from iom.export.exporter import Exporter, calibration_faces
from iom.export.folding import fold_batch_norms
from iom.export.formats import FORMATS
from iom.export.trial import Trial, synthetic_faces
from iom.keys import KEY_KINDS, TransformKey
from iom.models import artifact
from iom.models.artifact import Calibration, Check, manifest_path, read_manifest, write_manifest
from iom.models.embedder import Embedder, load_embedder
from iom.models.face_hasher import ArtifactFaceHasher, FaceHasher, KerasFaceHasher, load
from iom.nn.backbones.registry import build_backbone
from iom.nn.hash_network import build_hasher
from iom.pretrained.manifest import Statement
from iom.pretrained.weights import LoadedBackbone

KEY = TransformKey(bytes(range(32)))
SETTINGS = {
    "permutation": {"keep": 96, "hidden_layers": 1, "hidden_size": 32},
    "subset": {"keep": 64},
    "orthogonal": {"bottleneck": 96},
    "part": {"keep": 64},
}


@pytest.fixture(scope="module")
def loaded():
    """A slim IResNet as training starts it, with batch norms that do something."""
    keras.utils.set_random_seed(3)
    model = build_backbone("iresnet_slim", embedding_size=128, stem=16, widths=(16, 32), depths=(1, 1))
    stream = np.random.default_rng(3)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.moving_mean.assign(stream.normal(0, 0.1, layer.moving_mean.shape))
            layer.moving_variance.assign(stream.uniform(0.5, 2, layer.moving_variance.shape))
    model.compile(jit_compile=False)
    return LoadedBackbone("slim", model, 128, "ab" * 32, Statement(colour_order="RGB", range="0..255", size=112))


def source_of(loaded, kind, **settings):
    embedder = Embedder(
        loaded.predict, name="slim", fingerprint=loaded.fingerprint, embedding_size=loaded.embedding_size, batch_size=8
    )
    settings = {"code_length": 64, "alphabet_size": 4, "refinement_steps": 3, **settings}
    config = HasherConfig(key_kind=kind, **settings)
    network = build_hasher(loaded.embedding_size, config)
    hasher = KerasFaceHasher(network, embedder_name="slim", embedder_fingerprint=loaded.fingerprint)
    return ExportSource(fold_batch_norms(loaded.model), hasher, embedder)


@pytest.fixture(scope="module")
def faces():
    return synthetic_faces(112)


@pytest.fixture(scope="module")
def exported(loaded, faces, tmp_path_factory):
    """Folder and source of one hasher in the formats that start quickly."""
    folder = tmp_path_factory.mktemp("exported")
    source = source_of(loaded, "permutation")
    exporter = Exporter(source, calibration=faces.images[:4], faces=faces, key=KEY)
    exporter.export(["onnx", "openvino"], folder, name="a")
    return folder, source


PRODUCT = {"projection": "product", "code_length": 32, "alphabet_size": 16, "refinement_steps": 0}


@pytest.mark.parametrize("kind", [*KEY_KINDS, "two symbols", "product", "product without a bias", "product, window"])
def test_every_kind_of_key_works_in_an_artefact(loaded, faces, tmp_path, kind):
    if kind == "two symbols":
        source = source_of(loaded, "permutation", alphabet_size=2, refinement_steps=10)
    elif kind.startswith("product"):
        window = 2 if kind.endswith("window") else 1
        source = source_of(loaded, "orthogonal", **PRODUCT, half_norm_bias="without" not in kind, window=window)
        layer = source.hasher.model.get_layer("projection")
        layer.set_weights([np.random.default_rng(1).normal(0, 0.06, layer.codebook.shape)])
    else:
        source = source_of(loaded, kind, **SETTINGS[kind])
    exporter = Exporter(source, calibration=faces.images[:4], faces=faces, key=KEY)
    manifest = exporter.export(["onnx"], tmp_path, name="a")["onnx"]
    assert manifest.check.equal_symbols > 0.99
    hasher = ArtifactFaceHasher.load(tmp_path / "a.onnx")
    keys = [TransformKey(bytes([n]) * 32) for n in range(5)]  # a key for each face
    embeddings = source.embedder.embed(faces.images[:5])
    expected = source.hasher.hash(embeddings, keys)
    assert np.mean(hasher.hash_images(faces.images[:5], keys) == expected) > 0.99
    assert np.mean(hasher.hash(embeddings, keys) == expected) > 0.99
    np.testing.assert_allclose(hasher.embed(faces.images[:5]), embeddings, atol=1e-5)
    assert hasher.parts == source.hasher.parts


@pytest.mark.parametrize("settings", [{}, PRODUCT, PRODUCT | {"window": 2}], ids=["simplex", "product", "window"])
def test_other_formats_say_the_same(loaded, faces, tmp_path, settings):
    source = source_of(loaded, "orthogonal", **settings)
    exporter = Exporter(source, calibration=faces.images[:4], faces=faces, key=KEY)
    found = exporter.export(["keras", "litert", "litert_dynamic"], tmp_path, name="a")
    shares = {name: manifest.check.equal_symbols for name, manifest in found.items()}
    assert min(shares["keras"], shares["litert"]) > 0.99
    assert shares["litert_dynamic"] > 0.8
    assert len({manifest.fingerprint for manifest in found.values()}) == 3
    for name in found:
        hasher = load(tmp_path / f"a{FORMATS[name].suffix}")
        assert isinstance(hasher, ArtifactFaceHasher)
        alone = ArtifactFaceHasher.load(tmp_path / f"a{FORMATS[name].suffix}", batch_size=1)
        images = faces.images[:3]
        equal = hasher.hash_images(images, KEY) == alone.hash_images(images, KEY)
        assert np.mean(equal) > 0.99


def test_no_secret_is_in_an_artefact(exported):
    folder, source = exported
    order = KEY_KINDS["permutation"].order(KEY, source.hasher.key_size, 0)
    for path in folder.iterdir():
        content = path.read_bytes()
        assert KEY.secret not in content
        assert order.tobytes() not in content
        assert order.astype(np.int64).tobytes() not in content


def test_files_are_hashed_as_pixels_are(exported, faces, tmp_path):
    from PIL import Image

    hasher = ArtifactFaceHasher.load(exported[0] / "a.onnx", batch_size=4)
    paths = [tmp_path / f"{n}.png" for n in range(11)]
    for path, image in zip(paths, faces.images, strict=False):
        Image.fromarray(image).save(path)
    expected = hasher.hash_images(faces.images[:11], KEY)
    np.testing.assert_array_equal(hasher.hash_files(paths, KEY), expected)
    np.testing.assert_array_equal(hasher.embed_files(paths), hasher.embed(faces.images[:11]))
    paths[9].write_bytes(b"no image")
    with pytest.raises(DataError, match=r"9\.png"):
        hasher.hash_files(paths, KEY)


def test_an_artefact_is_embedder_and_hasher(exported):
    path = exported[0] / "a.onnx"
    hasher = load(path)
    assert isinstance(hasher, FaceHasher)
    cached = load_embedder(str(path))
    hasher.check_embedder(cached)
    with pytest.raises(ConfigError, match="embeds for itself"):
        load(path, weights="dlib_resnet.bundled")
    with pytest.raises(WeightsError, match="name the artefact as the embedder"):
        hasher.check_embedder(exported[1].embedder)


def test_wrong_input_is_refused(exported, faces):
    hasher = ArtifactFaceHasher.load(exported[0] / "a.onnx")
    with pytest.raises(DataError, match="uint8"):
        hasher.hash_images(faces.images.astype(np.float32) / 255, KEY)
    with pytest.raises(DataError, match=r"expected embeddings \(N, 128\)"):
        hasher.hash(np.zeros((2, 64), np.float32), KEY)
    with pytest.raises(DataError, match="finite"):
        hasher.hash(np.full((2, 128), np.nan, np.float32), KEY)
    with pytest.raises(KeyMaterialError, match="one for each of 2"):
        hasher.hash_images(faces.images[:2], [KEY])


def test_an_export_that_loses_too_much_leaves_nothing(loaded, faces, tmp_path, monkeypatch):
    strict = FORMATS["onnx"]._replace(min_equal_symbols=1.01)
    monkeypatch.setitem(exporting.FORMATS, "onnx", strict)
    exporter = Exporter(source_of(loaded, "permutation"), calibration=faces.images[:1], faces=faces, key=KEY)
    with pytest.raises(WeightsError, match="nothing was written"):
        exporter.export(["onnx"], tmp_path, name="a")
    assert not list(tmp_path.iterdir())


def test_a_graph_with_a_missing_input_is_refused(exported, tmp_path):
    import onnx
    from onnx import helper

    value = helper.make_tensor_value_info
    nodes = [helper.make_node("Identity", ["image"], ["codes"])]
    graph = helper.make_graph(nodes, "g", [value("image", 1, [1])], [value("codes", 1, [1])])
    path = tmp_path / "a.onnx"
    opset = [helper.make_opsetid("", 17)]
    onnx.save_model(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    from iom.models.artifact import open_onnx

    with pytest.raises(WeightsError, match="order is missing"):
        open_onnx(path, precision="float32")


def test_a_missing_runtime_names_its_extra(exported, monkeypatch):
    real = builtins.__import__

    def without(name, *rest, **named):
        if name.split(".")[0] == "openvino":
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"extra 'openvino'"):
        ArtifactFaceHasher.load(exported[0] / "a.xml")


@pytest.fixture
def without_bfloat16(monkeypatch):
    """A CPU as OpenVINO sees it."""
    import openvino

    monkeypatch.setattr(openvino.Core, "get_property", lambda *_: ["FP32", "INT8"])


def test_fast_is_written_for_a_cpu_without_bfloat16(loaded, faces, tmp_path, without_bfloat16):
    exporter = Exporter(source_of(loaded, "permutation"), calibration=faces.images[:4], faces=faces, key=KEY)
    manifest = exporter.export(["fast"], tmp_path, name="a")["fast"]
    assert manifest.target == "fast"
    assert manifest.precision in ("int8", "float32")
    assert manifest.check.passed
    assert ArtifactFaceHasher.load(tmp_path / "a.fast.xml").fingerprint == manifest.fingerprint


def test_fast_is_float32_where_faster_arithmetic_loses_too_much(loaded, faces, tmp_path, monkeypatch):
    for module in (exporting, artifact):
        monkeypatch.setattr(module, "has_bfloat16", lambda: True)
    exporter = Exporter(source_of(loaded, "permutation"), calibration=faces.images[:1], faces=faces, key=KEY)
    monkeypatch.setattr(Trial, "check", lambda self, codes, wanted: check_of(wanted.precision))
    assert exporter.export(["fast"], tmp_path, name="a")["fast"].precision == "float32"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        f"a.fast{suffix}" for suffix in (".bin", ".xml", ".xml.head.npz", ".xml.json")
    )


def check_of(precision):
    equal = 1.0 if precision == "float32" else 0.5
    return Check("faces", 1, equal, 0.9, pairs=0, source_eer=None, eer=None, largest_eer_loss=0.0)


def test_bfloat16_becomes_float32_with_a_fingerprint_of_its_own(exported, faces, tmp_path, without_bfloat16):
    for path in exported[0].iterdir():
        shutil.copy(path, tmp_path)
    path = tmp_path / "a.xml"
    plain = read_manifest(path)
    made = dataclasses.replace(plain, precision="bfloat16")
    write_manifest(path, made)
    told = r"a\.xml: made for bfloat16, which this CPU does not have: .* enrol anew"
    with pytest.warns(PrecisionWarning, match=told):
        hasher = ArtifactFaceHasher.load(path)
    assert hasher.fingerprint == hasher.embedder.fingerprint == plain.fingerprint != made.fingerprint
    expected = ArtifactFaceHasher.load(exported[0] / "a.xml").hash_images(faces.images[:3], KEY)
    np.testing.assert_array_equal(hasher.hash_images(faces.images[:3], KEY), expected)
    hasher.calibration = Calibration(threshold=5, fmr=0.1, fnmr=0.1, subjects=2, keys=1)
    hasher.save_calibration(path)
    assert hasher.fingerprint == plain.fingerprint
    kept = read_manifest(path)
    assert kept.fingerprint == made.fingerprint
    assert kept.calibration.threshold == 5


def test_a_manifest_of_another_runtime_is_refused(exported, tmp_path):
    for path in exported[0].iterdir():
        shutil.copy(path, tmp_path)
    place = manifest_path(tmp_path / "a.onnx")
    values = {**json.loads(place.read_text()), "runtime": "litert"}
    place.write_text(json.dumps(values))
    with pytest.raises(WeightsError, match=r"end in \.tflite"):
        ArtifactFaceHasher.load(tmp_path / "a.onnx")


@pytest.mark.parametrize("name", ["a.onnx", "a.xml"])
def test_it_starts_without_tensorflow(exported, root, name):
    code = (
        "import sys, numpy as np, iom\n"
        f"h = iom.load({str(exported[0] / name)!r})\n"
        "h.hash_images(np.zeros((1, 112, 112, 3), np.uint8) + 99, iom.TransformKey(bytes(32)))\n"
        "heavy = {'tensorflow', 'keras', 'scipy', 'numba', 'sklearn'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


def test_calibration_needs_faces(tmp_path):
    assert len(calibration_faces(None, 3, size=112)) == 3
    with pytest.raises(DataError, match="found no images"):
        calibration_faces(tmp_path, 3, size=112)
