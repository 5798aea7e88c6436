"""The common form of foreign networks: their weighted operations, in calling order."""

import dataclasses
from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

IMAGE = -1
"""Producer index of the input image."""

Kind = Literal["conv", "batch_norm", "prelu", "dense", "add"]


@dataclasses.dataclass(frozen=True)
class ForeignOp:
    """One operation of a foreign graph, with its weights in the foreign (channels first) layout."""

    kind: Kind
    name: str
    inputs: tuple[int, ...]
    """Indexes of the operations whose results it takes; `IMAGE` is the input."""
    arrays: Mapping[str, NDArray[np.float32]] = dataclasses.field(default_factory=dict)
    """conv: `kernel` (O, I/groups, h, w), `bias`; dense: `kernel` (O, C*H*W), `bias`; batch_norm:
    `gamma`, `beta`, `mean`, `variance`; prelu: `slope` (C,). A bias may be missing."""
    stride: int = 1
    padding: int = 0
    groups: int = 1
    epsilon: float = 0.0


@dataclasses.dataclass(frozen=True)
class ForeignGraph:
    """A foreign network: image (B, 3, S, S) -> embedding (B, D)."""

    source: str
    ops: tuple[ForeignOp, ...]
    scaling: tuple[float, float] | None
    """(scale, offset) of pixels that the graph itself does, `x * scale + offset`; `None`: it does
    none and expects scaled pixels."""
    input_size: int | None
    """Side of the image, where the file states it."""

    @property
    def embedding_size(self) -> int:
        """D, from the last dense operation."""
        last = next(op for op in reversed(self.ops) if op.kind == "dense")
        return len(last.arrays["kernel"])
