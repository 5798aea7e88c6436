"""What a deployed hasher needs of a runtime."""

from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from iom.errors import WeightsError

INPUTS = ("image", "order")
OUTPUTS = ("codes", "embedding")


class Session(Protocol):
    """An artefact that is ready to run."""

    def run(self, images: NDArray[np.float32], orders: NDArray[np.int32]) -> tuple[NDArray[Any], NDArray[np.float32]]:
        """Codes `(B, M)` and embeddings `(B, D)`, not normalised.

        Args:
            images: RGB `(B, S, S, 3)`, 0..255.
            orders: `(B, W)`, what the key's kind makes of it.
        """
        ...


def check_ends(path: Path, inputs: object, outputs: object) -> None:
    """Refuse an artefact that has other inputs or outputs than a deployed hasher.

    Raises:
        WeightsError: Names what is missing. One without `order` would have a key built in.
    """
    for kind, needed, found in (("input", INPUTS, inputs), ("output", OUTPUTS, outputs)):
        names = sorted(str(name) for name in found)  # type: ignore[attr-defined]
        missing = [name for name in needed if name not in names]
        if missing:
            raise WeightsError(
                f"{path}: expected the {kind}s {', '.join(needed)}, received {', '.join(names)}; "
                f"{', '.join(missing)} is missing: not an artefact of iom deploy"
            )
