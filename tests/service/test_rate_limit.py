"""Failed comparisons: who tries too often waits, and nobody is locked out for good."""

import math

import pytest

from iom.errors import RateLimitError
from iom.service.rate_limit import OWN_SECONDS, Backoff
from iom.service.settings import ServiceSettings
from tests.service.conftest import Service, picture


class Door:
    def __init__(self, **settings):
        self.now, self.events = 0.0, []
        failures = ServiceSettings(**settings).failures
        self.backoff = Backoff(failures, lambda *event: self.events.append(event), clock=lambda: self.now)

    def verify(self, match, *, token="t", subject="alice"):
        """Seconds to wait; 0 when the attempt was made."""
        return self._made(self.backoff.verification(token, "door", subject), match)

    def search(self, match, *, token="t"):
        return self._made(self.backoff.search(token, "door"), match)

    def _made(self, context, match):
        try:
            with context as attempt:
                attempt.is_match = match
        except RateLimitError as error:
            return math.ceil(error.retry_after)
        return 0


def test_failures_over_http_are_refused_and_stand_in_the_audit_log(tmp_path, decoder):
    service = Service(tmp_path, decoder, failures=12)
    service.post("enroll", picture(1), subject="alice")
    service.post("enroll", picture(2), subject="bob")
    answers = [service.post("verify", picture(9), subject="alice") for _ in range(5)]
    assert [answer.status_code for answer in answers] == [200, 200, 429, 429, 429]
    assert answers[2].json() == {"detail": "Too many failed attempts; retry later"}
    assert 0 < int(answers[2].headers["retry-after"]) <= 300
    # Also with the right face: else the answer would tell whether it was the right one.
    assert service.post("verify", picture(1), subject="alice").status_code == 429
    assert service.post("verify", picture(2), subject="bob").json() == {"match": True}
    other = service.post("verify", picture(1), subject="alice", role="verifier")
    assert other.json() == {"match": True}
    log = [entry.event for entry in service.gallery.store.audit()]
    assert [event.action for event in log].count("backoff") == 1
    key = next(event for event in log if event.action == "backoff")
    assert key.application == "door"
    assert key.subjects == next(event for event in log if event.action == "enroll").subjects
    service.place.close()


def test_what_is_no_comparison_costs_nothing(tmp_path, decoder):
    service = Service(tmp_path, decoder, failures=6)
    service.post("enroll", picture(1), subject="alice")
    for _ in range(3):
        assert service.post("verify", b"no image", subject="alice").status_code == 422
        assert service.post("verify", picture(1), subject="carol").status_code == 404
        assert service.post("identify", b"no image").status_code == 422
        assert service.post("verify", picture(1), subject="alice").json() == {"match": True}
    service.place.close()


def test_a_climb_of_matches_and_failures_is_slowed_down():
    door, tries = Door(), 0
    while door.now < 3600:
        wait = door.verify(tries % 2 == 0)
        tries += not wait
        door.now += wait
    assert tries <= 2 * (10 + 60 + 1)


def test_the_wait_is_bounded_and_time_resets():
    door = Door()
    assert [door.verify(False) for _ in range(12)] == [0] * 10 + [60] * 2
    door.now = 60
    assert door.verify(False) == 0
    for _ in range(1000):
        assert 0 < door.verify(False) <= 60
    door.now = 60 + OWN_SECONDS
    assert [door.verify(False) for _ in range(10)] == [0] * 10
    assert len(door.events) == 2  # not one for each refusal


def test_tokens_together_have_a_budget():
    door, tries = Door(), 0
    tokens = [f"t{number}" for number in range(20)]
    while door.now < 3600:
        tries += sum(not door.verify(False, token=token) for token in tokens)
        door.now += 1
    assert tries <= 30 + 180 + len(tokens) * 6 + 1


def test_failures_of_other_tokens_do_not_keep_the_right_person_out():
    door = Door()
    others = [f"t{number}" for number in range(20)]
    for _ in range(1200):
        for token in others:
            door.verify(False, token=token)
        door.now += 1
        assert door.verify(True, token="desk") == 0
    # Who fails once has the next attempt after a bounded time, however busy the others are.
    assert door.verify(False, token="desk") == 0
    begin = door.now
    while door.verify(True, token="desk"):
        for token in others:
            door.verify(False, token=token)
        door.now += 1
    assert door.now - begin <= OWN_SECONDS + 1


def test_searches_have_a_budget_of_their_own():
    door = Door()
    assert sum(not door.search(False) for _ in range(150)) == 100
    assert 0 < door.search(True) <= 6
    assert door.search(False, token="other") == 0
    assert door.verify(False) == 0
    assert door.events == [("backoff", "door", ())]


def test_attempts_at_the_same_time_do_not_exceed_the_budget():
    door = Door(failures=12)
    first, second = (door.backoff.verification("t", "door", "alice") for _ in range(2))
    with first as one, second as two:
        assert door.verify(False)
        one.is_match = two.is_match = False
    assert door.verify(False)
    with pytest.raises(RateLimitError), door.backoff.verification("t", "door", "alice"):
        raise AssertionError("not reached")


def test_a_subject_has_one_budget_in_all_its_normal_forms(tmp_path, decoder):
    service = Service(tmp_path, decoder, failures=12)
    service.post("enroll", picture(1), subject="Ren\u00e9")
    names = ["Ren\u00e9", "Rene\u0301"] * 2
    codes = [service.post("verify", picture(9), subject=name).status_code for name in names]
    assert codes == [200, 200, 429, 429]
    assert service.post("enroll", picture(1), subject="Rene\u0301").status_code == 409
    service.place.close()
