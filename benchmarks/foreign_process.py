"""A program of another environment that is asked line by line, such as one that times faiss."""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from iom.errors import ConfigError


class ForeignProcess:
    """Answers a line of text for each line; the first one, unasked, is its `version`.

    Args:
        python: Of an environment that has what the script imports.
        script: Name of a file in this folder.
        arguments: Of the script.
        environment: The variables it sees.
    """

    def __init__(self, python: Path, script: str, arguments: Sequence[object], environment: Mapping[str, str]) -> None:
        self._script = script
        self._process = subprocess.Popen(
            [str(python), str(Path(__file__).with_name(script)), *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=dict(environment),
        )
        self.version = self._answer()

    def ask(self, line: str) -> str:
        """The answer to a line."""
        print(line, file=self._process.stdin, flush=True)
        return self._answer()

    def close(self) -> None:
        """End it."""
        self._process.communicate()

    def _answer(self) -> str:
        assert self._process.stdout is not None  # noqa: S101  (a pipe, as asked)
        line = self._process.stdout.readline()
        if not line:
            raise ConfigError(f"{self._script} stopped; see above for its error")
        return line.strip()
