import json
import shutil

import numpy as np
import pytest

from iom.config import CODE_LOSSES, Stage2Config, load_config
from iom.data.batches import CodeBatches
from iom.errors import CheckpointError, ConfigError, DataError
from iom.keys import TransformKey
from iom.models.embedder import load_embedder
from iom.models.face_hasher import KerasFaceHasher, load
from iom.nn.backbones.registry import build_backbone
from iom.pretrained.weights import load_backbone_model
from iom.synthetic import write_folder
from iom.training import loop
from iom.training.hasher import load_stage2_data, train_hasher, untrained_hasher
from tests.commands import command

main = command("train-stage2")
SETTINGS = "configs/smoke/stage2.yaml"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Synthetic faces, and a small backbone that was never trained."""
    folder = tmp_path_factory.mktemp("stage2")
    write_folder(folder / "faces", 16, 4, seed=3)
    model = build_backbone("iresnet_slim", embedding_size=32, stem=16, widths=(16,), depths=(1,))
    model.save(folder / "backbone.keras")
    return folder


def overrides_of(place):
    return [
        f"data.root={place / 'faces'}",
        f"embedder.weights={place / 'backbone.keras'}",
        f"embedder.cache={place / 'cache'}",
        "hasher.code_length=64",
        "batches.subjects=6",
        "batches.images=3",
        "batches.steps_per_epoch=6",
        "epochs=2",
        "checkpoint_steps=2",
        "calibration.fmr=0.1",
        "calibration.keys=2",
    ]


@pytest.fixture
def overrides(place):
    return overrides_of(place)


@pytest.fixture
def settings(root):
    return root / SETTINGS


@pytest.fixture
def configured(settings, overrides):
    return lambda *more: load_config(Stage2Config, settings, overrides=[*overrides, *more])


@pytest.fixture(scope="module")
def short_run(place, root, tmp_path_factory):
    """The folder of a finished run of one epoch; tests that write to it take a copy."""
    output = tmp_path_factory.mktemp("finished") / "run"
    config = load_config(Stage2Config, root / SETTINGS, overrides=[*overrides_of(place), "epochs=1"])
    train_hasher(config, output, progress=False)
    return output


def records(output):
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def state(output):
    with np.load(output / "state.npz") as stored:
        return {name: stored[name] for name in stored.files}


def test_a_run_leaves_what_it_promises(configured, place, tmp_path):
    lines = []
    output = tmp_path / "run"
    hasher = train_hasher(configured(), output, progress=False, report=lines.append)
    assert {path.name for path in output.iterdir()} == {
        "config.yaml", "versions.json", "metrics.jsonl", "curves.png", "state.npz",
        "hasher.keras", "hasher.json", "last",
    }  # fmt: skip
    assert load_config(Stage2Config, output / "config.yaml") == configured()
    assert [record["epoch"] for record in records(output)] == [1, 2]
    for record in records(output):
        for name in ("eer", "grp_eer", "float_eer"):
            assert 0 <= record[f"held_out_{name}"] <= 1
    assert any("threshold" in line for line in lines)

    again = KerasFaceHasher.load(output)
    assert again.calibration == hasher.calibration
    assert again.calibration.keys == 2
    again.check_embedder(load_embedder(str(place / "backbone.keras")))
    rows = np.random.default_rng(0).normal(size=(5, 32)).astype("float32")
    key = TransformKey.generate()
    np.testing.assert_array_equal(again.hash(rows, key), hasher.hash(rows, key))
    KerasFaceHasher.load(output / "last")


def test_all_losses_together(configured, tmp_path):
    config = configured(
        *(f"losses.{name}.weight=0.1" for name in CODE_LOSSES),
        "hasher.train_learned_layer=true", "hasher.keep=20", "hasher.refinement_steps=2",
        "batches.keys=2", "batches.steps_per_epoch=2", "epochs=1",
    )  # fmt: skip
    hasher = train_hasher(config, tmp_path / "run", progress=False)
    assert {f"{name}_loss" for name in CODE_LOSSES} <= set(records(tmp_path / "run")[0])
    paths = {variable.path for variable in hasher.model.trainable_variables}
    assert paths == {"learned_layer/kernel", "projection/kernel"}


# One without a state, and those that have one; the others of the smoke configuration only take time to trace.
SOME_LOSSES = [f"losses.{name}.weight=0.1" for name in ("weighted_margin", "classification")]
SOME_LOSSES += [f"losses.{name}.weight=0" for name in ("quantization", "balance", "distillation")]


def test_an_interrupted_run_ends_like_an_uninterrupted_one(configured, tmp_path, monkeypatch):
    config = configured(*SOME_LOSSES)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    original = loop.TrainingLoop.after_step

    def keep(self, epoch, step, logs, *, stopping):
        original(self, epoch, step, logs, stopping=stopping)
        if (epoch, step) == (1, 3):  # a step behind the saved state of the second epoch
            shutil.copytree(whole, broken)  # what a power failure would leave

    with monkeypatch.context() as patch:
        patch.setattr(loop.TrainingLoop, "after_step", keep)
        train_hasher(config, whole, progress=False)
    with pytest.raises(CheckpointError, match="--resume"):
        train_hasher(config, broken, progress=False)
    train_hasher(config, broken, progress=False, resume=True)
    expected, found = state(whole), state(broken)
    assert expected.keys() == found.keys()
    for name in expected:
        if name == "header":
            continue
        np.testing.assert_allclose(found[name], expected[name], atol=1e-6)


def test_a_finished_run_resumes_to_no_effect(configured, short_run, tmp_path):
    output = shutil.copytree(short_run, tmp_path / "run")
    before = (output / "hasher.json").read_text(), records(output)
    train_hasher(configured("epochs=1"), output, progress=False, resume=True)
    after = json.loads((output / "hasher.json").read_text())
    assert after["calibration"] == json.loads(before[0])["calibration"]
    assert records(output) == before[1]


def test_fine_tuning_trains_the_backbone_from_images(configured, place, tmp_path):
    output = tmp_path / "run"
    config = configured(
        "fine_tune=true", "epochs=1", "batches.steps_per_epoch=3", "losses.triplet.weight=1", "key=identity"
    )
    hasher = train_hasher(config, output, progress=False)
    start = load_embedder(str(place / "backbone.keras"))
    tuned = load_embedder(str(output / "embedder.keras"))
    hasher.check_embedder(tuned)
    images = np.random.default_rng(0).integers(0, 256, (3, 112, 112, 3), dtype=np.uint8)
    assert np.abs(tuned.embed(images) - start.embed(images)).max() > 1e-4
    assert (output / "last" / "embedder.keras").is_file()


def test_fine_tuning_from_a_layer_leaves_those_before_it_as_they_are(configured, place, tmp_path):
    start = load_backbone_model(str(place / "backbone.keras")).trainable_model
    with_weights = [layer for layer in start.layers if layer.get_weights()]
    first = with_weights[-2].name
    config = configured(
        "fine_tune=true", f"fine_tune_from={first}", "epochs=1", "batches.steps_per_epoch=3", "losses.triplet.weight=1"
    )
    train_hasher(config, tmp_path / "run", progress=False)
    tuned = load_backbone_model(str(tmp_path / "run" / "embedder.keras")).trainable_model
    changed = {
        layer.name
        for layer in with_weights
        if any(
            (a != b).any() for a, b in zip(layer.get_weights(), tuned.get_layer(layer.name).get_weights(), strict=True)
        )
    }
    assert changed == {layer.name for layer in with_weights[-2:]}


def test_each_batch_is_read_once(configured, tmp_path, monkeypatch):
    """Keras' `fit` begins to read an epoch again when it ends, and may wait for that reader for ever."""
    read = []
    make = CodeBatches.__getitem__
    monkeypatch.setattr(CodeBatches, "__getitem__", lambda self, index: read.append(index) or make(self, index))
    train_hasher(configured("epochs=2", "batches.steps_per_epoch=3"), tmp_path / "run", progress=False)
    assert read == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (["batches.images=5"], DataError, "only 0 of"),
        (["batches.subjects=40"], DataError, "lower batches.subjects"),
        (["calibration.fmr=1e-6"], DataError, "cannot be seen"),
        (["hasher.keep=33"], ConfigError, "at most the 32 dimensions"),
        (["fine_tune=true", "embedder.flip=true"], ConfigError, "embedder.flip"),
        (["fine_tune_from=fc1"], ConfigError, "fine_tune_from: expected empty without fine_tune"),
        (["fine_tune=true", "fine_tune_from=pre_fc2"], ConfigError, "has no layer 'pre_fc2'"),
        (["data.holdout=0"], DataError, "holdout is 0"),
        (["hasher.bottleneck=8", "hasher.keep=9"], ConfigError, "keep: expected at most hasher.b"),
        (["fine_tune=true", "embedder.second_weights=x"], ConfigError, "embedder.second_weights"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_it_starts(configured, tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        train_hasher(configured(*changes), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_linkability_needs_keys_that_differ(configured):
    with pytest.raises(ConfigError, match=r"losses.linkability.weight: expected 0 with key: identity"):
        configured("losses.linkability.weight=1", "key=identity")


@pytest.mark.parametrize(
    "setting",
    [
        "hasher.code_length=0", "hasher.alphabet_size=1", "hasher.alphabet_size=257",
        "hasher.keep=-1", "hasher.inverse_temperature=0", "hasher.whitening=1",
        "losses.distillation.weight=-1", "losses.triplet.mining=none", "batches.images=1",
        "checkpoint_steps=-1", "key=none",
    ],
)  # fmt: skip
def test_values_out_of_range(configured, setting):
    with pytest.raises(ConfigError, match=setting.split("=")[0].split(".")[0]):
        configured(setting)


def test_damage_and_another_configuration_on_one_line(settings, overrides, short_run, tmp_path, capsys):
    output = shutil.copytree(short_run, tmp_path / "run")
    model = (output / "hasher.keras").read_bytes()
    command = ["--config", str(settings), "--output", str(output), "--resume", "--quiet"]
    command += [text for override in overrides for text in ("--set", override)]

    assert main([*command, "--set", "epochs=1", "--set", "seed=9"]) == 2
    assert "another configuration (seed: 1 -> 9)" in one_line(capsys)

    whole = (output / "state.npz").read_bytes()
    (output / "state.npz").write_bytes(whole[: len(whole) // 2])
    assert main([*command, "--set", "epochs=1"]) == 2
    assert "damaged" in one_line(capsys)
    assert (output / "hasher.keras").read_bytes() == model


def one_line(capsys):
    lines = capsys.readouterr().err.strip().splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1
    return errors[0]


def test_short_codes_are_trained_for_the_asymmetric_comparison(place, root, tmp_path):
    """Codebook and layer move from their start, and the threshold is of that comparison."""
    changes = [
        "hasher.train_projection=true",
        "hasher.train_learned_layer=true",
        "hasher.whitening=0.5",
        "hasher.equalisation=0.25",
        "hasher.code_length=8",
        "batches.images=2",
        "batches.steps_per_epoch=3",
        "epochs=1",
        "checkpoint_steps=0",
    ]
    config = load_config(Stage2Config, root / "configs/stage2/base.yaml", overrides=[*overrides_of(place), *changes])
    data = load_stage2_data(config)
    hasher = train_hasher(config, tmp_path / "run", data=data, progress=False)
    assert hasher.comparison == "asymmetric"
    assert 0 < hasher.calibration.threshold < 20_000
    start = untrained_hasher(config, data)
    for name in ("projection", "learned_layer"):
        before, after = (each.model.get_layer(name).get_weights()[0] for each in (start, hasher))
        assert np.abs(after - before).max() > 1e-5
    again, key = load(tmp_path / "run", opens_embedder=False), TransformKey(bytes(range(32)))
    np.testing.assert_array_equal(again.hash(data.held_out_embeddings, key), hasher.hash(data.held_out_embeddings, key))
    assert again.comparison == "asymmetric"
