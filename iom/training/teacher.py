"""A teacher's embeddings of the very images the student will see, computed once and kept."""

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from iom._files import cached_array, write_array
from iom.data.augmentation import VERSION
from iom.data.folders import FaceFolder
from iom.data.image_batches import ImageBatches
from iom.models.embedder import Embedder


def teacher_targets(batches: ImageBatches, teacher: Embedder, *, cache: Path, progress: bool) -> NDArray[np.float32]:
    """Embeddings of every fixed view (or of the plain images), computed once and kept.

    Each view is one file, so that an interrupted computation goes on with the next view.

    Returns:
        `(max(1, views), N, D)`, unit length.
    """
    if not batches.views:
        return teacher.embed_files(batches.folder.files, progress=progress)[None]
    images = _digest_of_images(batches.folder)
    views = []
    changes = f"{VERSION}/{batches.augmentation}/{batches.mix}/{batches.seed}"
    for view in range(batches.views):
        key = f"{teacher.fingerprint}/{images}/{changes}/{view}"
        stored = cache / f"teacher-{hashlib.sha256(key.encode()).hexdigest()}.npy"
        rows = cached_array(stored, (len(batches.folder), teacher.embedding_size))
        if rows is None:
            rows = _embed_view(batches, view, teacher, progress=progress)
            write_array(stored, rows)
        views.append(rows)
    return np.stack(views)


def _embed_view(batches: ImageBatches, view: int, teacher: Embedder, *, progress: bool) -> NDArray[np.float32]:
    title = f"teacher, view {view + 1} of {batches.views}"
    with tqdm(total=len(batches.folder), desc=title, unit="image", disable=not progress) as bar:
        parts = []
        for images in batches.view(view):
            parts.append(teacher.embed_pixels(images.numpy()))
            bar.update(len(images))
    return np.concatenate(parts)


def _digest_of_images(folder: FaceFolder) -> str:
    digest = hashlib.sha256()
    for path in folder.files:
        digest.update(hashlib.sha256(path.read_bytes()).hexdigest().encode())
    return digest.hexdigest()
