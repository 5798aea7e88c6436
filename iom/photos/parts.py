"""What a run of `hash_photos` has finished: parts of a few photographs each, joined at the end.

A part is a file of codes and, written after it, a list of what became of each photograph with the
SHA-256 of the former. A part whose list is missing or does not fit is no part: kill -9 costs the
photographs of one part, and none is in two.
"""

import fcntl
import itertools
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from iom._files import name_of, remove_temporary_files, sha256_of, text_of, write_json, write_text
from iom._untrusted import parse_json, read_json
from iom.errors import DataError
from iom.photos.code_file import read_table, write_codes

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIX = ".parts"
_HEADER, _LOCK = "header.json", "lock"
TRIED_AGAIN = ("unreadable", "gave_up")
"""Statuses that say something about that moment: a run that goes on tries the photograph anew."""
Outcome = dict[str, Any]
"""`photo`, perhaps `photo_bytes`, `status`, `reason`, `notes`, `faces`, `mark`."""


class Parts:
    """The parts of one output file, in a folder beside it; one run at a time."""

    def __init__(self, folder: Path, header: Mapping[str, Any], lock: IO[str]) -> None:
        self._folder, self._header, self._lock = folder, header, lock
        self._part_of: dict[str, int] = {}
        self._mark_of: dict[str, tuple[int, ...]] = {}  # outcomes stay on disk: there may be millions
        self._next = 0
        remove_temporary_files(folder)
        for listed in sorted(folder.glob("*.jsonl")):
            self._take_up(int(listed.stem))

    @classmethod
    def open(cls, output: Path, header: Mapping[str, Any]) -> "Parts":
        """Start or continue the parts of `output`.

        Raises:
            DataError: The output is there already and finished; the parts are of another model, key
                or other settings; another run is at work on them.
        """
        folder = output.with_name(output.name + SUFFIX)
        if output.exists() and not folder.is_dir():
            raise DataError(f"{output} is there already and finished; remove it or name another")
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / _LOCK).open("w", encoding="utf-8")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _check_header(folder / _HEADER, header)
            return cls(folder, header, lock)
        except BlockingIOError as error:
            lock.close()
            raise DataError(f"{folder}: another run is at work on it") from error
        except BaseException:
            lock.close()
            raise

    def __enter__(self) -> "Parts":
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()

    def holds(self, name: str, mark: Sequence[int]) -> bool:
        """Whether the photograph is finished and has not changed since."""
        return self._mark_of.get(name) == tuple(mark)

    def outcomes(self, names: Sequence[str]) -> Iterator[Outcome]:
        """What became of finished photographs, in the order of `names`."""
        for part, wanted in self._runs(names):
            lines = self._listed(part)
            yield from (lines[name] for name in wanted)

    def commit(self, table: "pa.Table", outcomes: Mapping[str, Outcome]) -> None:
        """Keep a part: the rows of its photographs, sorted, and what became of each."""
        file = self._folder / f"{self._next:06d}.parquet"
        write_codes(file, self._header, [table])
        lines = [{"sha256": sha256_of(file)}, *outcomes.values()]
        write_text(file.with_suffix(".jsonl"), "".join(json.dumps(line) + "\n" for line in lines))
        self._note(self._next, outcomes)

    def tables(self, names: Sequence[str]) -> Iterator["pa.Table"]:
        """Rows of finished photographs in the order of `names`, a few parts in memory."""
        for part, listed in self._runs(names):
            table, wanted = self._table(part), set(listed)
            texts, raw = (table[column].to_pylist() for column in ("photo", "photo_bytes"))
            keep = [name_of(text, each) in wanted for text, each in zip(texts, raw, strict=True)]
            yield table if all(keep) else table.filter(keep)

    def remove(self) -> None:
        """Remove the parts, when what they held lies in the output."""
        shutil.rmtree(self._folder)

    def _runs(self, names: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
        """Names that follow each other and are in one part."""
        for part, run in itertools.groupby(names, key=self._part_of.__getitem__):
            yield part, list(run)

    def _listed(self, part: int) -> dict[str, Outcome]:
        text = (self._folder / f"{part:06d}.jsonl").read_text(encoding="utf-8")
        return {_name(line): line for line in map(parse_json, text.splitlines()[1:])}

    def _table(self, part: int) -> "pa.Table":
        header, table = read_table(self._folder / f"{part:06d}.parquet")
        if header != self._header:
            raise DataError(f"{self._folder}: part {part} is of another run; remove the folder")
        return table

    def _take_up(self, part: int) -> None:
        listed = self._folder / f"{part:06d}.jsonl"
        codes = listed.with_suffix(".parquet")
        self._next = part + 1
        try:
            with listed.open(encoding="utf-8") as stream:
                first = parse_json(stream.readline())
            if sha256_of(codes) == first["sha256"]:
                self._note(part, self._listed(part))
        except (OSError, ValueError, KeyError, TypeError):
            return  # as if it had not been written: its photographs are done again

    def _note(self, part: int, outcomes: Mapping[str, Outcome]) -> None:
        self._next = part + 1
        for name, outcome in outcomes.items():  # one that changed counts where it came last
            again = outcome["status"] in TRIED_AGAIN
            self._mark_of[name] = () if again else tuple(outcome["mark"])
            self._part_of[name] = part


def outcome_of(name: str, **facts: Any) -> Outcome:
    """An outcome as JSON takes it; a path that is not UTF-8 stands beside its text, as hex."""
    text, raw = text_of(name)
    return {"photo": text, **({"photo_bytes": raw.hex()} if raw is not None else {}), **facts}


def _name(line: Outcome) -> str:
    raw = line.get("photo_bytes")
    return name_of(line["photo"], None if raw is None else bytes.fromhex(raw))


def _check_header(path: Path, header: Mapping[str, Any]) -> None:
    try:
        found = read_json(path)
    except FileNotFoundError:
        write_json(path, header)
        return
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: damaged; remove {path.parent} to begin anew") from error
    asked = json.loads(json.dumps(header))
    if found == asked:
        return
    changed = sorted(name for name in asked if found.get(name) != asked[name])
    settings = found.get("settings", {})
    details = sorted(name for name, value in asked["settings"].items() if settings.get(name) != value)
    raise DataError(
        f"{path.parent}: begun with another {', '.join(changed)}"
        f"{' (' + ', '.join(details) + ')' if details else ''}; go on with the same, or remove it "
        "to begin anew"
    )
