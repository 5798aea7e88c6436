import json
import shutil

import keras
import numpy as np
import pytest

from iom.config import Stage1Config, load_config
from iom.errors import CheckpointError, ConfigError, DataError
from iom.models.embedder import load_embedder
from iom.synthetic import write_folder
from iom.training import loop
from iom.training.backbone import train_backbone


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    root = tmp_path_factory.mktemp("stage1") / "faces"
    write_folder(root, 12, 4, seed=3)
    return root


@pytest.fixture(scope="module")
def config(faces, root):
    config = load_config(
        Stage1Config,
        root / "configs" / "smoke" / "stage1.yaml",
        overrides=[f"data.root={faces}", "training.epochs=2", "training.batch_size=12"],
    )
    return config.replace(
        backbone=config.backbone.replace(embedding_size=16, arguments={"stem": 16, "widths": [16], "depths": [1]})
    )


@pytest.fixture(scope="module")
def longer(config):
    """Enough epochs to learn."""
    return config.replace(training=config.training.replace(epochs=6))


@pytest.fixture(scope="module")
def finished(longer, tmp_path_factory):
    """The folder of a finished run of `longer`; tests that write to it take a copy."""
    output = tmp_path_factory.mktemp("finished") / "run"
    assert train_backbone(longer, output, progress=False) == output / "best.keras"
    return output


def records(output):
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def test_a_run_leaves_what_it_promises(longer, finished):
    output = finished
    expected = {
        "config.yaml", "versions.json", "metrics.jsonl", "curves.png", "state.npz",
        "best.keras", "last.keras",
    }  # fmt: skip
    assert {path.name for path in output.iterdir()} == expected
    assert load_config(Stage1Config, output / "config.yaml") == longer
    assert [record["epoch"] for record in records(output)] == [1, 2, 3, 4, 5, 6]
    assert all(0 <= record["held_out_eer"] <= 1 for record in records(output))
    embedder = load_embedder(str(output / "best.keras"))
    assert embedder.embedding_size == 16
    images = np.random.default_rng(0).integers(0, 256, (3, 112, 112, 3), dtype=np.uint8)
    np.testing.assert_allclose(np.linalg.norm(embedder.embed(images), axis=1), 1, rtol=1e-5)


class PowerFailure(BaseException):
    pass


def test_an_interrupted_run_goes_on_where_it_was_saved(config, tmp_path, monkeypatch):
    output = tmp_path / "run"
    taken = []
    original = loop.TrainingLoop.after_step

    def fail_in_the_second_epoch(self, epoch, step, logs, *, stopping):
        original(self, epoch, step, logs, stopping=stopping)
        taken.append(step)
        if len(taken) == 6:
            raise PowerFailure

    monkeypatch.setattr(loop.TrainingLoop, "after_step", fail_in_the_second_epoch)
    with pytest.raises(PowerFailure):
        train_backbone(config, output, progress=False)
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="--resume"):
        train_backbone(config, output, progress=False)
    train_backbone(config, output, progress=False, resume=True)
    assert [record["epoch"] for record in records(output)] == [1, 2]
    assert records(output)[1]["steps"] < records(output)[0]["steps"]


def test_a_finished_run_can_be_resumed_to_no_effect(longer, finished, tmp_path):
    output = shutil.copytree(finished, tmp_path / "run")
    before = (output / "best.keras").read_bytes()
    train_backbone(longer, output, progress=False, resume=True)
    assert (output / "best.keras").read_bytes() == before


def test_it_learns(finished):
    losses = [record["loss"] for record in records(finished)]
    assert losses[-1] < 0.9 * losses[0]


def test_distillation_with_a_margin(config, finished, tmp_path):
    """A teacher from a file, followed beside the labels."""
    teacher = str(finished / "best.keras")
    settings = config.distillation.replace(teacher=teacher, views=0)
    both = config.replace(distillation=settings)
    train_backbone(both, tmp_path / "student", progress=False)
    assert {"cosines_loss", "unit_embedding_loss"} <= set(records(tmp_path / "student")[0])


def test_mixed_precision_saves_a_float32_model(config, tmp_path):
    training = config.training.replace(precision="mixed_bfloat16", epochs=1)
    mixed = config.replace(training=training, optimizer=config.optimizer.replace(warmup_epochs=0.0))
    best = train_backbone(mixed, tmp_path / "run", progress=False)
    model = keras.models.load_model(best, compile=False)
    assert {layer.compute_dtype for layer in model.layers} == {"float32"}
    assert keras.config.dtype_policy().name == "float32"


def test_a_damaged_image_stops_the_run_before_it_starts(config, tmp_path):
    root = tmp_path / "faces"
    write_folder(root, 8, 3, seed=1)
    damaged = sorted(root.rglob("*.png"))[5]
    damaged.write_bytes(damaged.read_bytes()[:500])
    changed = config.replace(data=config.data.replace(root=str(root), holdout=0.5))
    with pytest.raises(DataError, match=damaged.name):
        train_backbone(changed, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_a_teacher_of_another_size(config, finished, tmp_path):
    teacher = str(finished / "best.keras")
    changed = config.replace(
        backbone=config.backbone.replace(embedding_size=32), distillation=config.distillation.replace(teacher=teacher)
    )
    with pytest.raises(ConfigError, match=r"set backbone\.embedding_size to 16"):
        train_backbone(changed, tmp_path / "student", progress=False)


def test_a_loss_that_is_no_number_stops_with_advice(config, tmp_path):
    optimizer = config.optimizer.replace(name="sgd", learning_rate=1e12, warmup_epochs=0.0)
    wild = config.replace(optimizer=optimizer)
    with pytest.raises(loop.TrainingDivergedError, match=r"lower optimizer\.learning_rate"):
        train_backbone(wild, tmp_path / "run", progress=False)
