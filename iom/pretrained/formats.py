"""Which format a weights file has: by its content, and by its suffix where the content is mute."""

from pathlib import Path

from iom._untrusted import paths_inside
from iom.errors import WeightsError

_SIGNATURES = {
    b"\x12\x01\x00\x00\x00\x00\x00\x00": "mxnet",
    b"\x93NUMPY": "mmdnn",
    b"\x89HDF\r\n\x1a\n": "keras",
    b"PK\x03\x04": "keras",
}
SUFFIXES = {
    ".onnx": "onnx",
    ".pb": "frozen",
    ".params": "mxnet",
    ".npy": "mmdnn",
    ".keras": "keras",
    ".h5": "keras",
    ".hdf5": "keras",
}
"""Suffix to format, for what its content does not tell."""
FORMATS = frozenset((*SUFFIXES.values(), "saved_model"))


def format_of(path: Path) -> str:
    """One of `FORMATS`.

    Raises:
        WeightsError: Missing, unreadable or of no format that is known here.
    """
    if path.is_dir():
        if (path / "saved_model.pb").is_file():
            return "saved_model"
        raise WeightsError(f"{path}: expected a SavedModel, this folder holds no saved_model.pb")
    try:
        with path.open("rb") as stream:
            beginning = stream.read(8)
    except OSError as error:
        raise WeightsError(f"cannot read weights {path}: {error.strerror}") from error
    for signature, name in _SIGNATURES.items():
        if beginning.startswith(signature):
            return name
    if path.suffix.lower() in SUFFIXES:
        return SUFFIXES[path.suffix.lower()]
    raise WeightsError(f"{path}: expected weights as one of {', '.join(sorted(SUFFIXES))} or a SavedModel folder")


def files_of(path: Path, kind: str) -> list[Path]:
    """The file and those it needs beside it, in a fixed order: what a fingerprint covers.

    Raises:
        WeightsError: One is missing, or lies outside of the folder.
    """
    if kind == "mxnet":
        files = [path, symbol_path(path)]
    elif kind == "onnx":
        from iom.pretrained.importers.onnx import external_files

        files = [path, *external_files(path)]
    elif kind == "saved_model":
        names = [part.relative_to(path).as_posix() for part in path.rglob("*") if part.is_file()]
        files = sorted(paths_inside(path, names, source=path, error=WeightsError))
    else:
        files = [path]
    for file in files:
        if not file.is_file():
            raise WeightsError(f"{path}: its part {file} is missing")
    return files


def symbol_path(params: Path) -> Path:
    """The graph of an MXNet checkpoint: `model-0000.params` belongs to `model-symbol.json`."""
    stem, _, epoch = params.stem.rpartition("-")
    name = stem if stem and epoch.isdigit() else params.stem
    return params.with_name(f"{name}-symbol.json")
