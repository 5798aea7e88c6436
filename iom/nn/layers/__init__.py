"""Layers between the embedding and the code, and heads of training."""

import inspect
from typing import Any


class SavedArguments:
    """Part of a Keras object whose `get_config` adds its constructor's arguments, each an attribute of that name."""

    def get_config(self) -> dict[str, Any]:
        parameters = inspect.signature(type(self)).parameters.values()
        names = [each.name for each in parameters if each.kind is not inspect.Parameter.VAR_KEYWORD]
        config: dict[str, Any] = super().get_config()  # type: ignore[misc]
        return {**config, **{name: getattr(self, name) for name in names}}
