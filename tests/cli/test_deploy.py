"""`iom deploy`: its choices, its errors, and an artefact that the other commands take."""

import pytest

from iom.cli.deploy import NAMES, main


def test_the_command_knows_every_format():
    from iom.export.formats import FORMATS

    assert set(NAMES) == set(FORMATS)


def test_formats_do_not_share_a_file():
    from iom.export.formats import FORMATS

    assert len({wanted.suffix for wanted in FORMATS.values()}) == len(FORMATS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--hasher", "nowhere"], "nowhere"),
        (["--faces", "somewhere"], "--faces and --pairs go together"),
        (["--calibration", "nowhere"], "found no images"),
    ],
)
def test_a_users_mistake_is_one_line(arguments, message, tmp_path, capsys):
    assert main([*arguments, "--output", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_an_artefact_is_written_and_taken_by_photos(tmp_path, capsys):
    from iom.photos.photo_hasher import open_photo_hasher
    from iom.runtime.manifest import read_manifest

    assert main(["--to", "onnx", "--output", str(tmp_path), "--name", "a"]) == 0
    assert "equal symbols" in capsys.readouterr().out
    manifest = read_manifest(tmp_path / "a.onnx")
    assert manifest.check.equal_symbols > 0.99
    models = open_photo_hasher(str(tmp_path / "a.onnx"))
    assert models.fingerprint == manifest.fingerprint
