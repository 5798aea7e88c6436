"""The trial of an artefact: its codes of some faces against those of the hasher that it was made from."""

import dataclasses
import functools
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from iom._random import numpy_stream
from iom.data.benchmarks.base import PairBenchmark
from iom.data.benchmarks.pair_lists import read_pair_list
from iom.errors import DataError
from iom.export.formats import Format
from iom.keys import TransformKey
from iom.metrics.verification import error_curve
from iom.models.artifact import Check
from iom.models.embedder import Embedder
from iom.models.face_hasher import FaceHasher
from iom.photos.images import Pixels, read_images
from iom.synthetic import load_face_model

SYNTHETIC_SUBJECTS, SYNTHETIC_SAMPLES, SYNTHETIC_SEED = 8, 2, 7
ENOUGH_MATED, CHANCE_PAIRS = 3000, 3
"""With fewer mated pairs, an error rate may move by this many of them."""
TURN, MARGIN = 1e-3, 0.01
"""Radians, a tenth of the error of bfloat16 in an embedding; share below the symbols that stay under it."""


@dataclasses.dataclass(frozen=True, eq=False)
class TrialFaces:
    """Faces `(N, S, S, 3)` uint8 to try an artefact on, and pairs of them where there are real people among them."""

    name: str
    images: Pixels
    benchmark: PairBenchmark | None = None


def faces_of_pairs(pairs: Path, folder: Path, *, size: int, max_pairs: int = 0) -> TrialFaces:
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
    return TrialFaces(f"{pairs.stem}, {len(chosen)} pairs", read_images(paths, size=size), part)


def synthetic_faces(size: int) -> TrialFaces:
    """Synthetic faces, where no real ones are at hand."""
    images, _ = load_face_model().sample(SYNTHETIC_SUBJECTS, SYNTHETIC_SAMPLES, seed=SYNTHETIC_SEED)
    if images.shape[1] != size:
        raise DataError(f"synthetic faces have {images.shape[1]} pixels a side, expected {size}")
    return TrialFaces("synthetic faces", images)


@dataclasses.dataclass(frozen=True, eq=False)
class Trial:
    """Faces, and a hasher whose codes of them under a key, its embeddings by `embedder`, an artefact should give."""

    hasher: FaceHasher
    embedder: Embedder
    faces: TrialFaces
    key: TransformKey

    def check(self, codes: NDArray[np.uint8], wanted: Format) -> Check:
        """Compare codes `(N, M)` of the faces, computed by an artefact, with those of the source."""
        benchmark = self.faces.benchmark
        bound = wanted.min_equal_symbols
        if wanted.precision != "float32":
            bound = min(bound, self._stable_symbols - MARGIN)
        mated = int(benchmark.same.sum()) if benchmark else ENOUGH_MATED
        chance = 0.0 if mated >= ENOUGH_MATED else CHANCE_PAIRS / mated
        return Check(
            faces=self.faces.name,
            images=len(codes),
            equal_symbols=float(np.mean(codes == self._codes)),
            least_equal_symbols=round(bound, 4),
            pairs=len(benchmark) if benchmark else 0,
            source_eer=self._eer(self._codes),
            eer=self._eer(codes),
            largest_eer_loss=round(wanted.max_eer_loss + chance, 4),
        )

    @functools.cached_property
    def _embeddings(self) -> NDArray[np.float32]:
        return self.embedder.embed(self.faces.images)

    @functools.cached_property
    def _codes(self) -> NDArray[np.uint8]:
        return self.hasher.hash(self._embeddings, self.key)

    @functools.cached_property
    def _stable_symbols(self) -> float:
        """Share of symbols kept when embeddings are turned by `TURN`: refined codes hold many near ties."""
        rows = self._embeddings
        noise = numpy_stream(0, "export/turn").standard_normal(rows.shape)
        noise -= np.sum(noise * rows, axis=1, keepdims=True) * rows
        turned = rows + TURN * noise / np.linalg.norm(noise, axis=1, keepdims=True)
        return float(np.mean(self.hasher.hash(turned.astype(np.float32), self.key) == self._codes))

    def _eer(self, codes: NDArray[np.uint8]) -> float | None:
        benchmark = self.faces.benchmark
        if benchmark is None:
            return None
        distances = np.sum(codes[benchmark.left] != codes[benchmark.right], axis=1)
        return error_curve(distances[benchmark.same], distances[~benchmark.same]).equal_error_rate()


def loss_message(target: str, precision: str, check: Check) -> str:
    """What was lost by an artefact whose check did not pass."""
    text = (
        f"export to {target} in {precision}: {check.equal_symbols:.2%} of the symbols are those of the hasher "
        f"(at least {check.least_equal_symbols:.2%} are asked for)"
    )
    if check.eer is not None and check.source_eer is not None:
        text += f", EER {check.eer:.2%} against {check.source_eer:.2%} (at most {check.largest_eer_loss:.1%} more)"
    return f"{text}, on {check.images} images of {check.faces}; nothing was written"
