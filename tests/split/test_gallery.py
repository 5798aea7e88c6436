"""The split gallery over two servers of one process."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from iom.errors import (
    AlreadyEnrolledError,
    BusyError,
    EnrolmentError,
    NotEnrolledError,
    PeerError,
    RevokedError,
    UnknownApplicationError,
)
from iom.gallery.gallery import Gallery
from iom.split.messages import AskSubject
from iom.split.share_store import ShareStore
from iom.split.shares import join_half_keys, record_label
from tests.gallery.conftest import again, faces

ALICE, BOB, EVE = faces(3)


def test_a_match_and_a_non_match(pair):
    assert pair.gallery.enroll("alice", ALICE) == 1
    assert pair.gallery.verify("alice", again(ALICE)).match
    assert not pair.gallery.verify("alice", EVE).match


def test_decisions_are_those_of_the_whole_codes(pair):
    hasher = pair.gallery.hasher
    pair.gallery.enroll("alice", ALICE)
    different = 0
    for seed, scale in enumerate(np.linspace(0, 0.4, 60)):
        probe = ALICE + scale * np.random.default_rng(seed).normal(size=len(ALICE))
        probe = (probe / np.linalg.norm(probe)).astype(np.float32)
        (record,) = pair.records("a")
        halves = [pair.stores[side].half_keys("default", "alice", [record])[0] for side in "ab"]
        key = join_half_keys(*halves, record_label("default", "alice", record))
        codes = hasher.hash(np.stack([ALICE, probe]), key)
        plain = (codes[0] != codes[1]).sum() <= 50
        different += plain != pair.gallery.verify("alice", probe).match
    assert different == 0


def test_several_references(pair):
    assert pair.gallery.enroll("alice", np.stack([ALICE, BOB])) == 2
    assert pair.gallery.verify("alice", again(BOB)).match
    with pytest.raises(AlreadyEnrolledError):
        pair.gallery.enroll("alice", EVE)
    pair.gallery.enroll("alice", EVE, another=True)
    assert all(pair.gallery.verify("alice", again(face)).match for face in (ALICE, BOB, EVE))


def test_unknown_subjects_and_applications(pair):
    with pytest.raises(NotEnrolledError):
        pair.gallery.verify("alice", ALICE)
    with pytest.raises(UnknownApplicationError):
        pair.gallery.enroll("alice", ALICE, application="gate")


def test_renewal_ends_the_old_template(pair):
    pair.gallery.enroll("alice", ALICE)
    old = pair.records("a")
    assert pair.gallery.renew("alice", BOB) == 1
    assert pair.records("a") == pair.records("b") != old
    assert pair.gallery.verify("alice", again(BOB)).match
    assert not pair.gallery.verify("alice", again(ALICE)).match
    with pytest.raises(NotEnrolledError):
        pair.gallery.renew("bob", BOB)


def test_revocation(pair):
    pair.gallery.enroll("alice", ALICE)
    assert pair.gallery.revoke("alice") == 1
    for refused in (
        lambda: pair.gallery.verify("alice", ALICE),
        lambda: pair.gallery.enroll("alice", ALICE),
        lambda: pair.gallery.revoke("alice"),
    ):
        with pytest.raises(RevokedError):
            refused()
    pair.gallery.renew("alice", ALICE)
    assert pair.gallery.verify("alice", again(ALICE)).match


@pytest.mark.parametrize(("down", "up"), ["ab", "ba"])
def test_one_server_is_enough_to_revoke(pair, down, up):
    pair.gallery.enroll("alice", ALICE)
    pair.lines["door", down].is_up = False
    assert pair.gallery.revoke("alice") == 1
    pair.lines["door", down].is_up = True
    with pytest.raises(RevokedError):
        pair.gallery.verify("alice", ALICE)
    assert pair.records(down)  # it has not learned it yet
    assert pair.servers[down].synchronize() == 1
    assert not pair.records(down)
    assert pair.servers[down].synchronize() == 0


@pytest.mark.parametrize("side", ["a", "b"])
def test_a_server_set_back_brings_nothing_back(pair, side):
    pair.gallery.enroll("alice", ALICE)
    copies = pair.copy(side)
    pair.gallery.revoke("alice")
    pair.set_back(side, copies)
    assert pair.records(side)
    with pytest.raises(RevokedError):
        pair.gallery.verify("alice", ALICE)
    with pytest.raises(RevokedError):
        pair.gallery.enroll("alice", ALICE)
    pair.servers[side].synchronize()
    assert not pair.records(side)


@pytest.mark.parametrize("side", ["a", "b"])
def test_a_server_that_lost_an_enrolment_is_refused_until_the_renewal(pair, side):
    copies = pair.copy(side)
    pair.gallery.enroll("alice", ALICE)
    pair.set_back(side, copies)
    with pytest.raises(NotEnrolledError):
        pair.gallery.verify("alice", ALICE)
    with pytest.raises(AlreadyEnrolledError):
        pair.gallery.enroll("alice", ALICE)
    pair.gallery.renew("alice", ALICE)
    assert pair.gallery.verify("alice", again(ALICE)).match


@pytest.mark.parametrize("side", ["a", "b"])
@pytest.mark.parametrize("call", ["settings", "enrolled", "half-keys", "prepare"])
def test_an_enrolment_with_a_server_down_counts_nowhere(pair, side, call):
    pair.lines["door", side].lost = {call}
    with pytest.raises(PeerError):
        pair.gallery.enroll("alice", ALICE)
    pair.lines["door", side].lost = set()
    assert not pair.records("a")
    assert not pair.records("b")
    with pytest.raises(NotEnrolledError):
        pair.gallery.verify("alice", ALICE)
    pair.gallery.enroll("alice", ALICE)
    assert pair.gallery.verify("alice", again(ALICE)).match


def test_what_is_committed_on_one_server_is_committed_on_the_other(pair):
    pair.lines["door", "b"].lost = {"commit"}
    with pytest.raises(PeerError, match="it counts when b has talked to a"):
        pair.gallery.enroll("alice", ALICE)
    assert pair.records("a")
    assert not pair.records("b")
    assert pair.gallery.verify("alice", again(ALICE)).match  # B asks A
    assert pair.records("a") == pair.records("b")


def test_a_renewal_is_completed_after_a_crash(pair):
    pair.gallery.enroll("alice", ALICE)
    pair.lines["door", "b"].lost = {"commit"}
    with pytest.raises(PeerError):
        pair.gallery.renew("alice", BOB)
    pair.restart("a")
    pair.restart("b")
    assert pair.servers["b"].synchronize() > 0
    assert pair.records("a") == pair.records("b")
    assert pair.gallery.verify("alice", again(BOB)).match
    assert not pair.gallery.verify("alice", again(ALICE)).match


def test_a_commit_without_an_answer_is_done_on_both(pair):
    pair.lines["door", "a"].lost = {"answer of commit"}
    with pytest.raises(PeerError):
        pair.gallery.enroll("alice", ALICE)
    pair.lines["door", "a"].lost = set()
    assert pair.gallery.verify("alice", again(ALICE)).match


@pytest.mark.parametrize("first", ["a", "b"])
def test_what_nobody_committed_is_dropped_after_an_hour(pair, first, monkeypatch):
    pair.lines["door", "a"].lost = {"commit"}
    with pytest.raises(PeerError):
        pair.gallery.enroll("alice", ALICE)
    for side in "ab":
        assert len(pair.stores[side].prepared("default")) == 1
        pair.servers[side].synchronize()
        assert len(pair.stores[side].prepared("default")) == 1
    (prepared,) = pair.stores["a"].prepared("default")
    monkeypatch.setattr("iom.split.share_store.PREPARED_SECONDS", -1)
    monkeypatch.setattr("iom.split.server.PREPARED_SECONDS", -1)
    with pytest.raises(EnrolmentError, match="more than an hour"):
        pair.stores["a"].commit("default", prepared.transaction, [prepared.reference.record])
    pair.servers[first].synchronize()
    for side in "ab":
        assert not pair.stores[side].prepared("default")
        assert not pair.records(side)


def test_what_may_be_committed_is_kept_while_the_other_server_is_down(pair, monkeypatch):
    pair.lines["door", "b"].lost = {"commit"}
    with pytest.raises(PeerError):
        pair.gallery.enroll("alice", ALICE)
    monkeypatch.setattr("iom.split.server.PREPARED_SECONDS", -1)
    pair.lines["b", "a"].is_up = False
    with pytest.raises(PeerError):
        pair.servers["b"].synchronize()
    assert pair.stores["b"].prepared("default")
    pair.lines["b", "a"].is_up = True
    pair.servers["b"].synchronize()
    assert pair.records("b") == pair.records("a") != []


def test_refresh(pair):
    pair.gallery.enroll("alice", np.stack([ALICE, BOB]))
    before = {side: pair.stores[side].shares("default", "alice") for side in "ab"}
    assert pair.gallery.refresh("a") == 2
    assert pair.gallery.refresh("b") == 2
    after = {side: pair.stores[side].shares("default", "alice") for side in "ab"}
    for side in "ab":
        for old, new in zip(before[side], after[side], strict=True):
            assert (old.epoch, new.epoch) == (0, 2)
            assert old.code != new.code
            assert old.secret != new.secret
            assert old.commitment == new.commitment
    assert pair.gallery.verify("alice", again(ALICE)).match
    assert not pair.gallery.verify("alice", EVE).match
    assert not pair.stores["a"].check()
    assert not pair.stores["b"].check()


@pytest.mark.parametrize("begun", ["a", "b"])
@pytest.mark.parametrize(
    "lost", ["refresh-page", "answer of refresh-page", "refresh-commit", "answer of refresh-commit"]
)
def test_a_refresh_that_breaks_off_is_recovered(pair, begun, lost):
    pair.gallery.enroll("alice", ALICE)
    line = pair.lines[begun, "ab"[begun == "a"]]
    line.lost = {lost}
    with pytest.raises(PeerError):
        pair.gallery.refresh(begun)
    line.lost = set()
    pair.restart("a")
    pair.restart("b")
    assert pair.gallery.verify("alice", again(ALICE)).match
    assert pair.gallery.refresh(begun) == 1
    assert pair.gallery.verify("alice", again(ALICE)).match
    assert not pair.stores["a"].prepared("default")
    assert not pair.stores["b"].prepared("default")


@pytest.mark.parametrize("begun", ["a", "b"])
def test_a_refresh_that_is_repeated_at_once_loses_no_template(pair, begun):
    """The one before was committed on one server, and the other had no time to ask about it."""
    pair.gallery.enroll("alice", ALICE)
    line = pair.lines[begun, "ab"[begun == "a"]]
    line.lost = {"refresh-commit"}
    with pytest.raises(PeerError):
        pair.gallery.refresh(begun)
    line.lost = set()
    assert pair.gallery.refresh(begun) == 1
    assert pair.gallery.verify("alice", again(ALICE)).match


@pytest.mark.parametrize(("call", "options"), [("enroll", {"another": True}), ("renew", {})])
def test_a_revocation_ends_what_is_prepared(pair, call, options):
    pair.gallery.enroll("alice", ALICE)
    prepared = threading.Event()  # on A; both are asked at once

    def note(action, body, answer):
        if action == "prepare":
            prepared.set()
        return answer

    def revoke(action, body, answer):
        if action == "prepare":
            assert prepared.wait(60)
            for side in "ab":
                pair.servers[side].handlers["revoke"]("door", message.to_bytes())
        return answer

    message = AskSubject(application="default", subject="alice")
    pair.lines["door", "a"].change, pair.lines["door", "b"].change = note, revoke
    with pytest.raises(EnrolmentError, match="given up"):
        getattr(pair.gallery, call)("alice", BOB, **options)
    pair.lines["door", "b"].change = lambda action, body, answer: answer
    with pytest.raises(RevokedError):
        pair.gallery.verify("alice", BOB)


@pytest.mark.parametrize("side", ["a", "b"])
def test_a_revocation_by_another_process_within_a_commit(pair, side, monkeypatch):
    pair.gallery.enroll("alice", ALICE)
    check = pair.stores[side]._check_commit

    def revoke_then(*arguments):
        check(*arguments)
        with ShareStore(*pair.files(side)) as other:
            other.revoke("alice")

    monkeypatch.setattr(pair.stores[side], "_check_commit", revoke_then)
    with pytest.raises(EnrolmentError, match="given up"):
        pair.gallery.renew("alice", BOB)
    monkeypatch.undo()
    with pytest.raises(RevokedError):
        pair.gallery.verify("alice", BOB)


@pytest.mark.parametrize(("first", "second"), ["ab", "ba"])
def test_a_refresh_after_one_that_the_other_server_began(pair, first, second):
    pair.gallery.enroll("alice", ALICE)
    pair.lines[first, second].lost = {"answer of refresh-page"}
    with pytest.raises(PeerError):
        pair.gallery.refresh(first)
    pair.lines[first, second].lost = set()
    assert pair.gallery.refresh(second) == 1
    assert pair.gallery.refresh(first) == 1
    assert pair.gallery.verify("alice", again(ALICE)).match


def test_two_refreshes_at_once(pair):
    """One from each side: the later one is refused, and leaves nothing behind."""
    pair.gallery.enroll("alice", ALICE)

    def other_too(action, body, answer):
        if action == "refresh-page":
            with ThreadPoolExecutor(1) as pool, pytest.raises(BusyError):
                pool.submit(pair.gallery.refresh, "b").result()
        return answer

    pair.lines["a", "b"].change = other_too
    assert pair.gallery.refresh("a") == 1
    assert not pair.stores["a"].prepared("default")
    assert not pair.stores["b"].prepared("default")
    assert pair.gallery.verify("alice", again(ALICE)).match


def test_a_revocation_while_a_renewal_is_settled(pair):
    pair.gallery.enroll("alice", ALICE)
    pair.lines["door", "b"].lost = {"commit"}
    with pytest.raises(PeerError):
        pair.gallery.renew("alice", BOB)

    def revoke(action, body, answer):
        if action == "states" and pair.records("b"):
            pair.stores["b"].revoke("alice")
        return answer

    pair.lines["b", "a"].change = revoke
    with pytest.raises(RevokedError):
        pair.gallery.verify("alice", BOB)


@pytest.mark.parametrize("side", ["a", "b"])
def test_shares_of_two_epochs_do_not_combine(pair, side):
    pair.gallery.enroll("alice", ALICE)
    copies = pair.copy(side)
    pair.gallery.refresh("a")
    pair.set_back(side, copies)
    with pytest.raises(PeerError, match="epoch"):
        pair.gallery.verify("alice", ALICE)
    pair.gallery.renew("alice", ALICE)
    assert pair.gallery.verify("alice", again(ALICE)).match


def test_different_thresholds_are_refused(pair):
    pair.gallery.enroll("alice", ALICE)
    pair.stores["b"].set_threshold(80)
    for refused in (lambda: pair.gallery.verify("alice", ALICE), lambda: pair.gallery.enroll("bob", BOB)):
        with pytest.raises(EnrolmentError, match="different settings"):
            refused()
    pair.stores["b"].set_threshold(50)
    assert pair.gallery.verify("alice", ALICE).match
    for side in "ab":
        pair.stores[side].set_threshold(80)
    if pair.protocol == "full":
        with pytest.raises(EnrolmentError, match="deal anew"):
            pair.gallery.verify("alice", ALICE)
    else:
        assert pair.gallery.verify("alice", ALICE).match


@pytest.mark.parametrize("side", ["a", "b"])
def test_verifications_go_on_after_a_restart(pair, side):
    pair.gallery.enroll("alice", ALICE)
    for _ in range(3):
        assert pair.gallery.verify("alice", again(ALICE)).match
        pair.restart(side)


def test_a_release(pair):
    if pair.protocol == "lite":
        with pytest.raises(EnrolmentError, match="only the full protocol"):
            pair.gallery.enroll("alice", ALICE, release=b"open sesame")
        return
    pair.gallery.enroll("alice", ALICE, release=b"open sesame")
    assert pair.gallery.verify("alice", again(ALICE)).released == b"open sesame"
    assert pair.gallery.verify("alice", EVE).released is None
    pair.gallery.refresh("b")
    assert pair.gallery.verify("alice", again(ALICE)).released == b"open sesame"
    pair.gallery.renew("alice", BOB)
    assert pair.gallery.verify("alice", again(BOB)).released is None
    with pytest.raises(EnrolmentError, match="1024"):
        pair.gallery.renew("alice", BOB, release=bytes(1025))
    pair.gallery.renew("alice", BOB, release=bytes(1024))
    assert pair.gallery.verify("alice", again(BOB)).released == bytes(1024)


def test_the_audit_log_has_who_verified_whom(pair):
    pair.gallery.enroll("alice", ALICE)
    pair.gallery.verify("alice", ALICE)
    pair.gallery.verify("alice", EVE)
    for side in "ab":
        pair.servers[side].close()
        counts = {}
        for entry in pair.stores[side].store.whole_audit():
            counts[entry.event.action] = counts.get(entry.event.action, 0) + entry.event.count
        assert counts["enroll"] == 1
        if side == "a" and pair.protocol == "lite":
            assert counts["match door"] == counts["no match door"] == 1
        assert counts["verify door"] == 2
        assert not pair.stores[side].check()


def test_a_share_store_is_no_gallery(pair):
    with pytest.raises(EnrolmentError, match="through a split gallery"):
        pair.stores["a"].enroll("bob", BOB)


def test_shares_get_no_masks(pair):
    """They would be those of another code, and no server knows it."""
    pair.gallery.enroll("alice", ALICE)
    with pytest.raises(EnrolmentError, match="expected no masks"):
        pair.stores["a"].mask()
    with (
        Gallery(*pair.files("a"), pair.gallery.hasher) as gallery,
        pytest.raises(EnrolmentError, match="expected no masks"),
    ):
        gallery.create_application("gate", key_mode="share", threshold=50, masked=True)
    assert pair.gallery.verify("alice", again(ALICE)).match


def test_half_keys_are_a_format(pair):
    """A change of their derivation makes every record useless."""
    label = b"iom/space/v1\0" + (17).to_bytes(4, "big") + b"split/half-key/v1" + record_label("default", "alice", 7)
    ((half,), (derived,)) = (
        pair.stores["a"].half_keys("default", "alice", [7]),
        pair.stores["a"].keys._keys().derive([label]),
    )
    assert half == derived
    assert half != pair.stores["b"].half_keys("default", "alice", [7])[0]
    assert half != pair.stores["a"].half_keys("default", "alice", [8])[0]
