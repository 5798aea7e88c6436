"""A large IResNet with the function of the small one that is bundled, for want of trained weights.

Each channel of the small network is repeated, so that convolutions have their full size, and every
kernel gets noise so that the repetitions differ; blocks that the small network does not have add
little to what passes them. What comes out knows faces nearly as well as the bundled network, which
random weights do not: error rates and codes then say what precision does to them.
"""

from typing import Any

import numpy as np

BUNDLED = "dlib_resnet.bundled"
NOISE, ADDED = 0.1, 0.1
"""Of the standard deviation of a kernel; of the weight of an added block."""
PLACES = 7 * 7
"""Of the last map."""


def grown(name: str, statistics: Any) -> Any:
    """The backbone `name` (an IResNet), grown from the bundled network.

    Args:
        name: A key of the backbones, with the stages of an IResNet.
        statistics: Faces `(N, 112, 112, 3)` uint8 that batch norms take their statistics from.
    """
    import keras

    from iom.nn.backbones.registry import build_backbone
    from iom.pretrained.weights import load_backbone_model

    keras.utils.set_random_seed(1)
    stream = np.random.default_rng(1)
    small: Any = load_backbone_model(BUNDLED).model
    large = build_backbone(name, embedding_size=512)
    known = {layer.name: layer for layer in small.layers}
    for layer in large.layers:
        if layer.name in known and layer.get_weights():
            olds = known[layer.name].get_weights()
            pairs = zip(olds, layer.get_weights(), strict=True)
            layer.set_weights([_repeated(old, new.shape, stream) for old, new in pairs])
        elif layer.name.endswith("_bn3"):
            gamma, *others = layer.get_weights()
            layer.set_weights([gamma * ADDED, *others])
    _take_statistics(large, statistics)
    return large


def _repeated(old: Any, shape: tuple[int, ...], stream: Any) -> Any:
    """Channels side by side as often as they fit; sums over repeated inputs stay what they were."""
    if old.shape == shape:
        return old
    if old.ndim == 2:  # the embedding: repeated maps in, turned into more dimensions
        times = shape[0] // old.shape[0]
        rows = old.reshape(PLACES, -1, old.shape[1])
        rows = np.tile(rows, (1, times, 1)).reshape(shape[0], old.shape[1]) / times
        turn, _ = np.linalg.qr(stream.standard_normal((shape[1], old.shape[1])))
        return (rows @ turn.T).astype(np.float32)
    if old.ndim == 1 and shape[0] % old.shape[0]:
        raise ValueError(f"cannot grow {old.shape} to {shape}")
    times = [new // few for new, few in zip(shape, old.shape, strict=True)]
    new = np.tile(old, times)
    if old.ndim == 4:
        new = new / times[2]
        new = new + NOISE * new.std() * stream.standard_normal(shape)
    return new.astype(np.float32)


def _take_statistics(backbone: Any, images: Any) -> None:
    """Batch norms get the means and variances of these images, by one call."""
    import keras

    norms = [x for x in backbone.layers if isinstance(x, keras.layers.BatchNormalization)]
    for norm in norms:
        norm.momentum = 0.0
    backbone(images.astype("float32"), training=True)
