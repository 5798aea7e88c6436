"""The command in-process, with an embedder that needs no weights."""

import json
import pickle

import numpy as np
import pytest
from PIL import Image

from iom.config import EvaluateConfig, HasherConfig, load_config
from iom.models.embedder import Embedder
from iom.models.face_hasher import KerasFaceHasher
from iom.nn.hash_network import build_hasher
from tests.commands import command

main = command("evaluate")

FINGERPRINT = "a" * 64


@pytest.fixture
def embedder(monkeypatch):
    """Embeds by a fixed random projection of coarse pixels."""
    projection = np.random.default_rng(0).normal(size=(14 * 14 * 3, 32)).astype(np.float32)
    calls = []

    def predict(pixels):
        calls.append(len(pixels))
        coarse = pixels.reshape(len(pixels), 14, 8, 14, 8, 3).mean(axis=(2, 4))
        return (coarse - 127.0).reshape(len(pixels), -1) @ projection

    def load_embedder(weights, *, batch_size, flip, cache):
        return Embedder(
            predict, name=weights, fingerprint=FINGERPRINT, embedding_size=32, batch_size=batch_size, flip=flip
        )

    monkeypatch.setattr("iom.models.embedder.load_embedder", load_embedder)
    return calls


@pytest.fixture
def config_file(tmp_path):
    hasher = build_hasher(32, HasherConfig(code_length=64, alphabet_size=4))
    KerasFaceHasher(hasher, embedder_name="made", embedder_fingerprint=FINGERPRINT).save(tmp_path / "hasher")
    path = tmp_path / "evaluate.yaml"
    path.write_text(
        "seed: 3\n"
        "benchmark: {name: nobody, source: synthetic, subjects: 12, images: 3}\n"
        "embedder: {weights: made.test, batch_size: 16, cache: ''}\n"
        f"hasher: {tmp_path / 'hasher'}\n"
        "code: {code_length: 64, alphabet_size: 4}\n"
        "scenario: {keys: 2, bootstrap: 10}\n"
    )
    return path


def test_report_table_and_exit_code(embedder, config_file, tmp_path, capsys):
    output = tmp_path / "out"
    assert main(["--config", str(config_file), "--output", str(output), "--quiet"]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    lines = shown.out.splitlines()
    assert lines[0].startswith("nobody: 72 pairs (36 mated, 36 non-mated), 12 subjects")
    assert [line.split()[0] for line in lines if line.startswith(("float", "grp", "learned"))]
    assert lines[-1] == f"report: {output / 'report.json'}"
    names = sorted(path.name for path in output.iterdir())
    assert names == ["config.yaml", "report.csv", "report.json", "report.png"]
    tree = json.loads((output / "report.json").read_text())
    assert {row["system"] for row in tree["rows"]} == {"float", "grp", "learned", "learned, asymmetric"}
    assert tree["embedder"] == {"name": "made.test", "fingerprint": FINGERPRINT, "embedding_size": 32}
    assert tree["seed"] == 3
    again = load_config(EvaluateConfig, output / "config.yaml")
    assert again == load_config(EvaluateConfig, config_file)


def test_progress_bars_go_to_standard_error(embedder, config_file, tmp_path, capsys):
    arguments = ["--config", str(config_file), "--output", str(tmp_path / "out")]
    assert main([*arguments, "--set", "scenario.systems=[float]"]) == 0
    shown = capsys.readouterr()
    assert "embedding (made.test)" in shown.err
    assert "embedding (" not in shown.out


def test_the_full_report(embedder, config_file, tmp_path, capsys):
    output = tmp_path / "report"
    small = {"report.victims": 4, "report.old_keys": 1, "report.replicates": 5, "report.pairs": 200}
    sets = [part for name, value in small.items() for part in ("--set", f"{name}={value}")]
    arguments = ["--config", str(config_file), "--report", str(output), "--quiet", *sets]
    assert main([*arguments, "--with-images"]) == 0
    shown = capsys.readouterr().out
    assert shown.splitlines()[-1] == f"page: {output / 'report.html'}"
    assert "D_sys" in shown
    page = (output / "report.html").read_text()
    assert "data:image/jpeg;base64," in page
    tree = json.loads((output / "report.json").read_text())
    assert {"attacks", "linkability", "identification"} <= set(tree["sections"])
    assert load_config(EvaluateConfig, output / "config.yaml").report.victims == 4


def test_a_mistake_in_the_report_is_found_before_anything_is_embedded(embedder, config_file, tmp_path, capsys):
    report = ["--config", str(config_file), "--report", str(tmp_path / "out")]
    assert main([*report, "--set", "report.attack_names=[closed_from]"]) == 2
    assert "did you mean 'closed_form'" in capsys.readouterr().err
    figures = ["--config", str(config_file), "--output", str(tmp_path)]
    assert main([*figures, "--set", "report.attacks=false", "--set", "report.attack_names=[closed_from]"]) == 2
    assert "did you mean 'closed_form'" in capsys.readouterr().err
    assert main(["--config", str(config_file)]) == 2
    assert "expected --output DIR, --report DIR or both" in capsys.readouterr().err
    assert main(["--config", str(config_file), "--output", str(tmp_path), "--with-images"]) == 2
    assert "--with-images goes with --report" in capsys.readouterr().err
    assert embedder == []


def write_bin(path, images=4, damage=None):
    pixels = np.random.default_rng(0).integers(0, 255, (images, 112, 112, 3), np.uint8)
    encoded = []
    for image in pixels:
        Image.fromarray(image).save(path, format="jpeg")
        encoded.append(path.read_bytes())
    if damage is not None:
        encoded[damage] = encoded[damage][: len(encoded[damage]) // 2]
    path.write_bytes(pickle.dumps((encoded, [True, False] * (images // 4)), protocol=2))


class Hostile:
    """Creates a file where it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (open, (str(self.mark), "w"))


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["scenario.keis=3"], "did you mean 'keys'"),
        (["scenario.keys=0"], "scenario.keys: expected more than 0"),
        (["scenario.systems=[float, lerned]"], "did you mean 'learned'"),
        (["hasher=nowhere"], "hasher: no hasher 'nowhere': expected"),
        (["benchmark.source=camera"], "unknown benchmark source 'camera'"),
        (["benchmark.source=pairs"], "needs benchmark.path"),
        (["benchmark.source=pairs", "benchmark.path=absent.txt", "benchmark.root=absent"], "no folder absent"),
        (["benchmark.source=bin", "benchmark.path=absent.bin"], "cannot read absent.bin"),
        (["benchmark.subjects=2"], "at least 4 subjects"),
    ],
)
def test_a_mistake_is_one_line(embedder, config_file, tmp_path, capsys, overrides, reason):
    sets = [part for override in overrides for part in ("--set", override)]
    output = str(tmp_path / "out")
    assert main(["--config", str(config_file), "--output", output, "--quiet", *sets]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: ")
    assert shown.err.count("\n") == 1
    assert reason in shown.err
    assert embedder == []


def test_a_missing_configuration_and_a_bad_output_are_one_line(embedder, config_file, tmp_path, capsys):
    assert main(["--config", str(tmp_path / "no.yaml"), "--output", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: no configuration")
    assert main(["--config", str(config_file), "--output", str(config_file)]) == 2
    assert capsys.readouterr().err.startswith("error: cannot write to")
    assert embedder == []


@pytest.mark.parametrize("kind", ["truncated file", "truncated image", "hostile"])
def test_a_damaged_or_hostile_bin_is_one_line(embedder, config_file, tmp_path, capsys, kind):
    path, mark = tmp_path / "pairs.bin", tmp_path / "mark"
    write_bin(path, damage=2 if kind == "truncated image" else None)
    if kind == "truncated file":
        path.write_bytes(path.read_bytes()[:-40])
    if kind == "hostile":
        path.write_bytes(pickle.dumps(([b""] * 4, Hostile(mark)), protocol=2))
    arguments = ["--config", str(config_file), "--output", str(tmp_path / "out"), "--quiet"]
    sets = ["--set", "benchmark.source=bin", "--set", f"benchmark.path={path}"]
    assert main([*arguments, *sets]) == (5 if kind == "truncated image" else 2)
    shown = capsys.readouterr()
    assert shown.err.startswith("error: ")
    assert shown.err.count("\n") == 1
    assert str(path) in shown.err
    assert not mark.exists()


def test_a_hasher_of_another_embedder_is_one_line(embedder, config_file, tmp_path, capsys):
    metadata = tmp_path / "hasher" / "hasher.json"
    metadata.write_text(metadata.read_text().replace(FINGERPRINT, "b" * 64))
    assert main(["--config", str(config_file), "--output", str(tmp_path / "out"), "--quiet"]) == 2
    assert "was trained with the embedder" in capsys.readouterr().err
    assert embedder == []
