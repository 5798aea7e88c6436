"""The gallery's commands, without a network."""

import inspect
import json
import os
import shutil
import subprocess
import sys
import unicodedata

import pytest
from PIL import Image

import iom as package
from iom.cli.main import main
from iom.cli.main import root as program
from iom.gallery.gallery import Gallery
from iom.gallery.token_files import read_token
from tests.data.nasty_folder import IMAGES, write_nasty_folder
from tests.gallery.conftest import FakeHasher, faces


class FakeFaceHasher(FakeHasher):
    """The face is the number in the file's name."""

    loaded = 0

    def embed_picture(self, path, *, checked=True):
        return faces(9)[int(path.stem)]


def write_images(folder, numbers):
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        Image.new("L", (112, 112)).save(folder / f"{number}.jpg")


@pytest.fixture
def iom(tmp_path, monkeypatch, capsys):
    def load(path, *, weights, opens_embedder=True):
        FakeFaceHasher.loaded += opens_embedder
        return FakeFaceHasher()

    monkeypatch.setattr("iom.models.face_hasher.load", load)
    write_images(tmp_path, range(9))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("iom.gallery.key_source.SCRYPT_COST", 2)
    monkeypatch.setenv("IOM_GALLERY", f"sqlite:///{tmp_path}/g.db")
    monkeypatch.setenv("IOM_KEYS", f"file:{tmp_path}/keys?key-file={tmp_path}/wrap")

    def run(*arguments):
        code = main([str(argument) for argument in arguments])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run


def test_the_comparison_of_an_application_is_chosen_and_changed(iom):
    code, out, _ = iom("init", "--threshold", "3000", "--comparison", "asymmetric")
    assert code == 0
    assert "iom-planes/1:96x8;asymmetric" in out
    assert iom("enroll", "alice", "0.jpg")[0] == 0
    code, out, _ = iom("verify", "alice", "0.jpg", "--json")
    assert (code, json.loads(out)["threshold"]) == (0, 3000)
    assert iom("verify", "alice", "1.jpg")[0] == 1
    code, _, error = iom("set-threshold", "3000", "--comparison", "symbols")
    assert code == 2
    assert "to 96 differing positions" in error
    assert iom("set-threshold", "50", "--comparison", "symbols")[1] == "application default: threshold 50\n"
    assert iom("verify", "alice", "0.jpg", "--json")[0] == 0
    expected = "application default: threshold 2900, asymmetric\n"
    assert iom("set-threshold", "2900", "--comparison", "asymmetric")[1] == expected
    assert iom("init", "--application", "gate", "--comparison", "cosine")[0] == 2


def test_from_enrolment_to_renewal(iom, tmp_path):
    assert iom("init")[0] == 0
    assert iom("enroll", "alice", "0.jpg", "1.jpg")[:2] == (0, "alice: 2 references\n")
    assert iom("verify", "alice", "1.jpg")[0] == 0
    assert iom("verify", "alice", "5.jpg")[0] == 1
    assert iom("identify", "0.jpg")[1].startswith("alice  0  match")
    assert iom("identify", "7.jpg")[:2] == (1, "no match\n")
    assert iom("export", tmp_path / "door.iom")[0] == 0
    assert iom("revoke", "alice")[1] == "revoked 2 references of alice\n"
    code, _, error = iom("verify", "alice", "1.jpg")
    assert code == 4
    assert error.startswith("error: subject 'alice' was revoked")
    assert "2 are revoked" in iom("import", tmp_path / "door.iom")[1]
    assert iom("renew", "alice", "1.jpg")[0] == 0
    assert iom("verify", "alice", "1.jpg")[0] == 0
    assert "1 subject, 1 reference, 2 revoked" in iom("stats")[1]
    assert iom("check")[:2] == (0, "no problems\n")
    assert iom("erase")[0] == 0


def test_a_folder_and_another_application(iom, tmp_path):
    for name, images in {"bob": "01", "eve": "2"}.items():
        write_images(tmp_path / "faces" / name, images)
    assert iom("init", "--key-mode", "application", "--application", "door")[0] == 0
    options = ["--application", "door", "--quiet"]
    assert "2 subjects, 3 references" in iom("enroll", "--folder", tmp_path / "faces", *options)[1]
    again = iom("enroll", "--folder", tmp_path / "faces", *options)[1]
    assert again == "enrolled 0 subjects, 0 references; 2 were enrolled already\n"
    assert iom("identify", "2.jpg", *options)[1].startswith("eve")
    assert "rotate it before" in iom("renew", "eve", "2.jpg", *options)[2]
    assert iom("rotate", *options)[1] == "application door: key epoch 1\n"
    assert iom("renew", "eve", "2.jpg", *options)[0] == 0


@pytest.mark.parametrize("arguments", [("alice", "0.jpg"), ("--folder", "people", "--quiet")])
def test_a_first_enrolment_neither_searches_nor_makes_errors(iom, tmp_path, arguments):
    write_images(tmp_path / "people" / "bob", [5, 6])
    assert iom("init")[0] == 0
    ran = set()

    def note(frame, event, _):
        if event == "call" and frame.f_code.co_flags & inspect.CO_OPTIMIZED:  # only functions: modules are imported
            ran.add((frame.f_code.co_filename.rpartition("/iom/")[2], frame.f_code.co_name))

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        code, *_ = iom("enroll", *arguments)
    finally:
        sys.setprofile(before)
    assert code == 0
    assert ("gallery/gallery.py", "enroll") in ran
    assert "gallery/search.py" not in {file for file, _ in ran}
    assert ("errors.py", "__init__") not in ran


def test_subjects_whose_folders_have_decomposed_names_are_found_again(iom, tmp_path):
    write_images(tmp_path / "people" / unicodedata.normalize("NFD", "Jos\u00e9"), [5, 6])
    assert iom("init")[0] == 0
    assert iom("enroll", "--folder", "people", "--quiet")[1] == "enrolled 1 subject, 2 references\n"
    again = iom("enroll", "--folder", "people", "--quiet")
    assert again == (0, "enrolled 0 subjects, 0 references; 1 were enrolled already\n", "")
    assert iom("verify", "Jos\u00e9", "5.jpg")[0] == 0


def test_a_folder_is_enrolled_without_what_is_hidden_temporary_or_linked(iom, tmp_path):
    people = write_nasty_folder(tmp_path / "people")
    assert iom("init")[0] == 0
    _, shown, told = iom("enroll", "--folder", people, "--quiet")
    subjects = {name.split("/")[0] for name in IMAGES}
    assert f"enrolled {len(subjects)} subjects, {len(IMAGES)} references" in shown
    assert "2 links to folders are not followed" in told


@pytest.mark.parametrize("how", ["centroid", "majority"])
def test_several_images_become_one_reference(iom, tmp_path, how):
    assert iom("init")[0] == 0
    _, shown, told = iom("enroll", "alice", "0.jpg", "1.jpg", "2.jpg", "--fuse", how)
    assert shown == "alice: 1 reference\n", told
    distances = [json.loads(iom("verify", "alice", f"{i}.jpg", "--json")[1])["distance"] for i in (0, 1, 2, 7)]
    assert sum(distances[:3]) / 3 < distances[3]  # keys are random: single distances scatter
    assert iom("renew", "alice", "3.jpg", "4.jpg", "--fuse", how)[1].endswith(": 1 reference\n")
    assert "1 subject, 1 reference, 1 revoked" in iom("stats")[1]
    iom("export", tmp_path / "door.iom")
    noted = (tmp_path / "door.iom").read_bytes().replace(b"\\", b"")
    assert f'{{"fuse":"{how}","images":2}}'.encode() in noted
    write_images(tmp_path / "faces" / "bob", "56")
    shown = iom("enroll", "--folder", tmp_path / "faces", "--fuse", how, "--quiet")[1]
    assert shown == "enrolled 1 subject, 1 reference\n"


def test_mistakes_are_one_line(iom, tmp_path):
    for expected, *arguments in (
        [6, "stats"],
        [2, "frobnicate"],
        [6, "stats", "--keys", "nonsense"],
        [2, "enroll", "--folder", tmp_path / "none"],
        [2, "enroll", "alice"],
        [6, "import", tmp_path / "none"],
    ):
        code, _, error = iom(*arguments)
        assert code == expected, arguments
        assert error.startswith("error: ")
        assert error.count("\n") == 1
    assert "did you mean 'enroll'" in iom("enrol")[2]


def test_exit_codes_tell_what_is_wrong(iom, tmp_path):
    """A door script reads the code, not the text."""
    (tmp_path / "text.jpg").write_text("no image")
    assert iom("init")[0] == 0
    assert iom("enroll", "alice", "0.jpg")[0] == 0
    iom("enroll", "bob", "1.jpg")
    iom("revoke", "bob")
    loaded = FakeFaceHasher.loaded
    for expected, *arguments in (
        [2, "verify", "alice"],
        [2, "verify", "alice", "none.jpg"],
        [2, "verify", "alice", "0.jpg", "--application", "nope"],
        [2, "identify", "0.jpg", "--application", "nope"],
        [2, "enroll", "alice", "0.jpg"],
        [3, "verify", "eve", "0.jpg"],
        [3, "renew", "eve", "0.jpg"],
        [3, "revoke", "eve"],
        [4, "verify", "bob", "1.jpg"],
        [4, "revoke", "bob"],
        [5, "verify", "alice", "text.jpg"],
        [5, "enroll", "eve", "text.jpg"],
        [5, "identify", "text.jpg"],
        [5, "renew", "alice", "text.jpg"],
        [6, "verify", "alice", "0.jpg", "--gallery", "sqlite:///none.db"],
        [6, "verify", "alice", "0.jpg", "--keys", "file:none.keys"],
        [6, "verify", "alice", "0.jpg", "--keys", f"file:{tmp_path}/keys?key-file=0.jpg"],
    ):
        code, shown, error = iom(*arguments)
        assert code == expected, arguments
        assert shown == ""
        assert error.startswith("error: ")
        assert error.count("\n") == 1
    assert FakeFaceHasher.loaded == loaded  # all of it is known before models are loaded
    assert iom("verify", "alice", "7.jpg")[0] == 1


def test_every_command_answers_in_json(iom, tmp_path):
    def ask(expected, *arguments):
        code, shown, error = iom(*arguments, "--json")
        assert code == expected
        assert shown.count("\n") == 1
        assert error == ""
        return json.loads(shown)

    made = ask(0, "init")
    assert (made["application"], made["threshold"], made["key_mode"]) == ("default", 50, "subject")
    assert ask(0, "enroll", "alice", "0.jpg", "1.jpg") == {
        "application": "default", "subject": "alice", "slots": [0, 1]
    }  # fmt: skip
    write_images(tmp_path / "people" / "bob", "2")
    assert ask(0, "enroll", "--folder", tmp_path / "people", "--quiet") == {
        "application": "default", "subjects": 1, "references": 1, "present": 0, "revoked": 0
    }  # fmt: skip
    found = ask(0, "verify", "alice", "1.jpg")
    assert found == {
        "application": "default", "subject": "alice", "match": True, "distance": 0,
        "threshold": 50, "probability": 0.5, "slot": 1,
    }  # fmt: skip
    assert ask(1, "verify", "alice", "7.jpg")["match"] is False
    assert ask(0, "identify", "2.jpg")["candidates"] == [{"subject": "bob", "distance": 0, "match": True}]
    assert ask(1, "identify", "7.jpg")["candidates"] == []
    assert ask(0, "set-threshold", "40")["threshold"] == 40
    assert ask(0, "export", tmp_path / "d.iomx")["references"] == 3
    assert ask(0, "revoke", "alice", "--slot", "0")["revoked"] == 1
    assert ask(0, "renew", "alice", "3.jpg")["slots"]
    assert ask(0, "import", tmp_path / "d.iomx") == {"added": 0, "present": 1, "revoked": 2}
    stats = ask(0, "stats")
    assert [each["application"] for each in stats["applications"]] == ["default"]
    assert stats["applications"][0]["subjects"] == 2
    assert ask(0, "check") == {"problems": []}
    assert ask(0, "erase") == {"erased": True}
    assert ask(0, "init", "--application", "gate", "--key-mode", "application")
    assert ask(0, "rotate", "--application", "gate")["epoch"] == 1
    refused = ask(3, "verify", "eve", "0.jpg")["error"]
    assert (refused["type"], refused["exit_code"]) == ("NotEnrolledError", 3)
    assert refused["subject_id"] == "eve"
    assert ask(6, "stats", "--gallery", "sqlite:///none.db")["error"]["place"] == "none.db"


def test_who_is_enrolled_can_be_asked(iom):
    assert iom("init")[0] == 0
    assert iom("list")[:2] == (0, "no subjects\n")
    iom("enroll", "bob", "0.jpg", "1.jpg", "--fuse", "centroid")
    iom("enroll", "alice", "2.jpg", "3.jpg")
    iom("enroll", "eve", "4.jpg")
    iom("revoke", "eve")
    iom("revoke", "alice", "--slot", "0")
    assert iom("list")[1] == "alice: 1 reference\nbob: 1 reference\neve: revoked\n"
    assert [each["references"] for each in json.loads(iom("list", "--json")[1])["subjects"]] == [1, 1, 0]
    assert iom("list", "--application", "nope")[0] == 2
    shown = json.loads(iom("show", "bob", "--json")[1])
    assert shown["references"][0].keys() == {"slot", "enrolled", "epoch", "token", "metadata"}
    assert shown["references"][0]["metadata"] == {"fuse": "centroid", "images": 2}
    assert iom("show", "alice")[1].startswith("alice: 1 reference\n  slot 1: enrolled 20")
    assert iom("show", "eve")[0] == 4
    assert iom("show", "nobody")[0] == 3
    assert iom("show", "alice", "--application", "nope")[0] == 2


def test_verify_tells_photographs_from_subjects(iom, tmp_path, monkeypatch):
    code, _, error = iom("verify", "alice", "0.jpg")
    assert (code, "no photograph to compare with 0.jpg, and as a subject: no key store" in error) == (6, True)
    assert iom("init")[0] == 0
    code, _, error = iom("verify", "nothere.jpg", "0.jpg")
    assert code == 3
    assert "no photograph to compare with 0.jpg, and as a subject: subject 'nothere.jpg' is not enrolled" in error
    iom("enroll", "1", "1.jpg")
    (tmp_path / "1").write_bytes((tmp_path / "2.jpg").read_bytes())  # put there by someone else
    assert iom("verify", "1", "1.jpg")[0] == 0
    assert "two photographs" in iom("verify", "1", "1.jpg", "--fmr", "0.1")[2]
    (tmp_path / "text.jpg").write_text("no image")
    assert iom("verify", "text.jpg", "0.jpg")[0] == 5


def test_stats_of_one_application(iom):
    for name in ("door", "gate"):
        assert iom("init", "--application", name)[0] == 0
    assert iom("stats")[1].count("subjects") == 2
    shown = iom("stats", "--application", "gate")[1]
    assert "gate:" in shown
    assert "door" not in shown
    code, _, error = iom("stats", "--application", "nope")
    assert code == 2
    assert "no application 'nope'" in error


def test_the_threshold_can_be_changed(iom):
    iom("init")
    iom("enroll", "alice", "0.jpg")
    distance = json.loads(iom("verify", "alice", "5.jpg", "--json")[1])["distance"]
    assert distance > 50
    assert iom("set-threshold", distance)[1] == f"application default: threshold {distance}\n"
    assert iom("verify", "alice", "5.jpg")[0] == 0
    for wrong, expected in ((["many"], "not a valid integer"), (["97"], "to 96"), (["-2"], "-1 (reject")):
        code, _, error = iom("set-threshold", *wrong)
        assert code == 2
        assert expected in error
    assert iom("set-threshold", "3", "--application", "nope")[0] == 2
    assert iom("verify", "alice", "5.jpg")[0] == 0


def test_a_subject_that_is_enrolled_names_the_ways_on(iom):
    iom("init")
    assert iom("enroll", "alice", "0.jpg")[1] == "alice: 1 reference\n"
    error = iom("enroll", "alice", "1.jpg")[2]
    assert "--add" in error
    assert "iom renew" in error
    assert iom("enroll", "alice", "1.jpg", "--add")[1] == "alice: 1 reference\n"


def test_two_enrolments_of_one_folder_at_once(iom, tmp_path, monkeypatch):
    iom("init")
    for name, number in {"bob": 1, "eve": 2}.items():
        write_images(tmp_path / "people" / name, [number])
    enroll, other = Gallery.enroll, []

    def overtaken(self, subject, rows, **options):
        if subject == "bob" and not other:
            other.append(enroll(self, subject, rows, **options))
        return enroll(self, subject, rows, **options)

    monkeypatch.setattr(Gallery, "enroll", overtaken)
    code, shown, error = iom("enroll", "--folder", tmp_path / "people", "--quiet")
    assert (code, error) == (0, "")
    assert shown == "enrolled 1 subject, 1 reference; 1 were enrolled already\n"

    def stopped(self, *arguments, **options):
        raise KeyboardInterrupt

    write_images(tmp_path / "people" / "zoe", [3])
    monkeypatch.setattr(Gallery, "enroll", stopped)
    code, _, error = iom("enroll", "--folder", tmp_path / "people", "--quiet")
    assert code == 130
    assert error == "stopped; start the same command again to go on\n"


def test_a_path_is_taken_where_a_url_is_expected(iom, tmp_path):
    place = ("--gallery", "door.db", "--keys", f"{tmp_path}/door.keys", "--passphrase-file", "word")
    (tmp_path / "word").write_text("correct horse")
    code, _, error = iom("stats", *place)
    assert (code, "no key store at" in error) == (6, True)
    assert iom("init", *place)[0] == 0
    assert (tmp_path / "door.db").is_file()
    assert iom("stats", *place)[0] == 0
    iom("init")
    error = iom("stats", "--gallery", "postgres:eve:secret@host/door")[2]
    assert "secret" not in error
    assert "did you mean 'postgresql'" in error


def test_without_a_terminal_the_passphrase_is_not_asked_for(root, tmp_path):
    keys = tmp_path / "g.keys"
    code = (
        "import sys; from iom.gallery.key_store import KeyStore; from pathlib import Path\n"
        "from iom.gallery.key_source import passphrase_seal\n"
        "from iom.cli.main import main\n"
        "KeyStore.open(Path(sys.argv[1]), passphrase_seal(lambda: 'correct horse', 2), create=True)\n"
        "sys.exit(main(['stats', '--keys', f'file:{sys.argv[1]}']))"
    )
    environment = {name: text for name, text in os.environ.items() if name != "IOM_PASSPHRASE"}
    done = subprocess.run(
        [sys.executable, "-c", code, keys], cwd=root, env=environment, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, check=False, start_new_session=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("error: expected a passphrase, and there is no terminal")
    assert done.stderr.count("\n") == 1


def test_version_and_help(iom):
    assert iom("--version")[1] == f"iom {package.__version__}\n"
    assert "not enrolled" in iom("--help")[1]
    for command in program.sections["Gallery"]:
        name = command.name
        shown = iom(name, "--help")[1]
        examples = shown[shown.index("examples:") :].splitlines()[1:]
        assert shown.startswith(f"Usage: iom {name} ")
        assert examples
        assert all(line.startswith(f"  iom {name}") for line in examples), name


def test_mistakes_are_told_before_tensorflow_is_loaded(root, tmp_path):
    """What needs no model takes no ten seconds: one process, every such mistake."""
    write_images(tmp_path, [0])
    (tmp_path / "text.jpg").write_text("no image")
    code = """
import sys
from pathlib import Path
from iom.cli.main import main
from iom.gallery.key_source import passphrase_seal
from iom.gallery.key_store import KeyStore
from iom.gallery.stores.sqlite import SqliteStore
from iom.gallery.gallery import Gallery
from tests.gallery.conftest import FakeHasher
keys = KeyStore.open(Path("gallery.keys"), passphrase_seal(lambda: "correct horse", 2), create=True)
with Gallery(SqliteStore(Path("gallery.db"), create=True), keys, FakeHasher()) as gallery:
    gallery.create_application("default")
Path("right").write_text("correct horse")
Path("wrong").write_text("wrong horse")
Path("photos").mkdir()
Path("exported").mkdir()
Path("exported/face.onnx").touch()
assert main(["make-key", "key"]) == 0
for expected, *arguments in (
    [6, "verify", "alice", "0.jpg", "--passphrase-file", "wrong"],
    [2, "verify", "alice", "0.jpg", "--passphrase-file", "none"],
    [3, "verify", "alice", "0.jpg", "--passphrase-file", "right"],
    [3, "renew", "alice", "0.jpg", "--passphrase-file", "right"],
    [5, "verify", "alice", "text.jpg", "--passphrase-file", "right"],
    [2, "identify", "none.jpg", "--passphrase-file", "right"],
    [2, "identify", "0.jpg", "--top", "x", "--passphrase-file", "right"],
    [2, "enroll", "alice", "none.jpg", "--passphrase-file", "right"],
    [2, "enroll", "--folder", "none", "--passphrase-file", "right"],
    [6, "enroll", "alice", "0.jpg", "--gallery", "sqlite:///none.db",
     "--passphrase-file", "right"],
    [2, "deploy", "--output", "0.jpg/x"],
    [2, "train-stage1", "--config", CONFIGS + "/smoke/stage1.yaml", "--output", "0.jpg/x"],
    [2, "train-stage2", "--config", CONFIGS + "/smoke/stage2.yaml", "--output", "0.jpg/x"],
    [2, "sweep", "--config", CONFIGS + "/search/smoke.yaml", "--output", "0.jpg/x"],
    [2, "evaluate", "--config", CONFIGS + "/smoke/evaluate.yaml", "--output", "0.jpg/x"],
    [2, "demo", "--output", "0.jpg/x"],
    [2, "align", ".", "0.jpg/x"],
    [2, "convert", ".", "0.jpg/x", "--kind", "folder:tfrecord"],
    [6, "hash", "photos", "--output", "x.parquet", "--key-file", "none"],
    [2, "hash", "photos", "--output", "x.csv", "--key-file", "key"],
    [2, "hash", "none", "--output", "x.parquet", "--key-file", "key"],
    [2, "make-token", "0.jpg/x", "door"],
    [2, "make-key", "0.jpg/x"],
    [2, "align", "none", "out"],
    [2, "synthesize", "--output", "0.jpg/x"],
    [2, "identification", "--config", CONFIGS + "/evaluate/lfw.yaml", "--output", "0.jpg/x"],
    [2, "calibrate", "--hasher", "none"],
    [2, "init", "--hasher", "none", "--passphrase-file", "right"],
    [2, "init", "--hasher", "photos", "--passphrase-file", "right"],
    [2, "init", "--hasher", "exported", "--passphrase-file", "right"],
    [2, "init", "--hasher", "0.jpg", "--passphrase-file", "right"],
):
    found = main(arguments)
    assert found == expected, (arguments, found)
    heavy = {"tensorflow", "keras", "onnxruntime"} & set(sys.modules)
    assert not heavy, (arguments, heavy)
"""
    done = subprocess.run(
        [sys.executable, "-c", code.replace("CONFIGS", repr(str(root / "configs")))],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "give the artefact itself: exported/face.onnx" in done.stderr
    assert "no hasher in photos" in done.stderr
    assert done.stderr.count("\n") == done.stderr.count("error: ")


def test_the_package_itself_is_the_command(root):
    command = [sys.executable, "-m", "iom", "nonsense"]
    result = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr == "error: no command 'nonsense'; see iom --help\n"


def test_a_revoked_subject_stays_away_until_it_is_renewed(iom, tmp_path):
    """The same enrolment again goes on after an interruption; it brings no revoked subject back."""
    write_images(tmp_path / "people" / "bob", "2")
    write_images(tmp_path / "people" / "eve", "3")
    folder = ("enroll", "--folder", tmp_path / "people", "--quiet")
    assert iom("init")[0] == 0
    assert iom(*folder)[0] == 0
    assert iom("revoke", "bob")[0] == 0
    code, shown, _ = iom(*folder)
    assert code == 0
    assert "1 were enrolled already; 1 were revoked and stay away" in shown
    code, _, error = iom("enroll", "bob", "2.jpg")
    assert code == 4
    assert "renew it to bring it back" in error
    assert iom("verify", "bob", "2.jpg")[0] == 4
    assert iom(*folder, "--allow-revoked")[0] == 0
    assert iom("verify", "bob", "2.jpg")[0] == 0
    assert iom("revoke", "bob")[0] == 0
    assert iom("enroll", "bob", "2.jpg", "--allow-revoked")[0] == 0
    assert iom("check")[0] == 0


def test_an_older_copy_is_told_until_it_is_accepted(iom, tmp_path):
    assert iom("init")[0] == 0
    old = (tmp_path / "g.db").read_bytes()
    assert iom("enroll", "alice", "0.jpg")[0] == 0
    (tmp_path / "g.db").write_bytes(old)
    assert iom("verify", "alice", "0.jpg")[0] == 3
    code, shown, _ = iom("check")
    assert code == 1
    assert "older copy" in shown
    assert iom("check", "--accept")[:2] == (0, "no problems\n")
    assert iom("check")[0] == 0


def test_an_export_is_for_its_owner_only(iom, tmp_path):
    assert iom("init")[0] == 0
    assert iom("export", tmp_path / "door.iomx")[0] == 0
    assert (tmp_path / "door.iomx").stat().st_mode & 0o077 == 0


def test_a_gallery_of_format_1_is_converted(iom, tmp_path, root, monkeypatch):
    for name in ("gallery.db", "gallery.keys", "gallery.wrap"):
        shutil.copy(root / "tests" / "fixtures" / "gallery_v1" / name, tmp_path / name)
    monkeypatch.setenv("IOM_GALLERY", f"sqlite:///{tmp_path}/gallery.db")
    monkeypatch.setenv("IOM_KEYS", f"file:{tmp_path}/gallery.keys?key-file={tmp_path}/gallery.wrap")
    code, _, error = iom("stats")
    assert code == 6
    assert "iom migrate" in error
    code, shown, _ = iom("migrate")
    assert code == 0
    assert "converted 4 applications, 12 references, 8 revoked" in shown
    new = f"file:{tmp_path}/gallery.keys.v2?key-file={tmp_path}/gallery.wrap"
    monkeypatch.setenv("IOM_KEYS", new)
    assert iom("check")[:2] == (0, "no problems\n")


@pytest.mark.parametrize(("options", "told"), [((), "finds the enrolled photographs"), (("--masked",), "masks")])
def test_permutation_keys_are_warned_of_in_one_line(iom, monkeypatch, options, told):
    monkeypatch.setattr(FakeHasher, "key_kind", "permutation")
    for command in (("init", *options), ("enroll", "alice", "0.jpg"), ("verify", "alice", "0.jpg")):
        code, _, error = iom(*command)
        assert code == 0
        (warning,) = [line for line in error.splitlines() if line.startswith("warning: ")]
        assert "keys of kind 'permutation'" in warning
        assert told in warning
        assert "enrol everyone anew" in warning
    assert iom("stats")[2] == ""


def test_orthogonal_keys_are_not_warned_of(iom):
    assert "warning" not in iom("init")[2]


@pytest.mark.parametrize(
    ("options", "masked"),
    [((), False), (("--masked",), True), (("--unmasked",), False),
     (("--key-mode", "application"), True), (("--key-mode", "application", "--masked"), True),
     (("--key-mode", "application", "--unmasked"), False)],
)  # fmt: skip
def test_codes_under_a_common_key_have_masks_unless_told_otherwise(iom, options, masked):
    _, shown, error = iom("init", *options)
    assert (", masked" in shown) == masked
    is_open = "application" in options and not masked
    assert error.count("none to ten of the enrolled faces") == is_open
    assert len(error.splitlines()) == is_open
    for command in (("enroll", "alice", "0.jpg"), ("identify", "0.jpg"), ("stats",)):
        assert iom(*command)[2].count("iom migrate --mask --application default") == is_open


def test_codes_are_put_under_masks(iom):
    iom("init", "--key-mode", "application", "--unmasked")
    iom("init", "--application", "gate", "--key-mode", "application", "--unmasked")
    iom("init", "--application", "own")
    iom("enroll", "alice", "0.jpg")
    assert iom("migrate", "--mask", "--application", "own")[1].startswith("application own: 0 references")
    code, shown, error = iom("migrate", "--mask", "--json")
    assert (code, json.loads(shown)["masked"], error) == (0, {"default": 1, "gate": 0}, "")
    assert iom("verify", "alice", "0.jpg")[::2] == (0, "")
    assert iom("identify", "0.jpg")[0] == 0
    code, shown, _ = iom("migrate", "--mask")
    assert (code, shown.splitlines()[0]) == (0, "every application with a common key has masks")
    assert iom("check")[:2] == (0, "no problems\n")


@pytest.mark.parametrize(
    ("options", "told"),
    [(("--mask", "--new-keys", "new.keys"), "--mask keeps the key store"),
     (("--application", "gate"), "goes with --mask"), (("--mask", "--application", "no"), "no application 'no'")],
)  # fmt: skip
def test_options_of_migrate_that_do_not_fit(iom, options, told):
    iom("init")
    code, _, error = iom("migrate", *options)
    assert code == 2
    assert told in error


@pytest.mark.parametrize("name", ["alice.token", "alice.png"])
def test_a_subject_with_a_token(iom, tmp_path, name):
    token, new = tmp_path / name, tmp_path / f"new-{name}"
    iom("init")
    code, shown, _ = iom("enroll", "alice", "0.jpg", "--token", token)
    assert (code, token.stat().st_mode & 0o777) == (0, 0o600)
    assert f"the token is in {token}" in shown
    secret = read_token(token)
    assert secret.to_text() not in shown
    assert iom("verify", "alice", "0.jpg", "--token", token)[0] == 0
    assert iom("identify", "0.jpg")[0] == 1
    for options in ((), ("--token", new)):
        code, shown, error = iom("verify", "alice", "0.jpg", "--json", *options)
        assert code == 7
        assert json.loads(shown)["error"]["type"] == "TokenError"
        assert "distance" not in shown
    assert iom("enroll", "alice", "1.jpg", "--add")[0] == 7
    assert iom("enroll", "alice", "1.jpg", "--add", "--token", token)[0] == 0
    assert f"token {secret.identifier}" in iom("show", "alice")[1]
    assert json.loads(iom("show", "alice", "--json")[1])["references"][0]["token"] == secret.identifier
    assert json.loads(iom("show", "alice", "--json")[1])["references"][0]["metadata"] == {}
    before = token.read_bytes()
    for command in ("enroll", "renew"):
        code, _, error = iom(command, "alice", "0.jpg", "--token", token)
        assert (code, token.read_bytes()) == (7, before)
        assert "a token replaces none" in error
    assert iom("renew", "alice", "0.jpg")[0] == 7
    assert iom("renew", "alice", "0.jpg", "--token", new)[0] == 0
    assert iom("verify", "alice", "0.jpg", "--token", new)[0] == 0
    assert iom("verify", "alice", "0.jpg", "--token", token)[0] == 7
    assert iom("check")[0] == 0


def test_no_token_is_left_where_nothing_was_enrolled(iom, tmp_path):
    token = tmp_path / "alice.token"
    iom("init")
    iom("init", "--application", "gate", "--key-mode", "application")
    iom("enroll", "alice", "0.jpg")
    for command in (
        ("enroll", "alice", "0.jpg"), ("enroll", "bob", "0.jpg", "--application", "gate"), ("renew", "carol", "0.jpg"),
        ("enroll", "bob", "no.jpg"), ("enroll", "--folder", tmp_path), ("enroll", "bob", "0.jpg", "--add"),
    ):  # fmt: skip
        code, _, error = iom(*command, "--token", token)
        assert code in (2, 3, 7)
        assert error.count("\n") == 1
        assert not token.exists()
