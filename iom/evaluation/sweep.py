"""Grid search over stage 2 configurations on cached embeddings, in one process, resumable."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
from tqdm import tqdm

from iom._files import write_json
from iom._untrusted import read_json
from iom.baselines import BASELINES
from iom.baselines.protection import stored_bits
from iom.config import Stage2Config, SweepConfig
from iom.errors import CheckpointError
from iom.evaluation.scores import CodeSystem
from iom.evaluation.sweep_metrics import SearchBenchmark, held_out_figures
from iom.evaluation.sweep_plan import FLOAT, UNTRAINED, PlannedRow, plan_rows
from iom.evaluation.sweep_table import RATES, draw_search, write_table
from iom.evaluation.systems import baseline_system
from iom.training.hasher import Stage2Data, load_stage2_data, train_hasher, untrained_hasher
from iom.training.loop import TrainingDivergedError
from iom.training.run_dir import RunDir


def run_search(
    config: SweepConfig,
    output: Path,
    *,
    resume: bool = False,
    progress: bool = True,
    report: Callable[[str], None] = lambda line: None,
) -> list[dict[str, Any]]:
    """Measure every row of a search on the held-out subjects.

    Args:
        config: The search.
        output: Its folder: `search.csv`, `search.json`, `search.md` (rewritten after each row),
            `search.png`, `rows/` with what is finished, `runs/` with the trained hashers.
        resume: Keep finished rows, continue an interrupted training.
        progress: Show progress bars.
        report: Takes a line for each finished row.

    Returns:
        One dict a row: name, series, kind, shape, figures as fractions (means over keys, with the
        standard deviation over keys as `*_std`), folder of the hasher in `output`, seconds.

    Raises:
        ConfigError, DataError, WeightsError, CheckpointError: As their texts say.
    """
    planned = plan_rows(config)
    benchmark = SearchBenchmark(Path(config.evaluate)) if config.evaluate else None
    RunDir.open(output, config, resume=resume)
    measured = [_finished(output, row) for row in planned]
    data: Stage2Data | None = None
    title = f"search over {config.stage2}: held-out subjects, stolen key, {config.keys} keys"
    with tqdm(
        total=len(planned),
        initial=sum(row is not None for row in measured),
        desc="search",
        unit="row",
        disable=not progress,
    ) as bar:
        for index, row in enumerate(planned):
            if measured[index] is not None:
                continue
            bar.set_postfix_str(row.name)
            if data is None or not data.fits(row.config):
                data = load_stage2_data(row.config, progress=progress)
            result = _measure(row, config, data, output, benchmark)
            write_json(_row_path(output, row), {"config": _plain(row.config), "row": result})
            measured[index] = result
            write_table([entry for entry in measured if entry is not None], output, title=title)
            bar.clear()
            report(_line(result))
            bar.update()
    rows = [entry for entry in measured if entry is not None]
    write_table(rows, output, title=title)
    draw_search(rows, output / "search.png", title=title)
    return rows


def _measure(
    row: PlannedRow, search: SweepConfig, data: Stage2Data, output: Path, benchmark: SearchBenchmark | None
) -> dict[str, Any]:
    started = time.monotonic()
    result: dict[str, Any] = {"name": row.name, "series": row.series, "kind": row.kind}
    result |= _shape(row, data)
    try:
        codes = None if row.kind == FLOAT else _codes(row, data, output)
    except TrainingDivergedError as error:  # a finding of the search, not its end
        result["failed"] = str(error)
    else:
        result |= held_out_figures(codes, data, keys=search.keys, seed=row.config.seed)
        if benchmark is not None:
            result |= benchmark.figures(codes, data.embedder)
    folder = _run_path(output, row)
    if not search.keep_runs:
        shutil.rmtree(folder, ignore_errors=True)
    result["run"] = str(folder.relative_to(output)) if folder.exists() else None
    return result | {"settings": row.settings, "seconds": round(time.monotonic() - started, 1)}


def _codes(row: PlannedRow, data: Stage2Data, output: Path) -> CodeSystem:
    if row.kind in BASELINES:
        size = data.embedder.embedding_size
        return baseline_system(row.kind, size, row.config.hasher, row.config.seed)
    keras.utils.clear_session()  # dozens of models would pile up
    folder = _run_path(output, row)
    if row.kind == UNTRAINED:
        hasher = untrained_hasher(row.config, data)
        hasher.save(folder)
    else:
        hasher = train_hasher(row.config, folder, resume=folder.exists(), progress=False, data=data)
    return CodeSystem(row.series, hasher.code_length, hasher.alphabet_size, hasher.hash)


def _shape(row: PlannedRow, data: Stage2Data) -> dict[str, Any]:
    if row.kind == FLOAT:
        return dict.fromkeys(("code_length", "alphabet_size", "bits", "keep"))
    hasher = row.config.hasher
    return {
        "code_length": hasher.code_length,
        "alphabet_size": hasher.alphabet_size,
        "bits": stored_bits(hasher),
        "keep": hasher.keep or hasher.bottleneck or data.embedder.embedding_size,
    }


def _finished(output: Path, row: PlannedRow) -> dict[str, Any] | None:
    """The result of a row that an earlier run of this search finished."""
    path = _row_path(output, row)
    if not path.exists():
        return None
    try:
        stored = read_json(path)
        config, result = stored["config"], dict(stored["row"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); remove it to measure it again") from error
    if config != _plain(row.config):
        raise CheckpointError(
            f"{path}: row '{row.name}' was measured with another configuration; a file that the "
            "search builds on has changed: choose another --output, or remove the row to measure "
            "it again"
        )
    return result


def _plain(config: Stage2Config) -> Any:
    """The configuration as JSON gives it back."""
    return config.model_dump(mode="json")


def _row_path(output: Path, row: PlannedRow) -> Path:
    return output / "rows" / f"{row.slug}.json"


def _run_path(output: Path, row: PlannedRow) -> Path:
    return output / "runs" / row.slug


def _line(row: dict[str, Any]) -> str:
    rates = [f"{name} {100 * row[name]:.2f} %" for name in RATES if name in row]
    found = row.get("failed") or ", ".join(rates)
    return f"{row['name']}: {found} ({row['seconds']:.0f} s)"
