"""Face hashers: one interface from aligned faces and keys to codes, and `load`, which opens one.

Importing this module imports neither TensorFlow nor Keras; `load` imports them for the folder of a
trained hasher and for artefacts that TensorFlow runs.
"""

import abc
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from iom.errors import ConfigError, DataError, KeyMaterialError, WeightsError
from iom.keys import KEY_KINDS, TransformKey, part_count
from iom.models.sessions.runtimes import is_artefact
from iom.pretrained import HASHER_FILE, hasher_path

if TYPE_CHECKING:
    from iom.models.embedder import Embedder

Keys = TransformKey | Sequence[TransformKey]
BATCH = 128
"""Rows of one hash call, always as many: another batch size may round differently and flip ties."""


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


class FaceHasher(abc.ABC):
    """Aligned faces, or their embeddings, and keys to codes.

    Attributes:
        name: For reports and errors.
        embedding_size: D.
        code_length: M.
        alphabet_size: Q.
        keep: Columns kept behind the key; 0 keeps all.
        key_size: Dimensions the key works on.
        key_kind: A key of `iom.keys.KEY_KINDS`.
        embedder_name: The embedder that the codes belong to.
        embedder_fingerprint: SHA-256 of its weights.
        weights: That embedder as `iom.load_embedder` takes it: manifest name, file or artefact.
        calibration: Decision threshold, if one was found.
        batch_size: Faces of one call of the embedder.
    """

    name: str
    embedding_size: int
    code_length: int
    alphabet_size: int
    keep: int
    key_size: int
    key_kind: str
    embedder_name: str
    embedder_fingerprint: str
    weights: str
    calibration: Calibration | None
    batch_size: int

    @property
    @abc.abstractmethod
    def input_size(self) -> int:
        """S, side of an aligned face in pixels."""

    @property
    @abc.abstractmethod
    def fingerprint(self) -> str:
        """SHA-256 of all that the codes depend on; codes of two fingerprints never compare."""

    @abc.abstractmethod
    def embed(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embeddings `(N, D)`, unit length, of aligned RGB faces `(N, S, S, 3)` uint8 0..255.

        Raises:
            DataError: Another size or type.
            WeightsError: An embedding that is zero or not finite.
        """

    @abc.abstractmethod
    def embed_files(self, paths: Sequence[Path | str], *, progress: bool = False) -> NDArray[np.float32]:
        """Embeddings `(N, D)`, unit length, of image files of aligned faces, in their order.

        Raises:
            DataError: A file is missing, damaged or of another size.
        """

    @abc.abstractmethod
    def check_embedder(self, embedder: "Embedder") -> None:
        """Refuse embeddings of another embedder than the one these codes belong to.

        Raises:
            WeightsError: Another size or fingerprint.
        """

    @abc.abstractmethod
    def with_batch_size(self, batch_size: int) -> "FaceHasher":
        """The same networks, loaded once, with another number of faces a call."""

    @abc.abstractmethod
    def save_calibration(self, path: Path) -> Path:
        """Write the calibration, and nothing else, into the metadata of the hasher at `path`.

        Returns:
            The file that was written.

        Raises:
            WeightsError: No metadata there, or damaged ones.
        """

    @abc.abstractmethod
    def summary(self) -> str:
        """What it consists of, in lines for people."""

    @abc.abstractmethod
    def _hash_batch(self, embeddings: NDArray[np.float32], orders: NDArray[np.int32]) -> NDArray[np.uint8]:
        """Codes `(BATCH, M)` of embeddings `(BATCH, D)` under orders `(BATCH, W)`."""

    def hash(self, embeddings: NDArray[np.float32], keys: Keys) -> NDArray[np.uint8]:
        """Codes of embeddings.

        Args:
            embeddings: `(N, D)`.
            keys: One key for all rows, or one for each row.

        Returns:
            `(N, M)`, uint8; the first of equally large responses counts.

        Raises:
            DataError: Embeddings of another size, or not finite.
            KeyMaterialError: Another number of keys than rows, or an object that is not a key.
        """
        try:
            rows = np.asarray(embeddings, np.float32)
        except (TypeError, ValueError) as error:
            raise DataError(
                f"expected embeddings (N, {self.embedding_size}), received {type(embeddings).__name__}"
            ) from error
        if rows.ndim != 2 or rows.shape[1] != self.embedding_size:
            raise DataError(
                f"expected embeddings (N, {self.embedding_size}), received {rows.shape}; this "
                f"hasher belongs to the embedder {self.embedder_name}"
            )
        if not np.isfinite(rows).all():
            raise DataError("expected finite embeddings, received NaN or infinity")
        return self.hash_in_order(rows, self._orders(keys, len(rows)))

    def hash_in_order(self, embeddings: NDArray[np.float32], orders: NDArray[np.int32]) -> NDArray[np.uint8]:
        """Codes under given orders: what keys of `key_kind` become, or `identity_order`.

        Args:
            embeddings: `(N, D)`.
            orders: `(N, W)`, or `(W,)` for all rows; W is `key_size` times the rounds of the kind.

        Returns:
            `(N, M)`, uint8.

        Raises:
            KeyMaterialError: Orders of another width or number.
        """
        count, width = len(embeddings), self.order_width
        if orders.shape not in ((width,), (1, width), (count, width)):
            raise KeyMaterialError(
                f"expected orders ({count}, {width}) or ({width},) for keys of kind "
                f"'{self.key_kind}', received {orders.shape}"
            )
        orders = np.broadcast_to(orders, (count, width))
        codes = np.empty((count, self.code_length), np.uint8)
        rows = np.zeros((BATCH, self.embedding_size), np.float32)
        row_orders = np.zeros((BATCH, width), np.int32)
        for start in range(0, count, BATCH):
            part = slice(start, start + BATCH)
            size = len(embeddings[part])
            rows[:size], row_orders[:size] = embeddings[part], orders[part]
            codes[part] = self._hash_batch(rows, row_orders)[:size]
        return codes

    @property
    def order_width(self) -> int:
        """W, entries of an order."""
        return self.key_size * KEY_KINDS[self.key_kind].rounds

    @property
    def identity_order(self) -> NDArray[np.int32]:
        """The order that leaves every dimension where it is, for `hash_in_order`.

        It shows what a key costs. Codes made with it are not protected: never enrol them.
        """
        return KEY_KINDS[self.key_kind].identity(self.key_size)

    @property
    def parts(self) -> int:
        """In how many parts of the embedding a key may live: 1 unless `key_kind` is `part`."""
        return part_count(self.key_size, self.keep) if self.key_kind == "part" else 1

    def __repr__(self) -> str:
        found = self.calibration
        decision = f"threshold {found.threshold} at FMR {found.fmr:g}" if found else "not calibrated"
        return (
            f"{type(self).__name__}({self.code_length}x{self.alphabet_size}, {self.key_kind}, "
            f"{self.embedder_name}, {decision})"
        )

    def _orders(self, keys: Keys, rows: int) -> NDArray[np.int32]:
        """Orders `(W,)` of one key, or `(N, W)` of one for each row."""
        derive = KEY_KINDS[self.key_kind].order
        if isinstance(keys, TransformKey):
            return derive(keys, self.key_size, self.keep)
        expected = f"expected one TransformKey, or one for each of {rows} embeddings, received "
        if isinstance(keys, str | bytes) or not hasattr(keys, "__len__"):
            raise KeyMaterialError(expected + type(keys).__name__)
        odd = sorted({type(key).__name__ for key in keys if not isinstance(key, TransformKey)})
        if odd:
            raise KeyMaterialError(f"{expected}a {type(keys).__name__} of {', '.join(odd)}")
        if len(keys) != rows:
            raise KeyMaterialError(f"{expected}{len(keys)} keys")
        orders = [derive(key, self.key_size, self.keep) for key in keys]
        return np.array(orders, np.int32).reshape(rows, self.order_width)


class ForwardingFaceHasher(FaceHasher):
    """A face hasher that is another one, for subclasses that change a part of it.

    Args:
        hasher: Everything that a subclass does not define is asked of it.
    """

    def __init__(self, hasher: FaceHasher) -> None:
        self._hasher = hasher

    def __getattr__(self, name: str) -> Any:
        if name not in FaceHasher.__annotations__:
            raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")
        return getattr(self._hasher, name)

    @property
    def input_size(self) -> int:  # noqa: D102
        return self._hasher.input_size

    @property
    def fingerprint(self) -> str:  # noqa: D102
        return self._hasher.fingerprint

    @property
    def parts(self) -> int:  # noqa: D102
        return self._hasher.parts

    def embed(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:  # noqa: D102
        return self._hasher.embed(images)

    def embed_files(  # noqa: D102
        self, paths: Sequence[Path | str], *, progress: bool = False
    ) -> NDArray[np.float32]:
        return self._hasher.embed_files(paths, progress=progress)

    def check_embedder(self, embedder: "Embedder") -> None:  # noqa: D102
        self._hasher.check_embedder(embedder)

    def with_batch_size(self, batch_size: int) -> FaceHasher:  # noqa: D102
        return type(self)(self._hasher.with_batch_size(batch_size))

    def save_calibration(self, path: Path) -> Path:  # noqa: D102
        return self._hasher.save_calibration(path)

    def summary(self) -> str:  # noqa: D102
        return self._hasher.summary()

    def hash(  # noqa: D102
        self, embeddings: NDArray[np.float32], keys: Keys
    ) -> NDArray[np.uint8]:
        return self._hasher.hash(embeddings, keys)

    def hash_in_order(  # noqa: D102
        self, embeddings: NDArray[np.float32], orders: NDArray[np.int32]
    ) -> NDArray[np.uint8]:
        return self._hasher.hash_in_order(embeddings, orders)

    def _hash_batch(self, embeddings: NDArray[np.float32], orders: NDArray[np.int32]) -> NDArray[np.uint8]:
        return self._hasher._hash_batch(embeddings, orders)


def load(path: Path | str, *, weights: str = "", batch_size: int = 8, opens_embedder: bool = True) -> FaceHasher:
    """A face hasher: the folder of a trained one, or an artefact of `iom deploy`.

    Args:
        path: Folder, artefact, or a name such as "bundled" (`iom.pretrained.hasher_path`).
        weights: Manifest name or file of the embedder; empty takes the one the hasher names. An
            artefact embeds for itself and takes none.
        batch_size: Faces of one call of the embedder.
        opens_embedder: Open and check the embedder at once, not when it is first used.

    Raises:
        ConfigError: Weights beside an artefact.
        WeightsError: Missing, damaged, or hasher and embedder do not belong together.
        MissingExtraError: The runtime of the artefact is not installed.
    """
    path = hasher_path(path)
    if is_artefact(path):
        if weights:
            raise ConfigError(f"{path} is an artefact that embeds for itself: give no weights")
        from iom.models.artifact import ArtifactFaceHasher

        return ArtifactFaceHasher.load(path, batch_size=batch_size)
    _check_folder(path)
    from iom.models.keras_face_hasher import KerasFaceHasher  # imports Keras

    hasher = KerasFaceHasher.load(path, weights=weights, batch_size=batch_size)
    if opens_embedder:
        _ = hasher.embedder
    return hasher


def _check_folder(path: Path) -> None:
    """Refuse what is neither the folder of a hasher nor an artefact, before Keras is imported."""
    if (path / HASHER_FILE).is_file():
        return
    if not path.is_dir():
        raise WeightsError(
            f"{path}: expected a folder that iom train-stage2 wrote, or an artefact of iom deploy, "
            "received another file"
        )
    artefacts = sorted(each for each in path.iterdir() if is_artefact(each))
    raise WeightsError(
        f"no hasher in {path} (it holds no {HASHER_FILE}); "
        + (
            f"give the artefact itself: {artefacts[0]}"
            if artefacts
            else "train one with iom train-stage2 --config stage2/base --output DIR"
        )
    )
