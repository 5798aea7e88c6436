"""Choose a hasher's decision threshold: `iom calibrate --hasher DIR --fmr 1e-3`."""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from iom.cli.arguments import Answer, new_parser, run

EPILOG = """\
with --faces all subjects of a folder are used: people that the hasher was not trained on, such as
your own; it says how many comparisons there are, and refuses an FMR that they cannot show. A hasher
that came with the package is not changed: --output takes a copy with the new threshold

without --faces the configuration is that of a stage 2 training: its data section says which folder,
and which of its subjects are held out; its embedder section must name the embedder that the hasher
was trained with; without --config the one beside the hasher is taken

the threshold, with its intervals over subjects and keys, is stored in hasher.json, or in the
manifest of an artefact, which embeds for itself whatever the embedder section names

examples:
  iom calibrate --hasher bundled --faces PEOPLE --fmr 1e-3 --output my_hasher
  iom calibrate --hasher runs/y1_stage2 --fmr 1e-4
  iom calibrate --hasher mobilefacenet_y1_512x8 --output runs/copy \\
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
        help="folder of a trained hasher, artefact of iom deploy, or a name",
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
    parser.add_argument(
        "--faces", type=Path, metavar="DIR",
        help="aligned faces DIR/<subject>/<image>, of which all subjects are used",
    )  # fmt: skip
    parser.add_argument(
        "--weights", default="", metavar="NAME_OR_FILE",
        help="embedder, with --faces (default: the one the hasher names)",
    )  # fmt: skip
    parser.add_argument(
        "--output", type=Path, metavar="DIR",
        help="store the threshold in a copy of the hasher, a new folder (default: in the hasher)",
    )  # fmt: skip
    parser.add_argument("--fmr", metavar="RATE", help="false match rate (default: as configured)")
    parser.add_argument("--keys", metavar="N", help="number of keys (default: as configured)")
    parser.add_argument("--bootstrap", metavar="N", help="draws for the intervals (default: as configured)")
    parser.add_argument("--dry-run", action="store_true", help="print it, store nothing")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return run(_calibrate, parser, argv)


def _calibrate(arguments: argparse.Namespace) -> Answer:
    from iom.config.loading import load_config
    from iom.config.schema import Stage2Config
    from iom.errors import ConfigError
    from iom.pretrained import hasher_path

    overrides = list(arguments.overrides)
    for name in ("fmr", "keys", "bootstrap"):
        value = getattr(arguments, name)
        if value is not None:
            overrides.append(f"calibration.{name}={value}")
    if arguments.faces and (arguments.config or arguments.overrides):
        raise ConfigError("--faces takes all subjects of a folder: leave out --config and --set")
    folder = hasher_path(arguments.hasher)
    path = None if arguments.faces else arguments.config or folder / "config.yaml"
    if path is not None and not path.exists() and arguments.config is None:
        raise ConfigError(
            f"{folder} holds no config.yaml: calibrate on your own people with --faces DIR, or "
            "name a stage 2 configuration with --config"
        )
    config = load_config(Stage2Config, path, overrides=overrides)

    from iom.training.calibration import check_target, copy_hasher, describe, recalibrate, recalibrate_on_faces

    notes: list[str] = []
    if not arguments.dry_run:
        check_target(folder, arguments.output)
    if arguments.faces:
        hasher = recalibrate_on_faces(
            folder,
            arguments.faces,
            config.calibration,
            weights=arguments.weights,
            seed=config.seed,
            progress=not arguments.quiet,
            report=notes.append,
        )
    else:
        hasher = recalibrate(folder, config, progress=not arguments.quiet, report=notes.append)
    assert hasher.calibration is not None  # noqa: S101 - it was made just now
    stored = None
    if not arguments.dry_run:
        target = copy_hasher(folder, arguments.output) if arguments.output else folder
        stored = hasher.save_calibration(target)
    notes += [describe(hasher), f"stored in {stored}" if stored else "nothing stored"]
    return Answer({"stored": stored, **dataclasses.asdict(hasher.calibration)}, "\n".join(notes))


if __name__ == "__main__":
    raise SystemExit(main())
