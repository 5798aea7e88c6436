"""Commands, their answers as text or JSON, their errors as one line with an exit code, and shared options."""

import contextlib
import dataclasses
import functools
import inspect
import json
import os
import shlex
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_args

import click

from iom._files import check_output
from iom._registry import did_you_mean
from iom.errors import (
    BystanderWarning,
    CardError,
    ConfigError,
    FaceError,
    IomError,
    KeyKindWarning,
    KeyMaterialError,
    NotEnrolledError,
    PrecisionWarning,
    RevokedError,
    StoreError,
    TokenError,
    UnmaskedWarning,
    needs_train,
)
from iom.pretrained import BUNDLED

if TYPE_CHECKING:
    from iom.config import Section
    from iom.models.face_hasher import FaceHasher

SectionT = TypeVar("SectionT", bound="Section")

OK, NO, BUG = 0, 1, 70
EXIT_CODES: dict[int, tuple[tuple[type[BaseException], ...], str]] = {
    OK: ((), "done; match"),
    NO: ((), "no match, problems found"),
    3: ((NotEnrolledError,), "the subject is not enrolled"),
    4: ((RevokedError,), "the subject was revoked"),
    5: ((FaceError,), "an image cannot be used as a face"),
    6: ((StoreError, KeyMaterialError), "record store or key store: missing, damaged, wrong passphrase or key"),
    7: ((TokenError, CardError), "a token or card is missing, of another key, altered or expired, or cannot be read"),
    141: ((BrokenPipeError,), "standard output was closed, as by head"),
    2: ((IomError, OSError, MemoryError), "wrong arguments, configuration or input; a file cannot be read or written"),
    BUG: ((), "an error of the program, with its traceback"),
    130: ((KeyboardInterrupt,), "interrupted"),
}
"""Exit code to the errors that end with it, and its meaning; the first one that fits an error counts."""
SETTINGS = {"help_option_names": ["-h", "--help"], "show_default": True, "max_content_width": 100}
PATH = click.Path(path_type=Path)
COUNT = click.IntRange(min=1)


@dataclasses.dataclass(frozen=True)
class Answer:
    """The result of a command.

    Attributes:
        facts: The object that `--json` prints.
        text: Lines to print otherwise; empty where the command has printed them already.
        ok: Exit code 0; otherwise 1.
    """

    facts: Mapping[str, Any]
    text: str = ""
    ok: bool = True


class _PlainEpilog(click.Command):
    """A command whose epilog is shown as it is written; click would fill its lines."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if self.epilog:
            formatter.write(f"\n{self.epilog}")


class Command(_PlainEpilog):
    """A command whose function returns an `Answer`, or an exit code.

    The first sentence of the function's docstring is the command's line in `iom --help`.

    Attributes:
        renamed: Former name of an option to its name now; a former name is refused with this hint.
    """

    def __init__(self, name: str, *, renamed: Mapping[str, str] | None = None, **settings: Any) -> None:
        settings["context_settings"] = SETTINGS | settings.get("context_settings", {})
        super().__init__(name, **settings)
        self.renamed = renamed or {}

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            if error.option_name in self.renamed:
                now = self.renamed[error.option_name]
                raise click.UsageError(f"no such option {error.option_name}: it is called {now} now", ctx) from error
            raise

    def invoke(self, ctx: click.Context) -> int:
        in_json = ctx.params.pop("json", False)
        try:
            with (
                contextlib.redirect_stdout(sys.stderr) if in_json else contextlib.nullcontext(),
                needs_train(ctx.command_path),
            ):
                answer: Answer | int = super().invoke(ctx)
        except KeyboardInterrupt as stop:
            raise KeyboardInterrupt(_interrupted(str(stop), ctx)) from None
        if isinstance(answer, int):
            return answer
        if in_json:
            print(json.dumps(answer.facts, default=_plain))
        elif answer.text:
            print(answer.text)
        return OK if answer.ok else NO


class Group(_PlainEpilog, click.Group):
    """Commands in the order and the sections they were declared in; an unknown one gets a hint."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(name, help=text, context_settings=SETTINGS, no_args_is_help=False)
        self.sections: dict[str, list[click.Command]] = {}
        self.renamed: dict[str, str] = {}

    def section(self, title: str, *, epilog: str = "") -> Callable[..., Callable[[Callable[..., Any]], Command]]:
        """`declare` for the commands under one heading; `epilog` is of those that have none of their own."""
        return functools.partial(self.declare, title, epilog=epilog)

    def declare(
        self,
        title: str,
        name: str,
        *,
        examples: Sequence[str] = (),
        answers: bool = True,
        epilog: str = "",
        **settings: Any,
    ) -> Callable[[Callable[..., Any]], Command]:
        """A decorator that makes a command of a function, whose signature declares the options (`option`, `argument`).

        `title` is its heading in the help; `examples` hold what follows the name; without `answers` it has no `--json`.
        """
        path = name if self.name == "iom" else f"{self.name} {name}"
        text = "".join(f"  iom {path} {line}".rstrip() + "\n" for line in examples)
        epilog = "\n".join(filter(None, [epilog, f"examples:\n{text}" if text else ""]))

        def decorate(function: Callable[..., Any]) -> Command:
            as_json = click.Option(["--json"], is_flag=True, help="print one JSON object, also of an error")
            command = Command(
                name,
                callback=lambda **values: _call(function, values),
                params=[*([as_json] if answers else []), *_parameters(function)],
                help=inspect.getdoc(function),
                epilog=epilog,
                **settings,
            )
            self.add_command(command)
            self.sections.setdefault(title, []).append(command)
            return command

        return decorate

    def subgroup(self, title: str, name: str, text: str) -> "Group":
        """A group of commands within this one, listed under `title`."""
        group = Group(name, text)
        self.add_command(group)
        self.sections.setdefault(title, []).append(group)
        return group

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in self.commands and not name.startswith("-"):
            now = self.renamed.get(name)
            hint = f": it is called {now!r} now" if now else did_you_mean(name, self.commands)
            raise ConfigError(f"no command {name[:64]!a}{hint}; see {ctx.command_path} --help")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, self.commands))
        for title, commands in self.sections.items():
            with formatter.section(title):
                sentences = [" ".join((each.help or "").split()).partition(". ")[0].rstrip(".") for each in commands]
                names = [str(each.name).ljust(width) for each in commands]
                formatter.write_dl(list(zip(names, sentences, strict=True)))


def run(command: click.Command, argv: Sequence[str] | None = None, *, program: str = "iom") -> int:
    """Parse `argv`, run the command and print its answer; a user's mistake becomes one line or one JSON object.

    With `--json`, standard output holds that object alone: what a command prints meanwhile goes to standard error.
    Without `argv` the arguments of the process count; `program` was started, for help and errors. Returns the exit
    code.
    """
    given = sys.argv[1:] if argv is None else [*argv]
    if isinstance(command, Group) and not given:
        given = ["--help"]

    def act() -> int:
        try:
            with command.make_context(program, list(given), obj=given) as context:
                return int(command.invoke(context))
        except click.exceptions.Exit as ended:  # --help, --version
            return int(ended.exit_code)
        except click.UsageError as error:
            raise ConfigError(_usage(error, program)) from error

    return guarded(act, in_json="--json" in given)


def guarded(act: Callable[[], int], *, in_json: bool = False) -> int:
    """The exit code of `act`, or that of its error, which is shown as one line or as JSON."""
    try:
        with _warnings_in_one_line():
            code = act()
            sys.stdout.flush()
            return code
    except BrokenPipeError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is left in the buffer goes nowhere
        return exit_code(error)
    except (Exception, KeyboardInterrupt) as error:
        return _refuse(error, in_json=in_json)


def exit_code(error: BaseException) -> int:
    """Exit code of an error; `BUG` for one that is no user's mistake."""
    return next((code for code, (kinds, _) in EXIT_CODES.items() if isinstance(error, kinds)), BUG)


@contextlib.contextmanager
def goes_on_when_repeated() -> Iterator[None]:
    """Ctrl-C says that the same command, started again, goes on where it was stopped."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt("stopped; start the same command again to go on") from None


def counted(count: int, noun: str) -> str:
    """Such as "1 reference", "2 references"."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


class Choice(click.Choice[str]):
    """One of several names; a misspelt one gets a hint."""

    def get_invalid_choice_message(self, value: Any, ctx: click.Context | None) -> str:
        return f"unknown {value!r}{did_you_mean(str(value), self.choices)} (choices: {', '.join(self.choices)})"


def output_folder(value: str | Path) -> Path:
    """A folder to write to, refused before any work is done if it cannot be written."""
    check_output(Path(value))
    return Path(value)


def output_file(value: str | Path) -> Path:
    """A file to write, refused before any work is done if it cannot be written."""
    check_output(Path(value), folder=False)
    return Path(value)


def option(text: str | None, metavar: str | None = None, **settings: Any) -> Any:
    """Declares an option, within `Annotated` in the signature of a command or of a dataclass that is one's argument.

    Name, type, default, and whether it is required come from the signature; `settings` of `click.Option` go before.
    Another name is the setting `flag`; several are separated by spaces.
    """
    return functools.partial(click.Option, help=text, metavar=metavar, **settings)


def argument(metavar: str | None = None, **settings: Any) -> Any:
    """Declares an argument, as `option` does an option; a parameter that nothing is said of is one, too."""
    return functools.partial(click.Argument, metavar=metavar, **settings)


def output_option(text: str, *, folder: bool = True, **settings: Any) -> Any:
    """Declares an option for the folder or file that a command writes."""
    return option(text, "DIR" if folder else "FILE", type=output_folder if folder else output_file, **settings)


def _annotated(parameter: inspect.Parameter) -> tuple[Any, Any]:
    """Type of a parameter and what else its annotation says."""
    hint = parameter.annotation
    return getattr(hint, "__origin__", hint), getattr(hint, "__metadata__", (None,))[0]


def _parameters(function: Callable[..., Any], changes: Mapping[str, Any] | None = None) -> Iterator[click.Parameter]:
    """The options and arguments of a signature, those of a dataclass among them; `changes` are settings by name."""
    for name, parameter in inspect.signature(function).parameters.items():
        hint, declared = _annotated(parameter)
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            yield from _parameters(hint, declared)
            continue
        kinds = [kind for kind in get_args(hint) or (hint,) if kind is not NoneType]
        kind = (get_args(kinds[0]) or kinds)[0]
        settings: dict[str, Any] = {"is_flag": True} if kind is bool else {"type": PATH if kind is Path else kind}
        settings["required"] = parameter.default is parameter.empty and hint is not bool and hint == kinds[0]
        if parameter.default not in (parameter.empty, None):
            settings |= {"default": parameter.default, "show_default": parameter.default != ""}
        declared = declared or argument()
        settings |= {**declared.keywords, **(changes or {}).get(name, {})}
        flags = settings.pop("flag", f"--{name.replace('_', '-')}").split()
        yield declared.func([*flags, name] if declared.func is click.Option else [name], **settings)


def _call(function: Callable[..., Any], values: Mapping[str, Any]) -> Any:
    """Call a function with the values of the options that its signature declares."""
    given = {}
    for name, parameter in inspect.signature(function).parameters.items():
        hint, _ = _annotated(parameter)
        given[name] = _call(hint, values) if isinstance(hint, type) and dataclasses.is_dataclass(hint) else values[name]
    return function(**given)


NO_DEFAULT = {"default": None, "envvar": None, "show_envvar": False}
"""Changes of an option that has no default in this command."""
Quiet = Annotated[bool, option("no progress bars")]
Workers = Annotated[int, option("processes", "N", type=COUNT)]
DetectorWeights = Annotated[Path | None, option("the detector's ONNX file (yunet, yunet_onnx)", "FILE")]


@dataclasses.dataclass(frozen=True)
class ConfigOptions:
    """`--config` and `--set`."""

    config: Annotated[Path | None, option("YAML configuration, or the name of one", "FILE", required=True)]
    overrides: Annotated[
        Sequence[str], option("change one setting; may be repeated", "SECTION.KEY=VALUE", flag="--set", multiple=True)
    ]

    def load(self, kind: "type[SectionT]", *more: str, default: Path | None = None) -> "SectionT":
        """The configuration with the overrides, and `more` of them."""
        from iom.config import load_config

        return load_config(kind, self.config or default, overrides=[*self.overrides, *more])


@dataclasses.dataclass(frozen=True)
class RunOptions(ConfigOptions):
    """The options of a run that can be continued."""

    output: Annotated[Path, output_option("folder of the run")]
    resume: Annotated[bool, option("continue the run in --output where it stopped")]
    quiet: Quiet

    def how(self) -> dict[str, Any]:
        """Further arguments of a run: `resume`, `progress`, and `report`, which prints a line at once."""
        report = functools.partial(print, flush=True)
        return {"resume": self.resume, "progress": not self.quiet, "report": report}


@dataclasses.dataclass(frozen=True)
class HasherOptions:
    """`--hasher` and `--weights`."""

    hasher: Annotated[
        str,
        option(
            "folder of a trained hasher, artefact of iom deploy, or a name",
            "NAME_OR_PATH",
            envvar="IOM_HASHER",
            show_envvar=True,
        ),
    ] = BUNDLED
    weights: Annotated[str, option("embedder (default: the hasher's own)", "NAME_OR_FILE")] = ""

    def load(self, **settings: Any) -> "FaceHasher":
        """The face hasher, as `iom.load` opens it."""
        from iom.models.face_hasher import load

        return load(self.hasher, weights=self.weights, **settings)

    def web_artifact(self, stack: contextlib.ExitStack) -> Path:
        """The artefact for browsers: `NAME.web` of `iom deploy --to web`, or the bundled one, made while `stack` lasts.

        Raises:
            ConfigError: Another hasher, or weights.
        """
        if self.weights:
            raise ConfigError("--weights: an artefact for browsers embeds for itself, expected none")
        if self.hasher == BUNDLED:
            from iom.export.web import bundled_web

            return bundled_web(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="iom-web-"))))
        if not self.hasher.rstrip("/").endswith(".web"):
            raise ConfigError(
                f"--hasher: expected an artefact for browsers, NAME.web, received {self.hasher}; make one with: "
                f"iom deploy --to web --hasher {shlex.quote(self.hasher)}"
            )
        return Path(self.hasher)


def _usage(error: click.UsageError, program: str) -> str:
    text = error.format_message()
    text = text[:1].lower() + text[1:].rstrip(".")
    return f"{text}; see {error.ctx.command_path if error.ctx else program} --help"


def _interrupted(reason: str, ctx: click.Context) -> str:
    """The reason and, for a run that can be continued, the command that does it."""
    reason = reason or "interrupted"
    if "resume" not in ctx.params:
        return reason
    root = ctx.find_root()
    program = str(root.info_name)
    start = ["python", program] if program.endswith(".py") else [program]
    rest = [text for text in root.obj if text != "--resume"]
    return f"{reason}; continue with: {shlex.join([*start, *rest, '--resume'])}"


@contextlib.contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    """Show warnings of this package as a line on standard error, without the place in the code."""
    show_others = warnings.showwarning

    def show(message: Any, category: type[Warning], *place: Any, **more: Any) -> None:
        if issubclass(category, BystanderWarning | KeyKindWarning | PrecisionWarning | UnmaskedWarning):
            print(f"warning: {message}", file=sys.stderr)
        else:
            show_others(message, category, *place, **more)

    with warnings.catch_warnings():
        warnings.simplefilter("default", KeyKindWarning)
        warnings.simplefilter("default", UnmaskedWarning)
        warnings.simplefilter("always", BystanderWarning)
        warnings.showwarning = show
        yield


def _refuse(error: BaseException, *, in_json: bool) -> int:
    code, message = exit_code(error), _message(error)
    if code == BUG:
        traceback.print_exc()
    if in_json:
        facts = {"type": type(error).__name__, "message": message, "exit_code": code}
        print(json.dumps({"error": facts | vars(error)}, default=_plain))
    elif code != BUG:
        prefix = "" if isinstance(error, KeyboardInterrupt) else "error: "
        print(f"{prefix}{message}", file=sys.stderr)
    return code


def _message(error: BaseException) -> str:
    """The error's text, in one line."""
    text = str(error)
    if isinstance(error, MemoryError):
        text = f"out of memory: {text}" if text else "out of memory"
    elif isinstance(error, KeyboardInterrupt):
        text = text or "interrupted"
    elif isinstance(error, OSError):
        places = [str(place) for place in (error.filename, error.filename2) if place is not None]
        reason = error.strerror or text or type(error).__name__
        text = f"{' -> '.join(places)}: {reason}" if places else reason
    return " ".join(text.split())


def _plain(value: Any) -> Any:
    """A value that JSON has no type for: a path, a number or array of NumPy."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


root = Group("iom", "Cancellable face templates.")
