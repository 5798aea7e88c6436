"""Files of one store alone hold nothing that can be compared; both together hold everything.

Each person is enrolled with two photographs under a common key, so that the store has mated codes of which a thief may
know nothing but that. Compared are bits: mated codes without masks agree, and mated bytes of a masked store are coins.
"""

import contextlib
import itertools
import sqlite3

import numpy as np
import pytest

from iom.codes.packing import pack
from iom.gallery.templates import unmasked
from iom.gallery.transfer import export_application
from tests.gallery.conftest import UNMASKED, FakeHasher, again, faces

COUNT = 100
FIRST = faces(COUNT, seed=21)
SECOND = np.stack([again(row, seed=number) for number, row in enumerate(FIRST)])
BITS = 96 * 3
"""Bits of a code; the rest of its words is zero."""
START = 12
"""Bytes of a code that are looked for: the first plane."""


def filled(place, *, masked):
    gallery = place.open(create=True)
    gallery.create_application("door", key_mode="application", masked=masked)
    for rows, another in ((FIRST, False), (SECOND, True)):
        gallery.enroll_many([f"p{n:03}" for n in range(COUNT)], rows, application="door", another=another)
    return gallery


def true_codes(gallery):
    """Packed bytes of the codes that were enrolled, `2 COUNT` of them, by record."""
    key = gallery.keys.application_keys("door", [0])[0]
    planes = pack(FakeHasher().hash(np.concatenate([FIRST, SECOND]), key), 8).planes
    return [row.astype("<u8").tobytes() for row in planes]


def backup(place):
    """A copy that SQLite makes, as backup programs do."""
    path = place.folder / "backup.db"
    with contextlib.closing(sqlite3.connect(place.database)) as source, contextlib.closing(sqlite3.connect(path)) as to:
        source.backup(to)
    return path


def files_of(place, gallery):
    """Bytes of everything that lies with the records, by name."""
    export = place.folder / "door.iomx"
    export_application(gallery, "door", export)
    whole = {path.name: path.read_bytes() for path in sorted(place.folder.glob("g.db*"))}
    return whole | {path.name: path.read_bytes() for path in (backup(place), export)}


def shares(codes):
    """Share of equal bits of mated and of non-mated codes, `(COUNT,)` each."""
    rows = np.array([np.unpackbits(np.frombuffer(code, np.uint8), bitorder="little") for code in codes])
    rows = rows.reshape(len(rows), 3, -1)[:, :, :96].reshape(len(rows), -1)
    first, second = rows[:COUNT], rows[COUNT:]
    return (first == second).mean(axis=1), (first == np.roll(second, 1, axis=0)).mean(axis=1)


def are_coins(codes):
    """Whether mated codes agree as coins do: within five standard deviations, for the mean and for the best pair."""
    mated, other = shares(codes)
    spread = 0.5 / np.sqrt(BITS)
    return all(
        abs(found.mean() - 0.5) < 5 * spread / np.sqrt(COUNT) and np.abs(found - 0.5).max() < 5 * spread
        for found in (mated, other)
    )


@pytest.fixture(params=["by default", "migrated"])
def masked(request, place):
    if request.param == "by default":
        return filled(place, masked=None)
    gallery = filled(place, masked=False)
    gallery.mask(application="door")
    return gallery


@UNMASKED
def test_the_control_without_masks_is_open_in_every_file(place):
    gallery = filled(place, masked=False)
    codes = true_codes(gallery)
    mated, other = shares(codes)
    assert mated.min() > other.max()
    files = files_of(place, gallery)
    for name in ("backup.db", "door.iomx"):
        assert all(code[:START] in files[name] for code in codes)
    live = b"".join(content for name, content in files.items() if name.startswith("g.db"))
    assert all(code[:START] in live for code in codes)


@UNMASKED
def test_records_alone_hold_no_code_that_compares(place, masked):
    codes, stored = true_codes(masked), [each.code for each in masked.store.scan("door")]
    content = b"".join(files_of(place, masked).values())
    assert not any(code[:START] in content for code in codes)
    assert all(code[:START] in content for code in stored)
    assert are_coins(stored)
    assert not are_coins(codes)


@UNMASKED
def test_records_alone_hold_no_sum_of_codes_either(place, masked):
    """A mask that served twice would fall out of the sum of two codes."""
    codes, stored = true_codes(masked), [each.code for each in masked.store.scan("door")]
    sums = {_xor(first, second) for first, second in itertools.combinations(codes, 2)}
    assert not any(_xor(first, second) in sums for first, second in itertools.combinations(stored, 2))
    masks = masked.keys.masks("door", range(2 * COUNT))
    assert len(set(masks)) == 2 * COUNT


@UNMASKED
def test_keys_alone_hold_no_code_and_no_mask(place, masked):
    content = b"".join(path.read_bytes() for path in place.folder.glob("g.keys*"))
    codes, masks = true_codes(masked), masked.keys.masks("door", range(2 * COUNT))
    stored = [each.code for each in masked.store.scan("door")]
    assert not any(each[:START] in content for each in [*codes, *masks, *stored])
    key = masked.keys.application_keys("door", [0])[0]
    for secret in (key.secret, key.secret.hex().encode(), key.to_text().split(":")[1].encode()):
        assert secret not in content
    assert are_coins(masks)  # whoever opens it with its passphrase has masks and keys, and nothing of a face


@UNMASKED
def test_both_together_are_open(masked):
    """The control: who has both stores and the passphrase has every code under its key."""
    references = masked.store.scan("door")
    found = unmasked(masked.keys, masked.application("door"), references).planes
    assert [row.astype("<u8").tobytes() for row in found] == true_codes(masked)
    assert masked.verify("p007", SECOND[7], application="door").distance == 0


def _xor(first, second):
    return int.from_bytes(first, "little") ^ int.from_bytes(second, "little")
