"""Demonstration on three faces: codes under one key, and the effect of a new key, as text and as a picture."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from iom._files import atomic_path
from iom.errors import DataError, WeightsError
from iom.keys import TransformKey
from iom.models.artifact import manifest_path
from iom.models.embedder import load_embedder
from iom.models.face_hasher import FaceHasher, KerasFaceHasher, load
from iom.photos.images import read_images
from iom.pretrained import HASHER_FILE, hashers
from iom.synthetic import load_face_model

MATCH_COLOUR, NO_MATCH_COLOUR, BLANK = "#3d8b57", "#c8553d", (0.93, 0.93, 0.93)
FACES = ("A  enrolled", "B  the same person", "C  another person")
CODE_ROWS = 8


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
    """Faces A, B and C, `(3, 112, 112, 3)`: the given aligned images, or synthetic faces."""
    if paths is not None:
        return read_images(paths)
    images, _ = load_face_model().sample(2, 2, seed=seed)
    return images[:3]


def find_hasher(weights: str, *, batch_size: int = 8) -> FaceHasher:
    """The hasher, of those known by name, that was trained with an embedder; an artefact is its own hasher."""
    if manifest_path(Path(weights)).is_file():
        return load(weights, batch_size=batch_size)
    embedder = load_embedder(weights, batch_size=batch_size)
    found = hashers()
    for folder in found.values():
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
    figure = Figure(figsize=(14, 8.6), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(1 + len(shown.scenes), 4, width_ratios=(1, 1, 1, 1.25))
    for column, (image, title) in enumerate(zip(images, FACES, strict=True)):
        axes = figure.add_subplot(grid[0, column])
        axes.imshow(image, interpolation="bicubic")
        axes.set_title(title, fontsize=11)
        axes.set_axis_off()
    _draw_legend(figure.add_subplot(grid[0, 3]), shown)
    for row, scene in enumerate(shown.scenes, start=1):
        axes = figure.add_subplot(grid[row, 0])
        _draw_code(axes, scene.template, np.ones(shown.code_length, bool), shown.alphabet_size)
        axes.set_title(f"{row}  {scene.title}", fontsize=10.5, loc="left")
        for column, probe in enumerate(scene.probes, start=1):
            equal = probe == scene.template
            axes = figure.add_subplot(grid[row, column])
            _draw_code(axes, probe, equal, shown.alphabet_size)
            axes.set_xlabel(f"{int(equal.sum())} of {len(equal)} positions agree with A", fontsize=9)
        _draw_distances(figure.add_subplot(grid[row, 3]), scene, shown)
    try:
        with atomic_path(path) as temporary:
            figure.savefig(temporary, dpi=110, format="png")
    except OSError as error:
        raise DataError(f"cannot write the picture {path}: {error.strerror or error}") from error


def _draw_code(axes: Any, code: NDArray[np.uint8], agrees: NDArray[np.bool_], alphabet_size: int) -> None:
    """Symbols as coloured cells in reading order; grey where the probe differs from A."""
    columns = -(-len(code) // CODE_ROWS)
    colours = matplotlib.colormaps["turbo"](np.linspace(0.08, 0.92, alphabet_size))
    cells = np.ones((CODE_ROWS * columns, 3))
    cells[: len(code)] = np.where(agrees[:, None], colours[code, :3], BLANK)
    axes.imshow(cells.reshape(CODE_ROWS, columns, 3), aspect="auto", interpolation="nearest")
    axes.set(xticks=[], yticks=[])


def _draw_distances(axes: Any, scene: Scene, shown: Demonstration) -> None:
    for place, (name, distance) in enumerate(zip(("A : B", "A : C"), scene.distances, strict=True)):
        decision, is_long = shown.decision(distance), distance > 0.4 * shown.code_length
        axes.barh(place, distance, height=0.6, color=MATCH_COLOUR if decision == "match" else NO_MATCH_COLOUR)
        left = 0.02 * shown.code_length + (0 if is_long else distance)
        colour = "white" if is_long else "black"
        axes.text(left, place, f"{name}   {distance}   {decision}", va="center", color=colour, fontsize=10)
    axes.axvline(shown.threshold, color="black", linewidth=1.4)
    axes.axvline(shown.code_length * (1 - 1 / shown.alphabet_size), color="#666666", linewidth=1, linestyle=":")
    axes.set(xlim=(0, shown.code_length), ylim=(1.6, -0.6), yticks=[])
    axes.set_xlabel("distance (differing positions)", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_legend(axes: Any, shown: Demonstration) -> None:
    mated, non_mated = shown.cosine_distances
    axes.set_axis_off()
    lines = (
        f"Code: {shown.code_length} symbols of {shown.alphabet_size} values,",
        "one colour for each value; in B and C only",
        "the positions that agree with A are coloured.",
        "",
        f"Solid line: threshold {shown.threshold}, calibrated at",
        f"FMR {shown.fmr:g}; at or below it is a match.",
        "Dotted line: expected for unrelated codes.",
        "",
        "Cosine distance of the embeddings:",
        f"A : B {mated:.3f}     A : C {non_mated:.3f}",
    )
    axes.text(0, 1, "\n".join(lines), va="top", fontsize=10, linespacing=1.4)
