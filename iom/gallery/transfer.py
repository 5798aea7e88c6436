"""Export and import: files that move an application to another record store of the same key store.

A file of version 2 is, in this order:

1. one line of JSON: `format`, `version`, `owner` (public name of the key store), `application` (as in
   `iom.gallery.models.Application`, without its seal) and `seal`, an authentication tag of all that;
2. pages: one line of JSON with the `references` of the page (all fields but code and application, the seal in
   hexadecimal) and `bytes`, the length of what follows: their codes as stored, one after the other in the same order;
3. one line of JSON: `end` with the number of references, and `sha256` of all bytes before it.

In version 1 the application had no seal: such a file is read where the application exists already. Keys and masks are
never in a file.
"""

import contextlib
import dataclasses
import hashlib
import hmac
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import BaseModel, ConfigDict, Field

from iom._files import SECRET_MODE, atomic_path
from iom._registry import DEVICE_MODES
from iom._untrusted import parse_json
from iom.codes.packing import code_bytes
from iom.errors import EnrolmentError, StoreError
from iom.gallery.gallery import Gallery
from iom.gallery.models import Application, Reference, check_subject_id
from iom.gallery.templates import check_seal, under_masks

FORMAT = "iom-gallery"
VERSION = 2
_MAX_LINE_BYTES = 1 << 26


class _Fields(BaseModel):
    """A reference in a page: the slot is the only field without a seal."""

    model_config = ConfigDict(strict=True)
    subject_id: str
    slot: int = Field(ge=0, lt=1 << 31)
    record: int
    epoch: int
    metadata: str
    created: int
    seal: str


@dataclasses.dataclass(frozen=True)
class ImportSummary:
    """Counts of references in a file: added, present already, and left out because they were revoked."""

    added: int
    present: int
    revoked: int


def export_application(gallery: Gallery, name: str, path: Path) -> int:
    """Write an application, as of one moment, to a file with mode 0600, atomically; return its reference count."""
    count = 0
    known = gallery.keys.state().known(name).settings
    if gallery.application(name).key_mode in DEVICE_MODES:
        raise EnrolmentError(
            f"application {name} has the keys of its devices beside its codes, which a file of one application does "
            "not hold: copy the record store as a whole"
        )
    start = f'{{"format":"{FORMAT}"'.encode()
    try:
        with contextlib.suppress(FileNotFoundError), path.open("rb") as old:
            if old.read(len(start)) != start:
                raise StoreError(f"{path}: exists and is no export of a gallery; name a new file")
        with (
            atomic_path(path, mode=SECRET_MODE) as temporary,
            temporary.open("wb") as stream,
            gallery.store.snapshot() as still,
        ):
            application = still.application(name)
            gallery.check_settings(application, known)
            revoked = gallery.keys.revoked(name)
            digest = hashlib.sha256()

            def write(data: bytes) -> None:
                digest.update(data)
                stream.write(data)

            header = {"owner": gallery.keys.identity(), "application": application.fields()}
            write(_line(format=FORMAT, version=VERSION, **header, seal=_header_seal(gallery, application).hex()))
            for page in still.pages(name):
                page = [reference for reference in page if reference.record not in revoked]
                codes = b"".join(reference.code for reference in page)
                fields = [_Fields(**{**vars(each), "seal": each.seal.hex()}).model_dump() for each in page]
                write(_line(references=fields, bytes=len(codes)))
                write(codes)
                count += len(page)
            stream.write(_line(end=count, sha256=digest.hexdigest()))
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}") from error
    gallery.log("export", name)
    return count


def import_application(gallery: Gallery, path: Path) -> ImportSummary:
    """Read a file that `export_application` wrote; references revoked since then are left out.

    The whole file is checked before anything is written. An interrupted import can be repeated: references that are
    present are left as they are, and so are threshold and comparison that were set since the export. In key mode
    `application`, all references of a subject that was revoked under their key are left out. Codes without masks get
    masks where the application here has them; one that is made by the import has them in key mode `application`, unless
    the key store knows it without.
    """
    for _ in _read(gallery, path):
        pass
    pages = _read(gallery, path)
    given, _ = next(pages)
    name, added, present, gone = given.name, 0, 0, 0
    known = _known_here(gallery, path, given)
    for _, page in pages:
        numbers = [reference.record for reference in page]
        revoked = set(gallery.keys.revoked(name))
        here = {reference.record: reference for reference in gallery.store.by_record(name, numbers)}
        if known.key_mode == "application":  # another record's code under the key of a revoked one
            epochs = gallery.keys.revoked_epochs(name)
            absent = (each for each in page if each.record not in here)
            revoked |= {each.record for each in absent if each.epoch <= epochs.get(each.subject_id, -1)}
        same = [each for each in page if each.record in here and each.record not in revoked]
        if known.masked and not given.masked:
            same = under_masks(gallery.keys, known, same)
        for each in same:
            if here[each.record].seal != each.seal:
                raise EnrolmentError(f"{path}: record {each.record} is another one here")
        if new := [each for each in page if each.record not in revoked and each.record not in here]:
            gallery.add_references(name, new, masked=given.masked)
        added += len(new)
        present += len(here)
        gone += len(revoked & set(numbers))
    return ImportSummary(added, present, gone)


def _known_here(gallery: Gallery, path: Path, application: Application) -> Application:
    """The application of a file in this gallery, which is made with the threshold that was set since the export."""
    name = application.name
    if name not in {each.name for each in gallery.store.applications()}:
        settings = gallery.keys.state().known(name).settings
        if settings is not None and settings.revision > application.revision:
            application = dataclasses.replace(application, threshold=settings.threshold, encoding=settings.encoding)
        masked = settings.masked if settings is not None else application.key_mode == "application"
        gallery.add_application(dataclasses.replace(application, masked=application.masked or masked))
    known = gallery.application(name)
    for field in ("shape", "model", "key_mode"):
        if getattr(known, field) != getattr(application, field):
            raise EnrolmentError(f"{path}: the application {name} here has another {field}; nothing was added")
    if application.masked and not known.masked:
        raise EnrolmentError(
            f"{path}: its codes are under masks, those of the application {name} here are not; nothing was added. "
            f"Mask them first: iom migrate --mask --application {name}"
        )
    return known


def _read(gallery: Gallery, path: Path) -> Iterator[tuple[Application, list[Reference]]]:
    """Checked pages of a file; the first one is empty and gives the application."""
    try:
        with path.open("rb") as stream:
            yield from _pages(gallery, path, stream)
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StoreError(f"{path}: is damaged, or no export of a gallery") from error


def _pages(gallery: Gallery, path: Path, stream: BinaryIO) -> Iterator[tuple[Application, list[Reference]]]:
    digest = hashlib.sha256()
    application = _application_in(gallery, path, _json(stream, digest))
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
        for place, fields in enumerate(map(_Fields.model_validate, references)):
            check_subject_id(fields.subject_id)
            bare = fields.model_dump() | {"seal": bytes.fromhex(fields.seal)}
            page.append(Reference(application.name, code=codes[place * size : (place + 1) * size], **bare))
            check_seal(gallery.keys, page[-1])
        count += len(page)
        yield application, page
    if line != {"end": count, "sha256": before} or stream.read(1):
        raise StoreError(f"{path}: is truncated or damaged: its check does not hold")


def _application_in(gallery: Gallery, path: Path, header: dict[str, Any]) -> Application:
    """The application of a header; refuses settings that were not written by a gallery with these keys."""
    if header.get("format") != FORMAT:
        raise StoreError(f"{path}: expected an export of a gallery, found another file")
    if header.get("version") not in (1, VERSION):
        raise StoreError(f"{path}: expected version {VERSION}; use the program that wrote it")
    if header.get("owner") != gallery.keys.identity():
        raise StoreError(f"{path}: was exported under another key store; its codes cannot be compared under this one")
    application = Application(**header["application"])
    if header["version"] == VERSION:
        expected = _header_seal(gallery, application)
        if not hmac.compare_digest(expected, bytes.fromhex(header["seal"])):
            raise StoreError(
                f"{path}: the application's settings were changed; nothing was read. Take the file "
                "from where it was written"
            )
    elif application.name not in {each.name for each in gallery.store.applications()}:
        raise StoreError(
            f"{path}: an export of version 1, whose settings are not authenticated; make the "
            f"application first with: iom init --application {application.name}"
        )
    return application


def _header_seal(gallery: Gallery, application: Application) -> bytes:
    text = json.dumps(application.fields(), sort_keys=True, separators=(",", ":"))
    return gallery.keys.seal(b"\0export\0" + text.encode())


def _line(**values: Any) -> bytes:
    return json.dumps(values, separators=(",", ":")).encode() + b"\n"


def _json(stream: BinaryIO, digest: Any) -> dict[str, Any]:
    line = stream.readline(_MAX_LINE_BYTES)
    digest.update(line)
    value = parse_json(line, max_bytes=_MAX_LINE_BYTES)
    if not isinstance(value, dict) or not line.endswith(b"\n"):
        raise ValueError("not a line of JSON")
    return value
