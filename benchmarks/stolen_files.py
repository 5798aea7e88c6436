"""What the bytes of stolen files give away: templates found in them are put before the attacks on a stolen store.

`attack_files` takes files of any kind, a record store, a key store, an export, a backup, a core dump, and runs the
known-face attacks on every template that it can find in their bytes. `attack_gallery` is the counterpart for someone
who holds both stores and can open them.
"""

import contextlib
import dataclasses
import re
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iom.attacks.base import AttackedSystem, Embeddings, read_back, unit
from iom.codes.packing import (
    PackedCodes,
    code_bytes,
    encoding_id,
    encoding_shape,
    pack,
    plane_count,
    unpack,
    word_count,
)
from iom.evaluation.attacks import AttackKeys, attack_figures
from iom.evaluation.records import NO_STORE, StolenStoreRow
from iom.evaluation.stolen_store import Enrolled, Store, stolen_store_rows
from iom.gallery.gallery import Gallery
from iom.gallery.templates import record_keys, unmasked
from iom.keys import TransformKey

SQLITE = b"SQLite format 3\0"
WINDOW = 96
"""Bytes behind a subject's name in which its code may begin."""
BEST_WINDOWS = 4
"""Of these places, those whose bytes are most like codes are attacked."""
MAX_COMPARED = 200
Reading = Mapping[str, bytes]
"""Subject to the bytes that are taken for its code."""


@dataclasses.dataclass(frozen=True, eq=False)
class Scene:
    """Subjects, of whom row i of `enrolled` is `names[i]`, their system at a threshold, and keys to test with.

    The attacker knows the first `known` subjects of `enrolled.known`, by their enrolled and by another photograph.
    `hasher` is what `system` was made of, for galleries.
    """

    system: AttackedSystem
    threshold: float
    names: Sequence[str]
    enrolled: Enrolled
    keys: AttackKeys
    code_length: int
    known: int = 10
    seed: int = 1
    replicates: int = 200
    hasher: Any = None

    @property
    def encoding(self) -> str:
        return encoding_id(self.code_length, self.system.alphabet_size)

    def rows(
        self, templates: NDArray[np.uint8], *, known: Sequence[int] | None = None, keys: Any = None
    ) -> list[StolenStoreRow]:
        """All attacks on templates `(N, M)` of the subjects; `keys`, for the test alone, those of the victims."""
        store = Store(templates, keys or self.keys.old[0])
        return list(
            stolen_store_rows(
                self.system,
                self.threshold,
                self.enrolled,
                [store],
                self.keys,
                known=(0, self.known) if known is None else known,
                seed=self.seed,
                replicates=self.replicates,
            )
        )


@dataclasses.dataclass(frozen=True)
class FileAttack:
    """Result of the best attack on what was found in files, beside a guess without them.

    `records` is the number of subjects for whom bytes were found that may be a code; `plain_codes` that of subjects
    whose true code stands in the bytes, unmasked.
    """

    records: int
    plain_codes: int
    best: StolenStoreRow
    guess: StolenStoreRow

    @property
    def is_chance(self) -> bool:
        """Whether the intervals of the attack and of the guess meet."""
        return meet(self.best, self.guess)


def meet(row: StolenStoreRow, guess: StolenStoreRow) -> bool:
    """Whether the interval of an acceptance under fresh keys reaches down to that of a guess."""
    return bool(row.intervals["accepted_fresh"].low <= guess.intervals["accepted_fresh"].high)


def best_row(rows: Sequence[StolenStoreRow]) -> StolenStoreRow:
    """The attack that is accepted most; not the guess."""
    able = [row for row in rows if row.accepted_fresh is not None and row.attack != NO_STORE]
    return max(able, key=lambda row: (row.accepted_fresh or 0.0, row.cosine or 0.0))


def attack_files(
    files: Sequence[Path | bytes], scene: Scene, *, true_codes: NDArray[np.uint8] | None = None
) -> FileAttack:
    """Run the attacks on every template that can be found in files, or in bytes such as those of a process.

    Templates are looked for in the rows of SQLite databases, in the pages of an export, and behind each subject's name.
    With the `true_codes` `(N, M)` of the subjects these are looked for, too, at any place, whether a name stands by or
    not: an attacker who knew where to look.
    """
    contents = [file if isinstance(file, bytes) else file.read_bytes() for file in files]
    readings = [reading for data in contents for reading in read_codes(data, scene.names, scene.encoding)]
    plain = _plain_codes(contents, scene, true_codes)
    if plain:
        readings.append(plain)
    guess, *_ = scene.rows(templates_of({}, scene), known=(0,))
    rows = [row for reading in readings for row in scene.rows(templates_of(reading, scene))] or scene.rows(
        templates_of({}, scene)
    )
    return FileAttack(max(map(len, readings), default=0), len(plain), best_row(rows), guess)


def attack_gallery(gallery: Gallery, scene: Scene, *, application: str = "default") -> StolenStoreRow:
    """Full disclosure: code and key of every victim's record from both stores, and the sum of the chosen vectors."""
    settings = gallery.application(application)
    subjects = gallery.subjects(application=application)
    victims = [subjects[scene.names[row]][0] for row in scene.enrolled.wanted]
    codes = unpack(unmasked(gallery.keys, settings, victims))
    places = [(each.subject_id, each.record, each.epoch) for each in victims]
    found_keys = record_keys(gallery.keys, settings, places)
    keys = [found_keys] * len(victims) if isinstance(found_keys, TransformKey) else list(found_keys)
    return disclosed_row(scene, codes, keys)


def disclosed_row(scene: Scene, codes: NDArray[np.uint8], keys: Sequence[TransformKey]) -> StolenStoreRow:
    """Acceptance of what codes `(V, M)` of the victims and the keys of their records give."""
    system, enrolled = scene.system, scene.enrolled
    samples, others = enrolled.samples[enrolled.wanted], enrolled.others[enrolled.wanted]
    found = np.concatenate([_inverted(system, code[None], key) for code, key in zip(codes, keys, strict=True)])

    def accepted(under: Any) -> NDArray[np.bool_]:
        return system.matched(system.hash(others, under), system.probes(found, under)) <= scene.threshold

    figures = attack_figures(
        {
            "cosine": np.einsum("nd,nd->n", found, samples, dtype=np.float64)[None],
            "accepted_old": accepted(list(keys))[None],
        },
        {"accepted_fresh": np.array([[accepted(key) for key in scene.keys.fresh]])},
        replicates=scene.replicates,
        seed=scene.seed,
    )
    return StolenStoreRow(
        system=system.name,
        attack="closed_form",
        knowledge="store + key",
        threshold=scene.threshold,
        enrolled=len(enrolled.samples),
        **figures,
    )


def _inverted(system: AttackedSystem, code: NDArray[np.uint8], key: TransformKey) -> Embeddings:
    if system.vectors is None:
        raise TypeError(f"{system.name}: expected a linear system")
    vectors = system.vectors(key)
    return unit(read_back(system.centred(vectors), code))


def read_codes(data: bytes, names: Sequence[str], encoding: str) -> list[Reading]:
    """Readings of bytes: subjects to what may be their codes; by the format where it is known, and by the names."""
    size = code_bytes(encoding)
    readings = (
        [_rows_of_tables(data, names, size)] if data.startswith(SQLITE) else [_pages_of_export(data, names, size)]
    )
    if not readings[0]:
        readings = list(_behind_names(data, names, encoding))
    return [reading for reading in readings if reading]


def _rows_of_tables(data: bytes, names: Sequence[str], size: int) -> Reading:
    """Rows of any table that hold a subject's name and so many bytes, whatever the tables are called."""
    wanted = set(names)
    found: dict[str, bytes] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "stolen.db"
        path.write_bytes(data)
        with contextlib.closing(sqlite3.connect(f"file:{path}?immutable=1", uri=True)) as connection:
            try:
                tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
                for table in tables:
                    quoted = '"' + table.replace('"', '""') + '"'
                    for row in connection.execute(f"SELECT * FROM {quoted}"):  # noqa: S608 - a name of the file's own
                        subject = next((each for each in row if each in wanted), None)
                        code = next((each for each in row if isinstance(each, bytes) and len(each) == size), None)
                        if subject is not None and code is not None:
                            found.setdefault(subject, code)
            except sqlite3.DatabaseError:
                return {}
    return found


_PAGE = re.compile(rb'\{[^\n]*"references"[^\n]*\n')


def _pages_of_export(data: bytes, names: Sequence[str], size: int) -> Reading:
    """Codes behind each line of references of an export, in their order."""
    wanted = set(names)
    found: dict[str, bytes] = {}
    for page in _PAGE.finditer(data):
        subjects = [text.decode() for text in re.findall(rb'"subject_id": ?"([^"]*)"', page[0])]
        for number, subject in enumerate(subjects):
            code = data[page.end() + number * size :][:size]
            if subject in wanted and len(code) == size:
                found.setdefault(subject, code)
    return found


def _behind_names(data: bytes, names: Sequence[str], encoding: str) -> Iterator[Reading]:
    """Bytes at one distance behind the names, for the distances at which they are most like codes of one key.

    Ones and zeros of a code are as many, text and numbers are not; and distances of codes are spread more widely than
    those of random bits.
    """
    size = code_bytes(encoding)
    ends = {name: [found.end() for found in re.finditer(re.escape(name.encode()), data)] for name in names}
    readings: list[Reading] = []
    for shift in range(WINDOW):
        reading = {}
        for name, found in ends.items():
            windows = [data[end + shift :][:size] for end in found if len(data) >= end + shift + size]
            if windows:  # a name stands in indexes, too, among text, whose bits are not balanced
                reading[name] = min(windows, key=_imbalance)
        if len(reading) > 2:
            readings.append(reading)
    imbalances = [np.mean([_imbalance(window) for window in reading.values()]) for reading in readings]
    balanced = [each for each, value in zip(readings, imbalances, strict=True) if value <= 1.3 * min(imbalances) + 1]
    yield from sorted(balanced, key=lambda reading: -_spread(list(reading.values())))[:BEST_WINDOWS]


def _imbalance(window: bytes) -> int:
    return abs(2 * int.from_bytes(window).bit_count() - 8 * len(window))


def _spread(codes: Sequence[bytes]) -> float:
    bits = np.unpackbits(np.frombuffer(b"".join(codes[:MAX_COMPARED]), np.uint8).reshape(-1, len(codes[0])), axis=1)
    signs = 2.0 * bits.astype(np.float32) - 1.0
    return float(np.std((signs @ signs.T)[np.triu_indices(len(signs), 1)]))


def _plain_codes(contents: Sequence[bytes], scene: Scene, codes: NDArray[np.uint8] | None) -> dict[str, bytes]:
    """The true codes that stand in the bytes, as bit planes or a byte a symbol."""
    if codes is None:
        return {}
    planes = pack(codes, scene.system.alphabet_size).planes.astype("<u8")
    return {
        name: plane.tobytes()
        for name, plane, code in zip(scene.names, planes, codes.astype(np.uint8), strict=True)
        if any(plane.tobytes() in data or code.tobytes() in data for data in contents)
    }


def templates_of(reading: Reading, scene: Scene) -> NDArray[np.uint8]:
    """Templates `(N, M)` of a reading; random symbols for a subject without."""
    generator = np.random.default_rng(scene.seed)
    length, alphabet = encoding_shape(scene.encoding)
    codes = generator.integers(alphabet, size=(len(scene.names), length), dtype=np.uint8)
    known = [row for row, name in enumerate(scene.names) if name in reading]
    if known:
        shape = (len(known), plane_count(alphabet), word_count(length))
        planes = np.frombuffer(b"".join(reading[scene.names[row]] for row in known), "<u8").reshape(shape).copy()
        if length % 64:
            planes[:, :, -1] &= np.uint64((1 << length % 64) - 1)
        codes[known] = _symbols(PackedCodes(planes.astype(np.uint64), length, alphabet))
    return codes


def _symbols(packed: PackedCodes) -> NDArray[np.uint8]:
    """Codes of bit planes; symbols outside the alphabet, which masks make of one that is no power of two, modulo it."""
    full = 1 << plane_count(packed.alphabet_size)
    return unpack(PackedCodes(packed.planes, packed.code_length, full)) % packed.alphabet_size
