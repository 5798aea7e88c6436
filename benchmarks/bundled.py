"""The bundled recogniser from aligned 112x112 crops, on LFW's 6,000 pairs and on CFP; size, and time of a face.

    python -m benchmarks.bundled

Ends with one line of JSON: rates as fractions (`lfw_eer_codes`: under a stolen key, mean of five), `size_mb` millions
of bytes of the network, `ms_per_image` processor time of one face, mapped and embedded by one thread.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.command_line import add_data_option, new_parser, run
from iom.pretrained import hasher_path

if TYPE_CHECKING:
    from iom.evaluation.records import ReportData

CONFIG = Path("configs/evaluate/bundled_lfw.yaml")
MEGABYTE = 1_000_000
FACES = 100


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `python -m benchmarks.bundled`."""
    parser = new_parser("python -m benchmarks.bundled", str(__doc__))
    parser.add_argument("--config", type=Path, default=CONFIG, help="default: %(default)s")
    add_data_option(parser)
    return run(_measure, parser, argv)


def _measure(arguments: argparse.Namespace) -> int:
    lists = arguments.data / "lists"
    lfw = _report(arguments, arguments.data / "lfw_112x112", lists / "lfw_pairs.txt", "learned")
    figures = {
        "lfw_accuracy": lfw.row("float", "none", "accuracy").value,
        "lfw_eer": lfw.row("float", "none", "eer").value,
        "lfw_eer_codes": lfw.row("learned", "stolen_key", "eer").value,
    }
    for name in ("FF", "FP"):
        with tempfile.TemporaryDirectory() as folder:
            path = plain_list(lists / "cfp" / f"{name}.tsv", Path(folder))
            report = _report(arguments, arguments.data / "cfp_112x112", path)
        figures[f"cfp_{name.lower()}_eer"] = report.row("float", "none", "eer").value
    figures["size_mb"] = hasher_path("bundled").stat().st_size / MEGABYTE
    figures["ms_per_image"] = ms_per_image()
    print(json.dumps(figures))
    return 0


def plain_list(table: Path, folder: Path) -> Path:
    """The pairs of a table `fold image_a image_b mated` as a list that `iom evaluate` reads."""
    rows = [line.split("\t") for line in table.read_text(encoding="utf-8").splitlines()[1:]]
    path = folder / f"{table.stem}.txt"
    path.write_text("".join(f"{a}\t{b}\t{mated}\n" for _, a, b, mated in rows), encoding="utf-8")
    return path


def _report(arguments: argparse.Namespace, root: Path, path: Path, *systems: str) -> "ReportData":
    from iom.config import EvaluateConfig, load_config
    from iom.evaluation.evaluate import evaluate
    from iom.evaluation.report.text import terminal_text

    settings = {"root": str(root), "path": str(path), "source": "pairs"}
    overrides = [f"benchmark.{name}={json.dumps(value)}" for name, value in settings.items()]
    overrides += [f"scenario.systems={json.dumps(['float', *systems])}", "scenario.bootstrap=0"]
    report = evaluate(load_config(EvaluateConfig, arguments.config, overrides=overrides), progress=True)
    print(terminal_text(report))
    return report


def ms_per_image() -> float:
    """Processor time of one synthetic face in milliseconds, by one thread."""
    from iom.models.face_hasher import ArtifactFaceHasher
    from iom.synthetic import load_face_model

    hasher = ArtifactFaceHasher.load(hasher_path("bundled"), batch_size=1, threads=1)
    images, _ = load_face_model().sample(FACES, 1, seed=1)
    hasher.embed(images[:2])
    begun = time.process_time()
    hasher.embed(images)
    return 1000 * (time.process_time() - begun) / len(images)


if __name__ == "__main__":
    raise SystemExit(main())
