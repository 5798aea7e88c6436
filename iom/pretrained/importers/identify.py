"""Which of our architectures a foreign graph is."""

import math
from typing import Any

from iom.errors import WeightsError
from iom.pretrained.importers.graph import ForeignGraph, ForeignOp

_STANDARD = {
    (2, 2, 2, 2): "iresnet18",
    (3, 4, 6, 3): "iresnet34",
    (3, 4, 14, 3): "iresnet50",
    (3, 13, 30, 3): "iresnet100",
}
_STANDARD_WIDTHS = (64, 128, 256, 512)


def recognise(graph: ForeignGraph) -> tuple[str, dict[str, Any]]:
    """Name of the backbone and the arguments of its builder.

    Only what the arguments need is looked at; `assign_weights` then compares every operation.

    Raises:
        WeightsError: The graph resembles none of them.
    """
    convolutions = [op for op in graph.ops if op.kind == "conv"]
    dense = [op for op in graph.ops if op.kind == "dense"]
    if len(convolutions) < 3 or len(dense) != 1:
        raise WeightsError(
            f"{graph.source}: expected a recognition network of convolutions and one dense layer, "
            f"received {len(convolutions)} convolutions and {len(dense)} dense layers"
        )
    if any(op.groups > 1 for op in convolutions):
        name, arguments = _mobile(convolutions)
    else:
        name, arguments = _residual(graph, convolutions)
    size = graph.input_size or _input_size(convolutions, dense[0])
    return name, {**arguments, "embedding_size": graph.embedding_size, "input_size": size}


def _filters(op: ForeignOp) -> int:
    return len(op.arrays["kernel"])


def _mobile(convolutions: list[ForeignOp]) -> tuple[str, dict[str, Any]]:
    stem, second = convolutions[:2]
    if second.groups == _filters(second) == _filters(stem):
        return "mobilefacenet_y1", {}
    # Every bottleneck has one depthwise convolution of 3x3; stride 2 opens a stage.
    blocks = [0]
    for op in convolutions[1:]:
        if op.stride == 2:
            blocks.append(0)
        elif op.groups > 1 and op.arrays["kernel"].shape[2] == 3:
            blocks[-1] += 1
    if len(blocks) != 4 or min(blocks) < 1:
        raise WeightsError(f"{stem.name}: not a MobileFaceNet: stages of {blocks} blocks")
    return "mobilefacenet", {"blocks": tuple(blocks), "scale": max(1, _filters(stem) // 64)}


def _residual(graph: ForeignGraph, convolutions: list[ForeignOp]) -> tuple[str, dict[str, Any]]:
    """Each stage of an IResNet opens with a block that has a 1x1 convolution in its shortcut."""
    stem = _filters(convolutions[0])
    following = convolutions[1:]
    places = [i for i, op in enumerate(following) if op.arrays["kernel"].shape[2:] == (1, 1)]
    if not places:
        raise WeightsError(f"{graph.source}: not an IResNet: no stage has a shortcut convolution")
    widths = tuple(_filters(following[place]) for place in places)
    # Two convolutions a block, and the shortcut's stands behind those of the block that opens.
    ends = [*places[1:], len(following) + 2]
    depths = tuple((end - place - 1) // 2 for place, end in zip(places, ends, strict=True))
    if stem == 64 and widths == _STANDARD_WIDTHS and depths in _STANDARD:
        return _STANDARD[depths], {}
    return "iresnet_slim", {"stem": stem, "widths": widths, "depths": depths}


def _input_size(convolutions: list[ForeignOp], dense: ForeignOp) -> int:
    """Side of the image, from the feature map that the dense layer takes."""
    reduction = math.prod(op.stride for op in convolutions if op.arrays["kernel"].shape[2] == 3)
    last = convolutions[-1]
    if last.groups > 1:
        return int(last.arrays["kernel"].shape[2] * reduction)
    side = math.isqrt(dense.arrays["kernel"].shape[1] // _filters(last))
    return side * reduction
