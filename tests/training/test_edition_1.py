"""A run that an earlier version began is continued."""

import shutil

from iom.config import Stage2Config, load_config
from iom.synthetic import write_folder
from iom.training.hasher import train_hasher
from iom.training.run_dir import read_records


def test_an_interrupted_run_is_continued(tmp_path, monkeypatch, pytestconfig):
    fixtures = pytestconfig.rootpath / "tests" / "fixtures" / "edition_1"
    shutil.copytree(fixtures / "stage1", tmp_path / "stage1")
    run = tmp_path / "run"
    shutil.copytree(fixtures / "stage2_interrupted", run)
    write_folder(tmp_path / "faces", 12, 4, seed=1)
    stored = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(stored.replace("epochs: 40", "epochs: 2"))  # 40 were to be interrupted
    monkeypatch.chdir(tmp_path)
    before = read_records(run / "metrics.jsonl")
    hasher = train_hasher(load_config(Stage2Config, run / "config.yaml", saved=True), run, resume=True, progress=False)
    records = read_records(run / "metrics.jsonl")
    assert records[:1] == before
    assert [record["epoch"] for record in records] == [1, 2]
    assert records[1]["held_out_float_eer"] == before[0]["held_out_float_eer"]
    assert records[1]["held_out_grp_eer"] == before[0]["held_out_grp_eer"]
    assert hasher.calibration is not None
