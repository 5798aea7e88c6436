"""The bundled model on LFW's 6,000 pairs, and the size of all tracked weights.

    python -m benchmarks.bundled

Ends with one line of JSON; rates are fractions, `size_mb` counts millions of bytes.
"""

import argparse
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

from benchmarks.command_line import add_data_option, new_parser, run
from iom.errors import WeightsError

CONFIG = Path("configs/evaluate/bundled_lfw.yaml")
FOLDERS = (Path("iom/pretrained"), Path("pre_models"))
NOT_WEIGHTS = {".md", ".json", ".py", ".txt", ""}
MEGABYTE = 1_000_000


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `python -m benchmarks.bundled`."""
    parser = new_parser("python -m benchmarks.bundled", str(__doc__))
    parser.add_argument("--config", type=Path, default=CONFIG, help="default: %(default)s")
    add_data_option(parser)
    return run(_measure, parser, argv)


def _measure(arguments: argparse.Namespace) -> int:
    from iom.config import EvaluateConfig, load_config

    data = arguments.data
    config = load_config(
        EvaluateConfig,
        arguments.config,
        overrides=[
            f"benchmark.root={json.dumps(str(data / 'lfw_112x112'))}",
            f"benchmark.path={json.dumps(str(data / 'lists' / 'lfw_pairs.txt'))}",
            "scenario.systems=[float]",
            "scenario.bootstrap=0",
        ],
    )
    files = tracked_weights(FOLDERS)

    from iom.evaluation.evaluate import evaluate
    from iom.evaluation.report.text import terminal_text

    report = evaluate(config, progress=True)
    print(terminal_text(report))
    for file in files:
        print(f"{file.stat().st_size / MEGABYTE:9.3f} MB  {file}")
    figures = {
        "lfw_accuracy": report.row("float", "none", "accuracy").value,
        "lfw_eer": report.row("float", "none", "eer").value,
        "size_mb": sum(file.stat().st_size for file in files) / MEGABYTE,
    }
    print(json.dumps(figures))
    return 0


def tracked_weights(folders: Sequence[Path]) -> list[Path]:
    """Files of `folders` that git tracks or would track, but for documents and metadata.

    Raises:
        WeightsError: Not a checkout, or nothing is there.
    """
    names = [str(folder) for folder in folders]
    place = " and ".join(names)
    try:
        listing = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *names],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise WeightsError(f"expected a git checkout that tracks {place}, git failed") from error
    paths = sorted({Path(name) for name in listing.split("\0") if name})
    weights = [path for path in paths if path.is_file() and path.suffix not in NOT_WEIGHTS]
    if not weights:
        raise WeightsError(f"{place}: expected tracked weights, found none")
    return weights


if __name__ == "__main__":
    raise SystemExit(main())
