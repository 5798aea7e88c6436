"""Choose a hasher's decision threshold: `iom calibrate --hasher DIR --fmr 1e-3`."""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from iom.cli.arguments import Answer, new_parser, run

EPILOG = """\
the configuration is that of a stage 2 training: its data section says which folder, and which of
its subjects are held out; its embedder section must name the embedder that the hasher was trained
with; without --config the one beside the hasher is taken

the threshold, with its intervals over subjects and keys, is stored in hasher.json

examples:
  iom calibrate --hasher runs/y1_stage2 --fmr 1e-4
  iom calibrate --hasher mobilefacenet_y1_512x8 \\
      --config stage2/mobilefacenet_y1_512x8 --fmr 1e-3 --keys 20
  iom calibrate --hasher runs/hasher --config stage2/base \\
      --set data.root=faces --fmr 1e-2 --dry-run
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `iom calibrate`."""
    parser = new_parser(
        "iom calibrate",
        "Find the largest threshold that keeps to a false match rate on held-out subjects, with "
        "the keys stolen, and store it with the hasher.",
        epilog=EPILOG,
        answers=True,
    )
    parser.add_argument(
        "--hasher",
        required=True,
        metavar="NAME_OR_PATH",
        help="folder of a trained hasher, or its name",
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="stage 2 configuration (default: config.yaml in the folder of the hasher)",
    )
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="change one setting; may be given several times",
    )
    parser.add_argument("--fmr", metavar="RATE", help="false match rate (default: as configured)")
    parser.add_argument("--keys", metavar="N", help="number of keys (default: as configured)")
    parser.add_argument(
        "--bootstrap", metavar="N", help="draws for the intervals (default: as configured)"
    )
    parser.add_argument("--dry-run", action="store_true", help="print it, store nothing")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return run(_calibrate, parser, argv)


def _calibrate(arguments: argparse.Namespace) -> Answer:
    from iom.config.loading import load_config
    from iom.config.schema import Stage2Config
    from iom.errors import ConfigError
    from iom.pretrained import hasher_path, package_folder

    folder = hasher_path(arguments.hasher)
    if package_folder() in folder.parents and not arguments.dry_run:
        raise ConfigError(
            f"{folder} belongs to the package: copy it to a folder of your own and calibrate that"
        )
    path = arguments.config or folder / "config.yaml"
    if not path.exists() and arguments.config is None:
        raise ConfigError(
            f"{folder} holds no config.yaml: name a stage 2 configuration with --config"
        )
    overrides = list(arguments.overrides)
    for name in ("fmr", "keys", "bootstrap"):
        value = getattr(arguments, name)
        if value is not None:
            overrides.append(f"calibration.{name}={value}")

    config = load_config(Stage2Config, path, overrides=overrides)

    from iom.training.calibration import describe
    from iom.training.recalibration import recalibrate

    hasher = recalibrate(
        folder, config, progress=not arguments.quiet, report=lambda line: print(line)
    )
    if not arguments.dry_run:
        hasher.save_calibration(folder)
    assert hasher.calibration is not None  # noqa: S101 - it was made just now
    stored = None if arguments.dry_run else folder / "hasher.json"
    return Answer(
        {"stored": stored, **dataclasses.asdict(hasher.calibration)},
        f"{describe(hasher)}\n{f'stored in {stored}' if stored else 'nothing stored'}",
    )


if __name__ == "__main__":
    raise SystemExit(main())
