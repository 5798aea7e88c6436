"""Folders with everything that a file system allows."""

import os

import hypothesis.strategies as st
import pytest
from hypothesis import given

from iom.data.photo_listing import list_photos, name_of, text_of
from iom.errors import DataError


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
    found = list_photos(root)
    assert found.photos == ("b/a.PNG", raw, "b/deep/new\nline.gif", "same.jpg", "z.jpg")
    assert {each.name: each.status for each in found.unusable} == {
        "b/loop": "linked_folder",
        "gone.jpg": "unreadable",
        "none": "wrong_type",
        "notes.txt": "wrong_type",
        "pipe.jpg": "wrong_type",
        "self.jpg": "unreadable",
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
    found = list_photos(tmp_path)
    assert found.photos == ("open/a.jpg",)
    assert found.unusable[0][:2] == ("closed", "unreadable")
    assert "Permission denied" in found.unusable[0].reason


def test_no_folder(tmp_path):
    with pytest.raises(DataError, match="no folder"):
        list_photos(tmp_path / "none")


@given(st.binary(min_size=1, max_size=40).filter(lambda raw: b"\0" not in raw))
def test_any_name_comes_back(raw):
    name = os.fsdecode(raw)
    text, exact = text_of(name)
    text.encode("utf-8")
    assert os.fsencode(name_of(text, exact)) == raw
