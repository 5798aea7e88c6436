"""Every head of stage 1 trained for the same few epochs from the same start, and one ArcFace run.

    python -m benchmarks.heads [--heads arcface cosface ...] [--epochs 2] [--output runs/heads]

Real training on Families in the Wild with a slim IResNet. First a common start (a normalised
softmax, configs/stage1/heads.yaml); then ArcFace in phases from scratch, whose loss and LFW
accuracy by epoch are drawn into --curve; then each head from the weights of the start, with one
seed, so that all see the same images in the same order. LFW verifies and never decides.

Each training is a run in --output: one that was interrupted goes on, a finished one is not
repeated. Ends with one line of JSON: {"seed", "epochs", "arcface": [...], "heads": [...]}.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.command_line import add_data_option, new_parser, run
from iom._registry import lookup
from iom.errors import ConfigError

CONFIG = "configs/stage1/heads.yaml"
PHASES = "configs/stage1/arcface_phases.yaml"
START = "start"

SUBJECTS = ["training.images_per_subject=4"]
"""Triplets need subjects with several images in a batch."""
HEADS: dict[str, list[str]] = {
    "softmax": ["margin.name=softmax", "margin.scale=null"],
    "normalised_softmax": ["margin.name=normalised_softmax"],
    "arcface": ["margin.name=arcface"],
    "arcface_smoothing": ["margin.name=arcface", "margin.label_smoothing=0.1"],
    "arcface_sub_centers": ["margin.name=arcface", "margin.sub_centers=3"],
    "arcface_center": ["margin.name=arcface", "center.weight=0.003"],
    "arcface_triplet": ["margin.name=arcface", "triplet.weight=1", *SUBJECTS],
    "triplet": ["margin.weight=0", "triplet.weight=1", *SUBJECTS],
    "cosface": ["margin.name=cosface"],
    "sphereface": ["margin.name=sphereface"],
    "combined": ["margin.name=combined"],
    "curricularface": ["margin.name=curricularface"],
    "magface": ["margin.name=magface"],
    "adaface": ["margin.name=adaface"],
}
"""Name to what it changes, with the margins of the papers. To add a row, add a line."""

FIGURES = ("loss", "held_out_eer", "lfw_accuracy", "lfw_eer")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `python -m benchmarks.heads`."""
    parser = new_parser("python -m benchmarks.heads", str(__doc__))
    parser.add_argument("--heads", nargs="*", default=list(HEADS), metavar="NAME",
                        help="only these; default: all")  # fmt: skip
    parser.add_argument("--epochs", type=int, default=2, help="of each head; default: %(default)s")
    parser.add_argument("--rate", type=float, default=0.001,
                        help="learning rate of each head; default: %(default)s")  # fmt: skip
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--output", type=Path, default=Path("runs/heads"), help="%(default)s")
    parser.add_argument("--curve", type=Path, default=Path("docs/stage1_curve.png"),
                        help="picture of the ArcFace run; default: %(default)s")  # fmt: skip
    add_data_option(parser)
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="A.B=C",
                        help="change one setting of all runs")  # fmt: skip
    return run(_measure, parser, argv)


def _measure(arguments: argparse.Namespace) -> int:
    for name in arguments.heads:
        lookup(HEADS, name, "head")
    output: Path = arguments.output
    common = [f"seed={arguments.seed}", *_places(arguments.data), *arguments.overrides]
    _train(CONFIG, output / START, common)
    verify = _verify(arguments.data)
    curve: list[dict[str, Any]] = []
    try:
        _train(PHASES, output / "arcface_phases", [*common, f"verify={json.dumps([verify])}"])
        curve = _draw(output / "arcface_phases", arguments.curve)
    except ConfigError as error:  # what follows is worth an hour
        print(f"arcface_phases: {error}", file=sys.stderr)
    rows = [{"head": START, **_result(output / START, arguments.data)}]
    for name in arguments.heads:
        settings = [
            f"backbone.weights={output / START / 'last.keras'}",
            f"optimizer.learning_rate={arguments.rate}",
            "optimizer.warmup_epochs=0.25",
            f"training.epochs={arguments.epochs}",
        ]
        folder = output / f"{name}-{arguments.epochs}"
        try:
            _train(CONFIG, folder, [*common, *settings, *HEADS[name]])
        except ConfigError as error:
            print(f"{name}: {error}", file=sys.stderr)
            continue
        rows.append({"head": name, **_result(folder, arguments.data)})
        print(_markdown(rows[-1:]), flush=True)
    print(_markdown(rows, header=True))
    figures = {"seed": arguments.seed, "epochs": arguments.epochs, "arcface": curve, "heads": rows}
    print(json.dumps(figures))
    return 0 if curve and len(rows) == len(arguments.heads) + 1 else 1


def _places(data: Path) -> list[str]:
    lists = data / "lists"
    return [
        f"data.root={data / 'fiw_112x112'}",
        f"data.include={lists / 'fiw_clean.txt'}",
        f"data.same_subject={lists / 'fiw_probable_duplicates.tsv'}",
    ]


def _verify(data: Path) -> dict[str, str]:
    return {
        "name": "lfw",
        "source": "pairs",
        "root": str(data / "lfw_112x112"),
        "path": str(data / "lists" / "lfw_pairs.txt"),
    }


def _train(config: str, folder: Path, overrides: list[str]) -> None:
    """Train in a process of its own, which gives its memory back; nothing if that is done.

    Raises:
        ConfigError: The training failed.
    """
    if _finished(folder, config, overrides):
        return
    resume = ["--resume"] if (folder / "config.yaml").exists() else []
    command = [sys.executable, "train_stage1.py", "--quiet", "--config", config]
    command += ["--output", str(folder), *resume]
    command += [text for override in overrides for text in ("--set", override)]
    print(f"training {folder}", flush=True)
    if subprocess.run(command, check=False).returncode:
        raise ConfigError(f"training {folder} failed; its message stands above")


def _finished(folder: Path, config: str, overrides: list[str]) -> bool:
    from iom.config import Stage1Config, load_config
    from iom.training.run_dir import read_records

    wanted = load_config(Stage1Config, Path(config), overrides=overrides)
    if not (folder / "config.yaml").exists():
        return False
    if load_config(Stage1Config, folder / "config.yaml") != wanted:
        raise ConfigError(f"{folder} holds a run of other settings: choose another --output")
    epochs = sum(phase.training.epochs for phase in wanted.by_phase())
    records = read_records(folder / "metrics.jsonl")
    return bool(records) and records[-1]["epoch"] == epochs and "step" not in records[-1]


def _draw(folder: Path, picture: Path) -> list[dict[str, Any]]:
    """Draw the curve; loss and figures by epoch."""
    from iom.training.run_dir import draw_curves, read_records

    records = read_records(folder / "metrics.jsonl")
    draw_curves(picture, {folder.name: records})
    names = ("epoch", "phase", *FIGURES)
    return [{name: row[name] for name in names if name in row} for row in records]


def _result(folder: Path, data: Path) -> dict[str, float]:
    """Loss and held-out error of the last epoch, LFW of the model behind it; computed once."""
    from iom.training.run_dir import read_records

    last = read_records(folder / "metrics.jsonl")[-1]
    stored = folder / "lfw.json"
    if not stored.exists():
        _measure_lfw(folder / "last.keras", data, stored)
    values = {**last, **json.loads(stored.read_text(encoding="utf-8"))}
    return {name: values[name] for name in FIGURES}


def _measure_lfw(weights: Path, data: Path, stored: Path) -> None:
    import keras

    from iom._files import write_json
    from iom.config import BenchmarkConfig
    from iom.data.benchmarks import load_benchmark
    from iom.training.backbone import verification

    keras.config.set_dtype_policy("float32")
    backbone = keras.models.load_model(weights, compile=False)
    benchmark = load_benchmark(BenchmarkConfig(**_verify(data)), seed=1)
    write_json(stored, verification(backbone, None, [benchmark], seed=1)())


def _markdown(rows: list[dict[str, Any]], *, header: bool = False) -> str:
    lines = ["| head | loss | held-out EER | LFW accuracy | LFW EER |", "|---|---|---|---|---|"]
    lines = lines if header else []
    for row in rows:
        rates = " | ".join(f"{100 * row[name]:.2f} %" for name in FIGURES[1:])
        lines.append(f"| {row['head']} | {row['loss']:.3f} | {rates} |")
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
