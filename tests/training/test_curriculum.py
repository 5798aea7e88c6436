"""Phases of stage 1: weights go over, and a resumed run does not show."""

import json
import shutil
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest

from iom.config import Stage1Config, load_config
from iom.data.folders import scan_folder
from iom.data.image_batches import ImageBatches
from iom.errors import ConfigError, DataError
from iom.nn.backbones.registry import build_backbone
from iom.synthetic import write_folder
from iom.training import loop
from iom.training.backbone import build_phase, carry_over, train_backbone

PHASES = [
    "margin.name=curricularface",
    "phases=[{epochs: 1, train: head, margin: {name: normalised_softmax},"
    " optimizer: {name: nadam, warmup_epochs: 0}},"
    " {epochs: 2, training: {images_per_subject: 2, accumulate: 2},"
    " optimizer: {name: sgd, nesterov: true, schedule: cosine_restarts, restart_epochs: 0.5}}]",
]


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    root = tmp_path_factory.mktemp("phases") / "faces"
    write_folder(root, 12, 4, seed=3)
    return root


@pytest.fixture
def overrides(faces):
    return [
        f"data.root={faces}", "training.batch_size=12", "backbone.embedding_size=16",
        "backbone.arguments={stem: 16, widths: [16], depths: [1]}",
    ]  # fmt: skip


@pytest.fixture
def configured(root, overrides):
    def make(*more):
        smoke = root / "configs" / "smoke" / "stage1.yaml"
        return load_config(Stage1Config, smoke, overrides=[*overrides, *more])

    return make


def records(output):
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def test_interrupted_in_any_phase_or_between_two_the_end_is_the_same(configured, tmp_path, monkeypatch):
    config = configured(*PHASES, "deterministic=true", "training.checkpoint_steps=2")
    lines, original = [], loop.TrainingLoop.after_step
    # The first step of the second phase of the whole run; a step within that phase of the run that goes on from there.
    cuts = {"whole": (1, 0, "broken"), "broken": (2, 2, "broken again")}

    def keep(self, epoch, step, logs, *, stopping):
        original(self, epoch, step, logs, stopping=stopping)
        *place, copy = cuts.get(self.run.path.name, (-1, -1, ""))
        if [epoch, step - 1] == place:
            shutil.copytree(self.run.path, tmp_path / copy)  # what a power failure would leave

    monkeypatch.setattr(loop.TrainingLoop, "after_step", keep)
    train_backbone(config, tmp_path / "whole", progress=False, report=lines.append)
    assert [record["phase"] for record in records(tmp_path / "whole")] == [0, 1, 1]
    assert any("1 variables of heads kept, 1 new" in line for line in lines)  # its running mean
    for resumed in ("broken", "broken again"):
        train_backbone(config, tmp_path / resumed, progress=False, resume=True)
        with np.load(tmp_path / "whole" / "state.npz") as a, np.load(tmp_path / resumed / "state.npz") as b:
            assert a.files == b.files
            for name in a.files:
                np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_a_phase_with_another_loss_takes_nothing_of_the_section_over(configured):
    config = configured("phases=[{margin: {name: cosface}}, {margin: {margin: 0.3}}, {margin: {name: softmax}}]")
    margins = [phase.margin for phase in config.by_phase()]
    assert [(m.name, m.model_extra) for m in margins] == [
        ("cosface", {}),
        ("arcface", {"margin": 0.3, "scale": 16.0}),
        ("softmax", {}),
    ]


def test_only_the_head_learns_where_that_is_asked_for(configured):
    config = configured()
    keras.utils.set_random_seed(1)
    backbone = build_backbone("iresnet_slim", embedding_size=16, **config.backbone.arguments)
    folder = scan_folder(config.data)
    batches = ImageBatches(folder, config.augmentation, 12, seed=1)
    model, heads = build_phase(config, backbone, batches, train="head")
    before = backbone.get_weights()
    model.fit(batches.epoch(0), shuffle=False, verbose=0)
    for old, new in zip(before, backbone.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    following, its_heads = build_phase(config, backbone, batches, train="all")
    assert carry_over(heads, its_heads) == (1, 0)
    np.testing.assert_array_equal(*(each.get_layer("cosines").get_weights()[0] for each in (model, following)))
    assert len(following.trainable_variables) > 1


def test_batches_of_subjects_and_the_names_of_their_images(configured):
    folder = scan_folder(configured().data)
    batches = ImageBatches(folder, configured().augmentation, 12, seed=1, images_per_subject=3, labelled=("a", "b"))
    for step, (_, truth) in enumerate(batches.epoch(1)):
        labels = truth["a"].numpy()
        np.testing.assert_array_equal(labels, truth["b"].numpy())
        assert sorted(np.bincount(labels)[np.unique(labels)]) == [3, 3, 3, 3]
        names = [folder.subjects[label] for label in labels]
        files = batches.files(1, step)
        assert [file.split("/")[0] for file in files] == names
        assert len(set(files)) == 12
    with pytest.raises(DataError, match=r"training\.images_per_subject 4 .* need 20 subjects"):
        ImageBatches(folder, configured().augmentation, 80, seed=1, images_per_subject=4)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("phases=[{epochs: 0}]", "phases[0].epochs: expected more than 0, received 0"),
        ("phases=[{train: body}]", "expected 'all' or 'head'"),
        ("phases=[{epoch: 2}]", "did you mean 'epochs'"),
        ("phases=[{margin: {nam: arcface}}]", "phases[0]: margin.nam"),
        ("phases=[{optimizer: {learning_rate: -1}}]", "optimizer.learning_rate: expected more than 0"),
        ("phases=[{training: {precision: float32}}]", "may differ between phases"),
        ("phases={epochs: 2}", "expected a list"),
        ("verify=[{name: a}, {name: a}]", "with different names"),
        ("training.best=lfw_eer", "training.best: expected one of held_out_eer, received"),
        ("training.images_per_subject=5", "a divisor of the batch size"),
        ("optimizer={name: adam, nesterov: true}", "optimizer other than sgd"),
        ("data.holdout=0", "none: add a verify entry"),
    ],
)
def test_what_is_wrong_is_named(configured, setting, message):
    with pytest.raises(ConfigError) as refused:
        configured(setting)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("setting", "error", "message"),
    [
        ("phases=[{epochs: 3}, {epochs: 2, optimizer: {name: nadm}}]", ConfigError, "'nadam'"),
        ("phases=[{epochs: 3}, {epochs: 2, optimizer: {schedule: expo}}]", ConfigError, "schedule"),
        ("phases=[{epochs: 3}, {epochs: 2, margin: {name: arcfac}}]", ConfigError, "'arcface'"),
        ("phases=[{epochs: 3}, {optimizer: {warmup_epochs: 2}}]", ConfigError, "less than the 1"),
        ("verify=[{source: pairs, root: absent, path: absent.txt}]", DataError, "absent"),
        ("verify=[{source: bin, path: absent.bin}]", DataError, "absent.bin"),
        ("verify=[{source: bn}]", ConfigError, "did you mean 'bin'"),
    ],
)
def test_it_is_said_before_anything_is_trained(configured, tmp_path, setting, error, message):
    with pytest.raises(error, match=message):
        train_backbone(configured(setting), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_everything_may_be_trained_on_where_a_benchmark_decides(configured, tmp_path):
    entry = "verify=[{name: nobody, source: synthetic, subjects: 8, images: 2}]"
    config = configured(
        entry, "data.holdout=0", "training.best=nobody_accuracy", "training.epochs=1",
        "optimizer.warmup_epochs=0", "training.tensorboard=true",
    )  # fmt: skip
    lines = []
    train_backbone(config, tmp_path / "run", progress=False, report=lines.append)
    assert lines[0].startswith("48 images of 12 subjects to train on, all")
    (record,) = records(tmp_path / "run")
    assert {"nobody_eer", "nobody_accuracy"} <= set(record)
    assert "held_out_eer" not in record
    (events,) = (tmp_path / "run" / "tensorboard").rglob("events*")
    assert b"epoch_nobody_accuracy" in events.read_bytes()


def test_tensorboard_is_an_extra(configured, tmp_path, monkeypatch):
    from iom.errors import MissingExtraError
    from iom.training import backbone

    monkeypatch.setattr(backbone.importlib.util, "find_spec", lambda name: None)
    changed = configured().training.replace(tensorboard=True)
    with pytest.raises(MissingExtraError, match=r"extra 'tensorboard'"):
        train_backbone(configured().replace(training=changed), tmp_path / "run", progress=False)


def test_control_c_tells_the_command_that_goes_on(root, overrides, tmp_path):
    command = [sys.executable, "train_stage1.py", "--config", "configs/smoke/stage1.yaml"]
    command += ["--output", str(tmp_path / "run"), "--set", "training.epochs=50"]
    command += [text for setting in overrides for text in ("--set", setting)]
    process = subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "run" / "state.npz").exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert "saved; continue with: python train_stage1.py --config" in errors
    assert errors.rstrip().endswith("--resume")
    assert "Traceback" not in errors
