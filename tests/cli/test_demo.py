"""The demo on a small random network: what it prints, what it writes, and what it refuses."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from iom.synthetic import load_face_model
from tests.commands import command

main = command("demo")

CODE_LENGTH, ALPHABET_SIZE = 96, 4
DISTANCE = re.compile(rf"dist_(positive|negative) = +(\d+) of {CODE_LENGTH} +(match|no match) ")


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An untrained backbone and a hasher for it."""
    from iom.config import HasherConfig
    from iom.models.artifact import Calibration
    from iom.models.embedder import load_embedder
    from iom.models.face_hasher import KerasFaceHasher
    from iom.nn.backbones.registry import build_backbone
    from iom.nn.hash_network import build_hasher

    folder = tmp_path_factory.mktemp("network")
    weights = folder / "tiny.keras"
    build_backbone("iresnet_slim", embedding_size=32, stem=16, widths=[16, 16, 16, 16], depths=[1, 1, 1, 1]).save(
        weights
    )
    embedder = load_embedder(str(weights))
    config = HasherConfig(code_length=CODE_LENGTH, alphabet_size=ALPHABET_SIZE)
    for name, calibration in (
        ("hasher", Calibration(threshold=30, fmr=0.01, fnmr=0.1, subjects=9, keys=2)),
        ("uncalibrated", None),
    ):
        KerasFaceHasher(
            build_hasher(32, config),
            embedder_name=embedder.name,
            embedder_fingerprint=embedder.fingerprint,
            calibration=calibration,
        ).save(folder / name)
    return weights, folder / "hasher"


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Files of one face twice and of another."""
    folder = tmp_path_factory.mktemp("faces")
    images, _ = load_face_model().sample(2, 1, seed=3)
    paths = []
    for name, image in zip("ABC", (images[0], images[0], images[1]), strict=True):
        paths.append(str(folder / f"{name}.png"))
        Image.fromarray(image).save(paths[-1])
    return paths


def arguments(network: tuple[Path, Path], output: Path) -> list[str]:
    weights, hasher = network
    return ["--weights", str(weights), "--hasher", str(hasher), "--output", str(output)]


def test_it_prints_distances_and_decisions_and_writes_a_picture(
    network: tuple[Path, Path], faces: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    usual = ["--images", *faces, *arguments(network, tmp_path / "new" / "demo")]
    assert main([*usual, "--verbose"]) == 0
    assert "learned_layer" in capsys.readouterr().out
    assert main(usual) == 0
    text = capsys.readouterr().out
    assert "learned_layer" not in text  # a table of layers is not what a newcomer asked for
    found = [(kind, int(count), decision) for kind, count, decision in DISTANCE.findall(text)]
    assert [kind for kind, _, _ in found] == ["positive", "negative"] * 3
    # The same image twice: equal codes under one key, unrelated ones under two.
    assert found[0] == ("positive", 0, "match")
    assert found[4] == ("positive", 0, "match")
    assert found[2][1] > 40
    for _, distance, decision in found:
        assert decision == ("match" if distance <= 30 else "no match")
    path = tmp_path / "new" / "demo" / "demo.png"
    assert f"picture: {path}" in text
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 500
        assert np.asarray(picture.convert("RGB")).std() > 20


def test_synthetic_faces_are_the_default_and_keys_are_fresh_and_hidden(
    network: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs = []
    for run in range(2):
        assert main(["--seed", "5", *arguments(network, tmp_path / f"{run}.png")]) == 0
        outputs.append(capsys.readouterr().out)
        assert (tmp_path / f"{run}.png").is_file()
    cosines = [re.search(r"cosine distance.*", text) for text in outputs]
    assert cosines[0]
    assert cosines[1]
    assert cosines[0].group() == cosines[1].group()  # the same faces
    assert DISTANCE.findall(outputs[0]) != DISTANCE.findall(outputs[1])  # other keys
    assert not re.search(r"[0-9a-f]{32}|TransformKey", "".join(outputs))


def test_wrong_input_is_told_in_one_line(
    network: tuple[Path, Path], faces: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wide = tmp_path / "wide.png"
    Image.new("RGB", (250, 250)).save(wide)
    (tmp_path / "file").touch()
    usual = arguments(network, tmp_path / "demo")
    uncalibrated = str(network[1].with_name("uncalibrated"))
    for wrong, reason in (
        (["--images", faces[0], str(wide), faces[2]], "wide.png: expected a face, found none"),
        (["--images", faces[0], "missing.png", faces[2]], "missing.png: cannot read"),
        (["--weights", str(tmp_path / "none.keras")], "does not exist"),
        (["--weights", "iresnet_slim.bundeld"], "neither a file nor an entry"),
        (["--hasher", str(tmp_path)], "no hasher in"),
        (["--hasher", uncalibrated], "no calibrated threshold"),
        (["--output", str(tmp_path / "file" / "demo")], "cannot write to"),
    ):
        assert main([*usual, *wrong]) == (5 if str(wide) in wrong else 2)
        lines = capsys.readouterr().err.strip().splitlines()
        message = [line for line in lines if line.startswith("error: ")]
        assert len(message) == 1
        assert reason in message[0]
    assert not (tmp_path / "demo").exists()


def test_the_hasher_of_another_embedder_is_refused(
    network: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from iom.nn.backbones.registry import build_backbone

    other = tmp_path / "other.keras"
    build_backbone("iresnet_slim", embedding_size=32, stem=16, widths=[16, 16, 16, 16], depths=[1, 1, 1, 1]).save(other)
    usual = arguments(network, tmp_path / "demo")
    assert main([*usual, "--weights", str(other)]) == 2
    assert "was trained with the embedder" in capsys.readouterr().err
    assert main(["--weights", str(other), "--output", str(tmp_path / "demo")]) == 2
    assert "belongs to the embedder" in capsys.readouterr().err


def test_the_bundled_model_runs_by_default(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a newcomer's first command shows: match, no match, and nothing after a key change."""
    monkeypatch.chdir(tmp_path)
    assert main(["--output", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    decisions = re.findall(r"dist_\w+ = +\d+ of \d+ +(match|no match) ", text)
    assert decisions == ["match", "no match", "no match", "no match", "match", "no match"]
