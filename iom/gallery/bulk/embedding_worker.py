"""What a worker does: read images, embed them. It holds no key and writes nothing."""

import dataclasses
import importlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from iom.data.images import decode_image
from iom.errors import DataError, WeightsError
from iom.gallery.bulk.rows import WHOLE, ImageRow
from iom.models.embedder import Embedder

DEFAULT_LOADER = "iom.models.embedder:load_embedder"


class Embedded(NamedTuple):
    """What became of an image: its embedding `(D,)`, or the reason why there is none."""

    number: int
    embedding: NDArray[np.float32] | None
    problem: str = ""


@dataclasses.dataclass(frozen=True)
class WorkerSettings:
    """How a worker makes its embedder.

    Attributes:
        weights: Manifest name, file, or artefact.
        fingerprint: Which the embedder must have.
        batch_size: Images a call.
        loader: `module:function`, called with `weights` and `batch_size`.
    """

    weights: str
    fingerprint: str
    batch_size: int = 32
    loader: str = DEFAULT_LOADER


class EmbeddingWorker:
    """Made once in each worker.

    Raises:
        WeightsError: The weights are missing there, or are others than the hasher wants.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        module, _, function = settings.loader.partition(":")
        load = getattr(importlib.import_module(module), function)
        self._embedder: Embedder = load(settings.weights, batch_size=settings.batch_size)
        if self._embedder.fingerprint != settings.fingerprint:
            raise WeightsError(
                f"worker: the weights {settings.weights} differ from those of the gallery's "
                "process; give every machine the same files"
            )

    def embedded(self, rows: Sequence[ImageRow], numbers: Sequence[int]) -> list[Embedded]:
        """Embed images; what is wrong with one does not concern the others."""
        results: dict[int, Embedded] = {}
        images = []
        for number, row in zip(numbers, rows, strict=True):
            try:
                images.append((number, self._image(row)))
            except DataError as error:
                results[number] = Embedded(number, None, str(error))
        if images:
            results |= self._of_images(images)
        return [results[number] for number in numbers]

    def _of_images(self, images: list[tuple[int, NDArray[np.uint8]]]) -> dict[int, Embedded]:
        numbers = [number for number, _ in images]
        try:
            found = self._embedder.embed(np.stack([image for _, image in images]))
        except WeightsError as error:
            if len(images) == 1:
                return {numbers[0]: Embedded(numbers[0], None, str(error))}
            each = [self._of_images([image]) for image in images]
            return {number: result for one in each for number, result in one.items()}
        return {number: Embedded(number, row) for number, row in zip(numbers, found, strict=True)}

    def _image(self, row: ImageRow) -> NDArray[np.uint8]:
        try:
            with open(row.file, "rb") as stream:  # noqa: PTH123 - a path from another machine
                stream.seek(row.offset)
                data = stream.read(row.length)
        except OSError as error:
            raise DataError(f"cannot be read: {error.strerror}") from error
        if row.length != WHOLE and len(data) != row.length:
            raise DataError("cannot be read: its file is shorter")
        image: NDArray[np.uint8] = decode_image(data, row.name, size=self._embedder.input_size)
        return image

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Columns of `ImageRow` and `number` in; `number`, `embedding`, `problem` out."""
        fields = [field.name for field in dataclasses.fields(ImageRow)]
        columns = [np.asarray(batch[name]).tolist() for name in fields]
        rows = [ImageRow(*values) for values in zip(*columns, strict=True)]
        numbers = np.asarray(batch["number"]).tolist()
        embeddings = np.zeros((len(rows), self._embedder.embedding_size), np.float32)
        results = self.embedded(rows, numbers)
        for place, result in enumerate(results):
            if result.embedding is not None:
                embeddings[place] = result.embedding
        problems = np.array([result.problem for result in results], object)
        return {"number": np.array(numbers), "embedding": embeddings, "problem": problems}
