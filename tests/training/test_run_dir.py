import keras
import numpy as np
import pytest

from iom.config import Stage1Config
from iom.errors import CheckpointError
from iom.training.run_dir import Progress, RunDir, read_records


@pytest.fixture
def model():
    keras.utils.set_random_seed(0)
    net = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2), keras.layers.Dropout(0.5)])
    net.compile(keras.optimizers.Adam(0.1), "mse", jit_compile=False)
    net.fit(np.ones((4, 3)), np.zeros((4, 2)), verbose=0)
    return net


@pytest.fixture
def run(tmp_path):
    return RunDir.open(tmp_path / "run", Stage1Config(), resume=False)


def values(model):
    variables = [*model.variables, *model.optimizer.variables]
    return [np.array(variable) for variable in variables]


def test_state_round_trip_restores_weights_optimizer_and_dropout(run, model):
    run.save_state(model, Progress(epoch=2, step=5, best=0.25))
    stored = values(model)
    model.fit(np.ones((4, 3)), np.zeros((4, 2)), verbose=0)
    assert not all(np.array_equal(a, b) for a, b in zip(stored, values(model), strict=True))
    assert run.load_state(model) == Progress(2, 5, 0.25)
    for before, after in zip(stored, values(model), strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("name", [".tmp-1.keras", "plots/.tmp-2.png"])
def test_a_resumed_run_keeps_nothing_of_killed_writers(run, name):
    left = run.path / name
    left.parent.mkdir(exist_ok=True)
    left.write_bytes(b"half a model")
    kept = run.path / "note.txt"
    kept.write_text("mine")
    RunDir.open(run.path, Stage1Config(), resume=True)
    assert not left.exists()
    assert kept.exists()


def test_a_run_that_was_killed_before_it_began_can_be_started(tmp_path):
    left = tmp_path / "run" / ".tmp-1.yaml"
    left.parent.mkdir()
    left.touch()
    RunDir.open(tmp_path / "run", Stage1Config(), resume=False)
    assert not left.exists()


def test_a_run_that_saved_nothing_starts_at_the_beginning(run, model):
    assert run.load_state(model) == Progress()


def test_damage_is_seen_and_changes_nothing(run, model):
    run.save_state(model, Progress(1, 0, 0.5))
    whole = run.state_path.read_bytes()
    before = values(model)
    for length in range(0, len(whole), max(1, len(whole) // 10)):
        run.state_path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="damaged"):
            run.load_state(model)
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    run.state_path.write_bytes(bytes(flipped))
    with pytest.raises(CheckpointError):
        run.load_state(model)
    for old, new in zip(before, values(model), strict=True):
        np.testing.assert_array_equal(old, new)


def test_state_of_another_model(run, model):
    run.save_state(model, Progress(1, 0, 0.5))
    other = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)])
    other.compile(keras.optimizers.Adam(0.1), "mse", jit_compile=False)
    with pytest.raises(CheckpointError, match="belongs to another model"):
        run.load_state(other)


def test_a_pickle_in_the_state_is_refused(run, model):
    with run.state_path.open("wb") as stream:
        np.savez(stream, header=np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(CheckpointError, match="damaged"):
        run.load_state(model)


def test_a_run_is_never_overwritten(run):
    with pytest.raises(CheckpointError, match="already holds a run: continue it with --resume"):
        RunDir.open(run.path, Stage1Config(), resume=False)
    assert RunDir.open(run.path, Stage1Config(), resume=True).config == Stage1Config()


def test_resume_with_another_configuration_names_the_difference(run):
    changed = Stage1Config().replace(seed=7)
    with pytest.raises(CheckpointError, match="seed: 1 -> 7"):
        RunDir.open(run.path, changed, resume=True)


def test_resume_with_a_damaged_configuration(run):
    (run.path / "config.yaml").write_text("seed: [")
    with pytest.raises(CheckpointError, match="cannot resume"):
        RunDir.open(run.path, Stage1Config(), resume=True)


def test_a_folder_of_other_things_is_left_alone(tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(CheckpointError, match="not empty"):
        RunDir.open(tmp_path, Stage1Config(), resume=False)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_metrics_of_a_repeated_epoch_are_replaced(run):
    for epoch, loss in ((1, 3.0), (2, 2.0), (3, 1.0), (2, 1.5)):
        run.log({"epoch": epoch, "loss": loss})
    assert read_records(run.metrics_path) == [{"epoch": 1, "loss": 3.0}, {"epoch": 2, "loss": 1.5}]


def test_damaged_metrics(run):
    run.metrics_path.write_text('{"epoch": 1\n')
    with pytest.raises(CheckpointError, match="damaged"):
        read_records(run.metrics_path)
