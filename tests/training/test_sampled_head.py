import shutil

import numpy as np
import pytest

from iom.config import Stage1Config, load_config
from iom.errors import ConfigError
from iom.synthetic import write_folder
from iom.training import loop
from iom.training.backbone import train_backbone


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    root = tmp_path_factory.mktemp("sampled") / "faces"
    write_folder(root, 12, 4, seed=3)
    return root


@pytest.fixture
def settings(faces, root):
    def make(*overrides):
        config = load_config(
            Stage1Config,
            root / "configs" / "smoke" / "stage1.yaml",
            overrides=[
                f"data.root={faces}", "training.epochs=2", "training.batch_size=6",
                "margin.sample=0.7", "training.checkpoint_steps=2", *overrides,
            ],
        )  # fmt: skip
        small = {"stem": 16, "widths": [16], "depths": [1]}
        backbone = config.backbone.replace(embedding_size=16, arguments=small)
        return config.replace(backbone=backbone)

    return make


def state(output):
    with np.load(output / "state.npz") as stored:
        return {name: stored[name] for name in stored.files if name != "header"}


def test_a_run_with_drawn_classes_is_resumed_exactly(settings, tmp_path, monkeypatch):
    config = settings("margin.name=curricularface", "deterministic=true")
    original, taken = loop.TrainingLoop.after_step, []

    def keep(self, epoch, step, logs, *, stopping):
        original(self, epoch, step, logs, stopping=stopping)
        taken.append(step)
        if len(taken) == 9:
            shutil.copytree(tmp_path / "straight", tmp_path / "cut")  # what a power failure would leave

    with monkeypatch.context() as patch:
        patch.setattr(loop.TrainingLoop, "after_step", keep)
        train_backbone(config, tmp_path / "straight", progress=False)
    train_backbone(config, tmp_path / "cut", progress=False, resume=True)
    straight, cut = state(tmp_path / "straight"), state(tmp_path / "cut")
    assert straight.keys() == cut.keys()
    for name in straight:
        np.testing.assert_array_equal(straight[name], cut[name])


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ("training.batch_size=12", "room for the 12"),
        ("training.accumulate=2", "accumulate"),
        ("margin={name: softmax, sample: 0.7}", "margin.sample"),
    ],
)
def test_what_does_not_go_with_it_is_refused(settings, tmp_path, change, match):
    with pytest.raises(ConfigError, match=match):
        train_backbone(settings(change), tmp_path / "run", progress=False)
