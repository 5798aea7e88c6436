"""The gallery that the options name, opened or made, and the passphrase of its key store."""

import argparse
import getpass
import os
import warnings
from collections.abc import Callable
from typing import Any

from iom.errors import ConfigError, DataError, StoreNotFoundError
from iom.gallery.gallery import Gallery
from iom.gallery.keys.key_store import open_key_store
from iom.gallery.stores.base import open_store


def open_gallery(arguments: argparse.Namespace, hasher: Any = None, *, create: bool = False) -> Gallery:
    """The gallery of the options; with `create`, stores that are missing are made."""
    keys = _opened(
        lambda new: open_key_store(
            arguments.keys, create=new, passphrase=lambda: read_passphrase(arguments, is_new=new)
        ),
        create,
    )
    store = _opened(lambda new: open_store(arguments.gallery, create=new), create)
    return Gallery(store, keys, hasher)


def _opened(opener: Callable[[bool], Any], create: bool) -> Any:
    """Open it, or make it where it may be made and is not there."""
    try:
        return opener(False)
    except StoreNotFoundError:
        if not create:
            raise
        return opener(True)


def read_passphrase(arguments: argparse.Namespace, *, is_new: bool = False) -> str:
    """The passphrase of the key store: from a file, from IOM_PASSPHRASE, or asked for.

    Raises:
        DataError: The file cannot be read.
        ConfigError: There is no terminal to ask at, or a new passphrase was not repeated.
    """
    if arguments.passphrase_file is not None:
        try:
            text = arguments.passphrase_file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"cannot read {arguments.passphrase_file}") from error
        return str(text.split("\n")[0])
    known = os.environ.get("IOM_PASSPHRASE")
    if known is not None:
        return known
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", getpass.GetPassWarning)  # it would be shown
            entered = getpass.getpass("passphrase of the key store: ")
            if is_new and getpass.getpass("once more: ") != entered:
                raise ConfigError("the two passphrases differ; nothing was made")
    except (EOFError, getpass.GetPassWarning) as error:
        raise ConfigError(
            "expected a passphrase, and there is no terminal to ask at: use --passphrase-file or IOM_PASSPHRASE"
        ) from error
    return entered
