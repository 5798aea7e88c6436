"""Running a SavedModel in TensorFlow, if it holds the operations of networks alone."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iom.errors import WeightsError
from iom.models.sessions.session import OUTPUTS, check_ends
from iom.pretrained.importers.tensorflow_graphs import checked_saved_model

SIGNATURE = "serving_default"


class SavedModelSession:
    """A SavedModel folder.

    Args:
        path: The folder.
        precision: Of its weights.
        threads: TensorFlow decides on its own.

    Raises:
        WeightsError: Damaged, or an operation that `iom.pretrained.importers.tensorflow_graphs` does not allow.
    """

    def __init__(self, path: Path, *, precision: str, threads: int = 0) -> None:
        import tensorflow as tf

        checked_saved_model(path)
        try:
            self._loaded = tf.saved_model.load(str(path))  # keeps the variables alive
            self._call = self._loaded.signatures[SIGNATURE]
        except (OSError, ValueError, KeyError) as error:
            raise WeightsError(f"{path}: TensorFlow cannot read it: {error}") from error
        check_ends(path, self._call.structured_input_signature[1], self._call.structured_outputs)
        self._tensor = tf.constant

    def run(self, images: NDArray[np.float32], orders: NDArray[np.int32]) -> tuple[NDArray[Any], NDArray[np.float32]]:
        """Codes and embeddings."""
        found = self._call(image=self._tensor(images), order=self._tensor(orders))
        codes, rows = (found[name].numpy() for name in OUTPUTS)
        return codes, rows
