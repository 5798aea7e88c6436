import json

import numpy as np
import pytest

from iom.config import ScenarioConfig
from iom.errors import DataError
from iom.evaluation.score_files import read_scores, table_figures, write_system_scores
from iom.evaluation.scores import code_scores
from iom.metrics.verification import error_curve
from tests.commands import command
from tests.scores import float_scores

main = command("score-files")


def scores_file(folder, seed=0):
    """20 references against 60 probes, of which 20 are of nobody enrolled."""
    rng = np.random.default_rng(seed)
    lines, mated, non_mated = [], [], []
    for probe in range(60):
        for reference in range(20):
            same = probe < 40 and probe % 20 == reference
            score = rng.normal() + 2.5 * same
            real = f"s{probe % 20}" if probe < 40 else f"x{probe}"
            lines.append(f"s{reference} m{reference} {real} p{probe} {float(score)!r}")
            (mated if same else non_mated).append(-score)
    path = folder / "scores.txt"
    path.write_text("\n".join(lines) + "\n")
    return path, mated, non_mated


def test_evaluate(tmp_path, capsys):
    path, mated, non_mated = scores_file(tmp_path)
    assert main(["evaluate", str(path), "--json"]) == 0
    (figures,) = json.loads(capsys.readouterr().out)["files"]
    assert figures["eer"] == error_curve(mated, non_mated).equal_error_rate()
    assert figures["fnmr_at_fmr_1e-2"] == error_curve(mated, non_mated).fnmr_at_fmr(1e-2)
    assert "fnmr_at_fmr_1e-4" not in figures
    assert "cmc_rank_1" not in figures
    assert main(["evaluate", str(path), "--json", "--identification"]) == 0
    (figures,) = json.loads(capsys.readouterr().out)["files"]
    assert 0 < figures["cmc_rank_1"] <= figures["cmc_rank_10"] <= 1
    assert 0 <= figures["dir_at_fpir_1e-1_rank_1"] <= figures["cmc_rank_1"]
    assert main(["evaluate", str(path), "--identification"]) == 0
    assert "cmc_rank_1 " in capsys.readouterr().out


def test_turned_sign(tmp_path, capsys):
    path, *_ = scores_file(tmp_path)
    assert main(["evaluate", str(path), "--distances", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["files"][0]["eer"] > 0.5


def test_errors_are_one_line(tmp_path, capsys):
    path = tmp_path / "scores.txt"
    path.write_text("a a p 1\na b q nan\n")
    assert main(["evaluate", str(path)]) == 2
    assert "1 of 2 are NaN or infinite, at comparisons 2" in capsys.readouterr().err


def test_export_and_back(tmp_path, capsys):
    """Evaluation on synthetic faces: the files give the figures of the report."""
    arguments = ["export", "--config", "configs/evaluate/synthetic.yaml", "--output", str(tmp_path)]
    settings = ["--set", "scenario.systems=[float, grp]", "--set", "scenario.keys=1"]
    settings += ["--set", "benchmark.subjects=6", "--set", "benchmark.images=2"]
    cache = ["--set", f"embedder.cache={tmp_path / 'cache'}"]
    assert main([*arguments, *settings, *cache]) == 0
    files = capsys.readouterr().out.split()
    assert [file.rpartition("/")[2] for file in files] == [
        "float-none-0.txt",
        "grp-own_key-0.txt",
        "grp-stolen_key-0.txt",
    ]
    table = read_scores(tmp_path / "float-none-0.txt")
    assert table.same.any()
    assert (~table.same).any()


@pytest.mark.parametrize("form", ["four", "five", "csv"])
def test_scores_of_a_benchmark_keep_their_figures(tmp_path, form, made_benchmark):
    benchmark, embeddings, system = made_benchmark
    codes = code_scores(system, benchmark, embeddings, ScenarioConfig(keys=2), seed=1)
    scores = [float_scores(benchmark, embeddings), *codes]
    paths = write_system_scores(benchmark, scores, tmp_path, form)
    assert len(paths) == 5
    flat = [(entry, scores) for scores in scores for entry in scores.by_key]
    for path, (entry, _) in zip(paths, flat, strict=True):
        table = read_scores(path)
        np.testing.assert_array_equal(table.distances, entry.distances.astype(float))
        np.testing.assert_array_equal(table.same, benchmark.same)
        curve = error_curve(entry.mated, entry.non_mated)
        assert error_curve(*table.by_kind()).equal_error_rate() == curve.equal_error_rate()
    figures = dict(table_figures(table))
    assert "eer" in figures
    assert not any(name.startswith("cmc") for name in figures)
    with pytest.raises(DataError, match=r"^identification: expected"):
        dict(table_figures(table, identification=True))


@pytest.fixture
def made_benchmark():
    from pathlib import Path

    from iom.config import CodeConfig
    from iom.data.benchmarks.base import PairBenchmark
    from iom.evaluation.systems import baseline_system

    rng = np.random.default_rng(0)
    subjects = np.repeat(np.arange(6), 3)
    rows = rng.normal(size=(6, 32))[subjects] + rng.normal(size=(18, 32))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    left, right = np.triu_indices(18, k=1)
    benchmark = PairBenchmark(
        name="made",
        images=tuple(Path(f"some where/{i}.png") for i in range(18)),
        left=left,
        right=right,
        same=subjects[left] == subjects[right],
        fold=np.zeros(len(left), int),
        subjects=subjects,
    )
    system = baseline_system("grp", 32, CodeConfig(code_length=32))
    return benchmark, rows.astype(np.float32), system
