"""Demonstration on three faces: codes under one key, and the effect of a new key, as text and as a picture."""

import colorsys
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from iom._files import atomic_path
from iom.codes.asymmetric import SYMBOLS
from iom.errors import ConfigError, DataError, WeightsError
from iom.keys import TransformKey
from iom.models.artifact import manifest_path
from iom.models.embedder import load_embedder
from iom.models.face_hasher import FaceHasher, KerasFaceHasher, load
from iom.photos.images import image_bytes
from iom.photos.picture import one_face
from iom.pretrained import HASHER_FILE, hashers
from iom.synthetic import load_face_model

MATCH_COLOUR, NO_MATCH_COLOUR, BLANK = "#3d8b57", "#c8553d", 237
FACES = ("A  enrolled", "B  the same person", "C  another person")
CODE_ROWS = 8
COLUMN, FACE_ROW, SCENE_ROW, FACE, CODE_HEIGHT, MARGIN = 360, 236, 236, 180, 160, 6  # pixels


@dataclasses.dataclass(frozen=True, eq=False)
class Scene:
    """A template of face A, `(M,)`, compared with codes of B (the same person) and C (another), `(2, M)`."""

    title: str
    template: NDArray[np.uint8]
    probes: NDArray[np.uint8]

    @property
    def distances(self) -> tuple[int, int]:
        """Positions at which A differs from B, and from C."""
        mated, non_mated = np.count_nonzero(self.probes != self.template, axis=1).tolist()
        return mated, non_mated


@dataclasses.dataclass(frozen=True, eq=False)
class Demonstration:
    """Scenes in order, the calibrated threshold, and the cosine distances of the embeddings (A to B, A to C)."""

    scenes: tuple[Scene, ...]
    threshold: int
    fmr: float
    code_length: int
    alphabet_size: int
    cosine_distances: tuple[float, float]

    def decision(self, distance: int) -> str:
        """`match` or `no match`."""
        return "match" if distance <= self.threshold else "no match"

    def text(self) -> str:
        """Distances and decisions for a terminal."""
        mated, non_mated = self.cosine_distances
        lines = [
            f"codes of {self.code_length} symbols over {self.alphabet_size} values; match when at most "
            f"{self.threshold} differing positions (calibrated at FMR {self.fmr:g})",
            f"cosine distance of the embeddings: positive {mated:.3f}, negative {non_mated:.3f}",
        ]
        for scene in self.scenes:
            lines += ["", scene.title]
            for kind, distance, meaning in zip(
                ("positive", "negative"), scene.distances, ("A and B, one person", "A and C, two persons"), strict=True
            ):
                decision = f"{self.decision(distance):8}   ({meaning})"
                lines.append(f"  dist_{kind} = {distance:4d} of {self.code_length}   {decision}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Sizes, threshold and distances for JSON."""
        scenes = [
            {"title": scene.title, "dist_positive": scene.distances[0], "dist_negative": scene.distances[1]}
            for scene in self.scenes
        ]
        return {"code_length": self.code_length, "threshold": self.threshold, "scenes": scenes}


def demo_faces(paths: Sequence[Path] | None, *, seed: int) -> NDArray[np.uint8]:
    """Faces A, B and C, `(3, 112, 112, 3)`: those of the given images, or synthetic ones."""
    if paths is not None:
        return np.stack([one_face(image_bytes(path), source=str(path))[1].crop for path in paths])
    images, _ = load_face_model().sample(2, 2, seed=seed)
    return images[:3]


def find_hasher(weights: str, *, batch_size: int = 8) -> FaceHasher:
    """The hasher, of those known by name, that was trained with an embedder; an artefact is its own hasher."""
    if manifest_path(Path(weights)).is_file():
        return load(weights, batch_size=batch_size)
    embedder = load_embedder(weights, batch_size=batch_size)
    found = hashers()
    for folder in (place for place in found.values() if place.is_dir()):
        if embedder.fingerprint in (folder / HASHER_FILE).read_text(encoding="utf-8", errors="replace"):
            hasher = KerasFaceHasher.load(folder, weights=weights)
            hasher.embedder = embedder
            return hasher
    raise WeightsError(
        f"none of the hashers {', '.join(found)} belongs to the embedder {embedder.name}; name one "
        "with --hasher, or train it: iom train-stage2 --config stage2/base --output DIR "
        f"--set embedder.weights={embedder.name}"
    )


def demonstrate(images: NDArray[np.uint8], hasher: FaceHasher) -> Demonstration:
    """Compare A with B (the same person) and C (another) under one fresh key, across a change of the key, and after it.

    Images are `(3, S, S, 3)`; the hasher has an embedder and a calibrated threshold.
    """
    if hasher.calibration is None:
        raise WeightsError(
            "this hasher has no calibrated threshold, so nothing can be decided; train one with "
            "iom train-stage2, which calibrates it on held-out subjects"
        )
    if hasher.comparison != SYMBOLS:
        raise ConfigError(
            f"{hasher.name}: the demonstration shows differing positions; the threshold is of asymmetric distances; "
            "take a copy that is calibrated for symbols: iom calibrate --comparison symbols --output DIR"
        )
    embeddings = hasher.embed(images)
    old, new = (hasher.hash(embeddings, TransformKey.generate()) for _ in range(2))
    mated, non_mated = (1 - embeddings[1:] @ embeddings[0]).tolist()
    return Demonstration(
        scenes=(
            Scene("template and probes under one key", old[0], old[1:]),
            Scene("key changed: old template, probes under the new key", old[0], new[1:]),
            Scene("renewed: template and probes under the new key", new[0], new[1:]),
        ),
        threshold=hasher.calibration.threshold,
        fmr=hasher.calibration.fmr,
        code_length=hasher.code_length,
        alphabet_size=hasher.alphabet_size,
        cosine_distances=(mated, non_mated),
    )


def draw_demo(shown: Demonstration, images: NDArray[np.uint8], path: Path) -> None:
    """Draw faces `(3, S, S, 3)`, codes and decisions into a PNG."""
    picture = Image.new("RGB", (4 * COLUMN + COLUMN // 4, FACE_ROW + SCENE_ROW * len(shown.scenes)), "white")
    draw = ImageDraw.Draw(picture)
    for column, (image, title) in enumerate(zip(images, FACES, strict=True)):
        left = column * COLUMN + (COLUMN - FACE) // 2
        _write(draw, (left + FACE // 2, 12), title, anchor="mt")
        picture.paste(Image.fromarray(image).resize((FACE, FACE), Image.Resampling.BICUBIC), (left, 34))
    draw.multiline_text((3 * COLUMN + MARGIN, 12), _legend(shown), "black", ImageFont.load_default(14), spacing=6)
    for row, scene in enumerate(shown.scenes):
        top = FACE_ROW + row * SCENE_ROW
        _write(draw, (MARGIN, top), f"{row + 1}  {scene.title}")
        for column, code in enumerate([scene.template, *scene.probes]):
            equal = code == scene.template
            place = (column * COLUMN + MARGIN, top + 24)
            picture.paste(_cells(code, equal, shown.alphabet_size), place)
            if column:
                middle = column * COLUMN + COLUMN // 2
                text = f"{int(equal.sum())} of {len(equal)} positions agree with A"
                _write(draw, (middle, top + 30 + CODE_HEIGHT), text, anchor="mt")
        _draw_distances(draw, (3 * COLUMN + MARGIN, top + 24), scene, shown)
    try:
        with atomic_path(path) as temporary:
            picture.save(temporary, format="PNG")
    except OSError as error:
        raise DataError(f"cannot write the picture {path}: {error.strerror or error}") from error


def _write(draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str, **how: Any) -> None:
    draw.text(place, text, "black", ImageFont.load_default(15), **how)


def _cells(code: NDArray[np.uint8], agrees: NDArray[np.bool_], alphabet_size: int) -> Image.Image:
    """Symbols as coloured cells in reading order; grey where the probe differs from A."""
    hues = [colorsys.hsv_to_rgb(hue, 0.85, 0.9) for hue in np.linspace(0.09, 0.62, alphabet_size)]  # orange to blue
    colours = (255 * np.array(hues)).astype(np.uint8)
    cells = np.full((CODE_ROWS * -(-len(code) // CODE_ROWS), 3), 255, np.uint8)
    cells[: len(code)] = np.where(agrees[:, None], colours[code], np.uint8(BLANK))
    size = (COLUMN - 2 * MARGIN, CODE_HEIGHT)
    return Image.fromarray(cells.reshape(CODE_ROWS, -1, 3)).resize(size, Image.Resampling.NEAREST)


def _draw_distances(draw: ImageDraw.ImageDraw, place: tuple[int, int], scene: Scene, shown: Demonstration) -> None:
    left, top = place

    def across(distance: float) -> int:
        return left + round(distance / shown.code_length * (COLUMN - MARGIN))

    for row, (name, distance) in enumerate(zip(("A : B", "A : C"), scene.distances, strict=True)):
        decision = shown.decision(distance)
        upper = top + 16 + 72 * row
        colour = MATCH_COLOUR if decision == "match" else NO_MATCH_COLOUR
        draw.rectangle((left, upper, across(distance), upper + 46), colour)
        start = 8 + across(max(distance, shown.threshold))
        _write(draw, (start, upper + 23), f"{name}   {distance}   {decision}", anchor="lm")
    bottom = top + CODE_HEIGHT
    draw.line((across(shown.threshold), top, across(shown.threshold), bottom), "black", 2)
    unrelated = across(shown.code_length * (1 - 1 / shown.alphabet_size))
    for dash in range(top, bottom, 8):
        draw.line((unrelated, dash, unrelated, dash + 3), "#666666")
    draw.line((left, bottom, across(shown.code_length), bottom), "black")
    for value in (0, shown.threshold, shown.code_length):
        _write(draw, (across(value), bottom + 6), str(value), anchor="mt")


def _legend(shown: Demonstration) -> str:
    mated, non_mated = shown.cosine_distances
    return "\n".join(
        (
            f"Code: {shown.code_length} symbols of {shown.alphabet_size} values,",
            "one colour for each value; in B and C only",
            "the positions that agree with A are coloured.",
            "Bars: distance (differing positions). Solid line:",
            f"threshold {shown.threshold}, calibrated at FMR {shown.fmr:g}; at or",
            "below it is a match. Dotted line: expected for",
            "unrelated codes.",
            f"Cosine distance of the embeddings: A : B {mated:.3f},",
            f"A : C {non_mated:.3f}.",
        )
    )
