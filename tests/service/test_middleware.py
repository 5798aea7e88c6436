"""Before anything is read: slow bodies, guesses from the address of a proxy, search limits."""

import asyncio
import json
import logging

from tests.service.conftest import Service, picture


def call(app, receive, *, token="", path="/v1/door/identify", headers=()):
    """One request to an ASGI application; status and body of its answer."""
    sent = []

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST",
        "scheme": "http", "path": path, "raw_path": path.encode(), "query_string": b"",
        "headers": [(b"authorization", f"Bearer {token}".encode()), *headers],
        "client": ("10.0.0.1", 1), "server": ("h", 1),
    }  # fmt: skip
    asyncio.run(app(scope, receive, send))
    return sent[0]["status"], b"".join(each.get("body", b"") for each in sent[1:])


FORM = ((b"content-type", b"multipart/form-data; boundary=b"),)


def test_a_body_that_comes_too_slowly(tmp_path, decoder):
    service = Service(tmp_path, decoder, wait_for_body=0.2)

    async def slow():
        await asyncio.sleep(0.05)
        return {"type": "http.request", "body": b"\r\n", "more_body": True}

    status, body = call(service.client.app, slow, token=service.text["admin"], headers=FORM)
    assert (status, json.loads(body)) == (408, {"detail": "The request was received too slowly"})
    service.place.close()


def test_who_goes_away_is_no_error(service, caplog):
    async def gone():
        return {"type": "http.disconnect"}

    with caplog.at_level(logging.INFO):
        call(service.client.app, gone, token=service.text["admin"], headers=FORM)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_guesses_behind_a_proxy_stop_nobody(tmp_path, decoder):
    service = Service(tmp_path, decoder, rate=0.01, burst=3)

    async def nothing():
        return {"type": "http.request", "body": b"", "more_body": False}

    app, good = service.client.app, service.text["admin"]
    assert [call(app, nothing, token="guess")[0] for _ in range(5)] == [401, 401, 401, 429, 429]
    assert call(app, nothing, token=good, headers=FORM)[0] == 422
    service.place.close()


def test_a_long_search_under_many_keys_is_refused(tmp_path, decoder):
    service = Service(tmp_path, decoder, max_keys=2)
    for name, number in (("a", 1), ("b", 2)):
        service.post("enroll", picture(number), subject=name)
    assert service.post("identify", picture(1)).json() == [{"subject": "a"}]
    service.post("enroll", picture(3), subject="c")
    refused = service.post("identify", picture(1))
    assert refused.status_code == 409
    assert "one key for all" in refused.json()["detail"]
    service.gallery.create_application("wide", key_mode="application")
    assert service.post("verify", picture(1), subject="a").status_code == 200
    service.place.close()


def test_what_is_not_there_is_not_found(service):
    assert service.post("renew", picture(1), subject="nobody").status_code == 404
    assert service.post("revoke", subject="nobody").status_code == 404
    service.post("enroll", picture(1), subject="a")
    answer = service.post("align", picture(7))
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    assert service.client.get("/samples/0").status_code == 404


def test_a_lost_store_is_not_ready(service, monkeypatch):
    from iom.errors import StoreError

    def is_lost():
        raise StoreError("/srv/secret.db: disk full")

    monkeypatch.setattr(service.gallery.store, "audit_head", is_lost)
    answer = service.client.get("/health/ready")
    assert answer.status_code == 503
    assert "secret" not in answer.text
    assert service.client.get("/health/live").status_code == 200
