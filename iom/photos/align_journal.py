"""The journal of an alignment run and the reports made from it."""

import csv
import dataclasses
import io
import json
from collections import Counter
from pathlib import Path
from typing import IO, Any

from iom._files import write_json, write_text
from iom._untrusted import parse_json, paths_inside
from iom.errors import DataError
from iom.photos.align_photo import STATUSES, AlignSettings, Outcome
from iom.photos.landmarks import write_landmarks

JOURNAL = "align.jsonl"


class Journal:
    """Finished photographs of an output folder; a line that a crash cut off is dropped."""

    def __init__(self, output: Path, stream: IO[str], entries: dict[str, dict[str, Any]]) -> None:
        self._output = output
        self._stream = stream
        self._marks = {name: entry["mark"] for name, entry in entries.items()}
        self.outcomes = {name: Outcome.of(entry) for name, entry in entries.items()}

    @classmethod
    def open(cls, output: Path, settings: AlignSettings) -> "Journal":
        """Start or continue the journal of `output`.

        Raises:
            DataError: It is of other settings, or damaged other than at its end; or the folder
                holds files and no journal.
        """
        path = output / JOURNAL
        asked = dataclasses.asdict(settings)
        if not path.is_file() and output.is_dir() and any(output.iterdir()):
            raise DataError(f"{output}: expected a new, empty or begun folder, received other files")
        output.mkdir(parents=True, exist_ok=True)
        whole = _whole_lines(path)
        if whole and whole[0] != asked:
            changed = sorted(key for key in asked if whole[0].get(key) != asked[key])
            raise DataError(
                f"{path}: made with other settings ({', '.join(changed)}); use the same or another output folder"
            )
        try:
            entries = {str(entry["photo"]): entry for entry in whole[1:]}
            for entry in whole[1:]:
                paths_inside(output, filter(None, entry["files"]), source=path)
            journal = cls(output, path.open("a", encoding="utf-8"), entries)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise DataError(f"{path}: damaged; remove it to begin anew") from error
        if not whole:
            journal._write(asked)
        return journal

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def holds(self, name: str, photo: Path) -> bool:
        """Whether the photograph is finished, has not changed since, and its faces are there."""
        if self._marks.get(name) != _mark(photo):
            return False
        return all((self._output / file).is_file() for file in self.outcomes[name].files if file)

    def add(self, name: str, photo: Path, outcome: Outcome) -> None:
        """Note a finished photograph; its faces are written already."""
        self.outcomes[name] = outcome
        self._write({"photo": name, "mark": _mark(photo), **outcome.entry()})

    def _write(self, entry: dict[str, Any]) -> None:
        self._stream.write(json.dumps(entry) + "\n")
        self._stream.flush()


def write_reports(
    output: Path, outcomes: dict[str, Outcome], settings: AlignSettings, *, others: dict[str, int], continued: int
) -> dict[str, Any]:
    """Write `landmarks.csv`, `report.csv` (what needs a look), `report.json`; return the last."""
    write_landmarks(
        output / "landmarks.csv",
        (
            (name, number, face, file)
            for name, outcome in outcomes.items()
            for number, (face, file) in enumerate(zip(outcome.faces, outcome.files, strict=True))
        ),
    )
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(("photo", "status", "faces", "notes", "reason"))
    for name, outcome in outcomes.items():
        if outcome.status != "aligned" or outcome.notes or len(outcome.faces) > 1:
            notes = " ".join(outcome.notes)
            writer.writerow((name, outcome.status, len(outcome.faces), notes, outcome.reason))
    write_text(output / "report.csv", stream.getvalue())
    status = Counter(outcome.status for outcome in outcomes.values())
    report = {
        "photographs": len(outcomes),
        "faces_written": sum(sum(map(bool, outcome.files)) for outcome in outcomes.values()),
        **{name: status[name] for name in STATUSES},
        "several_faces": sum(len(outcome.faces) > 1 for outcome in outcomes.values()),
        "notes": dict(Counter(note for outcome in outcomes.values() for note in outcome.notes)),
        "other_files": others,
        "done_before": continued,
        "settings": dataclasses.asdict(settings),
    }
    write_json(output / "report.json", report)
    return report


def _mark(photo: Path) -> list[int]:
    try:
        stat = photo.stat()
    except OSError:
        return []
    return [stat.st_size, stat.st_mtime_ns]


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    """Entries of the lines that end; what follows the last line break is cut off the file."""
    if not path.is_file():
        return []
    data = path.read_bytes()
    end = data.rfind(b"\n") + 1
    if end < len(data):
        with path.open("r+b") as stream:
            stream.truncate(end)
    try:
        return [parse_json(line) for line in data[:end].splitlines()]
    except ValueError as error:
        raise DataError(f"{path}: damaged; remove it to begin anew") from error
