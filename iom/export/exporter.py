"""Writing artefacts: each is tried in its own runtime, and those that lose too much are not kept."""

import dataclasses
import importlib
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from iom._files import TEMPORARY, atomic_path
from iom._registry import lookup
from iom.errors import WeightsError
from iom.export.check import Faces, Reference, Run
from iom.export.context import ExportContext, Source
from iom.export.folding import graph_nodes
from iom.export.formats import FORMATS, Format
from iom.export.tfjs import run_tfjs
from iom.keys import KEY_KINDS, TransformKey
from iom.models.artifact import (
    Check,
    Manifest,
    check_precision,
    hashed_files,
    manifest_path,
    open_session,
    write_manifest,
)
from iom.models.face_hasher import ArtifactFaceHasher
from iom.nn.hash_numpy import PROGRAM, Head, head_path
from iom.nn.layers.index_of_max import DECAY, RATE
from iom.photos.images import Pixels


def check_targets(names: Sequence[str]) -> None:
    """Refuse formats that this machine cannot run and so cannot check, before any work is done."""
    for name in names:
        wanted = lookup(FORMATS, name, "export format")
        if wanted.runtime == "openvino":
            check_precision(f"--to {name}", wanted.precision)


class Exporter:
    """One hasher to many formats.

    `calibration` are real faces `(N, S, S, 3)` uint8 to choose integer ranges on, `faces` those of the check, under a
    fresh `key` unless one is given.
    """

    def __init__(self, source: Source, *, calibration: Pixels, faces: Faces, key: TransformKey | None = None) -> None:
        self._source, self._calibration = source, calibration
        self._reference = Reference(source, faces, key or TransformKey.generate())

    def export(self, names: Sequence[str], folder: Path, *, name: str) -> dict[str, Manifest]:
        """Write the artefacts `<name><suffix>` into `folder`, each whole or not at all, and give their manifests.

        A format that cannot be written, or exceeds a bound of its check, is a `WeightsError`.
        """
        chosen = {one: lookup(FORMATS, one, "export format") for one in names}
        folder.mkdir(parents=True, exist_ok=True)
        manifests = {}
        with tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=folder) as scratch:
            hasher = self._source.hasher
            derive = KEY_KINDS[hasher.key_kind].order
            orders = [derive(TransformKey.generate(), hasher.key_size, hasher.keep) for _ in self._calibration]
            context = ExportContext(self._source, self._calibration, np.array(orders, np.int32), Path(scratch))
            for one, wanted in chosen.items():
                made = Path(scratch) / one
                made.mkdir()
                manifests[one] = self._one(one, wanted, context, made / f"{name}{wanted.suffix}")
                _move(made, folder)
        return manifests

    def _one(self, target: str, wanted: Format, context: ExportContext, path: Path) -> Manifest:
        module, function = wanted.writer.split(":")
        getattr(importlib.import_module(f"iom.export.{module}"), function)(context, path)
        write_head(self._source.hasher.model, head_path(path))
        files = [file for file in path.parent.rglob("*") if file.is_file()]
        manifest = Manifest(
            target=target,
            runtime=wanted.runtime,
            precision=wanted.precision,
            files=hashed_files(files, path.parent),
            **self._source.description(),
        )
        check = self._reference.check(_runner(path, manifest), wanted)
        if not check.passed:
            raise WeightsError(_loss_message(target, check))
        manifest = dataclasses.replace(manifest, check=check)
        write_manifest(path, manifest)
        return manifest


def _runner(path: Path, manifest: Manifest) -> Run:
    if manifest.runtime == "tfjs":
        return lambda images, key: run_tfjs(path, manifest, images, key)
    session = open_session(path, manifest)
    head = Head.load(head_path(path))
    return ArtifactFaceHasher(session, manifest, head, path=path).hash_images


def _loss_message(target: str, check: Check) -> str:
    text = (
        f"export to {target}: {check.equal_symbols:.2%} of the symbols are those of the hasher "
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


def write_head(hasher: keras.Model, path: Path) -> None:
    """Write the steps of a hash network and their arrays, for `iom.nn.hash_numpy`."""
    known = {id(tensor): ("embedding", "order").index(tensor.name) for tensor in hasher.inputs}
    steps: list[dict[str, Any]] = []
    arrays: dict[str, Any] = {}
    for number, node in enumerate(graph_nodes(hasher)):
        name, settings, values = _step(node.operation)
        keys = {setting: f"{number}/{setting}" for setting in values}
        arrays |= {keys[setting]: value for setting, value in values.items()}
        reads = [known[id(tensor)] for tensor in node.input_tensors]
        steps.append({"step": name, "reads": reads, "settings": settings, "arrays": keys})
        known[id(node.output_tensors[0])] = number + 2
    program = np.frombuffer(json.dumps(steps).encode(), np.uint8)
    with atomic_path(path) as temporary:
        np.savez_compressed(temporary, **{PROGRAM: program, **arrays})


def _step(layer: Any) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Name, settings and arrays."""
    kind = type(layer).__name__
    if kind in ("UnitLength", "Add"):
        return {"UnitLength": "unit", "Add": "sum"}[kind], {}, {}
    if kind == "Dense":
        return "dense", {}, dict(zip(("kernel", "bias"), layer.get_weights(), strict=False))
    if kind == "PReLU":
        return "prelu", {}, {"slopes": np.asarray(layer.alpha)}
    if kind in {key_kind.layer for key_kind in KEY_KINDS.values()}:
        return KEY_KINDS[layer.kind].step, {"keep": layer.keep}, {}
    if kind == "IoMProjection":
        settings = {
            "alphabet_size": layer.alphabet_size,
            "steps": layer.refinement_steps,
            "gain": layer.refinement_gain,
            "rate": RATE,
            "decay": DECAY,
        }
        kernel = np.asarray(layer.kernel)
        half = kernel.astype(np.float16)  # loses nothing of a frozen or stored projection
        return "projection", settings, {"kernel": half if np.array_equal(half, kernel) else kernel}
    raise WeightsError(f"{layer.name}: the layer {kind} has no step in iom/nn/hash_numpy.py")
