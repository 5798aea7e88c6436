"""BLUFR on LFW: ten trials for the float embedding, GRP and a trained hasher, keys stolen.

    python -m benchmarks.blufr

Ends with one line of JSON. `vr_at_1e3` is the verification rate at FMR 0.1 %, `dir_at_1pct` the
open-set DIR at FPIR 1 %, rank 1, each as mean less standard deviation over the trials; without a
prefix they are those of the hasher. `seconds` is everything but the embedding.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.command_line import add_data_option, new_parser, run

HASHER = Path("pre_models/mobilefacenet_y1_512x8")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `python -m benchmarks.blufr`."""
    parser = new_parser("python -m benchmarks.blufr", str(__doc__))
    add_data_option(parser)
    parser.add_argument("--hasher", type=Path, default=HASHER, help="default: %(default)s")
    parser.add_argument("--baselines", default="grp", help="separated by commas; default: %(default)s")
    parser.add_argument("--embedder", default="", help="manifest name or file; default: the stored embeddings")
    parser.add_argument("--seed", type=int, default=1, help="of the test key; default: %(default)s")
    return run(_measure, parser, argv)


def _measure(arguments: argparse.Namespace) -> int:
    from benchmarks.stored_embeddings import embeddings_of
    from iom.config import CodeConfig, EvaluateConfig
    from iom.data.benchmarks.identification import read_blufr
    from iom.evaluation.identification import BlufrEvaluator
    from iom.evaluation.records import EmbedderSummary
    from iom.evaluation.scores import STOLEN_KEY, EvaluationInputs, float_system, scenarios_of
    from iom.evaluation.systems import baseline_system, trained_system

    data = arguments.data
    root = data / "lfw_112x112"
    protocol = read_blufr(data / "lists" / "blufr", root)
    rows = embeddings_of(protocol.images, root, data, arguments.embedder)
    size = rows.shape[1]
    started = time.perf_counter()
    trained = trained_system("learned", str(arguments.hasher))
    shape = CodeConfig(code_length=trained.code_length, alphabet_size=trained.alphabet_size)
    names = [name for name in arguments.baselines.split(",") if name]
    systems = [float_system(size), *(baseline_system(name, size, shape, arguments.seed) for name in names), trained]
    config = EvaluateConfig(seed=arguments.seed)
    evaluator = BlufrEvaluator(EvaluationInputs(config, protocol, rows, {}, EmbedderSummary(name="")))
    figures = {}
    for system in systems:
        (scenario,) = scenarios_of(system, (STOLEN_KEY,))
        found = dict(evaluator.figures(system, scenario))
        prefix = "" if system is trained else f"{system.name}_"
        figures[f"{prefix}vr_at_1e3"] = found["vr_at_fmr_1e-3"]
        figures[f"{prefix}dir_at_1pct"] = found["dir_at_fpir_1e-2"]
        print(
            f"{system.name:12}"
            + "".join(
                f"  {name} {100 * found[name + '_mean']:.2f} - {100 * found[name + '_std']:.2f} ="
                f" {100 * found[name]:.2f} %"
                for name in ("vr_at_fmr_1e-3", "dir_at_fpir_1e-2")
            )
        )
    figures["seconds"] = round(time.perf_counter() - started, 2)
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
