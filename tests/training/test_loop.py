"""The loop on a network of two layers: what a resumed run must repeat, and how a run stops."""

import json
import multiprocessing
import os
import shutil
import signal
import threading

import keras
import numpy as np
import pytest

from iom.config import OptimizerConfig, Stage1Config
from iom.training import loop
from iom.training.loop import TrainingDivergedError, TrainingLoop, TrainingStopped, interruptions
from iom.training.optimizers import build_optimizer
from iom.training.run_dir import Progress, RunDir, read_records

STEPS, EPOCHS = 5, 2


class RunningMean(keras.losses.Loss):
    """Errors against their running mean: a loss with a state."""

    def __init__(self):
        super().__init__()
        self.mean = keras.Variable(0.0, trainable=False, name="mean")

    def call(self, y_true, y_pred):
        errors = keras.ops.mean(keras.ops.square(y_pred - y_true), axis=-1)
        self.mean.assign(0.9 * self.mean + 0.1 * keras.ops.mean(errors))
        return errors / (1.0 + self.mean)


def compiled(optimizer="sgd", accumulate=1, policy="float32"):
    keras.utils.set_random_seed(3)
    keras.config.set_dtype_policy(policy)
    try:
        layers = [
            keras.Input((4,)),
            keras.layers.Dense(8, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.4),
            keras.layers.Dense(2, dtype="float32"),
        ]
        model = keras.Sequential(layers)
        config = OptimizerConfig(name=optimizer, learning_rate=0.01, warmup_epochs=0.5)
        loss = RunningMean()
        model.compile(
            build_optimizer(config, epochs=EPOCHS, steps_per_epoch=STEPS, accumulate=accumulate),
            loss,
            jit_compile=False,
        )
    finally:
        keras.config.set_dtype_policy("float32")
    return model, loss


def batches(epoch, first):
    import tensorflow as tf

    draws = np.random.default_rng(epoch)
    x = draws.normal(size=(STEPS, 6, 4)).astype(np.float32)
    y = draws.normal(size=(STEPS, 6, 2)).astype(np.float32)
    return tf.data.Dataset.from_tensor_slices((x[first:], y[first:]))


def looped(model, loss, run, **changes):
    settings = {
        "steps_per_epoch": STEPS,
        "batches": batches,
        "verify": lambda: {"held_out_eer": 0.5},
        "save_model": lambda name: None,
        "checkpoint_steps": 1,
        "state": (loss.mean,),
    }
    return TrainingLoop(model=model, run=run, **{**settings, **changes})


def train(model, loss, run, **changes):
    return looped(model, loss, run, **changes).train(EPOCHS)


def opened(path, *, resume=False):
    return RunDir.open(path, Stage1Config(), resume=resume)


@pytest.mark.parametrize(("optimizer", "accumulate", "policy"), [("nadam", 1, "float32"), ("sgd", 3, "mixed_float16")])
def test_a_resumed_run_ends_like_the_uninterrupted_one(optimizer, accumulate, policy, tmp_path, monkeypatch):
    """Accumulated gradients, loss scale, dropout, running mean of the loss: all in the state."""
    arguments = {"optimizer": optimizer, "accumulate": accumulate, "policy": policy}
    original = loop.TrainingLoop.after_step

    def keep(self, epoch, step, logs, *, stopping):
        original(self, epoch, step, logs, stopping=stopping)
        if (epoch, step - 1) == (1, 1):
            shutil.copytree(tmp_path / "whole", tmp_path / "broken")  # what a power failure would leave

    with monkeypatch.context() as patch:
        patch.setattr(loop.TrainingLoop, "after_step", keep)
        train(*compiled(**arguments), opened(tmp_path / "whole"))
    run = opened(tmp_path / "broken", resume=True)
    assert run.progress() == Progress(1, 2, 0.5)
    train(*compiled(**arguments), run)
    with np.load(tmp_path / "whole" / "state.npz") as a, np.load(tmp_path / "broken" / "state.npz") as b:
        assert a.files == b.files
        for name in a.files:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_the_state_holds_what_a_loss_and_a_loss_scale_remember(tmp_path):
    model, loss = compiled("adamw", 2, "mixed_float16")
    run = opened(tmp_path / "run")
    train(model, loss, run)
    scale = model.optimizer.dynamic_scale
    before = [float(loss.mean), float(np.asarray(scale))]
    gathered = [np.array(v) for v in model.optimizer.inner_optimizer._accumulated_gradients]
    assert before[0] > 0
    scale.assign(1.0)
    loss.mean.assign(-1.0)
    for variable in model.optimizer.inner_optimizer._accumulated_gradients:
        variable.assign(np.full(variable.shape, 7.0))
    run.load_state(model, state=(loss.mean,))
    assert [float(loss.mean), float(np.asarray(scale))] == before
    for known, variable in zip(gathered, model.optimizer.inner_optimizer._accumulated_gradients, strict=True):
        np.testing.assert_array_equal(known, np.array(variable))


def test_accumulated_batches_are_one_large_batch(tmp_path):
    """Without dropout and batch norm: three batches of two are one of six."""
    rows = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    truth = rows[:, :2] * 2
    weights = []
    for size, accumulate in ((6, 1), (2, 3)):
        keras.utils.set_random_seed(1)
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        config = OptimizerConfig(name="adamw", warmup_epochs=0, schedule="constant")
        optimizer = build_optimizer(config, epochs=1, steps_per_epoch=6 // size, accumulate=accumulate)
        model.compile(optimizer, "mse", jit_compile=False)
        model.fit(rows, truth, batch_size=size, shuffle=False, verbose=0)
        weights.append(model.get_weights())
    for one, many in zip(*weights, strict=True):
        np.testing.assert_allclose(one, many, atol=1e-6)


def test_verification_within_an_epoch_and_the_figure_that_decides(tmp_path):
    rates = iter([0.6, 0.7, 0.9, 0.8, 0.8, 0.95])
    saved = []
    model, loss = compiled()
    run = opened(tmp_path / "run")
    progress = train(
        model,
        loss,
        run,
        verify=lambda: {"lfw_accuracy": next(rates), "held_out_eer": 0.1},
        save_model=saved.append,
        best_figure="lfw_accuracy",
        verify_steps=2,
    )
    records = read_records(run.metrics_path)
    places = [(row["epoch"], row.get("step")) for row in records]
    assert places == [(1, 2), (1, 4), (1, None), (2, 2), (2, 4), (2, None)]
    assert [row["lfw_accuracy"] for row in records] == [0.6, 0.7, 0.9, 0.8, 0.8, 0.95]
    assert saved == ["best", "best", "best", "last", "best", "last"]
    assert progress.best == pytest.approx(0.05)
    assert (run.path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_batch_that_is_not_finite_is_named(tmp_path):
    def poisoned(epoch, first):
        def poison(x, y):
            return x, y * np.nan if epoch == 1 else y

        return batches(epoch, first).map(poison)

    model, loss = compiled()
    run = opened(tmp_path / "run")
    with pytest.raises(TrainingDivergedError, match=r"step 1 of epoch 2.*last good state"):
        train(model, loss, run, batches=poisoned, files_of=lambda e, s: [f"face-{e}-{s}.jpg"])
    told = json.loads((run.path / "nan_batch.json").read_text())
    assert (told["epoch"], told["step"], told["files"]) == (2, 1, ["face-1-0.jpg"])
    assert told["found"] == "the loss is nan"
    restored, state = compiled()
    assert run.load_state(restored, state=(state.mean,)) == Progress(1, 0, 0.5)
    assert all(np.isfinite(array).all() for array in restored.get_weights())


def test_weights_that_are_not_finite_are_found_in_their_own_step(tmp_path):
    model, loss = compiled()
    model.trainable_variables[0].assign(np.full(model.trainable_variables[0].shape, np.inf))
    training = looped(model, loss, opened(tmp_path / "run"), files_of=lambda epoch, step: ["a.jpg", "b.jpg"])
    with pytest.raises(TrainingDivergedError, match="weights are not finite at step 3"):
        training.check_finite({"loss": 1.0}, epoch=0, step=3)
    told = json.loads((tmp_path / "run" / "nan_batch.json").read_text())
    assert told["files"] == ["a.jpg", "b.jpg"]


def test_the_output_whose_loss_is_not_finite_is_named(tmp_path):
    model, loss = compiled()
    logs = {"loss": np.nan, "cosines_loss": 1.0, "centre_loss": np.nan}
    with pytest.raises(TrainingDivergedError, match=r"output centre\)"):
        looped(model, loss, opened(tmp_path / "run")).check_finite(logs, epoch=0, step=1)


def interrupting(at):
    def watched(epoch, first):
        def interrupt(index, item):
            if (epoch, int(index) + first) == at:
                os.kill(os.getpid(), signal.SIGINT)
            return index

        import tensorflow as tf

        def act(index, item):
            index = tf.py_function(interrupt, [index, item[0]], tf.int64)
            return tf.reshape(tf.cast(index, tf.float32) * 0, ()) + item[0], item[1]

        return batches(epoch, first).enumerate().map(act)

    return watched


def interrupt_and_resume(folder):
    model, loss = compiled()
    run = opened(folder / "run")
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(TrainingStopped, match="saved"):
        train(model, loss, run, batches=interrupting((1, 1)), checkpoint_steps=0)
    assert signal.getsignal(signal.SIGINT) is handler
    assert run.progress().epoch == 1
    assert run.progress().step in (1, 2)
    train(*compiled(), opened(folder / "run", resume=True))
    train(*compiled(), opened(folder / "whole"))
    with np.load(folder / "whole" / "state.npz") as a, np.load(run.state_path) as b:
        assert all(np.array_equal(a[name], b[name]) for name in a.files)


def press_twice():
    with interruptions() as requested:
        os.kill(os.getpid(), signal.SIGINT)
        assert requested.is_set()
        os.kill(os.getpid(), signal.SIGINT)


def interrupt_twice():
    with pytest.raises(KeyboardInterrupt) as stopped:
        press_twice()
    assert not isinstance(stopped.value, TrainingStopped)


def interrupted(folder):
    interrupt_twice()
    interrupt_and_resume(folder)


def test_an_interrupt_finishes_the_step_and_saves_and_a_second_one_acts_at_once(tmp_path):
    """A signal is the process's; in that of the suite, other tests have left threads and event loops behind."""
    process = multiprocessing.get_context("spawn").Process(target=interrupted, args=(tmp_path,))
    process.start()
    process.join(120)
    assert process.exitcode == 0


def test_n_typed_in_a_terminal_stops_behind_the_epoch(tmp_path, monkeypatch):
    ours, theirs = os.openpty()
    with os.fdopen(theirs) as terminal:
        monkeypatch.setattr(loop.sys, "stdin", terminal)
        monkeypatch.setattr(loop.os, "tcgetpgrp", lambda file: os.getpgrp())
        typed = threading.Event()

        def type_it(epoch, first):
            os.write(ours, b"something else\nn\n")
            typed.wait(1.0)
            return batches(epoch, first)

        model, loss = compiled()
        run = opened(tmp_path / "run")
        with pytest.raises(TrainingStopped, match="after epoch 1"):
            train(model, loss, run, batches=type_it)
    os.close(ours)
    assert run.progress() == Progress(1, 0, 0.5)


def test_a_step_is_traced_once(tmp_path, monkeypatch):
    """A step that has the slots of its optimizer to make is traced twice, which takes seconds for a large network."""
    model, loss = compiled("adam")
    traced = []
    original = model.train_step
    monkeypatch.setattr(model, "train_step", lambda data: traced.append(1) or original(data))
    looped(model, loss, RunDir(tmp_path, Stage1Config())).train(EPOCHS)
    assert len(traced) == 1
