"""What stage 2 works on: both sides of the split, and the embeddings of the start."""

import dataclasses
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from iom.config.schema import Stage2Config
from iom.config.sections import EmbedderConfig, FolderConfig
from iom.data.folders import FaceFolder, hold_out, scan_folder
from iom.models.embedder import Embedder, open_embedder
from iom.nn.hash_network import check_sizes
from iom.training.held_out import HeldOutPairs


@dataclasses.dataclass(frozen=True, eq=False)
class Material:
    """Images, embeddings and held-out pairs of a configuration; several runs may share them.

    Attributes:
        source: The settings it was made from: data, embedder, and the seed of the pairs.
        embedder: Made the embeddings.
        train: Images to train on.
        held_out: Images of the held-out subjects.
        pairs: Held-out pairs.
        train_embeddings: `(N, D)`, unit length.
        held_out_embeddings: Of the images that `pairs` compares.
    """

    source: tuple[FolderConfig, EmbedderConfig, int]
    embedder: Embedder
    train: FaceFolder
    held_out: FaceFolder
    pairs: HeldOutPairs
    train_embeddings: NDArray[np.float32]
    held_out_embeddings: NDArray[np.float32]

    @property
    def held_out_files(self) -> list[Path]:
        """Files of the images that `pairs` compares."""
        files = self.held_out.files
        return [files[row] for row in self.pairs.images]

    def serves(self, config: Stage2Config) -> bool:
        """Whether this is the material of a configuration."""
        return self.source == _source(config)


def load_material(config: Stage2Config, *, progress: bool = False) -> Material:
    """List, split and embed the images of a configuration.

    Raises:
        ConfigError, DataError, WeightsError: As their texts say.
    """
    train, held_out = hold_out(scan_folder(config.data), config.data)
    pairs = HeldOutPairs(held_out, group_separator=config.data.group_separator, seed=config.seed)
    pairs.check_resolution(config.calibration.fmr)
    embedder = open_embedder(config.embedder)
    check_sizes(embedder.embedding_size, config.hasher)
    rows = embedder.embed_files(train.files, progress=progress)
    held_out_rows = embedder.embed_files(held_out.files, progress=progress)
    return Material(_source(config), embedder, train, held_out, pairs, rows, held_out_rows[pairs.images])


def _source(config: Stage2Config) -> tuple[FolderConfig, EmbedderConfig, int]:
    return config.data, config.embedder, config.seed
