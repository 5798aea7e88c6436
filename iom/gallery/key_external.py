"""Master keys from outside: an environment variable, or what a command prints."""

import os
import shlex
import subprocess
from pathlib import Path

from iom.errors import StoreError
from iom.gallery.key_file import KeyFile
from iom.gallery.key_store import PassphraseSource, parse_place, read_master
from iom.keys import TransformKey

COMMAND_SECONDS = 60


def open_url(url: str, *, create: bool, passphrase: PassphraseSource | None) -> KeyFile:
    """Store of `environment:NAME?file=PATH` or `command:PROGRAM ARGUMENTS?file=PATH`.

    Raises:
        StoreError: No such variable, the command fails, or see `open_key_store`.
    """
    scheme = url.partition(":")[0]
    source, file = parse_place(url, "file")
    if not source or not file:
        raise StoreError(f"key store: expected {scheme}:...?file=PATH, where PATH holds the rest")
    master = _from_environment(source) if scheme == "environment" else _from_command(source)
    return KeyFile.with_master(Path(file), master, create=create)


def _from_environment(name: str) -> TransformKey:
    text = os.environ.get(name)
    if text is None:
        raise StoreError(f"key store: the environment variable {name} is not set")
    return read_master(text, f"the environment variable {name}")


def _from_command(command: str) -> TransformKey:
    """The first line that a command prints; no shell reads it, and its errors are not repeated."""
    try:
        done = subprocess.run(  # noqa: S603 - whoever starts this program chooses the command
            shlex.split(command), capture_output=True, timeout=COMMAND_SECONDS, check=False
        )
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise StoreError(
            f"key store: the command for the master key could not be run: {type(error).__name__}"
        ) from None
    if done.returncode:
        raise StoreError(
            f"key store: the command for the master key ended with code {done.returncode}"
        )
    line = done.stdout.decode("utf-8", "replace").strip().split("\n")[0]
    return read_master(line, "a command")
