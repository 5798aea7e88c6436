"""1:N identification: `iom identification --config FILE --output DIR`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from iom.cli.arguments import Answer, add_config_arguments, new_parser, run

EPILOG = """\
protocols (benchmark.source):
  folder    <root>/<subject>/<image>: two galleries, CMC rank 1-10, open-set DIR and FNIR at FPIR;
            benchmark.gallery_images enrolment images a subject, benchmark.pooling of them:
            mean (one vector), vote (majority of symbols), nearest (all are kept)
  ijb       IJB-B / IJB-C 1:N from InsightFace's lists: root (aligned, or loose_crop with
            align_into), path (meta); both galleries
  megaface  FaceScrub among distractors: path, root, distractors, distractor_root
  blufr     BLUFR on LFW: path (lists), root; mean less standard deviation over ten trials
folder and ijb: 95 % intervals of each gallery over probe subjects and keys, NAME_low and NAME_high
writes identification.json to the output folder and prints the figures, rates in percent

example:
  iom identification --config evaluate/lfw --output runs/lfw_search \\
      --set benchmark.source=folder --set scenario.systems='[float, grp, learned]'
"""
SHOWN = ("cmc_rank_1", "cmc_rank_10", "dir_at_fpir_1e-2_rank_1", "dir_at_fpir_1e-1_rank_1")
SHOWN_OTHERS = ("distractors_rank_1", "vr_at_fmr_1e-3", "dir_at_fpir_1e-2")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `iom identification`."""
    parser = new_parser(
        "iom identification",
        "Closed-set and open-set identification of float embeddings, baselines and hashers.",
        epilog=EPILOG,
        answers=True,
    )
    add_config_arguments(parser)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder of the figures")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    return run(_identify, parser, argv)


def _identify(arguments: argparse.Namespace) -> Answer:
    from iom._files import check_output, write_json
    from iom.config.loading import load_config
    from iom.config.schema import EvaluateConfig

    config = load_config(EvaluateConfig, arguments.config, overrides=arguments.overrides)
    check_output(arguments.output)

    import dataclasses

    from iom.evaluation.evaluators import identify

    figures = list(identify(config, progress=not arguments.quiet))
    names = ("system", "scenario", "metric", "value")
    rows = [dict(zip(names, figure, strict=True)) for figure in figures]
    write_json(arguments.output / "identification.json", {"config": dataclasses.asdict(config), "rows": rows})
    for system, scenario, metric, value in figures:
        if metric in (*SHOWN, *SHOWN_OTHERS):
            print(f"{system:16} {scenario:12} {metric:28} {100 * value:.2f}")
    path = arguments.output / "identification.json"
    print(f"figures: {path}")
    return Answer({"figures": path, "rows": rows})


if __name__ == "__main__":
    raise SystemExit(main())
