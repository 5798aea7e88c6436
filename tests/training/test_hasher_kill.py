"""kill -9 in the middle of stage 2, then --resume: bit for bit the uninterrupted run."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from iom.nn.backbones.registry import build_backbone
from iom.synthetic import write_folder


@pytest.fixture
def command(tmp_path, root):
    write_folder(tmp_path / "faces", 12, 3, seed=3)
    model = build_backbone("iresnet_slim", embedding_size=16, stem=16, widths=(16, 16), depths=(1, 1))
    model.save(tmp_path / "backbone.keras")
    settings = [
        f"data.root={tmp_path / 'faces'}", f"embedder.weights={tmp_path / 'backbone.keras'}",
        f"embedder.cache={tmp_path / 'cache'}", "deterministic=true", "hasher.code_length=32",
        "batches.subjects=4", "batches.images=2", "batches.steps_per_epoch=15", "epochs=2",
        "checkpoint_steps=1", "calibration.fmr=0.2", "calibration.keys=1", "batches.keys=2",
        "hasher.inverse_temperature=5", "hasher.inverse_temperature_end=50",
        "hasher.hidden_layers=1", "hasher.bottleneck=12", "hasher.key_kind=orthogonal",
    ]  # fmt: skip
    base = [sys.executable, "train_stage2.py", "--config", "configs/smoke/stage2.yaml", "--quiet"]
    base += [text for setting in settings for text in ("--set", setting)]

    def start(output, *more):
        return subprocess.Popen(
            [*base, "--output", str(output), *more],
            cwd=root,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )

    return start


def finish(process):
    _, errors = process.communicate()
    assert process.returncode == 0, errors.decode()[-2000:]


@pytest.mark.proof
def test_killed_and_resumed_is_the_same(command, tmp_path):
    """With all that must follow from the step alone: temperature, keys, order of the rows."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(command(whole))
    process = command(killed)
    while not (killed / "state.npz").exists() and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    finish(command(killed, "--resume"))
    with np.load(whole / "state.npz") as a, np.load(killed / "state.npz") as b:
        assert a.files == b.files
        for name in a.files:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)
    assert (whole / "hasher.json").read_text().split("model_sha256")[0] == (killed / "hasher.json").read_text().split(
        "model_sha256"
    )[0]
