"""Cards of LFW's subjects, printed, photographed and verified.

    python -m benchmarks.cards
    python -m benchmarks.cards --hasher runs/short --cards 1000

A subject's first image makes a card; its QR code goes through a print of random size, a photograph
of it (turned, seen from the side, blurred, with noise, JPEG of quality 60) and a reader; the
subject's second image and the first one of the next subject are verified with what was read.
Prints one line of JSON: `read` are the cards that were read, `match` and `false_match` the shares
of those; times are medians in milliseconds.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.command_line import add_data_option, new_parser, run

if TYPE_CHECKING:
    import numpy as np


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `python -m benchmarks.cards`."""
    parser = new_parser("python -m benchmarks.cards", str(__doc__))
    add_data_option(parser)
    parser.add_argument("--hasher", default="bundled", help="default: %(default)s")
    parser.add_argument("--cards", type=int, default=300, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--synthetic", action="store_true", help="synthetic faces in place of LFW; no data")
    return run(_benchmark, parser, argv)


def photograph(card: Path, photo: Path, random: "np.random.Generator") -> None:
    """Write a photograph of a print of a card's QR code."""
    import numpy as np
    from PIL import Image, ImageFilter

    bicubic = Image.Resampling.BICUBIC
    with Image.open(card) as code:
        scale = random.uniform(4, 7) / 8  # pixels of a module, of 8 in the file
        print_ = code.convert("RGB").resize((int(code.width * scale),) * 2, bicubic)
    page = Image.new("RGB", (900, 900), (236, 233, 224))
    page.paste(print_, tuple(450 - print_.width // 2 + random.integers(-40, 41, 2)))
    page = page.rotate(random.uniform(-25, 25), bicubic, fillcolor="grey")
    corners = np.array([0, 0, 0, 900, 900, 900, 900, 0]) + random.uniform(-40, 40, 8)
    page = page.transform(page.size, Image.Transform.QUAD, tuple(corners), bicubic)
    page = page.filter(ImageFilter.GaussianBlur(random.uniform(0.5, 1.5)))
    noisy = np.asarray(page) * random.uniform(0.6, 1) + random.normal(0, 10, (900, 900, 3))
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(photo, quality=60)


def _benchmark(arguments: argparse.Namespace) -> int:
    import numpy as np

    import iom
    from iom.errors import CardError

    random = np.random.default_rng(arguments.seed)
    pairs = _pairs(arguments, random)
    hasher, key = iom.load(arguments.hasher), iom.Key.generate()
    matches: list[list[bool]] = [[], []]
    issue, verify = [], []
    with tempfile.TemporaryDirectory() as folder:
        card_file, photo = Path(folder, "card.png"), Path(folder, "photo.jpg")
        for (first, second), (other, _) in zip(pairs, [*pairs[1:], pairs[0]], strict=True):
            start = time.perf_counter()
            made = iom.Card.issue(first, hasher=hasher, key=key, checked=False)
            made.save(card_file)
            issue.append(time.perf_counter() - start)
            photograph(card_file, photo, random)
            card_file.unlink()
            start = time.perf_counter()
            try:
                read = iom.Card.read(photo)
            except CardError:
                continue
            for found, probe in zip(matches, (second, other), strict=True):
                found.append(read.verify(probe, hasher=hasher, key=key, checked=False).match)
                if probe is second:
                    verify.append(time.perf_counter() - start)
    figures = {
        "hasher": arguments.hasher,
        "code": f"{hasher.code_length}x{hasher.alphabet_size}",
        "payload_bytes": len(made.payload),
        "cards": len(pairs),
        "read": len(matches[0]),
        "match": round(float(np.mean(matches[0])), 4),
        "false_match": round(float(np.mean(matches[1])), 4),
        "issue_ms": round(1000 * statistics.median(issue), 1),
        "read_and_verify_ms": round(1000 * statistics.median(verify), 1),
    }
    print(json.dumps(figures))
    return 0


def _pairs(arguments: argparse.Namespace, random: "np.random.Generator") -> list[tuple[object, object]]:
    """The first two images of random subjects."""
    from iom._files import list_subjects
    from iom.errors import DataError
    from iom.synthetic import load_face_model

    if arguments.synthetic:
        faces, _ = load_face_model().sample(arguments.cards, 2, seed=arguments.seed)
        return list(zip(faces[::2], faces[1::2], strict=True))
    folder = arguments.data / "lfw_112x112"
    found = [images[:2] for images in list_subjects(folder).subjects.values() if len(images) > 1]
    if len(found) < arguments.cards:
        raise DataError(f"{folder}: expected {arguments.cards} subjects with two images, found {len(found)}")
    chosen = random.choice(len(found), arguments.cards, replace=False)
    return [(folder / found[place][0], folder / found[place][1]) for place in chosen]


if __name__ == "__main__":
    raise SystemExit(main())
