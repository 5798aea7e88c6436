"""What the gallery's commands do."""

import argparse
import getpass
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from iom.errors import ConfigError, DataError, EnrolmentError, StoreError
from iom.gallery.exchange import export_application, import_application
from iom.gallery.fusing import MajorityHasher, fuse
from iom.gallery.gallery import Gallery
from iom.gallery.key_store import open_key_store
from iom.gallery.store import open_store
from iom.listing import list_subjects

NO = 1
"""Exit code of a question that is answered with no."""


def _init(arguments: argparse.Namespace) -> int:
    _, hasher = _models(arguments, embeds=False)
    with _open(arguments, hasher, create=True) as gallery:
        application = gallery.create_application(
            arguments.application,
            threshold=arguments.threshold,
            key_mode=arguments.key_mode,
            masked=arguments.masked,
        )
    print(f"application {application.name}: {application.encoding}, key of each "
          f"{application.key_mode}, threshold {application.threshold}")  # fmt: skip
    return 0


def _enroll(arguments: argparse.Namespace) -> int:
    if (arguments.folder is None) == (arguments.subject is None):
        raise ConfigError("enroll: expected a subject and images, or --folder DIR")
    if arguments.folder is None and not arguments.images:
        raise ConfigError("enroll: expected at least one image of the subject")
    subjects = (
        {arguments.subject: arguments.images}
        if arguments.folder is None
        else _subjects_of(arguments.folder)
    )
    embedder, hasher = _models(arguments)
    references = present = 0
    with _open(arguments, _fusing(arguments, embedder, hasher)) as gallery:
        name = arguments.application
        for subject, images in tqdm(
            subjects.items(), unit="subject", disable=arguments.quiet or len(subjects) == 1
        ):
            if arguments.folder is not None and gallery.store.references(name, subject):
                present += 1  # a run that was interrupted goes on here
                continue
            rows, metadata = _fused(arguments, embedder.embed_files(images))
            references += len(
                gallery.enroll(name, subject, rows, metadata=metadata, another=arguments.another)
            )
    print(f"enrolled {len(subjects) - present} subjects, {references} references"
          + (f"; {present} were enrolled already" if present else ""))  # fmt: skip
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    embedder, hasher = _models(arguments)
    with _open(arguments, hasher) as gallery:
        row = embedder.embed_files([arguments.image])
        decision = gallery.verify(arguments.application, arguments.subject, row)
    print(f"{'match' if decision.match else 'no match'}: {decision.distance} differing positions, "
          f"threshold {decision.threshold}")  # fmt: skip
    return 0 if decision.match else NO


def _identify(arguments: argparse.Namespace) -> int:
    embedder, hasher = _models(arguments)
    with _open(arguments, hasher) as gallery:
        found = gallery.identify(
            arguments.application,
            embedder.embed_files([arguments.image]),
            top=arguments.top,
            threshold=arguments.threshold,
            closed=arguments.closed,
        )
    for candidate in found:
        print(f"{candidate.subject_id}  {candidate.distance}  "
              f"{'match' if candidate.match else 'no match'}")  # fmt: skip
    if not found:
        print("nobody")
    return 0 if any(candidate.match for candidate in found) else NO


def _revoke(arguments: argparse.Namespace) -> int:
    with _open(arguments) as gallery:
        count = gallery.revoke(arguments.application, arguments.subject, slot=arguments.slot)
    print(f"revoked {count} references of {arguments.subject}")
    return 0


def _renew(arguments: argparse.Namespace) -> int:
    embedder, hasher = _models(arguments)
    with _open(arguments, _fusing(arguments, embedder, hasher)) as gallery:
        rows, metadata = _fused(arguments, embedder.embed_files(arguments.images))
        new = gallery.renew(
            arguments.application, arguments.subject, rows, slot=arguments.slot, metadata=metadata
        )
    print(f"renewed {arguments.subject}: {len(new)} references")
    return 0


def _rotate(arguments: argparse.Namespace) -> int:
    with _open(arguments) as gallery:
        application = gallery.rotate(arguments.application, retire=arguments.retire)
    print(f"application {application.name}: key epoch {application.epoch}")
    return 0


def _export(arguments: argparse.Namespace) -> int:
    with _open(arguments) as gallery:
        count = export_application(gallery, arguments.application, arguments.file)
    print(f"wrote {count} references to {arguments.file}; keys are not in it")
    return 0


def _import(arguments: argparse.Namespace) -> int:
    with _open(arguments) as gallery:
        done = import_application(gallery, arguments.file)
    print(f"added {done.added} references; {done.present} were here, {done.revoked} are revoked")
    return 0


def _stats(arguments: argparse.Namespace) -> int:
    with _open(arguments) as gallery:
        print(f"key store {gallery.keys.identity()}")
        for name, (application, counts) in gallery.stats().items():
            print(f"{name}: {counts.subjects} subjects, {counts.references} references, "
                  f"{counts.revoked} revoked; {application.encoding}, key of each "
                  f"{application.key_mode}{', masked' if application.masked else ''}, threshold "
                  f"{application.threshold}, key epoch {application.epoch}")  # fmt: skip
    return 0


def _check(arguments: argparse.Namespace) -> int:
    with _open(arguments) as gallery:
        problems = gallery.check()
    for problem in problems:
        print(problem)
    if not problems:
        print("no problems")
    return NO if problems else 0


def _erase(arguments: argparse.Namespace) -> int:
    with _open(arguments) as gallery:
        gallery.erase()
    print("overwritten; copies and backups are not reached by this")
    return 0


RUN: dict[str, Callable[[argparse.Namespace], int]] = {
    "init": _init,
    "enroll": _enroll,
    "verify": _verify,
    "identify": _identify,
    "revoke": _revoke,
    "renew": _renew,
    "rotate": _rotate,
    "export": _export,
    "import": _import,
    "stats": _stats,
    "check": _check,
    "erase": _erase,
}


def _models(arguments: argparse.Namespace, *, embeds: bool = True) -> tuple[Any, Any]:
    """Embedder (if it is needed) and hasher, checked against each other."""
    from iom.runtime.models import open_hasher, open_models

    if not embeds:
        return None, open_hasher(arguments.hasher)
    return open_models(arguments.hasher, weights=arguments.weights)


def _fusing(arguments: argparse.Namespace, embedder: Any, hasher: Any) -> Any:
    """The hasher, or one that votes, where several images of a subject become one reference."""
    if arguments.fuse != "majority":
        return hasher
    return MajorityHasher(hasher, embedder.embedding_size)


def _fused(arguments: argparse.Namespace, rows: Any) -> tuple[Any, dict[str, Any] | None]:
    """What is enrolled for the images of a subject, and what is noted of them."""
    if arguments.fuse == "none":
        return rows, None
    return fuse(rows, arguments.fuse), {"fuse": arguments.fuse, "images": len(rows)}


def _open(arguments: argparse.Namespace, hasher: Any = None, *, create: bool = False) -> Gallery:
    """The gallery of the options; with `create`, stores that are missing are made."""
    keys = _opened(
        lambda new: open_key_store(
            arguments.keys, create=new, passphrase=lambda: _passphrase(arguments, new)
        ),
        create,
    )
    store = _opened(lambda new: open_store(arguments.gallery, create=new), create)
    return Gallery(store, keys, hasher)


def _opened(opener: Callable[[bool], Any], create: bool) -> Any:
    """Open it, or make it where it may be made and is not there."""
    try:
        return opener(False)
    except StoreError as error:
        if not create or not str(error).startswith("no "):
            raise
        return opener(True)


def _passphrase(arguments: argparse.Namespace, is_new: bool) -> str:
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
        entered = getpass.getpass("passphrase of the key store: ")
        if is_new and getpass.getpass("once more: ") != entered:
            raise ConfigError("the two passphrases differ; nothing was made")
    except EOFError as error:
        raise ConfigError(
            "expected a passphrase: use --passphrase-file or IOM_PASSPHRASE"
        ) from error
    return entered


def _subjects_of(folder: Path) -> dict[str, list[Path]]:
    listing = list_subjects(folder)
    if listing.linked_folders:
        print(f"note: {folder}: {listing.linked_folders} links to folders are not followed")
    if not listing.images:
        raise EnrolmentError(f"{folder}: expected folders of images, one for each subject")
    return {name: [folder / one for one in images] for name, images in listing.subjects.items()}
