"""The check of aligned pictures at enrolment: the share that is refused, of real faces and of what is none.

    python -m benchmarks.face_check --data ../shared/data

Faces: aligned images of LFW, FIW and CFP (frontal and profile), drawn at random, and synthetic ones. No faces: plain
surfaces, blurred and coarse noise, gratings, pieces of the two photographs without people that scikit-learn brings,
pieces of faces, and faces shifted by 40 pixels. Ends with one line of JSON.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from benchmarks.command_line import add_data_option, new_parser, run
from iom.photos.images import SIZE, Pixels, read_images
from iom.photos.mtcnn import Mtcnn
from iom.synthetic import load_face_model

FACES = {
    "lfw": ("lfw_112x112", "*.jpg"),
    "fiw": ("fiw_112x112", "*.jpg"),
    "cfp_frontal": ("cfp_112x112", "frontal_*.jpg"),
    "cfp_profile": ("cfp_112x112", "profile_*.jpg"),
}


def drawn(folder: Path, pattern: str, count: int, rng: np.random.Generator) -> Pixels:
    """At most `count` images of a set, at random."""
    files = sorted(folder.rglob(pattern))
    return read_images([files[i] for i in rng.permutation(len(files))[:count]])


def plain(count: int, rng: np.random.Generator) -> Pixels:
    """Surfaces, noise and gratings."""
    rows, columns = np.mgrid[:SIZE, :SIZE]
    found = [np.full((SIZE, SIZE, 3), level, np.uint8) for level in range(0, 256, 16)]
    for i in range(count // 3):
        noise = Image.fromarray(rng.integers(0, 256, (SIZE, SIZE, 3), np.uint8))
        found.append(np.asarray(noise.filter(ImageFilter.GaussianBlur(i % 60 / 6))))
        side = int(rng.integers(2, 30))
        coarse = Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8))
        found.append(np.asarray(coarse.resize((SIZE, SIZE), (0, 2, 3)[i % 3])))
        angle, step = rng.uniform(0, np.pi), rng.uniform(0.02, 0.8)
        wave = 127 + 127 * np.sin(step * (columns * np.cos(angle) + rows * np.sin(angle)))
        found.append(np.repeat(wave.astype(np.uint8)[:, :, None], 3, axis=2))
    return np.stack(found)


def pieces(pictures: list[NDArray[np.uint8]], sides: tuple[int, int], count: int, rng: np.random.Generator) -> Pixels:
    """Square pieces of pictures, scaled to 112 pixels."""
    found = []
    for i in range(count):
        picture = pictures[i % len(pictures)]
        side = int(rng.integers(*sides))
        top, left = (int(rng.integers(0, length - side + 1)) for length in picture.shape[:2])
        piece = Image.fromarray(picture[top : top + side, left : left + side])
        found.append(np.asarray(piece.resize((SIZE, SIZE))))
    return np.stack(found)


def measure(arguments: argparse.Namespace) -> int:
    """Print the shares of the sets that are refused."""
    from sklearn.datasets import load_sample_images

    rng, count = np.random.default_rng(arguments.seed), arguments.images
    sets = {name: drawn(arguments.data / folder, files, count, rng) for name, (folder, files) in FACES.items()}
    some = list(sets["lfw"][: count // 2]) + list(sets["cfp_frontal"][: count // 2])
    sets["synthetic"] = load_face_model().sample(count // 4, 4, seed=arguments.seed)[0]
    sets["plain"] = plain(count, rng)
    sets["photographs"] = pieces(load_sample_images().images, (60, 400), count, rng)
    sets["pieces_of_faces"] = pieces(some, (36, 48), count, rng)
    sets["shifted"] = np.roll(np.stack(some), 40, axis=2)
    network, begun = Mtcnn(), time.process_time()
    refused = {
        name: round(1 - float(np.mean([network.holds_face(image) for image in images])), 4)
        for name, images in sets.items()
    }
    images = sum(map(len, sets.values()))
    milliseconds = 1000 * (time.process_time() - begun) / images
    print(json.dumps({"refused": refused, "images": images, "ms": round(milliseconds, 2)}))
    return 0


if __name__ == "__main__":
    parser = new_parser("python -m benchmarks.face_check", __doc__ or "")
    add_data_option(parser)
    parser.add_argument("--images", type=int, default=1000, help="of each set, at most")
    parser.add_argument("--seed", type=int, default=1)
    raise SystemExit(run(measure, parser))
