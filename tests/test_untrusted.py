"""Bounds on JSON, and paths, from files that others made."""

import json
import os

import pytest

from iom._untrusted import parse_json, path_inside, read_json
from iom.errors import DataError, WeightsError


@pytest.mark.parametrize("text", ["[" * 200_000, '{"a":' * 200_000, "[" * 500 + "]" * 500])
def test_deep_json_is_a_value_error(text):
    with pytest.raises(ValueError, match="nested"):
        parse_json(text)


def test_brackets_within_texts_are_not_depth():
    value = {"text": "[{" * 500}
    assert parse_json(json.dumps(value)) == value


@pytest.mark.parametrize("text", ["1" * 100_000, '{"a": -' + "9" * 100_000 + "}"])
def test_huge_integers_are_a_value_error(text):
    with pytest.raises(ValueError, match="JSON"):
        parse_json(text)


@pytest.mark.parametrize("data", [b"\xff\xfe{}", b"{", b"", b'"\\ud800', b"nul"])
def test_damage_is_a_value_error(data):
    with pytest.raises(ValueError, match="JSON"):
        parse_json(data)


def test_more_bytes_than_allowed_are_refused_unparsed(tmp_path):
    with pytest.raises(ValueError, match="at most 10 bytes"):
        parse_json("[1, 2, 3, 4]", max_bytes=10)
    file = tmp_path / "large.json"
    with file.open("wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(OSError, match="at most") as caught:
        read_json(file)
    assert caught.value.strerror


@pytest.mark.parametrize("name", ["/dev/zero", "/dev/null"])
def test_devices_are_not_read(name):
    with pytest.raises(OSError, match="not a regular file"):
        read_json(name)


def test_a_pipe_that_no_process_writes_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(OSError, match="not a regular file"):
        read_json(tmp_path / "pipe.json")


def test_a_file_is_read(tmp_path):
    (tmp_path / "a.json").write_text('{"é": [1, 2.5, null]}', encoding="utf-8")
    assert read_json(tmp_path / "a.json") == {"é": [1, 2.5, None]}
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "missing.json")


HOSTILE_NAMES = [
    "../x.png",
    "a/../../x.png",
    "a\\..\\..\\x.png",
    "/etc/passwd",
    "//host/share",
    "C:x.png",
    "c:\\x.png",
    "\\x.png",
    "a\0.png",
    "a\nb.png",
    "",
    ".",
    "con",
    "a/NUL.png",
    None,
    7,
]


@pytest.mark.parametrize("name", HOSTILE_NAMES, ids=repr)
def test_names_that_lead_out_of_the_folder_are_refused(tmp_path, name):
    with pytest.raises(WeightsError, match=r"list\.txt: expected a relative path"):
        path_inside(tmp_path, name, source="list.txt", error=WeightsError)


@pytest.mark.parametrize("name", ["a.png", "p/a.png", "./p/a.png", "é/ a..b .png", "p/.hidden", "consul"])
def test_names_within_the_folder_are_taken(tmp_path, name):
    assert path_inside(tmp_path, name, source="list.txt") == tmp_path / name


def test_links_that_lead_out_of_the_folder_are_refused(tmp_path):
    outside, root = tmp_path / "outside", tmp_path / "data"
    (outside / "p").mkdir(parents=True)
    (root / "q").mkdir(parents=True)
    (root / "p").symlink_to(outside / "p")
    (root / "q" / "a.png").symlink_to(outside / "a.png")
    (root / "q" / "b.png").symlink_to("c.png")
    for name in ("p/a.png", "p/new/a.png", "q/a.png"):
        with pytest.raises(DataError, match="symbolic link"):
            path_inside(root, name, source="list.txt")
    assert path_inside(root, "q/b.png", source="list.txt") == root / "q" / "b.png"
    (tmp_path / "linked").symlink_to(root)
    assert path_inside(tmp_path / "linked", "q/b.png", source="list.txt").name == "b.png"
