"""What the gallery's commands do."""

import argparse
import contextlib
import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from iom._files import list_subjects
from iom.cli.arguments import NO, OK, Answer, goes_on_when_repeated
from iom.cli.gallery_access import open_gallery, read_passphrase
from iom.errors import AlreadyEnrolledError, ConfigError, EnrolmentError, NotEnrolledError, RevokedError
from iom.gallery.gallery import Gallery
from iom.gallery.models import Application
from iom.gallery.templates import MajorityHasher, fuse
from iom.gallery.transfer import export_application, import_application
from iom.models.face_hasher import FaceHasher, load
from iom.photos.images import read_image

COMMON_KEY = (
    "note: one key serves all records. Until a later version, whoever holds the record store and "
    "knows enough of the enrolled faces opens the other templates without the key: about ten with "
    "permutation keys, about as many as an embedding has dimensions with orthogonal ones. --masked "
    "codes are not opened this way"
)


def _init(arguments: argparse.Namespace) -> Answer:
    hasher = _hasher(arguments, opens_embedder=False)
    with open_gallery(arguments, hasher, create=True) as gallery:
        application = gallery.create_application(
            arguments.application, threshold=arguments.threshold, key_mode=arguments.key_mode, masked=arguments.masked
        )
    text = (
        f"application {application.name}: {application.encoding}, key of each "
        f"{application.key_mode}, threshold {application.threshold}"
    )
    if application.key_mode == "application" and not application.masked:
        text += f"\n{COMMON_KEY}"
    return Answer(_facts(application), text)


def _enroll(arguments: argparse.Namespace) -> Answer:
    if (arguments.folder is None) == (arguments.subject is None):
        raise ConfigError("enroll: expected a subject and images, or --folder DIR")
    if arguments.folder is not None:
        return _enroll_folder(arguments, _subjects_of(arguments.folder))
    if not arguments.images:
        raise ConfigError("enroll: expected at least one image of the subject")
    name, subject = arguments.application, arguments.subject
    _check_faces(arguments.images)
    with open_gallery(arguments) as gallery:
        _check_new(gallery, arguments)
        gallery.hasher = hasher = _fusing_hasher(arguments)
        rows, metadata = _fused(arguments, hasher.embed_files(arguments.images))
        new = gallery.enroll(
            name, subject, rows, metadata=metadata, another=arguments.another, allow_revoked=arguments.allow_revoked
        )
    slots = [each.slot for each in new]
    return Answer(
        {"application": name, "subject": subject, "slots": slots}, f"{subject}: {_counted(len(new), 'reference')}"
    )


def _enroll_folder(arguments: argparse.Namespace, subjects: dict[str, list[Path]]) -> Answer:
    """Enrol the subjects that are missing; another run may enrol some of them meanwhile."""
    name = arguments.application
    counts = {"subjects": 0, "references": 0, "present": 0, "revoked": 0}
    hasher: FaceHasher | None = None
    with open_gallery(arguments) as gallery:
        gallery.application(name)
        with goes_on_when_repeated():
            for subject, images in tqdm(
                subjects.items(), unit="subject", disable=arguments.quiet or len(subjects) == 1
            ):
                if state := _state_of(gallery, name, subject, arguments.allow_revoked):
                    counts[state] += 1
                    continue
                if hasher is None:
                    gallery.hasher = hasher = _fusing_hasher(arguments)
                rows, metadata = _fused(arguments, hasher.embed_files(images))
                try:
                    new = gallery.enroll(name, subject, rows, metadata=metadata, allow_revoked=arguments.allow_revoked)
                except AlreadyEnrolledError:
                    counts["present"] += 1
                    continue
                counts["subjects"] += 1
                counts["references"] += len(new)
    text = f"enrolled {_counted(counts['subjects'], 'subject')}, {_counted(counts['references'], 'reference')}"
    if counts["present"]:
        text += f"; {counts['present']} were enrolled already"
    if counts["revoked"]:
        text += f"; {counts['revoked']} were revoked and stay away, iom renew or --allow-revoked brings them back"
    return Answer({"application": name, **counts}, text)


def _state_of(gallery: Gallery, name: str, subject: str, allow_revoked: bool) -> str:
    """`present` or `revoked` of a subject that is not to be enrolled, else nothing."""
    try:
        gallery.references(name, subject)
    except NotEnrolledError:
        return ""
    except RevokedError:
        return "" if allow_revoked else "revoked"
    return "present"


def _verify(arguments: argparse.Namespace) -> Answer:
    name, subject = arguments.application, arguments.subject
    _check_faces([arguments.image])
    with open_gallery(arguments) as gallery:
        gallery.references(name, subject)
        gallery.hasher = hasher = _hasher(arguments)
        decision = gallery.verify(name, subject, hasher.embed_files([arguments.image]))
    return Answer(
        {"application": name, "subject": subject, **dataclasses.asdict(decision)},
        f"{'match' if decision.match else 'no match'}: {decision.distance} differing positions, "
        f"threshold {decision.threshold}",
        OK if decision.match else NO,
    )


def _identify(arguments: argparse.Namespace) -> Answer:
    name = arguments.application
    _check_faces([arguments.image])
    with open_gallery(arguments) as gallery:
        gallery.application(name)
        gallery.hasher = hasher = _hasher(arguments)
        found = gallery.identify(
            name,
            hasher.embed_files([arguments.image]),
            top=arguments.top,
            threshold=arguments.threshold,
            closed=arguments.closed,
        )
    lines = [f"{each.subject_id}  {each.distance}  {'match' if each.match else 'no match'}" for each in found]
    candidates = [{"subject": each.subject_id, "distance": each.distance, "match": each.match} for each in found]
    return Answer(
        {"application": name, "candidates": candidates},
        "\n".join(lines or ["nobody"]),
        OK if any(each.match for each in found) else NO,
    )


def _revoke(arguments: argparse.Namespace) -> Answer:
    name, subject = arguments.application, arguments.subject
    with open_gallery(arguments) as gallery:
        count = gallery.revoke(name, subject, slot=arguments.slot)
    return Answer(
        {"application": name, "subject": subject, "revoked": count},
        f"revoked {_counted(count, 'reference')} of {subject}",
    )


def _renew(arguments: argparse.Namespace) -> Answer:
    name, subject = arguments.application, arguments.subject
    _check_faces(arguments.images)
    with open_gallery(arguments) as gallery:
        with contextlib.suppress(RevokedError):  # to bring it back is what renewing is for
            gallery.references(name, subject)
        gallery.hasher = hasher = _fusing_hasher(arguments)
        rows, metadata = _fused(arguments, hasher.embed_files(arguments.images))
        new = gallery.renew(name, subject, rows, slot=arguments.slot, metadata=metadata)
    slots = [each.slot for each in new]
    return Answer(
        {"application": name, "subject": subject, "slots": slots},
        f"renewed {subject}: {_counted(len(new), 'reference')}",
    )


def _rotate(arguments: argparse.Namespace) -> Answer:
    with open_gallery(arguments) as gallery:
        application = gallery.rotate(arguments.application, retire=arguments.retire)
    text = f"application {application.name}: key epoch {application.epoch}"
    return Answer(_facts(application), text)


def _set_threshold(arguments: argparse.Namespace) -> Answer:
    with open_gallery(arguments) as gallery:
        application = gallery.set_threshold(arguments.application, arguments.threshold)
    text = f"application {application.name}: threshold {application.threshold}"
    return Answer(_facts(application), text)


def _export(arguments: argparse.Namespace) -> Answer:
    with open_gallery(arguments) as gallery:
        count = export_application(gallery, arguments.application, arguments.file)
    return Answer(
        {"application": arguments.application, "file": arguments.file, "references": count},
        f"wrote {_counted(count, 'reference')} to {arguments.file}; keys are not in it",
    )


def _import(arguments: argparse.Namespace) -> Answer:
    with open_gallery(arguments) as gallery:
        done = import_application(gallery, arguments.file)
    return Answer(
        dataclasses.asdict(done),
        f"added {_counted(done.added, 'reference')}; {done.present} were here, {done.revoked} are revoked",
    )


def _stats(arguments: argparse.Namespace) -> Answer:
    with open_gallery(arguments) as gallery:
        if arguments.application is not None:
            gallery.store.application(arguments.application)
        identity = gallery.keys.identity()
        found = [
            (application, counts)
            for name, (application, counts) in gallery.stats().items()
            if arguments.application in (None, name)
        ]
    lines = [
        f"{application.name}: {_counted(counts.subjects, 'subject')}, "
        f"{_counted(counts.references, 'reference')}, {counts.revoked} revoked; "
        f"{application.encoding}, key of each {application.key_mode}"
        f"{', masked' if application.masked else ''}, threshold {application.threshold}, key epoch "
        f"{application.epoch}"
        for application, counts in found
    ]
    rows = [_facts(application) | dataclasses.asdict(counts) for application, counts in found]
    return Answer({"key_store": identity, "applications": rows}, "\n".join([f"key store {identity}", *lines]))


def _check(arguments: argparse.Namespace) -> Answer:
    with open_gallery(arguments) as gallery:
        if arguments.accept:
            gallery.accept_rollback()
        problems = gallery.check()
    text = "\n".join(problems or ["no problems"])
    return Answer({"problems": problems}, text, NO if problems else OK)


def _erase(arguments: argparse.Namespace) -> Answer:
    with open_gallery(arguments) as gallery:
        gallery.erase()
    return Answer({"erased": True}, "overwritten; copies and backups are not reached by this")


def _migrate(arguments: argparse.Namespace) -> Answer:
    from iom.gallery.migration import migrate

    done = migrate(
        arguments.gallery,
        arguments.keys,
        new_key_file=arguments.new_keys,
        passphrase=lambda: read_passphrase(arguments),
    )
    lines = [
        f"converted {_counted(done.applications, 'application')}, "
        f"{_counted(done.references, 'reference')}, {done.revoked} revoked",
        f"the new key store is {done.key_file}: name it in --keys or IOM_KEYS from now on",
        "the old one lies where it was; look with iom stats whether all settings are yours, then destroy it",
    ]
    if done.odd_subjects:
        lines.append(
            f"{_counted(len(done.odd_subjects), 'subject')} must be enrolled anew to be found by "
            "their ids, which were not in Unicode's form NFC"
        )
    return Answer(dataclasses.asdict(done), "\n".join(lines))


RUN: dict[str, Callable[[argparse.Namespace], Answer]] = {
    "init": _init,
    "enroll": _enroll,
    "verify": _verify,
    "identify": _identify,
    "revoke": _revoke,
    "renew": _renew,
    "rotate": _rotate,
    "set-threshold": _set_threshold,
    "export": _export,
    "import": _import,
    "stats": _stats,
    "check": _check,
    "erase": _erase,
    "migrate": _migrate,
}


def _hasher(arguments: argparse.Namespace, *, opens_embedder: bool = True) -> FaceHasher:
    """The face hasher of the options."""
    return load(arguments.hasher, weights=arguments.weights or "", opens_embedder=opens_embedder)


def _fusing_hasher(arguments: argparse.Namespace) -> FaceHasher:
    """The face hasher; it votes where several images become one reference by their symbols."""
    hasher = _hasher(arguments)
    return MajorityHasher(hasher) if arguments.fuse == "majority" else hasher


def _fused(arguments: argparse.Namespace, rows: Any) -> tuple[Any, dict[str, Any] | None]:
    """What is enrolled for the images of a subject, and what is noted of them."""
    if arguments.fuse == "none":
        return rows, None
    return fuse(rows, arguments.fuse), {"fuse": arguments.fuse, "images": len(rows)}


def _check_faces(images: Sequence[Path]) -> None:
    """Refuse what is no aligned face before models are loaded; they check the exact size."""
    for image in images:
        read_image(image, size=None)


def _check_new(gallery: Gallery, arguments: argparse.Namespace) -> None:
    """Refuse before models are loaded what `Gallery.enroll` will refuse."""
    gallery.application(arguments.application)
    may_return = (RevokedError,) if arguments.allow_revoked else ()
    with contextlib.suppress(NotEnrolledError, *may_return):
        gallery.references(arguments.application, arguments.subject)
        if not arguments.another:
            raise AlreadyEnrolledError(
                f"subject {arguments.subject!r} is enrolled already in {arguments.application}; "
                "--another adds a reference, iom renew replaces what is there",
                subject_id=arguments.subject,
            )


def _facts(application: Application) -> dict[str, Any]:
    """An application as `--json` shows it."""
    found = dataclasses.asdict(application)
    del found["seal"]
    return {"application": found.pop("name"), **found}


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _subjects_of(folder: Path) -> dict[str, list[Path]]:
    listing = list_subjects(folder)
    if listing.linked_folders:
        note = f"note: {folder}: {listing.linked_folders} links to folders are not followed"
        print(note, file=sys.stderr)
    if not listing.images:
        raise EnrolmentError(f"{folder}: expected folders of images, one for each subject")
    return {name: [folder / one for one in images] for name, images in listing.subjects.items()}
