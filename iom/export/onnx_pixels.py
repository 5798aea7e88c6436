"""The scaling of pixels, folded into the first convolution of an ONNX graph.

On its own it costs a small network time that can be seen. Behind it stands zero padding, which raw
pixels cannot share: zero is what the middle of their range becomes, so that is padded with.
bfloat16 holds raw pixels and their middle exactly, and rounds what the scaling makes of them.
"""

from typing import Any

import numpy as np

from iom.export.onnx_graph import OnnxGraph


def fold_pixel_scaling(graph: OnnxGraph, side: int) -> None:
    """Make scale, shift, padding and convolution at the start a padding and a convolution.

    A graph that starts otherwise stays as it is.

    Args:
        graph: From raw pixels; it is changed.
        side: Of the image, in pixels.
    """
    scaled = next((node for node in graph.nodes if node.op_type == "Mul"), None)
    shifted = _only_reader(graph, scaled, "Add")
    padded = _only_reader(graph, shifted, "Pad")
    convolved = _only_reader(graph, padded or shifted, "Conv")
    if scaled is None or shifted is None or convolved is None or len(convolved.input) != 3:
        return
    scale, shift = (graph.constants.get(node.input[1]) for node in (scaled, shifted))
    if scale is None or shift is None or scale.size != 1 or shift.size != 1:
        return
    factor, offset = float(scale.item()), float(shift.item())
    pads = graph.constants[padded.input[1]] if padded else _same_pads(convolved, side)
    _take_in(graph, convolved, factor, offset)
    for attribute in convolved.attribute:
        if attribute.name == "auto_pad":
            attribute.s = b"VALID"

    name = f"{convolved.name}/pixels"
    place = graph.nodes.index(scaled)
    pads_name = graph.constant(pads, f"{name}/pads", np.int64)
    middle = graph.constant(-offset / factor, f"{name}/middle")
    convolved.input[0] = graph.add("Pad", [scaled.input[0], pads_name, middle], name)
    graph.nodes.insert(place, graph.nodes.pop())
    for node in (scaled, shifted, padded):
        if node is not None:
            graph.nodes.remove(node)


def _only_reader(graph: OnnxGraph, node: Any, kind: str) -> Any:
    """What reads the result of `node`, where that is one node of this kind."""
    if node is None:
        return None
    readers = [other for other in graph.nodes if node.output[0] in other.input]
    return readers[0] if len(readers) == 1 and readers[0].op_type == kind else None


def _take_in(graph: OnnxGraph, convolution: Any, factor: float, offset: float) -> None:
    _, kernel_name, bias_name = convolution.input
    kernel, bias = (graph.constants[x].astype(np.float64) for x in (kernel_name, bias_name))
    graph.constants[kernel_name] = (kernel * factor).astype(np.float32)
    graph.constants[bias_name] = (bias + kernel.sum((1, 2, 3)) * offset).astype(np.float32)


def _same_pads(convolution: Any, side: int) -> list[int]:
    """What `auto_pad` SAME_UPPER adds to a square image, as `Pad` wants it."""
    settings = {attribute.name: attribute for attribute in convolution.attribute}
    if settings["auto_pad"].s != b"SAME_UPPER":
        return [0] * 8
    before, after = [], []
    for axis in range(2):
        stride = settings["strides"].ints[axis]
        reach = (settings["kernel_shape"].ints[axis] - 1) * settings["dilations"].ints[axis] + 1
        total = max((-(-side // stride) - 1) * stride + reach - side, 0)
        before.append(total // 2)
        after.append(total - total // 2)
    return [0, 0, *before, 0, 0, *after]
