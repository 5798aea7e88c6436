"""Faces and photographs with their codes by Python, in a folder that the client library's tests read."""

import json

import numpy as np
from PIL import Image

from iom.keys import TransformKey
from iom.photos.picture import one_face

SECRET = bytes(range(32))
GROUND = (120, 130, 140)
QUARTER = 5.0
"""Largest angle of a photograph, in degrees to either side."""


def photographs_of(faces, sizes):
    """Photographs of faces `(N, 112, 112, 3)` enlarged and turned, for each (width, height, number of its face)."""
    stream = np.random.default_rng(1)
    return [_photograph(faces[number], width, height, stream) for width, height, number in sizes]


def _photograph(face, width, height, stream):
    side = int(stream.uniform(0.4, 0.8) * min(width, height))
    picture = Image.new("RGB", (width, height), GROUND)
    place = (int(stream.integers(width - side)), int(stream.integers(height - side)))
    picture.paste(Image.fromarray(face).resize((side, side)), place)
    angle = stream.uniform(-QUARTER, QUARTER)
    return np.asarray(picture.rotate(angle, Image.Resampling.BICUBIC, fillcolor=GROUND))


def write_trial(folder, artefact, hasher, faces, photographs):
    """Write `trial.json` and its files beside an artefact for the web that is in `folder`."""
    key, alone = TransformKey(SECRET), hasher.with_batch_size(1)

    def put(name, values):
        (folder / name).write_bytes(values.tobytes())
        return name

    def coded(number, chip):
        symbols = hasher.hash(alone.embed(chip[None]), key)[0]
        return {"chip": put(f"{number}.chip", chip), "symbols": put(f"{number}.symbols", symbols)}

    aligned = [coded(f"face-{i}", chip) for i, chip in enumerate(hasher.embedder.chips(faces))]
    rows = []
    for i, picture in enumerate(photographs):
        height, width = picture.shape[:2]
        opaque = np.full((height, width, 1), 255, np.uint8)
        chip, face = one_face(picture, template=hasher.embedder.template.name)
        facts = {"width": width, "height": height, "points": face.landmarks.tolist()}
        file = put(f"photograph-{i}.rgba", np.dstack([picture, opaque]))
        rows.append({"file": file, **facts, **coded(f"photograph-{i}", chip)})
    facts = {"manifest": f"{artefact.name}.json", "secret": SECRET.hex(), "faces": aligned, "photographs": rows}
    (folder / "trial.json").write_text(json.dumps(facts), encoding="utf-8")
