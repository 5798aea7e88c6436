"""Writing artefacts: each is tried in its own runtime on faces, and those that lose too much are not kept."""

import dataclasses
import functools
import importlib
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from iom._files import TEMPORARY, list_images
from iom._registry import lookup
from iom.errors import DataError, WeightsError
from iom.export.context import ExportContext, ExportSource
from iom.export.formats import FORMATS, Format
from iom.export.tfjs import run_tfjs
from iom.export.trial import SYNTHETIC_SEED, Trial, TrialFaces, loss_message
from iom.export.web import run_web
from iom.keys import KEY_KINDS, TransformKey
from iom.models.artifact import (
    Check,
    Manifest,
    has_bfloat16,
    hashed_files,
    move_artifacts,
    open_artifact,
    write_manifest,
)
from iom.models.face_hasher import EMBEDDER_BATCH, ArtifactFaceHasher
from iom.nn.hash_network import head_program
from iom.nn.hash_numpy import head_path, write_head
from iom.photos.images import Pixels, read_images
from iom.synthetic import load_face_model

TURNS = 7
"""Calls of each artefact whose speeds are compared."""


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
                losses.append(loss_message(target, tried.precision, check))
        if not passed:
            raise WeightsError("; ".join(losses))
        seconds = _seconds(list(passed), context) if len(passed) > 1 else [0.0]
        quickest = list(passed)[int(np.argmin(seconds))]
        move_artifacts(quickest.parent, folder)
        return passed[quickest]

    @functools.cached_property
    def _trial(self) -> Trial:
        return Trial(self.source.hasher, self.source.embedder, self.faces, self.key)

    def _one(self, target: str, wanted: Format, context: ExportContext, path: Path) -> tuple[Manifest, Check]:
        module, function = wanted.writer.split(":")
        getattr(importlib.import_module(f"iom.export.{module}"), function)(context, path)
        if wanted.runtime != "web":  # whose folder holds the hash in its own form
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
        if runs := {"tfjs": run_tfjs, "web": run_web}.get(wanted.runtime):
            codes = runs(path, manifest, self.source.embedder.template.chips(self.faces.images), self.key)
        else:
            codes = ArtifactFaceHasher.load(path).hash_images(self.faces.images, self.key)
        check = self._trial.check(codes, wanted)
        manifest = dataclasses.replace(manifest, check=check)
        write_manifest(path, manifest)
        return manifest, check


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
