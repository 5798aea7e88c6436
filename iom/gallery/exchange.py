"""Applications as files, to be moved to another record store of the same key store.

A file of version 1 is, in this order:

1. one line of JSON: `format`, `version`, `owner` (public name of the key store) and `application`
   (as in `iom.gallery.record.Application`);
2. pages: one line of JSON with the `references` of the page (all fields but code and application,
   the seal in hexadecimal) and `bytes`, the length of what follows: their codes as stored, one
   after the other in the same order;
3. one line of JSON: `end` with the number of references, and `sha256` of all bytes before it.

Keys and masks are never in it: without the key store it is worth as much as the record store.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from iom.errors import EnrolmentError, StoreError
from iom.files import atomic_path
from iom.gallery.gallery import Gallery
from iom.gallery.record import Application, Reference, check_subject_id, code_bytes
from iom.gallery.templates import check_seal

FORMAT = "iom-gallery"
VERSION = 1
_LONGEST_LINE = 1 << 26
_BARE = ("subject_id", "slot", "record", "epoch", "metadata", "created")


@dataclasses.dataclass(frozen=True)
class Imported:
    """How many references of a file were added, were there already, and are revoked for ever."""

    added: int
    present: int
    revoked: int


def export_application(gallery: Gallery, name: str, path: Path) -> int:
    """Write an application to a file, atomically.

    Returns:
        Number of references.

    Raises:
        EnrolmentError: No such application.
        StoreError: The file cannot be written.
    """
    application = gallery.store.application(name)
    revoked, count, after = gallery.keys.revoked(name), 0, -1
    try:
        with atomic_path(path) as temporary, temporary.open("wb") as stream:
            digest = hashlib.sha256()

            def write(data: bytes) -> None:
                digest.update(data)
                stream.write(data)

            owner = gallery.keys.identity()
            fields = dataclasses.asdict(application)
            write(_line(format=FORMAT, version=VERSION, owner=owner, application=fields))
            while page := gallery.store.scan(name, after=after):
                after = page[-1].record
                page = [reference for reference in page if reference.record not in revoked]
                codes = b"".join(reference.code for reference in page)
                write(_line(references=[_bare(each) for each in page], bytes=len(codes)))
                write(codes)
                count += len(page)
            stream.write(_line(end=count, sha256=digest.hexdigest()))
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}") from error
    gallery.store.log(gallery.event("export", name))
    return count


def import_application(gallery: Gallery, path: Path) -> Imported:
    """Read a file that `export_application` wrote; what was revoked since then stays revoked.

    The whole file is checked before anything is written. An import that was interrupted is done
    again: what is there already is left alone.

    Raises:
        StoreError: The file is damaged, of another version, or of another key store.
        EnrolmentError: The application is here with another model or form of codes, or a subject
            is enrolled with other references.
    """
    for _ in _read(gallery, path):
        pass
    added = present = gone = 0
    for application, page in _read(gallery, path):
        name = application.name
        if name not in {known.name for known in gallery.store.applications()}:
            gallery.store.create_application(application, gallery.event("create", name))
        known = gallery.store.application(name)
        for field in ("encoding", "model", "key_mode", "masked"):
            if getattr(known, field) != getattr(application, field):
                raise EnrolmentError(
                    f"{path}: the application {name} here has another {field}; nothing was added"
                )
        numbers = [reference.record for reference in page]
        revoked = set(gallery.keys.revoked(name))
        here = {reference.record: reference for reference in gallery.store.by_record(name, numbers)}
        new = [each for each in page if each.record not in revoked and each.record not in here]
        for each in page:
            if each.record in here and here[each.record].seal != each.seal:
                raise EnrolmentError(f"{path}: record {each.record} is another one here")
        subjects = [each.subject_id for each in new]
        if new:
            event = gallery.event("import", name, subjects)
            gallery.store.add(new, event, new_subjects=False)
        added += len(new)
        present += len(here)
        gone += len(revoked & set(numbers))
    return Imported(added, present, gone)


def _read(gallery: Gallery, path: Path) -> Iterator[tuple[Application, list[Reference]]]:
    """Pages of a file, checked; a first empty one stands for the application."""
    try:
        with path.open("rb") as stream:
            yield from _pages(gallery, path, stream)
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StoreError(f"{path}: is damaged, or no export of a gallery") from error


def _pages(
    gallery: Gallery, path: Path, stream: BinaryIO
) -> Iterator[tuple[Application, list[Reference]]]:
    digest = hashlib.sha256()
    header = _json(stream, digest)
    if header.get("format") != FORMAT:
        raise StoreError(f"{path}: is no export of a gallery")
    if header.get("version") != VERSION:
        raise StoreError(f"{path}: expected version {VERSION}; use the program that wrote it")
    if header.get("owner") != gallery.keys.identity():
        raise StoreError(f"{path}: belongs to another key store; its codes mean nothing under ours")
    application = Application(**header["application"])
    size, count = code_bytes(application.encoding), 0
    yield application, []
    while True:
        before = digest.hexdigest()
        line = _json(stream, digest)
        if "end" in line:
            break
        references = line["references"]
        length = line["bytes"]
        codes = stream.read(length) if length == size * len(references) else b""
        if len(codes) != size * len(references):
            raise StoreError(f"{path}: is truncated or damaged")
        digest.update(codes)
        page = []
        for place, fields in enumerate(references):
            check_subject_id(fields["subject_id"])
            reference = Reference(
                application=application.name,
                code=codes[place * size : (place + 1) * size],
                seal=bytes.fromhex(fields["seal"]),
                **{name: fields[name] for name in _BARE},
            )
            check_seal(gallery.keys, reference)
            page.append(reference)
        count += len(page)
        yield application, page
    if line != {"end": count, "sha256": before} or stream.read(1):
        raise StoreError(f"{path}: is truncated or damaged: its check does not hold")


def _bare(reference: Reference) -> dict[str, Any]:
    fields = {name: getattr(reference, name) for name in _BARE}
    return {**fields, "seal": reference.seal.hex()}


def _line(**values: Any) -> bytes:
    return json.dumps(values, separators=(",", ":")).encode() + b"\n"


def _json(stream: BinaryIO, digest: Any) -> dict[str, Any]:
    line = stream.readline(_LONGEST_LINE)
    digest.update(line)
    value = json.loads(line)
    if not isinstance(value, dict) or not line.endswith(b"\n"):
        raise ValueError("not a line of JSON")
    return value
