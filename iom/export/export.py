"""Writing artefacts, trying each in its own runtime, keeping those that hold."""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from iom._files import TEMPORARY
from iom._registry import lookup
from iom.errors import WeightsError
from iom.export.check import Faces, Reference, Run
from iom.export.context import Material
from iom.export.formats import FORMATS, Format
from iom.export.head import write_head
from iom.export.source import Source, description
from iom.export.tfjs import run_tfjs
from iom.keys import KEY_KINDS, TransformKey
from iom.models.artifact import ArtifactFaceHasher
from iom.models.artifact_manifest import Check, Manifest, hashed_files, manifest_path, write_manifest
from iom.models.sessions.openvino_session import check_precision
from iom.models.sessions.runtimes import open_session
from iom.nn.hash_numpy import Head, head_path
from iom.photos.images import Pixels


def check_targets(names: Sequence[str]) -> None:
    """See that this machine can run, and so check, what is to be exported; costs no work.

    Args:
        names: Keys of `FORMATS`.

    Raises:
        WeightsError: The CPU lacks a precision.
        MissingExtraError: A runtime is not installed.
    """
    for name in names:
        wanted = lookup(FORMATS, name, "export format")
        if wanted.runtime == "openvino":
            check_precision(f"--to {name}", wanted.precision)


class Exporter:
    """One hasher to many formats.

    Args:
        source: What is exported.
        calibration: Real faces `(N, S, S, 3)` uint8 to choose integer ranges on, not of the check.
        faces: To try the artefacts on.
        key: Of the check; a fresh one, unless a test needs to know it.
    """

    def __init__(self, source: Source, *, calibration: Pixels, faces: Faces, key: TransformKey | None = None) -> None:
        self._source, self._calibration = source, calibration
        self._reference = Reference(source, faces, key or TransformKey.generate())

    def export(self, names: Sequence[str], folder: Path, *, name: str) -> dict[str, Manifest]:
        """Write artefacts into `folder`: all that belongs to one, or nothing.

        Args:
            names: Keys of `FORMATS`.
            folder: Is made if need be.
            name: Of the artefacts, before their suffix.

        Returns:
            The manifest of each.

        Raises:
            WeightsError: A format cannot be written, or what it wrote loses more than it may.
            MissingExtraError: A package is missing.
        """
        chosen = {one: lookup(FORMATS, one, "export format") for one in names}
        folder.mkdir(parents=True, exist_ok=True)
        manifests = {}
        with tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=folder) as scratch:
            material = self._material(Path(scratch))
            for one, wanted in chosen.items():
                made = Path(scratch) / one
                made.mkdir()
                manifests[one] = self._one(one, wanted, material, made / f"{name}{wanted.suffix}")
                _move(made, folder)
        return manifests

    def _material(self, scratch: Path) -> Material:
        hasher = self._source.hasher
        derive = KEY_KINDS[hasher.key_kind].order
        orders = [derive(TransformKey.generate(), hasher.key_size, hasher.keep)
                  for _ in self._calibration]  # fmt: skip
        return Material(self._source, self._calibration, np.array(orders, np.int32), scratch)

    def _one(self, target: str, wanted: Format, material: Material, path: Path) -> Manifest:
        wanted.write(material, path)
        write_head(self._source.hasher.model, head_path(path))
        files = [file for file in path.parent.rglob("*") if file.is_file()]
        manifest = Manifest(
            target=target, runtime=wanted.runtime, precision=wanted.precision,
            files=hashed_files(files, path.parent), **description(self._source),
        )  # fmt: skip
        check = self._reference.check(_runner(path, manifest), wanted)
        if not check.passed:
            raise WeightsError(_lost(target, check))
        manifest = Manifest(**{**vars(manifest), "check": check})
        write_manifest(path, manifest)
        return manifest


def _runner(path: Path, manifest: Manifest) -> Run:
    if manifest.runtime == "tfjs":
        return lambda images, key: run_tfjs(path, manifest, images, key)
    session = open_session(path, manifest)
    head = Head.load(head_path(path))
    return ArtifactFaceHasher(session, manifest, head, path=path).hash_images


def _lost(target: str, check: Check) -> str:
    text = (
        f"export to {target}: {check.equal_symbols:.2%} of the symbols are those of the hasher "
        f"(at least {check.least_equal_symbols:.2%} are asked for)"
    )
    if check.eer is not None and check.source_eer is not None:
        text += f", EER {check.eer:.2%} against {check.source_eer:.2%} (at most {check.largest_eer_loss:.1%} more)"
    return f"{text}, on {check.images} images of {check.faces}; nothing was written"


def _move(made: Path, folder: Path) -> None:
    """Put what was made in its place, the manifest last: without it nothing is an artefact."""
    manifests = {manifest_path(made / path.name).name for path in made.iterdir()}
    for path in sorted(made.iterdir(), key=lambda path: path.name in manifests):
        place = folder / path.name
        if place.is_dir():
            shutil.rmtree(place)
        path.replace(place)
    made.rmdir()
