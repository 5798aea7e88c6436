"""Face hasher in Keras: the hash network, its metadata file, and the embedder it belongs to."""

import copy
import dataclasses
import functools
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from iom._files import sha256_of, write_json
from iom._untrusted import read_json
from iom.errors import WeightsError
from iom.keys import KEY_KINDS
from iom.models.archive import save_model
from iom.models.embedder import Embedder, load_embedder
from iom.models.face_hasher import Calibration, FaceHasher
from iom.models.sessions.runtimes import is_artefact
from iom.nn.hash_network import shape_of
from iom.pretrained import hasher_path
from iom.pretrained.importers.keras_files import load_keras_model

FORMAT = 1
MODEL_FILE = "hasher.keras"
METADATA_FILE = "hasher.json"
EMBEDDER_FILE = "embedder.keras"
"""The backbone that was trained along with a hasher, in its folder; no manifest names it."""
NEW_MODEL_FILE = "hasher-new.keras"
FIRST_KIND = "permutation"
_KEY_FIELDS = ("kind", "derivation")
DEFAULT_BATCH_SIZE = 8


class KerasFaceHasher(FaceHasher):
    """A hash network in Keras, and the embedder it was trained with.

    Args:
        model: Made by `build_hasher`.
        embedder_name: The embedder it was trained with.
        embedder_fingerprint: SHA-256 of that embedder's weights.
        calibration: Decision threshold, if one was found.
        weights: Manifest name or file of that embedder, which is loaded when it is first used;
            empty takes `embedder_name`.
        batch_size: Faces of one call of the embedder.
        name: For reports and errors; empty takes `embedder_name`.
    """

    def __init__(
        self,
        model: keras.Model,
        *,
        embedder_name: str,
        embedder_fingerprint: str,
        calibration: Calibration | None = None,
        weights: str = "",
        batch_size: int = DEFAULT_BATCH_SIZE,
        name: str = "",
    ) -> None:
        shape = shape_of(model)
        self.model = model
        self.embedding_size: int = shape["embedding_size"]
        self.code_length: int = shape["code_length"]
        self.alphabet_size: int = shape["alphabet_size"]
        self.keep: int = shape["keep"]
        self.key_size: int = shape["key_size"]
        self.key_kind: str = shape["key_kind"]
        self.embedder_name = embedder_name
        self.embedder_fingerprint = embedder_fingerprint
        self.weights = weights or embedder_name
        self.name = name or embedder_name
        self.calibration = calibration
        self.batch_size = batch_size
        self._embedder: Embedder | None = None

    @property
    def embedder(self) -> Embedder:
        """The embedder, loaded when it is first asked for; setting it checks that it belongs here.

        Raises:
            WeightsError: Missing or damaged weights, or an embedder that this hasher was not
                trained with.
        """
        if self._embedder is None:
            self.embedder = load_embedder(self.weights, batch_size=self.batch_size)
        assert self._embedder is not None  # noqa: S101 - set in the line above
        return self._embedder

    @embedder.setter
    def embedder(self, embedder: Embedder) -> None:
        self.check_embedder(embedder)
        self._embedder, self.batch_size = embedder, embedder.batch_size

    @property
    def input_size(self) -> int:
        """S, side of an aligned face in pixels."""
        return self.embedder.input_size

    def embed(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:  # noqa: D102
        return self.embedder.embed(images)

    def embed_files(  # noqa: D102
        self, paths: Sequence[Path | str], *, progress: bool = False
    ) -> NDArray[np.float32]:
        return self.embedder.embed_files(paths, progress=progress)

    def with_batch_size(self, batch_size: int) -> "KerasFaceHasher":  # noqa: D102
        other = copy.copy(self)
        other.batch_size = batch_size
        other._embedder = self.embedder.with_batch_size(batch_size)
        return other

    def _hash_batch(self, embeddings: NDArray[np.float32], orders: NDArray[np.int32]) -> NDArray[np.uint8]:
        responses = self.model.predict_on_batch({"embedding": embeddings, "order": orders})
        codes: NDArray[np.uint8] = np.argmax(responses, axis=-1).astype(np.uint8)
        return codes

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the embedder's weights, the kind of key, all layers and weights here.

        Codes of hashers with different fingerprints never compare. Computed once: a gallery asks
        for each probe.
        """
        digest = hashlib.sha256(self.embedder_fingerprint.encode())
        digest.update(json.dumps(shape_of(self.model), sort_keys=True).encode())
        digest.update(KEY_KINDS[self.key_kind].derivation.encode())
        for layer in self.model.layers:  # refinement changes codes and has no weights
            config = layer.get_config()
            plain = {
                name: value
                for name, value in config.items()
                if isinstance(value, int | float | str) and name not in ("name", "trainable")
            }
            text = json.dumps([type(layer).__name__, plain], sort_keys=True)
            digest.update(text.encode())
        for weights in self.model.get_weights():
            little = np.ascontiguousarray(weights, weights.dtype.newbyteorder("<"))
            digest.update(f"{little.dtype}{little.shape}".encode() + little.tobytes())
        return digest.hexdigest()

    def check_embedder(self, embedder: Embedder) -> None:
        """Refuse an embedder other than the one this hasher was trained with.

        Only weights count (of both backbones and their share, where two are fused). `flip` is left
        to the user on either side, on purpose: the mean with the mirror image lies in the same
        space, so that such codes compare with plain ones. The threshold holds for the kind of
        embedding it was found with; calibrate anew where that matters.

        Raises:
            WeightsError: Another size or fingerprint: codes would be valid in form and worthless.
        """
        if embedder.embedding_size != self.embedding_size:
            raise WeightsError(
                f"this hasher takes embeddings of size {self.embedding_size} of the embedder "
                f"{self.embedder_name}, received {embedder.name} of size {embedder.embedding_size}"
                "; train a hasher for it with iom train-stage2"
            )
        if embedder.fingerprint != self.embedder_fingerprint:
            raise WeightsError(
                f"this hasher was trained with the embedder {self.embedder_name} (SHA-256 "
                f"{self.embedder_fingerprint[:12]}...), received {embedder.name} (SHA-256 "
                f"{embedder.fingerprint[:12]}...); train a hasher for it with iom train-stage2"
            )

    def save(self, folder: Path) -> None:
        """Write `hasher.keras` and `hasher.json` into `folder`.

        A hasher that is already there stays whole until the new metadata are written: a crash
        leaves the old pair or the new one. `load` takes up a model that was not yet renamed.
        """
        new = folder / NEW_MODEL_FILE
        shape = shape_of(self.model)
        kind = shape.pop("key_kind")
        save_model(self.model, new)
        calibration = self.calibration and dataclasses.asdict(self.calibration)
        write_json(
            folder / METADATA_FILE,
            {
                "format": FORMAT,
                **shape,
                "key": {"kind": kind, "derivation": KEY_KINDS[kind].derivation},
                "embedder": {"name": self.embedder_name, "sha256": self.embedder_fingerprint},
                "model_sha256": sha256_of(new),
                "calibration": calibration,
            },
        )
        new.replace(folder / MODEL_FILE)

    def save_calibration(self, path: Path) -> Path:  # noqa: D102
        calibration = self.calibration and dataclasses.asdict(self.calibration)
        file = path / METADATA_FILE
        write_json(file, {**_metadata(path), "calibration": calibration})
        return file

    def summary(self) -> str:  # noqa: D102
        lines: list[str] = []
        self.model.summary(line_length=80, print_fn=lines.append)
        return "\n".join(lines)

    @classmethod
    def load(cls, folder: Path | str, *, weights: str = "", batch_size: int = DEFAULT_BATCH_SIZE) -> "KerasFaceHasher":
        """Read a folder that `save` wrote; `iom.load` reads artefacts of `iom deploy`, too.

        Args:
            folder: Of a trained hasher, or its name (`iom.pretrained.hasher_path`).
            weights: Manifest name or file of its embedder; empty takes the one that was trained
                along, or the one it names.
            batch_size: Faces of one call of the embedder.

        Raises:
            WeightsError: Missing, damaged, of another format, not what its metadata says, or an
                artefact, which holds no Keras network.
        """
        folder = hasher_path(folder)
        if is_artefact(folder):
            raise WeightsError(
                f"{folder}: expected the folder of a trained hasher, received an artefact of iom "
                "deploy, which lacks the Keras network that this needs; name the folder that the "
                "artefact was made from"
            )
        if not weights and (folder / EMBEDDER_FILE).is_file():
            weights = str(folder / EMBEDDER_FILE)
        metadata = _metadata(folder)
        kind = _check_key_version(folder, metadata)
        path = _model_path(folder, metadata.get("model_sha256"))
        try:
            model = load_keras_model(path)
            calibration = metadata["calibration"]
            hasher = cls(
                model,
                embedder_name=metadata["embedder"]["name"],
                embedder_fingerprint=metadata["embedder"]["sha256"],
                calibration=Calibration(**calibration) if calibration else None,
                weights=weights,
                batch_size=batch_size,
                name=folder.name,
            )
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise WeightsError(f"{folder}: not a hasher of format {FORMAT}: {error}") from error
        if hasher.key_kind != kind:
            raise WeightsError(
                f"{folder / METADATA_FILE}: names keys of kind '{kind}', {MODEL_FILE} takes "
                f"'{hasher.key_kind}'; take both files from the same place"
            )
        return hasher


def _check_key_version(folder: Path, metadata: dict[str, Any]) -> str:
    """Kind of the keys of a hasher; files without one are older than the other kinds.

    Raises:
        WeightsError: Keys of another kind or derivation: the same secret would give other codes.
    """
    key = metadata.get("key", {"kind": FIRST_KIND, "derivation": KEY_KINDS[FIRST_KIND].derivation})
    kind, derivation = (key.get(name) if isinstance(key, dict) else None for name in _KEY_FIELDS)
    if not isinstance(kind, str) or kind not in KEY_KINDS or derivation != KEY_KINDS[kind].derivation:
        known = ", ".join(entry.derivation for entry in KEY_KINDS.values())
        raise WeightsError(
            f"{folder / METADATA_FILE}: this hasher takes keys of kind '{kind}' derived by "
            f"'{derivation}'; this program knows {known}. Use the program that trained it"
        )
    return str(kind)


def _model_path(folder: Path, fingerprint: object) -> Path:
    """The model file that the metadata name, renamed or (after a crash in `save`) not yet."""
    present = [folder / name for name in (MODEL_FILE, NEW_MODEL_FILE) if (folder / name).is_file()]
    if not present:
        raise WeightsError(f"{folder}: expected {MODEL_FILE} beside {METADATA_FILE}, found none")
    for path in present:
        if sha256_of(path) == fingerprint:
            return path
    raise WeightsError(
        f"{present[0]}: the SHA-256 differs from the one in {METADATA_FILE}; the file is damaged "
        "or was replaced. Take both files from the same place"
    )


def _metadata(folder: Path) -> dict[str, Any]:
    path = folder / METADATA_FILE
    try:
        metadata = read_json(path)
    except OSError as error:
        raise WeightsError(
            f"no hasher in {folder} ({METADATA_FILE}: {error.strerror}); train one with "
            "iom train-stage2 --config stage2/base --output DIR"
        ) from error
    except ValueError as error:
        raise WeightsError(f"{path} is damaged: {error}") from error
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        found = metadata.get("format") if isinstance(metadata, dict) else type(metadata).__name__
        raise WeightsError(f"{path}: expected format {FORMAT}, received {found}")
    return metadata
