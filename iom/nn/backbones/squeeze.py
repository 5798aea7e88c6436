"""Squeeze and excitation (Hu et al., CVPR 2018, arXiv 1709.01507)."""

from typing import Any

from keras import layers


def squeeze_excite(x: Any, name: str, *, reduced: int, bias: bool = True, gate: str = "sigmoid") -> Any:
    """Weigh the channels of a map by a small network of their averages.

    Args:
        x: `(B, H, W, C)`.
        name: Start of the layers' names.
        reduced: Units of the inner layer.
        bias: Whether both layers have a bias.
        gate: Activation that gives the weights, in 0..1.
    """
    channels = x.shape[-1]
    # Rank 2, not 1x1 convolutions: those crash or crawl on some CPUs.
    y = layers.GlobalAveragePooling2D(name=f"{name}_pool")(x)
    y = layers.Dense(
        reduced, activation="relu", use_bias=bias, kernel_initializer="he_normal",
        name=f"{name}_reduce",
    )(y)  # fmt: skip
    y = layers.Dense(channels, activation=gate, use_bias=bias, name=f"{name}_expand")(y)
    y = layers.Reshape((1, 1, channels), name=f"{name}_weights")(y)
    return layers.Multiply(name=f"{name}_scale")([x, y])
