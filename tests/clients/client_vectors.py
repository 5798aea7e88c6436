"""Makes `tests/vectors/heads.json` and `pictures.json`, which clients in other languages are tested with.

`python -m tests.clients.client_vectors` writes both anew; `test_client_vectors.py` says whether they hold.
"""

import base64
import json
import math
from pathlib import Path

import numpy as np
from PIL import Image

from iom.export.web import packed_arrays
from iom.keys import KEY_KINDS, TransformKey
from iom.nn.hash_numpy import Head
from iom.photos.align import FaceTemplate, align

FOLDER = Path(__file__).parents[1] / "vectors"
SIZE, ROWS = 24, 4
REFINEMENT = {"gain": 4.0, "rate": 1.0, "decay": 0.5}
CASES = {
    "permutation": ("permutation", 16, "projection", {"alphabet_size": 8, "steps": 0}, 20),
    "subset": ("subset", 12, "projection", {"alphabet_size": 4, "steps": 6}, 33),
    "part": ("part", 9, "projection", {"alphabet_size": 3, "steps": 3}, 17),
    "orthogonal": ("orthogonal", 0, "projection", {"alphabet_size": 2, "steps": 10}, 100),
    "orthogonal kept": ("orthogonal", 10, "projection", {"alphabet_size": 16, "steps": 5}, 31),
    "product": ("orthogonal", 0, "product", {"window": 1, "half_norm_bias": False}, 12),
    "product with bias": ("orthogonal", 0, "product", {"window": 1, "half_norm_bias": True}, 8),
    "window": ("orthogonal", 0, "product", {"window": 2, "half_norm_bias": True}, 12),
    "window kept": ("orthogonal", 20, "product", {"window": 2, "half_norm_bias": False}, 20),
}
TEMPLATES = {
    "whole": {"size": 28, "scale": 0.25, "shift": (0.0, 0.0)},
    "cut": {"size": 24, "scale": 0.4, "shift": (-9.5, -12.0)},
}
FACES = {
    "enlarged": (60, 50, (20.0, 17.0), 0.2, 0.1),
    "shrunk": (300, 260, (90.0, 70.0), 1.7, -0.4),
    "beyond the edge": (70, 90, (-8.0, 30.0), 0.6, 0.9),
    "not whole blocks": (223, 151, (31.0, 5.0), 1.3, 0.05),
}
SIZES = {"halved": (64, 48, 32, 24), "odd": (97, 61, 41, 26), "enlarged": (20, 15, 31, 22), "one line": (50, 9, 7, 1)}


def head_case(name, number):
    """A hash, some embeddings, a key, and the codes."""
    kind, keep, last, settings, code_length = CASES[name]
    stream = np.random.default_rng(number)

    def normal(*shape):
        return stream.standard_normal(shape).astype(np.float32)

    named = [
        ("unit", [0], {}, {}),
        ("dense", [2], {}, {"kernel": normal(SIZE, SIZE), "bias": normal(SIZE)}),
        ("prelu", [3], {}, {"slopes": np.abs(normal(SIZE))}),
        ("sum", [4, 2], {}, {}),
        (KEY_KINDS[kind].step, [5, 1], {"keep": keep}, {}),
        ("unit", [6], {}, {}),
    ]
    kept = keep or SIZE
    if last == "product":
        alphabet, window = 8, settings["window"]
        settings = {"code_length": code_length, **settings}
        arrays = {"codebook": normal(window * kept // code_length, alphabet) / np.float32(math.sqrt(kept))}
    else:
        alphabet, settings = settings["alphabet_size"], {**settings, **REFINEMENT}
        arrays = {"kernel": normal(kept, code_length * alphabet).astype(np.float16).astype(np.float32)}
    named.append((last, [7], settings, arrays))
    values = {f"{i}/{setting}": array for i, (*_, found) in enumerate(named) for setting, array in found.items()}
    steps = [
        {"step": step, "reads": reads, "settings": facts, "arrays": {setting: f"{i}/{setting}" for setting in found}}
        for i, (step, reads, facts, found) in enumerate(named)
    ]
    data, table = packed_arrays(values)
    case = {
        "head": {"steps": steps, "arrays": table},
        "data": base64.b64encode(data).decode(),
        "alphabet_size": alphabet,
        "key": {"secret": stream.bytes(32).hex(), "kind": kind, "size": SIZE, "keep": keep},
        "embeddings": base64.b64encode(normal(ROWS, SIZE).astype("<f4").tobytes()).decode(),
    }
    return {**case, "symbols": symbols_of(case).tolist()}


def symbols_of(case):
    """Codes of the embeddings of a case, by Python."""
    data, stated = base64.b64decode(case["data"]), case["head"]
    arrays = {
        name: np.frombuffer(data, array["dtype"], math.prod(array["shape"]), array["offset"])
        .reshape(array["shape"])
        .astype(np.float32)
        for name, array in stated["arrays"].items()
    }
    key = case["key"]
    order = KEY_KINDS[key["kind"]].order(TransformKey(bytes.fromhex(key["secret"])), key["size"], key["keep"])
    rows = np.frombuffer(base64.b64decode(case["embeddings"]), "<f4").reshape(-1, key["size"])
    return Head(stated["steps"], arrays).hash(rows, np.tile(order, (len(rows), 1)))


def pattern(width, height):
    """Pixels `(height, width, 3)` by a rule that any language can follow."""
    x, y, band = np.arange(width)[None, :, None], np.arange(height)[:, None, None], np.arange(3)
    return ((x * 7 + y * 13 + band * 29 + (x * y) % 11 * 9 + (x // 9 + y // 7) % 2 * 90) % 256).astype(np.uint8)


def face_points(at, scale, turn):
    """Five points of a face, laid into a picture."""
    points = np.array([[38, 52], [74, 51], [56, 72], [42, 92], [71, 93]]) * scale
    around = np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
    return np.round(points @ around + at, 3)


def picture_cases():
    """Aligned faces and resized pictures."""
    aligned = {
        f"{name}, {template}": {
            "width": width,
            "height": height,
            "points": face_points(at, scale, turn).tolist(),
            "template": facts,
        }
        for name, (width, height, at, scale, turn) in FACES.items()
        for template, facts in TEMPLATES.items()
    }
    resized = {
        name: dict(zip(("width", "height", "to_width", "to_height"), facts, strict=True))
        for name, facts in SIZES.items()
    }
    return {
        "aligned": {name: {**case, "pixels": encoded(aligned_pixels(case))} for name, case in aligned.items()},
        "resized": {name: {**case, "pixels": encoded(resized_pixels(case))} for name, case in resized.items()},
    }


def aligned_pixels(case):
    """The chip of a case, by Python."""
    facts = case["template"]
    template = FaceTemplate("test", facts["size"], scale=facts["scale"], shift=tuple(facts["shift"]))
    return align(pattern(case["width"], case["height"]), case["points"], template=template)


def resized_pixels(case):
    """The picture of a case at its other size, by Python."""
    picture = Image.fromarray(pattern(case["width"], case["height"]))
    return np.asarray(picture.resize((case["to_width"], case["to_height"]), reducing_gap=1.0))


def encoded(pixels):
    """Base64 of pixels."""
    return base64.b64encode(pixels.tobytes()).decode()


def main():
    """Write both files."""
    heads = {name: head_case(name, number) for number, name in enumerate(CASES)}
    for name, value in (("heads", heads), ("pictures", picture_cases())):
        (FOLDER / f"{name}.json").write_text(json.dumps(value) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
