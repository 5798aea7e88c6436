"""What stage 1 verifies on while it trains: held-out subjects and any number of benchmarks."""

from collections.abc import Callable, Sequence

import keras
import numpy as np
from numpy.typing import NDArray

from iom.config.schema import Stage1Config
from iom.data.benchmarks import load_benchmark
from iom.data.benchmarks.base import PairBenchmark
from iom.data.folders import FaceFolder
from iom.errors import DataError
from iom.metrics.verification import equal_error_rate, ten_fold_accuracy
from iom.models.embedder import Embedder
from iom.photos.images import check_images, read_images
from iom.training.held_out import HeldOutPairs


def load_benchmarks(config: Stage1Config) -> tuple[PairBenchmark, ...]:
    """The benchmarks of `verify`, with every image read once: before training, not behind it.

    Raises:
        ConfigError: Unknown source, or a path that it needs is not set.
        DataError: A list or an image is missing or damaged.
    """
    benchmarks = tuple(load_benchmark(entry, seed=config.seed) for entry in config.verify)
    for benchmark in benchmarks:
        if not isinstance(benchmark.images, np.ndarray):
            check_images(benchmark.images)
    return benchmarks


def verification(
    backbone: keras.Model, held_out: FaceFolder | None, benchmarks: Sequence[PairBenchmark], *, seed: int
) -> Callable[[], dict[str, float]]:
    """A function that measures the backbone as it is at the moment.

    Args:
        backbone: Raw RGB pixels -> embedding.
        held_out: Subjects to compare all pairs of, or none: `held_out_eer`.
        benchmarks: Each gives `NAME_eer` and `NAME_accuracy` (folds as LFW's view 2).
        seed: Of the choice of held-out subjects, where there are too many.

    Raises:
        DataError: No mated or no non-mated pair among the held-out images, or benchmark images of
            another size than the backbone's.
    """
    side = backbone.input_shape[1]
    for benchmark in benchmarks:
        if isinstance(benchmark.images, np.ndarray) and benchmark.images.shape[1] != side:
            raise DataError(
                f"verify: {benchmark.name} has images of side {benchmark.images.shape[1]}, the "
                f"backbone reads side {side}"
            )
    embedder = Embedder(
        backbone.predict_on_batch,
        name="stage 1",
        fingerprint="in training",
        embedding_size=backbone.output_shape[-1],
        input_size=side,
    )
    held_out_rate = None if held_out is None else _held_out_rate(held_out, embedder, seed)

    def verify() -> dict[str, float]:
        values = {} if held_out_rate is None else {"held_out_eer": held_out_rate()}
        for benchmark in benchmarks:
            distances = _distances(benchmark, embedder)
            same = benchmark.same
            values[f"{benchmark.name}_eer"] = equal_error_rate(distances[same], distances[~same])
            accuracy = ten_fold_accuracy(distances, same, benchmark.fold)
            values[f"{benchmark.name}_accuracy"] = accuracy.mean
        return values

    return verify


def _held_out_rate(held_out: FaceFolder, embedder: Embedder, seed: int) -> Callable[[], float]:
    """Equal error rate over all pairs of the held-out images, kin among them."""
    pairs = HeldOutPairs(held_out, group_separator="", seed=seed)
    files = held_out.files
    images = read_images([files[row] for row in pairs.images])
    return lambda: pairs.curve_of_embeddings(embedder.embed(images)).equal_error_rate()


def _distances(benchmark: PairBenchmark, embedder: Embedder) -> NDArray[np.float32]:
    """`1 - cosine` of each pair, `(P,)`."""
    if isinstance(benchmark.images, np.ndarray):
        embeddings = embedder.embed(benchmark.images)
    else:
        embeddings = embedder.embed_files(benchmark.images)
    if benchmark.pooling is not None:
        embeddings = benchmark.pooling.pooled(embeddings)
    products = embeddings[benchmark.left] * embeddings[benchmark.right]
    return np.asarray(1.0 - products.sum(axis=1), np.float32)
