"""Known weights: the manifest `iom/pretrained/manifest.json`, statements of the input a file wants, and file places."""

from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from iom._files import sha256_of
from iom._registry import did_you_mean
from iom._untrusted import check_name, read_json, reading
from iom.errors import WeightsError
from iom.pretrained import cache_folder, package_folder, search_folders

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


class Facts(BaseModel):
    """Values that a manifest states."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class Download(Facts):
    """Where a program can fetch weights: a ZIP archive that holds them, or the one file itself."""

    url: Text
    bytes: Annotated[int, Field(gt=0)]
    sha256: Sha256 | None = None
    """Of what the URL gives; `None` where only the files in it are pinned."""


class Figures(Facts):
    """What was measured with weights, as shares, and by whom.

    LFW's 6,000 pairs and the 7,000 of CFP, frontal to frontal (`ff`) and frontal to profile (`fp`): accuracy over ten
    folds; equal error rate (EER) of the embeddings and, with the keys stolen, of codes of 192 bytes.
    """

    by: Text
    lfw_accuracy: float | None = None
    lfw_eer: float | None = None
    lfw_eer_codes: float | None = None
    cfp_ff_accuracy: float | None = None
    cfp_ff_eer: float | None = None
    cfp_ff_eer_codes: float | None = None
    cfp_fp_accuracy: float | None = None
    cfp_fp_eer: float | None = None
    cfp_fp_eer_codes: float | None = None
    ms_per_image: float | None = None
    """Embedding of one face on one core."""
    other: str = ""

    @property
    def summary(self) -> str:
        """The first of the figures in words."""
        named = {"LFW": self.lfw_accuracy, "CFP-FF": self.cfp_ff_accuracy, "CFP-FP": self.cfp_fp_accuracy}
        shown = [f"{name} {100 * value:.2f} %" for name, value in named.items() if value is not None]
        return ", ".join([*shown, *([self.other] if self.other else [])])


class Entry(Statement):
    """Known weights `architecture.tag`: the file to load, those it needs beside it, their terms and how to get them."""

    name: str
    format: Text
    files: Annotated[dict[str, Sha256 | None], Field(min_length=1)]
    """Name to SHA-256; a file without one is not pinned, and its input is checked on faces."""
    folder: Text
    other_folders: list[Text] = Field(default_factory=list)
    """Names that other programs give the folder with the same files."""
    bytes: Annotated[int, Field(gt=0)]
    """Of the files together; estimated where they are not pinned."""
    download: Download | None = None
    licence: Text
    training_data: Text
    source: Text
    figures: Annotated[list[Figures], Field(min_length=1)]

    @property
    def terms(self) -> dict[str, str]:
        """What one should know before using them, in lines for people."""
        stated = (f"{figures.summary} ({figures.by})" for figures in self.figures if figures.summary)
        return {
            "licence": self.licence,
            "trained": self.training_data,
            "accuracy": "; ".join(stated),
            "from": self.source,
        }

    @property
    def cached(self) -> Path:
        """Folder that `iom weights fetch` writes to."""
        return cache_folder() / "weights" / self.folder


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
        for place in (entry.folder, *entry.other_folders, *entry.files):
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
    folders = [folder / name for folder in search_folders() for name in (entry.folder, *entry.other_folders)]
    first = next(iter(entry.files))
    folder = next((folder for folder in folders if (folder / first).exists()), None)
    if folder is None:
        files, places = " and ".join(entry.files), (str(folder / entry.folder) for folder in search_folders())
        how = f"Fetch them with iom weights fetch {entry.name}, or get" if entry.download else "Get"
        raise WeightsError(
            f"the weights {entry.name} are not here. {how} {files} ({entry.source}; "
            f"{entry.licence}) and put it into {' or '.join(places)}"
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


def zoo_tables(entries: dict[str, Entry]) -> str:
    """The tables of docs/models.md in Markdown: what there is, and how accurate and fast it is."""
    facts = [
        "| weights | format, input (template) | dimensions | MB | licence | training data | from |",
        "|---|---|---|---|---|---|---|",
    ]
    figures = [
        "| weights | LFW | CFP-FF | CFP-FP | EER: LFW | CFP-FF | CFP-FP | ms | by whom |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, entry in sorted(entries.items()):
        url = f"; [{entry.download.bytes / 1e6:.0f} MB]({entry.download.url})" if entry.download else ""
        facts.append(
            f"| `{name}` | {entry.format}, {entry.size}x{entry.size} ({entry.template}) | {entry.embedding_size} | "
            f"{entry.bytes / 1e6:.1f} | {entry.licence} | {entry.training_data} | {entry.source}{url} |"
        )
        for found in entry.figures:
            accuracy = (found.lfw_accuracy, found.cfp_ff_accuracy, found.cfp_fp_accuracy)
            rates = (
                (found.lfw_eer, found.lfw_eer_codes),
                (found.cfp_ff_eer, found.cfp_ff_eer_codes),
                (found.cfp_fp_eer, found.cfp_fp_eer_codes),
            )
            cells = [*map(_percent, accuracy), *(f"{_percent(each)}, {_percent(codes)}" for each, codes in rates)]
            cells = [cell.replace("-, -", "-") for cell in cells]
            speed = "-" if found.ms_per_image is None else f"{found.ms_per_image:.1f}"
            by = f"{found.by}; {found.other}" if found.other else found.by
            figures.append(f"| `{name}` | {' | '.join(cells)} | {speed} | {by} |")
    return "\n".join([*facts, "", *figures])


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f}"


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
