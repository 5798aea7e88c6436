"""Where an output cannot be written, a command says so first: before inputs and models are read."""

import pytest

from iom.cli.main import main

FOLDERS = {
    "train-stage1": ["--config", "configs/smoke/stage1.yaml", "--output", "OUT"],
    "train-stage2": ["--config", "configs/smoke/stage2.yaml", "--output", "OUT"],
    "sweep": ["--config", "configs/sweep/smoke.yaml", "--output", "OUT"],
    "evaluate": ["--config", "configs/smoke/evaluate.yaml", "--output", "OUT"],
    "evaluate --report": ["--config", "configs/smoke/evaluate.yaml", "--report", "OUT"],
    "identification": ["--config", "configs/evaluate/lfw.yaml", "--output", "OUT"],
    "score-files": ["export", "--config", "configs/evaluate/lfw.yaml", "--output", "OUT"],
    "compare": ["NONE/report.json", "NONE/report.json", "--output", "OUT"],
    "align": ["NONE", "OUT"],
    "faces": ["NONE", "--output", "OUT"],
    "convert": ["NONE", "OUT", "--kind", "folder:tfrecord"],
    "deploy": ["--hasher", "NONE", "--output", "OUT"],
    "synthesize": ["--output", "OUT"],
    "demo": ["--images", "NONE", "NONE", "NONE", "--output", "OUT"],
}
FILES = {
    "hash": ["NONE", "--output", "OUT.parquet", "--key-file", "NONE"],
    "curves": ["NONE", "--output", "OUT.png"],
    "demo .png": ["--images", "NONE", "NONE", "NONE", "--output", "OUT.png"],
    "make-face-model": ["--folder", "NONE", "--output", "OUT.npz"],
}


@pytest.fixture
def refused(root, tmp_path, monkeypatch, capsys):
    """Run a command in the project's folder; its one line of error."""
    monkeypatch.chdir(root)

    def run(name, arguments, output):
        given = [text.replace("OUT", output).replace("NONE", "/nowhere") for text in arguments]
        code = main([name.split()[0], *given])
        error = capsys.readouterr().err
        assert code != 0
        assert error.startswith("error: cannot write")
        assert error.count("\n") == 1
        return error

    return run


@pytest.mark.parametrize("name", [*FOLDERS, *FILES])
def test_a_path_below_a_file_is_refused_first(refused, tmp_path, name):
    (tmp_path / "file").write_text("kept")
    error = refused(name, (FOLDERS | FILES)[name], f"{tmp_path}/file/below/deep")
    assert f"{tmp_path}/file is a file" in error
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("name", FOLDERS)
def test_a_file_where_a_folder_is_expected_is_refused_first(refused, tmp_path, name):
    (tmp_path / "file").write_text("kept")
    assert "it is a file" in refused(name, FOLDERS[name], f"{tmp_path}/file")
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize("name", FILES)
def test_a_folder_where_a_file_is_expected_is_refused_first(refused, tmp_path, name):
    arguments = FILES[name]
    (suffix,) = (text[3:] for text in arguments if text.startswith("OUT"))
    (tmp_path / f"folder{suffix}").mkdir()
    assert "it is a folder" in refused(name, arguments, f"{tmp_path}/folder")
