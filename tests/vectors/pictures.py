"""Made pictures, aligned to a template and resized by Python, for clients that do the same with pixels of their own."""

import base64
import math

import numpy as np
from PIL import Image

from iom.photos.align import FaceTemplate, align

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


def pattern(width, height):
    """Pixels `(height, width, 3)` by a rule that any language can follow."""
    x, y, band = np.arange(width)[None, :, None], np.arange(height)[:, None, None], np.arange(3)
    return ((x * 7 + y * 13 + band * 29 + (x * y) % 11 * 9 + (x // 9 + y // 7) % 2 * 90) % 256).astype(np.uint8)


def face_points(at, scale, turn):
    """Five points of a face, laid into a picture."""
    points = np.array([[38, 52], [74, 51], [56, 72], [42, 92], [71, 93]]) * scale
    around = np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
    return np.round(points @ around + at, 3)


def pictures():
    """Aligned faces and resized pictures; pixels in Base64. A byte that differs by one is no error, many are."""
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
