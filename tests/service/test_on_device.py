"""The service for codes that devices make, over HTTP: who is refused and how, and what is served to whom."""

import base64
import contextlib
import gzip
import json
import logging
import time
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iom.errors import ConfigError, RateLimitError
from iom.service import on_device as service_module
from iom.service.on_device import create_on_device_app, decoded, encoded
from iom.service.on_device_client import OnDeviceClient, SigningDevice
from iom.service.rate_limit import Backoff
from iom.service.settings import ServiceSettings
from iom.service.tokens import TokenFile, add_token
from tests.on_device import ALPHABET, LENGTH, THRESHOLD, Place, code, key, web_artifact

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it would rather have httpx2
    from starlette.testclient import TestClient

SCRIPT = "console.log('page')\n" * 100


def built_page(folder):
    """A page as `make web` leaves it."""
    (folder / "client" / "ort-1f").mkdir(parents=True)
    (folder / "page.html").write_text("<!doctype html><title>page</title>")
    (folder / "sw.js").write_text("self.x = 1")
    (folder / "app.webmanifest").write_text("{}")
    (folder / "client" / "main-3FQ7KZ2A.js").write_text(SCRIPT)
    (folder / "client" / "main-3FQ7KZ2A.js.gz").write_bytes(gzip.compress(SCRIPT.encode()))
    (folder / "client" / "ort-1f" / "ort-wasm-simd-threaded.wasm").write_bytes(b"\0asm")
    return folder


class RefusedError(Exception):
    """An answer that is an error."""

    def __init__(self, answer):
        super().__init__(answer.status_code, answer.text)
        self.status, self.detail = answer.status_code, answer.json()["detail"]
        self.headers = answer.headers


class Service:
    def __init__(self, folder, *, side=None, other="", **settings):
        self.place = Place(folder)
        self.gallery = self.place.made("device" if side is None else "device-share")
        self.gallery.side = side
        self.tokens = folder / "tokens.json"
        roles = ("verifier", "enroller", "admin", "monitor")
        self.text = {role: add_token(self.tokens, name=role, application="door", role=role) for role in roles}
        self.text["stranger"] = add_token(self.tokens, name="stranger", application="other", role="admin")
        options = ServiceSettings(**{"rate": 1000.0, "burst": 1000, **settings})
        page = built_page(folder / "page")
        app = create_on_device_app(
            self.gallery, self.place.artifact, TokenFile(self.tokens), options, page=page, other=other
        )
        self.http = TestClient(app, raise_server_exceptions=False)

    def bearer(self, role):
        return {"Authorization": f"Bearer {self.text[role]}"}

    def post(self, path, body, role="admin"):
        """The object that is answered."""
        answer = self.send(path, json.dumps(body), role)
        if answer.status_code != 200:
            raise RefusedError(answer)
        return answer.json()

    def send(self, path, content, role="admin", kind="application/json"):
        return self.http.post(path, content=content, headers={**self.bearer(role), "Content-Type": kind})

    def client(self, device, role="admin", application="door"):
        return OnDeviceClient(
            lambda path, body: self.post(path, body, role),
            application=application,
            hasher=self.gallery.hasher.fingerprint,
            device=device,
            side=self.gallery.side.name if self.gallery.side else "",
        )


@pytest.fixture
def service(tmp_path):
    service = Service(tmp_path)
    yield service
    service.place.close()


@pytest.fixture
def alice(service):
    """Alice's device; her face is number 1, under key 1."""
    client = service.client(SigningDevice())
    client.enroll("alice", code(1), key(1))
    return client


@contextlib.contextmanager
def refused(status, words=""):
    with pytest.raises(RefusedError) as caught:
        yield
    assert caught.value.status == status, caught.value
    assert words in caught.value.detail


def test_a_whole_life(service):
    client = service.client(SigningDevice())
    assert client.enroll("alice", code(1), key(1)) == {"subject": "alice", "slots": [0]}
    assert client.verify("alice", code(1, other=THRESHOLD), key(1)) == {"match": True}
    assert client.verify("alice", code(2), key(1)) == {"match": False}
    assert client.renew("alice", code(3), key(2)) == {"subject": "alice", "slots": [0]}
    with refused(410, "under this key was renewed or revoked"):
        client.verify("alice", code(1), key(1))
    assert client.verify("alice", code(3), key(2)) == {"match": True}
    client.renew("alice", code(4), key(3), device=SigningDevice())
    assert client.verify("alice", code(4), key(3)) == {"match": True}
    assert client.revoke("alice") == {"revoked": 1}
    for action in (client.verify, client.renew, client.enroll):
        with refused(410, "was revoked; an admin can let it be enrolled again"):
            action("alice", code(4), key(3))
    with refused(410):
        client.revoke("alice")
    assert client.enroll("alice", code(5), key(5), returning=True)["slots"] == [0]
    assert service.gallery.check() == []


def test_scores_are_told_where_they_are_shown(tmp_path):
    service = Service(tmp_path, scores=True)
    client = service.client(SigningDevice())
    client.enroll("alice", code(1), key(1))
    answer = client.verify("alice", code(1, other=7), key(1))
    assert answer == {"match": True, "distance": 7, "threshold": THRESHOLD}
    service.place.close()


def test_what_each_role_may(service, alice):
    device = alice.device
    allowed = {
        "verifier": {"nonce", "verify", "revoke"},
        "enroller": {"nonce", "verify", "revoke", "enroll", "renew"},
        "admin": {"nonce", "verify", "revoke", "enroll", "renew"},
        "monitor": set(),
        "stranger": set(),
    }
    for role, actions in allowed.items():
        for action in ("nonce", "verify", "revoke", "enroll", "renew"):
            path, body = ("/v1/door/nonce", {}) if action == "nonce" else alice.request(action, "alice")
            answer = service.send(path, json.dumps(body), role)
            assert (answer.status_code == 403) == (action not in actions), (role, action, answer.text)
            if action == "revoke" and action in actions:
                service.client(device).enroll(
                    "alice", code(1), key(len(service.gallery.store.tombstones("door")) + 9), returning=True
                )
    assert service.http.post("/v1/door/nonce", json={}).status_code == 401


def test_only_an_admin_brings_a_revoked_subject_back(service, alice):
    alice.revoke("alice")
    with refused(403, "does not permit to bring a revoked subject back"):
        service.client(SigningDevice(), "enroller").enroll("alice", code(1), key(2), returning=True)
    with refused(410):
        service.client(SigningDevice(), "enroller").enroll("alice", code(1), key(2))
    assert service.client(SigningDevice()).enroll("alice", code(1), key(2), returning=True)


def test_an_admin_revokes_a_lost_device(service, alice):
    answer = service.http.post("/v1/door/revoke", data={"subject": "alice"}, headers=service.bearer("admin"))
    assert answer.json() == {"revoked": 1}
    with refused(410):
        alice.verify("alice", code(1), key(1))
    stats = service.http.get("/v1/door/stats", headers=service.bearer("admin")).json()
    assert stats == {"subjects": 0, "references": 0, "revoked": 1}
    twice = service.http.post(
        "/v1/door/revoke",
        content="subject=a&subject=b",
        headers={**service.bearer("admin"), "Content-Type": "application/x-www-form-urlencoded"},
    )
    assert twice.status_code == 422


def test_a_request_that_was_sent_before_is_refused(service, alice):
    path, body = alice.request("verify", "alice", hasher=service.gallery.hasher.fingerprint, key=key(1), code=code(1))
    assert service.post(path, body) == {"match": True}
    for role in ("admin", "verifier"):
        with refused(409, "the nonce was used before; ask for a new one"):
            service.post(path, body, role)


@pytest.mark.parametrize("action", ["verify", "renew", "enroll", "revoke"])
def test_every_field_is_signed(service, alice, action):
    """Each field of a good request in another good form; the request itself is good to the end."""
    other = service.client(SigningDevice())
    other.enroll("bob", code(1), key(9))
    fields = {"hasher": service.gallery.hasher.fingerprint, "key": key(1 if action == "verify" else 5), "code": code(1)}
    fields = {} if action == "revoke" else fields
    if action == "enroll":
        fields["device"] = alice.device.public
    path, body = alice.request(action, "carol" if action == "enroll" else "alice", **fields)
    replaced = {
        "subject": ("dave" if action == "enroll" else "bob", 403),
        "nonce": (encoded(alice.nonce()), 403),
        "signature": (encoded(bytes(64)), 403),
        "hasher": ("0" * 64, 409),
        "key": (key(77), 403),
        "code": (encoded(code(1, other=1)), 403),
        "device": (encoded(SigningDevice().public), 403),
    }
    if action == "renew":
        body["device_signature"] = body["signature"]  # of no use without a device
        replaced["device"] = (encoded(SigningDevice().public), 403)
    for name, (value, status) in replaced.items():
        if name in body or (name == "device" and action == "renew"):
            with refused(status):
                service.post(path, body | {name: value})
    with refused(403):
        service.post(path.replace("/door/", "/other/"), body)  # the token is of the door
    with refused(409, "not one of this application"):
        service.post(path.replace("/door/", "/other/"), body, "stranger")
    assert service.post(path, body)


def test_a_stale_nonce_is_refused(service, alice, monkeypatch):
    path, body = alice.request("revoke", "alice")
    now = service_module.NONCE_SECONDS + time.time() + 1
    monkeypatch.setattr("iom.gallery.on_device.time.time", lambda: now)
    with refused(409, "expired"):
        service.post(path, body)


def test_another_device_is_refused(service, alice):
    service.client(SigningDevice()).enroll("bob", code(1), key(2))
    thief = service.client(SigningDevice())
    for action in ("verify", "renew"):
        with refused(403, "not signed by its device"):
            getattr(thief, action)("alice", code(1), key(1))
    with refused(403, "not signed by its device"):
        thief.revoke("alice")
    assert alice.verify("alice", code(1), key(1)) == {"match": True}


def test_another_hasher_is_told_to_load_again(service, alice):
    alice._hasher = "0" * 64
    with refused(409, "load the page, or the artefact, again"):
        alice.verify("alice", code(1), key(1))


def good(service, alice, **changes):
    fields = {"hasher": service.gallery.hasher.fingerprint, "key": key(1), "code": code(1)}
    path, body = alice.request("verify", "alice", **fields)
    return path, body | changes


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"code": ""}, "expected 48 bytes"),
        ({"code": encoded(code(1)) + "="}, "base64url without padding"),
        ({"code": base64.b64encode(b"\xff" * 48).decode()}, "base64url without padding"),
        ({"code": encoded(code(1))[:-1] + "é"}, "base64url without padding"),
        ({"code": encoded(code(1)) + "\n"}, "base64url without padding"),
        ({"code": 7}, "code: expected base64url"),
        ({"code": None}, "code: expected base64url"),
        ({"code": ["AA"]}, "code: expected base64url"),
        ({"code": encoded(b"\xff" * 48)}, "zeros after the last position"),
        ({"nonce": encoded(bytes(31))}, "nonce: expected 32 bytes, received 31"),
        ({"signature": encoded(bytes(63))}, "signature: expected 64 bytes, received 63"),
        ({"key": "x" * 32}, "key:"),
        ({"key": key(1).upper().replace("1", "A")}, "key:"),
        ({"key": key(1) + "\n"}, "key:"),
        ({"hasher": "0" * 65}, "hasher:"),
        ({"subject": ""}, "subject:"),
        ({"subject": "a\nb"}, "subject: subject id: expected"),
        ({"subject": "\ud800"}, "subject:"),
        ({"subject": "x" * 257}, "subject:"),
        ({"subject": 1}, "subject:"),
        ({"image": "AAAA"}, "image: Extra inputs are not permitted"),
        ({"device": "AAAA"}, "device: Extra inputs are not permitted"),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
def test_malformed_fields_are_refused(service, alice, changes, words):
    path, body = good(service, alice)
    with refused(422, words):
        service.post(path, body | changes)
    assert service.post(path, body) == {"match": True}


@pytest.mark.parametrize("name", ["subject", "hasher", "key", "code", "nonce", "signature"])
def test_missing_fields_are_refused(service, alice, name):
    path, body = good(service, alice)
    del body[name]
    with refused(422, f"{name}: Field required"):
        service.post(path, body)


def test_malformed_devices_are_refused(service):
    client = service.client(SigningDevice())
    fields = {"hasher": service.gallery.hasher.fingerprint, "key": key(1), "code": code(1)}
    public = client.device.public
    for device in (b"", public[:-1], public[:-1] + bytes([public[-1] ^ 1]), bytes(91)):
        path, body = client.request("enroll", "alice", **fields, device=device)
        with refused(422, "expected a P-256 public key"):
            service.post(path, body)


@pytest.mark.parametrize(
    ("content", "status"),
    [
        ("", 422),
        ("{", 422),
        ("[]", 422),
        ("null", 422),
        ('"text"', 422),
        ("{'a': 1}", 422),
        (b"\xff\xfe{}", 422),
        (b"\x00" * 100, 422),
        ("[" * 5000 + "]" * 5000, 422),
        ('{"a":' * 5000 + "1" + "}" * 5000, 422),
        ('{"subject": ' + "9" * 5000 + "}", 422),
        (" " * (2**18 + 1), 413),
        ('{"subject": "' + "a" * (2**18) + '"}', 413),
    ],
    ids=lambda value: str(value)[:12],
)
def test_other_bodies_are_refused(service, content, status):
    for action in ("nonce", "enroll-code", "verify-code", "renew-code", "revoke-code"):
        answer = service.send(f"/v1/door/{action}", content)
        assert answer.status_code == status, (action, answer.text)
        assert len(answer.text) < 1000


def test_a_body_that_is_sent_in_pieces_is_bounded(service):
    def pieces():
        for _ in range(100):
            yield b" " * 2**12

    headers = {**service.bearer("admin"), "Content-Type": "application/json"}
    assert service.http.post("/v1/door/verify-code", content=pieces(), headers=headers).status_code == 413


@pytest.mark.parametrize("name", ["subject", "nonce", "signature", "code"])
def test_a_name_twice_is_refused(service, alice, name):
    """Whichever of the two a proxy reads, this service does not read the other."""
    path, body = good(service, alice)
    for value in (body[name], "x"):
        text = json.dumps(body)[:-1] + f", {json.dumps(name)}: {json.dumps(value)}}}"
        answer = service.send(path, text)
        assert (answer.status_code, answer.json()) == (
            422,
            {"detail": "body: expected a JSON object in UTF-8 with each name once"},
        )
    assert service.post(path, body) == {"match": True}


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"])
def test_a_body_of_another_kind_is_refused(service, alice, kind):
    """A form of another site cannot be taken for a request."""
    path, body = good(service, alice)
    assert service.send(path, json.dumps(body), kind=kind).status_code == 422


def test_images_are_not_taken_at_all(service):
    for action in ("enroll", "verify", "identify", "renew", "align"):
        files = {"image": ("face.png", b"\x89PNG")}
        answer = service.http.post(f"/v1/door/{action}", files=files, headers=service.bearer("admin"))
        assert answer.status_code == 404


@given(st.binary(max_size=100))
def test_binary_values_have_one_form(data):
    text = encoded(data)
    assert decoded(text) == data
    for other in (text + "=", text + " ", " " + text, text.replace("-", "+") + "+"):
        with pytest.raises(ValueError, match="base64url"):
            decoded(other)


@given(st.text(max_size=20))
def test_no_other_text_is_a_binary_value(text):
    with contextlib.suppress(ValueError):
        assert encoded(decoded(text)) == text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)
NAMES = st.sampled_from(["subject", "hasher", "key", "code", "device", "nonce", "signature", "device_signature", "x"])
ACTIONS = ["nonce", "enroll-code", "verify-code", "renew-code", "revoke-code"]


@pytest.fixture(scope="module")
def lasting(tmp_path_factory):
    service = Service(tmp_path_factory.mktemp("lasting"))
    yield service
    service.place.close()


@given(st.sampled_from(ACTIONS), st.dictionaries(NAMES, JSON) | JSON)
def test_no_json_is_a_surprise(lasting, action, body):
    answer = lasting.send(f"/v1/door/{action}", json.dumps(body))
    assert answer.status_code == 422 or (action == "nonce" and body == {})


@given(st.sampled_from(ACTIONS), st.binary(max_size=200))
def test_no_bytes_are_a_surprise(lasting, action, body):
    assert lasting.send(f"/v1/door/{action}", body).status_code == 422 or body.strip() == b"{}"


# Who tries too often


def test_failures_of_the_device_are_limited_by_token_and_subject(tmp_path):
    service = Service(tmp_path, failures=12)
    client = service.client(SigningDevice(), "admin")
    client.enroll("alice", code(1), key(1))
    client.enroll("bob", code(1), key(2))
    assert [client.verify("alice", code(2), key(1))["match"] for _ in range(2)] == [False, False]
    for right in (code(2), code(1)):  # also with the right face: else the answer would tell
        with refused(429, "Too many failed attempts"):
            client.verify("alice", right, key(1))
    assert client.verify("bob", code(1), key(2)) == {"match": True}
    assert service.client(client.device, "verifier").verify("alice", code(1), key(1)) == {"match": True}
    assert [entry.event.action for entry in service.gallery.store.audit()].count("backoff") == 1
    service.place.close()


def test_another_device_cannot_lock_a_subject_out(tmp_path):
    """Requests that its device did not sign have a budget of their own, whatever token they come with."""
    service = Service(tmp_path, failures=12)
    client = service.client(SigningDevice(), "verifier")
    service.client(client.device).enroll("alice", code(1), key(1))
    statuses = []
    for role in ("verifier", "admin", "enroller"):
        thief = service.client(SigningDevice(), role)
        for _ in range(8):
            try:
                thief.verify("alice", code(1), key(1))
            except RefusedError as error:
                statuses.append(error.status)
    assert statuses[:4] == [403, 403, 429, 429]
    assert set(statuses) == {403, 429}
    assert len(statuses) == 24
    # The device is served with the very token of which the budget is used up.
    assert client.verify("alice", code(1), key(1)) == {"match": True}
    assert client.verify("alice", code(2), key(1)) == {"match": False}
    assert [entry.event.action for entry in service.gallery.store.audit()].count("backoff") == 3
    service.place.close()


def test_malformed_and_stale_requests_cost_no_attempt(tmp_path):
    service = Service(tmp_path, failures=12)
    client = service.client(SigningDevice())
    client.enroll("alice", code(1), key(1))
    path, body = good(service, client)
    service.post(path, body)
    for _ in range(10):
        with refused(409):
            service.post(path, body)
        with refused(409):
            client.verify("alice", code(1), key(6))
        with refused(422):
            client.verify("alice", b"", key(1))
    assert client.verify("alice", code(1), key(1)) == {"match": True}
    service.place.close()


def test_a_budget_of_refusals_fills_again():
    now, events = 0.0, []
    backoff = Backoff(12, lambda *event: events.append(event), clock=lambda: now)
    for _ in range(2):
        backoff.refusal("t", "door", "alice")
    with pytest.raises(RateLimitError):
        backoff.refusal("t", "door", "alice")
    backoff.refusal("t", "door", "bob")
    with backoff.verification("t", "door", "alice") as attempt:
        attempt.is_match = True
    now = 301.0
    backoff.refusal("t", "door", "alice")
    assert events == [("backoff", "door", ("alice",))]


def test_each_token_has_its_rate(tmp_path):
    service = Service(tmp_path, rate=0.001, burst=5)
    client = service.client(SigningDevice(), "verifier")
    with refused(429, "Too many requests"):
        for _ in range(6):
            client.nonce()
    assert service.client(SigningDevice(), "admin").nonce()
    service.place.close()


# What is told, and what is served


def test_logs_and_errors_tell_nothing(service, alice, caplog):
    with caplog.at_level(logging.DEBUG):
        sent = []
        for number in (1, 2):
            path, body = good(service, alice)
            sent += [body["code"], body["nonce"], body["signature"]]
            service.post(path, body)
            with contextlib.suppress(RefusedError):
                service.post(path, body | {"code": encoded(code(number, other=9)), "signature": encoded(bytes(64))})
            with contextlib.suppress(RefusedError):
                service.post(path, body | {"code": body["code"] + "="})
    lines = [record.getMessage() for record in caplog.records if record.name == "iom.service"]
    assert any(line.startswith("admin verify-code 200 ") for line in lines)
    told = caplog.text
    for secret in [*sent, "alice", "door", key(1), service.text["admin"], encoded(alice.device.public)]:
        assert secret not in "\n".join(lines)
    for secret in [*sent, service.text["admin"]]:
        assert secret not in told


def test_an_error_repeats_nothing_of_a_body(service, alice):
    path, body = good(service, alice)
    for changes in ({"code": "A" * 40 + "="}, {"key": "secret-key"}, {"nonce": "secret"}, {"hasher": "secret"}):
        answer = service.send(path, json.dumps(body | changes))
        assert answer.status_code == 422
        assert "secret" not in answer.text
        assert "AAAA" not in answer.text
    assert "secret" not in service.send(path, '{"secret": "secret", "secret": 1}').text


def test_the_unforeseen_tells_nothing(service, alice, monkeypatch, caplog):
    monkeypatch.setattr(service.gallery, "compare", lambda *_: 1 / 0)
    path, body = good(service, alice)
    answer = service.send(path, json.dumps(body))
    assert (answer.status_code, answer.json()) == (500, {"detail": "Internal server error"})
    assert body["code"] not in caplog.text


FILES = {
    "/": ("text/html; charset=utf-8", "no-cache"),
    "/sw.js": ("text/javascript; charset=utf-8", "no-cache"),
    "/app.webmanifest": ("application/manifest+json", "no-cache"),
    "/client/main-3FQ7KZ2A.js": ("text/javascript; charset=utf-8", "public, max-age=31536000, immutable"),
    "/client/ort-1f/ort-wasm-simd-threaded.wasm": ("application/wasm", "public, max-age=31536000, immutable"),
    "/artefact/tiny.web.json": ("application/json", "no-cache"),
    "/artefact/tiny.web/web.json": ("application/json", "no-cache"),
    "/artefact/tiny.web/embedder.onnx": ("application/octet-stream", "no-cache"),
}


@pytest.mark.parametrize("path", FILES)
def test_files_are_served_to_anybody(service, path):
    answer = service.http.get(path, headers={"Accept-Encoding": "identity"})
    assert answer.status_code == 200
    assert (answer.headers["content-type"], answer.headers["cache-control"]) == FILES[path]
    tag = answer.headers["etag"]
    for known in (tag, f'"other", {tag}', f"W/{tag}"):
        again = service.http.get(path, headers={"If-None-Match": known, "Accept-Encoding": "identity"})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert service.http.get(path, headers={"If-None-Match": '"other"'}).content == answer.content
    assert service.http.post(path).status_code == 405


def test_the_artefact_comes_whole(service):
    for name in ("web.json", "embedder.onnx"):
        served = service.http.get(f"/artefact/tiny.web/{name}").content
        assert served == (service.place.artifact / name).read_bytes()
    ready = service.http.get("/health/ready").json()
    assert ready == {
        "status": "ready",
        "aligns": False,
        "scores": False,
        "samples": 0,
        "on_device": True,
        "manifest": "/artefact/tiny.web.json",
        "other": None,
    }
    manifest = service.http.get(ready["manifest"]).json()
    assert manifest["fingerprint"] == service.gallery.hasher.fingerprint
    assert (manifest["code_length"], manifest["alphabet_size"]) == (LENGTH, ALPHABET)


def test_an_address_of_the_manifest_is_one(tmp_path, monkeypatch):
    """Whatever the name of the artefact: a page asks for what it is told."""
    artifact = web_artifact(tmp_path, name="tür 1#%")
    monkeypatch.setattr("tests.on_device.web_artifact", lambda *_, **__: artifact)
    service = Service(tmp_path)
    ready = service.http.get("/health/ready").json()
    assert ready["manifest"] == "/artefact/t%C3%BCr%201%23%25.web.json"
    assert service.http.get(ready["manifest"]).json()["fingerprint"] == service.gallery.hasher.fingerprint
    assert service.http.get("/artefact/t%C3%BCr%201%23%25.web/web.json").status_code == 200
    service.place.close()


def test_packed_files_are_served_packed(service):
    path = "/client/main-3FQ7KZ2A.js"
    for accepted, packed in (
        ("gzip, br", True),
        ("br;q=1.0, gzip;q=0.5", True),
        ("identity", False),
        ("gzip;q=0", False),
    ):
        answer = service.http.get(path, headers={"Accept-Encoding": accepted})
        assert answer.text == SCRIPT  # the client unpacks it
        assert (answer.headers.get("content-encoding") == "gzip") == packed
        assert answer.headers["vary"] == "Accept-Encoding"
        assert answer.headers["etag"].endswith('-gz"') == packed
        assert answer.headers["content-type"] == "text/javascript; charset=utf-8"
    assert service.http.get(f"{path}.gz").status_code == 401


def test_no_parts_of_a_file_are_served(service):
    path = "/artefact/tiny.web/embedder.onnx"
    whole = service.http.get(path)
    many = ",".join(f"{n}-{n}" for n in range(0, 4000, 2))
    for asked in ("bytes=0-9", "bytes=-5", f"bytes={many}"):
        part = service.http.get(path, headers={"Range": asked})
        assert (part.status_code, part.content) == (200, whole.content)
    assert whole.headers["accept-ranges"] == "none"


@pytest.mark.parametrize(
    "path",
    [
        "/page.html",
        "/client/",
        "/client",
        "/artefact/",
        "/artefact/tiny.web",
        "/artefact/tiny.web/../g.db",
        "/artefact/g.db",
        "/artefact/tokens.json",
        "/artefact/..%2fg.db",
        "/client/..%2f..%2fg.keys",
        "//etc/passwd",
        "/client/%2e%2e/page.html",
    ],
)
def test_nothing_else_is_served(service, path):
    assert service.http.get(path).status_code == 401
    assert service.http.get(path, headers=service.bearer("admin")).status_code in (404, 405)


@pytest.mark.parametrize("path", ["/", "/client/main-3FQ7KZ2A.js", "/health/ready", "/nowhere", "/v1/door/nonce"])
def test_every_answer_has_the_policy(service, path):
    headers = service.http.get(path).headers
    policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
    assert policy == {
        "default-src": "'none'",
        "script-src": "'self' 'wasm-unsafe-eval'",
        "worker-src": "'self'",
        "connect-src": "'self'",
        "img-src": "'self' blob: data:",
        "media-src": "'self' blob:",
        "style-src": "'self'",
        "manifest-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    for name, value in (
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-embedder-policy", "require-corp"),
        ("cross-origin-resource-policy", "same-origin"),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
    ):
        assert headers.get_list(name) == [value]
    assert len(headers.get_list("cache-control")) == 1
    assert "access-control-allow-origin" not in headers


def test_the_description_has_the_routes(service):
    paths = service.http.get("/openapi.json").json()["paths"]
    assert {
        f"/v1/{{application}}/{each}"
        for each in ("nonce", "enroll-code", "verify-code", "renew-code", "revoke-code", "revoke", "stats")
    } <= set(paths)
    assert not any(
        "image" in json.dumps(path["post"].get("requestBody", {})) for path in paths.values() if "post" in path
    )


def test_a_page_that_is_not_built_is_told(service, tmp_path):
    options = TokenFile(service.tokens), ServiceSettings()
    with pytest.raises(ConfigError, match="run make web"):
        create_on_device_app(service.gallery, service.place.artifact, *options, page=tmp_path / "none")
