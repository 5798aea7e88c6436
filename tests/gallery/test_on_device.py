"""Galleries of codes that devices make: whom they admit, what lies on the disk, and what a thief can do with it."""

import contextlib
import dataclasses
import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time

import pytest

from iom.errors import (
    AlreadyEnrolledError,
    DataError,
    DeviceError,
    EnrolmentError,
    IomError,
    NotEnrolledError,
    RevokedError,
    StoreError,
    UnknownApplicationError,
    WeightsError,
)
from iom.gallery import on_device
from iom.gallery.gallery import Gallery
from iom.gallery.on_device import OnDeviceGallery, WebHasher
from iom.gallery.stores.base import open_store
from iom.gallery.templates import unmasked
from iom.gallery.transfer import export_application
from iom.models.artifact import Calibration
from iom.service.on_device_client import SigningDevice
from tests.gallery.conftest import FakeHasher, faces
from tests.gallery.device_worker import STAGES, open_gallery, write_message
from tests.on_device import LENGTH, THRESHOLD, Place, code, key, wait_for, web_artifact


@pytest.fixture
def place(tmp_path):
    place = Place(tmp_path)
    yield place
    place.close()


@pytest.fixture
def gallery(place):
    return place.made()


@pytest.fixture
def alice(place, gallery):
    """The gallery with alice, whose face is number 1, under key 1."""
    place.ask(gallery, "enroll", "alice", 1, 1)
    return gallery


def test_a_whole_life(place, gallery):
    ask = place.ask
    assert ask(gallery, "enroll", "alice", 1, 1).slot == 0
    assert ask(gallery, "verify", "alice", 1, 1, other=THRESHOLD).match
    decision = ask(gallery, "verify", "alice", 1, 1, other=THRESHOLD + 1)
    assert (decision.match, decision.distance, decision.threshold) == (False, THRESHOLD + 1, THRESHOLD)
    assert not ask(gallery, "verify", "alice", 2, 1).match
    assert ask(gallery, "renew", "alice", 3, 2).slot == 0
    with pytest.raises(RevokedError, match="under this key was renewed or revoked"):
        ask(gallery, "verify", "alice", 1, 1)
    assert ask(gallery, "verify", "alice", 3, 2).match
    assert ask(gallery, "revoke", "alice") == 1
    for action, *rest in (("verify", 3, 2), ("renew", 4, 3), ("enroll", 4, 3), ("revoke",)):
        with pytest.raises(RevokedError, match="was revoked"):
            ask(gallery, action, "alice", *rest)
    assert [entry.event.action for entry in gallery.store.audit(after=2)] == ["enroll", "renew", "revoke"]
    assert gallery.check() == []
    assert place.open().check() == []


def test_a_revoked_subject_comes_back_with_another_device(place, alice):
    alice.revoke("alice", application="door")
    place.devices["alice"] = SigningDevice()
    message = place.message(alice, "enroll", "alice", 1, 2)
    alice.enroll_code(message, place.device("alice").sign(message), returning=True)
    assert place.ask(alice, "verify", "alice", 1, 2).match
    assert alice.check() == []


def test_a_renewal_moves_to_another_device(place, alice):
    old, new = place.device("alice"), SigningDevice()
    message = place.message(alice, "renew", "alice", 2, 2, device=new.public)
    for second in (b"", old.sign(message), new.sign(dataclasses.replace(message, subject="bob"))):
        with pytest.raises(DeviceError, match="not signed by its device"):
            alice.renew_code(message, old.sign(message), second)
    with pytest.raises(DeviceError):
        alice.renew_code(message, new.sign(message), new.sign(message))
    alice.renew_code(message, old.sign(message), new.sign(message))
    with pytest.raises(DeviceError):
        place.ask(alice, "verify", "alice", 2, 2)
    assert place.ask(alice, "verify", "alice", 2, 2, device=new).match
    with pytest.raises(DeviceError):
        place.ask(alice, "revoke", "alice")


def test_a_renewal_that_names_the_same_device_needs_no_second_signature(place, alice):
    device = place.device("alice")
    message = place.message(alice, "renew", "alice", 2, 2, device=device.public)
    assert alice.renew_code(message, device.sign(message)).slot == 0


@pytest.mark.parametrize("action", ["enroll", "renew"])
def test_a_transform_key_serves_once(place, alice, action):
    place.ask(alice, "enroll", "bob", 2, 2)
    place.ask(alice, "renew", "bob", 2, 3)
    subject = "carol" if action == "enroll" else "alice"
    for used in (1, 2, 3):
        with pytest.raises(EnrolmentError, match="transform key was used"):
            place.ask(alice, action, subject, 5, used)
    assert place.ask(alice, "verify", "alice", 1, 1).match
    assert alice.check() == []
    valid = [each.record for page in alice.store.pages("door") for each in page]
    assert alice.keys.masked_records("door") == set(valid)  # what was refused left none
    with pytest.raises(NotEnrolledError):
        alice.references("carol", application="door")
    # In another application it is another use.
    assert place.ask(alice, "enroll", "alice", 1, 1, application="other").slot == 0


def test_who_is_enrolled_stays_so(place, alice):
    for device in (place.device("alice"), SigningDevice()):
        message = place.message(alice, "enroll", "alice", 2, 2, device=device.public)
        with pytest.raises(AlreadyEnrolledError, match="renew it on its device"):
            alice.enroll_code(message, device.sign(message))


def test_a_request_holds_for_its_fields_alone(place, alice):
    place.ask(alice, "enroll", "bob", 1, 9)
    place.ask(alice, "enroll", "alice", 1, 1, application="other")
    device = place.device("alice")
    message = place.message(alice, "verify", "alice", 1, 1)
    signature = device.sign(message)
    for changes, error in (
        ({"subject": "bob"}, DeviceError),
        ({"application": "other"}, EnrolmentError),
        ({"application": "other", "nonce": alice.new_nonce("other")}, DeviceError),
        ({"key": key(9)}, DeviceError),
        ({"code": code(1, other=1)}, DeviceError),
        ({"device": device.public}, DeviceError),
        ({"nonce": alice.new_nonce("door")}, DeviceError),
        ({"hasher": "0" * 64}, EnrolmentError),
        ({"action": "renew"}, DeviceError),
        ({"action": "enroll", "device": device.public}, DeviceError),
    ):
        with pytest.raises(error):
            alice.verify_code(dataclasses.replace(message, **changes), signature)
    assert alice.verify_code(message, signature).match  # nothing of that has used its nonce


def test_a_message_of_one_action_does_not_serve_for_another(place, alice):
    message = place.message(alice, "verify", "alice", 1, 1)
    signature = place.device("alice").sign(message)
    for action in ("renew", "revoke"):
        with pytest.raises(DeviceError):
            getattr(alice, f"{action}_code")(dataclasses.replace(message, action=action), signature)


def test_a_request_serves_once(place, alice):
    message = place.message(alice, "verify", "alice", 1, 1)
    signature = place.device("alice").sign(message)
    assert alice.verify_code(message, signature).match
    for again in (alice, place.open()):
        with pytest.raises(EnrolmentError, match="nonce was used"):
            again.verify_code(message, signature)


def test_one_nonce_does_not_serve_for_two_requests(place, alice):
    nonce = alice.new_nonce("door")
    assert place.ask(alice, "verify", "alice", 1, 1, nonce=nonce).match
    for action, seed, number in (("verify", 1, 1), ("renew", 2, 2), ("revoke", 0, 0)):
        with pytest.raises(EnrolmentError, match="nonce was used"):
            place.ask(alice, action, "alice", seed, number, nonce=nonce)


def test_an_enrolment_uses_its_nonce(place, alice):
    nonce = alice.new_nonce("door")
    place.ask(alice, "enroll", "bob", 1, 2, nonce=nonce)
    for action, subject in (("verify", "bob"), ("verify", "alice"), ("enroll", "carol")):
        with pytest.raises(EnrolmentError, match="nonce was used"):
            place.ask(alice, action, subject, 1, 2, nonce=nonce)


def test_a_comparison_that_fails_has_used_its_nonce(place, alice):
    message = place.message(alice, "verify", "alice", 7, 1)
    signature = place.device("alice").sign(message)
    assert not alice.verify_code(message, signature).match
    with pytest.raises(EnrolmentError, match="nonce was used"):
        alice.verify_code(message, signature)


@pytest.mark.parametrize("seconds", [-3600, -61, -60 + 1, 30, 60 + 5, 61 + 60])
def test_time_is_over_in_either_direction(place, alice, monkeypatch, seconds):
    message = place.message(alice, "verify", "alice", 1, 1)
    signature = place.device("alice").sign(message)
    now = time.time()
    monkeypatch.setattr(on_device.time, "time", lambda: now + seconds)
    if -5 <= seconds <= 59:
        assert alice.verify_code(message, signature).match
    else:
        with pytest.raises(EnrolmentError, match="nonce has expired"):
            alice.verify_code(message, signature)


def test_a_clock_that_is_set_back_opens_nothing(place, alice, monkeypatch):
    """The nonce was used, others were used an hour later, then the clock is what it was."""
    message = place.message(alice, "verify", "alice", 1, 1)
    signature = place.device("alice").sign(message)
    alice.verify_code(message, signature)
    now = time.time()
    monkeypatch.setattr(on_device.time, "time", lambda: now + 3600)
    place.ask(alice, "verify", "alice", 1, 1)
    monkeypatch.setattr(on_device.time, "time", lambda: now)
    with pytest.raises(EnrolmentError, match="nonce was used"):
        alice.verify_code(message, signature)


def test_used_nonces_are_forgotten_at_last(place, alice, monkeypatch):
    for _ in range(5):
        place.ask(alice, "verify", "alice", 1, 1)
    now = time.time()
    monkeypatch.setattr(on_device.time, "time", lambda: now + 2 * 3600)
    place.ask(alice, "verify", "alice", 1, 1)
    assert rows(place, "SELECT COUNT(*) FROM nonces_1") == [(1,)]


def test_asking_for_nonces_writes_nothing(place, alice):
    before = rows(place, "SELECT COUNT(*) FROM nonces_1")
    assert len({alice.new_nonce("door") for _ in range(1000)}) == 1000
    assert rows(place, "SELECT COUNT(*) FROM nonces_1") == before


def test_a_nonce_is_not_made_up_or_of_another_application(place, alice):
    good = alice.new_nonce("door")
    for bit in range(0, 256, 5):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        with pytest.raises(EnrolmentError, match="not one of this application"):
            place.ask(alice, "verify", "alice", 1, 1, nonce=bytes(bad))
    with pytest.raises(EnrolmentError, match="not one of this application"):
        place.ask(alice, "verify", "alice", 1, 1, nonce=alice.new_nonce("other"))
    for size in (0, 31, 33, 64):
        with pytest.raises(DataError, match="expected 32 bytes"):
            place.ask(alice, "verify", "alice", 1, 1, nonce=good[:size].ljust(size, b"\0"))


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"code": b""}, DataError, "expected 48 bytes"),
        ({"code": code(1)[:-1]}, DataError, "expected 48 bytes"),
        ({"code": code(1) + b"\0"}, DataError, "expected 48 bytes"),
        ({"code": b"\xff" * 48}, DataError, "expected zeros after the last position"),
        ({"code": (b"\xff" * 12 + b"\x0f\0\0\0") * 3}, DataError, "expected symbols 0 to 5"),
        ({"key": "0" * 31}, DataError, "key: expected 32 hexadecimal digits"),
        ({"key": "A" * 32}, DataError, "key: expected 32 hexadecimal digits"),
        ({"hasher": "f" * 63}, DataError, "hasher: expected 64 hexadecimal digits"),
        ({"hasher": "f" * 64}, EnrolmentError, "belongs to the hasher .*load the page, or the artefact, again"),
        ({"subject": " alice"}, EnrolmentError, "no space at either end"),
        ({"subject": "Zoe\u0308"}, DataError, "form NFC"),
        ({"subject": "nobody"}, NotEnrolledError, "not enrolled"),
        ({"application": "nowhere"}, UnknownApplicationError, "no application"),
        ({"device": b"x" * 91}, DataError, "P-256"),
    ],
    ids=lambda value: str(value)[:30] if isinstance(value, dict) else "",
)
def test_what_is_malformed_or_foreign_is_refused(place, alice, changes, error, words):
    message = dataclasses.replace(place.message(alice, "verify", "alice", 1, 1), **changes)
    with pytest.raises(error, match=words):
        alice.verify_code(message, place.device("alice").sign(message))


def test_no_error_shows_a_code(place, alice):
    secret = code(1, other=1)
    for changes in ({"code": secret + b"\0"}, {"code": b"\xff" * 48}):
        with pytest.raises(DataError) as caught:
            place.ask(alice, "verify", "alice", 1, 1, **changes)
        assert secret.hex()[:16] not in str(caught.value)


# What lies on the disk


def rows(place, statement):
    with contextlib.closing(sqlite3.connect(place.database)) as connection, connection:
        return connection.execute(statement).fetchall()


def whole(place):
    return b"".join(path.read_bytes() for path in sorted(place.folder.glob("g.*")))


def test_codes_lie_under_masks(place, gallery):
    """Neither the codes nor the difference of two of them are in the files of either store."""
    for number in range(20):
        place.ask(gallery, "enroll", f"s{number}", 1, number)  # all of one face, under one transform: equal codes
    content = whole(place)
    assert code(1)[:12] not in content
    stored = [bytes.fromhex(text) for (text,) in rows(place, "SELECT hex(code) FROM reference_codes")]
    assert len(set(stored)) == 20
    same = sum(a == b for a, b in zip(stored[0][:12], stored[1][:12], strict=True))
    assert same < 4
    assert gallery.application("door").masked
    reference = gallery.references("s1", application="door")[0]
    planes = unmasked(gallery.keys, gallery.application("door"), [reference]).planes
    assert planes.astype("<u8").tobytes() == code(1)  # with both stores there is the code, and no face


def test_what_was_renewed_is_overwritten(place, alice):
    before = bytes.fromhex(rows(place, "SELECT hex(code) FROM reference_codes")[0][0])
    assert before[:12] in whole(place)
    place.ask(alice, "renew", "alice", 2, 2)
    alice.erase()
    assert before[:12] not in whole(place)


def test_a_copied_store_cannot_log_in(place, alice, tmp_path):
    """A thief has all files of both stores, the sealing key and the enrolled code; not the device."""
    thief = tmp_path / "thief"
    thief.mkdir()
    for path in place.folder.glob("g.*"):
        shutil.copy(path, thief / path.name)
    shutil.copytree(place.artifact, thief / place.artifact.name)
    shutil.copy(f"{place.artifact}.json", thief / f"{place.artifact.name}.json")
    with open_gallery(thief) as stolen:
        reference = stolen.references("alice", application="door")[0]
        found = unmasked(stolen.keys, stolen.application("door"), [reference]).planes.astype("<u8").tobytes()
        assert found == code(1)
        own = SigningDevice()
        for nonce in (alice.new_nonce("door"), stolen.new_nonce("door")):  # it can make nonces, too
            for action in ("verify", "renew", "revoke"):
                with pytest.raises(DeviceError):
                    place.ask(alice, action, "alice", 1, 1 if action == "verify" else 7, device=own, nonce=nonce)
            message = place.message(alice, "enroll", "alice", 1, 7, device=own.public, nonce=nonce)
            with pytest.raises(AlreadyEnrolledError):
                alice.enroll_code(message, own.sign(message))
        # A request that was seen on the way, and is in no store, is used up.
        message = place.message(alice, "verify", "alice", 1, 1)
        signature = place.device("alice").sign(message)
        alice.verify_code(message, signature)
        with pytest.raises(EnrolmentError, match="nonce was used"):
            alice.verify_code(message, signature)
    assert place.ask(alice, "verify", "alice", 1, 1).match


def test_neither_face_nor_key_could_be_in_the_stores(place, alice):
    """What came in is all that can be there: a code, an identifier and a public key."""
    names = {row[1] for row in rows(place, "PRAGMA table_info(devices_1)")}
    assert names == {"application", "record", "subject", "key", "device", "seal"}
    assert rows(place, "SELECT metadata FROM reference_codes") == [("{}",)]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE devices_1 SET device = x'{other}' WHERE subject = 'alice'",
        "UPDATE devices_1 SET key = '{key}' WHERE subject = 'alice'",
        "UPDATE devices_1 SET seal = zeroblob(16) WHERE subject = 'alice'",
        "UPDATE devices_1 SET subject = 'bob' WHERE subject = 'alice'",
        "UPDATE devices_1 SET record = 77 WHERE subject = 'alice'",
        "DELETE FROM devices_1 WHERE subject = 'alice'",
        "UPDATE devices_1 SET device = 7 WHERE subject = 'alice'",
        "UPDATE devices_1 SET application = 'other' WHERE subject = 'alice'",
        "DROP TABLE devices_1",
    ],
)
def test_a_device_that_was_changed_outside_is_no_device(place, alice, statement):
    thief = SigningDevice()
    rows(place, statement.format(other=thief.public.hex(), key=key(8)))
    for device in (thief, place.device("alice")):
        with pytest.raises(StoreError):
            place.ask(alice, "verify", "alice", 1, 1, device=device)
    assert any("devic" in problem for problem in alice.check())


@pytest.mark.parametrize("column", ["code", "seal"])
def test_a_template_that_was_changed_outside_is_none(place, alice, column):
    rows(place, f"UPDATE reference_codes SET {column} = zeroblob(length({column}))")
    with pytest.raises(StoreError, match="changed outside of the gallery"):
        place.ask(alice, "verify", "alice", 1, 1)


def test_a_device_of_another_record_is_found(place, alice):
    """The rows of two subjects with their devices exchanged, seals and all."""
    place.ask(alice, "enroll", "bob", 2, 2)
    (a,), (b,) = (
        rows(place, f"SELECT hex(device), hex(seal) FROM devices_1 WHERE subject = '{s}'") for s in ("alice", "bob")
    )
    for (device, seal), subject in ((a, "bob"), (b, "alice")):
        rows(place, f"UPDATE devices_1 SET device = x'{device}', seal = x'{seal}' WHERE subject = '{subject}'")
    with pytest.raises(StoreError, match="changed outside of the gallery"):
        place.ask(alice, "verify", "alice", 1, 1, device=place.device("bob"))


def test_an_earlier_device_of_the_subject_does_not_come_back(place, alice):
    """The row from before a renewal on another device, put in the place of the present one."""
    old, new = place.device("alice"), SigningDevice()
    message = place.message(alice, "renew", "alice", 1, 2, device=new.public)
    alice.renew_code(message, old.sign(message), new.sign(message))
    rows(place, "DELETE FROM devices_1 WHERE record = 1")
    rows(place, "UPDATE devices_1 SET record = 1 WHERE record = 0")
    with pytest.raises(StoreError, match="changed outside of the gallery"):
        place.ask(alice, "verify", "alice", 1, 1, device=old)


def test_a_row_of_a_revoked_record_is_missed(place, alice):
    place.ask(alice, "renew", "alice", 2, 2)
    rows(place, "DELETE FROM devices_1 WHERE record = 0")
    assert alice.check() == ["application door: record 0 has no device: its row was deleted"]


# Several processes


def workers(place, count, *arguments):
    command = [sys.executable, "-m", "tests.gallery.device_worker", *arguments]
    return [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(count)]


def test_two_processes_with_one_nonce(place, alice, root, monkeypatch):
    monkeypatch.chdir(root)
    message = place.message(alice, "verify", "alice", 1, 1)
    signature = place.device("alice").sign(message).hex()
    running = workers(place, 3, "race", str(place.folder), write_message(message), signature)
    for each in running:
        wait_for(place.folder / f"ready-{each.pid}")
    (place.folder / "go").touch()
    answers = [json.loads(each.communicate(timeout=60)[0]) for each in running]
    assert sorted(map(str, answers))[2] == "True"
    assert [str(each).startswith("EnrolmentError: the nonce was used before") for each in answers].count(True) == 2


def at_once(*actions):
    """What each of some calls returns or raises, made by threads at the same time."""
    barrier, found = threading.Barrier(len(actions)), []

    def run(action):
        barrier.wait()
        try:
            found.append(action())
        except IomError as error:
            found.append(error)

    threads = [threading.Thread(target=run, args=(action,)) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_of_two_enrolments_or_renewals_at_once_one_is_done(place, gallery):
    others = [gallery, place.open()]

    def signed(each, action, subject, seed, number, device):
        fields = {"device": device.public} if action == "enroll" else {}
        message = place.message(each, action, subject, seed, number, **fields)
        signature = device.sign(message)
        return lambda: getattr(each, f"{action}_code")(message, signature)

    for number in range(10):
        subject, keys = f"s{number}", range(100 * number, 100 * number + 9)
        devices = [SigningDevice(), SigningDevice()]
        calls = [signed(each, "enroll", subject, 1, keys[n], devices[n]) for n, each in enumerate(others)]
        found = at_once(*calls)
        assert sum(isinstance(each, EnrolmentError) for each in found) == 1
        place.devices[subject] = next(d for d in devices if d.public == device_of(place, subject))
        calls = [signed(each, "renew", subject, 2, keys[3 + n], place.device(subject)) for n, each in enumerate(others)]
        done = [each for each in at_once(*calls) if not isinstance(each, RevokedError)]
        assert len(done) in (1, 2)  # two, where one began after the other had ended
        (valid,) = gallery.references(subject, application="door")
        assert valid.record in [each.record for each in done]
        # One transform key for two subjects.
        calls = [signed(each, "enroll", f"{subject}-{n}", 1, keys[6], SigningDevice()) for n, each in enumerate(others)]
        (refused,) = [each for each in at_once(*calls) if isinstance(each, EnrolmentError)]
        assert "transform key was used" in str(refused)
    assert gallery.check() == []


def device_of(place, subject):
    return bytes.fromhex(rows(place, f"SELECT hex(device) FROM devices_1 WHERE subject = '{subject}'")[0][0])


def test_a_revocation_wins_over_a_renewal_at_the_same_time(place, alice, monkeypatch):
    """What was read for the revocation is renewed before it is written: nobody may be told 410 of a valid template."""
    revoke, renewals = alice.store.revoke, [2, 3]

    def renewed_first(*arguments):
        if renewals:
            number = renewals.pop(0)
            place.ask(place.open(), "renew", "alice", number, number)
        return revoke(*arguments)

    monkeypatch.setattr(alice.store, "revoke", renewed_first)
    assert place.ask(alice, "revoke", "alice") == 1
    with pytest.raises(RevokedError):
        place.ask(alice, "verify", "alice", 3, 3)


@pytest.mark.parametrize("stage", STAGES)
def test_a_renewal_that_is_killed_is_done_or_not(place, alice, root, monkeypatch, stage):
    monkeypatch.chdir(root)
    message = place.message(alice, "renew", "alice", 2, 2)
    signature = place.device("alice").sign(message).hex()
    place.close()
    (process,) = workers(place, 1, "killed", str(place.folder), stage, write_message(message), signature)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    gallery = place.open()
    is_done = stage in ("record store written", "key store written")
    assert gallery.check() == []
    valid, other = ((2, 2), (1, 1)) if is_done else ((1, 1), (2, 2))
    assert place.ask(gallery, "verify", "alice", *valid).match
    with pytest.raises(RevokedError if is_done else EnrolmentError):
        place.ask(gallery, "verify", "alice", *other)
    with pytest.raises(EnrolmentError, match="nonce was used"):
        gallery.renew_code(message, bytes.fromhex(signature))
    if not is_done:
        assert place.ask(gallery, "renew", "alice", 2, 2).slot == 0  # the key was not used up
    assert gallery.check() == []


# Other galleries, and other hashers


def test_a_gallery_of_an_older_version_gets_an_application_for_devices(tmp_path, root):
    shutil.copytree(root / "tests/fixtures/edition_1/gallery", tmp_path / "gallery")
    folder, place = tmp_path / "gallery", Place(tmp_path)
    text = (folder / "passphrase").read_text().strip()
    options = {"keys": f"file:{folder}/gallery.keys", "passphrase": lambda: text}

    def tables():
        with contextlib.closing(sqlite3.connect(folder / "gallery.db")) as connection:
            return {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}

    with Gallery.open(f"sqlite:///{folder}/gallery.db", hasher=FakeHasher(), **options) as old:
        before, names = old.stats(), tables()
        assert old.check() == []
    with OnDeviceGallery.open(f"sqlite:///{folder}/gallery.db", hasher=WebHasher(place.artifact), **options) as new:
        assert tables() == names  # opening it makes no tables
        new.create_application("phones", key_mode="device")
        assert tables() == names | {"devices_1", "nonces_1"}
        place.ask(new, "enroll", "alice", 1, 1, application="phones")
        assert place.ask(new, "verify", "alice", 1, 1, application="phones").match
        assert new.check() == []
    with Gallery.open(f"sqlite:///{folder}/gallery.db", hasher=FakeHasher(), **options) as old:
        assert {name: old.stats()[name] for name in before} == before
        assert old.check() == []


def test_other_galleries_and_these_do_not_mix(place, alice):
    alice.hasher = hasher = FakeHasher()
    plain = Gallery(alice.store, alice.keys, hasher)
    with pytest.raises(EnrolmentError, match=r"codes that devices make .*iom serve --on-device"):
        plain.enroll("bob", faces(1), application="door")
    plain.create_application("plain")
    with pytest.raises(UnknownApplicationError, match="iom init --key-mode device"):
        alice.new_nonce("plain")
    with pytest.raises(EnrolmentError, match="no common key"):
        plain.rotate(application="door")
    with pytest.raises(EnrolmentError, match="copy the record store as a whole"):
        export_application(plain, "door", place.folder / "door.iomx")
    assert not (place.folder / "door.iomx").exists()


def test_the_commands_of_any_gallery_work(place, alice):
    plain = Gallery(alice.store, alice.keys, FakeHasher())
    assert list(plain.subjects(application="door")) == ["alice"]
    assert plain.stats()["door"][1].references == 1
    assert plain.revoke("alice", application="door") == 1
    assert plain.check() == []
    with pytest.raises(RevokedError):
        place.ask(alice, "verify", "alice", 1, 1)


@pytest.mark.parametrize(
    ("changes", "options", "words"),
    [
        (
            {"calibration": Calibration(10, 0.01, 0.1, subjects=9, keys=2, comparison="asymmetric")},
            {},
            "compared by symbols alone, as no server gets an embedding; calibrate the hasher for them: iom calibrate "
            "--comparison symbols",
        ),
        ({"calibration": None}, {}, "not calibrated: give a threshold"),
        ({}, {"masked": False}, "stored under masks, expected masked codes; leave out --unmasked"),
        ({}, {"comparison": "asymmetric", "threshold": 3}, "compared by symbols alone"),
        ({"key_kind": "part", "keep": 8}, {}, "keys of kind 'part' are renewed subject by subject"),
    ],
    ids=["asymmetric", "uncalibrated", "unmasked", "comparison", "part"],
)
def test_what_devices_cannot_have_is_refused_with_the_way_out(tmp_path, changes, options, words):
    place = Place(tmp_path, **changes)
    with contextlib.closing(place), pytest.raises(EnrolmentError, match=words):
        place.open(create=True).create_application("door", key_mode="device", **options)


def test_an_asymmetric_hasher_with_a_threshold_of_symbols_is_taken(tmp_path):
    place = Place(tmp_path, calibration=Calibration(10, 0.01, 0.1, subjects=9, keys=2, comparison="asymmetric"))
    with contextlib.closing(place):
        made = place.open(create=True).create_application("door", key_mode="device", comparison="symbols", threshold=20)
        assert (made.threshold, made.shape[0]) == (20, LENGTH)


def test_another_artefact_is_refused(tmp_path):
    with pytest.raises(WeightsError, match=r"expected an artefact for browsers.*iom deploy --to web"):
        WebHasher(web_artifact(tmp_path, runtime="onnxruntime"))
    path = web_artifact(tmp_path, "changed")
    (path / "embedder.onnx").write_bytes(b"another")
    with pytest.raises(WeightsError, match="SHA-256 differs"):
        WebHasher(path)


def test_an_artefact_for_browsers_computes_nothing_here(place):
    with pytest.raises(WeightsError, match="runs in browsers"):
        _ = WebHasher(place.artifact).head


def test_a_gallery_of_another_hasher_is_told_at_once(place, alice, tmp_path):
    (tmp_path / "second").mkdir()
    alice.hasher = WebHasher(web_artifact(tmp_path / "second", precision="float16"))
    with pytest.raises(EnrolmentError, match="belongs to the hasher"):
        alice.check_hashers()


def test_the_store_alone_opens(place, alice):
    """The record store is one of format 2 as ever, with two tables more."""
    place.close()
    with open_store(f"sqlite:///{place.database}") as store:
        assert store.stats("door").references == 1
        assert store.check() == []
