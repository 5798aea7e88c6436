"""Checks of artefacts: run in their own runtime on faces, compared with the hasher they were made from."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iom._files import list_images
from iom._random import numpy_stream
from iom.data.benchmarks.base import PairBenchmark
from iom.data.benchmarks.pair_lists import read_pair_list
from iom.errors import DataError
from iom.export.context import Source
from iom.export.formats import Format
from iom.keys import TransformKey
from iom.metrics.verification import equal_error_rate
from iom.models.artifact import Check
from iom.photos.images import Pixels, read_images
from iom.synthetic import load_face_model

SYNTHETIC_SUBJECTS, SYNTHETIC_SAMPLES, SYNTHETIC_SEED = 8, 2, 7
ENOUGH_MATED, CHANCE_PAIRS = 3000, 3
"""With fewer mated pairs, an error rate may move by this many of them."""
TURN, MARGIN = 1e-3, 0.01
"""Radians, a tenth of the error of bfloat16 in an embedding; share below the symbols that stay under it."""
Run = Callable[[Pixels, TransformKey], NDArray[np.uint8]]


@dataclasses.dataclass(frozen=True, eq=False)
class Faces:
    """Faces `(N, S, S, 3)` uint8 to try an artefact on, and pairs of them where there are real people among them."""

    name: str
    images: Pixels
    benchmark: PairBenchmark | None = None


def faces_of_pairs(pairs: Path, folder: Path, *, size: int, max_pairs: int = 0) -> Faces:
    """The images of a list of pairs such as LFW's; `max_pairs` takes so many, evenly spread, 0 all."""
    benchmark = read_pair_list(pairs, folder)
    chosen = np.arange(len(benchmark))
    if max_pairs and max_pairs < len(benchmark):
        chosen = np.linspace(0, len(benchmark) - 1, max_pairs).astype(int)
    left, right = benchmark.left[chosen], benchmark.right[chosen]
    used, index = np.unique(np.concatenate([left, right]), return_inverse=True)
    paths = tuple(Path(str(benchmark.images[number])) for number in used)
    part = dataclasses.replace(
        benchmark,
        images=paths,
        left=index[: len(chosen)],
        right=index[len(chosen) :],
        same=benchmark.same[chosen],
        fold=benchmark.fold[chosen],
        subjects=benchmark.subjects[used],
    )
    return Faces(f"{pairs.stem}, {len(chosen)} pairs", read_images(paths, size=size), part)


def synthetic_faces(size: int) -> Faces:
    """Synthetic faces, where no real ones are at hand."""
    images, _ = load_face_model().sample(SYNTHETIC_SUBJECTS, SYNTHETIC_SAMPLES, seed=SYNTHETIC_SEED)
    if images.shape[1] != size:
        raise DataError(f"synthetic faces have {images.shape[1]} pixels a side, expected {size}")
    return Faces("synthetic faces", images)


def calibration_faces(folder: Path | None, count: int, *, size: int) -> Pixels:
    """Faces to choose the ranges of integers on, evenly spread over a folder; without one, synthetic faces."""
    if folder is None:
        images, _ = load_face_model().sample(count, 1, seed=SYNTHETIC_SEED + 1)
        return images
    paths = [folder / name for name in list_images(folder).images]
    if not paths:
        raise DataError(f"{folder}: expected aligned faces to calibrate on, found no images")
    chosen = np.linspace(0, len(paths) - 1, min(count, len(paths))).astype(int)
    return read_images([paths[number] for number in chosen], size=size)


class Reference:
    """Codes of the source hasher for the faces under one key (`stolen_key`), computed once for all formats."""

    def __init__(self, source: Source, faces: Faces, key: TransformKey) -> None:
        self._source, self.faces, self.key = source, faces, key

    @functools.cached_property
    def codes(self) -> NDArray[np.uint8]:
        """Codes of the source, `(N, M)`."""
        return self._source.hasher.hash(self._source.embedder.embed(self.faces.images), self.key)

    @functools.cached_property
    def stable_symbols(self) -> float:
        """Share of symbols kept when embeddings are turned by `TURN`: refined codes hold many near ties."""
        hasher, rows = self._source.hasher, self._source.embedder.embed(self.faces.images)
        noise = numpy_stream(0, "export/turn").standard_normal(rows.shape)
        noise -= np.sum(noise * rows, axis=1, keepdims=True) * rows
        turned = rows + TURN * noise / np.linalg.norm(noise, axis=1, keepdims=True)
        return float(np.mean(hasher.hash(turned.astype(np.float32), self.key) == self.codes))

    def check(self, run: Run, wanted: Format) -> Check:
        """Compare the codes of `run` with the source's."""
        codes = run(self.faces.images, self.key)
        bound = wanted.min_equal_symbols
        if wanted.precision != "float32":
            bound = min(bound, self.stable_symbols - MARGIN)
        return Check(
            faces=self.faces.name,
            images=len(codes),
            equal_symbols=float(np.mean(codes == self.codes)),
            least_equal_symbols=round(bound, 4),
            pairs=len(self.faces.benchmark) if self.faces.benchmark else 0,
            source_eer=self._eer(self.codes),
            eer=self._eer(codes),
            largest_eer_loss=round(wanted.max_eer_loss + self._chance(), 4),
        )

    def _chance(self) -> float:
        """Change of the error rate by `CHANCE_PAIRS` pairs, where there are few."""
        mated = int(self.faces.benchmark.same.sum()) if self.faces.benchmark else ENOUGH_MATED
        return 0.0 if mated >= ENOUGH_MATED else CHANCE_PAIRS / mated

    def _eer(self, codes: NDArray[Any]) -> float | None:
        benchmark = self.faces.benchmark
        if benchmark is None:
            return None
        distances = np.sum(codes[benchmark.left] != codes[benchmark.right], axis=1)
        return float(equal_error_rate(distances[benchmark.same], distances[~benchmark.same]))
