"""Verification benchmarks: which pairs of images are compared, in which fold each pair stands."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from iom._random import numpy_stream
from iom._registry import lookup
from iom.config.schema import BenchmarkConfig
from iom.config.sections import FolderConfig
from iom.data.benchmarks.pair_lists import ListedPair, parse_pair_list
from iom.data.benchmarks.pair_sampling import FOLDS, dealt_pairs, drawn_subjects
from iom.data.benchmarks.pooling import Pooling
from iom.data.folders import scan_folder
from iom.data.formats.bin_files import read_bin_images
from iom.data.formats.bin_files import write_bin as write_bin
from iom.data.images import Pixels, decode_image
from iom.data.table_files import check_folder, present
from iom.errors import ConfigError, DataError
from iom.synthetic.sampling import load_face_model

LARGEST_ODD_SHARE = 0.05
"""More pairs that contradict the folders than this: the folders are not those of subjects."""
LARGEST_FOLDER = 10_000
"""Images of a folder of subjects that pairs are made of; of a larger one, subjects are drawn."""


@dataclasses.dataclass(frozen=True, eq=False)
class PairBenchmark:
    """Pairs to verify.

    Attributes:
        name: For reports.
        images: The distinct images: files, or RGB pixels `(N, S, S, 3)` uint8.
        left: First image of each pair, an index into `images`, `(P,)`.
        right: Second image of each pair, `(P,)`.
        same: Whether a pair is mated, `(P,)`.
        fold: Fold of each pair, 0 to F - 1, `(P,)`.
        subjects: Subject of each image, `(N,)`, the unit of a bootstrap. Where a benchmark does not
            name subjects, the images that mated pairs link are one subject.
        pooling: Where templates of several images are compared, such as videos: which images make
            which. `left`, `right` and `subjects` then speak of templates.

    Raises:
        DataError: Arrays that do not fit together, or pairs of one kind only.
    """

    name: str
    images: tuple[Path, ...] | Pixels
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    same: NDArray[np.bool_]
    fold: NDArray[np.int64]
    subjects: NDArray[np.int64]
    pooling: Pooling | None = None

    def __post_init__(self) -> None:
        pairs = {len(self.left), len(self.right), len(self.same), len(self.fold)}
        pooled = len(self.images) if self.pooling is None else len(self.pooling.template)
        if len(pairs) > 1 or len(self.subjects) != self.templates or pooled != len(self.images):
            raise DataError(f"{self.name}: the arrays of this benchmark differ in length")
        if not self.same.any() or self.same.all():
            raise DataError(
                f"{self.name}: expected mated and non-mated pairs, received "
                f"{int(self.same.sum())} mated and {int((~self.same).sum())} non-mated"
            )
        indexes = np.concatenate([self.left, self.right])
        if indexes.min() < 0 or indexes.max() >= self.templates:
            raise DataError(f"{self.name}: a pair names an image that is not there")

    def __len__(self) -> int:
        return len(self.same)

    @property
    def templates(self) -> int:
        """How many embeddings are compared: one for each image, or for each group of images."""
        return len(self.images) if self.pooling is None else len(self.pooling)

    @property
    def folds(self) -> int:
        """How many folds there are."""
        return int(self.fold.max()) + 1


def load_benchmark(config: BenchmarkConfig, *, seed: int) -> PairBenchmark:
    """The benchmark that a configuration names.

    Raises:
        ConfigError: Unknown source, or a path that the source needs is not set.
        DataError: The source is missing, damaged or inconsistent.
    """
    return lookup(SOURCES, config.source, "benchmark source")(config, seed)


def read_pair_list(path: Path, root: Path, *, name: str = "") -> PairBenchmark:
    """Pairs of a list over a folder of images.

    Two formats (see `parse_pair_list`): LFW's, whose header gives the folds, and lines of
    `left right same`, which are dealt into ten folds in order, each with its share of both kinds.

    Raises:
        DataError: Unreadable list, a malformed line (with its number), missing images (the first
            ones and their count).
    """
    check_folder(root, path)
    pairs, folds = parse_pair_list(path)
    names = sorted({image for pair in pairs for image in (pair.left, pair.right)})
    files = present(names, root, path)
    index = {image: i for i, image in enumerate(names)}
    left = np.array([index[pair.left] for pair in pairs], np.int64)
    right = np.array([index[pair.right] for pair in pairs], np.int64)
    same = np.array([pair.same for pair in pairs], bool)
    return PairBenchmark(
        name=name or path.stem,
        images=files,
        left=left,
        right=right,
        same=same,
        fold=_dealt(same) if folds is None else np.arange(len(pairs)) * folds // len(pairs),
        subjects=_subjects(pairs, names, linked(left, right, same, len(names))),
    )


def read_bin(path: Path, *, name: str = "", size: int = 112) -> PairBenchmark:
    """Pairs of an InsightFace verification file: a pickle of (encoded images, is same).

    Images 2 i and 2 i + 1 are pair i. Images with equal bytes are decoded and embedded once. Folds
    are ten blocks in order, as InsightFace's own evaluation makes them.

    Raises:
        DataError: Not such a file, truncated, damaged, or a pickle that asks for more than data.
    """
    encoded, truth = read_bin_images(path)
    same = np.array(truth, bool)
    row_of: dict[bytes, int] = {}
    rows = np.array([row_of.setdefault(item, len(row_of)) for item in encoded], np.int64)
    first = np.unique(rows, return_index=True)[1]
    images = np.stack([decode_image(encoded[i], f"{path}: image {i}", size=size) for i in first])
    left, right = rows[0::2], rows[1::2]
    return PairBenchmark(
        name=name or path.stem,
        images=images,
        left=left,
        right=right,
        same=same,
        fold=_blocks(len(same)),
        subjects=linked(left, right, same, len(images)),
    )


def synthetic_pairs(subjects: int, images: int, *, seed: int, name: str = "synthetic") -> PairBenchmark:
    """Pairs of faces of nobody, in the manner of LFW.

    All mated pairs, and as many non-mated ones; no subject stands in two folds.

    Raises:
        DataError: Fewer than four subjects, or fewer than two images of each.
    """
    if subjects < 4 or images < 2:
        raise DataError(
            f"a synthetic benchmark needs at least 4 subjects with 2 images, received {subjects} with {images}"
        )
    pixels, labels = load_face_model().sample(subjects, images, seed=seed)
    pairs = dealt_pairs(labels, numpy_stream(seed, "synthetic/non-mated-pairs"))
    return PairBenchmark(name, pixels, *pairs, subjects=labels)


def linked(left: ArrayLike, right: ArrayLike, same: ArrayLike, count: int) -> NDArray[np.int64]:
    """Label the images that mated pairs link, directly or through others, `(count,)`."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    mated = np.asarray(same, bool)
    rows, columns = np.asarray(left)[mated], np.asarray(right)[mated]
    graph = coo_array((np.ones(len(rows), np.int8), (rows, columns)), shape=(count, count))
    _, labels = connected_components(graph, directed=False)
    return np.asarray(labels, np.int64)


def _subjects(pairs: Sequence[ListedPair], names: Sequence[str], links: NDArray[np.int64]) -> NDArray[np.int64]:
    """Folder names where they are the subjects'; else what the mated pairs link.

    Raises:
        DataError: Folders are by subject, but a few pairs contradict them.
    """
    folders = [name.rpartition("/")[0] for name in names]
    folder_of = dict(zip(names, folders, strict=True))
    odd = [pair for pair in pairs if (folder_of[pair.left] == folder_of[pair.right]) != pair.same]
    if len(odd) > LARGEST_ODD_SHARE * len(pairs):
        return links
    if odd:
        first = ", ".join(f"{p.left} with {p.right} as {_kind(p)}" for p in odd[:3])
        raise DataError(
            f"{len(odd)} of {len(pairs)} pairs have a label that contradicts the folders of the subjects: {first}"
        )
    return np.unique(folders, return_inverse=True)[1].astype(np.int64)


def _kind(pair: ListedPair) -> str:
    return "mated" if pair.same else "non-mated"


def _blocks(count: int) -> NDArray[np.int64]:
    """Ten blocks in order, the first ones longer by one: scikit-learn's unshuffled `KFold`."""
    parts = np.array_split(np.arange(count), min(FOLDS, count))
    return np.concatenate([np.full(len(part), i) for i, part in enumerate(parts)]).astype(np.int64)


def _dealt(same: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Blocks among the mated pairs and among the others, so that no fold lacks a kind."""
    fold = np.zeros(len(same), np.int64)
    folds = max(1, min(FOLDS, int(same.sum()), int((~same).sum())))
    for kind in (same, ~same):
        count = int(kind.sum())
        fold[kind] = np.arange(count) * folds // max(count, 1)
    return fold


def _from_pairs(config: BenchmarkConfig, seed: int) -> PairBenchmark:
    return read_pair_list(*_places(config), name=config.name)


def _places(config: BenchmarkConfig) -> tuple[Path, Path]:
    if not config.path or not config.root:
        raise ConfigError(f"benchmark: source '{config.source}' needs benchmark.path (list) and benchmark.root")
    return Path(config.path), Path(config.root)


def _from_bin(config: BenchmarkConfig, seed: int) -> PairBenchmark:
    if not config.path:
        raise ConfigError("benchmark: source 'bin' needs benchmark.path (an InsightFace file)")
    return read_bin(Path(config.path), name=config.name)


def _from_carray(config: BenchmarkConfig, seed: int) -> PairBenchmark:
    from iom.data.formats.carray import read_carray

    if not config.path:
        raise ConfigError("benchmark: source 'carray' needs benchmark.path (the folder)")
    return read_carray(Path(config.path), name=config.name)


def _from_folder(config: BenchmarkConfig, seed: int) -> PairBenchmark:
    if not config.root:
        raise ConfigError("benchmark: source 'folder' needs benchmark.root (a folder of subjects)")
    folder = scan_folder(FolderConfig(root=config.root, include=config.path))
    generator = numpy_stream(seed, "folder/non-mated-pairs")
    rows = drawn_subjects(folder.labels, generator, largest=LARGEST_FOLDER)
    labels = np.unique(folder.labels[rows], return_inverse=True)[1].astype(np.int64)
    files = tuple(folder.files[row] for row in rows)
    return PairBenchmark(config.name, files, *dealt_pairs(labels, generator), subjects=labels)


def _from_synthetic(config: BenchmarkConfig, seed: int) -> PairBenchmark:
    return synthetic_pairs(config.subjects, config.images, seed=seed, name=config.name)


def _from_two_lines(config: BenchmarkConfig, seed: int) -> PairBenchmark:
    from iom.data.benchmarks.published_pairs import read_two_line_pairs

    return read_two_line_pairs(*_places(config), name=config.name)


def _from_cfp(config: BenchmarkConfig, seed: int) -> PairBenchmark:
    from iom.data.benchmarks.published_pairs import read_cfp

    return read_cfp(*_places(config), name=config.name)


def _from_youtube_faces(config: BenchmarkConfig, seed: int) -> PairBenchmark:
    from iom.data.benchmarks.youtube_faces import read_youtube_faces

    return read_youtube_faces(*_places(config), name=config.name)


def _from_ijb(config: BenchmarkConfig, seed: int) -> PairBenchmark:
    from iom.data.benchmarks.ijb import read_ijb_pairs

    into = Path(config.align_into) if config.align_into else None
    return read_ijb_pairs(*_places(config), name=config.name, align_into=into)


SOURCES: dict[str, Callable[[BenchmarkConfig, int], PairBenchmark]] = {
    "pairs": _from_pairs,
    "two_lines": _from_two_lines,
    "cfp": _from_cfp,
    "youtube_faces": _from_youtube_faces,
    "ijb": _from_ijb,
    "bin": _from_bin,
    "carray": _from_carray,
    "folder": _from_folder,
    "synthetic": _from_synthetic,
}
"""Where verification pairs come from, by the name that a configuration gives."""
