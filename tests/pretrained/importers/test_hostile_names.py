"""Weights and artefacts that name files outside of their folder: refused before a byte is read."""

import json

import numpy as np
import pytest

from iom._files import sha256_of
from iom.errors import WeightsError
from iom.models.artifact import Manifest, manifest_path, read_manifest, write_manifest
from iom.pretrained.manifest import read_manifest as read_weights_manifest
from iom.pretrained.manifest import statement_path
from iom.pretrained.weights import files_of, load_backbone_model

onnx = pytest.importorskip("onnx")
helper = onnx.helper
OUTSIDE = ["../secret.bin", "{root}/secret.bin", "link.bin", "in/../../secret.bin"]


@pytest.fixture
def folder(tmp_path):
    """A folder of weights, a file beside it that is not to be read, and a link to that."""
    (tmp_path / "secret.bin").write_bytes(np.arange(4, dtype="<f4").tobytes())
    inner = tmp_path / "weights"
    inner.mkdir()
    (inner / "link.bin").symlink_to(tmp_path / "secret.bin")
    return inner


@pytest.fixture
def opened(monkeypatch):
    """Names of the files whose SHA-256 was asked for."""
    names = []

    def noted(path):
        names.append(path.name)
        return sha256_of(path)

    monkeypatch.setattr("iom.pretrained.weights.sha256_of", noted)
    monkeypatch.setattr("iom.models.artifact.sha256_of", noted)
    return names


def external(name, location):
    tensor = onnx.TensorProto(name=name, data_type=onnx.TensorProto.FLOAT, dims=[4])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


def write_onnx(path, location, place="initializer"):
    ends = [helper.make_tensor_value_info(name, 1, [4]) for name in ("x", "y")]
    add, constants = helper.make_node("Add", ["x", "w"], ["y"]), [external("w", location)]
    if place == "attribute":
        node = helper.make_node("Constant", [], ["w"], value=external("w", location))
        graph = helper.make_graph([node, add], "g", ends[:1], ends[1:])
    elif place == "graph within":
        below = helper.make_graph([add], "below", [], ends[1:], constants)
        node = helper.make_node("If", ["x"], ["y"], then_branch=below, else_branch=below)
        graph = helper.make_graph([node], "g", ends[:1], ends[1:])
    else:
        graph = helper.make_graph([add], "g", ends[:1], ends[1:], constants)
    opset = [helper.make_opsetid("", 17)]
    path.write_bytes(helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString())
    return path


@pytest.mark.parametrize("place", ["initializer", "attribute", "graph within"])
@pytest.mark.parametrize("location", OUTSIDE)
def test_onnx_cannot_name_arrays_outside_of_its_folder(folder, opened, location, place):
    location = location.replace("{root}", str(folder.parent))
    path = write_onnx(folder / "x.onnx", location, place)
    statement = {"colour_order": "RGB", "range": "0..255", "size": 112}
    statement_path(path).write_text(json.dumps(statement))
    with pytest.raises(WeightsError, match=r"x\.onnx: expected a (relative )?path"):
        load_backbone_model(str(path))
    assert opened == []


def test_a_saved_model_is_its_folder(folder, tmp_path):
    (folder / "saved_model.pb").touch()
    with pytest.raises(WeightsError, match="symbolic link"):
        files_of(folder, "saved_model")


@pytest.mark.parametrize("name", OUTSIDE)
def test_an_artefact_cannot_name_files_outside_of_its_folder(folder, opened, name):
    name = name.replace("{root}", str(folder.parent))
    path = folder / "x.onnx"
    path.touch()
    write_manifest(
        path,
        Manifest(
            target="onnx",
            runtime="onnxruntime",
            precision="float32",
            files={name: "0" * 64},
            input_size=112,
            embedding_size=128,
            code_length=512,
            alphabet_size=8,
            keep=0,
            key_size=128,
            key_kind="permutation",
            embedder={"name": "x", "sha256": "y"},
            hasher="z",
        ),
    )
    with pytest.raises(WeightsError, match=rf"{manifest_path(path).name}: expected a .*path"):
        read_manifest(path)
    assert opened == []


@pytest.mark.parametrize("change", [{"folder": "../x"}, {"files": {"/etc/hostname": None}}])
def test_a_manifest_of_weights_names_files_of_its_folders(folder, change):
    entry = {
        "format": "onnx",
        "folder": "x",
        "licence": "none",
        "bytes": 1,
        "training_data": "none",
        "figures": [{"by": "nobody"}],
        "source": "none",
        "files": {"a.onnx": None},
        "colour_order": "RGB",
        "range": "0..255",
        "size": 112,
        **change,
    }
    path = folder / "manifest.json"
    path.write_text(json.dumps({"version": 1, "entries": {"iresnet50.mine": entry}}))
    with pytest.raises(WeightsError, match=r"iresnet50\.mine: expected a relative path"):
        read_weights_manifest(path)


@pytest.mark.parametrize("location", [*OUTSIDE[:3], "inside.bin"])
def test_onnxruntime_reads_arrays_of_its_folder_alone(folder, location):
    onnxruntime = pytest.importorskip("onnxruntime")
    (folder / "inside.bin").write_bytes(np.ones(4, "<f4").tobytes())
    path = write_onnx(folder / "x.onnx", location.replace("{root}", str(folder.parent)))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if location == "inside.bin":
        session = onnxruntime.InferenceSession(path, options)
        assert session.run(None, {"x": np.ones(4, "f4")})[0].tolist() == [2.0] * 4
        return
    with pytest.raises(Exception, match="External data path"):
        onnxruntime.InferenceSession(path, options)
