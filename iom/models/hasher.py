"""A trained hasher: embeddings and keys in, codes out; stored with all that belongs to it."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import keras
import numpy as np
from numpy.typing import NDArray

from iom.errors import DataError, KeyMaterialError, WeightsError
from iom.files import sha256_of, write_json
from iom.keys import KEY_KINDS, KeyKind, TransformKey, part_count
from iom.models.archive import save_model
from iom.models.embedder import Embedder
from iom.models.hashing import shape_of
from iom.pretrained import hasher_path
from iom.runtime.deployed import DeployedHasher
from iom.runtime.runtimes import is_artefact

FORMAT = 1
MODEL_FILE = "hasher.keras"
METADATA_FILE = "hasher.json"
NEW_MODEL_FILE = "hasher-new.keras"
FIRST_KIND = "permutation"
_KEY_FIELDS = ("kind", "derivation")
BATCH = 128
"""Rows a call, always as many: another batch size may round differently and flip a near tie."""


@dataclasses.dataclass(frozen=True)
class Calibration:
    """A decision threshold and where it comes from.

    Attributes:
        threshold: Largest number of differing positions that is still a match.
        fmr: The false match rate that was asked for.
        fnmr: False non-match rate at the threshold, on the same comparisons.
        subjects: Held-out subjects it was found on.
        keys: Keys it was found under; each compares all pairs (`stolen_key`).
        measured_fmr: False match rate at the threshold, on the same comparisons.
        threshold_low: Lower end of the bootstrap interval, over subjects and keys, of the threshold
            that would be chosen; -1 is a threshold that rejects everything.
        threshold_high: Its upper end.
        fmr_low: Lower end of the interval of the false match rate at the threshold.
        fmr_high: Its upper end.
        fnmr_low: Lower end of the interval of the false non-match rate at the threshold.
        fnmr_high: Its upper end.
        confidence: Of the intervals. What follows `keys` is absent where it was not computed.
    """

    threshold: int
    fmr: float
    fnmr: float
    subjects: int
    keys: int
    measured_fmr: float | None = None
    threshold_low: int | None = None
    threshold_high: int | None = None
    fmr_low: float | None = None
    fmr_high: float | None = None
    fnmr_low: float | None = None
    fnmr_high: float | None = None
    confidence: float | None = None


class Hasher:
    """Embeddings to codes.

    Args:
        model: Made by `build_hasher`.
        embedder_name: The embedder it was trained with.
        embedder_fingerprint: SHA-256 of that embedder's weights.
        calibration: Decision threshold, if one was found.
    """

    def __init__(
        self,
        model: keras.Model,
        *,
        embedder_name: str,
        embedder_fingerprint: str,
        calibration: Calibration | None = None,
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
        self.calibration = calibration

    def hash(
        self, embeddings: NDArray[np.float32], keys: TransformKey | Sequence[TransformKey]
    ) -> NDArray[np.uint8]:
        """Codes of embeddings.

        Args:
            embeddings: `(N, D)`.
            keys: One key for all rows, or one for each row.

        Returns:
            `(N, M)`, uint8; the first of equally large responses counts.

        Raises:
            DataError: Embeddings of another size, or not finite.
            KeyMaterialError: Another number of keys than rows, or something that is no key.
        """
        rows = np.asarray(embeddings, np.float32)
        if rows.ndim != 2 or rows.shape[1] != self.embedding_size:
            raise DataError(
                f"expected embeddings (N, {self.embedding_size}), received {rows.shape}; this "
                f"hasher belongs to the embedder {self.embedder_name}"
            )
        if not np.isfinite(rows).all():
            raise DataError("expected finite embeddings, received NaN or infinity")
        return self.hash_in_order(rows, self._orders(keys, len(rows)))

    def hash_in_order(
        self, embeddings: NDArray[np.float32], orders: NDArray[np.int32]
    ) -> NDArray[np.uint8]:
        """Codes under given orders: what keys of `key_kind` become, or `identity_order`.

        Args:
            embeddings: `(N, D)`.
            orders: `(N, W)`, or `(W,)` for all rows; W is `key_size` times the rounds of the kind.

        Returns:
            `(N, M)`, uint8.
        """
        width = self.key_size * self._kind.rounds
        if orders.shape not in ((width,), (1, width), (len(embeddings), width)):
            raise KeyMaterialError(
                f"expected orders ({len(embeddings)}, {width}) or ({width},) for keys of kind "
                f"'{self.key_kind}', received {orders.shape}"
            )
        orders = np.broadcast_to(orders, (len(embeddings), width))
        codes = np.empty((len(embeddings), self.code_length), np.uint8)
        rows = np.zeros((BATCH, self.embedding_size), np.float32)
        row_orders = np.zeros((BATCH, width), np.int32)
        for start in range(0, len(embeddings), BATCH):
            part = slice(start, start + BATCH)
            count = len(embeddings[part])
            rows[:count], row_orders[:count] = embeddings[part], orders[part]
            responses = self.model.predict_on_batch({"embedding": rows, "order": row_orders})
            codes[part] = np.argmax(responses[:count], axis=-1)
        return codes

    @property
    def identity_order(self) -> NDArray[np.int32]:
        """The order that leaves every dimension where it is, for `hash_in_order`.

        It shows what a key costs. Codes made with it are not protected: never enrol them.
        """
        return self._kind.identity(self.key_size)

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

    @property
    def parts(self) -> int:
        """In how many parts of the embedding a key may live: 1 unless `key_kind` is `part`."""
        return part_count(self.key_size, self.keep) if self.key_kind == "part" else 1

    @property
    def _kind(self) -> KeyKind:
        return KEY_KINDS[self.key_kind]

    def _orders(self, keys: TransformKey | Sequence[TransformKey], rows: int) -> NDArray[np.int32]:
        derive = self._kind.order
        if isinstance(keys, TransformKey):
            return derive(keys, self.key_size, self.keep)
        if len(keys) != rows or not all(isinstance(key, TransformKey) for key in keys):
            raise KeyMaterialError(
                f"expected one TransformKey, or one for each of {rows} embeddings, "
                f"received {len(keys)} objects"
            )
        orders = [derive(key, self.key_size, self.keep) for key in keys]
        return np.array(orders, np.int32).reshape(rows, self.key_size * self._kind.rounds)

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

    def save_calibration(self, folder: Path) -> None:
        """Write the calibration alone into the `hasher.json` of `folder`.

        Raises:
            WeightsError: No metadata there, or damaged ones.
        """
        calibration = self.calibration and dataclasses.asdict(self.calibration)
        metadata = {**_metadata(folder), "calibration": calibration}
        write_json(folder / METADATA_FILE, metadata)

    @classmethod
    def load(cls, folder: Path | str) -> "Hasher":
        """Read a folder that `save` wrote, or a hasher known by name (`iom.pretrained`).

        Of an artefact of `iom deploy` it opens the runtime that the file wants, and returns an
        `iom.runtime.deployed.DeployedHasher`, which hashes embeddings alike, and images besides.
        `iom.open_models` does both without importing Keras first.

        Raises:
            WeightsError: Missing, damaged, of another format, or not what its metadata says.
        """
        folder = hasher_path(folder)
        if is_artefact(folder):
            return cast("Hasher", DeployedHasher.load(folder))
        metadata = _metadata(folder)
        kind = _check_key_version(folder, metadata)
        path = _model_path(folder, metadata.get("model_sha256"))
        try:
            model = keras.saving.load_model(path, compile=False, safe_mode=True)
            calibration = metadata["calibration"]
            hasher = cls(
                model,
                embedder_name=metadata["embedder"]["name"],
                embedder_fingerprint=metadata["embedder"]["sha256"],
                calibration=Calibration(**calibration) if calibration else None,
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
    if kind not in KEY_KINDS or derivation != KEY_KINDS[kind].derivation:
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
        metadata = json.loads(path.read_text(encoding="utf-8"))
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
