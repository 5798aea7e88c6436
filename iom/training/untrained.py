"""Hashers that need no training, for any embedder: a fixed frame behind the key, and a calibrated threshold.

Refined codes of a fixed simplex frame lose next to nothing against trained ones (docs/results.md), so that an embedder
needs no more to be hashed than a threshold, from faces that it was not trained on.
"""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from iom._files import TEMPORARY, check_output, sha256_of, write_json
from iom.config import Stage2Config
from iom.errors import ConfigError, DataError, WeightsError
from iom.models.artifact import Manifest, hashed_files, is_artifact, manifest_path, write_manifest
from iom.models.face_hasher import FaceHasher, KerasFaceHasher
from iom.nn.hash_numpy import check_sizes, head_path, untrained_head, write_head
from iom.pretrained.face_check import check_on_faces
from iom.pretrained.manifest import (
    RANGES,
    Entry,
    Statement,
    find_entry,
    locate,
    read_manifest,
    read_statement,
    statement_path,
)
from iom.pretrained.onnx_network import OnnxNetwork
from iom.synthetic import write_folder
from iom.training.calibration import recalibrate

SUBJECTS, IMAGES, SEED = 150, 3, 11
"""Synthetic faces, where no real ones are given."""
ONNX = ".onnx"


def make_hasher(
    weights: str,
    output: Path,
    config: Stage2Config,
    *,
    faces: Path | None = None,
    statement: Statement | None = None,
    progress: bool = True,
    report: Callable[[str], None] = lambda line: None,
) -> tuple[Path, FaceHasher]:
    """Make and calibrate a hasher for an embedder.

    An ONNX file becomes an artefact that runs under onnxruntime, without TensorFlow: a copy of the file, a statement of
    its input, and the hash for NumPy. Other weights become the folder of a hasher in Keras.

    Args:
        weights: Manifest name or file of the embedder.
        output: A new or empty folder.
        config: Its sections `hasher` and `calibration`, and the seed of frame and keys.
        faces: Aligned faces `<faces>/<subject>/<image>`, all of them used; `None` takes synthetic ones.
        statement: The input of an ONNX file that neither the manifest nor a statement beside it describes.
        progress: Show progress bars.
        report: Takes a line about the faces.

    Returns:
        The artefact or folder in `output`, and the hasher with its threshold.

    Raises:
        ConfigError: The network needs training.
        DataError: `output` holds something; too few faces for the false match rate.
        WeightsError: Unknown, missing or damaged weights, or an input that nobody states or that is wrong.
    """
    check_output(output)
    if output.is_dir() and any(output.iterdir()):
        raise DataError(f"{output}: expected a new or empty folder")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=output.parent) as scratch:
        folder = Path(scratch, "hasher")
        place = _write(weights, folder, config, statement)
        if faces is None:
            faces = Path(scratch, "synthetic")
            write_folder(faces, SUBJECTS, IMAGES, seed=SEED)
        hasher = recalibrate(place, config, faces=faces, progress=progress, report=report)
        hasher.save_calibration(place)
        folder.replace(output)
        return output / place.relative_to(folder), hasher


def parse_statement(text: str) -> Statement:
    """The statement of an input in words, such as "RGB -1..1 112"."""
    order, _, rest = text.strip().partition(" ")
    kind, _, size = rest.strip().rpartition(" ")
    kind = " ".join(kind.split())
    if order not in ("RGB", "BGR") or kind not in RANGES or not size.isdecimal():
        ranges = ", ".join(RANGES)
        raise ConfigError(
            f"expected colour order, range and side of the image, such as 'RGB -1..1 112', received {text!r}; the "
            f"order is RGB or BGR, the range one of {ranges}"
        )
    return Statement.model_validate({"colour_order": order, "range": kind, "size": int(size)})


def _write(weights: str, folder: Path, config: Stage2Config, statement: Statement | None) -> Path:
    """Write the hasher without a threshold; its artefact or folder."""
    entry = None if Path(weights).exists() else find_entry(weights, read_manifest())
    path = locate(entry)[0] if entry else Path(weights)
    if not path.exists():
        raise WeightsError(f"'{weights}': neither a file nor known weights; see iom weights list")
    if is_artifact(path) and manifest_path(path).is_file():
        raise WeightsError(f"{path} has a hash already; calibrate it: iom calibrate --hasher {path} --folder PEOPLE")
    if path.suffix.lower() != ONNX:
        if statement:
            raise ConfigError(f"{path}: an input is stated for ONNX alone; write it into {statement_path(path)}")
        return _write_keras(weights if entry else str(path.resolve()), folder, config)
    found = entry or statement or read_statement(path)
    if found is None:
        raise WeightsError(
            f"{path}: this file is not in the manifest, and what input it wants cannot be seen from it: state it as "
            f"its source does with --input 'RGB -1..1 112' (or BGR; ranges: {', '.join(RANGES)})"
        )
    return _write_onnx(path, found, folder, config)


def _write_onnx(path: Path, statement: Statement, folder: Path, config: Stage2Config) -> Path:
    """Write an artefact: the embedder as it is, and its head."""
    network = OnnxNetwork(path, statement)
    if not isinstance(statement, Entry):
        check_on_faces(network.predict_on_batch, statement, source=str(path))
    folder.mkdir()
    copy = folder / path.name
    shutil.copyfile(path, copy)
    try:
        OnnxNetwork(copy, statement)
    except WeightsError as error:
        raise WeightsError(f"{path}: its arrays lie in other files; save it with all of them in one") from error
    stated = statement.model_dump(include={"colour_order", "range", "size", "template"})
    write_json(statement_path(copy), stated)
    hasher, size = config.hasher, network.embedding_size
    write_head(head_path(copy), *untrained_head(size, hasher, seed=config.seed))
    manifest = Manifest(
        target="embedder",
        runtime="onnxruntime",
        precision="float32",
        files=hashed_files([copy, statement_path(copy), head_path(copy)], folder),
        input_size=statement.size,
        embedding_size=size,
        code_length=hasher.code_length,
        alphabet_size=hasher.alphabet_size,
        keep=hasher.keep,
        key_size=check_sizes(size, hasher),
        key_kind=hasher.key_kind,
        embedder={"name": statement.name if isinstance(statement, Entry) else path.name, "sha256": sha256_of(copy)},
        hasher=sha256_of(head_path(copy)),
        template=statement.template,
        hashes=False,
    )
    write_manifest(copy, manifest)
    return copy


def _write_keras(weights: str, folder: Path, config: Stage2Config) -> Path:
    """Write the folder of a hasher in Keras."""
    from iom.nn.hash_network import build_hasher
    from iom.pretrained.weights import load_backbone_model

    loaded = load_backbone_model(weights)
    network = build_hasher(loaded.embedding_size, config.hasher, seed=config.seed)
    KerasFaceHasher(network, embedder_name=loaded.name, embedder_fingerprint=loaded.fingerprint).save(folder)
    return folder
