"""What a format is written from."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iom.export.source import Source


@dataclasses.dataclass(frozen=True)
class Material:
    """A source, faces to calibrate integers on, and a place for intermediate files.

    Attributes:
        source: Backbone and hasher.
        faces: RGB `(N, S, S, 3)` uint8, for formats that need to see activations; never those of
            the check.
        orders: One for each face, `(N, W)`, of random keys that are thrown away.
        scratch: A folder that is removed afterwards.
    """

    source: Source
    faces: NDArray[np.uint8]
    orders: NDArray[np.int32]
    scratch: Path

    @functools.cached_property
    def saved_model(self) -> Path:
        """A SavedModel of constants, written once, for the formats that are made from one."""
        from iom.export.saved_model import write_frozen_model

        path = self.scratch / "source.saved_model"
        write_frozen_model(self, path)
        return path

    @functools.cached_property
    def onnx(self) -> Any:
        """An ONNX model of it, made once, for the formats that are made from one."""
        from iom.export.onnx import onnx_model

        return onnx_model(self.source.backbone, self.source.hasher.model)
