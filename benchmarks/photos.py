"""Photographs to codes per second, end to end, and which stage limits.

    python -m benchmarks.photos

Aligned faces of LFW are set into larger photographs, turned, scaled and on a noisy ground (see
`benchmarks.alignment`), and hashed as `iom hash` does: decoded, detected, aligned, embedded,
hashed, written. `per_s` counts from the moment the first worker is ready, by the clock;
`per_cpu_s`, per second of processor time, and the shares hold on a busy machine, too. `limits` is
the stage with the largest share.
`found_share` and `equal_symbols` (with the codes of the faces that were set in) tell that what was
measured is what it should be. Ends with one line of JSON; its `per_s` is that of the first
detector.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.command_line import add_data_option, new_parser, run, weights_file

HASHER = "pre_models/mobilefacenet_y1_512x8"
STAGES = ("decode", "detect", "align", "embed", "hash", "write")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `python -m benchmarks.photos`."""
    parser = new_parser("python -m benchmarks.photos", str(__doc__))
    add_data_option(parser)
    parser.add_argument("--photographs", type=int, default=300, help="default: %(default)s")
    parser.add_argument(
        "--enlarge", type=float, default=4.0,
        help="times 420 x 360 pixels (default: %(default)s, 2.4 megapixels)",
    )  # fmt: skip
    parser.add_argument("--detectors", nargs="+", default=["yunet_onnx", "yunet", "mtcnn"])
    parser.add_argument("--detect-side", type=int, default=1024, help="as of iom hash (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--hasher", default=HASHER, help="default: %(default)s")
    parser.add_argument("--weights", default="", help="embedder (default: the hasher's own)")
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    return run(_measure, parser, argv)


def _measure(arguments: argparse.Namespace) -> int:
    import numpy as np

    from benchmarks.alignment import write_photographs
    from iom._files import list_subjects
    from iom.errors import DataError
    from iom.keys import TransformKey
    from iom.models.face_hasher import load
    from iom.photos.images import read_images
    from iom.photos.pipeline import BATCH

    folder = arguments.data / "lfw_112x112"
    faces = [folder / name for name in list_subjects(folder).images]
    if not faces:
        raise DataError(f"{folder}: expected faces, found none")
    chosen = np.linspace(0, len(faces) - 1, min(arguments.photographs, len(faces))).astype(int)
    crops = read_images([faces[i] for i in chosen])
    hasher = load(arguments.hasher, weights=arguments.weights, batch_size=BATCH)
    key = TransformKey(bytes(32))
    expected = hasher.hash(hasher.embed(crops), key)
    figures: dict[str, Any] = {"photographs": len(crops), "batch": BATCH}
    with tempfile.TemporaryDirectory() as name:
        photos = Path(name) / "photos"
        write_photographs(photos, crops, arguments.seed, enlarge=arguments.enlarge)
        size = sum(path.stat().st_size for path in photos.iterdir())
        figures["megapixels"] = round(420 * 360 * arguments.enlarge**2 / 1e6, 2)
        figures["megabytes_each"] = round(size / len(crops) / 1e6, 2)
        for detector in arguments.detectors:
            out = Path(name) / f"{detector}.parquet"
            figures[detector] = _run(detector, photos, out, hasher, key, expected, arguments)
            print(detector, figures[detector])
    figures["per_s"] = figures[arguments.detectors[0]]["per_s"]
    print(json.dumps(figures))
    return 0


def _run(
    detector: str, photos: Path, out: Path, hasher: Any, key: Any, expected: Any,
    arguments: argparse.Namespace,
) -> dict[str, Any]:  # fmt: skip
    import numpy as np

    from iom.codes.packing import unpack
    from iom.photos.codes_file import read_codes
    from iom.photos.photograph import PhotoSettings
    from iom.photos.pipeline import PhotoRun, hash_photos

    weights = weights_file("yunet/*.onnx")
    run = PhotoRun(
        photos,
        PhotoSettings(detector=detector, faces="largest", max_side=arguments.detect_side),
        weights=None if detector == "mtcnn" else weights,
        workers=arguments.workers,
        progress=True,
    )
    done = hash_photos(run, out, hasher=hasher, key=key)
    found = read_codes(out)
    rows = np.array([int(Path(photo).stem) for photo in found.photos], int)
    seconds = {stage: done.seconds[stage] for stage in STAGES}
    whole = sum(seconds.values())
    return {
        "per_s": round(len(expected) / (done.seconds["total"] - done.seconds["start"]), 2),
        "per_cpu_s": round(len(expected) / whole, 2),
        "start_s": round(done.seconds["start"], 2),
        "limits": max(seconds, key=lambda stage: seconds[stage]),
        "shares": {stage: round(spent / whole, 4) for stage, spent in seconds.items()},
        "cpu_ms_each": {stage: round(1e3 * spent / len(expected), 2) for stage, spent in seconds.items()},
        "found_share": round(len(rows) / len(expected), 4),
        "equal_symbols": round(float((unpack(found.codes) == expected[rows]).mean()), 4),
    }


if __name__ == "__main__":
    raise SystemExit(main())
