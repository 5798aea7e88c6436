"""Commands of evaluation: `iom demo`, `iom evaluate`, `iom identification`, `iom compare`, `iom score-files`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from iom._files import check_output, write_json
from iom._registry import SCORE_FORMATS
from iom.cli._command import (
    NO_DEFAULT,
    Answer,
    Choice,
    ConfigOptions,
    HasherOptions,
    Quiet,
    argument,
    option,
    output_option,
    root,
)
from iom.errors import ConfigError, DataError

TITLE = "Evaluate"
OWN_PHOTOGRAPHS = """

with photographs of your own:
  iom demo --images A.jpg B.jpg C.jpg   A and B of one person, C of another
  iom verify A.jpg B.jpg                do two photographs show one person?
  iom faces GROUP.jpg                   which faces are found"""
command = root.section(TITLE)

SHOWN = (
    "cmc_rank_1",
    "cmc_rank_10",
    "dir_at_fpir_1e-2_rank_1",
    "dir_at_fpir_1e-1_rank_1",
    "distractors_rank_1",
    "vr_at_fmr_1e-3",
    "dir_at_fpir_1e-2",
)
"""Figures of identification that are printed; the file holds all."""


@root.section("Try it")(
    "demo",
    epilog="""\
Without --images the faces are synthetic: drawn from a statistical face model (docs/face_model.md).
Images of your own are photographs with one face, or aligned ones of 112x112: A and B of one person,
C of another.
The keys are fresh in each run and are never shown, so the distances change a little every time.
""",
    examples=(
        "",
        "--images anna_1.jpg anna_2.jpg ben_1.jpg --output runs/mine",
        "--weights mobilefacenet_y1.ms1m --hasher runs/stage2",
    ),
)
def demo(
    *,
    images: Annotated[Sequence[Path] | None, option("your own faces (default: synthetic ones)", "A B C", nargs=3)],
    models: Annotated[
        HasherOptions,
        {"hasher": {**NO_DEFAULT, "help": "trained hasher (default: the bundled one, or that of --weights)"}},
    ],
    output: Annotated[Path, option("folder, or .png file", "PATH")] = Path("runs/demo"),
    seed: Annotated[int, option("of the faces, never of the keys")] = 2,
    verbose: Annotated[bool, option("print what the hasher consists of")],
) -> Answer:
    """Show the whole pipeline on three faces.

    Hash two images of one person and one of another, compare the codes, change the key, and compare again. Prints
    the distances and decisions and writes a picture.
    """
    is_file = output.suffix.lower() == ".png"
    check_output(output, folder=not is_file)

    from iom.evaluation.demo import demo_faces, demonstrate, draw_demo, find_hasher
    from iom.models.face_hasher import load
    from iom.pretrained import BUNDLED

    # Images first: a wrong file is told at once, not after seconds of loading weights.
    faces = demo_faces(images or None, seed=seed)
    count = len(faces)
    if models.weights and not models.hasher:
        hasher = find_hasher(models.weights, batch_size=count)
    else:
        hasher = load(models.hasher or BUNDLED, weights=models.weights, batch_size=count)
    shown = demonstrate(faces, hasher)
    if verbose:
        print(hasher.summary())
    picture = output if is_file else output / "demo.png"
    draw_demo(shown, faces, picture)
    return Answer(
        {"picture": picture, **shown.to_dict()},
        f"{shown.text()}\n\npicture: {picture}{'' if images else OWN_PHOTOGRAPHS}",
    )


@command(
    "evaluate",
    epilog="""\
--output writes report.json, report.csv, report.png and config.yaml and prints a table.
--report computes more (search, unlinkability, attacks; configuration: report.*) and writes one HTML
page that needs no network, report.json with everything in it, CSV files and LaTeX tables.

systems (scenario.systems):
  float    the embedding itself, cosine distance: no protection, the accuracy to lose as little of
  grp      a data-agnostic Index-of-Max code; the other baselines go by their names too
  learned  the trained hasher in the folder `hasher`; others by the names that `hashers` gives them
A row "learned, asymmetric" is of the same codes, compared with the keyed rows of probes (docs/pipeline.md);
scenario.comparisons chooses.
scenarios:
  stolen_key  all codes under one common key, as when the impostor holds the victim's key
  own_key     each subject under a secret key of its own
""",
    examples=(
        "--config smoke/evaluate --output runs/evaluation",
        "--config evaluate/lfw --output runs/lfw",
        "--config evaluate/lfw --report runs/lfw_report",
        "--config evaluate/lfw --output runs/lfw \\\n"
        "      --set scenario.systems='[float, grp]' --set scenario.keys=10",
    ),
)
def evaluate(
    config: ConfigOptions,
    output: Annotated[Path | None, output_option("folder of the figures")],
    report: Annotated[Path | None, output_option("folder of the full report, with an HTML page")],
    with_images: Annotated[bool, option("show the hardest pairs' images in the page")],
    quiet: Quiet,
) -> Answer:
    """Evaluate verification of embeddings, baselines and learned codes.

    The accuracy of the float embedding, of data-agnostic codes and of the learned codes, with the keys stolen and
    with the keys secret.
    """
    from iom.config import EvaluateConfig

    settings = config.load(EvaluateConfig)
    if output is None and report is None:
        raise ConfigError("expected --output DIR, --report DIR or both")
    if with_images and report is None:
        raise ConfigError("--with-images goes with --report DIR")

    from iom.evaluation.evaluate import collect, prepare
    from iom.evaluation.report.text import terminal_text
    from iom.evaluation.report.write import thumbnails, write_figures, write_report

    inputs = prepare(settings, full=report is not None, progress=not quiet)
    data = collect(inputs, progress=not quiet)
    if output:
        write_figures(data, output)
    print(terminal_text(data))
    if output:
        print(f"report: {output / 'report.json'}")
    page = None
    if report:
        pairs = data.sections.hardest_pairs if with_images else []
        page = write_report(data, report, images=thumbnails(inputs.benchmark, pairs))
        print("\n".join(f"- {sentence.text}" for sentence in data.summary))
        print(f"page: {page}")
    return Answer({"output": output, "page": page, "rows": [row.model_dump() for row in data.rows]})


@command(
    "identification",
    epilog="""\
protocols (benchmark.source):
  folder    <root>/<subject>/<image>: two galleries, CMC rank 1-10, open-set DIR and FNIR at FPIR;
            benchmark.gallery_images enrolment images a subject, benchmark.pooling of them:
            mean (one vector), vote (majority of symbols), nearest (all are kept)
  ijb       IJB-B / IJB-C 1:N from InsightFace's lists: root (aligned, or loose_crop with
            align_into), path (meta); both galleries
  megaface  FaceScrub among distractors: path, root, distractors, distractor_root
  blufr     BLUFR on LFW: path (lists), root; mean less standard deviation over ten trials
folder and ijb: 95 % intervals of each gallery over probe subjects and keys, NAME_low and NAME_high.
Writes identification.json to the output folder and prints the figures, rates in percent.
""",
    examples=(
        "--config evaluate/lfw --output runs/lfw_search \\\n"
        "      --set benchmark.source=folder --set scenario.systems='[float, grp, learned]'",
    ),
)
def identification(
    config: ConfigOptions, output: Annotated[Path, output_option("folder of the figures")], quiet: Quiet
) -> Answer:
    """Evaluate identification (1:N) of embeddings, baselines and hashers, closed-set and open-set."""
    from iom.config import EvaluateConfig

    settings = config.load(EvaluateConfig)

    from iom.evaluation.evaluate import identify

    rows = [
        row.model_dump(include={"system", "scenario", "metric", "value"})
        for row in identify(settings, progress=not quiet)
    ]
    path = output / "identification.json"
    write_json(path, {"config": settings.model_dump(mode="json"), "rows": rows})
    for row in rows:
        if row["metric"] in SHOWN:
            print(f"{row['system']:16} {row['scenario']:12} {row['metric']:28} {100 * row['value']:.2f}")
    print(f"figures: {path}")
    return Answer({"figures": path, "rows": rows})


@command(
    "compare",
    epilog="""\
Writes comparison.html (needs no network), comparison.csv, .tex and .svg, and prints the table.
""",
    examples=("runs/before runs/after/report.json --output runs/compared",),
)
def compare(
    reports: Annotated[Sequence[Path], argument("REPORT...", nargs=-1, required=True)],
    output: Annotated[Path, output_option("where to write")],
    different_benchmarks: Annotated[bool, option("allow reports on different benchmarks")],
) -> Answer:
    """Put several reports of iom evaluate side by side.

    REPORT is a report.json or its folder.
    """
    if len(reports) < 2:
        raise ConfigError("compare: expected two reports or more")

    from iom.evaluation.records import read_report
    from iom.evaluation.report.write import DIFF_PAGE, check_same_benchmark, report_names, write_diff

    names = report_names(reports)
    read = {name: read_report(path) for name, path in zip(names, reports, strict=True)}
    if not different_benchmarks:
        check_same_benchmark(read)
    table = write_diff(read, output)
    page = output / DIFF_PAGE
    return Answer({"page": page, "columns": table.header, "rows": table.rows}, f"{table.markdown()}\npage: {page}")


score_files = root.subgroup(
    TITLE, "score-files", "Evaluate score files of other toolboxes with our metrics, and write ours for theirs."
).section(
    "Commands",
    epilog="""\
formats: four (claimed_id real_id test_label score), five (claimed_id model_label real_id test_label
score), csv (header with bio_ref_subject_id, probe_subject_id, score and, for identification,
bio_ref_reference_id and probe_reference_id). Scores are similarities unless --distances is given.
""",
)


@score_files("evaluate", examples=("scores-dev.txt", "scores.csv --json"))
def evaluate_scores(
    files: Annotated[Sequence[Path], argument("FILE...", nargs=-1, required=True)],
    format: Annotated[str | None, option("default: guessed", type=Choice(SCORE_FORMATS))],
    distances: Annotated[bool, option("lower scores are more alike")],
    identification: Annotated[bool, option("CMC and open set too; needs each probe once with each reference")],
) -> Answer:
    """EER and FNMR at FMR of score files; identification on request."""
    from iom.evaluation.score_files import read_scores, table_figures

    lines, found = [], []
    for path in files:
        table = read_scores(path, format or "", higher_is_closer=not distances)
        try:
            figures = dict(table_figures(table, identification=identification))
        except DataError as error:
            raise DataError(f"{path}: {error}") from error
        found.append({"file": path, "comparisons": len(table), **figures})
        lines.append(f"{path}: {len(table)} comparisons, EER and other rates as fractions")
        lines += [f"  {name:28} {value:.6g}" for name, value in figures.items()]
    return Answer({"files": found}, "\n".join(lines))


@score_files("export", examples=("--config evaluate/synthetic --output runs/scores",))
def export_scores(
    config: ConfigOptions,
    output: Annotated[Path, output_option("where to write")],
    format: Annotated[str, option(None, type=Choice(SCORE_FORMATS))] = "five",
    quiet: Quiet = False,
) -> Answer:
    """Write the scores of an evaluation."""
    from iom.config import EvaluateConfig

    settings = config.load(EvaluateConfig, "scenario.bootstrap=0")

    from iom.evaluation.evaluate import prepare
    from iom.evaluation.score_files import write_system_scores

    inputs = prepare(settings, progress=not quiet)
    scores = [entry for system in inputs.chosen for entry in inputs.scores(system)]
    paths = write_system_scores(inputs.benchmark, scores, output, format)
    return Answer({"files": paths}, "\n".join(map(str, paths)))
