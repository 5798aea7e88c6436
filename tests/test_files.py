import json
import os
import stat
from pathlib import Path

import numpy as np
import pytest

from iom._files import (
    Journal,
    atomic_path,
    cached_array,
    check_output,
    data_folder,
    data_path,
    remove_temporary_files,
    sha256_of,
    write_json,
    write_secret,
)
from iom._registry import lookup
from iom.errors import ConfigError, DataError, SettingsChangedError


def write_half(path):
    with atomic_path(path) as temporary:
        temporary.write_text("half")
        raise TypeError


def test_an_error_leaves_the_old_file(tmp_path):
    path = tmp_path / "report.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_half(path)
    assert json.loads(path.read_text()) == {"a": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["report.json"]


def test_files_have_the_usual_mode(tmp_path):
    write_json(tmp_path / "a.json", {})
    (tmp_path / "b.json").touch()
    modes = [(tmp_path / name).stat().st_mode for name in ("a.json", "b.json")]
    assert modes[0] == modes[1]


def test_missing_folders_are_made_and_suffixes_kept(tmp_path):
    with atomic_path(tmp_path / "a" / "b" / "model.keras") as temporary:
        assert temporary.suffix == ".keras"
        temporary.write_bytes(b"x")
    assert (tmp_path / "a" / "b" / "model.keras").read_bytes() == b"x"


def test_sha256(tmp_path):
    (tmp_path / "f").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_of(tmp_path / "f") == expected


def test_a_damaged_cache_is_no_cache(tmp_path):
    path = tmp_path / "rows.npy"
    rows = np.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(cached_array(path, (2, 3), lambda: rows), rows)
    whole = path.read_bytes()
    np.testing.assert_array_equal(cached_array(path, (2, 3), pytest.fail), rows)
    assert cached_array(path, (3, 2), lambda: rows.T) is not None
    for length in range(0, len(whole), 16):
        path.write_bytes(whole[:length])
        np.testing.assert_array_equal(cached_array(path, (2, 3), lambda: rows), rows)
        assert path.read_bytes() == whole


def test_a_cache_is_never_unpickled(tmp_path):
    path = tmp_path / "rows.npy"
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    assert cached_array(path, (1,), lambda: np.zeros(1)) == 0


def test_lookup_lists_the_choices():
    table = {"iresnet18": 1, "iresnet50": 2}
    assert lookup(table, "iresnet50", "backbone") == 2
    with pytest.raises(ConfigError, match=r"unknown backbone 'iresnet5' - did you mean") as caught:
        lookup(table, "iresnet5", "backbone")
    assert "iresnet18, iresnet50" in str(caught.value)


def test_what_a_killed_writer_left_is_removed_and_nothing_else(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in (".tmp-a.jpg", "sub/.tmp-b.png", "kept.jpg", "sub/.other"):
        (tmp_path / name).write_text("x")
    remove_temporary_files(tmp_path)
    left = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"kept.jpg", ".other"}


def test_a_secret_is_never_readable_by_others(tmp_path, monkeypatch):
    path, modes = tmp_path / "wrap", []

    def seen(*_):
        modes.extend(stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir())

    for name in ("fsync", "replace", "rename", "link", "chmod", "fchmod"):
        original = getattr(os, name)

        def watched(*arguments, original=original, **options):
            seen()
            result = original(*arguments, **options)
            seen()
            return result

        monkeypatch.setattr(os, name, watched)
    write_secret(path, "first")
    write_secret(path, "second", replace=True)
    assert path.read_text() == "second"
    assert len(modes) > 4
    assert set(modes) == {0o600}


def test_a_secret_replaces_nothing_unless_told(tmp_path):
    write_secret(tmp_path / "wrap", "first")
    with pytest.raises(FileExistsError):
        write_secret(tmp_path / "wrap", "second")
    assert (tmp_path / "wrap").read_text() == "first"
    assert [file.name for file in tmp_path.iterdir()] == ["wrap"]


def test_a_rename_is_followed_by_an_fsync_of_the_folder(tmp_path, monkeypatch):
    calls, fsync, replace = [], os.fsync, os.replace

    def recorded(handle):
        calls.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        fsync(handle)

    def renamed(*arguments, **options):
        calls.append("rename")
        replace(*arguments, **options)

    monkeypatch.setattr(os, "fsync", recorded)
    monkeypatch.setattr(os, "replace", renamed)
    write_json(tmp_path / "a.json", {})
    assert calls == ["file", "rename", "folder"]


def test_checking_an_output_leaves_everything_as_it_was(tmp_path):
    check_output(tmp_path / "new" / "below")
    check_output(tmp_path / "new" / "file.json", folder=False)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "probe").write_text("a user's own file")
    check_output(tmp_path)
    check_output(tmp_path / "probe", folder=False)
    assert [path.name for path in tmp_path.iterdir()] == ["probe"]
    assert (tmp_path / "probe").read_text() == "a user's own file"


@pytest.mark.parametrize("place", ["file", "file/below", "gone", "gone/below", "x" * 300])
def test_an_output_that_cannot_be_written_is_one_error(tmp_path, place):
    (tmp_path / "file").write_text("")
    (tmp_path / "gone").symlink_to("nowhere")
    with pytest.raises(DataError, match="cannot write to"):
        check_output(tmp_path / place)


def test_a_folder_without_the_right_to_write_is_one_error(tmp_path, monkeypatch):
    def refuse(**options):  # the tests may run as root, who may write everywhere
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(DataError, match="Permission denied"):
        check_output(tmp_path / "new")


def entries(path, settings):
    with Journal(path, settings) as journal:
        return [entry for _, entry in journal.entries()]


def test_a_journal_is_continued_and_loses_at_most_its_cut_line(tmp_path):
    path, settings = tmp_path / "new" / "run.jsonl", {"size": 112, "names": ("a", "b")}
    with Journal(path, settings) as journal:
        positions = [journal.add({"name": name}, durable=True) for name in ("first", "zwei\n", "\udcff")]
        assert [journal.read(position)["name"] for position in positions] == ["first", "zwei\n", "\udcff"]
        assert [position for position, _ in journal.entries()] == positions
    whole = path.read_bytes()
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        found = [entry["name"] for entry in entries(path, settings)]
        assert found == ["first", "zwei\n", "\udcff"][: len(found)]
        assert len(found) == max(0, whole[:length].count(b"\n") - 1)
    with Journal(path, settings) as journal:
        journal.add({"name": "last"})
    assert entries(path, settings)[-1] == {"name": "last"}


def test_a_journal_of_other_settings_is_refused_with_their_names(tmp_path):
    path = tmp_path / "run.jsonl"
    entries(path, {"size": 112, "score": 0.5})
    with pytest.raises(SettingsChangedError, match=r"other settings \(more, none, score\)") as caught:
        Journal(path, {"size": 112, "score": 0.6, "more": None, "none": None})
    assert (caught.value.path, caught.value.changed) == (path, ("more", "none", "score"))
    entries(path, {"size": 112, "score": 0.5})


@pytest.mark.parametrize("line", ["{}", "[]", "1", '{"settings": 1}', '{"size": 112}', '{"settings": {}}\n{"a"\n{}'])
def test_what_is_no_journal_is_one_error(tmp_path, line):
    (tmp_path / "run.jsonl").write_text(line + "\n")
    with pytest.raises(DataError, match="remove it to begin anew"):
        entries(tmp_path / "run.jsonl", {})


def test_a_journal_is_held_by_one_run(tmp_path):
    with Journal(tmp_path / "run.jsonl", {}), pytest.raises(DataError, match="another run"):
        Journal(tmp_path / "run.jsonl", {})
    entries(tmp_path / "run.jsonl", {})


def test_settings_name_the_folder_of_prepared_data(tmp_path, monkeypatch):
    monkeypatch.setenv("IOM_DATA", str(tmp_path))
    assert data_folder() == data_path("$IOM_DATA") == tmp_path
    assert data_path("$IOM_DATA/lists/lfw_pairs.txt") == tmp_path / "lists" / "lfw_pairs.txt"
    for other in ("", "../shared/data/lists", "/faces", "$IOM_DATABASE/a", "a/$IOM_DATA"):
        assert data_path(other) == Path(other)
    monkeypatch.setenv("IOM_DATA", str(tmp_path / "absent"))
    assert data_path("faces") == Path("faces")
    with pytest.raises(DataError, match=r"no folder .*absent: expected prepared data .*IOM_DATA.*docs/reproduce\.md"):
        data_path("$IOM_DATA/lists")
    monkeypatch.delenv("IOM_DATA")
    assert data_folder().name == "data"
