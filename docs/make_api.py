"""Reference of the public names, from their signatures and docstrings: `python docs/make_api.py > docs/api.md`."""

import inspect
import re
import textwrap

import iom

HEADER = """\
# Reference

The public names of `iom`, as `import iom` offers them; each is loaded when it is first used. Everything else may change
between versions. Written by `python docs/make_api.py > docs/api.md`.
"""


def main() -> None:
    """Print the page."""
    print(HEADER)
    for name in sorted(set(iom.__all__) - {"__version__"}, key=str.lower):
        print(f"## `iom.{name}`\n")
        print(_entry(name, getattr(iom, name)))


def _entry(name: str, item: object) -> str:
    text = [_code(f"{name}{_signature(item)}"), _docstring(item)]
    if inspect.isclass(item) and not issubclass(item, BaseException):
        for method, function in sorted(vars(item).items()):
            member = inspect.unwrap(getattr(item, method)) if not method.startswith("_") else None
            if inspect.isfunction(member) or inspect.ismethod(member):
                text += [f"### `{name}.{method}`\n", _code(f"{method}{_signature(member)}"), _docstring(member)]
            elif isinstance(function, property) and member is not None:
                text += [f"### `{name}.{method}`\n", _docstring(function)]
    return "\n".join(part for part in text if part)


def _code(line: str) -> str:
    return f"```python\n{textwrap.fill(line, 116, subsequent_indent='    ', break_long_words=False)}\n```\n"


def _signature(item: object) -> str:
    try:
        text = str(inspect.signature(item))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return ""
    text = re.sub(r"numpy\.ndarray\[tuple\[typing\.Any, \.\.\.\], numpy\.dtype\[(.*?)\]\]", r"NDArray[\1]", text)
    return re.sub(r"\b(?:[a-z_]+\.)+(?=[A-Za-z])", "", text.replace("'", ""))


def _docstring(item: object) -> str:
    """The docstring; the sections of Google's style become lists."""
    lines: list[str] = []
    in_section = False
    for line in (inspect.getdoc(item) or "").splitlines():
        if line.rstrip() in ("Args:", "Returns:", "Raises:", "Yields:", "Attributes:"):
            in_section = True
            lines += [f"**{line.strip()[:-1]}**", ""]
        elif in_section and line.startswith("    ") and not line.startswith("     "):
            lines.append(f"- {line.strip()}")
        elif in_section and line.startswith("     "):
            lines.append(f"  {line.strip()}")
        else:
            in_section = in_section and not line
            lines.append(line)
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    main()
