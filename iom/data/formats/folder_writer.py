"""Labelled images into a folder `<subject>/<file>`, and pairs into images and a list."""

import hashlib
import io
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image
from tqdm import tqdm

from iom._files import TEMPORARY, atomic_path, remove_temporary_files, write_json, write_text
from iom._untrusted import paths_inside
from iom.data.benchmarks.base import PairBenchmark, read_pair_list
from iom.data.formats.bin_files import read_bin_images, write_bin
from iom.data.formats.face_sources import FaceSource
from iom.data.images import decode_image
from iom.errors import DataError

IMAGES = "images"
PAIRS = "pairs.txt"
LISTING = "conversion.json"

Item = TypeVar("Item")


def write_folder(
    source: FaceSource,
    root: Path,
    *,
    size: int = 112,
    workers: int = 2,
    skip_damaged: bool = False,
    progress: bool = False,
) -> dict[str, Any]:
    """Write each image byte for byte; an image that is there already, whole, is kept.

    Bytes behind the end of an image are copied with it: nothing runs them, and the file is not
    executable. The manifest with subjects and SHA-256 is `conversion.json` beside the subjects.

    Raises:
        DataError: A bad image (unless `skip_damaged`), another conversion in `root`, a file
            that does not read back, a name that leads out of `root` or is one that this writer
            keeps for itself.
    """
    from iom.data.formats.shard_writer import PLAN, begin_or_resume

    targets = paths_inside(root, source.paths, source=source.root)
    for name in source.paths:
        subject = name.partition("/")[0]
        if subject in (LISTING, PLAN) or f"/{TEMPORARY}" in f"/{name}":
            raise DataError(
                f"{source.root}: expected another name than {name!r}, which conversions keep for their own files"
            )
    root.mkdir(parents=True, exist_ok=True)
    begin_or_resume(root, source, {"to": "folder", "size": size})

    def write(row: int) -> tuple[str, str, str]:
        name, target = source.paths[row], targets[row]
        try:
            data = source.read(row)
            decode_image(data, f"{source.root}: {name}", size=size)
        except (DataError, OSError) as error:
            if not skip_damaged:
                raise DataError(f"{error}; --skip-damaged leaves such images out") from error
            return name, "", str(error)
        if not (target.is_file() and target.read_bytes() == data):
            with atomic_path(target) as temporary:
                temporary.write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        if hashlib.sha256(target.read_bytes()).hexdigest() != digest:
            raise DataError(f"{target}: does not read back as written; full disk?")
        return name, digest, ""

    count = len(source.paths)
    with ThreadPoolExecutor(max_workers=workers) as pool:
        results = pool.map(write, range(count))
        done = list(tqdm(results, total=count, desc="images", unit="image", disable=not progress))
    manifest = {
        "source": source.root.name,
        "notes": list(source.notes),
        "images": sum(bool(digest) for _, digest, _ in done),
        "skipped": [problem for _, _, problem in done if problem],
        "subjects": source.subjects,
        "sha256": {name: digest for name, digest, _ in done if digest},
    }
    write_json(root / LISTING, manifest)
    return manifest


def write_pairs(
    images: Sequence[bytes], left: Sequence[int], right: Sequence[int], same: Sequence[bool],
    root: Path, *, progress: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Write images under `images/` and `pairs.txt` with lines `left right same`, in order.

    Raises:
        DataError: The folder holds other images, or what is written does not read back.
    """
    remove_temporary_files(root)
    names = []
    for index, data in enumerate(_shown(images, "written", progress)):
        suffix = "jpg" if data.startswith(b"\xff\xd8") else "png"
        names.append(f"{index:06d}.{suffix}")
        target = root / IMAGES / names[-1]
        if target.is_file() and target.read_bytes() != data:
            raise DataError(f"{target}: another image is there; choose a new folder")
        if not target.is_file():
            with atomic_path(target) as temporary:
                temporary.write_bytes(data)
    lines = [f"{names[a]}\t{names[b]}\t{int(s)}\n" for a, b, s in zip(left, right, same, strict=True)]
    write_text(root / PAIRS, "".join(lines))
    again = read_pair_list(root / PAIRS, root / IMAGES)
    if again.same.tolist() != [bool(item) for item in same]:
        raise DataError(f"{root}: the pairs do not read back as written")
    listing = {
        "pairs": len(lines),
        "images": len(names),
        "sha256": {name: hashlib.sha256(d).hexdigest() for name, d in zip(names, images, strict=True)},
    }
    write_json(root / LISTING, listing)
    return listing


def bin_to_pairs(path: Path, root: Path, *, progress: bool = False) -> dict[str, Any]:
    """An InsightFace `.bin` as images, byte for byte, and a list; equal images are kept once."""
    encoded, same = read_bin_images(path)
    for index, data in enumerate(_shown(encoded, "checked", progress)):
        decode_image(data, f"{path}: image {index}", size=_side(data, path))
    row_of: dict[bytes, int] = {}
    rows = [row_of.setdefault(data, len(row_of)) for data in encoded]
    return write_pairs(list(row_of), rows[0::2], rows[1::2], same, root, progress=progress)


def carray_to_pairs(path: Path, root: Path, *, progress: bool = False) -> dict[str, Any]:
    """A carray folder as PNGs and a list."""
    pairs = _carray(path)
    left, right, same = pairs.left.tolist(), pairs.right.tolist(), pairs.same.tolist()
    return write_pairs(_pngs(pairs, progress), left, right, same, root, progress=progress)


def carray_to_bin(path: Path, target: Path, *, progress: bool = False) -> dict[str, Any]:
    """A carray folder as InsightFace's file of PNGs."""
    pairs = _carray(path)
    return _bin(_pngs(pairs, progress), pairs, target)


def pairs_to_bin(root: Path, target: Path, *, progress: bool = False) -> dict[str, Any]:
    """`pairs.txt` and `images/` of a folder as InsightFace's file, image bytes unchanged."""
    pairs = read_pair_list(root / PAIRS, root / IMAGES)
    images = [file.read_bytes() for file in pairs.images]
    for index, data in enumerate(_shown(images, "checked", progress)):
        decode_image(data, str(pairs.images[index]), size=_side(data, root))
    return _bin(images, pairs, target)


def _bin(images: list[bytes], pairs: PairBenchmark, target: Path) -> dict[str, Any]:
    order = np.stack([pairs.left, pairs.right], axis=1).ravel()
    encoded = [images[row] for row in order]
    write_bin(target, encoded, pairs.same.tolist())
    if read_bin_images(target) != (encoded, pairs.same.tolist()):
        raise DataError(f"{target}: does not read back as written; full disk?")
    digest = hashlib.sha256(target.read_bytes()).hexdigest()
    manifest = {"pairs": len(pairs), "images": len(images), "sha256": {target.name: digest}}
    write_json(target.with_name(f"{target.name}.json"), manifest)
    return manifest


def _carray(path: Path) -> PairBenchmark:
    from iom.data.formats.carray import read_carray

    return read_carray(path)


def _pngs(pairs: PairBenchmark, progress: bool) -> list[bytes]:
    found = []
    for pixels in _shown(pairs.images, "encoded", progress):
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "PNG")
        found.append(stream.getvalue())
    return found


def _shown(items: Iterable[Item], what: str, progress: bool) -> Iterable[Item]:
    return tqdm(items, desc=f"images {what}", unit="image", disable=not progress)


def _side(data: bytes, place: Path) -> int:
    """Width of an image; that it is square, `decode_image` checks."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return int(image.size[0])
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged bytes
        raise DataError(f"{place}: an image is damaged") from error
