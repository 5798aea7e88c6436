"""The code of one face: symbols that never show themselves, and what they belong to."""

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iom.errors import CodeError

SHOWN_DIGITS = 12


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Code:
    """A template of one face: `symbols` `(M,)` uint8 under a key, of the hasher with this `fingerprint`.

    Its text shows sizes alone: a code is a secret of the gallery. `numpy.asarray(code)` gives the symbols.
    """

    symbols: NDArray[np.uint8]
    alphabet_size: int
    fingerprint: str

    def distance(self, other: "Code") -> int:
        """Positions that differ from those of another code of the same hasher and key: the distance by symbols.

        Raises:
            CodeError: A code of another hasher.
        """
        self.check(other.fingerprint, len(other))
        return int(np.count_nonzero(self.symbols != other.symbols))

    def check(self, fingerprint: str, code_length: int) -> None:
        """Raise `CodeError` unless this is a code of the hasher with this fingerprint and length of codes."""
        if (self.fingerprint, self.symbols.shape) != (fingerprint, (code_length,)):
            raise CodeError(
                f"codes of two hashers do not compare: expected a code of the hasher {fingerprint[:SHOWN_DIGITS]} with "
                f"{code_length} symbols, received {self!r}"
            )

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self.symbols, dtype=dtype, copy=copy)

    def __len__(self) -> int:
        return len(self.symbols)

    def __repr__(self) -> str:
        return f"Code({len(self)}x{self.alphabet_size}, hasher {self.fingerprint[:SHOWN_DIGITS]})"

    def _repr_html_(self) -> str:
        bits = len(self) * max(1, (self.alphabet_size - 1).bit_length())
        return f"<p>{self!r}, {bits // 8} bytes</p>"
