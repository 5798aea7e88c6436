"""Data parallel training on `tf.distribute`: one `strategy.run` loop, as Keras' `fit` has none for several machines."""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from iom.config import DistributionConfig
from iom.errors import ConfigError
from iom.training.run_dir import Progress, RunDir

ENVIRONMENT = "TF_CONFIG"
Verification = Callable[[], dict[str, float]]


class Distribution:
    """Several devices as one; with `kind: none` every method leaves things as they are.

    Open it before anything else uses TensorFlow: devices cannot be changed afterwards. Machine `worker` 0 is the chief,
    which writes the run's folder; `devices` counts those of all machines.
    """

    def __init__(self, config: DistributionConfig) -> None:
        self.worker, self.workers, self.devices = 0, 1, 1
        self._strategy: Any = None
        self._scratch: Path | None = None
        if config.kind == "none":
            return
        try:
            self._strategy = _mirrored(config) if config.kind == "mirrored" else _multi_worker(config)
        except RuntimeError as error:
            raise ConfigError(
                f"distribution.kind {config.kind}: expected a process in which TensorFlow has "
                f"computed nothing yet; start the training in a new one ({error})"
            ) from error
        if config.kind == "multi_worker":
            resolver = self._strategy.cluster_resolver
            self.worker = int(resolver.task_id)
            self.workers = len(resolver.cluster_spec().as_dict()["worker"])
        self.devices = int(self._strategy.num_replicas_in_sync)

    @property
    def active(self) -> bool:
        """Whether there is more than one ordinary device."""
        return self._strategy is not None

    def scope(self) -> contextlib.AbstractContextManager[Any]:
        """Context in which the variables of the training are created: one copy for each device."""
        return self._strategy.scope() if self.active else contextlib.nullcontext()

    def check_batch(self, batch_size: int) -> None:
        """Refuse a batch that the devices cannot split evenly."""
        if batch_size % self.devices:
            raise ConfigError(
                f"training.batch_size: expected a multiple of the {self.devices} devices of "
                f"`distribution`, received {batch_size}"
            )

    def check_state(self, state: Sequence[Any]) -> None:
        """Refuse a loss with a running state: each device would follow its own share."""
        if self.active and state:
            raise ConfigError(
                "margin.name: expected a loss without running figures with `distribution`, "
                f"received one with {', '.join(variable.name for variable in state)}"
            )

    def synchronise(self, model: keras.Model) -> None:
        """Let batch norms take mean and variance over the whole batch, not a device's share; weights stay the same."""
        if not self.active:
            return
        for layer in model.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.synchronized = True

    def open_run(self, path: Path, config: Any, *, resume: bool) -> RunDir:
        """The run's folder; machines other than the chief read it and write to a temporary one."""
        if self.worker == 0:
            return RunDir.open(path, config, resume=resume)
        self._scratch = Path(tempfile.mkdtemp(prefix="iom-worker-"))
        return _FollowedRun(self._scratch, config, chief=path)

    def verification(
        self, model: keras.Model, plain: Callable[[], keras.Model], of: Callable[[keras.Model], Verification]
    ) -> Verification:
        """`of(model)`; on several devices that of a copy on one device, which takes over the weights each time."""
        if not self.active:
            return of(model)
        copy = plain()
        measure = of(copy)

        def copy_and_measure() -> dict[str, float]:
            copy.set_weights(model.get_weights())
            return measure()

        return copy_and_measure

    def fit(self, model: keras.Model) -> Callable[..., keras.callbacks.History]:
        """`model.fit`, or a loop for several devices with its arguments, on batches of `batch_size / workers`."""
        if not self.active:
            return model.fit  # type: ignore[no-any-return]
        with self.scope():  # its slots too have a copy on each device
            if not model.optimizer.built:
                model.optimizer.build(model.trainable_variables)

        @tf.function  # type: ignore[untyped-decorator]
        def step(batch: Any) -> dict[str, Any]:
            logs = self._strategy.run(model.train_step, args=(batch,))
            # Shares are of one size, so the mean of their means is that of the batch.
            return {name: self._strategy.reduce("MEAN", logs[name], axis=None) for name in logs}

        def fit(
            batches: tf.data.Dataset,
            *,
            initial_epoch: int,
            epochs: int,
            callbacks: list[keras.callbacks.Callback],
            verbose: Any = 0,
            **_: Any,
        ) -> keras.callbacks.History:
            steps = int(batches.cardinality())
            model.reset_metrics()
            listeners = keras.callbacks.CallbackList(
                callbacks,
                add_history=True,
                add_progbar=verbose != 0 and self.worker == 0,
                model=model,
                epochs=epochs,
                steps=steps,
            )
            listeners.on_train_begin()
            listeners.on_epoch_begin(initial_epoch)
            source = iter(self._on_devices(batches))
            logs: dict[str, float] = {}
            for number in range(steps):
                listeners.on_train_batch_begin(number)
                logs = {name: float(value) for name, value in step(next(source)).items()}
                listeners.on_train_batch_end(number, logs)
            listeners.on_epoch_end(initial_epoch, logs)
            listeners.on_train_end(logs)
            return model.history

        return fit

    def close(self) -> None:
        """Wait for the other machines, so that none loses its chief in its last step."""
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)
        if self.workers > 1:

            def meet() -> Any:
                return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, tf.constant(1.0))

            total = self._strategy.run(tf.function(meet))
            self._strategy.experimental_local_results(total)[0].numpy()

    def _on_devices(self, batches: tf.data.Dataset) -> Any:
        """One part of each batch for each device of this machine."""
        local = self.devices // self.workers

        def parts(*batch: Any) -> Any:
            return tf.nest.map_structure(lambda t: tf.reshape(t, (local, t.shape[0] // local, *t.shape[1:])), batch)

        split = batches.map(parts).unbatch().prefetch(2 * local)
        return self._strategy.distribute_datasets_from_function(lambda context: split)


class _FollowedRun(RunDir):
    """Run of a machine that is not the chief: it reads the chief's state and writes to a folder that is removed."""

    def __init__(self, path: Path, config: Any, *, chief: Path) -> None:
        super().__init__(path, config)
        self._chief = chief

    @property
    def state_path(self) -> Path:
        return self._chief / "state.npz"

    def save_state(self, model: keras.Model, progress: Progress, *, state: Any = ()) -> None:
        """Leave the state to the chief."""


def _mirrored(config: DistributionConfig) -> Any:
    accelerators = tf.config.list_physical_devices("GPU")
    if accelerators:
        names = [f"GPU:{number}" for number in range(config.devices or len(accelerators))]
        if len(names) > len(accelerators):
            raise ConfigError(
                f"distribution.devices: expected at most {len(accelerators)}, the accelerators "
                f"of this machine, received {config.devices}"
            )
        return tf.distribute.MirroredStrategy(names)
    parts = config.devices or 1
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * parts)
    return tf.distribute.MirroredStrategy([f"CPU:{number}" for number in range(parts)])


def _multi_worker(config: DistributionConfig) -> Any:
    if config.workers:
        if config.index < 0:
            raise ConfigError(
                "distribution.index: expected which of distribution.workers this machine is, "
                f"0 to {len(config.workers) - 1}; give it with --set distribution.index=N"
            )
        os.environ[ENVIRONMENT] = json.dumps(
            {"cluster": {"worker": list(config.workers)}, "task": {"type": "worker", "index": config.index}}
        )
    elif ENVIRONMENT not in os.environ:
        raise ConfigError(
            "distribution.workers: expected host:port of every machine, or the environment "
            f"variable {ENVIRONMENT}; received neither"
        )
    accelerators = tf.config.list_physical_devices("GPU")
    if config.devices and accelerators:
        tf.config.set_visible_devices(accelerators[: config.devices], "GPU")
    elif config.devices > 1:
        raise ConfigError(
            f"distribution.devices: expected 0 or 1 on a machine without accelerators, received {config.devices}"
        )
    return tf.distribute.MultiWorkerMirroredStrategy()
