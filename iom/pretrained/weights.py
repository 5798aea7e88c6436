"""Backbones loaded by manifest name or from a file, as models that take raw RGB pixels."""

import contextlib
import dataclasses
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

from iom._files import sha256_of, write_json
from iom._registry import did_you_mean
from iom._untrusted import paths_inside, read_json
from iom.errors import WeightsError
from iom.pretrained.face_check import FaceCheck, Predict, check_on_faces
from iom.pretrained.manifest import RANGES, Statement, find_entry, locate, read_manifest, read_statement, statement_path
from iom.pretrained.onnx_network import OnnxNetwork

if TYPE_CHECKING:
    import keras

    from iom.pretrained.importers.tensorflow_graphs import FixedEmbedder

_SIGNATURES = {
    b"\x12\x01\x00\x00\x00\x00\x00\x00": "mxnet",
    b"\x93NUMPY": "mmdnn",
    b"\x01\x01\x01\x0dloss": "dlib",
    b"\x89HDF\r\n\x1a\n": "keras",
    b"PK\x03\x04": "keras",
}
SUFFIXES = {
    ".onnx": "onnx",
    ".pb": "frozen",
    ".params": "mxnet",
    ".npy": "mmdnn",
    ".dat": "dlib",
    ".keras": "keras",
    ".h5": "keras",
    ".hdf5": "keras",
}
"""Suffix to format, where the content does not tell it."""
FORMATS = frozenset((*SUFFIXES.values(), "saved_model"))


@dataclasses.dataclass(frozen=True)
class LoadedBackbone:
    """A network that takes raw RGB pixels 0..255 `(B, S, S, 3)`, whatever its file wanted.

    `model` is a Keras model, an ONNX file under onnxruntime, or a TensorFlow graph as it is; `fingerprint` the SHA-256
    of the weights file, or of those of its files. `check` is `None` where the manifest pins the file or the file states
    its input itself.
    """

    name: str
    model: "keras.Model | FixedEmbedder | OnnxNetwork"
    embedding_size: int
    fingerprint: str
    input: Statement
    check: FaceCheck | None = None

    @property
    def input_size(self) -> int:
        """Side of the image, S."""
        return self.input.size

    @property
    def predict(self) -> Predict:
        """Raw RGB pixels `(B, S, S, 3)` -> embeddings `(B, D)`, not normalised."""
        return self.model.predict_on_batch

    @property
    def trainable_model(self) -> "keras.Model":
        """The Keras model; of an ONNX file, that of the same architecture with its weights.

        A TensorFlow graph is refused: it embeds but cannot be trained or exported.
        """
        if isinstance(self.model, OnnxNetwork):
            return _keras_model(self.model.path, "onnx", self.input)
        if _is_keras(self.model):
            return self.model
        raise WeightsError(
            f"{self.name}: a frozen graph or SavedModel cannot be trained further or exported; take a Keras model"
        )


def load_backbone_model(name_or_path: str, *, check: bool = True) -> LoadedBackbone:
    """Load weights; `check` tries a stated input on synthetic faces and keeps the outcome beside the file.

    `name_or_path` is an `architecture.tag` of the manifest, an architecture with one tag, a file (`.onnx`, `.params`,
    `.npy`, `.keras`, `.h5`, `.pb`) or a SavedModel folder. A file that is not in the manifest needs a statement of its
    input beside it, unless it is a backbone that this project saved.
    """
    path = Path(name_or_path)
    # A name goes before a folder of that name in the working directory.
    if path.suffix not in SUFFIXES and len(path.parts) == 1:
        entries = read_manifest()
        entry = find_entry(name_or_path, entries)
        if entry is not None:
            check = check and not all(entry.files.values())  # the input of pinned files is known
            return _load(locate(entry)[0], entry.format, entry, entry.name, check=check)
        if not path.exists():
            raise WeightsError(
                f"'{name_or_path}' is neither a file nor an entry of the manifest{did_you_mean(name_or_path, entries)} "
                f"(entries: {', '.join(sorted(entries))})"
            )
    if not path.exists():
        raise WeightsError(f"the weights file {path} does not exist")
    return _load(path, format_of(path), read_statement(path), str(path), check=check)


def _load(path: Path, kind: str, statement: Statement | None, name: str, *, check: bool) -> LoadedBackbone:
    digests = [sha256_of(file) for file in files_of(path, kind)]
    fingerprint = digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    if statement is not None and statement.sha256 not in ("", fingerprint):
        raise WeightsError(
            f"{path}: another file than the one stated: expected SHA-256 {statement.sha256}, received {fingerprint}"
        )
    model: keras.Model | FixedEmbedder | OnnxNetwork
    if kind == "keras":
        from iom.pretrained.importers.keras_files import on_raw_pixels, own_statement, read_keras

        model = read_keras(path, statement)
        check = check and statement is not None
        statement = statement or own_statement(model)
    if statement is None:
        ranges = " | ".join(f'"{name}"' for name in RANGES)
        raise WeightsError(
            f"{path}: this {kind} file is not in the manifest, and what input it wants cannot be seen from it: write "
            f'{statement_path(path)} with {{"colour_order": "RGB" | "BGR", "range": {ranges}, "size": 112}} '
            "as its source states them"
        )
    if kind == "keras":
        model = on_raw_pixels(model, statement, path)
    elif kind == "onnx":
        model = OnnxNetwork(path, statement)
    elif kind in ("frozen", "saved_model"):
        from iom.pretrained.importers.tensorflow_graphs import read_frozen, read_saved_model

        model = read_frozen(path, statement) if kind == "frozen" else read_saved_model(path, statement)
    elif kind in FORMATS:
        model = _keras_model(path, kind, statement)
    else:
        raise WeightsError(f"{path}: expected a format of {', '.join(sorted(FORMATS))}, received '{kind}'")
    if _is_keras(model):
        # XLA on a CPU runs depthwise convolutions thirty times slower.
        model.compile(jit_compile=False)
        embedding_size = int(model.output_shape[-1])
    else:
        embedding_size = model.embedding_size
    if statement.embedding_size not in (0, embedding_size):
        raise WeightsError(
            f"{path}: embedding size: {statement.embedding_size} is stated, the file holds {embedding_size}"
        )
    _try_out(model, statement.size, path)
    loaded = LoadedBackbone(name, model, embedding_size, fingerprint, statement)
    return dataclasses.replace(loaded, check=_checked_on_faces(loaded, path)) if check else loaded


def _is_keras(model: Any) -> TypeGuard[Any]:
    """Whether it is a Keras model; Keras is not imported for an ONNX file."""
    if isinstance(model, OnnxNetwork):
        return False
    import keras

    return isinstance(model, keras.Model)


def _keras_model(path: Path, kind: str, statement: Statement) -> "keras.Model":
    """The backbone of ours with the weights of another framework's file; importers are loaded when they are needed."""
    from iom.pretrained.importers.dlib import read_dlib
    from iom.pretrained.importers.foreign import build_foreign
    from iom.pretrained.importers.mxnet import read_mmdnn, read_mxnet
    from iom.pretrained.importers.onnx import read_onnx

    read = {"mxnet": read_mxnet, "mmdnn": read_mmdnn, "onnx": read_onnx, "dlib": read_dlib}[kind]
    model = build_foreign(read(path), statement)
    model.compile(jit_compile=False)
    return model


def _try_out(model: "keras.Model | FixedEmbedder | OnnxNetwork", size: int, path: Path) -> None:
    """Refuse embeddings that are not finite, or the same for all images: damage that no format detects."""
    images = np.random.default_rng(0).uniform(0, 255, (2, size, size, 3)).astype(np.float32)
    rows = np.asarray(model(images), np.float64)
    norms = np.linalg.norm(rows, axis=1)
    if not np.isfinite(rows).all() or not (norms > 0).all():
        raise WeightsError(f"{path}: damaged weights: an embedding is zero or not finite")
    if np.array_equal(rows[0], rows[1]):
        raise WeightsError(f"{path}: damaged weights: two images have the same embedding")


def _checked_on_faces(loaded: LoadedBackbone, path: Path) -> FaceCheck:
    """Outcome of the check on faces: the one kept beside the file, or a new one, then kept."""
    place = path.with_name(f"{path.name}.checked.json")
    key = {"sha256": loaded.fingerprint, "input": loaded.input.model_dump(include={"colour_order", "range", "size"})}
    try:
        kept = read_json(place)
        if kept["key"] == key:
            return FaceCheck(kept["separation"], kept["evidence"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # none yet, or damaged: it is made anew
    outcome = check_on_faces(loaded.predict, loaded.input, source=str(path))
    if _is_keras(loaded.model):
        # Traced for the batches of the check; the next caller has batches of its own.
        loaded.model.make_predict_function(force=True)
    with contextlib.suppress(OSError):  # a folder that cannot be written: checked each time
        write_json(place, {"key": key, **dataclasses.asdict(outcome)})
    return outcome


def format_of(path: Path) -> str:
    """One of `FORMATS`."""
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
    """The file and those it needs beside it, in a fixed order: the files that a fingerprint covers."""
    files = [path]
    if kind == "mxnet":
        from iom.pretrained.importers.mxnet import symbol_path

        files.append(symbol_path(path))
    elif kind == "onnx":
        from iom.pretrained.importers.onnx import external_files

        files += external_files(path)
    elif kind == "saved_model":
        names = [part.relative_to(path).as_posix() for part in path.rglob("*") if part.is_file()]
        files = sorted(paths_inside(path, names, source=path, error=WeightsError))
    for file in files:
        if not file.is_file():
            raise WeightsError(f"{path}: its part {file} is missing")
    return files
