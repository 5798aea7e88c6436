"""Data sets written by MXNet and bcolz, read back; and what is written here, read by MXNet.

    python -m benchmarks.foreign_data
    python -m benchmarks.foreign_data --python38 ~/.pyenv/versions/3.8.18/bin/python

MXNet 1.9.1 (Python 3.8, NumPy < 1.24) writes RecordIO with and without identity ranges, one record
of several parts among them, and a `.bin`; bcolz-zipline (Python 3.11) writes a carray. Images and
labels must be the same after reading. Their environments are made in .cache/ on the first run.
Images: synthetic faces, as JPEG and PNG. Where a Python is missing, its part is skipped.

Ends with one line of JSON: what was equal (null: skipped) and `all_equal`.
"""

import argparse
import hashlib
import io
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.command_line import new_parser, run
from benchmarks.environments import environment
from iom.errors import ConfigError

HERE = Path(__file__).parent
PACKAGES = {"mxnet": ["mxnet==1.9.1", "numpy<1.24", "opencv-python-headless<4.11"], "bcolz": ["bcolz-zipline"]}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `python -m benchmarks.foreign_data`."""
    parser = new_parser("python -m benchmarks.foreign_data", str(__doc__))
    parser.add_argument("--python38", default="", metavar="FILE", help="a Python 3.8, for MXNet")
    parser.add_argument("--python311", default="", metavar="FILE", help="a Python 3.11, for bcolz")
    parser.add_argument("--cache", type=Path, default=HERE.parent / ".cache", metavar="DIR")
    parser.add_argument("--subjects", type=int, default=6, help="default: %(default)s")
    return run(_measure, parser, argv)


def _measure(arguments: argparse.Namespace) -> int:
    if arguments.subjects < 2:
        raise ConfigError("--subjects: expected at least 2")
    mxnet = _environment("mxnet", arguments.python38 or _python("3.8"), arguments.cache)
    bcolz = _environment("bcolz", arguments.python311 or _python("3.11"), arguments.cache)
    figures: dict[str, bool | None] = dict.fromkeys(("recordio_ranges", "recordio_plain", "bin", "bin_back", "carray"))
    with tempfile.TemporaryDirectory() as scratch:
        if mxnet:
            figures |= _with_mxnet(mxnet, Path(scratch), arguments.subjects)
        if bcolz:
            figures["carray"] = _with_bcolz(bcolz, Path(scratch), arguments.subjects)
    for name, equal in figures.items():
        print(f"{name:16} {'skipped' if equal is None else 'equal' if equal else 'NOT EQUAL'}")
    done = [equal for equal in figures.values() if equal is not None]
    print(json.dumps(figures | {"all_equal": bool(done) and all(done)}))
    return 0


def _python(version: str) -> str:
    found = sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python"))
    return str(found[-1]) if found else shutil.which(f"python{version}") or ""


def _environment(name: str, python: str, cache: Path) -> Path | None:
    return environment(cache / f"foreign_{name}", python, ["--only-binary=:all:", *PACKAGES[name]])


def _faces(subjects: int) -> tuple[Any, Any, list[bytes]]:
    """Pixels as decoded here, labels, encoded images: JPEG and PNG in turns."""
    import numpy as np
    from PIL import Image

    from iom.photos.images import decode_image
    from iom.synthetic import load_face_model

    pixels, labels = load_face_model().sample(subjects, 4, seed=3)
    encoded = []
    for index, image in enumerate(pixels):
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, ("JPEG", "PNG")[index % 2])
        encoded.append(stream.getvalue())
    return np.stack([decode_image(data, "face") for data in encoded]), labels, encoded


def _with_mxnet(python: Path, scratch: Path, subjects: int) -> dict[str, bool | None]:
    from iom.data.formats.conversions import convert
    from iom.data.formats.pair_files import read_bin_images
    from iom.data.formats.recordio import read_record_file
    from iom.photos.images import decode_image

    _, labels, encoded = _faces(subjects)
    lines = []
    for index, data in enumerate(encoded):
        (scratch / f"{index}.img").write_bytes(data)
        lines.append(f"{labels[index]}\t{scratch / f'{index}.img'}\n")
    (scratch / "list.txt").write_text("".join(lines), encoding="utf-8")
    _run(python, "foreign_mxnet.py", "write", scratch / "list.txt", scratch)
    theirs = json.loads((scratch / "pixels.json").read_text(encoding="utf-8"))

    def same_images(data: list[bytes], expected: list[str]) -> bool:
        return [_sha(decode_image(item, "record")) for item in data] == expected

    figures: dict[str, bool | None] = {}
    for kind in ("ranges", "plain"):
        records = read_record_file(scratch / kind / "train.rec")
        images = [records.read(row) for row in range(len(records.keys))]
        # Byte for byte, but for the first, to which the magic number was added.
        exact = images[1:] == encoded[1:] and images[0].startswith(encoded[0])
        figures[f"recordio_{kind}"] = (
            records.labels.tolist() == labels.tolist() == theirs["labels"]
            and exact
            and same_images(images, theirs["pixels"])
        )
    images, same = read_bin_images(scratch / "pairs.bin")
    order = [row for pair in range(len(encoded) - 1) for row in (pair, pair + 1)]
    expected = [theirs["pixels"][row] for row in order]
    figures["bin"] = same == theirs["same"] and same_images(images, expected)
    convert(("bin", "pairs"), scratch / "pairs.bin", scratch / "pairs")
    convert(("pairs", "bin"), scratch / "pairs", scratch / "back.bin")
    back = json.loads(_run(python, "foreign_mxnet.py", "read", scratch / "back.bin"))
    figures["bin_back"] = back == {"pixels": expected, "same": theirs["same"]}
    return figures


def _with_bcolz(python: Path, scratch: Path, subjects: int) -> bool:
    import numpy as np

    from iom.data.formats.conversions import convert
    from iom.data.formats.pair_files import read_carray

    pixels, _, _ = _faces(subjects)
    np.save(scratch / "pixels.npy", pixels)
    same = np.arange(len(pixels) // 2) % 2 == 0
    place = scratch / "lfw"
    np.save(scratch / "lfw_list.npy", same)
    _run(python, "foreign_bcolz.py", scratch / "pixels.npy", place)
    pairs = read_carray(place)
    order = np.stack([pairs.left, pairs.right], axis=1).ravel()
    convert(("carray", "pairs"), place, scratch / "carray_pairs")
    convert(("carray", "bin"), place, scratch / "carray.bin")
    return bool(np.array_equal(pairs.images[order], pixels) and np.array_equal(pairs.same, same))  # type: ignore[index]


def _sha(pixels: Any) -> str:
    return hashlib.sha256(pixels.tobytes()).hexdigest()


def _run(python: Path, script: str, *arguments: object) -> str:
    command = [str(python), str(HERE / script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        raise ConfigError(f"{script} failed under {python}")
    return done.stdout


if __name__ == "__main__":
    raise SystemExit(main())
