"""What the benchmarks on all pairs of LFW share: images, embeddings, code systems, arguments.

Every subject, at most 20 images of each; the embeddings of the whole set are computed once and
cached.
"""

import argparse
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.command_line import add_data_option

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from iom.data.folders import FaceFolder
    from iom.evaluation.scores import CodeSystem
    from iom.metrics.all_pairs import AllPairs
    from iom.models.embedder import Embedder
    from iom.models.face_hasher import KerasFaceHasher

CONFIG = Path("configs/evaluate/lfw.yaml")
AT_MOST = 20


class Faces(NamedTuple):
    """All pairs of a folder, with the embeddings and what made them."""

    pairs: "AllPairs"
    embeddings: "NDArray[np.float32]"
    embedder: "Embedder"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `load_faces`, and those about keys."""
    parser.add_argument("--config", type=Path, default=CONFIG, help="default: %(default)s")
    add_data_option(parser)
    parser.add_argument("--images", type=int, default=AT_MOST, help="of a subject, at most")
    parser.add_argument("--keys", type=int, default=10, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="of keys and draws; default: 1")


def load_faces(arguments: argparse.Namespace) -> Faces:
    """Embed the folder with the embedder and the cache of the configuration."""
    from iom.config import EvaluateConfig, FolderConfig, load_config
    from iom.data.folders import scan_folder
    from iom.metrics.all_pairs import AllPairs
    from iom.models.embedder import load_embedder

    root = arguments.data / "lfw_112x112"
    config = load_config(EvaluateConfig, arguments.config, overrides=[f"benchmark.root={json.dumps(str(root))}"])
    folder = scan_folder(FolderConfig(root=config.benchmark.root, min_images=1))
    rows = first_images(folder, arguments.images)
    embedder = load_embedder(
        config.embedder.weights,
        batch_size=config.embedder.batch_size,
        flip=config.embedder.flip,
        cache=config.embedder.cache,
    )
    embeddings = embedder.embed_files(folder.files, progress=True)[rows]
    return Faces(AllPairs(folder.labels[rows]), embeddings, embedder)


def first_images(folder: "FaceFolder", at_most: int) -> "NDArray[np.int64]":
    """Rows of a folder's images, at most so many of each subject, in the folder's order."""
    import numpy as np

    order = np.argsort(folder.labels, kind="stable")
    labels = folder.labels[order]
    kept = np.sort(order[np.arange(len(labels)) - np.searchsorted(labels, labels) < at_most])
    return np.asarray(kept, np.int64)


def learned_system(hasher: "KerasFaceHasher") -> "CodeSystem":
    """A trained hasher as a system; whether it belongs to the embedder was checked before."""
    from iom.evaluation.scores import CodeSystem

    return CodeSystem("learned", hasher.code_length, hasher.alphabet_size, hasher.hash, made_of=hasher)


def parse_shape(text: str) -> tuple[int, int]:
    """`512x8` -> (512, 8)."""
    matched = re.fullmatch(r"(\d+)x(\d+)", text)
    if not matched:
        raise argparse.ArgumentTypeError(f"expected a code shape such as 512x8, received '{text}'")
    return int(matched[1]), int(matched[2])
