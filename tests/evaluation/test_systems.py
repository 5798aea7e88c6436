import dataclasses

import keras
import numpy as np
import pytest

from iom.config import CodeConfig, EvaluateConfig, HasherConfig, ScenarioConfig
from iom.errors import ConfigError, WeightsError
from iom.evaluation.evaluate import collect
from iom.evaluation.records import EmbedderSummary
from iom.evaluation.report.text import terminal_text
from iom.evaluation.scores import EvaluationInputs
from iom.evaluation.systems import check_systems, load_code_systems
from iom.keys import TransformKey
from iom.models.artifact import Calibration
from iom.models.embedder import Embedder
from iom.models.face_hasher import KerasFaceHasher
from iom.nn.hash_network import build_hasher


def embedder_of(fingerprint="f" * 64):
    return Embedder(lambda pixels: pixels, name="made", fingerprint=fingerprint, embedding_size=32)


@pytest.fixture
def hasher_folder(tmp_path):
    hasher = KerasFaceHasher(
        build_hasher(32, HasherConfig(code_length=48, alphabet_size=4), seed=1),
        embedder_name="made",
        embedder_fingerprint="f" * 64,
        calibration=Calibration(threshold=30, fmr=0.01, fnmr=0.1, subjects=9, keys=2),
    )
    hasher.save(tmp_path / "hasher")
    return tmp_path / "hasher"


@pytest.fixture
def config(hasher_folder):
    return EvaluateConfig(
        hasher=str(hasher_folder),
        code=CodeConfig(code_length=64, alphabet_size=4),
        scenario=ScenarioConfig(systems=("float", "grp", "urp", "learned"), keys=2, bootstrap=5),
    )


def inputs_of(config, benchmark_and_embeddings, systems):
    embedder = EmbedderSummary(name="made", embedding_size=32)
    return EvaluationInputs(config, *benchmark_and_embeddings, systems, embedder)


def with_systems(config, *names):
    scenario = config.scenario.replace(systems=names)
    return config.replace(scenario=scenario)


def test_every_system_gives_codes_of_its_shape(config):
    check_systems(config)
    systems = load_code_systems(config, embedder_of())
    assert list(systems) == ["grp", "urp", "learned", "learned, asymmetric"]
    rows = np.random.default_rng(0).normal(size=(5, 32)).astype(np.float32)
    for system in systems.values():
        codes = system.hash(rows, TransformKey(bytes(32)))
        assert codes.shape == (5, system.code_length)
        assert codes.max() < system.alphabet_size
    assert (systems["learned"].code_length, systems["grp"].code_length) == (48, 64)
    assert (systems["learned"].calibration.threshold, systems["grp"].calibration) == (30, None)
    assert systems["learned, asymmetric"].calibration is None


def test_all_systems_stand_in_one_report(config, benchmark_and_embeddings):
    systems = load_code_systems(config, embedder_of())
    inputs = inputs_of(config, benchmark_and_embeddings, systems)
    report = collect(inputs)
    places = list(dict.fromkeys((row.system, row.scenario) for row in report.rows))
    assert places == [
        ("float", "none"),
        *((name, s) for name in ("grp", "urp", "learned", "learned, asymmetric") for s in ("own_key", "stolen_key")),
    ]
    assert report.row("learned", "stolen_key", "decision").value == 30
    stolen = next(s for s in inputs.scores(systems["learned"]) if s.scenario == "stolen_key")
    expected = np.mean([np.mean(entry.mated > 30) for entry in stolen.by_key])
    assert report.row("learned", "stolen_key", "fnmr_at_decision").value == pytest.approx(expected)
    assert "at the calibrated threshold 30" in terminal_text(report)


@pytest.mark.parametrize(
    ("comparisons", "expected"),
    [
        (("symbols",), ["grp", "urp", "learned"]),
        (("symbols", "asymmetric"), ["grp", "grp, asymmetric", "urp", "learned", "learned, asymmetric"]),
        (("asymmetric",), ["grp, asymmetric", "urp", "learned, asymmetric"]),
    ],
)
def test_comparisons_that_are_asked_for_are_those_of_every_system_that_has_them(config, comparisons, expected):
    config = config.replace(scenario=config.scenario.replace(comparisons=comparisons))
    assert list(load_code_systems(config, embedder_of())) == expected
    with pytest.raises(ConfigError, match="each comparison once"):
        config.scenario.replace(comparisons=("symbols", "symbols"))


def test_a_calibration_belongs_to_the_row_of_its_comparison(config, hasher_folder):
    hasher = KerasFaceHasher.load(hasher_folder)
    hasher.calibration = dataclasses.replace(hasher.calibration, threshold=6000, comparison="asymmetric")
    hasher.save(hasher_folder)
    systems = load_code_systems(with_systems(config, "learned"), embedder_of())
    assert systems["learned"].calibration is None
    assert systems["learned, asymmetric"].calibration.threshold == 6000


def test_the_hasher_must_belong_to_the_embedder(config):
    with pytest.raises(WeightsError, match="was trained with the embedder made"):
        load_code_systems(config, embedder_of(fingerprint="e" * 64))


def test_a_missing_hasher_says_how_to_train_one(config, tmp_path):
    missing = config.replace(hasher=str(tmp_path / "none"))
    with pytest.raises(WeightsError, match=r"iom train-stage2.*systems='\[float, grp, urp\]'"):
        check_systems(missing)
    with pytest.raises(WeightsError, match="'hasher' is empty"):
        check_systems(config.replace(hasher=""))
    check_systems(with_systems(missing, "float", "grp"))


def test_a_damaged_hasher_is_refused(config, hasher_folder):
    path = hasher_folder / "hasher.keras"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="damaged"):
        load_code_systems(config, embedder_of())


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (("float", "lerned"), "unknown system 'lerned' - did you mean 'learned'"),
        ((), "at least one"),
        (("grp", "grp"), "distinct"),
    ],
)
def test_unusable_systems_are_refused(config, names, reason):
    with pytest.raises(ConfigError, match=reason):
        check_systems(with_systems(config, *names))


def test_a_code_shape_that_a_baseline_cannot_have_is_refused(config):
    wide = config.replace(code=CodeConfig(code_length=8, alphabet_size=64))
    with pytest.raises(ConfigError, match="URP"):
        load_code_systems(with_systems(wide, "urp"), embedder_of())


def test_several_trained_hashers_stand_by_name(config, hasher_folder, benchmark_and_embeddings):
    config = config.replace(hashers={"fixed_key": str(hasher_folder)})
    config = with_systems(config, "learned", "fixed_key")
    check_systems(config)
    systems = load_code_systems(config, embedder_of())
    assert list(systems) == ["learned", "learned, asymmetric", "fixed_key", "fixed_key, asymmetric"]
    inputs = inputs_of(config, benchmark_and_embeddings, systems)
    report = collect(inputs)
    eers = [report.row(name, "stolen_key", "eer").value for name in systems]
    assert eers[:2] == eers[2:]


@pytest.mark.parametrize(
    ("hashers", "reason"),
    [
        ({"grp": "x"}, r"hashers\.grp: this name means another"),
        ({"float": "x"}, r"hashers\.float"),
        ({"learned": "x"}, r"hashers\.learned"),
        ({"other": ""}, r"hashers\.other: expected a folder"),
        ({"other": 3}, r"hashers\.other: expected a text"),
        ({"other, asymmetric": "x"}, "rows of asymmetric comparison"),
    ],
)
def test_names_of_hashers_that_mean_something_else(config, hashers, reason):
    with pytest.raises(ConfigError, match=reason):
        check_systems(config.replace(hashers=hashers))


def test_a_missing_named_hasher(config, tmp_path):
    config = config.replace(hashers={"fixed_key": str(tmp_path)})
    with pytest.raises(WeightsError, match=r"--set hashers\.fixed_key=DIR"):
        check_systems(with_systems(config, "float", "fixed_key"))


def test_templates_that_are_no_codes_stand_in_the_same_report(config, benchmark_and_embeddings):
    names = ("biohash", "mlphash", "polyprotect", "bloom", "ifo", "sign")
    config = with_systems(config, *names)
    systems = load_code_systems(config, embedder_of())
    inputs = inputs_of(config, benchmark_and_embeddings, systems)
    report = collect(inputs)
    for name in names:
        assert 0 < report.row(name, "stolen_key", "eer").value < 0.5
        assert 0 <= report.row(name, "own_key", "eer").value < 0.5
    assert report.systems["polyprotect"]["unit"] == "1 - cosine"
    assert report.systems["bloom"]["unit"] == "mean set dissimilarity"
    assert "polyprotect" in terminal_text(report)


@pytest.fixture(autouse=True)
def _clear_models():
    yield
    keras.backend.clear_session()
