"""The residual network of dlib's face recognition (King, 2017), 29 convolutions, for chips of 150 x 150 pixels.

A block is conv3x3 - BN - ReLU - conv3x3 - BN, and ReLU after the sum. Strided convolutions have no padding. A block
that halves the map adds the 2 x 2 average of its input, whose channels are padded with zeros.
"""

from typing import Any

import keras
from keras import layers

from iom.nn.backbones.blocks import NAMES, HeadStyle, Scaling, batch_norm

STAGES = ((32, 3, 1), (64, 4, 2), (128, 3, 2), (256, 3, 2), (256, 1, 2))
"""(channels, blocks, stride of the first block) of each stage."""
SCALING = Scaling(1.0, 0.0)
"""dlib's own, (x - (122.782, 117.001, 104.298)) / 256, is part of the first convolution, which has no padding."""
HEAD = HeadStyle(names={**NAMES, "pool": "pool", "fc": "fc"})


@keras.saving.register_keras_serializable(package="iom")
class PadChannels(layers.Layer):
    """Zeros behind the channels of a map `(B, H, W, C)`, up to `channels`."""

    def __init__(self, channels: int, **settings: Any) -> None:
        super().__init__(**settings)
        self.channels = channels

    def call(self, x: Any) -> Any:
        return keras.ops.pad(x, ((0, 0), (0, 0), (0, 0), (0, self.channels - x.shape[-1])))

    def compute_output_shape(self, input_shape: Any) -> Any:
        return (*input_shape[:-1], self.channels)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "channels": self.channels}


def dlib_resnet(x: Any) -> Any:
    """Feature map of raw pixels."""
    x = _conv_norm(x, "conv1", 32, kernel=7, stride=2)
    x = layers.ReLU(name="relu1")(x)
    x = layers.MaxPooling2D(3, 2, name="max_pool")(x)
    for stage, (channels, depth, stride) in enumerate(STAGES, start=1):
        for unit in range(depth):
            x = _block(x, channels, stride if unit == 0 else 1, f"layer{stage}_{unit}")
    return x


def _block(x: Any, channels: int, stride: int, name: str) -> Any:
    y = _conv_norm(x, f"{name}_conv1", channels, stride=stride)
    y = layers.ReLU(name=f"{name}_relu1")(y)
    y = _conv_norm(y, f"{name}_conv2", channels)
    if stride != 1:
        x = layers.AveragePooling2D(2, 2, name=f"{name}_pool")(x)
        missing = [after - before for after, before in zip(x.shape[1:3], y.shape[1:3], strict=True)]
        if any(missing):
            y = layers.ZeroPadding2D(tuple((0, side) for side in missing), name=f"{name}_pad")(y)
    if x.shape[-1] != channels:
        x = PadChannels(channels, name=f"{name}_channels")(x)
    return layers.ReLU(name=f"{name}_relu2")(layers.Add(name=f"{name}_add")([y, x]))


def _conv_norm(x: Any, name: str, channels: int, *, kernel: int = 3, stride: int = 1) -> Any:
    x = layers.Conv2D(
        channels,
        kernel,
        strides=stride,
        padding="same" if stride == 1 else "valid",
        use_bias=False,
        kernel_initializer="he_normal",
        name=name,
    )(x)
    return batch_norm(f"{name}_bn")(x)
