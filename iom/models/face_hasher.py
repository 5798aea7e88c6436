"""Face hashers: one interface from aligned faces and keys to codes, in Keras and as an artefact, and `load`.

TensorFlow is imported only for the folder of a trained hasher and for artefacts that it runs.
"""

import abc
import copy
import dataclasses
import functools
import hashlib
import json
import operator
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from iom._files import sha256_of, write_json
from iom._progress import tqdm
from iom.codes.asymmetric import SYMBOLS, CodeVectors, keyed_rows
from iom.codes.comparators import Coder, Comparator
from iom.errors import BystanderWarning, ConfigError, DataError, KeyMaterialError, WeightsError, needs_train
from iom.keys import KEY_KINDS, TransformKey, part_count
from iom.models.artifact import (
    FORMAT,
    Calibration,
    Manifest,
    Session,
    is_artifact,
    manifest_path,
    open_artifact,
    read_manifest,
    read_metadata,
    write_manifest,
)
from iom.models.code import Code
from iom.models.embedder import CHUNK, Embedder, artifact_embedder, load_embedder, unit_rows
from iom.models.verification import Verification, decide, threshold_at
from iom.nn.hash_numpy import Head, head_path, padded_batches
from iom.photos.detect import Detect
from iom.photos.images import Picture, file_paths, is_picture, picture_name, read_images
from iom.photos.picture import one_face
from iom.pretrained import BUNDLED, HASHER_FILE, hasher_path

if TYPE_CHECKING:
    import keras

Keys = TransformKey | Sequence[TransformKey]
SIZES = ("embedding_size", "code_length", "alphabet_size", "keep", "key_size", "key_kind")
BATCH = 128
"""Rows of one hash call, always as many: another batch size may round differently and flip ties."""
FEW = 16
"""Rows of one call of the hash in NumPy where there are no more: its products round as those of `BATCH` rows do."""
EMBEDDER_BATCH = 8
"""Faces of one call of the embedder, where nothing else is asked for."""
MODEL_FILE = "hasher.keras"
EMBEDDER_FILE = "embedder.keras"
"""The backbone that was trained along with a hasher, in its folder; no manifest names it."""
NEW_MODEL_FILE = "hasher-new.keras"
_TRAINING = "train one with iom train-stage2 --config stage2/base --output DIR, or name an artefact of iom deploy"
BALANCED_FMR = 1e-2
"""False match rate of a decision about two pictures, where nothing else is asked for."""
FIRST_KIND = "permutation"
"""Kind of the keys of hashers whose metadata name none."""


class FaceHasher(Coder):
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
    _few = BATCH

    @property
    @abc.abstractmethod
    def embedder(self) -> Embedder:
        """The embedder that the codes belong to."""

    @property
    @abc.abstractmethod
    def head(self) -> Head:
        """The hash network in NumPy, from embeddings to codes."""

    @property
    @abc.abstractmethod
    def fingerprint(self) -> str:
        """SHA-256 of all that the codes depend on; codes of two fingerprints never compare."""

    @abc.abstractmethod
    def check_embedder(self, embedder: Embedder) -> None:
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
        """Description of its parts, in lines for people."""

    @abc.abstractmethod
    def _hash_batch(self, embeddings: NDArray[np.float32], orders: NDArray[np.int32]) -> NDArray[np.uint8]:
        """Codes `(B, M)` of embeddings `(B, D)` under orders `(B, W)`, where B is `BATCH`, or `_few` for few rows."""

    @property
    def input_size(self) -> int:
        """S, side of an aligned face in pixels."""
        return self.embedder.input_size

    def embed(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embeddings `(N, D)`, unit length, of aligned RGB faces `(N, S, S, 3)` uint8 0..255.

        Raises:
            DataError: Another size or type.
            WeightsError: An embedding that is zero or not finite.
        """
        return self.embedder.embed(images)

    def embed_files(self, paths: Sequence[Path | str], *, progress: bool = False) -> NDArray[np.float32]:
        """Embeddings `(N, D)`, unit length, of image files of aligned faces, in their order.

        Raises:
            DataError: A file is missing, damaged or of another size.
        """
        return self.embedder.embed_files(paths, progress=progress)

    def embed_picture(
        self, picture: Picture, *, detector: Detect | None = None, checked: bool = True
    ) -> NDArray[np.float32]:
        """Embedding `(D,)` of the one face of a picture, whose chip is cut from the picture itself.

        Args:
            picture: A path, bytes, base64 text, an open file, an RGB array or a Pillow image.
            detector: Of `iom.photos.build_detector`; by default the packaged one.
            checked: Refuse a face that is too small or too blurred, and an aligned picture in which no face is found.

        Raises:
            FaceError: The picture cannot be read, or has no face to compare; `status` says which.

        Warns:
            BystanderWarning: There are further faces, all much smaller than the one that was taken.
        """
        chip, face = one_face(picture, template=self.embedder.template.name, detector=detector, checked=checked)
        if face.others:
            warnings.warn(
                f"{picture_name(picture)}: {face.others} further face{'s' * (face.others > 1)}; the largest was taken",
                BystanderWarning,
                stacklevel=2,
            )
        row: NDArray[np.float32] = self.with_batch_size(1).embed(chip[None])[0]
        return row

    def compare(
        self, code: Code, picture: Picture, key: TransformKey, *, fmr: float | None = None, checked: bool = True
    ) -> Verification:
        """Whether the face of a picture is that of a code, which is under this key.

        Compared as `comparison` says: the code with the picture's code, or with its keyed row.

        Args:
            code: Of `hash`.
            picture: As of `embed_picture`.
            key: The key of the code.
            fmr: A false match rate that the hasher was calibrated at; by default its own operating point.
            checked: As of `embed_picture`.

        Raises:
            CodeError: A code of another hasher.
            ConfigError: The hasher is not calibrated, or not at that rate.
            FaceError: As of `embed_picture`.
        """
        threshold = threshold_at(self.calibration, fmr, name=self.name)
        self._orders(key, 1)  # a wrong key is told before the face is looked for
        code.check(self.fingerprint, self.code_length)
        embedding = self.embed_picture(picture, checked=checked)[None]
        if self.comparison == SYMBOLS:
            distance = int(np.count_nonzero(code.symbols != self.hash(embedding, key)[0]))
        else:
            distance = int(self.asymmetric_distances(code.symbols[None], self.rows(embedding, key))[0])
        return decide(self.calibration, distance, threshold)

    @overload
    def hash(self, source: NDArray[np.floating[Any]], keys: Keys) -> NDArray[np.uint8]: ...

    @overload
    def hash(self, source: Picture, keys: TransformKey) -> Code: ...

    def hash(self, source: Any, keys: Keys) -> Any:
        """The code of a picture, or codes of embeddings.

        Args:
            source: A picture with one face (see `embed_picture`), or embeddings `(N, D)` of floats.
            keys: One key for all rows, or one for each row.

        Returns:
            A `Code`; for embeddings `(N, M)`, uint8. The first of equally large responses counts.

        Raises:
            DataError: Embeddings of another size, or not finite.
            FaceError: A picture cannot be read, or has no face to compare.
            KeyMaterialError: Another number of keys than rows, or an object that is not a key.
        """
        if is_picture(source):
            self._orders(keys, 1)  # a wrong key is told before the face is looked for
            symbols = self.hash(self.embed_picture(source)[None], keys)[0]
            return Code(symbols, self.alphabet_size, self.fingerprint)
        return self._hash_embeddings(source, keys)

    @property
    def comparison(self) -> str:
        """How a code is compared with a probe, "symbols" or "asymmetric": as the calibration says, else by symbols."""
        return self.calibration.comparison if self.calibration else SYMBOLS

    @property
    def comparator(self) -> Comparator:
        """The comparator of `comparison`."""
        return self.comparator_of(self.comparison)

    @property
    def vectors(self) -> CodeVectors:
        """What the symbols of a code stand for, in integers, for asymmetric distances."""
        return self.head.vectors

    def rows(self, embeddings: NDArray[np.floating[Any]], keys: Keys) -> NDArray[np.int32]:
        """Keyed rows of probes for asymmetric distances: what enters the projection, in integers.

        To be kept as secret as the embeddings: with the key they are turned back. Never store them.

        Args:
            embeddings: `(N, D)`.
            keys: One key for all rows, or one for each.

        Returns:
            `(N, K)`, int32; K is `keep`, or `key_size` where all dimensions are kept.

        Raises:
            DataError, KeyMaterialError: As of `hash`.
        """
        given = self._checked(embeddings)
        orders = np.broadcast_to(self._orders(keys, len(given)), (len(given), self.order_width))
        size = FEW if len(given) <= FEW else BATCH
        found = np.empty((len(given), self.keep or self.key_size), np.int32)
        for part, batch in padded_batches(size, given, orders.astype(np.int32)):
            found[part] = keyed_rows(self.head.keyed_rows(*batch))[: part.stop - part.start]
        return found

    def _hash_embeddings(self, embeddings: NDArray[Any], keys: Keys) -> NDArray[np.uint8]:
        rows = self._checked(embeddings)
        return self.hash_in_order(rows, self._orders(keys, len(rows)))

    def _checked(self, embeddings: NDArray[Any]) -> NDArray[np.float32]:
        """Finite embeddings `(N, D)`."""
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
        return rows

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
        size = self._few if count <= self._few else BATCH
        for part, batch in padded_batches(size, np.asarray(embeddings, np.float32), orders.astype(np.int32)):
            codes[part] = self._hash_batch(*batch)[: part.stop - part.start]
        return codes

    @property
    def order_width(self) -> int:
        """W, entries of an order."""
        return self.key_size * KEY_KINDS[self.key_kind].rounds

    @property
    def identity_order(self) -> NDArray[np.int32]:
        """The order that leaves every dimension where it is, for `hash_in_order`.

        For measuring the cost of a key. Codes made with it are not protected: never enrol them.
        """
        return KEY_KINDS[self.key_kind].identity(self.key_size)

    @property
    def parts(self) -> int:
        """Number of parts of the embedding that a key may live in: 1 unless the kind of key renews into another."""
        return part_count(self.key_size, self.keep) if KEY_KINDS[self.key_kind].renews else 1

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


def _forwarded(name: str) -> Any:
    return property(operator.attrgetter(f"_hasher.{name}"))


class ForwardingFaceHasher(FaceHasher):
    """A face hasher that forwards to `hasher` all that a subclass does not define."""

    def __init__(self, hasher: FaceHasher) -> None:
        self._hasher = hasher

    def __getattr__(self, name: str) -> Any:
        if name not in FaceHasher.__annotations__:
            raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")
        return getattr(self._hasher, name)

    def with_batch_size(self, batch_size: int) -> FaceHasher:
        return type(self)(self._hasher.with_batch_size(batch_size))

    embedder = _forwarded("embedder")
    head = _forwarded("head")
    fingerprint = _forwarded("fingerprint")
    check_embedder = _forwarded("check_embedder")
    save_calibration = _forwarded("save_calibration")
    summary = _forwarded("summary")
    embed = _forwarded("embed")
    embed_picture = _forwarded("embed_picture")
    embed_files = _forwarded("embed_files")
    rows = _forwarded("rows")
    vectors = _forwarded("vectors")
    _hash_embeddings = _forwarded("_hash_embeddings")
    _hash_batch = _forwarded("_hash_batch")


class ArtifactFaceHasher(FaceHasher):
    """An artefact of `iom deploy` in its own runtime; TensorFlow is imported only where that is the runtime.

    Made by `load`. `session` is the artefact at `path`, for images; `head` its hash network for NumPy, for embeddings.
    A call always takes `batch_size` faces: another size may round differently.
    """

    _few = FEW

    def __init__(
        self, session: Session, manifest: Manifest, head: Head, *, path: Path, batch_size: int = EMBEDDER_BATCH
    ) -> None:
        self._session, self._head, self.manifest = session, head, manifest
        self.path = path
        self.name = path.name
        self.embedder_name = path.name if manifest.hashes else manifest.embedder["name"]
        self.weights = str(path)
        self.batch_size = batch_size
        vars(self).update({size: getattr(manifest, size) for size in SIZES})
        self.embedder_fingerprint = manifest.embedder_fingerprint
        self.calibration = manifest.calibration

    @classmethod
    def load(cls, path: Path | str, *, batch_size: int = EMBEDDER_BATCH, threads: int = 0) -> "ArtifactFaceHasher":
        """Open an artefact in the runtime that its manifest names.

        Args:
            path: `.onnx`, `.tflite`, `.xml`, `.keras` or a `.saved_model` folder.
            batch_size: Faces a call.
            threads: Threads of a call, where the runtime lets one choose; 0 takes all cores.

        Raises:
            WeightsError: Missing, damaged, of another version, or not a deployed hasher.
            MissingExtraError: Its runtime is not installed.
        """
        path = Path(path)
        session, manifest = open_artifact(path, threads=threads)
        return cls(session, manifest, Head.load(head_path(path)), path=path, batch_size=batch_size)

    @property
    def embedder(self) -> Embedder:
        return artifact_embedder(self._session, self.manifest, path=self.path, batch_size=self.batch_size)

    @property
    def head(self) -> Head:
        return self._head

    @property
    def fingerprint(self) -> str:
        """SHA-256 over its files, the precision they are run with and the derivation of keys."""
        return self.manifest.fingerprint

    def check_embedder(self, embedder: Embedder) -> None:
        if embedder.fingerprint != self.embedder_fingerprint:
            raise WeightsError(
                f"the artefact {self.name} embeds for itself, received {embedder.name} (SHA-256 "
                f"{embedder.fingerprint[:12]}...); name the artefact as the embedder, too: embedder.weights={self.path}"
            )

    def with_batch_size(self, batch_size: int) -> "ArtifactFaceHasher":
        other = copy.copy(self)
        other.batch_size = batch_size
        return other

    def save_calibration(self, path: Path) -> Path:
        write_manifest(path, dataclasses.replace(read_manifest(path), calibration=self.calibration))
        self.manifest = dataclasses.replace(self.manifest, calibration=self.calibration)
        return manifest_path(path)

    def summary(self) -> str:
        made, check = self.manifest, self.manifest.check
        equal = "none" if check is None else f"{check.equal_symbols:.2%} of the symbols are those of its source"
        rows = {
            "artefact": f"{self.name}, {made.target}",
            "runtime": f"{made.runtime}, {made.precision}",
            "embedder": f"{made.embedder['name']}: {made.input_size}x{made.input_size} pixels to "
            f"{self.embedding_size} dimensions",
            "hash": f"{self.code_length} symbols over {self.alphabet_size} values, keys of kind {self.key_kind}",
            "check": equal,
        }
        return "\n".join(f"{name:10}{text}" for name, text in rows.items())

    def hash_images(self, images: NDArray[np.uint8], keys: Keys) -> NDArray[np.uint8]:
        """Codes `(N, M)` of aligned faces `(N, S, S, 3)` uint8, from the artefact itself.

        Raises:
            DataError: Another size or type.
            KeyMaterialError: Another number of keys than faces, or an object that is not a key.
        """
        return self._hash_images(self.embedder.chips(images), self._orders(keys, len(images)))

    def hash_files(self, paths: Sequence[Path | str], keys: Keys, *, progress: bool = False) -> NDArray[np.uint8]:
        """Codes `(N, M)` of image files; images are decoded while others are computed.

        Raises:
            DataError: A file is missing, damaged or of another size.
        """
        files = file_paths(paths)
        orders = np.broadcast_to(self._orders(keys, len(files)), (len(files), self.order_width))
        codes = np.empty((len(files), self.code_length), np.uint8)
        parts = [slice(start, start + CHUNK) for start in range(0, len(files), CHUNK)]

        def read(part: slice) -> NDArray[np.uint8]:
            return read_images(files[part], size=self.embedder.input_size)

        with (
            ThreadPoolExecutor(1) as reader,
            tqdm(total=len(files), desc=self.name, unit="image", disable=not progress) as bar,
        ):
            decoded = [reader.submit(read, part) for part in parts[:1]]
            for number, part in enumerate(parts):
                images = decoded.pop().result()
                decoded = [reader.submit(read, following) for following in parts[number + 1 : number + 2]]
                codes[part] = self._hash_images(self.embedder.chips(images), orders[part])
                bar.update(len(images))
        return codes

    def _hash_batch(self, embeddings: NDArray[np.float32], orders: NDArray[np.int32]) -> NDArray[np.uint8]:
        return self.head.hash(embeddings, orders)

    def _hash_images(self, images: NDArray[np.uint8], orders: NDArray[np.int32]) -> NDArray[np.uint8]:
        if not self.manifest.hashes:
            return self.hash_in_order(self.embedder.embed(images), orders)
        orders = np.broadcast_to(orders, (len(images), self.order_width))
        codes = np.empty((len(images), self.code_length), np.uint8)
        for part, (pixels, batch_orders) in padded_batches(self.batch_size, images, orders):
            size = part.stop - part.start
            found, rows = self._session(pixels.astype(np.float32), batch_orders)
            if found.shape != (self.batch_size, self.code_length):
                raise WeightsError(
                    f"{self.name}: expected codes {(self.batch_size, self.code_length)}, the artefact returned "
                    f"{found.shape}"
                )
            unit_rows(rows[:size], self.name)
            codes[part] = found[:size]
        return codes


class KerasFaceHasher(FaceHasher):
    """A hash network in Keras, and the embedder it was trained with.

    Args:
        model: Made by `build_hasher`.
        weights: Manifest name or file of the embedder, which is loaded when it is first used; empty takes
            `embedder_name`.
        name: For reports and errors; empty takes `embedder_name`.
        others: As the attributes of `FaceHasher`.
    """

    def __init__(
        self,
        model: "keras.Model",
        *,
        embedder_name: str,
        embedder_fingerprint: str,
        calibration: Calibration | None = None,
        weights: str = "",
        batch_size: int = EMBEDDER_BATCH,
        name: str = "",
    ) -> None:
        from iom.nn.hash_network import shape_of  # imports Keras

        self.model = model
        self.shape: dict[str, Any] = shape_of(model)
        vars(self).update(self.shape)
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
            WeightsError: Missing or damaged weights, or an embedder that this hasher was not trained with.
        """
        if self._embedder is None:
            found = load_embedder(self.weights, batch_size=self.batch_size)
            self.check_embedder(found)
            self._embedder = found
        return self._embedder

    @embedder.setter
    def embedder(self, embedder: Embedder) -> None:
        self.check_embedder(embedder)
        self._embedder, self.batch_size = embedder, embedder.batch_size

    def with_batch_size(self, batch_size: int) -> "KerasFaceHasher":
        other = copy.copy(self)
        other.batch_size = batch_size
        other._embedder = self.embedder.with_batch_size(batch_size)
        return other

    def _hash_batch(self, embeddings: NDArray[np.float32], orders: NDArray[np.int32]) -> NDArray[np.uint8]:
        responses = self.model.predict_on_batch({"embedding": embeddings, "order": orders})
        codes: NDArray[np.uint8] = np.argmax(responses, axis=-1).astype(np.uint8)
        return codes

    @functools.cached_property
    def head(self) -> Head:
        """The same network in NumPy."""
        from iom.nn.hash_network import head_program

        return Head(*head_program(self.model))

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the embedder's weights, the kind of key, all layers and weights here.

        Codes of hashers with different fingerprints never compare. Computed once: a gallery asks for each probe.
        """
        digest = hashlib.sha256(self.embedder_fingerprint.encode())
        digest.update(json.dumps(self.shape, sort_keys=True).encode())
        digest.update(KEY_KINDS[self.key_kind].derivation.encode())
        for layer in self.model.layers:  # refinement changes codes and has no weights
            config = layer.get_config().items()
            plain = {name: value for name, value in config if isinstance(value, int | float | str)}
            plain = {name: value for name, value in plain.items() if name not in ("name", "trainable")}
            text = json.dumps([type(layer).__name__, plain], sort_keys=True)
            digest.update(text.encode())
        for weights in self.model.get_weights():
            little = np.ascontiguousarray(weights, weights.dtype.newbyteorder("<"))
            digest.update(f"{little.dtype}{little.shape}".encode() + little.tobytes())
        return digest.hexdigest()

    def check_embedder(self, embedder: Embedder) -> None:
        # Only weights count (of both backbones and their share, where two are fused). `flip` is left to the user on
        # either side, on purpose: the mean with the mirror image lies in the same space, so that such codes compare
        # with plain ones. The threshold holds for the kind of embedding it was found with.
        if (embedder.embedding_size, embedder.fingerprint) != (self.embedding_size, self.embedder_fingerprint):
            raise WeightsError(
                f"this hasher was trained with the embedder {self.embedder_name} ({self.embedding_size} dimensions, "
                f"SHA-256 {self.embedder_fingerprint[:12]}...), received {embedder.name} ({embedder.embedding_size} "
                f"dimensions, SHA-256 {embedder.fingerprint[:12]}...); train a hasher for it with iom train-stage2"
            )

    def save(self, folder: str | Path) -> None:
        """Write `hasher.keras` and `hasher.json` into `folder`.

        A hasher that is already there stays whole until the new metadata are written: a crash leaves the old pair or
        the new one. `load` takes up a model that was not yet renamed.
        """
        from iom.pretrained.importers.keras_files import save_model

        folder = Path(folder)
        new = folder / NEW_MODEL_FILE
        shape = {name: value for name, value in self.shape.items() if name != "key_kind"}
        save_model(self.model, new)
        write_json(
            folder / HASHER_FILE,
            {
                "format": FORMAT,
                **shape,
                "key": _key_entry(self.key_kind),
                "embedder": {"name": self.embedder_name, "sha256": self.embedder_fingerprint},
                "model_sha256": sha256_of(new),
                "calibration": _plain(self.calibration),
            },
        )
        new.replace(folder / MODEL_FILE)

    def save_calibration(self, path: Path) -> Path:
        file = path / HASHER_FILE
        write_json(file, {**_metadata(path), "calibration": _plain(self.calibration)})
        return file

    def summary(self) -> str:
        lines: list[str] = []
        self.model.summary(line_length=80, print_fn=lines.append)
        return "\n".join(lines)

    @classmethod
    def load(cls, folder: Path | str, *, weights: str = "", batch_size: int = EMBEDDER_BATCH) -> "KerasFaceHasher":
        """Read a folder that `save` wrote; `iom.load` reads artefacts of `iom deploy`, too.

        Args:
            folder: Of a trained hasher, or its name (`iom.pretrained.hasher_path`).
            weights: Manifest name or file of its embedder; empty takes the one that was trained along, or the one it
                names.
            batch_size: Faces of one call of the embedder.

        Raises:
            WeightsError: Missing, damaged, of another format, not what its metadata says, or an artefact, which holds
                no Keras network.
        """
        folder = hasher_path(folder)
        if is_artifact(folder) and (folder.parent / HASHER_FILE).is_file():
            folder = folder.parent  # the bundled one has both forms
        if is_artifact(folder):
            raise WeightsError(
                f"{folder}: expected the folder of a trained hasher, received an artefact of iom deploy, which lacks "
                "the Keras network that this needs; name the folder that the artefact was made from"
            )
        if not weights and (folder / EMBEDDER_FILE).is_file():
            weights = str(folder / EMBEDDER_FILE)
        metadata = _metadata(folder)
        path = _model_path(folder, metadata.get("model_sha256"))

        import iom.nn.hash_network  # noqa: F401  (registers the layers of the file; imports Keras)
        from iom.pretrained.importers.keras_files import read_keras

        try:
            model = read_keras(path)
            calibration = metadata["calibration"]
            hasher = cls(
                model,
                embedder_name=metadata["embedder"]["name"],
                embedder_fingerprint=metadata["embedder"]["sha256"],
                calibration=Calibration.from_json(calibration) if calibration else None,
                weights=weights,
                batch_size=batch_size,
                name=folder.name,
            )
        except (OSError, ValueError, TypeError, KeyError, AttributeError, DataError) as error:
            raise WeightsError(f"{folder}: not a hasher of format {FORMAT}: {error}") from error
        expected, found = _key_entry(hasher.key_kind), metadata.get("key", _key_entry(FIRST_KIND))
        if found != expected:  # the same secret would give other codes
            raise WeightsError(
                f"{folder / HASHER_FILE}: expected keys {expected}, which {MODEL_FILE} takes, "
                f"received {str(found)[:200]}; take both files from the same place, or use the program that trained it"
            )
        return hasher


def load(
    path: Path | str, *, weights: str = "", batch_size: int = EMBEDDER_BATCH, opens_embedder: bool = True
) -> FaceHasher:
    """A face hasher: the folder of a trained one, or an artefact of `iom deploy`.

    Args:
        path: Folder, artefact, or a name such as "bundled" (`iom.pretrained.hasher_path`).
        weights: Manifest name or file of the embedder; empty takes the one the hasher names. An artefact embeds for
            itself and takes none.
        batch_size: Faces of one call of the embedder.
        opens_embedder: Open and check the embedder at once, not when it is first used.

    Raises:
        ConfigError: Weights beside an artefact.
        WeightsError: Missing, damaged, or hasher and embedder do not belong together.
        MissingExtraError: The runtime of the artefact, or Keras for a trained one, is not installed.
    """
    path = hasher_path(path)
    if is_artifact(path):
        if weights:
            raise ConfigError(f"{path} is an artefact that embeds for itself: give no weights")
        return ArtifactFaceHasher.load(path, batch_size=batch_size)
    with needs_train(f"the trained hasher {path}"):
        hasher = KerasFaceHasher.load(path, weights=weights, batch_size=batch_size)
        if opens_embedder:
            _ = hasher.embedder
    return hasher


def verify(
    a: Picture,
    b: Picture,
    *,
    hasher: FaceHasher | str = BUNDLED,
    fmr: float | None = None,
    threshold: int | None = None,
    checked: bool = True,
) -> Verification:
    """Decide whether two pictures show one person; nothing is stored, the key of the two codes is thrown away.

    Args:
        a: A path, bytes, base64 text, an open file, an RGB array or a Pillow image (see `iom.photos.read_picture`);
            its code is compared.
        b: The other one, compared by its code, too, or where the hasher's comparison is asymmetric by its keyed row.
        hasher: From `iom.load`, or what that takes.
        fmr: Operating point: a false match rate that the hasher was calibrated at. By default 1e-2, which errs about as
            often to either side, or the hasher's own where it has no such point; galleries take the hasher's own.
        threshold: Largest distance that is a match, instead of that of an operating point.
        checked: As of `FaceHasher.embed_picture`.

    Raises:
        FaceError: A picture cannot be read, or has no face to compare; `status` says which.
        ConfigError: The hasher has no such operating point.

    Examples:
        >>> from iom.synthetic import load_face_model
        >>> faces, _ = load_face_model().sample(2, 2, seed=5)  # two persons, two images each
        >>> verify(faces[0], faces[1]).match, verify(faces[0], faces[2]).match
        (True, False)
    """
    network = _loaded(hasher) if isinstance(hasher, str) else hasher
    if threshold is None:
        threshold = threshold_at(network.calibration, fmr, name=network.name, preferred=BALANCED_FMR)
    rows = np.stack([network.embed_picture(each, checked=checked) for each in (a, b)])
    key, comparator = TransformKey.generate(), network.comparator
    templates = comparator.prepare(network.templates(rows, key, network.comparison))
    return decide(network.calibration, int(comparator.paired(templates[:1], templates[1:])[0]), threshold)


@functools.lru_cache(maxsize=2)
def _loaded(name: str) -> FaceHasher:
    return load(name)


def _plain(calibration: Calibration | None) -> dict[str, Any] | None:
    return dataclasses.asdict(calibration) if calibration else None


def _key_entry(kind: str) -> dict[str, str]:
    return {"kind": kind, "derivation": KEY_KINDS[kind].derivation}


def _model_path(folder: Path, fingerprint: object) -> Path:
    """The model file that the metadata name, renamed or (after a crash in `save`) not yet."""
    present = [folder / name for name in (MODEL_FILE, NEW_MODEL_FILE) if (folder / name).is_file()]
    if not present:
        raise WeightsError(f"{folder}: expected {MODEL_FILE} beside {HASHER_FILE}, found none")
    for path in present:
        if sha256_of(path) == fingerprint:
            return path
    raise WeightsError(
        f"{present[0]}: the SHA-256 differs from the one in {HASHER_FILE}; the file is damaged "
        "or was replaced. Take both files from the same place"
    )


def _metadata(folder: Path) -> dict[str, Any]:
    path = folder / HASHER_FILE
    try:
        return read_metadata(path)
    except OSError as error:
        artifacts = sorted(each for each in folder.iterdir() if is_artifact(each)) if folder.is_dir() else []
        advice = f"give the artefact itself: {artifacts[0]}" if artifacts else _TRAINING
        raise WeightsError(f"no hasher in {folder} ({HASHER_FILE}: {error.strerror}); {advice}") from error
