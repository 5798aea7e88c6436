import json

import numpy as np
import pytest

from benchmarks import lfw_full
from benchmarks.lfw_full_cells import PROTOCOLS
from benchmarks.lfw_full_store import Cells
from iom.config import EvaluateConfig, HasherConfig
from iom.models.face_hasher import KerasFaceHasher
from iom.nn.hash_network import build_hasher

CONFIG = EvaluateConfig()


@pytest.fixture
def data_folder(tmp_path):
    """LFW's layout with vectors for faces: 90 subjects, and 60 more for the attacker."""
    generator = np.random.default_rng(1)
    data = tmp_path / "data"
    (data / "embeddings").mkdir(parents=True)
    (data / "lists" / "blufr").mkdir(parents=True)
    for name, subjects in (("lfw_112x112", 90), ("fiw_112x112", 60)):
        people = [f"{name[:3]}{number:03d}" for number in range(subjects)]
        paths = [f"{who}/{who}_{image:04d}.jpg" for who in people for image in range(1, 7)]
        rows = np.repeat(generator.normal(size=(subjects, 128)), 6, axis=0)
        rows = rows + 0.6 * generator.normal(size=rows.shape)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        np.savez(
            data / "embeddings" / f"{name}.mobilefacenet_y1.npz",
            embedding=rows.astype(np.float32),
            path=np.array(paths),
        )
        if name.startswith("lfw"):
            faces = paths
        else:
            (data / "lists" / "fiw_clean.txt").write_text("\n".join(paths))
        for path in paths:
            file = data / name / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
    _pairs(data / "lists" / "lfw_pairs.txt")
    lists = data / "lists" / "blufr"
    (lists / "image_list.txt").write_text("\n".join(path.split("/")[1] for path in faces))
    everything = np.arange(1, len(faces) + 1)
    gallery = everything[::6][:45]
    rows = {"test_set": everything, "gallery_set": gallery,
            "probe_set": np.setdiff1d(everything, gallery)}  # fmt: skip
    for name, numbers in rows.items():
        line = " ".join(map(str, numbers))
        (lists / f"{name}.txt").write_text(f"{line}\n{line}\n")
    return tmp_path / "data"


def _pairs(path):
    lines = ["2\t30"]
    for fold in range(2):
        people = range(45 * fold, 45 * fold + 30)
        lines += [f"lfw{who:03d}\t1\t2" for who in people]
        lines += [f"lfw{who:03d}\t1\tlfw{who + 1:03d}\t3" for who in people]
    path.write_text("\n".join(lines) + "\n")


def test_every_cell_and_none_twice(data_folder, tmp_path, capsys, monkeypatch):
    quick = [s for s in lfw_full.QUICK if not s.startswith(("report.attack_names", "report.pairs"))]
    small = (*quick, "report.attack_names=[closed_form, one_guess]", "report.pairs=300")
    monkeypatch.setattr(lfw_full, "QUICK", small)
    arguments = ["--data", str(data_folder), "--cells", str(tmp_path / "cells"), "--quick",
                 "--systems", "float", "grp"]  # fmt: skip
    assert lfw_full.main(arguments) == 0
    first = capsys.readouterr().out.splitlines()
    rows = json.loads(first[-1])["rows"]
    assert [row["system"] for row in rows] == ["float", "grp"]
    for figure in lfw_full.COLUMNS:
        if figure != "pairs_fnmr_at_fmr_1e-3":
            assert all(row[figure] is not None for row in rows), figure
    assert rows[1]["best_attack"] == "closed_form"
    assert rows[1]["prar"] > 0.9
    assert rows[1]["d_sys"] < 0.5 < rows[0]["d_sys"]
    assert len(list((tmp_path / "cells").iterdir())) == 2 * len(PROTOCOLS)
    damaged = tmp_path / "cells" / "grp.search.json"
    damaged.write_text(damaged.read_text()[:50])
    assert lfw_full.main(arguments) == 0
    again = capsys.readouterr().out.splitlines()
    assert [line for line in again if line.endswith(" s")] == [
        line for line in again if line.startswith("grp, search: ")
    ]
    assert again[-1] == first[-1]
    assert lfw_full.main([*arguments[:-1], "--protocols", "pairs", "--seed", "2"]) == 0
    assert "float, pairs: " in capsys.readouterr().out


def test_the_predecessor_is_a_row_beside_those_that_are_done(data_folder, tmp_path, capsys):
    arguments = ["--data", str(data_folder), "--cells", str(tmp_path / "cells"), "--quick",
                 "--protocols", "all_pairs", "--fixed-key", str(tmp_path / "fixed_key")]  # fmt: skip
    assert lfw_full.main([*arguments, "--systems", "fixed_key"]) == 2
    assert "configs/stage2/fixed_key.yaml" in capsys.readouterr().err
    assert lfw_full.main([*arguments, "--systems", "grp"]) == 0
    code = HasherConfig(code_length=64)
    hasher = KerasFaceHasher(build_hasher(128, code, seed=1), embedder_name="", embedder_fingerprint="")
    hasher.save(tmp_path / "fixed_key")
    capsys.readouterr()
    assert lfw_full.main([*arguments, "--systems", "fixed_key"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines if line.endswith(" s")] == ["fixed_key"]
    rows = json.loads(lines[-1])["rows"]
    assert [(row["system"], row["bits"]) for row in rows] == [("grp", 1536), ("fixed_key", 192)]
    assert lfw_full.main([*arguments, "--systems", "grp", "--again"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines if line.endswith(" s")] == ["grp"]


def test_a_cell_holds_while_what_it_depends_on_is_the_same(tmp_path):
    def cells(config=CONFIG, **more):
        return Cells(tmp_path, config, **({"data": tmp_path, "quick": False} | more))

    def reporting(**settings):
        return CONFIG.replace(report=CONFIG.report.replace(**settings))

    cells().keep("grp", "search", {"cmc_rank_1": 0.5})
    cells().keep("grp", "attacks", {"prar": 0.5})
    assert cells().finished("grp", "search") == {"cmc_rank_1": 0.5}
    assert cells().finished("grp", "pairs") is None
    assert cells(reporting(victims=9)).finished("grp", "search") is not None
    assert cells(reporting(victims=9)).finished("grp", "attacks") is None
    assert cells(reporting(keys=9)).finished("grp", "search") is None
    assert cells(quick=True).finished("grp", "search") is None
    path = tmp_path / "grp.search.json"
    stored = json.loads(path.read_text())
    del stored["settings"]["config"]["report"]["replicates"]
    path.write_text(json.dumps(stored))
    assert cells().finished("grp", "search") is not None  # as if the setting were new
    assert cells(reporting(replicates=9)).finished("grp", "search") is None
    stored["settings"]["config"]["report"]["gone"] = 1
    path.write_text(json.dumps(stored))
    assert cells().finished("grp", "search") is None


def test_mistakes_are_one_line(tmp_path, capsys):
    assert lfw_full.main(["--data", str(tmp_path), "--quick", "--systems", "float"]) == 2
    assert lfw_full.main(["--data", str(tmp_path), "--protocols", "serch"]) == 2
    errors = [e for e in capsys.readouterr().err.splitlines() if e.startswith("error: ")]
    assert len(errors) == 2
    assert "did you mean 'search'" in errors[1]
