import dataclasses
import itertools
import json

import numpy as np
import pytest

from iom.baselines import BASELINES
from iom.codes.asymmetric import MAX_DISTANCE
from iom.config import CalibrationConfig, CodeConfig, HasherConfig, Stage2Config, load_config, save_config
from iom.data.folders import FaceFolder
from iom.errors import DataError, WeightsError
from iom.metrics.bootstrap import group_draws
from iom.metrics.likelihood import fit_likelihood_ratio
from iom.metrics.verification import error_curve
from iom.models.artifact import Calibration
from iom.models.embedder import load_embedder
from iom.models.face_hasher import KerasFaceHasher
from iom.nn.backbones.registry import build_backbone
from iom.nn.hash_network import build_hasher
from iom.synthetic import write_folder
from iom.training.calibration import ValidationPairs, calibrate, describe, validation_keys
from tests.commands import command

main = command("calibrate")

SIZE, LENGTH = 32, 64


@pytest.fixture
def pairs(tmp_path):
    subjects = tuple(f"F{i // 2}_M{i % 2}" for i in range(12))
    paths = tuple(f"{name}/{i}.png" for name in subjects for i in range(4))
    folder = FaceFolder(tmp_path, paths, np.repeat(np.arange(12), 4), subjects)
    return ValidationPairs(folder, group_separator="_", seed=1)


@pytest.fixture
def embeddings(pairs):
    stream = np.random.default_rng(0)
    rows = stream.normal(size=(12, SIZE))[pairs.labels] + 0.9 * stream.normal(size=(48, SIZE))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype("float32")


@pytest.fixture
def baseline():
    code = CodeConfig(code_length=LENGTH, alphabet_size=4)
    return BASELINES["grp"](SIZE, code, 0)


@pytest.fixture
def find(pairs, embeddings, baseline):
    def run(rows=embeddings, seed=1, **settings):
        config = CalibrationConfig(**({"keys": 4, "bootstrap": 0} | settings))
        return calibrate(baseline, pairs, rows, config, seed=seed)

    return run


@pytest.fixture
def distances(pairs, embeddings, baseline):
    """Distances of all pairs under each key, `(keys, N, N)`."""
    codes = [baseline.hash(embeddings, key) for key in validation_keys(1, "calibration-keys", 4)]
    return np.stack([(each[:, None] != each).sum(axis=2) for each in codes])


@pytest.mark.parametrize("fmr", [0.2, 0.05, 0.002])
def test_it_keeps_its_promise_and_no_more(pairs, distances, find, fmr):
    found = find(fmr=fmr)
    left, right = np.triu_indices(48, k=1)
    labels = pairs.labels
    others = distances[:, left, right][:, labels[left] // 2 != labels[right] // 2]
    mated = distances[:, left, right][:, labels[left] == labels[right]]
    assert (others <= found.threshold).mean() == found.measured_fmr <= fmr
    above = others[others > found.threshold]
    assert (others <= above.min()).mean() > fmr
    assert found.fnmr == pytest.approx((mated > found.threshold).mean(), abs=1e-12)
    assert (found.subjects, found.keys, found.fmr) == (12, 4, fmr)
    assert found.confidence is None


def test_intervals_hold_the_figures_and_follow_from_the_seed(find):
    found = find(fmr=0.05, bootstrap=100)
    assert found.threshold_low <= found.threshold <= found.threshold_high
    assert found.fmr_low <= found.measured_fmr <= found.fmr_high
    assert found.fnmr_low <= found.fnmr <= found.fnmr_high
    assert found.fmr_low < found.fmr_high
    assert found == find(fmr=0.05, bootstrap=100)
    narrow = find(fmr=0.05, bootstrap=100, confidence=0.5)
    assert found.fmr_low <= narrow.fmr_low <= narrow.fmr_high <= found.fmr_high


def test_the_interval_by_hand(pairs, distances, find):
    """One draw: subjects counted in a plain loop over pairs and keys."""
    found = find(fmr=0.05, bootstrap=1)
    subjects = next(group_draws(12, replicates=1, seed=1, usable=pairs.all.usable))
    drawn = next(group_draws(4, "keys", replicates=1, seed=1))
    below = total = missed = mated = 0
    for key, times in enumerate(drawn):
        for left, right in itertools.combinations(range(48), 2):
            one, two = pairs.labels[left], pairs.labels[right]
            if one == two:
                mated += times * subjects[one]
                missed += times * subjects[one] * (distances[key, left, right] > found.threshold)
            elif one // 2 != two // 2:
                total += times * subjects[one] * subjects[two]
                below += times * subjects[one] * subjects[two] * (distances[key, left, right] <= found.threshold)
    assert found.fmr_low == found.fmr_high == pytest.approx(below / total)
    assert found.fnmr_low == found.fnmr_high == pytest.approx(missed / mated)


@pytest.fixture
def asymmetric(pairs, embeddings, baseline):
    """Distances of earlier images, stored, to later ones, probes, under each key, `(keys, P)`."""
    comparator = baseline.comparator_of("asymmetric")
    left, right = np.triu_indices(48, k=1)
    keyed = [
        comparator.prepare(baseline.templates(embeddings, key, "asymmetric"))
        for key in validation_keys(1, "calibration-keys", 4)
    ]
    return np.stack([comparator.paired(each[left], each[right]) for each in keyed])


@pytest.mark.parametrize("fmr", [0.2, 0.05, 0.002])
def test_an_asymmetric_threshold_keeps_its_promise_and_no_more(pairs, embeddings, baseline, asymmetric, fmr):
    config = CalibrationConfig(keys=4, bootstrap=20, fmr=fmr)
    found = calibrate(baseline, pairs, embeddings, config, seed=1, comparison="asymmetric")
    left, right = np.triu_indices(48, k=1)
    others = asymmetric[:, pairs.labels[left] // 2 != pairs.labels[right] // 2]
    mated = asymmetric[:, pairs.labels[left] == pairs.labels[right]]
    assert (others <= found.threshold).mean() == found.measured_fmr <= fmr
    assert (others <= others[others > found.threshold].min()).mean() > fmr
    assert found.fnmr == pytest.approx((mated > found.threshold).mean(), abs=1e-12)
    assert found.comparison == "asymmetric"
    assert found.threshold_low <= found.threshold <= found.threshold_high
    assert found.fmr_low <= found.measured_fmr <= found.fmr_high
    expected = fit_likelihood_ratio(error_curve(mated.ravel(), others.ravel()), comparisons=(72, 960), units=(12, 60))
    assert dataclasses.asdict(found.likelihood) == pytest.approx(dataclasses.asdict(expected))


def test_asymmetric_intervals_by_hand(pairs, embeddings, baseline, asymmetric):
    """One draw: the rates at the threshold, and the threshold that the draw itself would have chosen."""
    config = CalibrationConfig(keys=4, bootstrap=1, fmr=0.05)
    found = calibrate(baseline, pairs, embeddings, config, seed=1, comparison="asymmetric")
    subjects = next(group_draws(12, replicates=1, seed=1, usable=pairs.all.usable))
    drawn = next(group_draws(4, "keys", replicates=1, seed=1))
    left, right = np.triu_indices(48, k=1)
    one, other = pairs.labels[left], pairs.labels[right]
    weights = drawn[:, None] * subjects[one] * subjects[other] * (one // 2 != other // 2)
    rates = [(weights * (asymmetric <= threshold)).sum() / weights.sum() for threshold in range(20_001)]
    assert found.fmr_low == found.fmr_high == pytest.approx(rates[found.threshold])
    assert found.threshold_low == found.threshold_high == np.flatnonzero(np.array(rates) <= 0.05).max()


def test_an_fmr_that_cannot_be_seen(find):
    with pytest.raises(DataError, match=r"1e-06 cannot be seen in 960 non-mated"):
        find(fmr=1e-6)


def test_no_threshold_at_all(find, embeddings):
    """One face under two names is nearer to itself than anything else."""
    rows = embeddings.copy()
    rows[4] = rows[8] = rows[0]  # subjects 0, 1 (kin) and 2 (another family)
    with pytest.raises(DataError, match="no threshold keeps to"):
        find(rows, fmr=2e-3, keys=1)


def test_further_thresholds_are_those_of_their_rates(find):
    both = find(fmr=0.05, other_fmrs=(0.2, 0.05, 0.01), bootstrap=20)
    alone = [find(fmr=fmr, bootstrap=20) for fmr in (0.05, 0.2, 0.01)]
    assert [point.fmr for point in both.points] == [0.05, 0.2, 0.01]
    for point, expected in zip(both.points, alone, strict=True):
        assert (point.threshold, point.measured_fmr, point.fnmr) == (
            expected.threshold, expected.measured_fmr, expected.fnmr
        )  # fmt: skip
        assert (point.threshold_low, point.fnmr_high) == (expected.threshold_low, expected.fnmr_high)


def test_the_likelihood_ratio_is_that_of_the_same_distances(pairs, distances, find):
    left, right = np.triu_indices(48, k=1)
    mated = pairs.labels[left] == pairs.labels[right]
    others = pairs.labels[left] // 2 != pairs.labels[right] // 2
    values = distances[:, left, right]
    found = find(fmr=0.05)
    curve = error_curve(values[:, mated].ravel(), values[:, others].ravel())
    # 12 subjects with 6 pairs each; 66 pairs of subjects, of which 6 are kin, with 16 pairs each.
    expected = fit_likelihood_ratio(curve, comparisons=(72, 960), units=(12, 60))
    assert dataclasses.asdict(found.likelihood) == pytest.approx(dataclasses.asdict(expected))
    assert found.probability(found.threshold) == found.likelihood.probability(found.threshold)
    assert found.probability(0, prior=0.01) < found.probability(0) < 1


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Synthetic faces, a backbone that was never trained, and a hasher for it."""
    folder = tmp_path_factory.mktemp("calibrate")
    write_folder(folder / "faces", 14, 4, seed=3)
    arguments = {"embedding_size": SIZE, "stem": 16, "widths": (16, 16), "depths": (1, 1)}
    build_backbone("iresnet_slim", **arguments).save(folder / "backbone.keras")
    embedder = load_embedder(str(folder / "backbone.keras"))
    KerasFaceHasher(
        build_hasher(SIZE, HasherConfig(code_length=LENGTH, alphabet_size=4), seed=1),
        embedder_name=embedder.name,
        embedder_fingerprint=embedder.fingerprint,
    ).save(folder / "hasher")
    build_backbone("iresnet_slim", **arguments).save(folder / "other.keras")
    (folder / "elsewhere.txt").write_text("nobody/1.jpg\n")
    config = load_config(
        Stage2Config,
        overrides=[
            f"data.root={folder / 'faces'}", "data.holdout=0.5", "embedder.cache=",
            f"embedder.weights={folder / 'backbone.keras'}", "calibration.bootstrap=20",
        ],
    )  # fmt: skip
    save_config(config, folder / "stage2.yaml")
    return folder


def command(place, *more):
    given = [] if "--fmr" in more else ["--fmr", "0.05"]
    return main(["--hasher", str(place / "hasher"), "--config", str(place / "stage2.yaml"), "--quiet", *given, *more])


def test_the_command_stores_what_it_prints(place, capsys):
    before = KerasFaceHasher.load(place / "hasher")
    assert before.calibration is None
    assert command(place, "--fmr", "0.05", "--keys", "2", "--dry-run") == 0
    assert KerasFaceHasher.load(place / "hasher").calibration is None
    assert command(place, "--fmr", "0.05", "--keys", "2") == 0
    after = KerasFaceHasher.load(place / "hasher")
    assert (after.calibration.fmr, after.calibration.keys) == (0.05, 2)
    assert after.calibration.threshold_low is not None
    out = capsys.readouterr().out
    assert describe(after) in out
    assert "95 % intervals over subjects and keys" in out
    np.testing.assert_array_equal(
        before.model.get_layer("projection").get_weights()[0], after.model.get_layer("projection").get_weights()[0]
    )


def on_faces(place, *more):
    rate = [] if "--fmr" in more else ["--fmr", "0.05"]
    given = ["--folder", str(place / "faces"), *rate, "--bootstrap", "20", "--quiet"]
    return main(["--hasher", str(place / "hasher"), *given, "--weights",
                 str(place / "backbone.keras"), *more])  # fmt: skip


def test_all_of_ones_own_people_are_used_and_a_copy_is_stored(place, tmp_path, capsys):
    before = (place / "hasher" / "hasher.json").read_bytes()
    assert on_faces(place, "--output", str(tmp_path / "copy")) == 0
    out = capsys.readouterr().out
    # 14 subjects with 4 images: 14 * 6 mated pairs, and 91 * 16 of two subjects.
    assert "14 subjects, 56 images: 84 mated and 1,456 non-mated comparisons" in out
    assert "the lowest FMR that they can show is 0.00069" in out
    copy = KerasFaceHasher.load(tmp_path / "copy")
    assert (copy.calibration.subjects, copy.calibration.fmr) == (14, 0.05)
    assert copy.fingerprint == KerasFaceHasher.load(place / "hasher").fingerprint
    assert (place / "hasher" / "hasher.json").read_bytes() == before


def test_the_comparison_is_stored_and_kept_until_another_is_asked_for(place, tmp_path, capsys):
    copy = tmp_path / "copy"
    assert on_faces(place, "--output", str(copy), "--comparison", "asymmetric") == 0
    out = capsys.readouterr().out
    first = KerasFaceHasher.load(copy).calibration
    assert first.comparison == "asymmetric"
    assert (
        f"threshold {first.threshold} [{first.threshold_low}, {first.threshold_high}] of 20000 ten-thousandths" in out
    )
    assert first.threshold > LENGTH
    assert KerasFaceHasher.load(copy).fingerprint == KerasFaceHasher.load(place / "hasher").fingerprint
    again = ["--hasher", str(copy), "--folder", str(place / "faces"), "--weights", str(place / "backbone.keras")]
    again += ["--fmr", "0.05", "--bootstrap", "20", "--quiet"]
    assert main(again) == 0
    assert KerasFaceHasher.load(copy).calibration == first
    assert main([*again, "--comparison", "symbols"]) == 0
    assert KerasFaceHasher.load(copy).calibration.comparison == "symbols"
    assert KerasFaceHasher.load(copy).calibration.threshold <= LENGTH
    assert main([*again, "--comparison", "cosine"]) == 2
    assert "asymmetric" in capsys.readouterr().err


def test_a_hasher_of_the_package_is_not_overwritten(place, tmp_path, capsys):
    faces = ["--folder", str(place / "faces"), "--fmr", "0.05", "--quiet"]
    assert main(["--hasher", "bundled", *faces]) == 2
    assert "store the threshold in a copy with --output DIR" in capsys.readouterr().err
    (tmp_path / "full").write_text("")
    assert on_faces(place, "--output", str(tmp_path)) == 2
    assert "expected a new or empty folder" in capsys.readouterr().err
    assert on_faces(place, "--fmr", "1e-4", "--dry-run") == 2
    error = capsys.readouterr().err
    assert "an FMR of 0.0001 cannot be seen in 1,456 non-mated comparisons" in error
    assert "0.00069 at the lowest" in error


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--fmr", "1e-7"], "cannot be seen"),
        (["--fmr", "often"], "expected a number"),
        (["--fmr", "2"], "calibration.fmr: expected less than 1"),
        (["--fmr", "0.1", "--fmr", "2"], "calibration.other_fmrs[0]: expected less than 1"),
        (["--fmr", "0.1", "--fmr", "1e-7"], "an FMR of 1e-07 cannot be seen"),
        (["--keys", "0"], "calibration.keys"),
        (["--set", "embedder.weights={place}/other.keras"], "was trained with the embedder"),
        (["--set", "data.include={place}/elsewhere.txt"], "1 of 1 images are not in"),
        (["--set", "data.root={place}/nowhere"], "no folder"),
        (["--set", "data.hold=0.1"], "did you mean 'holdout'"),
        (["--hasher", "{place}/none"], "no hasher '"),
    ],
)
def test_what_cannot_be_calibrated_is_one_line(place, more, message, capsys):
    assert command(place, *(text.format(place=place) for text in more)) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1


def test_other_data_than_in_training_is_said(place, capsys):
    config = load_config(Stage2Config, place / "stage2.yaml", overrides=["data.holdout_seed=4"])
    save_config(config, place / "hasher" / "config.yaml")
    assert command(place, "--fmr", "0.05", "--dry-run") == 0
    assert "note: the data section differs" in capsys.readouterr().out


def test_a_hasher_of_an_earlier_version_still_loads(place, tmp_path):
    hasher = KerasFaceHasher.load(place / "hasher")
    hasher.calibration = Calibration(threshold=3, fmr=0.1, fnmr=0.2, subjects=4, keys=5)
    hasher.save(tmp_path)
    path = tmp_path / "hasher.json"
    metadata = json.loads(path.read_text())
    names = ("threshold", "fmr", "fnmr", "subjects", "keys")
    metadata["calibration"] = {name: metadata["calibration"][name] for name in names}
    path.write_text(json.dumps(metadata))
    again = KerasFaceHasher.load(tmp_path).calibration
    assert again == hasher.calibration
    assert again.probability(3) is None


def test_points_and_likelihood_ratio_are_stored(place, tmp_path, capsys):
    assert on_faces(place, "--fmr", "0.05", "--fmr", "0.2", "--output", str(tmp_path / "copy")) == 0
    hasher = KerasFaceHasher.load(tmp_path / "copy")
    found = hasher.calibration
    assert [point.fmr for point in found.points] == [0.05, 0.2]
    assert found.probability(0) > found.probability(MAX_DISTANCE)
    assert found == Calibration.from_json(json.loads(json.dumps(dataclasses.asdict(found))))
    assert describe(hasher) in capsys.readouterr().out


@pytest.mark.parametrize(
    "likelihood", [{"slope": 1.0}, {"slope": float("inf")}, {"high": -1.0}, {"offset": "0"}, {"more": 1.0}]
)
def test_a_damaged_likelihood_ratio_is_one_line(place, tmp_path, likelihood):
    hasher = KerasFaceHasher.load(place / "hasher")
    hasher.calibration = Calibration(threshold=3, fmr=0.1, fnmr=0.2, subjects=4, keys=5)
    hasher.save(tmp_path)
    path = tmp_path / "hasher.json"
    metadata = json.loads(path.read_text())
    metadata["calibration"]["likelihood"] = {"slope": -1.0, "offset": 0.0, "low": -1.0, "high": 1.0} | likelihood
    path.write_text(json.dumps(metadata))
    with pytest.raises(WeightsError, match=r"not a hasher of format 1|Infinity"):
        KerasFaceHasher.load(tmp_path)
