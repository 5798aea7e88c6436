"""From photographs to codes: `iom hash PHOTOS --out codes.parquet --key-file FILE`."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from iom.cli.arguments import Answer, goes_on_when_repeated, new_parser, run
from iom.pretrained import BUNDLED

if TYPE_CHECKING:
    from iom.keys import TransformKey

KEY_VARIABLE = "IOM_KEY"
EPILOG = """\
the key comes from --key-file or from the environment variable IOM_KEY: the text that iom make-key
writes, or TransformKey.to_text(). There is no default key, and the command line takes none.

Start the same command again to go on where it stopped. Beside codes.parquet comes
codes.report.jsonl: what has no code and why, what needs a look, and the counts in its last line.

examples:
  iom make-key door.key
  iom hash photos --out codes.parquet --key-file door.key
  iom hash photos --out codes.parquet --key-file door.key --detector yunet_onnx \\
      --detector-weights yunet.onnx
  iom hash faces --out codes.parquet --key-file door.key --aligned      # 112x112 faces
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `iom hash`."""
    parser = new_parser(
        "iom hash",
        "Find, align, embed and hash the faces of a folder of photographs, into one file of codes.",
        epilog=EPILOG,
        answers=True,
    )
    parser.add_argument("photos", type=Path, metavar="PHOTOS", help="folder of photographs")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="file of codes, *.parquet")
    parser.add_argument("--key-file", type=Path, metavar="FILE", help="key text (default: IOM_KEY holds it)")
    parser.add_argument("--faces", default="all", help="of several: all (default), largest, or one: refuse them")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--detector", default="mtcnn", help="mtcnn, yunet or yunet_onnx (default: mtcnn)")
    source.add_argument("--aligned", action="store_true", help="the files are 112x112 faces: no detector")
    source.add_argument("--points", type=Path, metavar="FILE", help="landmarks that are known already (CSV)")
    parser.add_argument("--detector-weights", type=Path, metavar="FILE", help="the detector's ONNX (yunet, yunet_onnx)")
    parser.add_argument("--min-score", type=float, metavar="X", help="lowest score (default: the detector's own)")
    parser.add_argument(
        "--min-size", type=float, default=32.0, metavar="PIXELS",
        help="smallest side, in the photograph, of what becomes the face (default: 32)",
    )  # fmt: skip
    parser.add_argument(
        "--detect-side", type=int, default=1024, metavar="PIXELS",
        help="shrink photographs to it for the detector; 640 is faster and misses small faces "
        "(default: 1024)",
    )  # fmt: skip
    parser.add_argument("--max-megapixels", type=float, metavar="N", help="refuse larger photographs (default: 64)")
    parser.add_argument("--landmarks", action="store_true", help="write the five points of each face, too")
    parser.add_argument(
        "--hasher",
        metavar="NAME_OR_PATH",
        default=os.environ.get("IOM_HASHER", BUNDLED),
        help=f"artefact of iom deploy, folder of a trained hasher, or its name (default: IOM_HASHER, or {BUNDLED})",
    )
    parser.add_argument(
        "--weights", default="", metavar="NAME_OR_FILE",
        help="embedder (default: the one the hasher names)",
    )  # fmt: skip
    parser.add_argument(
        "--workers", type=int, default=2, metavar="N",
        help="processes that decode and find faces (default: 2); 0: in this one",
    )  # fmt: skip
    parser.add_argument(
        "--seconds", type=float, default=120.0, metavar="S",
        help="give a photograph up after so long (default: 120)",
    )  # fmt: skip
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return run(_hash, parser, argv)


def _hash(arguments: argparse.Namespace) -> Answer:
    from iom._files import check_output, sha256_of
    from iom.errors import ConfigError, DataError
    from iom.models.face_hasher import load
    from iom.photos.align import read_landmarks
    from iom.photos.decode import MAX_MEGAPIXELS
    from iom.photos.pipeline import ALIGNED, BATCH, POINTS, PhotoSettings, check_places, hash_photos, report_path

    if arguments.workers < 0 or not arguments.seconds > 0:
        raise ConfigError("expected --workers 0 or more and --seconds above 0")
    if arguments.landmarks and arguments.aligned:
        raise ConfigError("--landmarks: aligned faces have none; leave out --aligned or this")
    check_output(arguments.out, folder=False)
    check_places(arguments.photos, arguments.out)
    key = read_key(arguments.key_file)
    points = read_landmarks(arguments.points) if arguments.points else None
    given = arguments.points or arguments.detector_weights
    detector = POINTS if arguments.points else ALIGNED if arguments.aligned else arguments.detector
    settings = PhotoSettings(
        detector=detector,
        faces=arguments.faces,
        min_score=arguments.min_score,
        min_size=arguments.min_size,
        source=sha256_of(given) if given and given.is_file() else "",
        max_side=arguments.detect_side,
        max_megapixels=arguments.max_megapixels or MAX_MEGAPIXELS,
    )
    hasher = load(arguments.hasher, weights=arguments.weights, batch_size=BATCH)
    try:
        with goes_on_when_repeated():
            done = hash_photos(
                arguments.photos,
                arguments.out,
                hasher=hasher,
                key=key,
                settings=settings,
                landmarks=arguments.landmarks,
                weights=arguments.detector_weights,
                points=points,
                workers=arguments.workers,
                seconds=arguments.seconds,
                progress=not arguments.quiet,
            )
    except OSError as error:  # no space left, no right to write
        raise DataError(
            f"{error.filename or arguments.out}: {error.strerror or error}; what was finished is "
            "kept, start the same command again to go on"
        ) from error
    counts = dict(done.counts)
    photographs, faces = counts.pop("photographs"), counts.pop("faces")
    others = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items() if count)
    lines = [f"{photographs} photographs: {others}"]
    if done.continued:
        lines.append(f"{done.continued} of them were finished before")
    report = report_path(arguments.out)
    lines.append(f"{faces} codes in {arguments.out}; what needs a look in {report}")
    return Answer(
        {
            "codes": arguments.out,
            "report": report,
            "counts": dict(done.counts),
            "notes": dict(done.notes),
            "continued": done.continued,
        },
        "\n".join(lines),
    )


def read_key(file: Path | None) -> "TransformKey":
    """The key of a file, or of the environment.

    Raises:
        KeyMaterialError: Neither is given, or what is there is no key. No message repeats it.
    """
    from iom.errors import KeyMaterialError
    from iom.keys import TransformKey

    if file is None and KEY_VARIABLE not in os.environ:
        raise KeyMaterialError(
            f"expected a key: --key-file FILE or the environment variable {KEY_VARIABLE}; `iom make-key FILE` makes one"
        )
    source = f"the environment variable {KEY_VARIABLE}" if file is None else str(file)
    try:
        text = os.environ[KEY_VARIABLE] if file is None else file.read_text(encoding="utf-8")
        return TransformKey.from_text(text)
    except (OSError, UnicodeDecodeError) as error:
        raise KeyMaterialError(f"{source}: cannot read the key") from error
    except KeyMaterialError as error:
        raise KeyMaterialError(f"{source}: {error}") from error


if __name__ == "__main__":
    raise SystemExit(main())
