"""Figures of each epoch for TensorBoard."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

from iom.errors import missing_extra


def check_tensorboard() -> None:
    """Refuse to start without the package.

    Raises:
        MissingExtraError: It is not installed.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise missing_extra("training.tensorboard", "tensorboard", otherwise="set it to false")


def tensorboard_writer(folder: Path, model: keras.Model) -> Callable[[dict[str, Any]], None]:
    """A function that writes the numbers of a record, at its epoch, by Keras' own callback.

    It is called behind verification, so that the held-out figures are written too, and opens and
    closes the file each time: nothing is lost if the training is killed.
    """

    def write(record: dict[str, Any]) -> None:
        callback = keras.callbacks.TensorBoard(str(folder), write_graph=False)
        callback.set_model(model)
        callback.on_train_begin()
        values = {k: v for k, v in record.items() if isinstance(v, float) and k != "learning_rate"}
        callback.on_epoch_end(record["epoch"], values)
        callback.on_train_end()

    return write
