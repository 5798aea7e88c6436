"""Commands of a gallery: `iom init`, `iom enroll`, `iom verify`, `iom identify`, ..."""

import contextlib
import dataclasses
import datetime
import json
import os
import sys
import urllib.parse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from iom._files import IMAGE_SUFFIXES, list_images, list_subjects
from iom._memory import forbid_core_dumps
from iom._registry import COMPARISONS, DEVICE_MODES, FUSIONS, KEY_MODES, lookup
from iom._untrusted import read_bytes
from iom.cli._command import (
    COUNT,
    Answer,
    Choice,
    HasherOptions,
    Quiet,
    Workers,
    argument,
    counted,
    goes_on_when_repeated,
    option,
    output_file,
    root,
)
from iom.errors import (
    AlreadyEnrolledError,
    ConfigError,
    DataError,
    EnrolmentError,
    NotEnrolledError,
    RevokedError,
    StoreNotFoundError,
)

if TYPE_CHECKING:
    from iom.gallery.gallery import Gallery
    from iom.gallery.models import Application
    from iom.gallery.on_device import OnDeviceGallery
    from iom.keys import SubjectToken
    from iom.models.face_hasher import FaceHasher
    from iom.split.gallery import SplitGallery

_MAX_RELEASE_FILE = 4096

try_out = root.section("Try it")
Search = Annotated[
    str | None, option("search in shards of Ray; see iom --help", "URL", envvar="IOM_SEARCH", show_envvar=True)
]
command = root.section(
    "Gallery",
    epilog="""\
The record store and the key store are two places, best on two machines. The passphrase of a key
file comes from --passphrase-file, from IOM_PASSPHRASE, or is asked for. See docs/gallery.md.

record stores  PATH.db  sqlite:///PATH.db  postgresql://...
               split://HOST:PORT,HOST:PORT?certificate=FILE&key=FILE&authority=FILE (docs/split.md)
key stores     PATH  file:PATH  file:PATH?key-file=PATH  environment:NAME?file=PATH
               command:PROGRAM ARGUMENTS?file=PATH
               pkcs11:token=NAME;object=NAME?module-path=PATH&pin-source=file:PATH&file=PATH
               https://HOST:PORT?certificate=PATH&key=PATH&authority=PATH&file=PATH
               several of them joined by +: all are needed
searches       ray://local  ray://HOST:PORT  with ?shards=N&seconds=N behind it (docs/ray.md)
""",
)


def no_hasher() -> "FaceHasher":
    """For commands without faces."""
    raise AssertionError


@dataclasses.dataclass(frozen=True)
class KeyOptions:
    """The options of every command with a key store."""

    keys: Annotated[str, option("key store", "PATH_OR_URL", envvar="IOM_KEYS", show_envvar=True)] = "gallery.keys"
    passphrase_file: Annotated[
        Path | None,
        option("its first line opens the key store", "FILE", envvar="IOM_PASSPHRASE_FILE", show_envvar=True),
    ] = None

    def passphrase(self) -> str:
        """The passphrase of the key store: from the file, from IOM_PASSPHRASE, or asked for, twice if it is new."""
        from iom.gallery.key_url import parse_key_url

        if self.passphrase_file is not None:
            try:
                return self.passphrase_file.read_text(encoding="utf-8").split("\n")[0]
            except (OSError, UnicodeDecodeError) as error:
                raise DataError(f"cannot read {self.passphrase_file}") from error
        if (known := os.environ.get("IOM_PASSPHRASE")) is not None:
            return known
        return _asked_passphrase(repeat=not parse_key_url(self.keys, None).path.exists())


@dataclasses.dataclass(frozen=True)
class GalleryOptions(KeyOptions):
    """The options of every command of a gallery."""

    gallery: Annotated[str, option("record store", "PATH_OR_URL", envvar="IOM_GALLERY", show_envvar=True)] = (
        "gallery.db"
    )
    application: Annotated[str, option("tenant", "NAME")] = "default"
    quiet: Quiet = False

    def open(
        self,
        hasher: "FaceHasher | Callable[[], FaceHasher]" = no_hasher,
        *,
        create: bool = False,
        search: str | None = None,
    ) -> "Gallery":
        """The gallery, with a hasher or what opens it; with `create`, stores that are missing are made.

        Shards of a `search` read the passphrase from the same file. From here on the process leaves no core dump.
        """
        from iom.gallery.gallery import Gallery

        self._prepare()
        if search and self.passphrase_file is not None and "passphrase-file=" not in search:
            path = urllib.parse.quote(str(self.passphrase_file.absolute()))
            search += f"{'&' if '?' in search else '?'}passphrase-file={path}"
        return Gallery.open(
            self.gallery, keys=self.keys, hasher=hasher, create=create, passphrase=self.passphrase, search=search or ""
        )

    def open_on_device(self, artifact: Path, *, create: bool = False) -> "OnDeviceGallery":
        """As `open`, for codes of devices that run this artefact for browsers."""
        from iom.gallery.on_device import OnDeviceGallery, WebHasher

        self._prepare()
        hasher = WebHasher(artifact)  # its errors come before the passphrase is asked for
        return OnDeviceGallery.open(
            self.gallery, keys=self.keys, hasher=hasher, create=create, passphrase=self.passphrase
        )

    def _prepare(self) -> None:
        if self.is_split:
            raise ConfigError(
                "a split gallery (split://...) enrols, verifies, renews and revokes one subject at a time; other "
                "commands are those of its servers, with their own --gallery and --keys"
            )
        forbid_core_dumps()

    @property
    def is_split(self) -> bool:
        """Whether `--gallery` names the two servers of a split gallery."""
        return self.gallery.startswith("split://")

    def open_split(self, hasher: "FaceHasher | Callable[[], FaceHasher]" = no_hasher) -> "SplitGallery":
        """The capture side of a split gallery."""
        from iom.split.gallery import SplitGallery

        forbid_core_dumps()
        return SplitGallery.open(self.gallery, hasher)


def _asked_passphrase(*, repeat: bool) -> str:
    import getpass
    import warnings

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", getpass.GetPassWarning)  # it would be shown
            entered = getpass.getpass("passphrase of the key store: ")
            if repeat and getpass.getpass("once more: ") != entered:
                raise ConfigError("the two passphrases differ; nothing was made")
    except (EOFError, getpass.GetPassWarning) as error:
        raise ConfigError(
            "expected a passphrase, and there is no terminal to ask at: use --passphrase-file or IOM_PASSPHRASE"
        ) from error
    return entered


Unchecked = Annotated[bool, option("take faces that are small or blurred, and aligned images that show none")]
Release = Annotated[
    Path | None, option("its first line is a secret that a match gives back (split gallery, full protocol)", "FILE")
]
Slot = Annotated[int | None, option("only this reference", "N")]
Fuse = Annotated[
    str,
    option(
        "several images of a subject: a reference each, or one of their mean vector (centroid) or of the majority "
        "of their symbols",
        type=Choice(FUSIONS),
    ),
]


def _token_option(text: str) -> Any:
    return option(f"{text}; a QR code where the name ends in .png", "FILE")


@command(
    "init", examples=("--gallery sqlite:///door.db --keys file:door.keys", "--application gate --key-mode application")
)
def init(
    *,
    place: GalleryOptions,
    key_mode: Annotated[
        str,
        option(
            "one for each record, for all (worth more to a thief), half of one (split gallery), or one for each that "
            "stays on the subject's device, whose code lies here, or a share of it",
            type=Choice(KEY_MODES),
        ),
    ] = "subject",
    masked: Annotated[
        bool | None,
        option(
            "store codes under one-time masks (default: where one key serves all records, or keys are on devices)",
            flag="--masked/--unmasked",
            default=None,
            show_default=False,
        ),
    ],
    threshold: Annotated[int | None, option("largest distance that is a match (default: as calibrated)", "N")],
    comparison: Annotated[
        str | None,
        option(
            "of a code with a probe's code, or with its keyed row (default: as calibrated)", type=Choice(COMPARISONS)
        ),
    ],
    models: HasherOptions,
) -> Answer:
    """Make a gallery, or another application in it."""
    with contextlib.ExitStack() as stack:
        if key_mode in DEVICE_MODES:
            gallery: Gallery = stack.enter_context(place.open_on_device(models.web_artifact(stack), create=True))
        else:
            gallery = stack.enter_context(place.open(models.load(opens_embedder=False), create=True))
        made = gallery.create_application(
            place.application, threshold=threshold, key_mode=key_mode, masked=masked, comparison=comparison or ""
        )
    masks = ", masked" if made.masked else ""
    text = f"application {made.name}: {made.encoding}, key of each {made.key_mode}{masks}, threshold {made.threshold}"
    return Answer(_facts(made), text)


@command(
    "enroll",
    renamed={"--another": "--add"},
    examples=(
        "alice alice_1.jpg alice_2.jpg",
        "alice alice_3.jpg --add",
        "alice alice_1.jpg --token alice.token    # makes the file, which alice keeps",
        "--folder PEOPLE    # PEOPLE/SUBJECT/*.jpg",
    ),
)
def enroll(
    *,
    subject: str | None,
    images: Annotated[Sequence[Path], argument("[IMAGE]...", nargs=-1)],
    folder: Annotated[Path | None, option("enrol all of DIR/SUBJECT/*; a second run goes on", "DIR")],
    add: Annotated[bool, option("add to a subject that is enrolled already")],
    allow_revoked: Annotated[bool, option("bring a revoked subject back (otherwise refused or left out)")],
    token: Annotated[Path | None, _token_option("make a token for the subject (with --add: the one it has)")],
    release: Release,
    fuse: Fuse = "none",
    unchecked: Unchecked,
    place: GalleryOptions,
    models: HasherOptions,
) -> Answer:
    """Enrol a subject, or a folder of subjects. IMAGE is a photograph with one face, or an aligned one of 112x112."""
    embedding = _Embedding(models, fuse, checked=not unchecked)
    if folder is not None and token is not None:
        raise ConfigError("enroll: --token is for one subject; each has a token of its own")
    if folder is not None and subject is None:
        return _enroll_folder(place, folder, embedding, allow_revoked=allow_revoked)
    if subject is None or folder is not None:
        raise ConfigError("enroll: expected a subject and images, or --folder DIR")
    if not images:
        raise ConfigError("enroll: expected at least one image of the subject")
    name = place.application
    check_images(images)
    if place.is_split:
        _refuse_in_split(token=token)
        enrolment = {"another": add, "allow_revoked": allow_revoked}
        return _store_split(place, subject, images, embedding, release, "enroll", enrolment)
    _refuse_release(release)
    theirs = _subject_token(token, new=not add)
    with place.open(embedding.hasher) as gallery:
        gallery.application(name)
        if gallery.is_enrolled(subject, application=name, allow_revoked=allow_revoked) and not add:
            raise AlreadyEnrolledError(
                f"subject {subject!r} is enrolled already in {name}; "
                "--add adds a reference, iom renew replaces what is there",
                subject_id=subject,
            )
        rows, metadata = embedding.rows(gallery, images)
        options: dict[str, Any] = {"another": add, "allow_revoked": allow_revoked}
        with theirs as given:
            new = gallery.enroll(subject, rows, application=name, metadata=metadata, token=given, **options)
    facts = {"application": name, "subject": subject, "slots": [each.slot for each in new]}
    return Answer(facts, f"{subject}: {counted(len(new), 'reference')}{_told_token(token, new=not add)}")


def _released(path: Path | None) -> bytes:
    """What a match gives back; from a file, as every user of the machine can read a command line."""
    if path is None:
        return b""
    try:
        secret = read_bytes(path, _MAX_RELEASE_FILE).split(b"\n")[0]
    except OSError as error:
        raise DataError(f"{path}: cannot read the secret to release: {error.strerror}") from error
    if not secret:
        raise DataError(f"{path}: expected a secret to release in its first line, found none")
    return secret


def _refuse_release(release: Path | None) -> None:
    if release is not None:
        raise ConfigError("--release is for a split gallery: --gallery split://...")


def _refuse_in_split(*, token: Path | None = None, slot: int | None = None) -> None:
    for flag, value in (("--token", token), ("--slot", slot)):
        if value is not None:
            raise ConfigError(f"{flag}: not for a split gallery, see docs/split.md")


def _subject_token(path: Path | None, *, new: bool) -> contextlib.AbstractContextManager["SubjectToken | None"]:
    """A new token of a subject, made when the context is entered, or the one in a file; `None` without a path.

    Mistakes are told at once.
    """
    if path is None:
        return contextlib.nullcontext()
    from iom.gallery.token_files import check_new_token_file, new_token, read_token

    if not new:
        return contextlib.nullcontext(read_token(path))
    check_new_token_file(path)
    return new_token(path)


def _told_token(path: Path | None, *, new: bool) -> str:
    if path is None or not new:
        return ""
    return f"\nthe token is in {path}: the subject keeps it, and it belongs on no disk with the gallery"


@dataclasses.dataclass(frozen=True)
class _Embedding:
    """How images become rows to enrol."""

    models: HasherOptions
    fuse: str
    checked: bool

    def hasher(self) -> "FaceHasher":
        from iom.gallery.templates import MajorityHasher

        hasher = self.models.load()
        return MajorityHasher(hasher) if self.fuse == "majority" else hasher

    def rows(self, gallery: "Gallery | SplitGallery", images: Sequence[Path]) -> tuple[Any, dict[str, Any] | None]:
        """Rows to enrol of a subject's images, and their metadata."""
        from iom.gallery.templates import fuse

        rows = gallery.embed(images, checked=self.checked)
        return fuse(rows, self.fuse), None if self.fuse == "none" else {"fuse": self.fuse, "images": len(rows)}


def _store_split(
    place: GalleryOptions,
    subject: str,
    images: Sequence[Path],
    embedding: _Embedding,
    release: Path | None,
    action: str,
    options: dict[str, Any],
) -> Answer:
    """Enrol or renew a subject in a split gallery."""
    name, secret = place.application, _released(release)
    with place.open_split(embedding.hasher) as gallery:
        gallery.application(name)
        rows, _ = embedding.rows(gallery, images)
        if action == "enroll":
            count = gallery.enroll(subject, rows, application=name, release=secret, **options)
        else:
            count = gallery.renew(subject, rows, application=name, release=secret)
    told = subject if action == "enroll" else f"renewed {subject}"
    return Answer(
        {"application": name, "subject": subject, "references": count}, f"{told}: {counted(count, 'reference')}"
    )


def _enroll_folder(place: GalleryOptions, folder: Path, embedding: _Embedding, *, allow_revoked: bool) -> Answer:
    """Enrol the subjects that are missing; another run may enrol some of them meanwhile."""
    from iom._progress import tqdm

    listing = list_subjects(folder)
    _tell_links(folder, listing.linked_folders)
    if not listing.images:
        raise EnrolmentError(f"{folder}: expected folders of images, one for each subject")
    name = place.application
    counts = {"subjects": 0, "references": 0, "present": 0, "revoked": 0}
    hidden = place.quiet or len(listing.subjects) == 1
    with place.open(embedding.hasher) as gallery, goes_on_when_repeated():
        gallery.application(name)
        for subject, images in tqdm(listing.subjects.items(), unit="subject", disable=hidden):
            try:
                if gallery.is_enrolled(subject, application=name, allow_revoked=allow_revoked):
                    counts["present"] += 1
                    continue
                rows, metadata = embedding.rows(gallery, [folder / image for image in images])
                new = gallery.enroll(subject, rows, application=name, metadata=metadata, allow_revoked=allow_revoked)
            except RevokedError:
                counts["revoked"] += 1
            except AlreadyEnrolledError:
                counts["present"] += 1
            else:
                counts["subjects"] += 1
                counts["references"] += len(new)
    text = f"enrolled {counted(counts['subjects'], 'subject')}, {counted(counts['references'], 'reference')}"
    if counts["present"]:
        text += f"; {counts['present']} were enrolled already"
    if counts["revoked"]:
        text += f"; {counts['revoked']} were revoked and stay away, iom renew or --allow-revoked brings them back"
    return Answer({"application": name, **counts}, text)


def _tell_links(folder: Path, count: int) -> None:
    if count:
        print(f"note: {folder}: {count} links to folders are not followed", file=sys.stderr)


@try_out(
    "verify",
    epilog="""\
FIRST is a photograph where it is a file with the suffix of one, or a path with a / in it: then nothing
is set up and nothing is stored. Otherwise it is a subject of the gallery. Exit code 1: no match.
""",
    examples=(
        "a.jpg b.jpg                      # do two photographs show one person?",
        "a.jpg b.jpg --fmr 0.0001 --json",
        "alice probe.jpg                  # is this alice, who is enrolled?",
        "alice probe.jpg --token alice.token",
    ),
)
def verify(
    first: Annotated[str, argument("FIRST")],
    image: Path,
    *,
    fmr: Annotated[float | None, option("false match rate of the threshold (two photographs)", "RATE")] = None,
    token: Annotated[Path | None, option("the subject's token: a file, or a picture of its QR code", "FILE")],
    unchecked: Unchecked,
    place: GalleryOptions,
    models: HasherOptions,
) -> Answer:
    """Compare two photographs, or a photograph with a subject of a gallery."""
    check_images([image])
    if Path(first).is_file() and (Path(first).suffix.lower() in IMAGE_SUFFIXES or os.sep in first):
        from iom.models.face_hasher import verify

        if token is not None:
            raise ConfigError("--token is for a subject of a gallery; two photographs need none")
        check_images([Path(first)])
        found = verify(first, image, hasher=models.load(), fmr=fmr, checked=not unchecked)
        facts: dict[str, Any] = {"images": [first, image]}
        return Answer(
            facts | {name: value for name, value in vars(found).items() if name != "slot"}, str(found), found.match
        )
    if fmr is not None:
        raise ConfigError("--fmr is for two photographs; the threshold of a gallery is that of iom set-threshold")
    name = place.application
    if place.is_split:
        _refuse_in_split(token=token)
        with place.open_split(models.load) as servers:
            decision = servers.verify(first, image, application=name, checked=not unchecked)
        secret = None if decision.released is None else decision.released.decode("utf-8", "replace")
        facts = {"application": name, "subject": first, "match": decision.match, "released": secret}
        return Answer(facts, "\n".join(filter(None, [str(decision), secret])), decision.match)
    theirs = _subject_token(token, new=False)
    try:
        with place.open(models.load) as gallery, theirs as given:
            found = gallery.verify(first, image, application=name, checked=not unchecked, token=given)
    except (StoreNotFoundError, NotEnrolledError) as error:
        error.args = (f"{first!r} is no photograph to compare with {image}, and as a subject: {error}",)
        raise
    return Answer({"application": name, "subject": first, **vars(found)}, str(found), found.match)


@command("identify", examples=("probe.jpg", "probe.jpg --top 3 --closed"))
def identify(
    *,
    image: Path,
    top: Annotated[int, option("most subjects (default: all)", "N", show_default=False)] = 0,
    threshold: Annotated[int | None, option("largest distance (default: the application's)", "N")],
    closed: Annotated[bool, option("the nearest, whether they match or not")],
    unchecked: Unchecked,
    search: Search,
    place: GalleryOptions,
    models: HasherOptions,
) -> Answer:
    """Identify the subject of an image (exit code 1: no match).

    IMAGE is a photograph with one face, or an aligned one.
    """
    name = place.application
    check_images([image])
    with place.open(models.load, search=search) as gallery:
        found = gallery.identify(
            image, application=name, top=top, threshold=threshold, closed=closed, checked=not unchecked
        )
    lines = [f"{each.subject_id}  {each.distance}  {'match' if each.match else 'no match'}" for each in found]
    candidates = [{"subject": each.subject_id, "distance": each.distance, "match": each.match} for each in found]
    return Answer(
        {"application": name, "candidates": candidates},
        "\n".join(lines or ["no match"]),
        any(each.match for each in found),
    )


@command("list", examples=("", "--application gate --json"))
def list_(place: GalleryOptions) -> Answer:
    """List the subjects of an application."""
    with place.open() as gallery:
        found = gallery.subjects(application=place.application)
    rows = [
        {
            "subject": subject,
            "references": len(some),
            "enrolled": _date(max(each.created for each in some)) if some else None,
        }
        for subject, some in found.items()
    ]
    lines = [
        f"{subject}: {counted(len(some), 'reference')}" if some else f"{subject}: revoked"
        for subject, some in found.items()
    ]
    return Answer({"application": place.application, "subjects": rows}, "\n".join(lines or ["no subjects"]))


@command("show", examples=("alice", "alice --json"))
def show(subject: str, place: GalleryOptions) -> Answer:
    """Show the references of a subject, without codes, shares and keys."""
    from iom.gallery.models import TOKEN_FIELD

    with place.open() as gallery:
        is_share = gallery.application(place.application).key_mode == "share"  # whose metadata are shares, too
        found = gallery.references(subject, application=place.application)
    rows = [
        {
            "slot": each.slot,
            "enrolled": _date(each.created),
            "epoch": each.epoch,
            "token": each.token or None,
            "metadata": {
                name: value for name, value in json.loads(each.metadata).items() if name != TOKEN_FIELD and not is_share
            },
        }
        for each in found
    ]
    lines = [f"{subject}: {counted(len(rows), 'reference')}"]
    lines += [
        f"  slot {row['slot']}: enrolled {row['enrolled']}, key epoch {row['epoch']}"
        + (f", token {row['token']}" if row["token"] else "")
        + (f", {json.dumps(row['metadata'], separators=(',', ':'))}" if row["metadata"] else "")
        for row in rows
    ]
    return Answer({"application": place.application, "subject": subject, "references": rows}, "\n".join(lines))


def _date(seconds: int) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="seconds")


@command("revoke", examples=("alice", "alice --slot 1"))
def revoke(subject: str, slot: Slot, place: GalleryOptions) -> Answer:
    """Refuse a subject's template for ever."""
    if place.is_split:
        _refuse_in_split(slot=slot)
        with place.open_split() as servers:
            count = servers.revoke(subject, application=place.application)
    else:
        with place.open() as gallery:
            if gallery.application(place.application).key_mode == "share":
                from iom.split.share_store import ShareStore

                gallery = ShareStore(gallery.store, gallery.keys)  # ends what is prepared there, too
            count = gallery.revoke(subject, application=place.application, slot=slot)
    facts = {"application": place.application, "subject": subject, "revoked": count}
    return Answer(facts, f"revoked {counted(count, 'reference')} of {subject}")


@command("renew", examples=("alice alice_4.jpg", "alice alice_4.jpg --slot 1", "alice alice_4.jpg --token new.token"))
def renew(
    *,
    subject: str,
    images: Annotated[Sequence[Path], argument("IMAGE...", nargs=-1, required=True)],
    slot: Slot,
    token: Annotated[Path | None, _token_option("make a new token; the old one serves for nothing any more")],
    release: Release,
    fuse: Fuse = "none",
    unchecked: Unchecked,
    place: GalleryOptions,
    models: HasherOptions,
) -> Answer:
    """Give a subject a new template under a new key. IMAGE is a photograph with one face, or an aligned one."""
    name = place.application
    check_images(images)
    embedding = _Embedding(models, fuse, checked=not unchecked)
    if place.is_split:
        _refuse_in_split(token=token, slot=slot)
        return _store_split(place, subject, images, embedding, release, "renew", {})
    _refuse_release(release)
    theirs = _subject_token(token, new=True)
    with place.open(embedding.hasher) as gallery:
        with contextlib.suppress(RevokedError):  # to bring it back is what renewing is for
            gallery.references(subject, application=name)
        rows, metadata = embedding.rows(gallery, images)
        with theirs as given:
            new = gallery.renew(subject, rows, application=name, slot=slot, metadata=metadata, token=given)
    facts = {"application": name, "subject": subject, "slots": [each.slot for each in new]}
    return Answer(facts, f"renewed {subject}: {counted(len(new), 'reference')}{_told_token(token, new=True)}")


@command("rotate", examples=("--application gate", "--application gate --retire"))
def rotate(
    retire: Annotated[bool, option("revoke all that is under older keys, at once")], place: GalleryOptions
) -> Answer:
    """Give an application with a common key a new one."""
    with place.open() as gallery:
        changed = gallery.rotate(application=place.application, retire=retire)
    return Answer(_facts(changed), f"application {changed.name}: key epoch {changed.epoch}")


@command(
    "set-threshold",
    context_settings={"ignore_unknown_options": True},  # -1 is a number
    examples=("380", "380 --application gate", "6150 --comparison asymmetric"),
)
def set_threshold(
    threshold: int,
    place: GalleryOptions,
    comparison: Annotated[
        str | None, option("change the comparison, too, which the threshold is of", type=Choice(COMPARISONS))
    ],
) -> Answer:
    """Change the largest distance that is a match: differing positions, or ten-thousandths of 1 - cosine."""
    with place.open() as gallery:
        changed = gallery.set_threshold(threshold, application=place.application, comparison=comparison or "")
    unit = "" if changed.comparison == COMPARISONS[0] else f", {changed.comparison}"
    return Answer(_facts(changed), f"application {changed.name}: threshold {changed.threshold}{unit}")


@command("export", examples=("door.iomx --application gate",))
def export(file: Path, place: GalleryOptions) -> Answer:
    """Write an application to a file, without keys."""
    from iom.gallery.transfer import export_application

    with place.open() as gallery:
        count = export_application(gallery, place.application, file)
    facts = {"application": place.application, "file": file, "references": count}
    return Answer(facts, f"wrote {counted(count, 'reference')} to {file}; keys are not in it")


@command("import", examples=("door.iomx",))
def import_(file: Path, place: GalleryOptions) -> Answer:
    """Read a file that iom export wrote."""
    from iom.gallery.transfer import import_application

    with place.open() as gallery:
        done = import_application(gallery, file)
    text = f"added {counted(done.added, 'reference')}; {done.present} were here, {done.revoked} are revoked"
    return Answer(dataclasses.asdict(done), text)


@command("stats", examples=("", "--application gate --json"))
def stats(place: Annotated[GalleryOptions, {"application": {"default": None}}]) -> Answer:
    """Count subjects and references, of all applications or of one."""
    with place.open() as gallery:
        if place.application is not None:
            gallery.store.application(place.application)
        identity = gallery.keys.identity()
        found = [pair for name, pair in gallery.stats().items() if place.application in (None, name)]
    lines = [
        f"{one.name}: {counted(counts.subjects, 'subject')}, {counted(counts.references, 'reference')}, "
        f"{counts.revoked} revoked; {one.encoding}, key of each {one.key_mode}{', masked' if one.masked else ''}, "
        f"threshold {one.threshold}, key epoch {one.epoch}"
        for one, counts in found
    ]
    rows = [_facts(one) | dataclasses.asdict(counts) for one, counts in found]
    return Answer({"key_store": identity, "applications": rows}, "\n".join([f"key store {identity}", *lines]))


@command("check", examples=("", "--json", "--accept          # after an older copy was put back on purpose"))
def check(
    accept: Annotated[bool, option("an older copy of the record store was put back on purpose")], place: GalleryOptions
) -> Answer:
    """Find damage and changes from outside in both stores (exit code 1: there are some)."""
    with place.open() as gallery:
        if accept:
            gallery.accept_rollback()
        problems = gallery.check()
    return Answer({"problems": problems}, "\n".join(problems or ["no problems"]), not problems)


@command("erase", examples=("",))
def erase(place: GalleryOptions) -> Answer:
    """Overwrite what revoked templates left behind."""
    with place.open() as gallery:
        gallery.erase()
    return Answer({"erased": True}, "overwritten; copies and backups are not reached by this")


@command(
    "migrate", examples=("--gallery sqlite:///door.db --keys file:door.keys", "--mask", "--mask --application gate")
)
def migrate(
    mask: Annotated[bool, option("put codes under masks: of --application, or all that are under a common key")],
    new_keys: Annotated[Path | None, option("new key file (default: the old one's name and .v2)", "FILE")],
    place: Annotated[GalleryOptions, {"application": {"default": None}}],
) -> Answer:
    """Convert a gallery that an older version made, or put its codes under masks."""
    from iom.gallery.migration import migrate

    if mask and new_keys is not None:
        raise ConfigError("migrate: --mask keeps the key store; --new-keys is for galleries of version 0.1.0")
    if mask:
        return _mask(place)
    if place.application is not None:
        raise ConfigError("migrate: a gallery is converted as a whole; --application goes with --mask")
    done = migrate(place.gallery, place.keys, new_key_file=new_keys, passphrase=place.passphrase)
    lines = [
        f"converted {counted(done.applications, 'application')}, "
        f"{counted(done.references, 'reference')}, {done.revoked} revoked",
        f"the new key store is {done.key_file}: name it in --keys or IOM_KEYS from now on",
        "the old one lies where it was; look with iom stats whether all settings are yours, then destroy it",
    ]
    if done.odd_subjects:
        lines.append(
            f"{counted(len(done.odd_subjects), 'subject')} must be enrolled anew to be found by "
            "their ids, which were not in Unicode's form NFC"
        )
    return Answer(dataclasses.asdict(done), "\n".join(lines))


def _mask(place: GalleryOptions) -> Answer:
    import warnings

    from iom.errors import UnmaskedWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnmaskedWarning)  # it would advise this very command
        with place.open() as gallery, goes_on_when_repeated():
            names = [place.application] if place.application is not None else gallery.unmasked_applications()
            counts = {name: gallery.mask(application=name) for name in names}
            if not names:
                gallery.erase()  # an earlier run may have been stopped before it
    lines = [f"application {name}: {counted(count, 'reference')} put under masks" for name, count in counts.items()]
    lines += [] if names else ["every application with a common key has masks"]
    lines.append(
        "what stood there before is overwritten; copies and backups of the record store still hold codes without "
        "masks: destroy them"
    )
    return Answer({"masked": counts}, "\n".join(lines))


@command(
    "bulk-enroll",
    epilog="""\
sources    folder    SOURCE/SUBJECT/*.jpg
           list      a text file, each line IMAGE<tab>SUBJECT, paths from its folder
           tfrecord  shards of iom convert FACES SHARDS --kind folder:tfrecord
engines    ray       Ray Data: workers on this machine, or on the cluster that RAY_ADDRESS names
           here      in this process

Workers only embed; codes are made, and keys are held, by this process alone. Every image becomes a
reference of its subject. Started again after it was stopped, the command enrols what is missing.
""",
    examples=("people/ --gallery sqlite:///door.db --keys file:door.keys --workers 2",),
)
def bulk_enroll(
    *,
    source: Path,
    kind: Annotated[str, option("of SOURCE: folder, list or tfrecord")] = "folder",
    engine: Annotated[str, option("ray or here")] = "ray",
    workers: Workers = 2,
    batch: Annotated[int, option("references of a transaction", "N", type=COUNT)] = 2048,
    report: Annotated[Path | None, option("default: SOURCE.enrolment.jsonl", "FILE", type=output_file)],
    unchecked: Unchecked,
    place: GalleryOptions,
    models: HasherOptions,
) -> Answer:
    """Enrol a large set of photographs or aligned faces on several workers, resumable."""
    from iom.gallery.bulk import ENGINES, WorkerSettings, enroll_in_bulk, read_rows

    whole = source.absolute()
    report = output_file(report or whole.with_name(whole.name + ".enrolment.jsonl"))
    opened = lookup(ENGINES, engine, "engine")
    rows = read_rows(kind, source)
    if kind == "folder":
        _tell_links(whole, list_images(whole, depth=1).linked_folders)
    hasher = models.load()
    file = Path(hasher.weights)
    weights = str(file.absolute()) if file.exists() else hasher.weights
    settings = WorkerSettings(weights, hasher.embedder_fingerprint, workers=workers, checked=not unchecked)
    with place.open(hasher) as gallery, goes_on_when_repeated():
        done = enroll_in_bulk(
            gallery, place.application, rows, opened, settings, report=report, batch=batch, progress=not place.quiet
        )
    lines = [f"enrolled {done.subjects} subjects, {done.references} references"]
    for count, text in (
        (done.present, "subjects were enrolled already"),
        (done.revoked, "subjects were revoked and stay away; iom renew brings one back"),
        (done.failed_images, f"images failed, see {report}"),
        (done.failed_subjects, "subjects have no image that can be used"),
    ):
        if count:
            lines.append(f"{count} {text}")
    facts = {"application": place.application, **dataclasses.asdict(done), "report": report}
    return Answer(facts, "\n".join(lines), not done.failed_subjects)


def check_images(images: Sequence[Path]) -> None:
    """Refuse what is missing or no picture before models are loaded."""
    from iom.photos.images import image_bytes, open_image

    for image in images:
        with open_image(image_bytes(image), str(image), expected="a photograph"):
            pass


def _facts(application: "Application") -> dict[str, Any]:
    """An application as `--json` shows it."""
    found = application.fields()
    return {"application": found.pop("name"), **found}
