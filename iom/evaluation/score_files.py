"""Score files of other toolboxes, read, evaluated and written: Bob's four and five columns, and CSV.

Columns, separated by blanks; CSV columns are found by its header, and further ones are not read:

- four: claimed_id real_id test_label score
- five: claimed_id model_label real_id test_label score
- csv: bio_ref_subject_id, probe_subject_id, score; optionally bio_ref_reference_id and probe_reference_id

Scores of those files are similarities, higher = more alike; here they are distances, so a sign is turned. A comparison
is mated where the claimed and the real subject are the same.
"""

import csv
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from iom._files import atomic_path
from iom._registry import SCORE_FORMATS, lookup
from iom._untrusted import reading, shown
from iom.data.benchmarks.base import PairBenchmark
from iom.errors import DataError
from iom.evaluation.identification import identification_figures
from iom.evaluation.scores import PairScores, SystemScores, resolved_fmrs
from iom.metrics.identification import Searches, search_gallery
from iom.metrics.verification import error_curve

Names = NDArray[np.str_]
CSV_COLUMNS = ("bio_ref_subject_id", "bio_ref_reference_id", "probe_subject_id", "probe_reference_id", "score")
FORMATS = dict(zip(SCORE_FORMATS, ((CSV_COLUMNS[0], *CSV_COLUMNS[2:]), CSV_COLUMNS, ()), strict=True))
"""Name to columns in order; none where a header names them."""
REQUIRED = ("bio_ref_subject_id", "probe_subject_id", "score")


@dataclasses.dataclass(frozen=True, eq=False)
class ScoreTable:
    """Comparisons `(P,)` of claimed and real subjects: distances, names of probes and, if known, of references."""

    claimed: Names
    real: Names
    probe: Names
    distances: NDArray[np.float64]
    reference: Names | None = None

    def __post_init__(self) -> None:
        columns = [self.claimed, self.real, self.probe, self.distances]
        columns += [] if self.reference is None else [self.reference]
        if len({len(column) for column in columns}) > 1 or not len(self.distances):
            raise DataError("scores: expected columns of one length, with one comparison or more")
        wrong = np.flatnonzero(~np.isfinite(self.distances))
        if len(wrong):
            raise DataError(
                f"scores: {len(wrong)} of {len(self)} are NaN or infinite, at comparisons {shown((wrong + 1).tolist())}"
            )

    def __len__(self) -> int:
        return len(self.distances)

    @property
    def same(self) -> NDArray[np.bool_]:
        """Whether a comparison is mated, `(P,)`."""
        return np.asarray(self.claimed == self.real)

    def by_kind(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mated and non-mated distances; there must be both."""
        same = self.same
        if same.all() or not same.any():
            raise DataError(
                f"scores: expected mated and non-mated comparisons, received {int(same.sum())} and {int((~same).sum())}"
            )
        return self.distances[same], self.distances[~same]

    def searches(self) -> Searches:
        """The comparisons as searches: every probe against every reference, of each subject one, each pair once."""
        if self.reference is None:
            raise DataError("identification: expected names of references (five columns or CSV)")
        references, columns = np.unique(self.reference, return_inverse=True)
        probes, rows = np.unique(self.probe, return_inverse=True)
        count = np.zeros((len(probes), len(references)), np.int64)
        np.add.at(count, (rows, columns), 1)
        odd = np.argwhere(count != 1)
        if len(odd):
            first = odd[0]
            raise DataError(
                f"identification: expected each probe once with each reference, received "
                f"{len(odd)} of {count.size} pairs otherwise, first {probes[first[0]]} with "
                f"{references[first[1]]}, {count[tuple(first)]} times"
            )
        table = np.empty(count.shape)
        table[rows, columns] = self.distances
        subjects = _subject_of(self.claimed, columns, references, "reference")
        return search_gallery(table, _subject_of(self.real, rows, probes, "probe"), subjects)


def read_scores(path: Path, form: str = "", *, higher_is_closer: bool = True) -> ScoreTable:
    """Read a score file of a format of `FORMATS`; by default `csv` for that suffix, else by the first line.

    Scores are similarities, as Bob's, unless `higher_is_closer` is false. An error names the line.
    """
    expected = "a CSV file or columns of text in UTF-8"
    with reading(path, expected), path.open(encoding="utf-8-sig", newline="") as stream:
        columns = lookup(FORMATS, form or _guess(path, stream), "score format")
        rows = list(_column_rows(stream, columns, path) if columns else _csv_rows(stream, path))
    if not rows:
        raise DataError(f"{path}: expected scores, received an empty file")
    claimed, reference, real, probe = (np.array([row.get(name) or "" for row in rows]) for name in CSV_COLUMNS[:-1])
    distances = np.array([float(row["score"]) for row in rows])
    try:
        return ScoreTable(
            claimed,
            real,
            probe,
            0.0 - distances if higher_is_closer else distances,
            reference if (reference != "").all() else None,
        )
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def write_scores(path: Path, table: ScoreTable, form: str) -> None:
    """Write similarities, the negative distances, so that reading gives the same table."""
    columns = lookup(FORMATS, form, "score format")
    if form == "five" and table.reference is None:
        raise DataError("five columns: expected names of references; write four columns")
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        if not columns:
            writer = csv.DictWriter(stream, CSV_COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(_rows(table))
            return
        for row in _rows(table):
            fields = [row[name] for name in columns]
            unfit = [field for field in fields if not field or field.split() != [field]]
            if unfit:
                raise DataError(f"score columns: expected names without blanks, received {unfit[0]!r}")
            stream.write(" ".join(fields) + "\n")


def _guess(path: Path, stream: TextIO) -> str:
    if path.suffix.lower() == ".csv":
        return "csv"
    fields = len(stream.readline(4096).split())
    stream.seek(0)
    if fields not in (4, 5):
        raise DataError(f"{path}, line 1: expected four or five columns, received {fields}; is it a CSV file?")
    return "four" if fields == 4 else "five"


def _column_rows(stream: TextIO, columns: Sequence[str], path: Path) -> Iterator[dict[str, str]]:
    for number, line in enumerate(stream, start=1):
        fields = line.split()
        if fields and (len(fields) != len(columns) or not _is_number(fields[-1])):
            raise DataError(
                f"{path}, line {number}: expected {len(columns)} columns, the last a score, "
                f"received '{line.strip()[:80]}'"
            )
        if fields:
            yield dict(zip(columns, fields, strict=True))


def _csv_rows(stream: TextIO, path: Path) -> Iterator[dict[str, str]]:
    reader = csv.DictReader(stream, strict=True)
    missing = [name for name in REQUIRED if name not in (reader.fieldnames or ())]
    if missing:
        raise DataError(f"{path}: expected a header with {', '.join(REQUIRED)}; no {missing[0]}")
    for row in reader:
        if None in row or None in row.values() or not _is_number(row["score"]):
            raise DataError(
                f"{path}, line {reader.line_num}: expected as many fields as the header and a "
                f"number as score, received {shown([v for v in row.values() if v])}"
            )
        yield row


def _rows(table: ScoreTable) -> Iterator[dict[str, str]]:
    """Columns of the file; scores with all digits that distinguish them."""
    reference = [""] * len(table) if table.reference is None else table.reference.tolist()
    names = (table.claimed.tolist(), reference, table.real.tolist(), table.probe.tolist())
    scores = [repr(0.0 - distance) for distance in table.distances.tolist()]
    for fields in zip(*names, scores, strict=True):
        yield dict(zip(CSV_COLUMNS, fields, strict=True))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _subject_of(subjects: Names, rows: NDArray[np.intp], names: Names, kind: str) -> Names:
    first = np.zeros(len(names), np.intp)
    first[rows[::-1]] = np.arange(len(rows))[::-1]
    owner = subjects[first]
    wrong = np.unique(rows[owner[rows] != subjects])
    if len(wrong):
        raise DataError(f"identification: {len(wrong)} {kind}s belong to two subjects: {shown(names[wrong].tolist())}")
    return np.asarray(owner)


def table_figures(table: ScoreTable, *, identification: bool = False) -> Iterator[tuple[str, float]]:
    """EER, AUC, FNMR at each FMR that the comparisons resolve; with `identification` CMC and open-set rates."""
    mated, non_mated = table.by_kind()
    curve = error_curve(mated, non_mated)
    yield "mated", len(mated)
    yield "non_mated", len(non_mated)
    yield "eer", curve.equal_error_rate()
    yield "auc", curve.area_under_curve()
    for name, fmr in resolved_fmrs(len(non_mated)).items():
        yield f"fnmr_at_fmr_{name}", curve.fnmr_at_fmr(fmr)
    if identification:
        searches = table.searches()
        for name, value, _ in identification_figures([[searches]], np.arange(len(searches.rank)), replicates=0):
            yield name, value


def score_table(benchmark: PairBenchmark, scores: PairScores) -> ScoreTable:
    """A benchmark's pairs as comparisons of references (left) and probes (right); labels must agree with subjects."""
    names = np.array([name.replace(" ", "_") for name in benchmark_names(benchmark)])
    subjects = benchmark.subjects
    left, right = subjects[benchmark.left], subjects[benchmark.right]
    wrong = np.flatnonzero((left == right) != benchmark.same)
    if len(wrong):
        raise DataError(
            f"{benchmark.name}: {len(wrong)} pairs have a label that contradicts their subjects, "
            f"first pair {wrong[0] + 1}; a score file cannot say that"
        )
    return ScoreTable(
        claimed=left.astype(str),
        real=right.astype(str),
        probe=names[benchmark.right],
        distances=scores.distances.astype(np.float64),
        reference=names[benchmark.left],
    )


def write_system_scores(
    benchmark: PairBenchmark, systems: Sequence[SystemScores], folder: Path, form: str
) -> list[Path]:
    """One file for each system, scenario and key: `<system>-<scenario>-<key>`, with `-` for `, ` in a system's name."""
    suffix = ".txt" if lookup(FORMATS, form, "score format") else ".csv"
    written = []
    for system in systems:
        for number, scores in enumerate(system.by_key):
            path = folder / f"{system.system.replace(', ', '-')}-{system.scenario}-{number}{suffix}"
            write_scores(path, score_table(benchmark, scores), form)
            written.append(path)
    return written


def benchmark_names(benchmark: PairBenchmark) -> list[str]:
    """A name for each template: the last two parts of its file, or the benchmark and a number."""
    if benchmark.pooling is not None or not isinstance(benchmark.images, tuple):
        return [f"{benchmark.name}/{row}" for row in range(benchmark.templates)]
    return ["/".join(Path(path).parts[-2:]) for path in benchmark.images]
