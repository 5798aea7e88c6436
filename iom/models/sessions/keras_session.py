"""Running `.keras` files and SavedModels in TensorFlow."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iom.models.sessions.session import check_ends


class KerasSession:
    """A `.keras` file.

    Args:
        path: The file.
        precision: Of the file.
        threads: TensorFlow decides on its own.
    """

    def __init__(self, path: Path, *, precision: str, threads: int = 0) -> None:
        # Keras finds the layers of a file by name among those that were imported.
        import iom.nn.layers.code
        import iom.nn.layers.cosine
        import iom.nn.layers.index_of_max
        import iom.nn.layers.permutation
        import iom.nn.layers.rotation  # noqa: F401
        from iom.pretrained.importers.keras_files import load_keras_model

        self._model = load_keras_model(path)
        inputs = [tensor.name for tensor in self._model.inputs]
        check_ends(path, inputs, self._model.output_names)
        self._model.compile(jit_compile=False)

    def run(self, images: NDArray[np.float32], orders: NDArray[np.int32]) -> tuple[NDArray[Any], NDArray[np.float32]]:
        """Codes and embeddings."""
        found = self._model.predict_on_batch({"image": images, "order": orders})
        return found["codes"], found["embedding"]
