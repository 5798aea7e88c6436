"""Face detectors side by side: what they find, what they take for a face, where they put landmarks, and how fast.

    pip download --no-deps scikit-image; pip download --no-deps --no-binary :all: face_recognition insightface
    python -m benchmarks.detectors --packages scikit_image-*.whl face_recognition-*.tar.gz insightface-*.tar.gz

Composites: aligned faces of LFW and CFP, turned by up to 30 degrees and 32 pixels to nine tenths of the picture large,
in pictures of 320x240, 640x480 and 1024x768 on blurred noise; their landmarks are those of the template, up to the
error of the alignment of those sets. Photographs and pictures without a face are those that the packages named carry.

A face is found where a detection of at least the detector's usual score has landmarks within `NEAR` of the true ones;
any other detection is false. Errors are means over five points, in pixels of the 112x112 face, and medians over faces:
against the template, and against YuNet where both found the face. `ms` is processor time with one thread. Ends with
one line of JSON.
"""

import argparse
import io
import json
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.alignment import set_into_photograph
from benchmarks.command_line import add_data_option, new_parser, run, weights_file

SETS = {
    "lfw": ("lfw_112x112", "*.jpg"),
    "cfp_frontal": ("cfp_112x112", "frontal_*.jpg"),
    "cfp_profile": ("cfp_112x112", "profile_*.jpg"),
}
SIZES = ((320, 240), (640, 480), (1024, 768))
NEAR = 0.15
"""Of the side of the face."""
PHOTOGRAPHS = {
    "data/astronaut.png": 1,
    "data/camera.png": 1,
    "test_images/biden.jpg": 1,
    "test_images/obama.jpg": 1,
    "test_images/obama2.jpg": 1,
    "test_images/obama3.jpg": 1,
    "test_images/obama_partial_face.jpg": 1,
    "test_images/obama_partial_face2.jpg": 1,
    "images/t1.jpg": 6,
}
"""Photographs of the packages, and how many faces are in them."""
SCENES = [
    "brick",
    "cell",
    "chelsea",
    "clock_motion",
    "coffee",
    "coins",
    "color",
    "grass",
    "gravel",
    "horse",
    "hubble_deep_field",
    "ihc",
    "moon",
    "motorcycle_left",
    "motorcycle_right",
    "page",
    "phantom",
    "retina",
    "rocket",
    "text",
]
"""Pictures without a face, of `skimage/data`."""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `python -m benchmarks.detectors`."""
    parser = new_parser("python -m benchmarks.detectors", str(__doc__))
    add_data_option(parser)
    parser.add_argument("--faces", type=int, default=300, help="of each set (default: %(default)s)")
    parser.add_argument("--detectors", nargs="+", default=["mtcnn", "yunet_onnx"])
    parser.add_argument("--packages", nargs="*", type=Path, default=[], help="wheels and sdists with photographs")
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    return run(_measure, parser, argv)


def _measure(arguments: argparse.Namespace) -> int:
    from iom.photos.detect import DETECTORS, build_detector

    yunet = weights_file("yunet/*.onnx")
    detectors = {
        name: (build_detector(name, weights=None if name == "mtcnn" else yunet), DETECTORS[name].min_score)
        for name in dict.fromkeys(["yunet_onnx", *arguments.detectors])
    }
    rows = [
        {"set": name, **figures}
        for name, pictures in _sets(arguments)
        for figures in _figures(pictures, detectors, arguments.detectors)
    ]
    for row in rows:
        print("  ".join(f"{key} {value}" for key, value in row.items()))
    print(json.dumps({"seed": arguments.seed, "rows": rows}))
    return 0


def _sets(arguments: argparse.Namespace) -> Iterator[tuple[str, list[tuple[Any, Any]]]]:
    """Name of each set, and its pictures: pixels, and true landmarks `(N, 5, 2)` or the number of faces."""
    import numpy as np

    from iom.errors import DataError
    from iom.photos.align import TEMPLATE
    from iom.photos.images import read_image, read_picture

    draw = np.random.default_rng(arguments.seed)
    for name, (folder, pattern) in SETS.items():
        files = sorted((arguments.data / folder).glob(f"*/{pattern}"))
        if not files:
            raise DataError(f"{arguments.data / folder}: expected faces, found none")
        pictures = []
        for i in draw.choice(len(files), min(arguments.faces, len(files)), replace=False):
            size = SIZES[draw.integers(len(SIZES))]
            side = np.exp(draw.uniform(np.log(32), np.log(0.9 * size[1])))
            photo, matrix = set_into_photograph(read_image(files[i]), draw, size, side / 112)
            pictures.append((np.asarray(photo), (TEMPLATE @ matrix[:, :2].T + matrix[:, 2])[None]))
        yield name, pictures
    found = dict(item for package in arguments.packages for item in _members(package))
    photographs = [
        (read_picture(data)[0], count)
        for end, count in PHOTOGRAPHS.items()
        for name, data in found.items()
        if name.endswith(end)
    ]
    scenes = [read_picture(data)[0] for name, data in found.items() if Path(name).stem in SCENES]
    if photographs:
        yield "photographs", photographs
    yield "no_faces", [(pixels, 0) for pixels in [*scenes, *_noise(draw)]]


def _noise(draw: Any) -> list[Any]:
    """Pictures of noise, fine and coarse."""
    import numpy as np
    from PIL import Image

    pictures = []
    for cells in (480, 240, 120, 60, 30, 15):
        noise = draw.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
        pictures.append(np.asarray(Image.fromarray(noise).resize((640, 480), Image.Resampling.BICUBIC)))
    return pictures


def _members(package: Path) -> Iterator[tuple[str, bytes]]:
    """Pictures in a wheel or an sdist."""
    ends = (".jpg", ".png")
    if package.suffix == ".whl":
        with zipfile.ZipFile(package) as archive:
            yield from ((name, archive.read(name)) for name in archive.namelist() if name.endswith(ends))
        return
    with tarfile.open(fileobj=io.BytesIO(package.read_bytes())) as archive:
        for member in archive:
            if member.name.endswith(ends) and (stream := archive.extractfile(member)) is not None:
                yield member.name, stream.read()


def _figures(
    pictures: list[tuple[Any, Any]], detectors: dict[str, tuple[Callable[[Any], list[Any]], float]], names: list[str]
) -> Iterator[dict[str, Any]]:
    """Figures of each detector on a set."""
    results = {}
    for name, (detect, lowest) in detectors.items():
        detect(pictures[0][0])
        start = time.process_time()
        results[name] = [[face for face in detect(pixels) if face.score >= lowest] for pixels, _ in pictures]
        spent = time.process_time() - start
        if name in names:
            yield {"detector": name, **_accuracy(pictures, results[name], results["yunet_onnx"])} | {
                "ms": round(1000 * spent / len(pictures), 1)
            }


def _accuracy(pictures: list[tuple[Any, Any]], found: list[list[Any]], others: list[list[Any]]) -> dict[str, Any]:
    """Faces, found and false ones, and the errors of landmarks; `others` are what YuNet found."""
    import numpy as np

    faces = hits = false = 0
    errors, differences = [], []
    for (_, truth), mine, theirs in zip(pictures, found, others, strict=True):
        if isinstance(truth, int):  # where the faces are, nobody has marked
            faces, hits = faces + truth, hits + min(truth, len(mine))
            false += max(0, len(mine) - truth)
            near = mine
        else:
            faces += len(truth)
            away = [min(_apart(face.points, points) for points in truth) for face in mine]
            near = [face for face, error in zip(mine, away, strict=True) if error < NEAR * 112][: len(truth)]
            hits, false = hits + len(near), false + len(mine) - len(near)
            errors += [min(_apart(face.points, points) for points in truth) for face in near]
        apart = [min([_apart(face.points, other.points) for other in theirs], default=np.inf) for face in near]
        differences += [each for each in apart if each < NEAR * 112]
    figures = {"pictures": len(pictures), "faces": faces, "found": hits, "false": false}
    for key, values in {"error": errors, "from_yunet": differences}.items():
        figures[key] = round(float(np.median(values)), 2) if values else None
    return figures


def _apart(points: Any, others: Any) -> float:
    """Mean distance of landmarks in pixels of the face that `others` are aligned to."""
    import numpy as np

    from iom.photos.align import SIZE, face_size

    return float(np.linalg.norm(points - others, axis=1).mean() * SIZE / face_size(others))


if __name__ == "__main__":
    raise SystemExit(main())
