"""ImageNet weights of `keras.applications`: found, or an error; never random ones instead."""

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers

from iom.errors import WeightsError


def imagenet_model(build: Callable[[str | None], keras.Model], file: str, imagenet: bool | str) -> keras.Model:
    """The network as Keras builds it, without a classifier, with its ImageNet weights.

    Args:
        build: Takes Keras' argument `weights`.
        file: Name of the weights' file.
        imagenet: True: take Keras' cached file or download it. A path: read that file.

    Raises:
        WeightsError: The download failed, the file is not there or damaged or of another network.
    """
    if not isinstance(imagenet, bool):
        return _from_file(build, Path(imagenet).expanduser(), file)
    try:
        with warnings.catch_warnings():
            # "weights for input shape (224, 224) will be loaded": without a classifier, all fit.
            warnings.simplefilter("ignore")
            return build("imagenet")
    # A plain Exception where the download fails, others where the file is damaged.
    except Exception as error:
        raise WeightsError(
            f"ImageNet weights {file}: {' '.join(str(error).split())}. Put the file into "
            f"{cache_folder()}, or name it: imagenet: path/to/{file}"
        ) from error


def cache_folder() -> Path:
    """Where Keras keeps downloaded weights."""
    home = os.environ.get("KERAS_HOME") or Path.home() / ".keras"
    return Path(home) / "models"


def _from_file(build: Callable[[str | None], keras.Model], path: Path, file: str) -> keras.Model:
    if not path.is_file():
        raise WeightsError(f"imagenet: expected a file such as {file}, there is none at {path}")
    model = build(None)
    try:
        model.load_weights(path)
    # h5py and Keras raise several kinds for weights of another shape or a damaged file.
    except Exception as error:
        raise WeightsError(
            f"imagenet: {path} does not fit; expected the layout of Keras' {file}: {' '.join(str(error).split())}"
        ) from error
    return model


def copy_weights(source: keras.Model, target: keras.Model) -> None:
    """Copy the weights of all layers but a built-in scaling.

    Args:
        source: The network as Keras builds it.
        target: The same with grouped convolutions replaced by depthwise ones.
    """
    givers = [layer for layer in source.layers if layer.weights and not isinstance(layer, layers.Normalization)]
    takers = [layer for layer in target.layers if layer.weights]
    for giver, taker in zip(givers, takers, strict=True):
        taker.set_weights([
            _as_depthwise(value) if isinstance(taker, layers.DepthwiseConv2D)
            and not isinstance(giver, layers.DepthwiseConv2D) and value.ndim == 4 else value
            for value in giver.get_weights()
        ])  # fmt: skip


def _as_depthwise(kernel: Any) -> Any:
    """`(k, k, 1, C)` of a grouped convolution -> `(k, k, C, 1)`."""
    return np.swapaxes(kernel, 2, 3)
