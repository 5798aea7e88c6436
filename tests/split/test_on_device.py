"""Codes of devices in two shares at two services: neither has a code, and both are needed."""

from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iom.codes.packing import encoding_id
from iom.errors import ConfigError, EnrolmentError, StoreError
from iom.gallery.device_messages import DeviceMessage
from iom.gallery.on_device import Side
from iom.gallery.templates import unmasked
from iom.keys import TransformKey
from iom.service.on_device import create_on_device_app, decoded, encoded
from iom.service.on_device_client import OnDeviceClient, SigningDevice
from iom.service.settings import ServiceSettings
from iom.service.tokens import TokenFile, add_token
from iom.split.on_device import SplitOnDeviceClient
from iom.split.shares import share_code, xor
from tests.on_device import ALPHABET, LENGTH, THRESHOLD, code, key, symbols
from tests.service.test_on_device import Service, refused

ENCODING = encoding_id(LENGTH, ALPHABET)
PAGE, SECOND = "https://faces.example", "https://shares.example:8443"


class Pair:
    """Two services with a folder each, and a device."""

    def __init__(self, folder, **options):
        pair = TransformKey.generate()
        for name in ("a", "b"):
            (folder / name).mkdir()
        self.a = Service(folder / "a", side=Side("a", pair), other=SECOND, **options)
        self.b = Service(folder / "b", side=Side("b", pair), other=PAGE, **options)
        self.device = SigningDevice()
        self.client = self.of(self.device)

    def of(self, device, role="admin"):
        clients = (each.client(device, role) for each in (self.a, self.b))
        return SplitOnDeviceClient(*clients, encoding=ENCODING)

    def stored(self, service, subject="alice"):
        """The share that a service has, without its mask."""
        gallery = service.gallery
        reference = gallery.references(subject, application="door")
        return unmasked(gallery.keys, gallery.application("door"), reference).planes.astype("<u8").tobytes()

    def request(self, seed=1, number=1, *, subject="alice"):
        """The two requests of a verification: that to b, and what is sent to a without its answer."""
        a, b = self.a.client(self.device), self.b.client(self.device)
        nonce = a.nonce()
        one, two = share_code(code(seed), ENCODING)
        path, body = b.request("verify", subject, **b.coded(two, key(number)))
        to_b = path.replace("verify-code", "verify-share"), {**body, "other_nonce": encoded(nonce)}
        return to_b, a.request("verify", subject, **a.coded(one, key(number)), nonce=nonce)

    def close(self):
        for each in (self.a, self.b):
            each.place.close()


@pytest.fixture
def pair(tmp_path):
    pair = Pair(tmp_path)
    yield pair
    pair.close()


@pytest.fixture
def alice(pair):
    pair.client.enroll("alice", code(1), key(1))
    return pair.client


def test_a_whole_life(pair):
    client = pair.client
    assert client.enroll("alice", code(1), key(1)) == {"subject": "alice", "slots": [0]}
    assert client.verify("alice", code(1, other=THRESHOLD), key(1)) == {"match": True}
    assert client.verify("alice", code(1, other=THRESHOLD + 1), key(1)) == {"match": False}
    assert client.renew("alice", code(3), key(2)) == {"subject": "alice", "slots": [0]}
    with refused(410, "under this key was renewed or revoked"):
        client.verify("alice", code(1), key(1))
    assert client.verify("alice", code(3), key(2)) == {"match": True}
    client.renew("alice", code(4), key(3), device=SigningDevice())
    assert client.verify("alice", code(4), key(3)) == {"match": True}
    assert client.revoke("alice") == {"revoked": 1}
    with refused(410):
        client.verify("alice", code(4), key(3))
    assert pair.a.gallery.check() == pair.b.gallery.check() == []


def test_each_store_holds_noise(pair):
    """The same code, enrolled many times: every bit of each share is a coin, and together they are the code."""
    subjects = [f"s{number}" for number in range(60)]
    for number, subject in enumerate(subjects):
        pair.client.enroll(subject, code(1), key(number))
    for service in (pair.a, pair.b):
        bits = np.array([np.unpackbits(np.frombuffer(pair.stored(service, each), np.uint8)) for each in subjects])
        used = bits.any(axis=0)
        assert used.sum() == 3 * LENGTH  # nothing behind the last position
        assert 0.45 < bits[:, used].mean() < 0.55
        assert bits[:, used].mean(axis=0).max() < 0.85
        assert code(1)[:12] not in b"".join(path.read_bytes() for path in service.place.folder.glob("g.*"))
    for each in subjects:
        assert xor(pair.stored(pair.a, each), pair.stored(pair.b, each)) == code(1)


@pytest.fixture(scope="module")
def lasting(tmp_path_factory):
    pair = Pair(tmp_path_factory.mktemp("lasting"), scores=True, failures=1e6)
    pair.client.enroll("alice", code(1), key(1))
    yield pair
    pair.close()


@settings(max_examples=25)
@given(st.integers(0, 2**32), st.integers(0, LENGTH))
def test_the_distance_is_that_of_the_codes(lasting, seed, other):
    expected = np.count_nonzero(symbols(1) != symbols(seed, other=other))
    answer = lasting.client.verify("alice", code(seed, other=other), key(1))
    assert answer == {"match": bool(expected <= THRESHOLD), "distance": expected, "threshold": THRESHOLD}


def test_one_service_alone_decides_nothing(pair, alice):
    _, (path, body) = pair.request()
    with refused(422, "other: expected the difference that the other service sealed"):
        pair.a.post(path, body)
    to_b, _ = pair.request()
    with refused(404):  # b has no such route
        pair.b.post(to_b[0].replace("verify-share", "verify-code"), to_b[1])
    assert pair.a.send("/v1/door/verify-share", "{}").status_code == 404


@pytest.mark.parametrize("bit", [0, 95, 96, 200, 479, -1])
def test_an_altered_difference_is_none(pair, alice, bit):
    to_b, (path, body) = pair.request()
    sealed = bytearray(decoded(pair.b.post(*to_b)["difference"]))
    sealed[bit // 8] ^= 1
    with refused(422, "other: expected the difference"):
        pair.a.post(path, body | {"other": encoded(bytes(sealed))})


@pytest.mark.parametrize("length", [0, 11, 12, 27, 60])
def test_a_cut_difference_is_none(pair, alice, length):
    to_b, (path, body) = pair.request()
    sealed = decoded(pair.b.post(*to_b)["difference"])
    with refused(422, "other: expected the difference"):
        pair.a.post(path, body | {"other": encoded(sealed[:length])})


def test_a_difference_serves_its_request_alone(pair, alice):
    """Those of another subject, of another request, and one that was used."""
    pair.client.enroll("bob", code(1), key(7))
    of_bob, _ = pair.request(number=7, subject="bob")
    earlier, _ = pair.request()
    _, (path, body) = pair.request()
    for asked in (of_bob, earlier):
        sealed = pair.b.post(*asked)["difference"]
        with refused(422, "other: expected the difference"):
            pair.a.post(path, body | {"other": sealed})
        _, (path, body) = pair.request()
    of_bob, _ = pair.request(number=7, subject="bob")
    to_b, (path, body) = pair.request()
    nonce = to_b[1]["other_nonce"]
    sealed = pair.b.post(of_bob[0], of_bob[1] | {"other_nonce": nonce})["difference"]
    with refused(422, "other: expected the difference"):
        pair.a.post(path, body | {"other": sealed})
    to_b, (path, body) = pair.request()
    sealed = pair.b.post(*to_b)["difference"]
    assert pair.a.post(path, body | {"other": sealed}) == {"match": True}
    with refused(409, "nonce was used"):
        pair.a.post(path, body | {"other": sealed})
    with refused(409, "nonce was used"):
        pair.b.post(*to_b)


def test_a_difference_under_another_key_is_none(pair, alice):
    pair.b.gallery.side = Side("b", TransformKey.generate())
    with refused(422, "that the two have one pair key"):
        alice.verify("alice", code(1), key(1))


def test_the_device_learns_nothing_but_the_decision(pair, alice):
    """What b gives it is as long for each probe, another each time, and not the difference."""
    seen = set()
    for seed in (1, 1, 2):
        to_b, _ = pair.request(seed)
        answer = pair.b.post(*to_b)
        assert set(answer) == {"difference"}
        sealed = decoded(answer["difference"])
        assert len(sealed) == 12 + len(code(1)) + 16
        assert xor(decoded(to_b[1]["code"]), pair.stored(pair.b)) not in sealed
        seen.add(sealed)
    assert len(seen) == 3


def test_requests_of_one_service_are_none_of_the_other(pair, alice):
    """Their nonces are of two key stores."""
    to_b, (path, body) = pair.request()
    with refused(409, "not one of this application"):
        pair.a.post(path, {name: value for name, value in to_b[1].items() if name != "other_nonce"})
    with refused(409, "not one of this application"):
        pair.b.post(to_b[0], body | {"other_nonce": body["nonce"]})


def test_a_request_for_one_service_is_none_for_the_other(pair, alice):
    """A service that passes on a nonce of the other as its own could else ask that one, and learn its share."""
    a, b = pair.a.client(pair.device), pair.b.client(pair.device)
    path, body = a.request("verify", "alice", **a.coded(share_code(code(1), ENCODING)[0], key(1)), nonce=b.nonce())
    with refused(403, "not signed by its device"):
        pair.b.post(path.replace("verify-code", "verify-share"), {**body, "other_nonce": encoded(a.nonce())})
    path, body = b.request("verify", "alice", **b.coded(share_code(code(1), ENCODING)[1], key(1)), nonce=a.nonce())
    with refused(403, "not signed by its device"):
        pair.a.post(path, {**body, "other": encoded(bytes(60))})
    for action, fields in (
        ("renew", a.coded(code(3), key(3))),
        ("enroll", {**a.coded(code(4), key(4)), "device": pair.device.public}),
        ("revoke", {}),
    ):
        subject = "bob" if action == "enroll" else "alice"
        for mine, theirs in ((a, b), (b, a)):
            with refused(403, "not signed by its device"):
                theirs.post(*mine.request(action, subject, nonce=theirs.nonce(), **fields))


def test_another_device_is_refused_by_both(pair, alice):
    thief = pair.of(SigningDevice())
    with refused(403):
        thief.verify("alice", code(1), key(1))
    with refused(403):
        thief.renew("alice", code(1), key(5))
    with refused(403):
        thief.revoke("alice")


@pytest.mark.parametrize("side", ["a", "b"])
def test_one_revocation_is_enough(pair, alice, side):
    getattr(pair, side).gallery.revoke("alice", application="door")
    with refused(410):
        alice.verify("alice", code(1), key(1))


@pytest.mark.parametrize(("failing", "other"), [("a", "b"), ("b", "a")])
def test_a_revocation_reaches_one_service_where_the_other_fails(pair, alice, failing, other, monkeypatch):
    gallery = getattr(pair, failing).gallery
    monkeypatch.setattr(gallery.store, "revoke", Mock(side_effect=StoreError("the disk is full")))
    with refused(503):
        alice.revoke("alice")
    assert gallery.store.stats("door").references == 1
    assert getattr(pair, other).gallery.store.stats("door").references == 0


@pytest.mark.parametrize("side", ["a", "b"])
def test_what_reached_one_service_alone_is_repeated(pair, side):
    one, _ = share_code(code(1), ENCODING)
    getattr(pair, side).client(pair.device).enroll("alice", one, key(1))
    with refused(404):
        pair.client.verify("alice", code(1), key(1))
    pair.client.enroll("alice", code(1), key(2))
    assert pair.client.verify("alice", code(1), key(2)) == {"match": True}
    getattr(pair, side).client(pair.device).renew("alice", one, key(3))
    for number in (2, 3):
        with pytest.raises(Exception, match=r"another key|renewed"):
            pair.client.verify("alice", code(1), key(number))
    pair.client.renew("alice", code(1), key(4))
    assert pair.client.verify("alice", code(1), key(4)) == {"match": True}
    assert pair.a.gallery.check() == pair.b.gallery.check() == []


def test_a_refusal_by_both_services_stays_one(pair, alice):
    with refused(409, "enrolled already"):
        alice.enroll("alice", code(3), key(2))
    with refused(404):
        alice.renew("bob", code(3), key(2))
    assert alice.verify("alice", code(1), key(1)) == {"match": True}
    with refused(404):
        alice.verify("bob", code(3), key(2))


def test_a_new_device_is_refused_where_one_service_lacks_the_subject(pair):
    one, _ = share_code(code(1), ENCODING)
    pair.a.client(pair.device).enroll("alice", one, key(1))
    with refused(404):
        pair.client.renew("alice", code(1), key(2), device=SigningDevice())
    assert pair.b.gallery.store.stats("door").references == 0


def test_shares_of_two_enrolments_are_noise(pair, alice):
    """The share of b is of another run, under the same key."""
    _, other = share_code(code(2), ENCODING)
    pair.b.gallery.revoke("alice", application="door")
    b = pair.b.client(pair.device)
    b.enroll("alice", other, key(9), returning=True)
    a = pair.a.client(pair.device)
    mine, _ = share_code(code(1), ENCODING)
    a.renew("alice", mine, key(9))
    assert pair.client.verify("alice", code(1), key(9)) == {"match": False}


def test_b_counts_every_attempt(tmp_path):
    pair = Pair(tmp_path, failures=12)
    pair.client.enroll("alice", code(1), key(1))
    assert [pair.client.verify("alice", code(1), key(1))["match"] for _ in range(2)] == [True, True]
    with refused(429, "Too many failed attempts"):
        pair.client.verify("alice", code(1), key(1))
    pair.close()


def test_the_page_may_ask_the_second_service_and_no_other_page_may(pair):
    ask = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
    allowed = pair.b.http.options("/v1/door/verify-share", headers={"Origin": PAGE, **ask})
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == PAGE
    assert "access-control-allow-credentials" not in allowed.headers
    for origin in ("https://evil.example", f"{PAGE}.evil.example", "null", SECOND):
        other = pair.b.http.options("/v1/door/verify-share", headers={"Origin": origin, **ask})
        assert other.status_code == 400
        assert "access-control-allow-origin" not in other.headers
    answer = pair.b.http.post("/v1/door/nonce", json={}, headers={**pair.b.bearer("admin"), "Origin": PAGE})
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert answer.headers["vary"] == "Origin"
    assert answer.headers["x-content-type-options"] == "nosniff"
    refusal = pair.b.http.post("/v1/door/nonce", json={}, headers={"Origin": PAGE})
    assert (refusal.status_code, refusal.headers["access-control-allow-origin"]) == (401, PAGE)
    for origin in (PAGE, SECOND):
        here = pair.a.http.options("/v1/door/verify-code", headers={"Origin": origin, **ask})
        assert "access-control-allow-origin" not in here.headers


def test_the_page_is_at_the_first_service(pair):
    assert pair.a.http.get("/").status_code == 200
    assert pair.b.http.get("/").status_code == 401
    assert pair.b.http.get("/artefact/tiny.web.json").status_code == 401
    ready = pair.a.http.get("/health/ready").json()
    assert (ready["other"], ready["manifest"]) == (SECOND, "/artefact/tiny.web.json")
    ready = pair.b.http.get("/health/ready").json()
    assert (ready["other"], ready["manifest"], ready["on_device"]) == (None, None, True)
    assert f"connect-src 'self' {SECOND};" in pair.a.http.get("/").headers["content-security-policy"]
    assert "connect-src 'self';" in pair.b.http.get("/health/live").headers["content-security-policy"]


def test_each_side_does_its_own_part_alone(pair, alice):
    """Called in Python, where no route is missing."""

    def admitted(service, application="door"):
        client = OnDeviceClient(
            service.post,
            application=application,
            hasher=service.gallery.hasher.fingerprint,
            device=pair.device,
            side=service.gallery.side.name if application == "door" else "",
        )
        _, body = client.request("verify", "alice", **client.coded(code(1), key(1)))
        fields = {name: decoded(body[name]) for name in ("code", "nonce")}
        message = DeviceMessage(
            action="verify", application=application, subject="alice", hasher=body["hasher"], key=key(1), **fields
        )
        return service.gallery.admit(message, decoded(body["signature"])), message

    with pytest.raises(EnrolmentError, match="this one is not on side b"):
        pair.a.gallery.difference(*admitted(pair.a), bytes(32))
    with pytest.raises(EnrolmentError, match="this one is not on side a"):
        pair.b.gallery.compare(*admitted(pair.b), b"x")
    pair.b.gallery.create_application("whole", key_mode="device")
    pair.b.text["admin"] = add_token(pair.b.tokens, name="whole", application="whole", role="admin")
    whole = OnDeviceClient(
        pair.b.post, application="whole", hasher=pair.b.gallery.hasher.fingerprint, device=pair.device
    )
    whole.enroll("alice", code(1), key(1))
    with pytest.raises(EnrolmentError, match="application whole has whole codes"):
        pair.b.gallery.difference(*admitted(pair.b, "whole"), bytes(32))


def test_shares_and_whole_codes_do_not_mix(pair, alice, tmp_path):
    pair.a.gallery.side = None
    with refused(409, "shares are compared by two services"):
        alice.verify("alice", code(1), key(1))
    (tmp_path / "whole").mkdir()
    whole = Service(tmp_path / "whole")
    client = whole.client(SigningDevice())
    client.enroll("alice", code(1), key(1))
    path, body = client.request("verify", "alice", **client.coded(code(1), key(1)))
    with refused(422, "expected none, as application door has whole codes"):
        whole.post(path, body | {"other": "AAAA"})
    whole.place.close()


@pytest.mark.parametrize(
    "other", ["", "shares.example", "https://a.example/path", "https://a b", "javascript:x", "https://x; y"]
)
def test_an_address_is_one(pair, other):
    options = TokenFile(pair.a.tokens), ServiceSettings()
    with pytest.raises(ConfigError, match="expected the address of the other service"):
        create_on_device_app(pair.a.gallery, pair.a.place.artifact, *options, other=other)


def test_a_side_is_a_or_b():
    with pytest.raises(ConfigError, match="expected a or b"):
        Side("c", TransformKey.generate())
    text = repr(Side("a", pair_key := TransformKey.generate()))
    assert pair_key.to_text() not in text


def test_a_gallery_without_shares_is_told(pair, tmp_path):
    (tmp_path / "whole").mkdir()
    whole = Service(tmp_path / "whole")
    whole.gallery.side = pair.a.gallery.side
    with pytest.raises(EnrolmentError, match="iom init --key-mode device-share"):
        whole.gallery.check_hashers()
    whole.place.close()
