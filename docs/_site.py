"""Pages of the documentation site that are made when it is built: a hook of mkdocs (mkdocs.yml, `make docs`).

Start, changes and the model card are files outside this folder; tutorials are the notebooks; the reference is read from
the stubs of the packages, the models of the configurations and the commands. None of them is kept twice.
"""

import ast
import itertools
import json
import posixpath
import re
import typing
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
COPIED = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "pre_models/README.md": "model_card.md",
}
"""Documents outside this folder to their pages."""
CONFIGURATIONS = {
    "Stage1Config": "stage1",
    "Stage2Config": "stage2",
    "EvaluateConfig": "evaluate",
    "SweepConfig": "sweep",
}
TEXT_BYTES = 4000
YAML_TYPES = {int: "integer", float: "number", str: "text", bool: "true or false"}
BOUNDS = (("gt", ">"), ("ge", ">="), ("lt", "<"), ("le", "<="))


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fill the parts of the navigation that follow from what there is."""
    decisions = [
        {_title(path.read_text("utf-8")): f"adr/{path.name}"} for path in sorted((ROOT / "docs/adr").glob("*.md"))
    ]
    for part in config["nav"]:
        if "Tutorials" in part:
            part["Tutorials"] = [{_title(text): name} for name, text in _tutorials()]
        elif "Reference" in part:
            pages = [{package: f"reference/{package}.md"} for package in _packages()]
            part["Reference"] = [{"Public names": "api.md"}, {"Configurations": "configurations.md"},
                                 {"Commands": "commands.md"}, {"Python": pages}]  # fmt: skip
        elif "Concepts" in part:
            part["Concepts"].append({"Decisions": decisions})
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages that are made."""
    for name, text in _pages():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: MkDocsConfig, files: Files) -> str:
    """Let links lead to pages, as they lead to files in the sources; of what is no page the name remains."""
    here = page.file.src_uri
    if here.startswith("reference/"):
        return markdown
    origin = {copy: source for source, copy in COPIED.items()}.get(here, f"docs/{here}")
    origin = origin.replace("docs/tutorials/", "notebooks/")

    def link(found: re.Match[str]) -> str:
        text, target = found.groups()
        path, mark, anchor = target.partition("#")
        if "://" in target or not path or path.startswith("data:"):
            return found.group()
        source = posixpath.normpath(posixpath.join(posixpath.dirname(origin), path))
        to = COPIED.get(source) or source.removeprefix("docs/")
        to = re.sub(r"^notebooks/(.+)\.ipynb$", r"tutorials/\1.md", to)
        if files.get_file_from_path(to) is None:
            return text if source.rstrip("/") in text else f"{text} (`{source}`)"
        return f"[{text}]({posixpath.relpath(to, posixpath.dirname(here) or '.')}{mark}{anchor})"

    return re.sub(r"\[([^\]]*)\]\(([^)\s]+)\)", link, markdown)


def _pages() -> Iterator[tuple[str, str]]:
    for source, page in COPIED.items():
        yield page, (ROOT / source).read_text("utf-8")
    yield from _tutorials()
    yield "configurations.md", _configurations()
    yield "commands.md", _commands()
    for package, names in _packages().items():
        yield f"reference/{package}.md", _reference(package, names)


def _title(text: str) -> str:
    return next(line.lstrip("# ") for line in text.splitlines() if line.startswith("# "))


def _tutorials() -> Iterator[tuple[str, str]]:
    """The notebooks as pages; of outputs the texts and pictures."""
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        parts = []
        for cell in json.loads(path.read_text("utf-8"))["cells"]:
            source = "".join(cell["source"])
            parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
            parts += [_output(output) for output in cell.get("outputs", ())]
        yield f"tutorials/{path.stem}.md", "\n\n".join(parts)


def _output(output: dict[str, Any]) -> str:
    data = output.get("data", {})
    if "image/png" in data:
        return f"![](data:image/png;base64,{''.join(data['image/png']).strip()})"
    text = "".join(output.get("text") or data.get("text/plain", ""))
    return f"```text\n{text[:TEXT_BYTES].rstrip()}\n```" if text.strip() else ""


def _packages() -> dict[str, dict[str, str]]:
    """Package to its public names and where each is defined, from the stubs."""
    packages = {}
    for source in [ROOT / "iom", *sorted((ROOT / "iom").glob("*/"))]:
        package = source.relative_to(ROOT).as_posix().replace("/", ".")
        stub = next((path for path in (source / "__init__.pyi", source / "__init__.py") if path.is_file()), None)
        if stub is None or source.name.startswith("_") or source.name == "cli":
            continue
        names = dict(_public_names(ast.parse(stub.read_text("utf-8")), package))
        if names:
            packages[package] = names
    return packages


def _public_names(tree: ast.Module, package: str) -> Iterator[tuple[str, str]]:
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            module = f"{package}.{node.module}" if node.level else str(node.module)
            yield from ((each.asname, f"{module}.{each.name}") for each in node.names if each.asname == each.name)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node.name, f"{package}.{node.name}"


def _reference(package: str, names: dict[str, str]) -> str:
    """The page of a package; what `iom` itself offers is described there, and linked here."""
    top = {} if package == "iom" else _packages()["iom"]
    text = ast.get_docstring(ast.parse((ROOT / package.replace(".", "/") / "__init__.py").read_text("utf-8"))) or ""
    parts = [f"# {package}", text]
    for name, place in sorted(names.items(), key=lambda item: item[0].lower()):
        known = place in top.values()
        parts.append(f"## {name}\n\nSee [`iom.{name}`][{place}]." if known else f"::: {place}")
    return "\n\n".join(parts)


def _configurations() -> str:
    """Every setting of every configuration: type, default, meaning."""
    from iom import config as models

    parts = [
        "# Configurations",
        "A configuration is a YAML file of the sections below; what it does not name has its default. A command takes "
        "a file, or the name of one that the package brings along, such as `stage1/base`, with `--config`; `base:` "
        "names another that a file changes; `--set section.setting=value` changes one setting. Unknown settings and "
        "values out of range are errors. A path may begin with `$IOM_DATA`, the folder of "
        "[prepared data](reproduce.md).",
    ]
    sections: dict[str, Any] = {}
    for name, folder in CONFIGURATIONS.items():
        parts.append(f"## {folder}\n\n`configs/{folder}/*.yaml`, `iom.config.{name}`")
        parts.append(_settings(getattr(models, name), sections))
    parts.append("## Sections")
    for name in iter(sections.copy()):
        _settings(sections[name], sections)
    for name, section in sorted(sections.items()):
        parts += [f"### {name}", str(section.__doc__).split("\n\nRaises")[0], _settings(section, sections)]
    return "\n\n".join(parts)


def _settings(section: Any, sections: dict[str, Any]) -> str:
    """The table of a section; sections that it holds are added to `sections`."""
    from pydantic_core import PydanticUndefined

    from iom.config import Section

    rows = ["| setting | type | default | meaning |", "|---|---|---|---|"]
    meanings = _meanings(section)
    for name, field in section.model_fields.items():
        inner = [each for each in _types(field.annotation) if isinstance(each, type) and issubclass(each, Section)]
        sections |= {each.__name__: each for each in inner}
        kind = ", ".join(f"[{each.__name__}](#{each.__name__.lower()})" for each in inner) or _type_text(
            field.annotation, field.metadata
        )
        if inner and typing.get_origin(field.annotation) is tuple:
            kind = f"list of {kind}"
        missing = field.default is PydanticUndefined
        default = field.default_factory() if missing and field.default_factory else field.default
        shown = "" if inner or (missing and not field.default_factory) else f"`{json.dumps(default)}`"
        rows.append(f"| `{name}` | {kind} | {shown} | {meanings.get(name, '')} |".replace("||", "|"))
    return "\n".join(rows)


def _types(annotation: Any) -> Iterator[Any]:
    yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from _types(inner)


def _type_text(annotation: Any, metadata: Iterable[Any] = ()) -> str:
    """A type as a reader of YAML knows it: `list of number, > 0`."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        text = _type_text(inner[0], (each for more in inner[1:] for each in getattr(more, "metadata", [more])))
    elif origin is typing.Literal:
        text = " or ".join(f"`{each}`" for each in inner)
    elif origin is tuple:
        text = f"list of {_type_text(inner[0])}"
    elif origin is dict:
        text = "section"
    else:
        text = YAML_TYPES.get(annotation, str(annotation))
    bounds = [f"{sign} {getattr(each, name)}" for each in metadata for name, sign in BOUNDS if hasattr(each, name)]
    return ", ".join([text, *bounds])


def _meanings(section: Any) -> dict[str, str]:
    """The text below each setting in the source."""
    found: dict[str, str] = {}
    path = ROOT / "iom/config/schema.py"
    classes = {node.name: node for node in ast.parse(path.read_text("utf-8")).body if isinstance(node, ast.ClassDef)}
    for base in reversed(section.__mro__):
        body = classes[base.__name__].body if base.__name__ in classes else []
        for field, text in itertools.pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                found[field.target.id] = " ".join(str(text.value.value).split())  # type: ignore[union-attr]
    return {name: text.replace("|", "\\|").replace("<", "&lt;") for name, text in found.items()}


def _commands() -> str:
    """The help of every command."""
    import click

    from iom.cli.main import root

    parts = ["# Commands", "What `iom --help` and `iom COMMAND --help` say."]
    context = click.Context(root, info_name="iom", terminal_width=100)
    parts.append(f"```text\n{root.get_help(context)}\n```")
    for name in root.list_commands(context):
        command = root.get_command(context, name)
        if command is not None:
            inner = click.Context(command, info_name=name, parent=context, terminal_width=100)
            parts.append(f"## iom {name}\n\n```text\n{command.get_help(inner)}\n```")
    return "\n\n".join(parts)
