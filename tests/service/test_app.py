"""Every verb over HTTP; who may do what; what hostile uploads and strings come to."""

import io
import logging
import struct
import threading
import zlib

import pytest
from PIL import Image

from iom.errors import BusyError, StoreError
from iom.service.decoding import Decoder
from tests.service.conftest import Service, picture


def test_from_enrolment_to_renewal(service):
    assert service.post("enroll", picture(1), picture(2), subject="alice").json() == {
        "subject": "alice",
        "slots": [0, 1],
    }
    assert service.post("enroll", picture(3), subject="bob").status_code == 200
    assert service.post("enroll", picture(3), subject="bob").status_code == 409
    assert service.post("verify", picture(1), subject="alice").json() == {"match": True}
    assert service.post("verify", picture(3), subject="alice").json() == {"match": False}
    assert service.post("identify", picture(3)).json() == [{"subject": "bob"}]
    assert service.post("identify", picture(9)).json() == []
    assert service.post("revoke", subject="alice").json() == {"revoked": 2}
    refused = service.post("verify", picture(1), subject="alice")
    assert refused.status_code == 410
    assert "was revoked" in refused.json()["detail"]
    assert service.post("identify", picture(1)).json() == []
    refused = service.post("enroll", picture(1), subject="alice")
    assert refused.status_code == 410
    assert "renew it" in refused.json()["detail"]
    assert service.post("renew", picture(1), subject="alice").status_code == 200
    assert service.post("verify", picture(1), subject="alice").json() == {"match": True}
    assert service.post("verify", picture(1), subject="carol").status_code == 404
    counts = service.client.get("/v1/door/stats", headers=service.bearer("admin")).json()
    assert counts == {"subjects": 2, "references": 2, "revoked": 2}


def test_scores_only_where_they_are_told(tmp_path, decoder):
    service = Service(tmp_path, decoder, scores=True)
    service.post("enroll", picture(1), subject="alice")
    answer = service.post("verify", picture(1), subject="alice").json()
    assert answer == {"match": True, "distance": 0, "threshold": 50}
    service.place.close()


@pytest.mark.parametrize(
    ("role", "allowed"),
    [
        ("verifier", {"align", "verify", "identify"}),
        ("enroller", {"align", "verify", "identify", "enroll", "renew"}),
        ("monitor", set()),
        ("stranger", set()),
    ],
)
def test_a_role_opens_its_actions_only(service, role, allowed):
    service.post("enroll", picture(1), subject="alice")
    for action in ("align", "verify", "identify", "enroll", "renew", "revoke"):
        images = [] if action == "revoke" else [picture(1)]
        answer = service.post(action, *images, subject="alice", role=role)
        assert (answer.status_code != 403) == (action in allowed), action


def test_another_application_is_not_even_known(service):
    told = {
        service.post("verify", picture(1), subject="a", application=name).text
        for name in ("other", "nowhere", "..%2fdoor")
    }
    assert told <= {'{"detail":"The token does not permit this"}', '{"detail":"Not Found"}'}


@pytest.mark.parametrize("text", ["", "Bearer", "Bearer x", "Basic abc", "Bearer é"])
def test_without_a_token_nothing_is_read(service, text):
    headers = {"Authorization": text.encode("latin-1")}
    for path in ("/v1/door/verify", "/v1/door/nothing", "/nothing", "/docs"):
        answer = service.client.post(path, content=b"x" * 100, headers=headers)
        assert answer.status_code == 401
        assert "www-authenticate" in answer.headers
    assert service.client.get("/metrics", headers=headers).status_code == 401


def test_too_many_requests(tmp_path, decoder):
    service = Service(tmp_path, decoder, rate=0.01, burst=3)
    codes = [service.post("verify", picture(1), subject="a").status_code for _ in range(4)]
    assert codes == [404, 404, 404, 429]
    # A stranger who guesses is slowed down, too.
    guesses = [service.client.get("/metrics").status_code for _ in range(4)]
    assert guesses == [401, 401, 401, 429]
    assert service.client.get("/health/ready").status_code == 200
    service.place.close()


def png(width, height, data):
    def chunk(kind, content):
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def gif():
    stream = io.BytesIO()
    Image.new("L", (112, 112)).save(stream, "GIF")
    return stream.getvalue()


HOSTILE = {
    "empty": b"",
    "text": b"<script>alert(1)</script>",
    "bomb": png(60_000, 60_000, bytes(1_000_000)),
    "lying size": png(112, 112, b"")[:-20],
    "truncated": picture(1, kind="JPEG")[:300],
    "polyglot": b"GIF89a" + picture(1),
    "zip behind it": b"PK\x03\x04" + picture(1),
    "1x1": picture(1, size=(1, 1)),
    "50 megapixels": picture(1, size=(8000, 6250)),
    "wrong type": gif(),
    "cmyk": picture((1, 2, 3, 4), kind="JPEG", mode="CMYK"),
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_uploads_are_refused(service, name):
    answer = service.post("identify", HOSTILE[name])
    assert 400 <= answer.status_code < 500
    assert service.client.get("/health/ready").json()["status"] == "ready"


def test_too_many_requests_at_a_time_are_told_to_retry(tmp_path, decoder, monkeypatch):
    service = Service(tmp_path, decoder, max_requests=1)
    service.post("enroll", picture(1), subject="alice")
    entered, go, answers = threading.Event(), threading.Event(), []

    def slow(*_, **__):
        entered.set()
        assert go.wait(10)
        return []

    monkeypatch.setattr(service.gallery, "identify", slow)
    first = threading.Thread(target=lambda: answers.append(service.post("identify", picture(1))))
    first.start()
    assert entered.wait(10)
    second = service.post("verify", picture(1), subject="alice")
    assert service.client.get("/health/live").status_code == 200
    assert service.client.get("/health/ready").status_code == 200
    go.set()
    first.join()
    assert (second.status_code, second.headers["retry-after"]) == (503, "1")
    assert second.json() == {"detail": "Too many concurrent requests; retry later"}
    assert answers[0].status_code == 200
    assert service.post("verify", picture(1), subject="alice").status_code == 200
    service.place.close()


def test_a_busy_decoder_is_told_to_retry(service, monkeypatch):
    def busy(*_):
        raise BusyError("Too many concurrent images; retry later")

    monkeypatch.setattr(Decoder, "decode", busy)
    answer = service.post("identify", picture(1))
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json() == {"detail": "Too many concurrent images; retry later"}


def test_a_request_that_is_too_large(tmp_path, decoder):
    service = Service(tmp_path, decoder, max_body=1000)
    assert service.post("identify", bytes(2000)).status_code == 413

    def parts():  # no content-length
        yield from [b"x" * 400] * 4

    headers = {**service.bearer("admin"), "Content-Type": "multipart/form-data; boundary=b"}
    answer = service.client.post("/v1/door/identify", content=parts(), headers=headers)
    assert answer.status_code == 413
    service.place.close()


def test_too_many_images(service):
    assert service.post("enroll", *[picture(1)] * 6, subject="alice").status_code == 422
    assert service.client.get("/v1/door/stats", headers=service.bearer("admin")).json() == {
        "subjects": 0,
        "references": 0,
        "revoked": 0,
    }


@pytest.mark.parametrize("subject", ["'; DROP TABLE x; --", "../../etc/passwd", "<b>x</b>", "${jndi:x}", "名前 😀"])
def test_a_subject_is_data(service, subject):
    assert service.post("enroll", picture(1), subject=subject).status_code == 200
    assert service.post("identify", picture(1)).json() == [{"subject": subject}]
    assert service.post("revoke", subject=subject).status_code == 200


@pytest.mark.parametrize("subject", ["", " a", "a\x00b", "a\nb", "x" * 257])
def test_what_no_subject_is_called(service, subject):
    for action in ("enroll", "verify"):
        assert service.post(action, picture(1), subject=subject).status_code == 422


@pytest.mark.parametrize("action", ["enroll", "verify", "revoke"])
def test_two_subjects_in_one_form_are_refused(service, action):
    service.post("enroll", picture(1), subject="bob")
    images = [] if action == "revoke" else [picture(1)]
    answer = service.post(action, *images, subject=["alice", "bob"])
    assert answer.status_code == 422
    assert answer.json() == {"detail": "subject: expected one, received 2"}
    assert service.post("verify", picture(1), subject="bob").json() == {"match": True}


def test_a_field_that_is_given_twice_is_refused(service):
    assert service.post("verify", picture(1), picture(2), subject="a").status_code == 422
    answer = service.post("enroll", picture(1), subject="a", another=["false", "true"])
    assert answer.json() == {"detail": "another: expected one, received 2"}


def test_an_answer_does_not_repeat_what_came(service):
    answer = service.client.post("/v1/door/verify", data={"image": "my face"}, headers=service.bearer("admin"))
    assert answer.status_code == 422
    assert "my face" not in answer.text


def test_the_log_names_nobody(service, caplog):
    with caplog.at_level(logging.INFO):
        service.post("enroll", picture(1), subject="alice-in-the-log")
        service.post("verify", picture(1), subject="alice-in-the-log")
        service.post("identify", b"junk")
    lines = [record.getMessage() for record in caplog.records if record.name == "iom.service"]
    assert [line.split()[:3] for line in lines] == [
        ["admin", "enroll", "200"],
        ["admin", "verify", "200"],
        ["admin", "identify", "422"],
    ]
    assert "alice" not in "".join(lines)


def test_the_unforeseen_tells_nothing(service, monkeypatch, caplog):
    def fails(*_, **__):
        raise ZeroDivisionError("secret of the embedding")

    monkeypatch.setattr(service.gallery, "identify", fails)
    answer = service.post("identify", picture(1))
    assert answer.status_code == 500
    assert "secret" not in answer.text + caplog.text

    def is_lost(*_, **__):
        raise StoreError("/srv/secret.db: disk full")

    monkeypatch.setattr(service.gallery, "identify", is_lost)
    answer = service.post("identify", picture(1))
    assert answer.status_code == 503
    assert "secret" not in answer.text


def test_metrics(service):
    service.post("enroll", picture(1), subject="alice")
    service.post("verify", picture(1), subject="alice")
    answer = service.client.get("/metrics", headers=service.bearer("monitor"))
    assert 'iom_requests_total{action="enroll",status="200"} 1.0' in answer.text
    assert 'iom_decisions_total{action="verify",match="true"} 1.0' in answer.text
    assert "alice" not in answer.text
    assert service.client.get("/metrics", headers=service.bearer("admin")).status_code == 403


def test_description_and_page(service):
    paths = service.client.get("/openapi.json").json()["paths"]
    actions = {"enroll", "verify", "identify", "revoke", "renew", "align", "stats"}
    assert set(paths) == {f"/v1/{{application}}/{each}" for each in actions} | {
        "/health/live",
        "/health/ready",
        "/samples/{number}",
        "/metrics",
    }
    for path in ("/", "/page.js", "/page.css", "/icon.svg"):
        answer = service.client.get(path)
        assert answer.status_code == 200
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        text = answer.text.replace("http://www.w3.org/2000/svg", "")  # a name, not an address
        assert "http://" not in text
        assert "https://" not in text


def test_every_refusal_is_described(service):
    for path, methods in service.client.get("/openapi.json").json()["paths"].items():
        for route in methods.values():
            assert route.get("summary"), path
            for status, answer in route["responses"].items():
                assert answer["description"], path
                if status != "200":
                    schema = answer["content"]["application/json"]["schema"]
                    assert schema == {"$ref": "#/components/schemas/Problem"}, (path, status)
                    assert answer["content"]["application/json"]["example"]["detail"]
