"""Gallery of cancellable templates. The public names are loaded when first used."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from iom.gallery.gallery import Decision as Decision
    from iom.gallery.gallery import Gallery as Gallery
    from iom.gallery.keys.key_store import KeyStore as KeyStore
    from iom.gallery.keys.key_store import open_key_store as open_key_store
    from iom.gallery.models import Application as Application
    from iom.gallery.models import Reference as Reference
    from iom.gallery.search import Candidate as Candidate
    from iom.gallery.stores.base import RecordStore as RecordStore
    from iom.gallery.stores.base import open_store as open_store

_HOME = {
    "gallery": ("Decision", "Gallery"),
    "keys.key_store": ("KeyStore", "open_key_store"),
    "models": ("Application", "Reference"),
    "search": ("Candidate",),
    "stores.base": ("RecordStore", "open_store"),
}
__all__ = sorted(name for names in _HOME.values() for name in names)


def __getattr__(name: str) -> Any:
    for module, names in _HOME.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
