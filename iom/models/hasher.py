"""A trained hasher: embeddings and keys in, codes out; stored with all that belongs to it."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from iom.errors import DataError, KeyMaterialError, WeightsError
from iom.files import sha256_of, write_json
from iom.keys import TransformKey
from iom.models.archive import save_model
from iom.models.embedder import Embedder
from iom.models.hashing import shape_of

FORMAT = 1
MODEL_FILE = "hasher.keras"
METADATA_FILE = "hasher.json"
NEW_MODEL_FILE = "hasher-new.keras"
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
    """

    threshold: int
    fmr: float
    fnmr: float
    subjects: int
    keys: int


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
        """Codes under given orders, `(N, D)` and `(N, D)` or `(D,)` -> `(N, M)`."""
        orders = np.broadcast_to(orders, embeddings.shape)
        codes = np.empty((len(embeddings), self.code_length), np.uint8)
        rows = np.zeros((BATCH, self.embedding_size), np.float32)
        row_orders = np.zeros((BATCH, self.embedding_size), np.int32)
        for start in range(0, len(embeddings), BATCH):
            part = slice(start, start + BATCH)
            count = len(embeddings[part])
            rows[:count], row_orders[:count] = embeddings[part], orders[part]
            responses = self.model.predict_on_batch({"embedding": rows, "order": row_orders})
            codes[part] = np.argmax(responses[:count], axis=-1)
        return codes

    def _orders(self, keys: TransformKey | Sequence[TransformKey], rows: int) -> NDArray[np.int32]:
        if isinstance(keys, TransformKey):
            return keys.permutation(self.embedding_size).astype(np.int32)
        if len(keys) != rows or not all(isinstance(key, TransformKey) for key in keys):
            raise KeyMaterialError(
                f"expected one TransformKey, or one for each of {rows} embeddings, "
                f"received {len(keys)} objects"
            )
        orders = [key.permutation(self.embedding_size) for key in keys]
        return np.array(orders, np.int32).reshape(rows, self.embedding_size)

    def check_embedder(self, embedder: Embedder) -> None:
        """Refuse an embedder other than the one this hasher was trained with.

        Raises:
            WeightsError: Another fingerprint: codes would be valid in form and worthless.
        """
        if embedder.fingerprint != self.embedder_fingerprint:
            raise WeightsError(
                f"this hasher was trained with the embedder {self.embedder_name} (SHA-256 "
                f"{self.embedder_fingerprint[:12]}...), received {embedder.name} (SHA-256 "
                f"{embedder.fingerprint[:12]}...); train a hasher for it with train_stage2.py"
            )

    def save(self, folder: Path) -> None:
        """Write `hasher.keras` and `hasher.json` into `folder`.

        A hasher that is already there stays whole until the new metadata are written: a crash
        leaves the old pair or the new one. `load` takes up a model that was not yet renamed.
        """
        new = folder / NEW_MODEL_FILE
        save_model(self.model, new)
        calibration = self.calibration and dataclasses.asdict(self.calibration)
        write_json(
            folder / METADATA_FILE,
            {
                "format": FORMAT,
                **shape_of(self.model),
                "embedder": {"name": self.embedder_name, "sha256": self.embedder_fingerprint},
                "model_sha256": sha256_of(new),
                "calibration": calibration,
            },
        )
        new.replace(folder / MODEL_FILE)

    @classmethod
    def load(cls, folder: Path | str) -> "Hasher":
        """Read a folder that `save` wrote.

        Raises:
            WeightsError: Missing, damaged, of another format, or not what its metadata says.
        """
        folder = Path(folder)
        metadata = _metadata(folder)
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
        return hasher


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
            "python train_stage2.py --config configs/stage2/base.yaml --output DIR"
        ) from error
    except ValueError as error:
        raise WeightsError(f"{path} is damaged: {error}") from error
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        found = metadata.get("format") if isinstance(metadata, dict) else type(metadata).__name__
        raise WeightsError(f"{path}: expected format {FORMAT}, received {found}")
    return metadata
