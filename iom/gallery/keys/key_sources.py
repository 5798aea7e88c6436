"""Master keys from outside: an environment variable, or the output of a command."""

import os
import shlex
import subprocess
from collections.abc import Callable

from iom.errors import KeyMaterialError, StoreError
from iom.keys import TransformKey

COMMAND_SECONDS = 60


def read_master(text: str, source: str) -> TransformKey:
    """A master key from its text.

    Raises:
        KeyMaterialError: Another text. The message names the source only.
    """
    try:
        return TransformKey.from_text(text)
    except KeyMaterialError as error:
        raise KeyMaterialError(f"master key from {source}: {error}") from error


def from_environment(name: str) -> TransformKey:
    """The key in an environment variable.

    Raises:
        StoreError: No such variable.
    """
    text = os.environ.get(name)
    if text is None:
        raise StoreError(f"key store: the environment variable {name} is not set")
    return read_master(text, f"the environment variable {name}")


def from_command(command: str) -> TransformKey:
    """The first line that a command prints; no shell reads it, and its errors are not repeated.

    Raises:
        StoreError: It cannot be run, or fails.
    """
    try:
        done = subprocess.run(  # noqa: S603 - whoever starts this program chooses the command
            shlex.split(command), capture_output=True, timeout=COMMAND_SECONDS, check=False
        )
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise StoreError(
            f"key store: the command for the master key could not be run: {type(error).__name__}"
        ) from None
    if done.returncode:
        raise StoreError(f"key store: the command for the master key ended with code {done.returncode}")
    line = done.stdout.decode("utf-8", "replace").strip().split("\n")[0]
    return read_master(line, "a command")


EXTERNAL: dict[str, Callable[[str], TransformKey]] = {"environment": from_environment, "command": from_command}
"""Scheme of a URL to what reads a master."""
