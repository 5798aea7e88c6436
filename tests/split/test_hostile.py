"""Servers and callers that lie, repeat, or send anything."""

import contextlib
import dataclasses
import json
import time

import numpy as np
import pytest

from iom.errors import AlreadyEnrolledError, IomError, NotPermittedError, PeerError, RateLimitError, StoreError
from iom.service.rate_limit import Backoff
from iom.split import messages
from iom.split.comparison import Offer, Reply
from iom.split.server import SHARE_ROLES
from tests.gallery.conftest import again, faces

ALICE, BOB, EVE = faces(3)
ATTEMPT = bytes(range(16))


def flipped(content):
    return bytes([content[0] ^ 1]) + content[1:]


def begin(pair, caller="door", side="a", attempt=ATTEMPT):
    message = messages.Begin(application="default", subject="alice", attempt=attempt)
    return pair.servers[side].handlers["begin"](caller, message.to_bytes())


@pytest.mark.parametrize("action", ["settings", "begin", "verify", "differences", "offers", "openings", "enrolled",
                                    "half-keys", "prepare", "commit", "revoke", "states", "revoked", "refresh",
                                    "refresh-page", "refresh-commit"])  # fmt: skip
def test_anything_else_than_a_message_is_refused(pair, action):
    handler, random = pair.servers["a"].handlers[action], np.random.default_rng(3)
    caller = "b" if action in SHARE_ROLES["peer"] else "door"
    bodies = [b"", b"{}", b"[]", b"null", b"\xff", b"[" * 100_000, b"9" * 10_000, b'{"a":' * 5000, b"1e999"]
    bodies += [random.bytes(40) for _ in range(50)]
    wrong = {
        "application": ["gate", "x" * 65, "", 7, None],
        "subject": ["alice", "x" * 257, 7, "\n"],
        "attempt": ["AAAA", "AAAAAAAAAAAAAAAAAAAAAA==", 3],
        "transaction": [-1, 2**62, 1.5, "1"],
        "records": [[], [-1], [2**62], [{}], [[]], list(range(5000)), {"a": 1}],
        "probes": [[], [{"record": 1, "share": ""}], [{"record": 1, "share": "A" * 100_000}]],
        "digest": ["", "A" * 44],
        "position": [-1, 2**70],
        "extra": [1],
    }
    for name, values in wrong.items():
        bodies += [json.dumps({name: value}).encode() for value in values]
        bodies += [json.dumps({each: found[0] for each, found in wrong.items()} | {name: value}).encode()
                   for value in values]  # fmt: skip
    for body in bodies:
        with pytest.raises(IomError):
            handler(caller, body)


def test_errors_do_not_repeat_what_came(pair):
    body = messages.Begin(application="default", subject="alice", attempt=ATTEMPT).to_bytes()
    secret = body.replace(b'"alice"', b'{"hidden": "face"}')
    with pytest.raises(PeerError) as caught:
        pair.servers["a"].handlers["begin"]("door", secret)
    assert "face" not in str(caught.value)
    assert "subject" in str(caught.value)


def test_messages_show_no_values():
    message = messages.RecordKey(record=1, epoch=0, half_key=bytes(32))
    assert repr(message) == str(message) == "RecordKey()"


@pytest.mark.parametrize(
    ("caller", "action"),
    [("nobody", "settings"), ("desk", "enrolled"), ("desk", "half-keys"), ("desk", "revoke"), ("desk", "differences"),
     ("b", "begin"), ("b", "refresh"), ("door", "states"), ("door", "offers")],
)  # fmt: skip
def test_a_caller_has_a_role(pair, caller, action):
    for _ in range(3):
        with pytest.raises(NotPermittedError):
            pair.servers["a"].handlers[action](caller, b"{}")
    pair.servers["a"].close()
    events = [entry.event for entry in pair.stores["a"].store.whole_audit() if entry.event.application == ""]
    assert [(event.action, event.count) for event in events] == [(f"refused {action} {caller}", 0)]
    assert pair.stores["a"].check() == []


def test_a_refusal_after_an_answer_is_written_again(pair):
    settings = messages.AskSettings(application="default").to_bytes()
    handlers = pair.servers["a"].handlers
    for action in ("revoke", "enrolled", "settings", "refresh", "commit"):
        with contextlib.suppress(NotPermittedError):
            handlers[action]("desk", settings)
    pair.servers["a"].close()
    found = [entry.event.action for entry in pair.stores["a"].store.whole_audit() if entry.event.application == ""]
    assert sorted(found) == ["refused refresh desk", "refused revoke desk"]


def test_an_attempt_is_used_once_and_by_its_caller(pair):
    pair.gallery.enroll("alice", ALICE)
    pair.gallery.verify("alice", ALICE)
    action, body = pair.lines["door", "a"].sent[-1]
    assert action == "verify"
    with pytest.raises(PeerError, match="no such attempt"):
        pair.servers["a"].handlers[action]("door", body)
    for action, body in pair.lines["a", "b"].sent:
        if action in ("differences", "offers", "openings"):
            with pytest.raises(PeerError, match="no such attempt"):
                pair.servers["b"].handlers[action]("a", body)
    begin(pair)
    with pytest.raises(PeerError, match="used before"):
        begin(pair)
    probe = messages.Verify(attempt=ATTEMPT, probes=[messages.ProbeShare(record=1, share=bytes(36 * 1))], for_b=b"")
    with pytest.raises(NotPermittedError):
        pair.servers["a"].handlers["verify"]("desk", probe.to_bytes())


@pytest.mark.parametrize("other", ["bob", "again"])
def test_an_old_answer_of_b_makes_no_match(pair, other):
    """B, or whoever stands in its place, repeats the answers of a match."""
    pair.gallery.enroll("alice", ALICE)
    pair.gallery.enroll("bob", BOB)
    kept = {}
    line = pair.lines["a", "b"]

    def keep(action, body, answer):
        kept[action] = answer
        return answer

    line.change = keep
    assert pair.gallery.verify("alice", again(ALICE)).match
    line.change = lambda action, body, answer: kept.get(action, answer)
    try:
        found = pair.gallery.verify("alice" if other == "again" else "bob", EVE)
    except PeerError:
        return
    assert not found.match


@pytest.mark.parametrize("face", [ALICE, EVE])
def test_flipped_answers_make_no_match_and_no_secret(pair, face):
    pair.gallery.enroll("alice", ALICE)

    def change(action, body, answer):
        if action == "differences":
            found = messages.Differences.from_bytes(answer)
            return messages.Differences(
                shares=[bytes(255 ^ b for b in each[:11]) + each[11:] for each in found.shares]
            ).to_bytes()
        if action == "offers":
            found = messages.Replies.from_bytes(answer)
            replies = [Reply.from_bytes(each) for each in found.replies]
            other = [dataclasses.replace(each, opening=each.opening ^ 1) for each in replies]
            return messages.Replies(replies=[each.to_bytes() for each in other]).to_bytes()
        return answer

    pair.lines["a", "b"].change = change
    assert not pair.gallery.verify("alice", face).match


def test_a_changed_answer_for_the_capture_side_is_found(pair):
    if pair.protocol == "lite":
        pytest.skip("in the lite protocol B answers A alone")
    pair.gallery.enroll("alice", ALICE)

    def change(action, body, answer):
        if action == "openings":
            return messages.FromB(sealed=flipped(messages.FromB.from_bytes(answer).sealed)).to_bytes()
        return answer

    pair.lines["a", "b"].change = change
    with pytest.raises(PeerError, match="changed"):
        pair.gallery.verify("alice", ALICE)


def test_a_changes_neither_records_nor_epochs_nor_settings(pair):
    """A asks B about another record, another epoch, or by other settings."""
    pair.gallery.enroll("alice", ALICE)
    pair.gallery.enroll("bob", BOB)
    (record,), (bob,) = pair.records("b"), pair.records("b", "bob")
    name = "differences" if pair.protocol == "lite" else "offers"
    for change in (
        {"digest": bytes(32)},
        {"records": [messages.RecordEpoch(record=bob, epoch=0)]},
        {"records": [messages.RecordEpoch(record=record, epoch=1)]},
        {"records": [messages.RecordEpoch(record=record, epoch=0)] * 2},
        {"for_b": b"nothing"},
    ):
        sent, original = [], pair.servers["b"].handlers[name]

        def handler(caller, body, change=change, sent=sent, original=original):
            kind = messages.AskDifferences if name == "differences" else messages.AskReplies
            sent.append(body)
            return original(caller, kind.from_bytes(body).model_copy(update=change).to_bytes())

        pair.servers["b"].handlers[name] = handler
        with pytest.raises(IomError):
            pair.gallery.verify("alice", ALICE)
        assert sent
        pair.servers["b"].handlers[name] = original
    assert pair.gallery.verify("alice", ALICE).match


def test_b_answers_once_about_an_attempt(pair):
    """Or one attempt, which B counts once, would use up all correlations."""
    if pair.protocol == "lite":
        pytest.skip("no correlations are used")
    pair.gallery.enroll("alice", ALICE)
    left = pair.opened["b"].left

    def offer_again(action, body, answer):
        if action == "offers":
            asked = messages.AskReplies.from_bytes(body)
            offers = [dataclasses.replace(Offer.from_bytes(each), index=7).to_bytes() for each in asked.offers]
            with pytest.raises(PeerError, match="once"):
                pair.servers["b"].handlers["offers"]("a", asked.model_copy(update={"offers": offers}).to_bytes())
        return answer

    pair.lines["a", "b"].change = offer_again
    with pytest.raises(PeerError, match="no such attempt"):
        pair.gallery.verify("alice", ALICE)
    assert pair.opened["b"].left == left - 1


@pytest.mark.parametrize("change", [{"threshold": 3}, {"model": "another"}, {"encoding": "iom-planes/1:96x4"}])
def test_settings_are_those_of_both_servers(pair, change):
    """A gives the digest of B, and other settings."""

    def lie(action, body, answer):
        if action == "settings":
            return messages.Settings.from_bytes(answer).model_copy(update=change).to_bytes()
        return answer

    pair.lines["door", "a"].change = lie
    with pytest.raises(PeerError, match="digest"):
        pair.gallery.application()


def test_revocations_without_end_fill_nothing(pair, monkeypatch):
    monkeypatch.setattr("iom.split.server.MAX_PAGES", 20)
    pair.gallery.enroll("alice", ALICE)

    def more(action, body, answer):
        if action == "revoked":
            first = messages.AskRevoked.from_bytes(body).position
            numbers = range(first, first + messages.PAGE)
            records = [messages.RevokedRecord(subject=f"s{each}", record=each, epoch=0) for each in numbers]
            return messages.RevokedRecords(records=records, position=numbers.stop).to_bytes()
        return answer

    pair.lines["a", "b"].change = more
    before = pair.stores["a"].keys.state().position
    assert pair.servers["a"].synchronize() == 0
    assert pair.stores["a"].keys.state().position == before
    assert not pair.stores["a"].is_enrolled("s1")


def test_a_server_does_not_let_an_enrolment_replace_another(pair):
    """It says that the subject was revoked, and that it has its records."""
    pair.gallery.enroll("alice", ALICE)

    def lie(action, body, answer):
        if action == "enrolled":
            return messages.SubjectRecords.from_bytes(answer).model_copy(update={"was_revoked": True}).to_bytes()
        return answer

    pair.lines["door", "a"].change = lie
    with pytest.raises(AlreadyEnrolledError):
        pair.gallery.enroll("alice", BOB)


def test_nothing_is_verified_without_an_audit_log(pair, monkeypatch):
    pair.gallery.enroll("alice", ALICE)

    def broken(events):
        raise RuntimeError("not an error of iom")

    monkeypatch.setattr(pair.stores["a"], "log_events", broken)
    with contextlib.suppress(StoreError):  # where the log is written before the outcome is
        pair.gallery.verify("alice", ALICE)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and not pair.servers["a"]._audit._problem:
        time.sleep(0.01)
    with pytest.raises(StoreError, match="nothing is verified: RuntimeError"):
        pair.gallery.verify("alice", ALICE)
    monkeypatch.undo()


def test_a_server_that_is_another_one_is_refused(pair):
    pair.gallery.enroll("alice", ALICE)
    pair.lines["door", "a"], pair.gallery._a = pair.lines["door", "b"], pair.lines["door", "b"]
    with pytest.raises(PeerError, match="expected the servers a and b"):
        pair.gallery.application("default")


def test_wrong_shares_of_a_peer_in_a_refresh_end_one_template_only(pair):
    pair.gallery.enroll("alice", ALICE)

    def change(action, body, answer):
        if action == "refresh-page":
            found = messages.RefreshAnswer.from_bytes(answer)
            return messages.RefreshAnswer(public=bytes([9, *bytes(31)]), records=found.records).to_bytes()
        return answer

    pair.lines["a", "b"].change = change
    pair.gallery.refresh("a")
    assert not pair.gallery.verify("alice", ALICE).match
    pair.gallery.renew("alice", ALICE)
    assert pair.gallery.verify("alice", ALICE).match


def test_a_public_part_that_is_not_usable_is_refused(pair):
    pair.gallery.enroll("alice", ALICE)

    def change(action, body, answer):
        if action == "refresh-page":
            found = messages.RefreshAnswer.from_bytes(answer)
            return messages.RefreshAnswer(public=bytes(32), records=found.records).to_bytes()
        return answer

    pair.lines["a", "b"].change = change
    with pytest.raises(IomError, match="public part"):
        pair.gallery.refresh("a")
    pair.lines["a", "b"].change = lambda action, body, answer: answer
    assert pair.gallery.verify("alice", ALICE).match
    assert pair.gallery.refresh("a") == 1


def test_a_hostile_text_of_a_server_is_made_harmless(pair):
    class Hostile:
        def call(self, action, body):
            raise PeerError("\x1b[2Jpay here\n" + "x" * 10_000)

    with pytest.raises(PeerError) as caught:
        messages.ask(Hostile(), "a", "settings", messages.AskSettings(application="x"), messages.Settings)
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_half_keys_of_known_records_are_only_for_verifications(pair):
    pair.gallery.enroll("alice", ALICE)
    message = messages.AskHalfKeys(application="default", subject="alice", records=pair.records("a"))
    with pytest.raises(IomError, match="used before"):
        pair.servers["a"].handlers["half-keys"]("door", message.to_bytes())


def test_failed_attempts_are_limited(pair):
    pair.gallery.enroll("alice", ALICE)
    for side in "ab":
        server = pair.servers[side]
        server._backoff = Backoff(60, server._audit.add)
    for _ in range(10):
        assert not pair.gallery.verify("alice", EVE).match
    with pytest.raises(RateLimitError):
        pair.gallery.verify("alice", EVE)
