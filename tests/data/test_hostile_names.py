"""Files of data whose names lead out of their folder: refused, nothing written, nothing read."""

import hashlib
import json

import numpy as np
import pytest

from iom.config import FolderConfig
from iom.data.benchmarks.identification import read_blufr
from iom.data.benchmarks.pair_lists import read_pair_list, read_two_line_pairs, read_youtube_faces
from iom.data.folders import scan_folder
from iom.data.formats.conversions import convert
from iom.data.tfrecord import open_shards
from iom.errors import DataError
from iom.gallery.bulk import read_rows
from iom.photos.photograph import PhotoSettings
from iom.photos.pipeline import PhotoRun, align_photos
from tests.commands import command
from tests.data.test_conversions import SIDE, encoded

main = command("convert")

LINES = b"\nssh-ed25519 AAAAC3Nz attacker\n"


@pytest.fixture
def shards(tmp_path):
    """Shards of two subjects of two images, one of them with bytes behind its end."""
    for number, name in enumerate(("anna/0.png", "anna/1.png", "bert/0.png", "bert/1.png")):
        path = tmp_path / "faces" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(number, "PNG") + (LINES if number == 3 else b""))
    convert(("folder", "tfrecord"), tmp_path / "faces", tmp_path / "shards", size=SIDE)
    return tmp_path / "shards"


def change(shards, rows=lambda text: text, **first):
    """Rewrite the index, and settings of the first shard, so that every digest fits."""
    manifest = json.loads((shards / "manifest.json").read_text())
    text = rows((shards / "00000.tsv").read_text())
    (shards / "00000.tsv").write_text(text)
    digest = hashlib.sha256(text.encode()).hexdigest()
    manifest["shards"][0] |= {"index_sha256": digest, **first}
    names = [line.split("\t")[-1] for line in text.splitlines()]
    manifest["subjects"] = sorted({name.split("/")[0] for name in names})
    (shards / "manifest.json").write_text(json.dumps(manifest))


def everything(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize(
    "name",
    [
        "../../pwn/authorized_keys",
        "..",
        "/{root}/absolute.png",
        "bert/../../../x.png",
        "bert/x/y.png",
        "bert",
        "C:bert/1.png",
        "bert/nul.png",
        "bert/\0.png",
        "conversion.json/x.png",
        ".conversion.jsonl/x.png",
        "bert/.tmp-1.png",
    ],
)
def test_shards_cannot_name_a_file_outside_of_the_target(shards, tmp_path, capsys, name):
    name = name.replace("{root}", str(tmp_path))
    old = "\t1\t", "bert/1.png"
    change(shards, lambda text: relabelled(text.replace(old[1], name)))
    before = everything(tmp_path)
    command = [str(shards), str(tmp_path / "out" / "in"), "--kind", "tfrecord:folder"]
    assert main([*command, "--size", str(SIDE), "--quiet"]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "expected" in told
    assert everything(tmp_path) == before


def relabelled(text):
    """The lines of an index with the labels that their subjects have."""
    lines = [line.split("\t") for line in text.splitlines()]
    subjects = sorted({line[-1].split("/")[0] for line in lines})
    for line in lines:
        line[2] = str(subjects.index(line[-1].split("/")[0]))
    return "".join("\t".join(line) + "\n" for line in lines)


def test_bytes_behind_an_image_are_copied_and_no_more(shards, tmp_path):
    convert(("tfrecord", "folder"), shards, tmp_path / "again", size=SIDE)
    copied = tmp_path / "again" / "bert" / "1.png"
    assert copied.read_bytes() == (tmp_path / "faces" / "bert" / "1.png").read_bytes()
    assert not copied.stat().st_mode & 0o111


@pytest.mark.parametrize("where", ["link in the target", "linked subject"])
def test_a_link_in_the_target_is_not_followed(shards, tmp_path, where):
    outside, target = tmp_path / "outside", tmp_path / "target"
    run = {"size": SIDE}
    convert(("tfrecord", "folder"), shards, target, **run)
    outside.mkdir()
    if where == "linked subject":
        (target / "bert").rename(tmp_path / "gone")
        (target / "bert").symlink_to(outside)
    else:
        (target / "bert" / "1.png").unlink()
        (target / "bert" / "1.png").symlink_to(outside / "1.png")
    with pytest.raises(DataError, match="symbolic link"):
        convert(("tfrecord", "folder"), shards, target, **run)
    assert not any(outside.iterdir())


@pytest.mark.parametrize("name", ["../other.tfrecord", "/{root}/other.tfrecord"])
def test_a_manifest_cannot_name_a_shard_outside_of_its_folder(shards, tmp_path, name):
    name = name.replace("{root}", str(tmp_path))
    for suffix in (".tfrecord", ".tsv"):
        (shards / f"00000{suffix}").rename(tmp_path / f"other{suffix}")
    manifest = json.loads((shards / "manifest.json").read_text())
    manifest["shards"][0]["file"] = name
    (shards / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="within the folder"):
        open_shards(shards)


@pytest.mark.parametrize(("column", "value"), [(0, "-1"), (1, "-5"), (1, str(1 << 50)), (0, str(1 << 50)), (2, "-1")])
def test_an_index_cannot_ask_for_more_than_its_shard_holds(shards, column, value):
    def rows(text):
        lines = [line.split("\t") for line in text.splitlines()]
        lines[3][column] = value
        return "".join("\t".join(line) + "\n" for line in lines)

    change(shards, rows)
    with pytest.raises(DataError, match=r"00000\.tsv"):
        open_shards(shards)


@pytest.fixture
def listed(tmp_path):
    """A folder of images, a link in it that leads out, and an image outside."""
    root = tmp_path / "root"
    for subject in ("a", "b"):
        (root / subject).mkdir(parents=True)
        for number in (1, 2):
            (root / subject / f"{subject}_{number:04d}.jpg").write_bytes(encoded(number))
    (tmp_path / "outside.jpg").write_bytes(encoded(9))
    (root / "a" / "link.jpg").symlink_to(tmp_path / "outside.jpg")
    (root / "linked").symlink_to(tmp_path)
    return root


OUTSIDE = ["../outside.jpg", "{root}/../outside.jpg", "a/../../outside.jpg", "a/link.jpg",
           "linked/outside.jpg"]  # fmt: skip


@pytest.mark.parametrize("name", OUTSIDE)
def test_lists_cannot_name_images_outside_of_their_folder(listed, tmp_path, name):
    name = name.replace("{root}", str(listed))
    form = "within|symbolic link|leads out"
    image = "a/a_0001.jpg"
    lists = {
        lambda file: read_pair_list(file, listed): f"{image} {name} 1\n",
        lambda file: read_two_line_pairs(file, listed): f"{image} 1\n{name} 1\n",
        lambda file: scan_folder(FolderConfig(root=str(listed), include=str(file))): f"{name}\n",
    }
    for number, (read, text) in enumerate(lists.items()):
        file = tmp_path / f"{number}.txt"
        file.write_text(text)
        with pytest.raises(DataError, match=form + "|<subject>/<image>"):
            read(file)
    people = listed / "people.txt"
    people.write_text(f"{name}\tanna\n")
    with pytest.raises(DataError, match=form):
        read_rows("list", people)


def test_names_of_subjects_cannot_lead_out_of_a_folder(listed, tmp_path):
    (tmp_path / "splits.txt").write_text("1, 1, ../root, a/b, 0\n")
    with pytest.raises(DataError, match="within the folder"):
        read_youtube_faces(tmp_path / "splits.txt", listed)
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "image_list.txt").write_text("../outside_0001.jpg\n")
    with pytest.raises(DataError, match="within the folder"):
        read_blufr(lists, listed)


@pytest.mark.parametrize("name", ["../face.png", "/etc/hostname"])
def test_a_journal_cannot_name_faces_outside_of_its_folder(tmp_path, name):
    photos, output = tmp_path / "photos", tmp_path / "output"
    photos.mkdir()
    (photos / "a.jpg").write_bytes(encoded(1))
    run = PhotoRun(photos, PhotoSettings(detector="points"), points={"a.jpg": []}, workers=0)
    align_photos(run, output)
    entry = {"photo": "a.jpg", "mark": [1, 2], "status": "aligned", "reason": "", "notes": [],
             "faces": [[1.0, *np.arange(10.0).tolist()]], "files": [name]}  # fmt: skip
    with (output / "align.jsonl").open("a") as stream:
        stream.write(json.dumps(entry) + "\n")
    with pytest.raises(DataError, match="within the folder"):
        align_photos(run, output)
