import json

import pytest

from benchmarks import attacks, tradeoff
from iom.config import HasherConfig
from iom.keys import KEY_KINDS
from iom.models.face_hasher import KerasFaceHasher
from iom.nn.hash_network import build_hasher


def test_recommended_is_the_most_accurate_of_the_safe_ones():
    def point(eer, prar):
        return {"eer": eer, "prar": prar, "fmr": 1e-3}

    curve = [point(0.01, 0.9), point(0.02, 0.04), point(0.03, 0.01)]
    assert tradeoff.recommended(curve) == curve[1]
    assert tradeoff.recommended(curve[:1]) == curve[0]


def test_a_quick_run_on_random_vectors(tmp_path, root, monkeypatch, capsys):
    monkeypatch.chdir(root)
    picture = tmp_path / "curve.png"
    arguments = ["--synthetic", "--quick", "--victims", "6", "--old-keys", "1", "--frame", "grp"]
    assert tradeoff.main([*arguments, "--shapes", "128x4", "--picture", str(picture)]) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {"eer", "float_eer", "prar", "curve", "reached"} <= set(figures)
    whole, kept, parts = figures["curve"][::2]
    strict = figures["curve"][1::2]
    assert [point["fmr"] for point in strict] == [1e-4] * 3
    assert all(a["fnmr"] <= b["fnmr"] for a, b in zip((whole, kept, parts), strict, strict=True))
    assert whole["prar"] > 0.9
    assert whole["eer"] < kept["eer"]
    assert parts["prar"] < 0.1
    assert picture.stat().st_size > 10_000


def test_the_table_of_attacks_on_random_vectors(root, monkeypatch, capsys):
    monkeypatch.chdir(root)
    chosen = ["--systems", "grp", "urp", "--attacks", "closed_form", "dictionary"]
    small = ["--synthetic", "--victims", "5", "--old-keys", "1", "--shape", "64x4"]
    assert attacks.main([*chosen, *small]) == 0
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]
    assert [(row["system"], row["attack"]) for row in rows] == [
        ("grp", "closed_form"), ("grp", "dictionary"), ("urp", "closed_form"), ("urp", "dictionary")
    ]  # fmt: skip
    assert rows[0]["prar"] > 0.9
    assert rows[2]["prar"] is None
    assert rows[2]["obstacle"]


@pytest.mark.parametrize("module", [attacks, tradeoff])
def test_help(module, capsys):
    with pytest.raises(SystemExit) as stopped:
        module.main(["--help"])
    assert stopped.value.code == 0
    assert f"python -m {module.__name__}" in capsys.readouterr().out


@pytest.mark.parametrize("module", [attacks, tradeoff])
def test_without_data_the_error_is_one_line(module, tmp_path, root, monkeypatch, capsys):
    monkeypatch.chdir(root)
    assert module.main(["--data", str(tmp_path / "absent")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: no folder")
    assert error.count("\n") == 1


def test_a_hasher_is_put_behind_keys_of_every_kind(tmp_path, root, monkeypatch, capsys):
    """Random vectors, a small hasher: what a permutation shows, an orthogonal key hides."""
    monkeypatch.chdir(root)
    monkeypatch.setattr(attacks, "IMAGES", 200)
    monkeypatch.setattr(attacks, "THRESHOLD_KEYS", 1)
    code = HasherConfig(
        code_length=1024, alphabet_size=2, projection="simplex", refinement_steps=10,
        key_kind="permutation",
    )  # fmt: skip
    hasher = KerasFaceHasher(build_hasher(64, code), embedder_name="-", embedder_fingerprint="0" * 64)
    hasher.save(tmp_path / "small")
    chosen = ["--systems", "--hasher", str(tmp_path / "small"), "--attacks", "sorted_values"]
    assert attacks.main([*chosen, "--synthetic", "--victims", "20", "--old-keys", "1"]) == 0
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]
    found = {row["system"]: row["rank_one"] for row in rows}
    assert list(found) == [f"small, {kind}" for kind in KEY_KINDS]
    assert found["small, permutation"] > 0.8
    assert found["small, orthogonal"] < 0.1
    assert all(row["photographs"] == 1200 for row in rows)
