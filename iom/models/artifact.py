"""Manifest of an artefact of `iom deploy`: its description, the SHA-256 of its files, the outcome of its check."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

from iom._files import sha256_of, write_json
from iom._untrusted import paths_inside, read_json
from iom.errors import WeightsError
from iom.keys import KEY_KINDS

FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Check:
    """Comparison of an artefact in its own runtime with its source hasher, under one random key (`stolen_key`).

    The fields have the names of the manifest file: `least_*` and `largest_*` are the bounds, and `pairs` 0 means that
    no error rate was measured.
    """

    faces: str
    images: int
    equal_symbols: float
    least_equal_symbols: float
    pairs: int
    source_eer: float | None
    eer: float | None
    largest_eer_loss: float

    @property
    def passed(self) -> bool:
        """Whether both bounds hold."""
        enough = self.equal_symbols >= self.least_equal_symbols
        if self.eer is None or self.source_eer is None:
            return enough
        return enough and self.eer - self.source_eer <= self.largest_eer_loss


@dataclasses.dataclass(frozen=True)
class Manifest:
    """Description of a deployed hasher: its runtime, files with their SHA-256, sizes, sources and check.

    `target` is a key of `iom.export.formats.FORMATS`, `runtime` one of `iom.models.sessions.RUNTIMES` or `tfjs`;
    `embedder` holds name and SHA-256 of the embedder, `hasher` the fingerprint of the hasher it was made from.
    """

    target: str
    runtime: str
    precision: str
    files: dict[str, str]
    input_size: int
    embedding_size: int
    code_length: int
    alphabet_size: int
    keep: int
    key_size: int
    key_kind: str
    embedder: dict[str, str]
    hasher: str
    calibration: dict[str, Any] | None = None
    check: Check | None = None

    @property
    def order_width(self) -> int:
        """W, entries of an order."""
        return self.key_size * KEY_KINDS[self.key_kind].rounds

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the files, the precision and the derivation of keys: another precision gives other symbols."""
        parts = (self.files, self.precision, KEY_KINDS[self.key_kind].derivation)
        text = json.dumps(["iom/artefact/v1", *parts], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def manifest_path(artifact: Path) -> Path:
    """The manifest of an artefact: its name and `.json`."""
    return artifact.parent / f"{artifact.name}.json"  # "." and "/" have no name to change


def hashed_files(files: list[Path], folder: Path) -> dict[str, str]:
    """SHA-256 by name relative to `folder`, sorted by name."""
    names = sorted((path.relative_to(folder).as_posix(), path) for path in files)
    return {name: sha256_of(path) for name, path in names}


def write_manifest(artifact: Path, manifest: Manifest) -> None:
    """Write the manifest of an artefact."""
    value = {"format": FORMAT, **dataclasses.asdict(manifest), "fingerprint": manifest.fingerprint}
    write_json(manifest_path(artifact), value)


def read_manifest(artifact: Path) -> Manifest:
    """Read the manifest of an artefact and check its files against it; `WeightsError` where they differ."""
    path = manifest_path(artifact)
    if not artifact.exists():
        raise WeightsError(f"no artefact {artifact}; make one with iom deploy")
    try:
        values = read_json(path)
    except OSError as error:
        if artifact.is_dir() and not artifact.suffix:
            raise WeightsError(_folder_message(artifact)) from error
        raise WeightsError(
            f"{artifact}: expected {path.name} beside it ({error.strerror}); iom deploy writes it"
        ) from error
    except ValueError as error:
        raise WeightsError(f"{path}: not JSON: the manifest is damaged; export again") from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        found = values.get("format") if isinstance(values, dict) else type(values).__name__
        raise WeightsError(
            f"{path}: expected an artefact of version {FORMAT}, received {found!r}; export it "
            "again with this program, or use the program that made it"
        )
    manifest = _parsed(path, values)
    files = paths_inside(artifact.parent, manifest.files, source=path, error=WeightsError)
    for file, (name, digest) in zip(files, manifest.files.items(), strict=True):
        if not file.is_file():
            raise WeightsError(f"{artifact}: its file {name} is missing; copy all files listed in {path.name}")
        if sha256_of(file) != digest:
            raise WeightsError(
                f"{file}: the SHA-256 differs from the one in {path.name}: truncated, damaged or "
                "of another export; copy or export it again"
            )
    return manifest


def _folder_message(folder: Path) -> str:
    inside = sorted(str(path) for path in folder.iterdir() if manifest_path(path).is_file())
    if inside:
        return f"{folder} is a folder; give the artefact in it: {', '.join(inside)}"
    return f"{folder} is a folder; give the file of an artefact, such as FOLDER/x.onnx; it holds none"


def _parsed(path: Path, values: dict[str, Any]) -> Manifest:
    try:
        fields = dict(values)
        fingerprint = fields.pop("fingerprint")
        del fields["format"]
        check = fields.pop("check")
        manifest = Manifest(**fields, check=Check(**check) if check else None)
        valid = manifest.fingerprint == fingerprint and manifest.order_width > 0
    except (KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path}: the manifest is damaged, or of another version: {error}; export again") from error
    if not valid:
        raise WeightsError(f"{path}: the manifest was changed: its fingerprint does not hold")
    return manifest
