"""The gallery's commands, without a network."""

import subprocess
import sys

import numpy as np
import pytest

from iom.cli import gallery_commands
from iom.cli.gallery import COMMANDS
from iom.cli.main import main, modules
from tests.data.nasty_folder import IMAGES, write_nasty_folder
from tests.gallery.conftest import SIZE, FakeHasher, faces


class FakeEmbedder:
    """The face is the number in the file's name."""

    embedding_size = SIZE

    def embed_files(self, paths):
        return np.stack([faces(9)[int(path.stem)] for path in paths])


@pytest.fixture
def iom(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        gallery_commands, "_models", lambda arguments, embeds=True: (FakeEmbedder(), FakeHasher())
    )
    monkeypatch.setattr("iom.gallery.key_file.SCRYPT_COST", 2)
    monkeypatch.setenv("IOM_GALLERY", f"sqlite:///{tmp_path}/g.db")
    monkeypatch.setenv("IOM_KEYS", f"file:{tmp_path}/keys?key-file={tmp_path}/wrap")

    def run(*arguments):
        code = main([str(argument) for argument in arguments])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run


def test_from_enrolment_to_renewal(iom, tmp_path):
    assert iom("init")[0] == 0
    assert iom("enroll", "alice", "0.jpg", "1.jpg")[:2] == (
        0,
        "enrolled 1 subjects, 2 references\n",
    )
    assert iom("verify", "alice", "1.jpg")[0] == 0
    assert iom("verify", "alice", "5.jpg")[0] == 1
    assert iom("identify", "0.jpg")[1].startswith("alice  0  match")
    assert iom("identify", "7.jpg")[:2] == (1, "nobody\n")
    assert iom("export", tmp_path / "door.iom")[0] == 0
    assert iom("revoke", "alice")[1] == "revoked 2 references of alice\n"
    code, _, error = iom("verify", "alice", "1.jpg")
    assert code == 2
    assert error.startswith("error: subject 'alice' was revoked")
    assert "2 are revoked" in iom("import", tmp_path / "door.iom")[1]
    assert iom("renew", "alice", "1.jpg")[0] == 0
    assert iom("verify", "alice", "1.jpg")[0] == 0
    assert "1 subjects, 1 references, 2 revoked" in iom("stats")[1]
    assert iom("check")[:2] == (0, "no problems\n")
    assert iom("erase")[0] == 0


def test_a_folder_and_another_application(iom, tmp_path):
    for name, images in {"bob": "01", "eve": "2"}.items():
        (tmp_path / "faces" / name).mkdir(parents=True)
        for image in images:
            (tmp_path / "faces" / name / f"{image}.png").touch()
    assert iom("init", "--key-mode", "application", "--application", "door")[0] == 0
    options = ["--application", "door", "--quiet"]
    assert "2 subjects, 3 references" in iom("enroll", "--folder", tmp_path / "faces", *options)[1]
    again = iom("enroll", "--folder", tmp_path / "faces", *options)[1]
    assert again == "enrolled 0 subjects, 0 references; 2 were enrolled already\n"
    assert iom("identify", "2.png", *options)[1].startswith("eve")
    assert "rotate it before" in iom("renew", "eve", "2.png", *options)[2]
    assert iom("rotate", *options)[1] == "application door: key epoch 1\n"
    assert iom("renew", "eve", "2.png", *options)[0] == 0


def test_a_folder_is_enrolled_without_what_is_hidden_temporary_or_linked(iom, tmp_path):
    people = write_nasty_folder(tmp_path / "people")
    assert iom("init")[0] == 0
    shown = iom("enroll", "--folder", people, "--quiet")[1]
    subjects = {name.split("/")[0] for name in IMAGES}
    assert f"enrolled {len(subjects)} subjects, {len(IMAGES)} references" in shown
    assert "2 links to folders are not followed" in shown


@pytest.mark.parametrize("how", ["centroid", "majority"])
def test_several_images_become_one_reference(iom, tmp_path, how):
    assert iom("init")[0] == 0
    shown = iom("enroll", "alice", "0.jpg", "1.jpg", "2.jpg", "--fuse", how)[1]
    assert shown == "enrolled 1 subjects, 1 references\n"
    distances = [int(iom("verify", "alice", f"{i}.jpg")[1].split()[-5]) for i in (0, 1, 2, 7)]
    assert sum(distances[:3]) / 3 < distances[3]  # keys are random: single distances scatter
    assert iom("renew", "alice", "3.jpg", "4.jpg", "--fuse", how)[1].endswith("1 references\n")
    assert "1 subjects, 1 references, 1 revoked" in iom("stats")[1]
    iom("export", tmp_path / "door.iom")
    noted = (tmp_path / "door.iom").read_bytes().replace(b"\\", b"")
    assert f'{{"fuse":"{how}","images":2}}'.encode() in noted
    (tmp_path / "faces" / "bob").mkdir(parents=True)
    for image in "56":
        (tmp_path / "faces" / "bob" / f"{image}.png").touch()
    shown = iom("enroll", "--folder", tmp_path / "faces", "--fuse", how, "--quiet")[1]
    assert shown == "enrolled 1 subjects, 1 references\n"


def test_mistakes_are_one_line(iom, tmp_path):
    for arguments in (
        ["stats"],
        ["frobnicate"],
        ["stats", "--keys", "nonsense"],
        ["enroll", "--folder", tmp_path / "none"],
        ["enroll", "alice"],
        ["import", tmp_path / "none"],
    ):
        code, _, error = iom(*arguments)
        assert code == 2
        assert error.startswith("error: ")
        assert error.count("\n") == 1
    assert "did you mean 'enroll'" in iom("enrol")[2]


def test_help_lists_every_command_and_is_light(root):
    code = (
        "import sys; from iom.cli.main import main; main(['--help'])\n"
        "heavy = {'numpy', 'tensorflow', 'keras', 'numba', 'scipy', 'tqdm'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    files = {path.stem.replace("_", "-") for path in (root / "iom" / "cli").glob("*.py")}
    listed = {line.split()[0] for line in result.stdout.splitlines() if line.startswith("  ")}
    assert listed == set(COMMANDS) | set(modules())
    assert files - listed == {
        "--init--",
        "arguments",
        "main",
        "gallery",
        "gallery-commands",
        "serving",
    }


def test_the_package_itself_is_the_command(root):
    command = [sys.executable, "-m", "iom", "nonsense"]
    result = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr == "error: no command 'nonsense'; see iom --help\n"
