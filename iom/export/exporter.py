"""Writing artefacts: each is tried in its own runtime on faces, and those that lose too much are not kept."""

import dataclasses
import functools
import importlib
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from iom._files import TEMPORARY, list_images
from iom._random import numpy_stream
from iom._registry import lookup
from iom.data.benchmarks.base import PairBenchmark
from iom.data.benchmarks.pair_lists import read_pair_list
from iom.errors import DataError, WeightsError
from iom.export.context import ExportContext, ExportSource
from iom.export.formats import FORMATS, Format
from iom.export.tfjs import run_tfjs
from iom.keys import KEY_KINDS, TransformKey
from iom.metrics.verification import error_curve
from iom.models.artifact import (
    Check,
    Manifest,
    has_bfloat16,
    hashed_files,
    manifest_path,
    open_artifact,
    write_manifest,
)
from iom.models.face_hasher import EMBEDDER_BATCH, ArtifactFaceHasher
from iom.nn.hash_network import head_program
from iom.nn.hash_numpy import head_path, write_head
from iom.photos.images import Pixels, read_images
from iom.synthetic import load_face_model

SYNTHETIC_SUBJECTS, SYNTHETIC_SAMPLES, SYNTHETIC_SEED = 8, 2, 7
ENOUGH_MATED, CHANCE_PAIRS = 3000, 3
"""With fewer mated pairs, an error rate may move by this many of them."""
TURNS = 7
"""Calls of each artefact whose speeds are compared."""
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


@dataclasses.dataclass(frozen=True, eq=False)
class Exporter:
    """One hasher to many formats, each compared with it under one key (`stolen_key`).

    `calibration` are real faces `(N, S, S, 3)` uint8 to choose integer ranges on, `faces` those of the check, under a
    fresh `key` unless one is given.
    """

    source: ExportSource
    _: dataclasses.KW_ONLY
    calibration: Pixels
    faces: TrialFaces
    key: TransformKey = dataclasses.field(default_factory=TransformKey.generate)

    def export(self, names: Sequence[str], folder: Path, *, name: str) -> dict[str, Manifest]:
        """Write the artefacts `<name><suffix>` into `folder`, each whole or not at all, and give their manifests.

        A format that cannot be written, or exceeds a bound of its check, is a `WeightsError`.
        """
        chosen = {one: lookup(FORMATS, one, "export format") for one in names}
        folder.mkdir(parents=True, exist_ok=True)
        manifests = {}
        with tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=folder) as scratch:
            hasher = self.source.hasher
            derive = KEY_KINDS[hasher.key_kind].order
            orders = [derive(TransformKey.generate(), hasher.key_size, hasher.keep) for _ in self.calibration]
            context = ExportContext(self.source, self.calibration, np.array(orders, np.int32), Path(scratch))
            for one, wanted in chosen.items():
                manifests[one] = self._quickest(one, wanted, context, name, folder)
        return manifests

    def _quickest(self, target: str, wanted: Format, context: ExportContext, name: str, folder: Path) -> Manifest:
        """Write a format, or the quickest of it and its `Format.others` whose check passes."""
        passed: dict[Path, Manifest] = {}
        losses: list[str] = []
        for number, tried in enumerate([wanted, *(FORMATS[each] for each in wanted.others)]):
            if tried.precision == "bfloat16" and not has_bfloat16():
                continue
            made = context.scratch / f"{target}-{number}"
            made.mkdir()
            manifest, check = self._one(target, tried, context, made / f"{name}{wanted.suffix}")
            if check.passed:
                passed[made / f"{name}{wanted.suffix}"] = manifest
            else:
                losses.append(_loss_message(target, tried.precision, check))
        if not passed:
            raise WeightsError("; ".join(losses))
        seconds = _seconds(list(passed), context) if len(passed) > 1 else [0.0]
        quickest = list(passed)[int(np.argmin(seconds))]
        _move(quickest.parent, folder)
        return passed[quickest]

    def _one(self, target: str, wanted: Format, context: ExportContext, path: Path) -> tuple[Manifest, Check]:
        module, function = wanted.writer.split(":")
        getattr(importlib.import_module(f"iom.export.{module}"), function)(context, path)
        write_head(head_path(path), *head_program(self.source.hasher.model))
        files = [file for file in path.parent.rglob("*") if file.is_file()]
        hasher = self.source.hasher
        manifest = Manifest(
            target=target,
            runtime=wanted.runtime,
            precision=wanted.precision,
            files=hashed_files(files, path.parent),
            input_size=self.source.backbone.inputs[0].shape[1],
            template=self.source.embedder.template.name,
            hashes=wanted.hashes,
            **hasher.shape,
            embedder={"name": hasher.embedder_name, "sha256": hasher.embedder_fingerprint},
            hasher=hasher.fingerprint,
            calibration=hasher.calibration,
        )
        write_manifest(path, manifest)
        if wanted.runtime == "tfjs":
            codes = run_tfjs(path, manifest, self.source.embedder.template.chips(self.faces.images), self.key)
        else:
            codes = ArtifactFaceHasher.load(path).hash_images(self.faces.images, self.key)
        check = self.check(codes, wanted)
        manifest = dataclasses.replace(manifest, check=check)
        write_manifest(path, manifest)
        return manifest, check

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
        return self.source.embedder.embed(self.faces.images)

    @functools.cached_property
    def _codes(self) -> NDArray[np.uint8]:
        return self.source.hasher.hash(self._embeddings, self.key)

    @functools.cached_property
    def _stable_symbols(self) -> float:
        """Share of symbols kept when embeddings are turned by `TURN`: refined codes hold many near ties."""
        rows = self._embeddings
        noise = numpy_stream(0, "export/turn").standard_normal(rows.shape)
        noise -= np.sum(noise * rows, axis=1, keepdims=True) * rows
        turned = rows + TURN * noise / np.linalg.norm(noise, axis=1, keepdims=True)
        return float(np.mean(self.source.hasher.hash(turned.astype(np.float32), self.key) == self._codes))

    def _eer(self, codes: NDArray[np.uint8]) -> float | None:
        benchmark = self.faces.benchmark
        if benchmark is None:
            return None
        distances = np.sum(codes[benchmark.left] != codes[benchmark.right], axis=1)
        return error_curve(distances[benchmark.same], distances[~benchmark.same]).equal_error_rate()


def _seconds(artifacts: Sequence[Path], context: ExportContext) -> list[float]:
    """Of a core, for a batch of each artefact; they take turns, and the least counts."""
    sample = next(context.samples())
    batch = [np.repeat(sample[name], EMBEDDER_BATCH, axis=0) for name in ("image", "order")]
    sessions = [open_artifact(path, threads=1)[0] for path in artifacts]
    taken = np.empty((TURNS, len(sessions)))
    for turn in range(TURNS):
        for number, session in enumerate(sessions):
            start = time.process_time()
            session(*batch)
            taken[turn, number] = time.process_time() - start
    return list(taken.min(axis=0))


def _loss_message(target: str, precision: str, check: Check) -> str:
    text = (
        f"export to {target} in {precision}: {check.equal_symbols:.2%} of the symbols are those of the hasher "
        f"(at least {check.least_equal_symbols:.2%} are asked for)"
    )
    if check.eer is not None and check.source_eer is not None:
        text += f", EER {check.eer:.2%} against {check.source_eer:.2%} (at most {check.largest_eer_loss:.1%} more)"
    return f"{text}, on {check.images} images of {check.faces}; nothing was written"


def _move(made: Path, folder: Path) -> None:
    """Move the new files to their place, the manifest last: without it they are no artefact."""
    manifests = {manifest_path(made / path.name).name for path in made.iterdir()}
    for path in sorted(made.iterdir(), key=lambda path: path.name in manifests):
        place = folder / path.name
        if place.is_dir():
            shutil.rmtree(place)
        path.replace(place)
    made.rmdir()
