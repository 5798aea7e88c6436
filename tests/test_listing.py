"""Folders with everything that a file system allows, read alike by every command."""

import os
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given

from iom._files import list_folders, list_images, list_subjects, name_of, text_of
from iom.config import FolderConfig
from iom.data.benchmarks.folders import folder_identification
from iom.data.check import check_data
from iom.data.folders import scan_folder
from iom.data.formats.conversions import from_folder
from iom.errors import DataError
from iom.export.exporter import calibration_faces
from iom.gallery.bulk import read_rows
from iom.photos.pipeline import find_photographs
from tests.data.nasty_folder import IMAGES, write_nasty_folder


def test_everything_has_a_place(tmp_path):
    root = tmp_path / "photos"
    (root / "b" / "deep").mkdir(parents=True)
    for name in ("z.jpg", "b/a.PNG", "b/deep/new\nline.gif", "notes.txt", "none", ".hidden.jpg"):
        (root / name).write_bytes(b"x")
    (root / ".cache").mkdir()
    (root / ".cache" / "a.jpg").write_bytes(b"x")
    (root / "b" / "loop").symlink_to(root)
    (root / "self.jpg").symlink_to("self.jpg")
    (root / "gone.jpg").symlink_to("nowhere.jpg")
    (root / "same.jpg").symlink_to("z.jpg")
    os.mkfifo(root / "pipe.jpg")
    raw = os.fsdecode(b"b/caf\xe9.jpg")
    (root / raw).write_bytes(b"x")
    found = list_images(root)
    assert found.images == ("b/a.PNG", raw, "b/deep/new\nline.gif", "gone.jpg", "same.jpg", "self.jpg", "z.jpg")
    assert {each.name: each.status for each in found.unusable} == {
        "b/loop": "linked_folder",
        "none": "wrong_type",
        "notes.txt": "wrong_type",
        "pipe.jpg": "wrong_type",
    }
    assert all(each.reason for each in found.unusable)
    assert found.hidden == 2


def test_a_closed_folder_is_told_not_hidden(tmp_path, monkeypatch):
    (tmp_path / "open").mkdir()
    (tmp_path / "closed").mkdir()
    (tmp_path / "open" / "a.jpg").write_bytes(b"x")
    real = os.scandir

    def refuse(path):  # the tests may run as root, who may read everything
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = list_images(tmp_path)
    assert found.images == ("open/a.jpg",)
    assert found.unusable[0][:2] == ("closed", "unreadable")
    assert "Permission denied" in found.unusable[0].reason


def test_no_folder(tmp_path):
    with pytest.raises(DataError, match="no folder"):
        list_images(tmp_path / "none")


@given(st.binary(min_size=1, max_size=40).filter(lambda raw: b"\0" not in raw))
def test_any_name_comes_back(raw):
    name = os.fsdecode(raw)
    text, exact = text_of(name)
    text.encode("utf-8")
    assert os.fsencode(name_of(text, exact)) == raw


@pytest.fixture(scope="module")
def nasty(tmp_path_factory):
    return write_nasty_folder(tmp_path_factory.mktemp("nasty") / "people")


LISTERS = {
    "list_images": lambda root: list_images(root).images,
    "list_subjects": lambda root: [n for ns in list_subjects(root).subjects.values() for n in ns],
    "train, calibrate, search, all pairs": lambda root: scan_folder(FolderConfig(root=str(root), min_images=1)).paths,
    "identification": lambda root: [
        Path(str(image)).relative_to(root).as_posix() for image in folder_identification(root).images
    ],
    "bulk-enroll": lambda root: [row.name for row in read_rows("folder", root)],
    "convert": lambda root: from_folder(root).paths,
    "align": lambda root: find_photographs(root, root.parent / "out", None)[0],
}


@pytest.mark.parametrize("lister", LISTERS)
def test_every_command_sees_the_same_images(nasty, lister):
    assert list(LISTERS[lister](nasty)) == list(IMAGES)


def test_a_check_and_an_export_see_the_same_images(nasty):
    count, findings = check_data(nasty)
    assert count == len(IMAGES)
    assert [(found.kind, found.place) for found in findings if "folder" in found.kind] == [
        ("linked_folder", "anna/loop"),
        ("linked_folder", "carl"),
        ("empty_folder", "nothing"),
    ]
    assert {found.place for found in findings if found.kind == "odd_file"} == {"anna/notes.txt", "list.csv"}
    assert len(calibration_faces(nasty, 100, size=112)) == len(IMAGES)


def test_links_to_folders_are_told(nasty):
    folder = scan_folder(FolderConfig(root=str(nasty), min_images=1))
    assert "2 links to folders are not followed" in folder.describe_left_out(1)
    assert from_folder(nasty).notes == ("2 links to folders are not followed",)


def test_a_folder_of_subjects_may_itself_be_a_link(nasty, tmp_path):
    (tmp_path / "link").symlink_to(nasty)
    assert list_images(tmp_path / "link").images == tuple(IMAGES)


def test_files_that_lie_higher_or_lower_belong_to_no_subject(tmp_path):
    for name in ("top.jpg", "a/1.jpg", "a/deep/2.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert list_subjects(tmp_path).subjects == {"a": ["a/1.jpg"]}
    assert list_images(tmp_path, depth=1).images == ("top.jpg",)
    assert len(list_images(tmp_path).images) == 3


def test_sub_folders_under_the_same_rule(nasty):
    assert [place.name for place in list_folders(nasty)] == ["anna", "anna-2", "bert", "nothing"]
    with pytest.raises(DataError, match="cannot read the folder"):
        list_folders(nasty / "none")
