"""Check the folder of prepared data (docs/reproduce.md), or make what can be computed in it.

    python -m benchmarks.prepared_data                  # counts, names and lists against those of docs/results.md
    python -m benchmarks.prepared_data --make embeddings  # of LFW and FIW, by mobilefacenet_y1
    python -m benchmarks.prepared_data --make lists       # fiw_clean.txt and fiw_probable_duplicates.tsv, from those

Exit code 1: something is missing or differs. Faces that another detector aligned are as good, and their names are the
same; the figures then differ in the last digit.
"""

import argparse
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.command_line import add_data_option, new_parser, run
from benchmarks.stored_embeddings import STORED

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

EMBEDDER = f"{STORED}.ms1m"
CLEAN, DUPLICATES = "lists/fiw_clean.txt", "lists/fiw_probable_duplicates.tsv"
CLEAN_COSINE, DUPLICATE_COSINE, CENTRING = 0.5, 0.6, 3


class Folder(NamedTuple):
    """What a folder of subjects should hold: how much, and the SHA-256 of its sorted relative paths, one a line."""

    images: int
    subjects: int
    names_sha256: str


FOLDERS = {
    "lfw_112x112": Folder(13233, 5749, "aacd42dcb6273897f99b82eef42ad6f69799a53c1e53755560bb713a882fb9b7"),
    "fiw_112x112": Folder(13552, 2797, "491e35e712ec9bc5db604483c56cefc21a26e95c45ee0384166b41a5159b8974"),
    "cfp_112x112": Folder(7000, 500, "b2d27b167a6844f5b45ceae95a9cb10ca2695850e48ea2cd4ea50a0ecfb29919"),
}
LISTS = {
    "lists/lfw_pairs.txt": "ea42330c62c92989f9d7c03237ed5d591365e89b3e649747777b70e692dc1592",
    "lists/lfw_people.txt": "bc8fa2b7f25c895cf7efb6de4f4fc27ca8b8d1cfa63350ad8b96eae2b198d365",
    CLEAN: "ec518daa70a676799bb7a4dd68673f7633ed385cfbdc205451b35e04b74d0f44",
    DUPLICATES: "0b41adf5a872973ebc552d4ac9bcb38f450069032dabfa4d2c798e3ee30467d8",
    "lists/blufr/image_list.txt": "401e4792fda86bb797f17c5dc3ca9681372121fd1f5afd839283ef136f387bdb",
    "lists/blufr/train_set.txt": "bb65bd2ac8b513be9ae218fa60d195e0406b73afd7b26f503839859bd8ab8884",
    "lists/blufr/test_set.txt": "b757805e71c6b6d5758704dbe39871d3d82ef5815fe3c3900cc6180eda567289",
    "lists/blufr/gallery_set.txt": "f82ede7d1b0a8eb0791f48783c33d7c18a78c44d87c550bd5b44d7d42ada6aef",
    "lists/blufr/probe_set.txt": "0ee880892acf0bcd15862e1f811aec706739b1914a777103887d9ba9c5429f7d",
    "lists/cfp/FF.tsv": "4d528df2a1718d8c2e354607b9a18048aa7ef44dac48b298fab72060839fc128",
    "lists/cfp/FP.tsv": "a775e5cba6afafad01966eead54f3d30b72c47d7f8b4a63faee932cad8485b28",
}
"""SHA-256 of the files."""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `python -m benchmarks.prepared_data`."""
    parser = new_parser("python -m benchmarks.prepared_data", str(__doc__))
    add_data_option(parser)
    parser.add_argument("--make", choices=("embeddings", "lists"), help="what to compute; default: check alone")
    return run(_prepare, parser, argv)


def _prepare(arguments: argparse.Namespace) -> int:
    if arguments.make == "embeddings":
        for name in ("lfw_112x112", "fiw_112x112"):
            _embed(arguments.data, name)
    elif arguments.make == "lists":
        _make_lists(arguments.data)
    states = dict(check(arguments.data))
    for name, state in states.items():
        print(f"{name:32} {state}")
    print(json.dumps(states))
    return 0 if all(state.startswith("as measured") for state in states.values()) else 1


def check(data: Path) -> Iterator[tuple[str, str]]:
    """What is there, part by part: "as measured" with its size, "missing", or how it differs."""
    from iom._files import list_subjects, sha256_of

    for name, expected in FOLDERS.items():
        if not (data / name).is_dir():
            yield name, "missing"
            continue
        images = list_subjects(data / name).images
        subjects = len({image.split("/", 1)[0] for image in images})
        digest = hashlib.sha256("".join(f"{image}\n" for image in sorted(images)).encode()).hexdigest()
        size = f"{len(images):,} images of {subjects:,} subjects"
        wanted = f"{expected.images:,} images of {expected.subjects:,} subjects"
        if digest == expected.names_sha256:
            yield name, f"as measured: {size}"
        else:
            yield name, f"differs: {size}, expected {wanted}" if size != wanted else f"other names: {size}"
    for name, digest in LISTS.items():
        path = data / name
        if not path.is_file():
            yield name, "missing"
        else:
            yield name, "as measured" if sha256_of(path) == digest else "differs"


def clean_rows(
    embeddings: "NDArray[np.float32]", labels: "NDArray[np.int64]"
) -> "tuple[NDArray[np.bool_], NDArray[np.float64]]":
    """Images that agree with their label, cosine of at least 0.5 to its centre, and the centres, found three times."""
    import numpy as np

    kept = np.ones(len(labels), bool)
    for _ in range(CENTRING):
        sums = np.zeros((labels.max() + 1, embeddings.shape[1]))
        np.add.at(sums, labels[kept], embeddings[kept])
        centres = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-9)  # 0 where no image is kept
        kept = np.sum(embeddings * centres[labels], axis=1) >= CLEAN_COSINE
    return kept, centres


def _make_lists(data: Path) -> None:
    import numpy as np

    from benchmarks.stored_embeddings import embeddings_of
    from iom._files import list_subjects, write_text

    root = data / "fiw_112x112"
    images = sorted(list_subjects(root).images)
    rows = embeddings_of([root / image for image in images], root, data)
    names, labels = np.unique([image.split("/", 1)[0] for image in images], return_inverse=True)
    kept, centres = clean_rows(rows, labels)
    write_text(data / CLEAN, "".join(f"{image}\n" for image, good in zip(images, kept, strict=True) if good))
    cosines = np.triu(centres @ centres.T, 1)
    pairs = sorted(zip(*np.nonzero(cosines >= DUPLICATE_COSINE), strict=True), key=lambda pair: -cosines[pair])
    write_text(data / DUPLICATES, "".join(f"{names[a]}\t{names[b]}\t{cosines[a, b]:.3f}\n" for a, b in pairs))


def _embed(data: Path, name: str) -> None:
    import numpy as np

    from iom._files import atomic_path, list_subjects
    from iom.models.embedder import load_embedder

    images = sorted(list_subjects(data / name).images)
    files = [data / name / image for image in images]
    embedding = load_embedder(EMBEDDER, cache=".cache/embeddings").embed_files(files, progress=True)
    with atomic_path(data / "embeddings" / f"{name}.{STORED}.npz") as temporary:
        np.savez(temporary, embedding=embedding, path=np.array(images))


if __name__ == "__main__":
    raise SystemExit(main())
