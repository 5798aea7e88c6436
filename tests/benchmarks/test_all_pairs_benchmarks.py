import argparse
import json

import numpy as np
import pytest

from benchmarks import code_shapes, every_key
from benchmarks.lfw_all_pairs import Faces, parse_shape
from iom.config import HasherConfig
from iom.metrics.all_pairs import AllPairs
from iom.models.embedder import Embedder
from iom.models.face_hasher import KerasFaceHasher
from iom.nn.hash_network import build_hasher

SIZE = 32
KEYS = (
    "float_eer grp_eer frame_eer learned_eer float_fnmr_1e4 grp_fnmr_1e4 learned_fnmr_1e4 "
    "float_eer_low float_eer_high identity_key_eer d_sys entropy_ratio"
)


@pytest.fixture(scope="module")
def faces():
    generator = np.random.default_rng(3)
    subjects = np.repeat(np.arange(40), 4)
    rows = generator.normal(size=(40, SIZE))[subjects] + 0.9 * generator.normal(size=(160, SIZE))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    embedder = Embedder(lambda pixels: pixels, name="made", fingerprint="f" * 64, embedding_size=SIZE)
    return Faces(AllPairs(subjects), rows, embedder)


def hasher_of(length, alphabet):
    model = build_hasher(SIZE, HasherConfig(code_length=length, alphabet_size=alphabet), seed=1)
    return KerasFaceHasher(model, embedder_name="made", embedder_fingerprint="f" * 64)


def test_every_key_gives_the_figures_it_is_asked_for(faces):
    arguments = argparse.Namespace(keys=3, seed=1, replicates=10, frames=["simplex"], refined=["simplex_refined"])
    hashers = [hasher_of(32, 4), hasher_of(64, 2)]
    figures = every_key.measure(faces, hashers, arguments, fixed_key=hashers[0])
    assert set(KEYS.split()) <= set(json.loads(json.dumps(figures)))
    assert figures["float_eer_low"] <= figures["float_eer"] <= figures["float_eer_high"]
    assert figures["learned_shape"] == "32x4"
    assert 0 < figures["entropy_ratio"] <= figures["entropy_ratio_mean"] <= 1
    assert figures["fixed_key_random_key_eer"] == figures["learned_eer"]
    shapes = ("32x4", "64x2")
    assert figures["frame_eer"] == min(figures[f"simplex_{shape}_eer"] for shape in shapes)
    assert figures["frame_refined_eer_of"].startswith("simplex_refined")
    assert figures["learned_eer_64x2"] > 0
    assert {"learned_minus_float_fnmr_1e4_low", "learned_minus_frame_eer_high"} <= set(figures)


def test_shapes_of_the_same_bits():
    assert every_key.shapes_of_bits(512, 8) == [(512, 8), (768, 4), (1536, 2)]
    assert every_key.shapes_of_bits(256, 32) == [(256, 32), (640, 4), (1280, 2)]


def test_code_shapes_names_what_is_missing(faces, tmp_path, capsys):
    hasher_of(32, 4).save(tmp_path / "32x4")
    arguments = argparse.Namespace(
        keys=2,
        seed=1,
        shapes=[(32, 4), (24, 5)],
        systems=["float", "grp", "urp", "cross_polytope", "learned"],
        hashers=[str(tmp_path / "{m}x{q}")],
        comparisons=["symbols", "asymmetric"],
    )
    rows = code_shapes.measure(faces, arguments)
    by_name = {(row.get("shape"), row["system"]): row for row in rows}
    assert len(by_name) == len(rows) == 13
    measured = [row for row in rows if "missing" not in row]
    assert all(0 <= row["eer"] < 0.5 and row["fnmr_1e4"] <= 1 for row in measured)
    assert by_name["32x4", "learned"]["bits"] == 64
    for system in ("grp", "cross_polytope", "learned"):
        assert by_name["32x4", f"{system}, asymmetric"]["eer"] < by_name["32x4", system]["eer"]
    assert "no hasher in" in by_name["24x5", "learned"]["missing"]
    assert "even Q" in by_name["24x5", "cross_polytope"]["missing"]
    assert capsys.readouterr().out.count("missing:") == 2
    json.dumps(rows)


def test_a_hasher_of_another_shape_is_not_taken(faces, tmp_path):
    hasher_of(32, 4).save(tmp_path / "64x4")
    arguments = argparse.Namespace(
        keys=1,
        seed=1,
        shapes=[(64, 4)],
        systems=["learned"],
        hashers=[str(tmp_path / "{m}x{q}")],
        comparisons=["symbols"],
    )
    (row,) = code_shapes.measure(faces, arguments)
    assert "holds 32x4" in row["missing"]


@pytest.mark.parametrize("module", [every_key, code_shapes])
def test_help(module, capsys):
    with pytest.raises(SystemExit) as stopped:
        module.main(["--help"])
    assert stopped.value.code == 0
    assert f"python -m {module.__name__}" in capsys.readouterr().out


@pytest.mark.parametrize("module", [every_key, code_shapes])
def test_without_data_the_error_is_one_line(module, tmp_path, root, monkeypatch, capsys):
    monkeypatch.chdir(root)
    assert module.main(["--data", str(tmp_path / "absent")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: no folder")
    assert error.count("\n") == 1


def test_a_shape_is_length_x_alphabet():
    assert parse_shape("512x8") == (512, 8)
    with pytest.raises(argparse.ArgumentTypeError, match="such as 512x8"):
        parse_shape("512")
