"""Tokens of subjects in requests."""

import pytest

from iom.keys import SubjectToken
from tests.service.conftest import picture

TOKEN, OTHER = SubjectToken(bytes(range(32))), SubjectToken(bytes(32))


def test_a_subject_is_verified_with_its_token_alone(service):
    text, other = TOKEN.to_text(), OTHER.to_text()
    assert service.post("enroll", picture(0), subject="alice", subject_token=text).json()["slots"] == [0]
    assert service.post("verify", picture(0), subject="alice", subject_token=text).json() == {"match": True}
    assert service.post("verify", picture(9), subject="alice", subject_token=text).json() == {"match": False}
    for fields in ({}, {"subject_token": other}, {"subject_token": ""}):
        answer = service.post("verify", picture(0), subject="alice", **fields)
        assert answer.status_code == 403
        assert "token" in answer.json()["detail"]
        assert "match" not in answer.json()
    assert service.post("identify", picture(0)).json() == []
    assert service.post("enroll", picture(1), subject="alice", another="true").status_code == 403
    assert service.post("renew", picture(0), subject="alice", subject_token=text).status_code == 403
    assert service.post("renew", picture(0), subject="alice", subject_token=other).status_code == 200
    assert service.post("verify", picture(0), subject="alice", subject_token=other).json() == {"match": True}
    assert service.post("verify", picture(0), subject="alice", subject_token=text).status_code == 403


@pytest.mark.parametrize("damage", [lambda text: text[:-1], lambda text: text[1:], lambda text: text + 99 * "x"])
def test_a_damaged_token_is_refused_and_not_repeated(service, damage, caplog):
    text = damage(TOKEN.to_text())
    answer = service.post("verify", picture(0), subject="alice", subject_token=text)
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith("subject_token: ")
    assert TOKEN.to_text()[20:40] not in answer.text + caplog.text


def test_two_tokens_in_one_form_are_refused(service):
    fields = {"subject": "alice", "subject_token": [TOKEN.to_text(), OTHER.to_text()]}
    answer = service.client.post(
        "/v1/door/verify", data=fields, files=[("image", picture(0))], headers=service.bearer("admin")
    )
    assert answer.status_code == 422
