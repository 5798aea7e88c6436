"""Detection and alignment, each detector against the crops it should give back.

    python -m benchmarks.alignment

Aligned faces of LFW pairs are set into larger photographs, turned, scaled and on a noisy ground, so
that the true landmarks are those of the template. Each detector finds them again; the faces are
aligned anew and verified. The landmarks that were found differ from the template's also where the
crop's own alignment was off or the face is no template, so the error is an upper bound;
`alignment_shift_px` is how far the aligned face itself moved. Ends with one line of JSON.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.command_line import add_data_option, new_parser, run, weights_file

PHOTOGRAPH = (420, 360)
"""Their width and height."""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `python -m benchmarks.alignment`."""
    parser = new_parser("python -m benchmarks.alignment", str(__doc__))
    add_data_option(parser)
    parser.add_argument("--pairs", type=int, default=600, help="default: %(default)s")
    parser.add_argument("--detectors", nargs="+", default=["mtcnn", "yunet"])
    parser.add_argument("--weights", default="mobilefacenet_y1.ms1m", help="default: %(default)s")
    parser.add_argument("--workers", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    return run(_measure, parser, argv)


def _measure(arguments: argparse.Namespace) -> int:
    import numpy as np

    from iom.data.benchmarks.pair_lists import read_pair_list
    from iom.models.embedder import load_embedder
    from iom.photos.images import read_images

    data = arguments.data
    pairs = read_pair_list(data / "lists" / "lfw_pairs.txt", data / "lfw_112x112")
    # Evenly over the list, so that both kinds and all folds take part.
    chosen = np.linspace(0, len(pairs) - 1, min(arguments.pairs, len(pairs))).astype(int)
    used = np.unique([pairs.left[chosen], pairs.right[chosen]])
    left, right = (np.searchsorted(used, side[chosen]) for side in (pairs.left, pairs.right))
    same = pairs.same[chosen]
    crops = read_images([pairs.images[i] for i in used], progress=True)
    embedder = load_embedder(arguments.weights)
    figures: dict[str, Any] = {"pairs": len(chosen), "photographs": len(crops)}
    figures |= _verification(embedder.embed(crops), left, right, same, "original")
    with tempfile.TemporaryDirectory() as folder:
        matrices = write_photographs(Path(folder) / "photos", crops, arguments.seed)
        for name in arguments.detectors:
            output = Path(folder) / name
            found, error, moved, rate = _run(name, output, matrices, arguments)
            faces = read_images([output / f"{i:05d}.png" for i in np.flatnonzero(found)])
            embeddings = np.zeros((len(crops), embedder.embedding_size), np.float32)
            embeddings[found] = embedder.embed(faces)
            both = found[left] & found[right]
            result = {
                "found_share": float(found.mean()),
                "landmark_error_px": error,
                "alignment_shift_px": moved,
                "photographs_per_s": rate,
                "pairs_found": int(both.sum()),
                **_verification(embeddings, left[both], right[both], same[both], "realigned"),
            }
            figures[name] = {key: round(value, 5) for key, value in result.items()}
            print(name, figures[name])
    print(json.dumps(figures))
    return 0


def write_photographs(folder: Path, crops: Any, seed: int, *, enlarge: float = 1.0) -> list[Any]:
    """Set each crop into a photograph; the matrix from crop to photograph of each.

    Both are `enlarge` times as large as `PHOTOGRAPH` and a crop are.
    """
    import numpy as np

    folder.mkdir(parents=True)
    draw = np.random.default_rng(seed)
    size = tuple(round(enlarge * side) for side in PHOTOGRAPH)
    matrices = []
    for i, crop in enumerate(crops):
        photo, matrix = set_into_photograph(crop, draw, size, enlarge * draw.uniform(0.8, 1.8))
        photo.save(folder / f"{i:05d}.jpg", quality=95)
        matrices.append(matrix)
    return matrices


def set_into_photograph(crop: Any, draw: Any, size: tuple[int, ...], scale: float) -> tuple[Any, Any]:
    """The crop, `scale` times as large and turned, near the middle of a photograph; the matrix from crop to photograph.

    `draw` gives turn, place and ground; `size` is width and height.
    """
    import numpy as np
    from PIL import Image, ImageFilter

    width, height = size
    angle = np.deg2rad(draw.uniform(-30, 30))
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    middle = [draw.uniform(0.4, 0.6) * width, draw.uniform(0.4, 0.6) * height]
    shift = np.array(middle) - turn @ [55.5, 55.5]
    back = np.linalg.inv(turn)
    offset = -back @ shift + 0.5 - back @ [0.5, 0.5]
    coefficients = (*back[0], offset[0], *back[1], offset[1])
    where = ((width, height), Image.Transform.AFFINE, coefficients)
    # The crop's own mean with blurred noise around it, and a soft border between.
    ground = draw.normal(crop.mean(axis=(0, 1)), 40, (height, width, 3)).clip(0, 255)
    photo = Image.fromarray(ground.astype(np.uint8)).filter(ImageFilter.GaussianBlur(3))
    face = Image.fromarray(crop).transform(*where, Image.Resampling.BICUBIC)
    mask = Image.new("L", (112, 112), 0)
    mask.paste(255, (3, 3, 109, 109))
    mask = mask.filter(ImageFilter.GaussianBlur(1)).transform(*where)
    photo.paste(face, (0, 0), mask)
    return photo, np.column_stack([turn, shift])


def _run(
    name: str, output: Path, matrices: list[Any], arguments: argparse.Namespace
) -> tuple[Any, float, float, float]:
    """Whether found, landmark error and alignment shift in template pixels, photographs a s."""
    import numpy as np

    from iom.photos.align import TEMPLATE, read_landmarks, similarity
    from iom.photos.photograph import PhotoSettings
    from iom.photos.pipeline import PhotoRun, align_photos

    weights = weights_file("yunet/*.onnx")
    settings = PhotoSettings(detector=name, faces="largest")
    run = PhotoRun(
        output.parent / "photos",
        settings,
        weights=None if name == "mtcnn" else weights,
        workers=arguments.workers,
        progress=True,
    )
    start = time.perf_counter()
    align_photos(run, output, format="png")
    seconds = time.perf_counter() - start
    errors = np.full(len(matrices), np.inf)
    shifts = errors.copy()
    for photo, faces in read_landmarks(output / "landmarks.csv").items():
        i = int(Path(photo).stem)
        turn, shift = matrices[i][:, :2], matrices[i][:, 2]
        for face in faces:
            back = (face.points - shift) @ np.linalg.inv(turn).T
            error = np.linalg.norm(back - TEMPLATE, axis=1).mean()
            if error < errors[i]:
                anew = similarity(back)
                errors[i] = error
                shifts[i] = np.linalg.norm(TEMPLATE @ anew[:, :2].T + anew[:, 2] - TEMPLATE, axis=1).mean()
    written = np.array([(output / f"{i:05d}.png").is_file() for i in range(len(matrices))])
    found = written & np.isfinite(errors)
    return found, float(errors[found].mean()), float(shifts[found].mean()), len(matrices) / seconds


def _verification(embeddings: Any, left: Any, right: Any, same: Any, kind: str) -> dict[str, float]:
    """Equal error rate and best accuracy of the cosine."""
    import numpy as np

    from iom.metrics.verification import error_curve

    distances = 1.0 - (embeddings[left] * embeddings[right]).sum(axis=1)
    order = np.argsort(distances, kind="stable")
    right_below = np.concatenate([[0], np.cumsum(same[order])])
    wrong_below = np.concatenate([[0], np.cumsum(~same[order])])
    accuracy = (right_below + (~same).sum() - wrong_below).max() / len(same)
    eer = error_curve(distances[same], distances[~same]).equal_error_rate()
    return {f"eer_{kind}": round(float(eer), 5), f"accuracy_{kind}": round(float(accuracy), 5)}


if __name__ == "__main__":
    raise SystemExit(main())
