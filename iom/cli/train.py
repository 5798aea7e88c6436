"""Commands of training: `iom train-stage1`, `iom train-stage2`, `iom calibrate`, `iom sweep`, `iom weights`, ..."""

import contextlib
import dataclasses
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import click

from iom._registry import COMPARISONS, did_you_mean, lookup
from iom.cli._command import (
    COUNT,
    NO_DEFAULT,
    Answer,
    Choice,
    ConfigOptions,
    HasherOptions,
    Quiet,
    RunOptions,
    argument,
    goes_on_when_repeated,
    option,
    output_option,
    root,
)
from iom.errors import ConfigError, DataError, WeightsError

TITLE = "Train"
STAGE2_CONFIG = "stage 2 configuration (default: config.yaml in the folder of the hasher)"
command = root.section(TITLE)


@command(
    "train-stage1",
    examples=(
        "--config smoke/stage1 --output runs/smoke1",
        "--config stage1/bundled --output runs/bundled --resume",
        "--config stage1/base --output runs/mine --set data.root=faces",
    ),
)
def train_stage1(run: RunOptions) -> Answer:
    """Train a backbone, an embedding network (stage 1).

    The loss is ArcFace or another margin loss, optionally distilled from a teacher; the data a folder
    <root>/<subject>/<image>.
    """
    from iom.config import Stage1Config

    settings = run.load(Stage1Config)

    from iom.training.backbone import train_backbone

    best = train_backbone(settings, run.output, **run.how())
    return Answer({"best_model": best}, f"best model: {best}")


@command(
    "train-stage2",
    epilog="""\
The output folder holds the best hasher (hasher.keras, hasher.json with its decision threshold),
the last one in last/, config.yaml, metrics.jsonl and the resumable state; pass it to iom evaluate
as --set hasher=DIR.
""",
    examples=(
        "--config smoke/stage2 --output runs/smoke2",
        "--config stage2/bundled --output runs/hasher --resume",
        "--config stage2/base --output runs/mine \\\n      --set data.root=faces --set hasher.code_length=256",
    ),
)
def train_stage2(run: RunOptions) -> Answer:
    """Train a hasher, from embedding and key to an Index-of-Max code (stage 2).

    The data is a folder <root>/<subject>/<image>; the decision threshold is calibrated on held-out subjects.
    """
    from iom.config import Stage2Config

    settings = run.load(Stage2Config)

    from iom.training.hasher import train_hasher

    train_hasher(settings, run.output, **run.how())
    return Answer({"best_hasher": run.output}, f"best hasher: {run.output}")


@command(
    "sweep",
    epilog="""\
The output folder holds the table (sweep.md, sweep.csv, sweep.json, rewritten after each row),
the picture sweep.png, rows.jsonl with what is measured, and runs/ with the trained hashers; --resume
keeps finished rows and continues an interrupted training.

Rows are measured on the held-out subjects of the stage 2 configuration's data section, with the
keys stolen; a test set is looked at only where `evaluate` names one.
""",
    examples=(
        "--config sweep/smoke --output runs/smoke/search",
        "--config sweep/code_shapes --output runs/code_shapes",
        "--config sweep/keep --output runs/keep --set keys=20",
    ),
)
def sweep(run: RunOptions) -> Answer:
    """Train and measure every configuration of a grid on cached embeddings.

    One process makes one table and one picture.
    """
    from iom.config import SweepConfig

    settings = run.load(SweepConfig)

    from iom.evaluation.sweep import run_sweep, sweep_table

    rows = run_sweep(settings, run.output, **run.how())
    table, picture = run.output / "sweep.md", run.output / "sweep.png"
    text = f"{sweep_table(rows).markdown()}\ntable and picture: {table}, {picture}"
    return Answer({"table": table, "picture": picture, "rows": rows}, text)


@command(
    "calibrate",
    renamed={"--faces": "--folder"},
    epilog="""\
With --folder all subjects of a folder are used: people that the hasher was not trained on, such as
your own; it says how many comparisons there are, and refuses an FMR that they cannot show. A hasher
that came with the package is not changed: --output takes a copy with the new threshold.

Without --folder the configuration is that of a stage 2 training: its data section says which folder,
and which of its subjects are held out; its embedder section must name the embedder that the hasher
was trained with; without --config the one beside the hasher is taken.

The threshold, with its intervals over subjects and keys, is stored in hasher.json, or in the
manifest of an artefact, which embeds for itself whatever the embedder section names. A gallery takes
the threshold of the first --fmr and its comparison (docs/pipeline.md); the thresholds of the others
are stored beside it. So is the likelihood ratio of a distance, which gives the probability that two
codes are of one person.
""",
    examples=(
        "--hasher bundled --folder PEOPLE --fmr 1e-3 --output my_hasher",
        "--hasher runs/y1_stage2 --fmr 1e-3 --fmr 1e-4",
        "--hasher runs/y1_stage2 --comparison asymmetric",
        "--hasher mobilefacenet_y1_512x8 --output runs/copy \\\n"
        "      --config stage2/mobilefacenet_y1_512x8 --fmr 1e-3 --keys 20",
        "--hasher runs/hasher --config stage2/base \\\n      --set data.root=faces --fmr 1e-2 --dry-run",
    ),
)
def calibrate(
    models: Annotated[HasherOptions, {"hasher": {**NO_DEFAULT, "required": True}}],
    config: Annotated[ConfigOptions, {"config": {"required": False, "help": STAGE2_CONFIG}}],
    folder: Annotated[Path | None, option("aligned faces DIR/<subject>/<image>, all of them used", "DIR")],
    output: Annotated[Path | None, option("a new folder for a changed copy (default: in place)", "DIR")],
    fmr: Annotated[
        Sequence[str], option("false match rate; may be repeated (default: as configured)", "RATE", multiple=True)
    ],
    comparison: Annotated[
        str | None,
        option(
            "of a code with a probe's code, or with its keyed row (default: as calibrated before, or configured)",
            type=Choice(COMPARISONS),
        ),
    ],
    keys: Annotated[str | None, option("number of keys (default: as configured)", "N")],
    bootstrap: Annotated[str | None, option("draws for the intervals (default: as configured)", "N")],
    dry_run: Annotated[bool, option("print it, store nothing")],
    quiet: Quiet,
) -> Answer:
    """Choose a hasher's decision threshold for a false match rate.

    It is the largest one that keeps to the rate on held-out subjects with the keys stolen, and is stored with the
    hasher; so are those of further rates, and the likelihood ratio of a distance.
    """
    from iom.config import Stage2Config
    from iom.pretrained import hasher_path

    if folder and (config.config or config.overrides):
        raise ConfigError("--folder takes all subjects of a folder: leave out --config and --set")
    place = hasher_path(models.hasher)
    beside = None if folder else place / "config.yaml"
    if beside and not config.config and not beside.exists():
        raise ConfigError(
            f"{place} holds no config.yaml: calibrate on your own people with --folder DIR, or "
            "name a stage 2 configuration with --config"
        )
    rates = {"fmr": fmr[0], "other_fmrs": f"[{', '.join(fmr[1:])}]"} if fmr else {}
    figures = {**rates, "keys": keys, "bootstrap": bootstrap}
    given = [f"calibration.{name}={value}" for name, value in figures.items() if value is not None]
    settings = config.load(Stage2Config, *given, default=beside)

    if folder is None:
        import scipy.cluster  # noqa: F401  (groups of held-out subjects need it; told before the work)

    from iom.training.calibration import check_target, copy_hasher, describe, recalibrate

    notes: list[str] = []
    if not dry_run:
        check_target(place, output)
    made = recalibrate(
        place,
        settings,
        faces=folder,
        weights=models.weights,
        comparison=comparison or "",
        progress=not quiet,
        report=notes.append,
    )
    assert made.calibration is not None  # noqa: S101 - it was made just now
    stored = None
    if not dry_run:
        stored = made.save_calibration(copy_hasher(place, output) if output else place)
    notes += [describe(made), f"stored in {stored}" if stored else "nothing stored"]
    return Answer({"stored": stored, **dataclasses.asdict(made.calibration)}, "\n".join(notes))


@command(
    "make-hasher",
    epilog="""\
Nothing is trained: the hash is a fixed frame behind the key. What is found is the threshold, on all
subjects of --folder, people that the embedder was not trained on; or on synthetic faces, which shows
that everything runs and is worth little for people. Calibrate on your own afterwards, or anew:
iom calibrate.

An ONNX file becomes an artefact that runs without TensorFlow. A file that iom weights list does not
know needs --input, as its source states it: colour order, range, side of the image; a statement that
synthetic faces refute is refused. Licence and terms of the weights hold for what is made with them.
""",
    examples=(
        "--weights mobilefacenet.w600k --folder PEOPLE --output runs/w600k",
        "--weights model.onnx --input 'RGB -1..1 112' --output runs/model",
        "--weights mobilefacenet_y1 --code 1536x2 --fmr 1e-4 --folder PEOPLE --output runs/y1",
    ),
)
def make_hasher(
    weights: Annotated[str, option("embedder: a name of iom weights list, or a file", "NAME_OR_FILE")],
    output: Annotated[Path, output_option("a new folder for the hasher")],
    folder: Annotated[Path | None, option("aligned faces DIR/<subject>/<image> (default: synthetic ones)", "DIR")],
    stated_input: Annotated[
        str, option("what an unknown ONNX file takes, such as 'RGB -1..1 112'", "TEXT", flag="--input")
    ] = "",
    code: Annotated[str, option("symbols x values of a symbol", "MxQ")] = "512x8",
    comparison: Annotated[
        str, option("of a code with a probe's code, or with its keyed row", type=Choice(COMPARISONS))
    ] = "symbols",
    fmr: Annotated[str, option("false match rate of the threshold", "RATE")] = "1e-3",
    quiet: Quiet = False,
) -> Answer:
    """Make and calibrate a hasher for any embedder, without training, in about a minute."""
    from iom.config import Stage2Config, load_config

    length, _, alphabet = code.partition("x")
    shape = {"code_length": length, "alphabet_size": alphabet, "projection": "simplex", "comparison": comparison}
    shape |= {"learned_layer": "false", "whitening": "0.0"}
    given = [*(f"hasher.{name}={value}" for name, value in shape.items()), f"calibration.fmr={fmr}"]
    if not (length.isdecimal() and alphabet.isdecimal()):
        raise ConfigError(f"--code: expected symbols and values of a symbol, such as 512x8, received {code!r}")
    settings = load_config(Stage2Config, None, overrides=given)

    from iom.training.calibration import describe
    from iom.training.untrained import make_hasher, parse_statement

    notes: list[str] = []
    statement = parse_statement(stated_input) if stated_input else None
    place, made = make_hasher(
        weights, output, settings, faces=folder, statement=statement, progress=not quiet, report=notes.append
    )
    assert made.calibration is not None  # noqa: S101 - it was made just now
    found = made.calibration
    worth = f"{found.subjects} people; for others, in other light or with another camera, it may differ"
    if folder is None:
        worth = f"{found.subjects} SYNTHETIC subjects: it shows that everything runs, and is worth little for people"
    mine = f"iom calibrate --hasher {place} --folder PEOPLE --fmr {fmr} --output NEW"
    notes += [describe(made), f"the threshold was found on {worth}", f"on your own people: {mine}", f"hasher: {place}"]
    return Answer({"hasher": place, "synthetic": folder is None, **dataclasses.asdict(found)}, "\n".join(notes))


@command(
    "curves",
    epilog="""\
Losses, figures of verification and learning rate by epoch, a panel each, a line for each run.
""",
    examples=("runs/first runs/second --output curves.png", "runs/heads/* --output heads.svg"),
)
def curves(
    runs: Annotated[Sequence[Path], argument("RUN...", nargs=-1, required=True)],
    output: Annotated[Path, output_option("picture, .png or .svg", folder=False)],
) -> Answer:
    """Draw the learning curves of one or several runs into one picture.

    RUN is the folder of a run of stage 1 or 2, with its metrics.jsonl.
    """
    if output.suffix.lower() not in (".png", ".svg"):
        raise DataError(f"{output}: expected a name ending in .png or .svg")

    from iom.training.run_dir import draw_curves, read_records

    records = {}
    for folder in runs:
        rows = read_records(folder / "metrics.jsonl")
        if not rows:
            raise DataError(f"{folder}: expected a run with an epoch or more in its metrics.jsonl, found none")
        name = folder.name if folder.name not in records else str(folder)
        records[name] = rows
    draw_curves(output, records)
    return Answer({"picture": output, "runs": list(records)}, f"{output}: {len(records)} runs")


MEASURED_AT = {"input_size": 112, "embedding_size": 512}
"""Sizes of the stored table."""


@command(
    "list-backbones",
    epilog="""\
Figures of the default sizes and heads come from a stored table; others, and all with --measure, are
measured by building each network, which takes a second or two each.

MADD: multiplications, each with its addition, of all convolutions and dense layers for one image;
"FLOPs" of others are about twice that. Running statistics count as parameters, the head is counted.
narrow: the width of a convolution is no multiple of 16; with TensorFlow 2.21 on a CPU with AVX-512,
train such a network with TF_ENABLE_ONEDNN_OPTS=0 in the environment, or it may crash.
""",
    examples=(
        "",
        "--filter mobile --json",
        "--filter efficientnet_lite --input-size 224",
        "--filter mobile --head GDC",
    ),
)
def list_backbones(
    part: Annotated[str, option("only names that contain this text", "TEXT", flag="--filter")] = "",
    input_size: Annotated[int, option("side of the square image", "PIXELS", type=COUNT)] = 112,
    embedding_size: Annotated[int, option("size of the embedding", "D", type=COUNT)] = 512,
    head: Annotated[str, option("E, GDC or GAP (default: each network's own)")] = "",
    measure: Annotated[bool, option("build the networks and count, use no table")] = False,
    quiet: Quiet = False,
) -> Answer:
    """List the backbones with their parameters and multiply-adds."""
    settings: dict[str, Any] = {"input_size": input_size, "embedding_size": embedding_size}
    if measure or head or settings != MEASURED_AT:
        from iom.nn.backbones.blocks import HEADS
        from iom.nn.backbones.registry import BACKBONES

        if head:
            lookup(HEADS, head, "head")
            settings["head"] = head
        rows = list(_measured(_chosen(BACKBONES, part), settings, progress=not quiet))
    else:
        known = {row["name"]: row for row in stored_rows()}
        rows = [known[name] for name in _chosen(known, part)]
    width = max(len(row["name"]) for row in rows)
    lines = [f"{'name':{width}}  parameters (M)  MADD (M)  narrow"]
    for row in rows:
        if "error" in row:
            lines.append(f"{row['name']:{width}}  {row['error']}")
            continue
        lines.append(
            f"{row['name']:{width}}  {row['parameters'] / 1e6:14.2f}  "
            f"{row['multiply_adds'] / 1e6:8.0f}  {'narrow' if row['narrow'] else '-'}"
        )
    return Answer({"backbones": rows}, "\n".join(lines))


def stored_rows() -> list[dict[str, Any]]:
    """The stored table: what `iom list-backbones --measure --json` prints at the sizes of `MEASURED_AT`."""
    text = resources.files("iom.nn.backbones").joinpath("backbones.json").read_text(encoding="utf-8")
    rows: list[dict[str, Any]] = json.loads(text)["backbones"]
    return rows


def _chosen(known: Iterable[str], part: str) -> list[str]:
    names = [name for name in known if part in name]
    if not names:
        raise ConfigError(f"--filter: no backbone's name contains '{part}' (names: {', '.join(sorted(known))})")
    return names


def _measured(names: Sequence[str], settings: dict[str, Any], *, progress: bool) -> Iterator[dict[str, Any]]:
    """A row for each backbone; one that cannot be built at this size says why."""
    import keras

    from iom._progress import tqdm
    from iom.nn.backbones.registry import build_backbone, measure

    for name in tqdm(names, desc="building", unit="backbone", disable=not progress):
        try:
            # No weight is drawn: the largest networks would take gigabytes.
            with keras.StatelessScope(initialize_variables=False):
                complexity = measure(build_backbone(name, **settings))
        except ConfigError as error:
            yield {"name": name, "error": " ".join(str(error).split())}
            continue
        yield {"name": name, **settings, **dataclasses.asdict(complexity)}
        keras.backend.clear_session()


weights = root.subgroup(TITLE, "weights", "List, fetch and check the weights of backbones.").section("Commands")


@weights("list", examples=("", "--markdown"))
def list_weights(markdown: Annotated[bool, option("the tables of docs/models.md")] = False) -> Answer:
    """List the known weights: licence, training data, accuracy, and which are here.

    They are looked for in $IOM_WEIGHTS, the package, the cache folder ($IOM_CACHE) and an installation of InsightFace
    ($INSIGHTFACE_HOME).
    """
    from iom.pretrained.manifest import locate, read_manifest, zoo_tables

    entries = read_manifest()
    if markdown:
        tables = zoo_tables(entries)
        return Answer({"tables": tables}, tables)
    lines, rows = [], []
    for name, entry in sorted(entries.items()):
        path = None
        try:
            path = locate(entry, verify=False)[0]
            place = str(path)
        except WeightsError:
            place = f"missing; {f'iom weights fetch {name}' if entry.download else 'no URL to fetch it from'}"
        lines += [f"{name}  {entry.embedding_size}-d, {entry.bytes / 1e6:.1f} MB", f"  {place}"]
        lines += [f"  {title:8} {text}" for title, text in entry.terms.items()]
        rows.append({**entry.model_dump(exclude={"files", "tensors"}), "path": path})
    return Answer({"weights": rows}, "\n".join(lines))


@weights(
    "fetch",
    epilog="""\
Nothing is fetched without a yes. What arrived before a cut is kept, and the same command goes on
from there. The SHA-256 is checked before a file gets its name in the cache folder ($IOM_CACHE, by
default ~/.cache/iom). A licence that allows research alone holds wherever the file lies.
""",
    examples=("mobilefacenet.w600k", "iresnet50.w600k --yes"),
)
def fetch_weights(name: str, yes: Annotated[bool, option("fetch without asking")], quiet: Quiet) -> Answer:
    """Fetch known weights from where their authors offer them, after asking.

    NAME is architecture.tag, or the architecture where it has one tag; see iom weights list.
    """
    from iom.pretrained.fetch import fetch
    from iom.pretrained.manifest import find_entry, locate, read_manifest

    entries = read_manifest()
    entry = find_entry(name, entries)
    if entry is None:
        raise WeightsError(f"no known weights '{name}'{did_you_mean(name, entries)} (known: {', '.join(entries)})")
    with contextlib.suppress(WeightsError):
        here = locate(entry)
        return Answer({"name": entry.name, "files": here}, f"{here[0]}: is here already")
    if entry.download:
        shown = {"fetch": entry.download.url, "size": f"{entry.download.bytes / 1e6:.1f} MB", **entry.terms}
        shown |= {"SHA-256": entry.download.sha256 or "of the files alone", "into": str(entry.cached)}
        print("\n".join(f"{title:8} {text}" for title, text in shown.items()), file=sys.stderr)
        if not (yes or _agreed()):
            return Answer({"name": entry.name, "files": []}, "nothing fetched", ok=False)
    with goes_on_when_repeated():
        files = fetch(entry, progress=not quiet)
    return Answer({"name": entry.name, "files": files}, "\n".join(map(str, files)))


def _agreed() -> bool:
    if not sys.stdin.isatty():
        raise ConfigError("nothing fetched: nobody to ask; give --yes if its licence suits you")
    try:
        return click.confirm("fetch it?", err=True)
    except click.Abort as stop:
        raise KeyboardInterrupt from stop


@weights("check", examples=("mobilefacenet_y1.ms1m", "path/to/model.onnx"))
def check_weights(
    name: Annotated[str, argument("NAME_OR_FILE")],
    no_faces: Annotated[bool, option("do not try the stated input on faces")],
) -> Answer:
    """Load weights and try them on synthetic faces.

    NAME_OR_FILE is architecture.tag, or a model file.
    """
    from iom.pretrained.face_check import check_on_faces
    from iom.pretrained.weights import load_backbone_model

    loaded = load_backbone_model(name, check=False)
    stated = f"{loaded.input.colour_order} {loaded.input.range}"
    facts: dict[str, Any] = {"name": loaded.name, "sha256": loaded.fingerprint, "input": stated}
    lines = [f"{name:14}  {value}" for name, value in facts.items()]
    lines[-1] += f", {loaded.input_size} px"
    lines.append(f"embedding size  {loaded.embedding_size}")
    facts |= {"input_size": loaded.input_size, "embedding_size": loaded.embedding_size}
    if no_faces:
        return Answer(facts, "\n".join(lines))
    outcome = check_on_faces(loaded.predict, loaded.input, source=loaded.name)
    lines.append("separation of synthetic subjects (d', higher is better), and the evidence for the input")
    for way, separation in outcome.separation.items():
        evidence = outcome.evidence.get(way)
        note = "as stated" if evidence is None else f"t = {evidence:+.1f}"
        lines.append(f"  {way:18s} {separation:6.2f}  {note}")
    lines.append("confirmed" if outcome.is_confirmed else "not refuted, but this network cannot tell all")
    facts |= {"separation": outcome.separation, "is_confirmed": outcome.is_confirmed}
    return Answer(facts, "\n".join(lines))
