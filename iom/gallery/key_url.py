"""URLs of key stores: the parts that keys come from, joined by `+`, and the file that holds the rest."""

import dataclasses
import functools
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from iom._registry import did_you_mean, with_scheme
from iom.errors import StoreError
from iom.gallery.key_source import (
    KeyPart,
    KeySource,
    MasterSource,
    PassphraseSource,
    SourceOpener,
    from_command,
    from_environment,
    key_file_seal,
    passphrase_seal,
)
from iom.keys import TransformKey

OPTIONS: dict[str, tuple[str, ...]] = {
    "file": ("key-file", "mode"),
    "environment": ("file", "mode"),
    "command": ("file", "mode"),
    "pkcs11": ("file", "mode", "module-path", "pin-source", "pin-value"),
    "https": ("file", "mode", "certificate", "key", "authority", "name"),
}
"""Options of each scheme, behind `?` or `&`; paths may hold any other character."""
_FORMS = {
    "file": "file:PATH",
    "environment": "environment:NAME?file=PATH",
    "command": "command:PROGRAM ARGUMENTS?file=PATH",
    "pkcs11": "pkcs11:token=NAME;object=NAME?module-path=PATH&pin-source=file:PATH&file=PATH",
    "https": "https://HOST:PORT?certificate=PATH&key=PATH&authority=PATH&file=PATH",
}
_JOINT = re.compile(rf"\+(?=(?:{'|'.join(OPTIONS)}):)")


@dataclasses.dataclass(frozen=True)
class KeyUrl:
    """The parts of a URL in their order, the file of the key store, and whether it is for reading only."""

    parts: tuple[KeyPart, ...]
    path: Path
    read_only: bool = False


def parse_key_url(url: str | os.PathLike[str], passphrase: PassphraseSource | None) -> KeyUrl:
    """The parts of a URL, see `open_key_store`; nothing is opened."""
    parts, paths, read_only = [], [], False
    for text in _JOINT.split(with_scheme(url, "file:")):
        scheme, separator, rest = text.partition(":")
        if not separator or scheme not in OPTIONS:
            raise StoreError(
                f"key store: expected a URL {':..., '.join(OPTIONS)}:..., received the scheme "
                f"'{scheme if separator else ''}'{did_you_mean(scheme, OPTIONS)}"
            )
        place, options = _split(scheme, rest)
        mode = options.pop("mode", "rw")
        if not place or mode not in ("ro", "rw"):
            raise StoreError(f"key store: expected {_FORMS[scheme]}")
        read_only |= mode == "ro"
        file = place if scheme == "file" else options.pop("file", "")
        paths += [Path(file)] if file else []
        parts.append(_part(scheme, place, options, passphrase))
    if len(paths) != 1:
        one = "one of the joined parts" if len(parts) > 1 else "it"
        raise StoreError(
            f"key store: expected that {one} names the file for the rest ({_FORMS[scheme]}), found {len(paths)} files"
        )
    return KeyUrl(tuple(parts), paths[0], read_only)


def _split(scheme: str, rest: str) -> tuple[str, dict[str, str]]:
    """What follows a scheme as its place and its options."""
    names = "|".join(OPTIONS[scheme])
    place, *found = re.split(rf"[?&](?=(?:{names})=)", rest)
    options = dict(each.split("=", 1) for each in found)
    if len(options) != len(found):
        raise StoreError(f"key store: expected each option of {scheme}: once")
    return place, options


def _part(scheme: str, place: str, options: Mapping[str, str], passphrase: PassphraseSource | None) -> KeyPart:
    if scheme == "file":
        return key_file_seal(Path(options["key-file"])) if "key-file" in options else passphrase_seal(passphrase)
    return SourceOpener(
        "external" if scheme in _MASTERS else scheme, functools.partial(_SOURCES[scheme], place, options)
    )


def _master(read: Callable[[str], TransformKey], place: str, _: Mapping[str, str], __: bool) -> KeySource:
    return MasterSource(read(place))


def _token(place: str, options: Mapping[str, str], create: bool) -> KeySource:
    from iom.gallery.pkcs11_source import PIN_VARIABLE, Pkcs11Source

    if "pin-value" in options:
        raise StoreError(
            "key store: a PIN in a URL can be read by every user of the machine; use pin-source=file:PATH, or the "
            f"environment variable {PIN_VARIABLE}"
        )
    if not options.get("module-path"):
        raise StoreError(f"key store: expected {_FORMS['pkcs11']}, received no module-path, the token's library")
    return Pkcs11Source(place, module=options["module-path"], pin_source=options.get("pin-source", ""), create=create)


def _service(place: str, options: Mapping[str, str], _: bool) -> KeySource:
    from iom.gallery.remote_source import RemoteSource

    files = {name: Path(options[name]) for name in ("certificate", "key", "authority") if options.get(name)}
    if len(files) < 3:
        missing = ", ".join(name for name in ("certificate", "key", "authority") if name not in files)
        raise StoreError(f"key store: expected {_FORMS['https']}, received no {missing}")
    return RemoteSource(f"https:{place}", **files, name=options.get("name", ""))


_MASTERS = {"environment": from_environment, "command": from_command}
_SOURCES: dict[str, Callable[[str, Mapping[str, str], bool], KeySource]] = {
    **{scheme: functools.partial(_master, read) for scheme, read in _MASTERS.items()},
    "pkcs11": _token,
    "https": _service,
}
