"""Known weights: the manifest `iom/pretrained/manifest.json`, statements of the input a file wants, and file places."""

from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from iom._files import sha256_of
from iom._registry import did_you_mean
from iom._untrusted import check_name, read_json, reading
from iom.errors import WeightsError
from iom.pretrained import package_folder, search_folders

FORMAT = 1
RAW: Final = "0..255"
RANGES: dict[str, tuple[float, float]] = {
    RAW: (1.0, 0.0),
    "-1..1": (1 / 127.5, -1.0),
    "-1..1 (/128)": (1 / 128, -127.5 / 128),
    "0..1": (1 / 255, 0.0),
}
"""Range to (scale, offset) of raw pixels: the network takes `pixel * scale + offset`."""

S = TypeVar("S", bound="Statement")
Text = Annotated[str, Field(min_length=1)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Statement(BaseModel):
    """Facts about a weights file that its content does not tell.

    The kind of input: colour order, a key of `RANGES` (`0..255`: the network scales itself), side and template of the
    image.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    colour_order: Literal["RGB", "BGR"]
    range: Literal["0..255", "-1..1", "-1..1 (/128)", "0..1"]
    size: int
    template: Literal["arcface", "dlib"] = "arcface"
    """A name of `iom.photos.align.TEMPLATES`: how the face lies in the image."""
    architecture: str = ""
    """Backbone, where the file holds weights alone."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Arguments of that backbone's builder."""
    embedding_size: int = 0
    """0: whatever the file says."""
    sha256: str = ""
    """Of the file; empty: not stated."""
    tensors: dict[str, Any] = Field(default_factory=dict)
    """Frozen graphs: names of the `input` and `output` tensors, and values to `feed` others."""

    @property
    def scaling(self) -> tuple[float, float]:
        """(scale, offset) of raw pixels."""
        return RANGES[self.range]


class Entry(Statement):
    """Known weights `architecture.tag`: the file to load, those it needs beside it, their terms and how to get them."""

    name: str
    format: Text
    files: Annotated[dict[str, Sha256 | None], Field(min_length=1)]
    """Name to SHA-256; a file without one is not pinned, and its input is checked on faces."""
    folder: Text
    licence: Text
    source: Text


def read_manifest(path: Path | None = None) -> dict[str, Entry]:
    """Entries by name."""
    path = path or package_folder() / "manifest.json"
    with reading(path, "a manifest", error=WeightsError):
        tree = read_json(path)
    if not isinstance(tree, dict) or tree.get("version") != FORMAT or not isinstance(tree.get("entries"), dict):
        raise WeightsError(f"{path}: expected a manifest of version {FORMAT} with 'entries', an object by name")
    entries = {}
    for name, values in tree["entries"].items():
        source = f"{path}: {name}"
        architecture, _, tag = name.partition(".")
        if not (architecture and tag) or not isinstance(values, dict):
            raise WeightsError(f"{source}: expected an entry named architecture.tag")
        entry = entries[name] = _validated(Entry, {"architecture": architecture, **values, "name": name}, source)
        for place in (entry.folder, *entry.files):
            check_name(place, source=source, error=WeightsError)
    return entries


def find_entry(name: str, entries: dict[str, Entry]) -> Entry | None:
    """Entry of that full name, or of that architecture if it has one tag only; several are an error."""
    if name in entries:
        return entries[name]
    tagged = [entry for full, entry in entries.items() if full.partition(".")[0] == name]
    if len(tagged) > 1:
        choices = ", ".join(sorted(entry.name for entry in tagged))
        raise WeightsError(f"'{name}' is ambiguous: choose one of {choices}")
    return tagged[0] if tagged else None


def locate(entry: Entry, *, verify: bool = True) -> list[Path]:
    """Paths of the entry's files, all in one folder; with `verify`, their SHA-256 is compared."""
    folders = [folder / entry.folder for folder in search_folders()]
    first = next(iter(entry.files))
    folder = next((folder for folder in folders if (folder / first).exists()), None)
    if folder is None:
        raise WeightsError(
            f"the weights {entry.name} are not here. Get {' and '.join(entry.files)} ({entry.source}; "
            f"{entry.licence}) and put it into {' or '.join(map(str, folders))}"
        )
    for name, digest in entry.files.items():
        path = folder / name
        if not path.exists():
            raise WeightsError(f"{entry.name}: {path} is missing beside {first}")
        if verify and digest and (found := sha256_of(path)) != digest:
            raise WeightsError(
                f"{entry.name}: {path} is not the file of the manifest: expected SHA-256 "
                f"{digest}, received {found}; get it anew: {entry.source}"
            )
    return [folder / name for name in entry.files]


def statement_path(path: Path) -> Path:
    """Where the statement about a weights file stands."""
    return path.with_name(f"{path.name}.input.json")


def read_statement(path: Path) -> Statement | None:
    """The statement beside a weights file, `<file>.input.json`, if there is one."""
    place = statement_path(path)
    if not place.exists():
        return None
    with reading(place, "a statement", error=WeightsError):
        values = read_json(place)
    return _validated(Statement, values, str(place))


def _validated(kind: type[S], values: Any, source: str) -> S:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        from iom.config.base import explain  # which nothing else here needs

        for each in error.errors():
            if each["type"] == "extra_forbidden":
                unknown = str(each["loc"][-1])
                hint = did_you_mean(unknown, kind.model_fields)
                raise WeightsError(f"{source}: unknown key '{unknown}'{hint}") from error
        raise WeightsError(f"{source}: {explain(error)[1]}") from error
