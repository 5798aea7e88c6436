"""Hashers made without training, from any embedder."""

import json
import os
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from iom.config import Stage2Config, load_config
from iom.errors import ConfigError, DataError, WeightsError
from iom.keys import TransformKey
from iom.models.artifact import read_manifest
from iom.models.face_hasher import load
from iom.pretrained.manifest import Statement
from iom.synthetic import load_face_model, write_folder
from iom.training import untrained
from iom.training.untrained import make_hasher, parse_statement
from tests.commands import command

STATED = "RGB -1..1 112"
SIZE = 14 * 14
SETTINGS = [
    "hasher.code_length=32",
    "hasher.alphabet_size=4",
    "hasher.projection=simplex",
    "hasher.learned_layer=false",
    "hasher.whitening=0.0",
    "calibration.fmr=0.01",
    "calibration.keys=2",
    "calibration.bootstrap=0",
]
CONFIG = load_config(Stage2Config, None, overrides=SETTINGS)


@pytest.fixture
def embedder(tmp_path):
    """An ONNX file that wants RGB in -1..1: it saturates elsewhere, and hardly looks at blue; one image a call."""
    weights = np.array([1.0, 0.6, 0.02], np.float32).reshape(1, 3, 1, 1) * 1.5
    constants = [
        numpy_helper.from_array(np.broadcast_to(weights / 64, (1, 3, 8, 8)).copy(), "kernel"),
        numpy_helper.from_array(np.array([-0.3], np.float32), "bias"),
    ]
    nodes = [
        helper.make_node("Conv", ["image", "kernel", "bias"], ["map"], kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("Tanh", ["map"], ["bent"]),
        helper.make_node("Flatten", ["bent"], ["embedding"]),
    ]
    ends = [
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 112, 112])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [1, SIZE])],
    ]
    graph = helper.make_graph(nodes, "x", *ends, constants)
    path = tmp_path / "embedder.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.fixture
def people(tmp_path):
    write_folder(tmp_path / "people", 8, 3, seed=5)
    return tmp_path / "people"


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(untrained, "SUBJECTS", 8)


def test_an_artefact_is_made_of_an_onnx_file(embedder, people, tmp_path):
    lines = []
    statement = parse_statement(STATED)
    place, made = make_hasher(
        str(embedder), tmp_path / "out", CONFIG, faces=people, statement=statement, progress=False, report=lines.append
    )
    assert place == tmp_path / "out" / "embedder.onnx"
    assert place.read_bytes() == embedder.read_bytes()
    assert "8 subjects, 24 images" in lines[0]
    hasher = load(place)
    assert hasher.calibration == made.calibration
    assert hasher.calibration.subjects == 8
    assert (hasher.code_length, hasher.alphabet_size, hasher.embedding_size) == (32, 4, SIZE)
    faces, labels = load_face_model().sample(6, 2, seed=9)
    key = TransformKey(bytes(32))
    codes = hasher.hash_images(faces, key)
    np.testing.assert_array_equal(codes, hasher.hash(hasher.embed(faces), key))
    distances = (codes[:, None] != codes[None]).sum(-1)
    same = (labels[:, None] == labels) & ~np.eye(12, dtype=bool)
    assert distances[same].mean() < distances[labels[:, None] != labels].mean() - 3


def test_the_stated_input_is_that_of_the_artefact(embedder, people, tmp_path, monkeypatch):
    """BGR in another range gives the same codes where the pixels are turned round for it."""
    monkeypatch.setattr(untrained, "check_on_faces", lambda *_, **__: None)
    faces, _ = load_face_model().sample(2, 1, seed=9)
    rows = {}
    for order in ("RGB", "BGR"):
        statement = Statement(colour_order=order, range="0..1", size=112)
        place, _ = make_hasher(
            str(embedder), tmp_path / order, CONFIG, faces=people, statement=statement, progress=False
        )
        hasher = load(place)
        rows[order] = hasher.embed(faces if order == "RGB" else faces[..., ::-1].copy())
    np.testing.assert_array_equal(rows["RGB"], rows["BGR"])
    path = tmp_path / "BGR" / "embedder.onnx.input.json"
    path.write_text(path.read_text().replace("BGR", "RGB"))
    with pytest.raises(WeightsError, match="SHA-256 differs"):
        load(tmp_path / "BGR" / "embedder.onnx")


def test_a_statement_beside_the_file_counts(embedder, people, tmp_path):
    text = json.dumps({"colour_order": "RGB", "range": "-1..1", "size": 112})
    embedder.with_name("embedder.onnx.input.json").write_text(text)
    place, _ = make_hasher(str(embedder), tmp_path / "out", CONFIG, faces=people, progress=False)
    assert read_manifest(place).embedder["name"] == "embedder.onnx"


def test_a_statement_that_faces_refute_is_refused(embedder, tmp_path, monkeypatch):
    def refute(*_, source):
        raise WeightsError(f"{source}: correct the statement")

    monkeypatch.setattr(untrained, "check_on_faces", refute)
    with pytest.raises(WeightsError, match=r"embedder.onnx: correct the statement"):
        make_hasher(str(embedder), tmp_path / "out", CONFIG, statement=parse_statement(STATED), progress=False)
    assert not (tmp_path / "out").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["embedder.onnx"]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"statement": None}, WeightsError, r"state it as its source does with --input 'RGB -1\.\.1 112'"),
        ({"statement": "RGB -1..1 96"}, WeightsError, r"embedder\.onnx: size: 96 is stated, the file holds 112"),
        ({"weights": "none.onnx"}, WeightsError, "neither a file nor known weights; see iom weights list"),
        ({"weights": "damaged"}, WeightsError, "onnxruntime cannot read it"),
        ({"output": "full"}, DataError, "expected a new or empty folder"),
        ({"weights": "elsewhere"}, WeightsError, "its arrays lie in other files"),
        ({"fmr": "1e-6"}, DataError, "1e-06"),
    ],
)
def test_what_cannot_be_made_leaves_nothing(embedder, people, tmp_path, change, error, message):
    values = {"weights": str(embedder), "output": "out", "statement": STATED, "fmr": "0.01", **change}
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    if change.get("weights") == "damaged":
        embedder.write_bytes(embedder.read_bytes()[:500])
        values["weights"] = str(embedder)
    if change.get("weights") == "elsewhere":
        model = onnx.load(embedder)
        onnx.save(model, embedder, save_as_external_data=True, location="arrays", size_threshold=0)
        values["weights"] = str(embedder)
    config = load_config(Stage2Config, None, overrides=[*SETTINGS, f"calibration.fmr={values['fmr']}"])
    statement = values["statement"] and parse_statement(values["statement"])
    with pytest.raises(error, match=message) as caught:
        make_hasher(
            values["weights"],
            tmp_path / values["output"],
            config,
            faces=people,
            statement=statement or None,
            progress=False,
        )
    assert "\n" not in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} - {"arrays"} == {"embedder.onnx", "full", "people"}


@pytest.mark.parametrize("text", ["", "RGB", "GBR -1..1 112", "RGB 112", "RGB -1..2 112", "RGB -1..1 x"])
def test_an_input_in_other_words_is_refused(text):
    with pytest.raises(ConfigError, match=r"such as 'RGB -1\.\.1 112'"):
        parse_statement(text)


def test_an_input_in_words():
    statement = parse_statement(" BGR  -1..1 (/128)  160 ")
    assert statement == Statement(colour_order="BGR", range="-1..1 (/128)", size=160)


def test_other_weights_become_a_hasher_in_keras(people, tmp_path):
    from iom.nn.backbones.registry import build_backbone

    model = build_backbone("iresnet_slim", widths=(16, 16), depths=(1, 1), input_size=112, embedding_size=16)
    model.save(tmp_path / "best.keras")
    place, _ = make_hasher(str(tmp_path / "best.keras"), tmp_path / "out", CONFIG, faces=people, progress=False)
    assert place == tmp_path / "out"
    assert load(place).calibration.subjects == 8
    with pytest.raises(ConfigError, match="an input is stated for ONNX alone"):
        make_hasher(str(tmp_path / "best.keras"), tmp_path / "x", CONFIG, statement=parse_statement(STATED))


def test_the_command_needs_no_tensorflow_and_says_what_its_threshold_is_worth(embedder, tmp_path, root):
    arguments = ["make-hasher", "--weights", str(embedder), "--input", STATED, "--output", str(tmp_path / "out")]
    code = (
        "import sys\n"
        "from iom.cli.main import main\n"
        "from iom.training import untrained\n"
        "untrained.SUBJECTS = 8\n"
        f"assert main({[*arguments, '--code', '32x4', '--fmr', '1e-2', '--quiet']!r}) == 0\n"
        "assert not {'tensorflow', 'keras', 'onnx', 'matplotlib'} & set(sys.modules)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "8 SYNTHETIC subjects" in done.stdout
    assert f"iom calibrate --hasher {tmp_path / 'out' / 'embedder.onnx'} --folder PEOPLE --fmr 1e-2" in done.stdout


def test_a_code_in_other_words_is_refused(embedder, tmp_path, capsys):
    main = command("make-hasher")
    assert main(["--weights", embedder, "--output", tmp_path / "out", "--code", "512"]) == 2
    assert "such as 512x8, received '512'" in capsys.readouterr().err
