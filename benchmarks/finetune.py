"""Is it worth training the backbone along? Frozen against fine-tuned, after the same steps.

    python -m benchmarks.finetune [--steps 500 --epochs 5] [--resume]

Both train as many steps with the settings of --config and are measured on the same held-out
families, with the keys stolen: one from images, backbone and all, the other one on cached
embeddings with `fine_tune: false`. Runs lie in --output; --resume continues.

Ends with one line of JSON: equal error rates (fractions, means over keys) of the codes and of the
embeddings before and after, and images/s of the training from images, verification left out.
"""

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from benchmarks.command_line import new_parser, run
from iom.config import Stage2Config, load_config
from iom.errors import ConfigError

CONFIG = Path("configs/stage2/fine_tune.yaml")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `python -m benchmarks.finetune`."""
    parser = new_parser("python -m benchmarks.finetune", str(__doc__))
    parser.add_argument("--config", type=Path, default=CONFIG, help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=100, help="of an epoch; default: %(default)s")
    parser.add_argument("--epochs", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--keys", type=int, default=10, help="default: %(default)s")
    parser.add_argument("--output", type=Path, default=Path("runs/finetune"), help="%(default)s")
    parser.add_argument("--resume", action="store_true", help="continue the one in --output")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="A.B=C",
                        help="change one setting of both")  # fmt: skip
    return run(_measure, parser, argv)


def _measure(arguments: argparse.Namespace) -> int:
    common = [
        f"epochs={arguments.epochs}",
        f"batches.steps_per_epoch={arguments.steps}",
        "calibration.bootstrap=0",
        *arguments.overrides,
    ]
    tuned = load_config(Stage2Config, arguments.config, overrides=common)
    if not tuned.fine_tune:
        raise ConfigError("--config: expected fine_tune: true, to compare with the same without")
    frozen = load_config(Stage2Config, arguments.config, overrides=[*common, "fine_tune=false"])

    import keras

    from iom.evaluation.scores import CodeSystem, float_system
    from iom.evaluation.sweep import held_out_figures
    from iom.models.embedder import load_embedder
    from iom.models.face_hasher import EMBEDDER_FILE
    from iom.training.hasher import load_stage2_data, train_hasher

    data = load_stage2_data(frozen, progress=True)
    figures: dict[str, float] = {}
    for name, config in (("frozen", frozen), ("fine_tuned", tuned)):
        keras.utils.clear_session()
        folder = arguments.output / name
        print(f"{name}: {arguments.epochs} x {arguments.steps} steps", flush=True)
        hasher = train_hasher(
            config,
            folder,
            resume=arguments.resume and folder.exists(),
            data=data,
            report=lambda line: print(line, flush=True),
        )
        seen = data
        if config.fine_tune:
            embedder = load_embedder(str(folder / EMBEDDER_FILE))
            hasher.check_embedder(embedder)
            rows = embedder.embed_files(data.pairs.files, progress=True)
            seen = dataclasses.replace(data, held_out_embeddings=rows)
        codes = CodeSystem(name, hasher.code_length, hasher.alphabet_size, hasher.hash)
        for what, system in (("", codes), ("float_", float_system(hasher.embedding_size))):
            found = held_out_figures(system, seen, keys=arguments.keys, seed=config.seed)
            figures |= {
                f"{what}{rate}_{name}": value
                for rate, value in found.items()
                if rate in ("eer", "eer_std", "fnmr_1e-2")
            }
    figures["images_per_s"] = round(_speed(arguments.output / "fine_tuned", tuned), 1)
    figures["steps"] = arguments.epochs * arguments.steps
    print(json.dumps(figures))
    return 0


def _speed(folder: Path, config: Stage2Config) -> float:
    """Images a second over all epochs of a run."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    images = config.batches.subjects * config.batches.images * sum(row["steps"] for row in records)
    return float(images / sum(row["fit_seconds"] for row in records))


if __name__ == "__main__":
    raise SystemExit(main())
