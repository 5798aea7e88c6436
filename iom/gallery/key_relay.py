"""The file of a key store, read from another machine: its rows travel as they lie in the file, sealed.

A key store is a file of one machine. There, a `KeyRelay` reads rows for others; it has no key and opens none of them. A
process elsewhere that can open the key store (with its own copy of the key file, the passphrase, a token or a key
service) reads it through a `RelayedFile`.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from iom.errors import StoreError
from iom.gallery.key_store import LAYOUT, READS
from iom.gallery.stores.sqlite_file import SqliteFile

Relay: TypeAlias = Callable[[str, Sequence[Any]], list[Any]]
"""Name of a statement of `READS`, and its values, to rows."""
_NAMES = {statement: name for name, statement in READS.items()}


class KeyRelay:
    """Reads the rows of the file of a key store, without its keys; nothing is written."""

    def __init__(self, path: Path) -> None:
        self._file = SqliteFile(path, LAYOUT)

    def rows(self, name: str, values: Sequence[Any]) -> list[Any]:
        """All rows of a statement of `READS`; a `StoreError` for another one, or where the file was replaced."""
        if name not in READS:
            raise StoreError(f"key store: expected a name of {', '.join(READS)}, received {name[:20]!r}")
        self._file.check_place()
        return self._file.rows(READS[name], tuple(values))

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        self._file.close()


class RelayedFile:
    """The file of a key store on another machine, which `relay` reads; a `KeyFile`."""

    def __init__(self, path: Path, relay: Relay) -> None:
        self.path = path
        self._relay = relay

    def rows(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        return self._relay(_NAMES[statement], list(values))

    def check_place(self) -> None:
        """The relay does that."""

    def close(self) -> None:
        """There is nothing to close."""
