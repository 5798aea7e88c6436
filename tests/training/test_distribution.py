import json
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from iom.config import DistributionConfig, Stage1Config, load_config
from iom.errors import ConfigError
from iom.synthetic import write_folder
from iom.training.distribution import Distribution
from tests.training import distributed_training

SCRIPT = Path(__file__).parent / "distributed_training.py"
ROOT = Path(__file__).parents[2]


def start(faces, output, *overrides):
    command = [sys.executable, str(SCRIPT), str(faces), str(output), *overrides]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={
            "PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin",
            "TF_CPP_MIN_LOG_LEVEL": "2", "TF_NUM_INTRAOP_THREADS": "1",
        },
    )  # fmt: skip


def finish(*processes):
    outputs = []
    try:
        outputs = [process.communicate(timeout=240)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output[-3000:]


def state(run):
    with np.load(run / "state.npz") as stored:
        return {name: stored[name] for name in stored.files if name != "header"}


def losses(run):
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def assert_same(run, other):
    ours, theirs = state(run), state(other)
    assert ours.keys() == theirs.keys()
    # Weights, batch-norm statistics, optimizer. Synchronised variances are computed by another
    # formula, whose rounding six steps carry on.
    for name in theirs:
        if ours[name].dtype.kind == "u":
            continue
        scale = max(1e-2, float(abs(theirs[name]).max()))
        assert abs(ours[name].astype(float) - theirs[name]).max() < 5e-3 * scale, name
    np.testing.assert_allclose(losses(run), losses(other), rtol=1e-3)


def free_ports():
    sockets = [socket.socket() for _ in range(2)]
    for entry in sockets:
        entry.bind(("127.0.0.1", 0))
    ports = [entry.getsockname()[1] for entry in sockets]
    for entry in sockets:
        entry.close()
    return ports


def pair(faces, output, *overrides):
    machines = str([f"127.0.0.1:{port}" for port in free_ports()])
    return [
        start(
            faces, output, "distribution.kind=multi_worker", f"distribution.workers={machines}",
            f"distribution.index={index}", *overrides,
        )
        for index in range(2)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    root = tmp_path_factory.mktemp("distribution") / "faces"
    write_folder(root, 12, 4, seed=3)
    return root


@pytest.mark.proof
def test_two_devices_and_two_machines_train_what_one_does(faces, tmp_path):
    two = start(faces, tmp_path / "two", "distribution.kind=mirrored", "distribution.devices=2")
    distributed_training.main(str(faces), str(tmp_path / "one"))
    finish(two)
    finish(*pair(faces, tmp_path / "machines"))
    assert_same(tmp_path / "two", tmp_path / "one")
    assert_same(tmp_path / "machines", tmp_path / "one")
    names = {path.name for path in (tmp_path / "one").iterdir()}
    assert {path.name for path in (tmp_path / "machines").iterdir()} == names


def test_settings_that_do_not_go_together():
    def stage1(*overrides):
        load_config(Stage1Config, ROOT / "configs" / "smoke" / "stage1.yaml", overrides=overrides)

    stage1("distribution.kind=mirrored")
    for setting in ("margin.sample=0.5", "triplet.weight=1", "training.accumulate=2"):
        with pytest.raises(ConfigError, match=setting.partition("=")[0]):
            stage1("distribution.kind=mirrored", setting)
    with pytest.raises(ConfigError, match="kind"):
        DistributionConfig(kind="two")
    with pytest.raises(ConfigError, match="host:port"):
        DistributionConfig(kind="multi_worker", workers=("10.0.0.1",))
    with pytest.raises(ConfigError, match="index"):
        DistributionConfig(kind="multi_worker", workers=("a:1", "b:2"), index=2)


def test_what_a_machine_must_know(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(ConfigError, match="TF_CONFIG"):
        Distribution(DistributionConfig(kind="multi_worker"))
    with pytest.raises(ConfigError, match="--set distribution"):
        Distribution(DistributionConfig(kind="multi_worker", workers=("a:1", "b:2")))


def test_one_device_leaves_everything_as_it_is():
    one = Distribution(DistributionConfig())
    one.check_batch(7)
    assert (one.worker, one.workers, one.devices, one.active) == (0, 1, 1, False)
    model = SimpleNamespace(fit=object())
    assert one.fit(model) is model.fit
    one.close()
    one.devices = 2
    with pytest.raises(ConfigError, match="multiple of the 2 devices"):
        one.check_batch(7)
