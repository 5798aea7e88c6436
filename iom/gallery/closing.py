"""What is closed at the end of a `with` block."""

import abc
from types import TracebackType
from typing import Self


class Closing(abc.ABC):
    """Something with `close()`."""

    @abc.abstractmethod
    def close(self) -> None:
        """Give everything back; a second call does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
