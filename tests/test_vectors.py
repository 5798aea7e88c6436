"""The test vectors that other clients read, against this program, and against what would pass by chance."""

import json

import numpy as np
import pytest

from iom.codes.packing import encoding_id, unpack
from iom.errors import CodeError, KeyMaterialError
from iom.gallery.device_messages import ACTIONS, DeviceMessage, read_device
from iom.gallery.models import check_subject_id
from iom.keys import KEY_KINDS, SubjectToken, TransformKey, part_count, part_of
from iom.nn.hash_numpy import STEPS, Head
from iom.split.shares import code_from_bytes, join_code
from tests.vectors.make import HERE, MAKERS, written


@pytest.fixture(scope="module", params=sorted(MAKERS))
def name(request):
    return request.param


def read(name):
    return json.loads((HERE / f"{name}.json").read_text(encoding="ascii"))


def key_of(vector):
    return TransformKey(bytes.fromhex(vector["secret"]))


def test_another_run_writes_the_same(name):
    assert (HERE / f"{name}.json").read_text(encoding="ascii") == written(name)


def test_texts_and_identifiers():
    found = read("keys")
    for vector in found["keys"]:
        key = key_of(vector)
        assert key.to_text() == vector["text"]
        assert TransformKey.from_text(vector["text"]) == key
        assert key.identifier == vector["identifier"]
    assert len({vector["identifier"] for vector in found["keys"]}) == len(found["keys"])
    for text in found["broken_texts"]:
        with pytest.raises(KeyMaterialError):
            TransformKey.from_text(text)


def test_an_identifier_is_no_key_of_anything_else():
    key = TransformKey(bytes(range(32)))
    secrets = [key.secret, key.derive(application="door", subject="alice").secret, key.stream("identifier", 32)]
    assert all(key.identifier not in secret.hex() for secret in secrets)
    assert key.identifier != SubjectToken(key.secret).identifier


def test_derivations():
    found = read("keys")
    for vector in found["derive"]:
        labels = {name: vector[name] for name in ("application", "subject", "record")}
        assert key_of(vector).derive(**labels).secret.hex() == vector["derived"]
    for vector in found["tokens"]:
        token = SubjectToken(bytes.fromhex(vector["token"]))
        assert (token.to_text(), token.identifier) == (vector["token_text"], vector["token_identifier"])
        assert key_of(vector).with_token(token).secret.hex() == vector["derived"]


def test_orders():
    found = read("keys")
    for vector in found["permutations"]:
        assert key_of(vector).permutation(vector["size"]).tolist() == vector["order"]
    for vector in found["signed_orders"]:
        assert key_of(vector).signed_orders(vector["size"]).tolist() == vector["order"]
    for vector in found["parts"]:
        assert part_count(vector["size"], vector["keep"]) == vector["parts"]
        assert part_of(key_of(vector), vector["parts"]) == vector["part"]
    for vector in found["orders"]:
        kind = KEY_KINDS[vector["kind"]]
        assert kind.derivation == vector["derivation"]
        assert kind.order(key_of(vector), vector["size"], vector["keep"]).tolist() == vector["order"]
    assert {vector["kind"] for vector in found["orders"]} == set(KEY_KINDS)


def test_codes_and_shares():
    found = read("codes")
    for vector in found["codes"]:
        encoding = encoding_id(vector["code_length"], vector["alphabet_size"])
        assert encoding == vector["encoding"]
        assert unpack(code_from_bytes(bytes.fromhex(vector["bytes"]), encoding))[0].tolist() == vector["symbols"]
    for vector in found["broken"]:
        encoding = encoding_id(vector["code_length"], vector["alphabet_size"])
        with pytest.raises(CodeError):
            unpack(code_from_bytes(bytes.fromhex(vector["bytes"]), encoding))
    for vector in found["distances"]:
        encoding = encoding_id(vector["code_length"], vector["alphabet_size"])
        first, second = (unpack(code_from_bytes(bytes.fromhex(vector[each]), encoding)) for each in ("first", "second"))
        assert np.count_nonzero(first != second) == vector["distance"]
    for vector in found["shares"]:
        encoding = encoding_id(vector["code_length"], vector["alphabet_size"])
        joined = join_code(*map(bytes.fromhex, vector["shares"]), encoding)
        assert joined.planes.astype("<u8").tobytes().hex() == vector["code"]
        assert vector["code_length"] == 1 or vector["code"] not in vector["shares"]


def test_messages():
    found = read("messages")
    device = bytes.fromhex(found["devices"][0]["spki"])
    for vector in found["messages"]:
        assert check_subject_id(vector["given_subject"]) == vector["subject"]
        raw = {each: bytes.fromhex(vector[each]) for each in ("code", "device", "nonce")}
        texts = {each: vector[each] for each in ("action", "application", "subject", "hasher", "key")}
        message = DeviceMessage(**texts, **raw)
        assert message.to_bytes().hex() == vector["message"]
        assert message.is_signed_by(device, bytes.fromhex(vector["signature"]))
    assert {vector["action"] for vector in found["messages"]} == {*ACTIONS, *(f"{each}/b" for each in ACTIONS)}
    assert len({vector["message"] for vector in found["messages"]}) == len(found["messages"])


def test_refused_signatures():
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, utils

    for vector in read("messages")["refused"]:
        signature = bytes.fromhex(vector["signature"])
        half = (int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:64], "big"))
        with pytest.raises((KeyMaterialError, InvalidSignature)):  # noqa: PT012
            device = read_device(bytes.fromhex(vector["device"]))
            if len(signature) != 64:
                raise InvalidSignature
            device.verify(
                utils.encode_dss_signature(*half), bytes.fromhex(vector["message"]), ec.ECDSA(hashes.SHA256())
            )


def test_heads():
    used = set()
    for head in read("heads")["heads"]:
        data, stated = bytes.fromhex(head["head_bin"]), head["head"]
        arrays = {
            name: np.frombuffer(data, f"<{'f2' if each['dtype'] == 'float16' else 'f4'}", count, each["offset"])
            .reshape(each["shape"])
            .astype(np.float32)
            for name, each in stated["arrays"].items()
            for count in [int(np.prod(each["shape"]))]
        }
        network, key = Head(stated["steps"], arrays), head["key"]
        used |= {step["step"] for step in stated["steps"]}
        for vector in head["vectors"]:
            order = KEY_KINDS[key["kind"]].order(key_of(vector), key["size"], key["keep"])
            embedding = np.array([vector["embedding"]], np.float32)
            assert network.hash(embedding, order[None])[0].tolist() == vector["symbols"]
            assert len(vector["symbols"]) == head["code_length"]
            assert max(vector["symbols"]) < head["alphabet_size"]
        first, other = (each["symbols"] for each in head["vectors"][:2])
        assert first != other
    assert used == set(STEPS)
    assert {head["key"]["kind"] for head in read("heads")["heads"]} == set(KEY_KINDS)
