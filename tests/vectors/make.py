"""Maker of the test vectors in this folder, for this program and for others that follow its formats.

    python -m tests.vectors.make [FOLDER]

docs/on_device.md describes the files. All numbers come from SHAKE-256 and signatures from RFC 6979, so that another run
writes the same bytes. Vectors are fixed for ever: a change of a derivation is a new version beside the old one.
"""

import dataclasses
import hashlib
import json
import math
import sys
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils

from iom.codes.packing import encoding_id, pack
from iom.export.web import packed_arrays
from iom.gallery.device_messages import ACTIONS, DeviceMessage, write_device
from iom.gallery.models import check_subject_id
from iom.keys import KEY_KINDS, SubjectToken, TransformKey, part_count, part_of
from iom.nn.hash_numpy import DECAY, RATE, Head
from iom.split.shares import code_to_bytes, share_code
from tests.vectors.pictures import pictures

HERE = Path(__file__).parent
FORMAT = 1
SECRETS = [bytes(32), bytes(range(32)), b"\xff" * 32, hashlib.sha256(b"iom/vectors/secret").digest()]
LABELS = [
    ("door", "alice", 0),
    ("door", "alice", 1),
    ("do", "oralice", 0),
    ("", "", 0),
    ("Büro", "Zoë", 7),
    ("door", "李四 😀", 2**53 - 1),
]
SIZES = {
    "permutation": [(1, 0), (8, 0), (128, 0), (128, 96), (513, 0)],
    "subset": [(8, 3), (128, 64), (512, 256)],
    "orthogonal": [(1, 0), (8, 0), (96, 0), (128, 0), (128, 64), (513, 0)],
    "part": [(8, 3), (128, 64), (130, 40), (512, 256)],
}
CODES = [(1, 2), (64, 2), (65, 2), (130, 3), (63, 8), (192, 8), (70, 256), (16, 256)]
STABLE, TRIALS = 2e-5, 40
"""Length of a change of an embedding (which has length 1) that changes no symbol; how many changes are tried."""
CANDIDATES = 4000


class Numbers:
    """A stream of numbers that is the same everywhere."""

    def __init__(self, name):
        self._name, self._place = name, 0

    def bytes(self, size):
        self._place += 1
        return hashlib.shake_256(f"iom/vectors/{self._name}/{self._place}".encode()).digest(size)

    def below(self, bound, size):
        return (np.frombuffer(self.bytes(8 * size), "<u8") % bound).astype(np.int64)

    def array(self, *shape):
        """Numbers of mean 0 and variance 1, exact in half precision."""
        words = np.frombuffer(self.bytes(2 * int(np.prod(shape))), "<u2").astype(np.float64)
        return ((words / 65536 - 0.5) * np.sqrt(12)).astype(np.float16).astype(np.float32).reshape(shape)


def keys():
    """Texts, identifiers, derivations and orders."""
    found = [TransformKey(secret) for secret in SECRETS]
    text = found[1].to_text()
    broken = [
        text[:-1],
        text[:-1] + ("0" if text[-1] != "0" else "1"),
        text.replace("iom-key-1", "iom-key-2"),
        text.replace("iom-key-1", "iom-token-1"),
        text.replace("iom-key-1:", "iom-key-1:A"),
        text.upper(),
        SubjectToken(SECRETS[1]).to_text(),
        "iom-key-1::",
        "",
    ]
    tokens = [SubjectToken(secret) for secret in (SECRETS[3], SECRETS[1])]
    return {
        "keys": [{"secret": k.secret.hex(), "text": k.to_text(), "identifier": k.identifier} for k in found],
        "broken_texts": broken,
        "derive": [
            {
                "secret": key.secret.hex(),
                "application": application,
                "subject": subject,
                "record": record,
                "derived": key.derive(application=application, subject=subject, record=record).secret.hex(),
            }
            for key in (found[1], found[3])
            for application, subject, record in LABELS
        ],
        "tokens": [
            {
                "secret": key.secret.hex(),
                "token": token.secret.hex(),
                "token_text": token.to_text(),
                "token_identifier": token.identifier,
                "derived": key.with_token(token).secret.hex(),
            }
            for key in found[1:3]
            for token in tokens
        ],
        "permutations": [
            {"secret": key.secret.hex(), "size": size, "order": key.permutation(size).tolist()}
            for key in found
            for size in (1, 2, 8, 128)
        ],
        "signed_orders": [
            {"secret": key.secret.hex(), "size": size, "order": key.signed_orders(size).tolist()}
            for key in found
            for size in (1, 2, 8, 128)
        ],
        "parts": [
            {"secret": key.secret.hex(), "size": size, "keep": keep, "parts": count, "part": part_of(key, count)}
            for key in found
            for size, keep in SIZES["part"]
            for count in [part_count(size, keep)]
        ],
        "orders": [
            {
                "secret": key.secret.hex(),
                "kind": name,
                "derivation": kind.derivation,
                "size": size,
                "keep": keep,
                "order": kind.order(key, size, keep).tolist(),
            }
            for key in (found[1], found[3])
            for name, kind in KEY_KINDS.items()
            for size, keep in SIZES[name]
        ],
    }


def codes():
    """Packed codes, damaged ones, distances and shares."""
    numbers = Numbers("codes")
    packed, distances, shares = [], [], []
    for length, alphabet in CODES:
        symbols = numbers.below(alphabet, length)
        other = np.where(numbers.below(3, length) == 0, numbers.below(alphabet, length), symbols)
        forms = [code_to_bytes(pack(each[None], alphabet)) for each in (symbols, other)]
        shape = {"code_length": length, "alphabet_size": alphabet}
        encoding = encoding_id(length, alphabet)
        packed.append({**shape, "encoding": encoding, "symbols": symbols.tolist(), "bytes": forms[0].hex()})
        apart = int(np.count_nonzero(symbols != other))
        distances.append({**shape, "first": forms[0].hex(), "second": forms[1].hex(), "distance": apart})
        pair = share_code(forms[0], encoding, random=numbers.bytes)
        shares.append({**shape, "code": forms[0].hex(), "shares": [each.hex() for each in pair]})
    one = pack(np.zeros((1, 65), np.int64), 3)
    zeros = code_to_bytes(one)
    broken = [
        ("a byte is missing", 65, 3, zeros[:-1]),
        ("a byte too many", 65, 3, zeros + b"\0"),
        ("a bit behind the last position", 65, 3, zeros[:9] + b"\x01" + zeros[10:]),
        ("a symbol that the alphabet does not have", 65, 3, b"\x01" + zeros[1:16] + b"\x01" + zeros[17:]),
    ]
    return {
        "codes": packed,
        "broken": [
            {"why": why, "code_length": length, "alphabet_size": alphabet, "bytes": data.hex()}
            for why, length, alphabet, data in broken
        ],
        "distances": distances,
        "shares": shares,
    }


def messages():
    """What devices sign, with their keys and signatures, and what is refused."""
    numbers = Numbers("messages")
    privates = [ec.derive_private_key(int.from_bytes(numbers.bytes(31), "big"), ec.SECP256R1()) for _ in range(2)]
    publics = [write_device(private.public_key()) for private in privates]
    asked = []
    for action in ACTIONS:
        for application, given in (("door", "alice"), ("Büro", "Zoe\u0308 李")):
            fields = {"action": action, "application": application, "subject": check_subject_id(given)}
            if action != "revoke":
                fields |= {"hasher": numbers.bytes(32).hex(), "key": numbers.bytes(16).hex(), "code": numbers.bytes(48)}
            if action == "enroll" or (action == "renew" and given == "alice"):
                fields["device"] = publics[0 if action == "enroll" else 1]
            asked.append((given, DeviceMessage(**fields, nonce=numbers.bytes(32))))
    asked += [
        (given, dataclasses.replace(message, nonce=numbers.bytes(32)).on_side("b")) for given, message in asked[::2]
    ]
    signed = [
        {
            **{name: each.hex() if isinstance(each, bytes) else each for name, each in vars(message).items()},
            "given_subject": given,
            "message": message.to_bytes().hex(),
            "signature": _signature(privates[0], message.to_bytes()).hex(),
        }
        for given, message in asked
    ]
    first = bytes.fromhex(signed[0]["message"])
    signature = bytes.fromhex(signed[0]["signature"])
    other_curve = ec.derive_private_key(7, ec.SECP256K1()).public_key()
    compressed = serialization.PublicFormat.CompressedPoint
    point = publics[0][:-65] + privates[0].public_key().public_bytes(serialization.Encoding.X962, compressed)
    numbers_of = [int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")]
    refused = [
        ("another message", publics[0], first + b"\0", signature),
        ("another device", publics[1], first, signature),
        ("a signature in DER", publics[0], first, utils.encode_dss_signature(*numbers_of)),
        ("r and s in each other's place", publics[0], first, signature[32:] + signature[:32]),
        ("zeros", publics[0], first, bytes(64)),
        ("a point that is not on the curve", publics[0][:-1] + bytes([publics[0][-1] ^ 1]), first, signature),
        ("another curve", write_device(other_curve), first, signature),
        ("a compressed point", point, first, signature),
    ]
    return {
        "devices": [
            {
                "pkcs8": private.private_bytes(
                    serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
                ).hex(),
                "spki": public.hex(),
            }
            for private, public in zip(privates, publics, strict=True)
        ],
        "messages": signed,
        "refused": [
            {"why": why, "device": device.hex(), "message": message.hex(), "signature": given.hex()}
            for why, device, message, given in refused
        ],
    }


def heads():
    """Small hash networks with every kind of step, embeddings, orders and the codes."""
    return {"stable": STABLE, "heads": [_head(name, *parts) for name, *parts in _networks()]}


def _networks():
    """Name, kind of keys, D, dimensions of the key, keep, M, Q, and the steps by name with settings and arrays."""
    n = Numbers("heads")
    scale = np.float32(0.25)
    refinement = {"gain": 4.0, "rate": RATE, "decay": DECAY}
    unit = ("unit", [-1], {}, {})

    def keyed(kind, keep):
        return (KEY_KINDS[kind].step, [-1, 1], {"keep": keep}, {})

    def projection(size, length, alphabet, steps):
        kernel = {"kernel": n.array(size, length * alphabet) * scale}
        return ("projection", [-1], {"alphabet_size": alphabet, "steps": steps, **refinement}, kernel)

    def product(size, length, alphabet, window, bias):
        settings = {"code_length": length, "half_norm_bias": bias, "window": window}
        return ("product", [-1], settings, {"codebook": n.array(window * size // length, alphabet) * scale})

    dense = ("dense", [-1], {}, {"kernel": n.array(24, 24) * scale})
    thirds = n.array(24, 24) / np.float32(3)  # not exact in half precision
    hidden = [
        unit,
        ("dense", [-1], {}, {"kernel": n.array(24, 32) * scale, "bias": n.array(32) * scale}),
        ("prelu", [-1], {}, {"slopes": n.array(32) * scale}),
        ("dense", [-1], {}, {"kernel": n.array(32, 24) * scale}),
        ("sum", [2, -1], {}, {}),
        unit,
    ]
    yield "plain", "permutation", 24, 24, 0, 20, 4, [unit, keyed("permutation", 0), projection(24, 20, 4, 0)]
    yield (
        "refined",
        "orthogonal",
        24,
        24,
        0,
        40,
        2,
        [unit, dense, unit, keyed("orthogonal", 0), projection(24, 40, 2, 10)],
    )
    yield (
        "refined, more symbols",
        "orthogonal",
        24,
        24,
        0,
        20,
        5,
        [unit, ("dense", [-1], {}, {"kernel": thirds}), unit, keyed("orthogonal", 0), projection(24, 20, 5, 4)],
    )
    yield (
        "hidden layer",
        "permutation",
        24,
        24,
        10,
        20,
        3,
        [*hidden, keyed("permutation", 10), unit, projection(10, 20, 3, 2)],
    )
    yield "subset", "subset", 24, 24, 12, 20, 4, [unit, keyed("subset", 12), unit, projection(12, 20, 4, 3)]
    yield "part", "part", 24, 24, 12, 20, 4, [unit, keyed("part", 12), unit, projection(12, 20, 4, 3)]
    yield (
        "kept of a rotation",
        "orthogonal",
        24,
        24,
        16,
        20,
        4,
        [unit, keyed("orthogonal", 16), unit, projection(16, 20, 4, 3)],
    )
    yield "product", "orthogonal", 24, 24, 0, 12, 8, [unit, keyed("orthogonal", 0), product(24, 12, 8, 1, True)]
    yield (
        "product without a bias",
        "orthogonal",
        24,
        24,
        0,
        12,
        8,
        [unit, keyed("orthogonal", 0), product(24, 12, 8, 1, False)],
    )
    yield "window", "orthogonal", 24, 24, 0, 12, 8, [unit, keyed("orthogonal", 0), product(24, 12, 8, 2, True)]
    yield "long window", "orthogonal", 80, 80, 0, 40, 4, [unit, keyed("orthogonal", 0), product(80, 40, 4, 2, True)]


def _head(name, kind, dimensions, size, keep, length, alphabet, named):
    steps, arrays = [], {}
    for number, (step, reads, settings, values) in enumerate(named):
        table = {setting: f"{number}/{setting}" for setting in values}
        arrays |= {table[setting]: value for setting, value in values.items()}
        before = number + 1 if number else 0
        given = [before if read == -1 else read for read in reads]
        steps.append({"step": step, "reads": given, "settings": settings, "arrays": table})
    data, described = packed_arrays(arrays)
    vectors = []
    numbers = Numbers(f"embeddings of {name}")
    for secret in (SECRETS[1], SECRETS[3]):
        order = KEY_KINDS[kind].order(TransformKey(secret), size, keep)
        for _ in range(2):
            embedding, symbols = _stable(steps, arrays, numbers, dimensions, order)
            vectors.append({"secret": secret.hex(), "embedding": embedding.tolist(), "symbols": symbols.tolist()})
    return {
        "name": name,
        "code_length": length,
        "alphabet_size": alphabet,
        "key": {"kind": kind, "derivation": KEY_KINDS[kind].derivation, "size": size, "keep": keep},
        "head": {"steps": steps, "arrays": described},
        "head_bin": data.hex(),
        "vectors": vectors,
    }


def _stable(steps, arrays, numbers, dimensions, order):
    """The first embedding of the stream whose code is the same in single and double precision, and near by."""
    single = Head(steps, arrays)
    double = Head(steps, {name: value.astype(np.float64) for name, value in arrays.items()})
    for _ in range(CANDIDATES):
        row = numbers.array(dimensions).astype(np.float64)
        embedding = (row / math.sqrt(math.fsum(row * row))).astype(np.float32)  # the same on every machine
        noise = np.stack([numbers.array(dimensions) for _ in range(TRIALS)]).astype(np.float64)
        near = embedding + STABLE * noise / np.linalg.norm(noise, axis=1, keepdims=True)
        orders = np.tile(order, (TRIALS, 1))
        symbols = single.hash(embedding[None], orders[:1])[0]
        found = np.concatenate([double.hash(embedding[None].astype(np.float64), orders[:1]), double.hash(near, orders)])
        if (found == symbols).all():
            return embedding, symbols
    raise AssertionError("no embedding without near ties; draw another network")


def _signature(private, message):
    algorithm = ec.ECDSA(hashes.SHA256(), deterministic_signing=True)
    return b"".join(n.to_bytes(32, "big") for n in utils.decode_dss_signature(private.sign(message, algorithm)))


MAKERS = {"keys": keys, "codes": codes, "messages": messages, "heads": heads, "pictures": pictures}


def written(name):
    """The text of a file of vectors."""
    values = {"format": FORMAT, **MAKERS[name]()}
    return json.dumps(values, ensure_ascii=True, indent=None, separators=(",", ":")).replace("},{", "},\n{") + "\n"


def main(folder=HERE):
    """Write all files."""
    for name in MAKERS:
        path = Path(folder) / f"{name}.json"
        path.write_text(written(name), encoding="utf-8")
        print(path, path.stat().st_size)


if __name__ == "__main__":
    main(*sys.argv[1:])
