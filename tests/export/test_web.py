"""Artefacts for the web: every hash from the written bytes, without TensorFlow where that is promised, and refusals."""

import json
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest

from iom.cli.main import main
from iom.config import HasherConfig
from iom.errors import WeightsError
from iom.export import formats
from iom.export.context import ExportSource
from iom.export.exporter import Exporter
from iom.export.folding import fold_batch_norms
from iom.export.trial import synthetic_faces
from iom.export.web import bundled_web, deploy_embedder, embedder_alone, read_web_head, run_web
from iom.keys import KEY_KINDS, TransformKey
from iom.models.artifact import manifest_path, open_artifact, read_manifest
from iom.models.embedder import Embedder
from iom.models.face_hasher import KerasFaceHasher, load
from iom.nn.backbones.registry import build_backbone
from iom.nn.hash_network import build_hasher
from iom.nn.hash_numpy import STEPS
from iom.pretrained import hasher_path

KEY = TransformKey(bytes(range(32)))
PRODUCT = {"projection": "product", "code_length": 32, "alphabet_size": 16, "refinement_steps": 0}
SETTINGS = {
    "hidden": ("permutation", {"keep": 96, "hidden_layers": 2, "hidden_size": 32}),
    "subset": ("subset", {"keep": 64}),
    "bottleneck": ("orthogonal", {"bottleneck": 96}),
    "part": ("part", {"keep": 64}),
    "two symbols": ("orthogonal", {"alphabet_size": 2, "refinement_steps": 10}),
    "product": ("orthogonal", PRODUCT),
    "window": ("orthogonal", PRODUCT | {"window": 2, "half_norm_bias": True}),
}


@pytest.fixture(scope="module")
def backbone():
    keras.utils.set_random_seed(3)
    model = build_backbone("iresnet_slim", embedding_size=128, stem=16, widths=(16, 32), depths=(1, 1))
    model.compile(jit_compile=False)
    return model


@pytest.fixture(scope="module")
def faces():
    return synthetic_faces(112)


@pytest.fixture(scope="module")
def bundled(tmp_path_factory):
    return bundled_web(tmp_path_factory.mktemp("web"))


def source_of(backbone, kind, **settings):
    embedder = Embedder(backbone.predict_on_batch, name="slim", fingerprint="ab" * 32, embedding_size=128, batch_size=8)
    config = HasherConfig(key_kind=kind, **{"code_length": 64, "alphabet_size": 4, "refinement_steps": 3, **settings})
    hasher = KerasFaceHasher(build_hasher(128, config), embedder_name="slim", embedder_fingerprint="ab" * 32)
    return ExportSource(fold_batch_norms(backbone), hasher, embedder)


def export(source, faces, folder):
    exporter = Exporter(source, calibration=faces.images[:1], faces=faces, key=KEY)
    return exporter.export(["web"], folder, name="a")["web"]


@pytest.mark.parametrize("name", SETTINGS)
def test_every_hash_is_written(backbone, faces, tmp_path, name):
    kind, settings = SETTINGS[name]
    source = source_of(backbone, kind, **settings)
    manifest = export(source, faces, tmp_path)
    assert manifest.check.equal_symbols > 0.99
    assert {path.name for path in tmp_path.iterdir()} == {"a.web", "a.web.json"}
    description = json.loads((tmp_path / "a.web" / "web.json").read_text())
    assert description["key"] == {
        "kind": kind,
        "derivation": KEY_KINDS[kind].derivation,
        "size": source.hasher.key_size,
        "keep": source.hasher.keep,
    }
    rows = source.embedder.embed(faces.images[:4])
    orders = np.tile(KEY_KINDS[kind].order(KEY, source.hasher.key_size, source.hasher.keep), (4, 1))
    codes = read_web_head(tmp_path / "a.web").hash(rows, orders)
    assert np.mean(codes == source.hasher.hash(rows, KEY)) > 0.99


def test_the_settings_of_the_tests_reach_every_step(backbone):
    from iom.nn.hash_network import head_program

    used = set()
    for name in ("hidden", "bottleneck", "product"):
        kind, settings = SETTINGS[name]
        steps, _ = head_program(source_of(backbone, kind, **settings).hasher.model)
        used |= {step["step"] for step in steps}
    assert used == set(STEPS)


def test_the_bundled_hasher_needs_no_tensorflow_and_no_runtime_here(tmp_path, root):
    script = (
        "import sys\nfrom pathlib import Path\nfrom iom.export.web import bundled_web\n"
        "bundled_web(Path(sys.argv[1]))\n"
        "print(sorted({'tensorflow', 'keras', 'onnxruntime', 'onnx'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=True, cwd=root
    )
    assert done.stdout.split() == ["[]"]


def test_the_bundled_hasher_says_the_same(bundled, faces, tmp_path):
    hasher = load("bundled")
    manifest = read_manifest(bundled)
    assert manifest.check.equal_symbols == 1.0
    assert (manifest.target, manifest.runtime, manifest.hashes) == ("web", "web", False)
    assert manifest.calibration == hasher.calibration
    assert manifest.embedder_fingerprint == hasher.embedder_fingerprint
    assert manifest.fingerprint != hasher.fingerprint
    codes = run_web(bundled, manifest, hasher.embedder.chips(faces.images), KEY)
    np.testing.assert_array_equal(codes, hasher.hash(hasher.embed(faces.images), KEY))
    again = bundled_web(tmp_path)
    assert manifest_path(again).read_bytes() == manifest_path(bundled).read_bytes()


def test_the_command_writes_it_beside_another_format(tmp_path, capsys):
    assert main(["deploy", "--to", "web", "--to", "embedder", "--output", str(tmp_path), "--name", "a"]) == 0
    assert "web, float32: 100.00% equal symbols" in capsys.readouterr().out
    assert read_manifest(tmp_path / "a.web").target == "web"
    assert read_manifest(tmp_path / "a.onnx").target == "embedder"


def test_it_is_not_run_here(bundled, capsys):
    with pytest.raises(WeightsError, match="runs in a browser"):
        open_artifact(bundled)
    assert main(["init", "--hasher", str(bundled)]) == 2
    assert "runs in a browser" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["embedder.onnx", "head.bin", "web.json", "pnet.onnx"])
def test_a_changed_file_is_told(bundled, tmp_path, name):
    copy = shutil.copytree(bundled, tmp_path / bundled.name)
    shutil.copy(manifest_path(bundled), tmp_path)
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(WeightsError, match=rf"{name}: the SHA-256 differs"):
        read_manifest(copy)


def test_an_artefact_that_loses_too_much_leaves_nothing(faces, tmp_path, monkeypatch):
    monkeypatch.setitem(formats.FORMATS, "web", formats.FORMATS["web"]._replace(min_equal_symbols=1.01))
    with pytest.raises(WeightsError, match="nothing was written"):
        deploy_embedder(embedder_alone(hasher_path()), tmp_path, name="a", faces=faces, key=KEY)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("change", ["steps", "order of bytes", "offset", "scale", "layout of colours"])
def test_the_trial_reads_what_was_written(bundled, faces, tmp_path, change):
    """Codes come from the bytes: each kind of damage shows in them."""
    hasher = load("bundled")
    path = shutil.copytree(bundled, tmp_path / bundled.name)
    description = json.loads((path / "web.json").read_text())
    if change == "steps":
        del description["head"]["steps"][3]["arrays"], description["head"]["steps"][3]
        description["head"]["steps"][-1]["reads"] = [4]
    elif change == "order of bytes":
        data = np.frombuffer((path / "head.bin").read_bytes(), "<f2").byteswap()
        (path / "head.bin").write_bytes(np.nan_to_num(data, posinf=0, neginf=0).clip(-9, 9).tobytes())
    elif change == "offset":
        description["head"]["arrays"]["4/kernel"]["offset"] -= 2
    elif change == "scale":
        description["embedder"]["scale"] = 0.5
    else:
        description["embedder"]["colour_order"] = "BGR"
    (path / "web.json").write_text(json.dumps(description))
    chips = hasher.embedder.chips(faces.images)
    codes = run_web(path, read_manifest(bundled), chips, KEY)
    assert np.mean(codes == hasher.hash(hasher.embed(faces.images), KEY)) < 0.99


def test_every_array_begins_aligned_and_none_is_left_out(bundled):
    description = json.loads((bundled / "web.json").read_text())
    arrays = description["head"]["arrays"]
    assert all(array["offset"] % 8 == 0 for array in arrays.values())
    end = max(
        array["offset"] + int(np.prod(array["shape"])) * np.dtype(array["dtype"]).itemsize for array in arrays.values()
    )
    assert end == (bundled / "head.bin").stat().st_size == description["bytes"]["head.bin"]
    named = {key for step in description["head"]["steps"] for key in step["arrays"].values()}
    assert named == set(arrays)
