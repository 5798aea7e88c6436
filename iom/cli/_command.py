"""Commands, their answers as text or JSON, their errors as one line with an exit code, and shared options."""

import contextlib
import dataclasses
import functools
import json
import shlex
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from iom._registry import did_you_mean
from iom._tensorflow_log import silence
from iom.errors import (
    ConfigError,
    FaceError,
    IomError,
    KeyKindWarning,
    KeyMaterialError,
    NotEnrolledError,
    RevokedError,
    StoreError,
)
from iom.pretrained import BUNDLED

if TYPE_CHECKING:
    from iom.config import Section
    from iom.models.face_hasher import FaceHasher

T = TypeVar("T")
SectionT = TypeVar("SectionT", bound="Section")

OK, NO, BUG = 0, 1, 70
EXIT_CODES: dict[int, tuple[tuple[type[BaseException], ...], str]] = {
    OK: ((), "done; match"),
    NO: ((), "no match, problems found"),
    3: ((NotEnrolledError,), "the subject is not enrolled"),
    4: ((RevokedError,), "the subject was revoked"),
    5: ((FaceError,), "an image cannot be used as a face"),
    6: ((StoreError, KeyMaterialError), "record store or key store: missing, damaged, wrong passphrase or key"),
    2: ((IomError, OSError, MemoryError), "wrong arguments, configuration or input; a file cannot be read or written"),
    BUG: ((), "an error of the program, with its traceback"),
    130: ((KeyboardInterrupt,), "interrupted"),
}
"""Exit code to the errors that end with it, and its meaning; the first one that fits an error counts."""
SETTINGS = {"help_option_names": ["-h", "--help"], "show_default": True, "max_content_width": 100}
PATH = click.Path(path_type=Path)
COUNT = click.IntRange(min=1)
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


@dataclasses.dataclass(frozen=True)
class Answer:
    """The result of a command.

    Attributes:
        facts: The object that `--json` prints.
        text: Lines to print otherwise; empty where the command has printed them already.
        code: Exit code.
    """

    facts: Mapping[str, Any]
    text: str = ""
    code: int = OK


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
            with contextlib.redirect_stdout(sys.stderr) if in_json else contextlib.nullcontext():
                answer: Answer | int = super().invoke(ctx)
        except KeyboardInterrupt as stop:
            raise KeyboardInterrupt(_interrupted(str(stop), ctx)) from None
        if isinstance(answer, int):
            return answer
        if in_json:
            print(json.dumps(answer.facts, default=_plain))
        elif answer.text:
            print(answer.text)
        return answer.code


class Group(_PlainEpilog, click.Group):
    """Commands in the order and the sections they were declared in; an unknown one gets a hint."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(name, help=text, context_settings=SETTINGS, no_args_is_help=False)
        self.sections: dict[str, list[click.Command]] = {}
        self.renamed: dict[str, str] = {}

    def section(self, title: str, *, epilog: str = "") -> Callable[..., Callable[[Callable[..., Any]], Command]]:
        """A decorator as `click.command`, for the commands that the help lists under `title`.

        Args:
            title: The heading.
            epilog: Of commands that have none of their own.

        Returns:
            A function of the command's name, `examples` (what follows the name), `answers` (the command has `--json`),
            `epilog`, and settings of `Command`.
        """

        def declare(
            name: str, *, examples: Sequence[str] = (), answers: bool = True, epilog: str = epilog, **settings: Any
        ) -> Callable[[Callable[..., Any]], Command]:
            path = name if self.name == "iom" else f"{self.name} {name}"
            text = "".join(f"  iom {path} {line}".rstrip() + "\n" for line in examples)
            parts = [epilog, f"examples:\n{text}" if text else ""]

            def decorate(function: Callable[..., Any]) -> Command:
                if answers:
                    as_json = click.option("--json", is_flag=True, help="print one JSON object, also of an error")
                    function = as_json(function)
                command = click.command(name, cls=Command, epilog="\n".join(filter(None, parts)), **settings)(function)
                self.add_command(command)
                self.sections.setdefault(title, []).append(command)
                return command

            return decorate

        return declare

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
                rows = [(str(each.name).ljust(width), first_sentence(each.help or "")) for each in commands]
                formatter.write_dl(rows)


def first_sentence(text: str) -> str:
    """The first sentence, without its full stop."""
    return " ".join(text.partition("\n\n")[0].split()).partition(". ")[0].rstrip(".")


def run(command: click.Command, argv: Sequence[str] | None = None, *, program: str = "iom") -> int:
    """Parse `argv`, run the command and print its answer; a user's mistake becomes one line or one JSON object.

    With `--json`, standard output holds that object alone: what a command prints meanwhile goes to standard error.

    Args:
        command: A command, or a group of them.
        argv: Arguments (default: those of the process).
        program: Name of what was started, for help and errors.

    Returns:
        The exit code.
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
    silence()
    try:
        with _warnings_in_one_line():
            return act()
    except (IomError, OSError, MemoryError) as error:
        return _refuse(error, _message(error), in_json=in_json)
    except KeyboardInterrupt as stop:
        return _refuse(stop, str(stop) or "interrupted", in_json=in_json)
    except Exception as error:
        traceback.print_exc()
        return _refuse(error, str(error), in_json=True) if in_json else BUG


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


def exclusive(**options: Any) -> None:
    """Refuse more than one of these options.

    Raises:
        ConfigError: Two or more were given.
    """
    given = [f"--{name.replace('_', '-')}" for name, value in options.items() if value]
    if len(given) > 1:
        raise ConfigError(f"{' and '.join(given)} exclude each other: give one of them")


def counted(count: int, noun: str) -> str:
    """Such as "1 reference", "2 references"."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


class Choice(click.Choice[str]):
    """One of several names; a misspelt one gets a hint."""

    def get_invalid_choice_message(self, value: Any, ctx: click.Context | None) -> str:
        return f"unknown {value!r}{did_you_mean(str(value), self.choices)} (choices: {', '.join(self.choices)})"


class Output(click.ParamType[Path]):
    """The place of an output, refused before any work is done if it cannot be written."""

    name = "path"

    def __init__(self, *, folder: bool = True) -> None:
        self._folder = folder

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        from iom._files import check_output

        path = Path(value)
        check_output(path, folder=self._folder)
        return path


def packed(kind: type, name: str, *options: Decorator) -> Decorator:
    """Options whose values reach a command as one argument, a dataclass with a field for each of them.

    Args:
        kind: The dataclass.
        name: The argument of the command.
        options: Of Click.
    """
    fields = [field.name for field in dataclasses.fields(kind)]

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def with_object(**values: Any) -> Any:
            made = kind(**{field: values.pop(field) for field in fields})
            return function(**{name: made}, **values)

        decorated: Callable[..., Any] = with_object
        for option in reversed(options):
            decorated = option(decorated)
        return decorated

    return decorate


def output_option(text: str, *, folder: bool = True, **settings: Any) -> Decorator:
    """`--output`: the folder or file that a command writes."""
    settings.setdefault("required", "default" not in settings)
    settings.setdefault("metavar", "DIR" if folder else "FILE")
    return click.option("--output", type=Output(folder=folder), help=text, **settings)


def workers_option(default: int, text: str = "processes", *, least: int = 1) -> Decorator:
    """`--workers`: processes that share the work."""
    return click.option("--workers", type=click.IntRange(min=least), default=default, metavar="N", help=text)


quiet_option = click.option("--quiet", is_flag=True, help="no progress bars")


@dataclasses.dataclass(frozen=True)
class ConfigOptions:
    """`--config` and `--set`."""

    config: Path | None
    overrides: Sequence[str]

    def load(self, kind: "type[SectionT]", *more: str, default: Path | None = None) -> "SectionT":
        """The configuration with the overrides, and `more` of them.

        Raises:
            ConfigError: The file, or a setting of it, is wrong.
        """
        from iom.config import load_config

        return load_config(kind, self.config or default, overrides=[*self.overrides, *more])


def config_options(*, required: bool = True, text: str = "YAML configuration, or the name of one") -> Decorator:
    """`--config` and `--set` as `config`."""
    return packed(ConfigOptions, "config", *_config_options(required, text))


def _config_options(required: bool, text: str) -> tuple[Decorator, Decorator]:
    setting: dict[str, Any] = {"metavar": "SECTION.KEY=VALUE", "help": "change one setting; may be repeated"}
    return (
        click.option("--config", type=PATH, required=required, metavar="FILE", help=text),
        click.option("--set", "overrides", multiple=True, **setting),
    )


@dataclasses.dataclass(frozen=True)
class RunOptions(ConfigOptions):
    """The options of a run that can be continued."""

    output: Path
    resume: bool
    quiet: bool

    def how(self) -> dict[str, Any]:
        """Further arguments of a run: `resume`, `progress`, and `report`, which prints a line at once."""
        report = functools.partial(print, flush=True)
        return {"resume": self.resume, "progress": not self.quiet, "report": report}


run_options = packed(
    RunOptions,
    "run",
    *_config_options(True, "YAML configuration, or the name of one"),
    output_option("folder of the run"),
    click.option("--resume", is_flag=True, help="continue the run in --output where it stopped"),
    quiet_option,
)


@dataclasses.dataclass(frozen=True)
class HasherOptions:
    """`--hasher` and `--weights`."""

    hasher: str
    weights: str

    def load(self, **settings: Any) -> "FaceHasher":
        """The face hasher, as `iom.load` opens it."""
        from iom.models.face_hasher import load

        return load(self.hasher, weights=self.weights, **settings)


def hasher_options(**settings: Any) -> Decorator:
    """`--hasher` and `--weights` as `models`."""
    settings.setdefault("help", "folder of a trained hasher, artefact of iom deploy, or a name")
    if "default" not in settings:
        settings |= {"default": BUNDLED, "envvar": "IOM_HASHER", "show_envvar": True}
    return packed(
        HasherOptions,
        "models",
        click.option("--hasher", metavar="NAME_OR_PATH", **settings),
        click.option("--weights", default="", metavar="NAME_OR_FILE", help="embedder (default: the hasher's own)"),
    )


def detector_options(text: str, **settings: Any) -> Decorator:
    """`--detector` and `--detector-weights`."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        detector = click.option("--detector", metavar="NAME", help=text, **settings)
        weights = click.option(
            "--detector-weights", type=PATH, metavar="FILE", help="the detector's ONNX file (yunet, yunet_onnx)"
        )
        return detector(weights(function))

    return decorate


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
        if issubclass(category, KeyKindWarning):
            print(f"warning: {message}", file=sys.stderr)
        else:
            show_others(message, category, *place, **more)

    with warnings.catch_warnings():
        warnings.simplefilter("default", KeyKindWarning)
        warnings.showwarning = show
        yield


def _refuse(error: BaseException, message: str, *, in_json: bool) -> int:
    code = exit_code(error)
    if in_json:
        facts = {"type": type(error).__name__, "message": message, "exit_code": code}
        print(json.dumps({"error": facts | vars(error)}, default=_plain))
    else:
        prefix = "" if isinstance(error, KeyboardInterrupt) else "error: "
        print(f"{prefix}{message}", file=sys.stderr)
    return code


def _message(error: BaseException) -> str:
    """The error's text, in one line."""
    text = str(error)
    if isinstance(error, MemoryError):
        text = f"out of memory: {text}" if text else "out of memory"
    elif isinstance(error, OSError):
        places = [str(place) for place in (error.filename, error.filename2) if place is not None]
        reason = error.strerror or text or type(error).__name__
        text = f"{' -> '.join(places)}: {reason}" if places else reason
    return " ".join(text.split())


def _plain(value: Any) -> Any:
    """A value that JSON has no type for: a path, a number or array of NumPy."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


root = Group("iom", "Cancellable face templates.")
