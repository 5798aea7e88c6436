"""Writing the small copy of a hasher that lies beside each artefact (`iom.nn.hash_numpy`)."""

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np

from iom._files import atomic_path
from iom.errors import WeightsError
from iom.export.folding import graph_nodes
from iom.nn.hash_numpy import PROGRAM
from iom.nn.layers.refinement import DECAY, RATE


def write_head(hasher: keras.Model, path: Path) -> None:
    """Write the steps of a hashing network and their arrays.

    Raises:
        WeightsError: A layer that has no step.
    """
    known = {id(tensor): ("embedding", "order").index(tensor.name) for tensor in hasher.inputs}
    steps: list[dict[str, Any]] = []
    arrays: dict[str, Any] = {}
    for number, node in enumerate(graph_nodes(hasher)):
        layer = node.operation
        name, settings, values = _step(layer)
        keys = {setting: f"{number}/{setting}" for setting in values}
        arrays |= {keys[setting]: value for setting, value in values.items()}
        reads = [known[id(tensor)] for tensor in node.input_tensors]
        steps.append({"step": name, "reads": reads, "settings": settings, "arrays": keys})
        known[id(node.output_tensors[0])] = number + 2
    program = np.frombuffer(json.dumps(steps).encode(), np.uint8)
    with atomic_path(path) as temporary:
        np.savez_compressed(temporary, **{PROGRAM: program, **arrays})


def _step(layer: Any) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Name, settings and arrays."""
    kind = type(layer).__name__
    if kind == "UnitLength":
        return "unit", {}, {}
    if kind == "Add":
        return "sum", {}, {}
    if kind == "Dense":
        return "dense", {}, dict(zip(("kernel", "bias"), layer.get_weights(), strict=False))
    if kind == "PReLU":
        return "prelu", {}, {"slopes": np.asarray(layer.alpha)}
    if kind in ("KeyedPermutation", "KeyedRotation"):
        return kind.removeprefix("Keyed").lower(), {"keep": layer.keep}, {}
    if kind == "IoMProjection":
        settings = {
            "alphabet_size": layer.alphabet_size, "steps": layer.refinement_steps,
            "gain": layer.refinement_gain, "rate": RATE, "decay": DECAY,
        }  # fmt: skip
        return "projection", settings, {"kernel": _compact(np.asarray(layer.kernel))}
    raise WeightsError(f"{layer.name}: the layer {kind} has no step in iom/nn/hash_numpy.py")


def _compact(kernel: Any) -> Any:
    """In half precision where that loses nothing, as with every frozen or stored projection."""
    half = kernel.astype(np.float16)
    return half if np.array_equal(half.astype(kernel.dtype), kernel) else kernel
