"""Embeddings of the folders of prepared data: those stored beside them, or computed and cached."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from iom.errors import DataError

STORED = "mobilefacenet_y1"


def embeddings_of(images: Sequence[Path], root: Path, data: Path, embedder: str = "") -> NDArray[np.float32]:
    """Unit-length embeddings `(N, D)` of images below `root`.

    Args:
        images: Files.
        root: One of the folders in `data`.
        data: The prepared data, with the folder `embeddings`.
        embedder: Manifest name or file of another embedder than the stored one.

    Raises:
        DataError: Stored embeddings are missing, or lack some images (the first and the count).
    """
    if embedder:
        from iom.models.embedder import load_embedder

        return load_embedder(embedder, cache=".cache/embeddings").embed_files(images, progress=True)
    path = data / "embeddings" / f"{root.name}.{STORED}.npz"
    try:
        with np.load(path, allow_pickle=False) as stored:
            rows, names = stored["embedding"], stored["path"]
    except (OSError, KeyError, ValueError) as error:
        raise DataError(f"cannot read stored embeddings {path}: {error}") from error
    row_of = {name: row for row, name in enumerate(names.tolist())}
    wanted = [image.relative_to(root).as_posix() for image in images]
    missing = [name for name in wanted if name not in row_of]
    if missing:
        raise DataError(f"{path}: {len(missing)} images have no embedding, first {missing[0]}")
    return np.asarray(rows[[row_of[name] for name in wanted]], np.float32)
