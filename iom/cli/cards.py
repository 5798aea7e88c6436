"""Commands of cards: `iom card`, `iom verify-card`."""

import contextlib
import datetime
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from iom._memory import forbid_core_dumps
from iom.cli._command import NO_DEFAULT, Answer, HasherOptions, option, output_option, root
from iom.cli.data import KEY_VARIABLE, read_key
from iom.cli.gallery import KeyOptions, Unchecked, check_images
from iom.errors import ConfigError, KeyMaterialError

if TYPE_CHECKING:
    from iom.gallery.cards import CardKey

command = root.section(
    "Cards",
    epilog="""\
The key comes from --key-file, from the environment variable IOM_KEY, or from the key store of --keys,
which may be a token (pkcs11:) or a key service (https:). Whoever has it opens cards, makes new ones, and
tries faces at a card that he found. See docs/cards.md. QR codes need the extra qr.
""",
)

KeyFile = Annotated[Path | None, option("key of iom make-key (default: IOM_KEY holds it)", "FILE")]
KeyStoreOptions = Annotated[KeyOptions, {"keys": {**NO_DEFAULT, "help": "key store, in place of a key file"}}]


@contextlib.contextmanager
def _card_key(key_file: Path | None, place: KeyOptions) -> Iterator["CardKey"]:
    from iom.gallery.key_store import open_key_store

    forbid_core_dumps()
    if place.keys is None:
        if place.passphrase_file is not None and key_file is None and KEY_VARIABLE not in os.environ:
            raise KeyMaterialError("expected the key store that --passphrase-file opens: --keys PATH_OR_URL")
        yield read_key(key_file)
        return
    if key_file is not None:
        raise ConfigError("--key-file and --keys exclude each other: give one of them")
    with open_key_store(place.keys, passphrase=place.passphrase) as keys:
        yield keys


def _moment(text: str) -> datetime.datetime:
    """The last second of a date, or a moment, in UTC unless it says otherwise."""
    try:
        if "T" not in text and " " not in text:
            return datetime.datetime.combine(datetime.date.fromisoformat(text), datetime.time(23, 59, 59), datetime.UTC)
        found = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"--valid-until: expected 2027-01-31 or 2027-01-31T18:00, received {text[:40]!r}") from None
    return found if found.tzinfo else found.replace(tzinfo=datetime.UTC)


@command(
    "card",
    examples=(
        "alice.jpg --key-file door.key --out alice.png",
        "alice.jpg --key-file door.key --out alice.pdf --subject alice --valid-until 2027-01-31",
        "alice.jpg --keys 'https://keys:8100?certificate=...&file=door.keys' --out alice.svg",
    ),
)
def card(
    *,
    image: Path,
    output: Annotated[Path, output_option("a new picture: *.png, *.svg or *.pdf", folder=False, flag="--output --out")],
    key_file: KeyFile,
    subject: Annotated[str, option("who it is: at most 64 bytes", "ID")] = "",
    valid_until: Annotated[str, option("last day, or moment, at which it is accepted (UTC)", "DATE")] = "",
    unchecked: Unchecked,
    place: KeyStoreOptions,
    models: HasherOptions,
) -> Answer:
    """Make a card: a sealed template as a QR code, for which nothing is stored.

    IMAGE is a photograph with one face, or an aligned one of 112x112.
    """
    from iom.gallery.cards import Card, check_new_card_file

    check_new_card_file(output)
    end = _moment(valid_until) if valid_until else None
    check_images([image])
    with _card_key(key_file, place) as key:
        made = Card.issue(
            image, hasher=models.load(), key=key, subject_id=subject, valid_until=end, checked=not unchecked
        )
    made.save(output)
    facts = {"card": output, "serial": made.serial, "bytes": len(made.payload), "subject": subject}
    facts |= {"valid_until": _shown(end), "text": made.to_text()}
    return Answer(facts, f"{output}: {len(made.payload)} bytes; note its serial number to revoke it: {made.serial}")


@command(
    "verify-card",
    examples=(
        "alice.png probe.jpg --key-file door.key          # a picture or a photograph of the card",
        "alice.png probe.jpg --key-file door.key --revoked revoked.txt --json",
    ),
)
def verify_card(
    *,
    card: Path,
    image: Path,
    key_file: KeyFile,
    revoked: Annotated[Path | None, option("serial numbers of cards to refuse, one a line", "FILE")],
    fmr: Annotated[float | None, option("false match rate of the threshold (default: the hasher's)", "RATE")] = None,
    unchecked: Unchecked,
    place: KeyStoreOptions,
    models: HasherOptions,
) -> Answer:
    """Compare a photograph with a card (exit code 1: no match; 4: revoked; 7: the card is not accepted).

    CARD is a picture or a photograph of the QR code; IMAGE is a photograph with one face, or an aligned one.
    """
    from iom.gallery.cards import Card, read_revoked

    refused = read_revoked(revoked) if revoked else frozenset()
    check_images([image])
    shown = Card.read(card)
    with _card_key(key_file, place) as key:
        hasher = models.load()
        content = shown.open(hasher=hasher, key=key, revoked=refused)
    found = hasher.compare(content.code, image, content.key, fmr=fmr, checked=not unchecked)
    facts = {"serial": shown.serial, "subject": content.subject_id, "valid_until": _shown(content.valid_until)}
    decision = {name: value for name, value in vars(found).items() if name != "slot"}
    name = content.subject_id and f"{content.subject_id}: "
    return Answer(facts | decision, f"{name}{found}", found.match)


def _shown(moment: datetime.datetime | None) -> str | None:
    return moment.isoformat() if moment else None
