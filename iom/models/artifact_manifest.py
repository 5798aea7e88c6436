"""What lies beside an exported artefact: what it is, its fingerprint, what its check found."""

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
SUFFIX = ".json"


@dataclasses.dataclass(frozen=True)
class Check:
    """How an artefact, run by its own runtime, compares with the hasher it was made from.

    Attributes:
        faces: What it was tried on.
        images: How many faces.
        equal_symbols: Share of symbols that are the same, under one random key.
        least_equal_symbols: What was asked for.
        pairs: How many pairs stand behind the error rates; 0: none were at hand.
        source_eer: Equal error rate of the hasher it was made from, one key (`stolen_key`).
        eer: Its own.
        largest_eer_loss: How much larger it may be.
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
        """Whether nothing exceeds its bound."""
        enough = self.equal_symbols >= self.least_equal_symbols
        if self.eer is None or self.source_eer is None:
            return enough
        return enough and self.eer - self.source_eer <= self.largest_eer_loss


@dataclasses.dataclass(frozen=True)
class Manifest:
    """A deployed hasher.

    Attributes:
        target: A key of `iom.export.formats.FORMATS`.
        runtime: A key of `iom.models.sessions.runtimes.RUNTIMES`, or one outside Python.
        precision: `float32`, `bfloat16`, ...: what it computes with.
        files: SHA-256 of its files, by name.
        input_size: S, side of the aligned face.
        embedding_size: D.
        code_length: M.
        alphabet_size: Q.
        keep: Columns kept behind the key; 0 keeps all.
        key_size: Dimensions the key works on.
        key_kind: A key of `iom.keys.KEY_KINDS`.
        embedder: Name and SHA-256 of the embedder it was made from.
        hasher: Fingerprint of the hasher it was made from.
        calibration: Of that hasher, as in `hasher.json`; precision hardly moves a threshold.
        check: What `iom deploy` found.
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
        """SHA-256 that belongs into every template made with it.

        Over the files, the precision they are run with and the derivation of keys: another
        precision changes symbols, so that enrolment and probe must use the same artefact.
        """
        parts = (self.files, self.precision, KEY_KINDS[self.key_kind].derivation)
        text = json.dumps(["iom/artefact/v1", *parts], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def manifest_path(artefact: Path) -> Path:
    """The manifest of an artefact: its name and `.json`."""
    return artefact.parent / f"{artefact.name}{SUFFIX}"  # "." and "/" have no name to change


def hashed_files(files: list[Path], folder: Path) -> dict[str, str]:
    """SHA-256 by name relative to `folder`, in order of the names."""
    names = sorted((path.relative_to(folder).as_posix(), path) for path in files)
    return {name: sha256_of(path) for name, path in names}


def write_manifest(artefact: Path, manifest: Manifest) -> None:
    """Write the manifest of an artefact."""
    plain = dataclasses.asdict(manifest)
    value = {"format": FORMAT, **plain, "fingerprint": manifest.fingerprint}
    write_json(manifest_path(artefact), value)


def _is_folder(folder: Path) -> str:
    """What to give instead of a folder."""
    inside = sorted(one.name for one in folder.iterdir() if manifest_path(one).is_file())
    if inside:
        advice = f"give the artefact in it: {', '.join(str(folder / name) for name in inside)}"
    else:
        advice = "give the file of an artefact, such as FOLDER/x.onnx; there is none in it"
    return f"{folder} is a folder; {advice}"


def read_manifest(artefact: Path) -> Manifest:
    """Read the manifest of an artefact and check its files against it.

    Raises:
        WeightsError: None there, of another version, or files that are missing or damaged.
    """
    path = manifest_path(artefact)
    if not artefact.exists():
        raise WeightsError(f"no artefact {artefact}; make one with iom deploy")
    try:
        values = read_json(path)
    except OSError as error:
        if artefact.is_dir() and not artefact.suffix:
            raise WeightsError(_is_folder(artefact)) from error
        raise WeightsError(
            f"{artefact}: expected {path.name} beside it ({error.strerror}); iom deploy writes it"
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
    files = paths_inside(artefact.parent, manifest.files, source=path, error=WeightsError)
    for file, (name, digest) in zip(files, manifest.files.items(), strict=True):
        if not file.is_file():
            raise WeightsError(f"{artefact}: its file {name} is missing; copy all of {path.name}")
        if sha256_of(file) != digest:
            raise WeightsError(
                f"{file}: the SHA-256 differs from the one in {path.name}: truncated, damaged or "
                "of another export; copy or export it again"
            )
    return manifest


def _parsed(path: Path, values: dict[str, Any]) -> Manifest:
    try:
        values = dict(values)
        fingerprint = values.pop("fingerprint")
        del values["format"]
        check = values.pop("check")
        manifest = Manifest(**values, check=Check(**check) if check else None)
        valid = manifest.fingerprint == fingerprint and manifest.order_width > 0
    except (KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path}: the manifest is damaged, or of another version: {error}; export again") from error
    if not valid:
        raise WeightsError(f"{path}: the manifest was changed: its fingerprint does not hold")
    return manifest
