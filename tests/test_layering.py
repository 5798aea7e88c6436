"""Imports go down only."""

import ast
from pathlib import Path

import pytest

LEVELS = [
    {"errors", "_registry", "_files", "_unpickling", "_untrusted", "_random", "_tensorflow_log", "keys"},
    {"config", "codes", "metrics"},
    {"photos", "data", "synthetic", "nn"},
    {"pretrained", "models", "baselines", "attacks", "gallery"},
    {"training", "evaluation", "service", "export"},
    {"cli", "__main__"},
]
LEVEL_OF = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}
TENSORFLOW_ROOMS = {
    "data",
    "_random.py",
    "pretrained/importers/tensorflow_graphs.py",
    "nn/layers/sampled_cosine.py",
    "nn/layers/index_of_max.py",
    "export",
    "models/sessions.py",
    "training/distribution.py",
}
PACKAGE = Path(__file__).parents[1] / "iom"
MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


def room_of(module):
    return module.parts[0].removesuffix(".py")


def imported_names(module):
    tree = ast.parse((PACKAGE / module).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            yield node.module


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_imports_go_down_only(module):
    room = room_of(module)
    if room == "__init__":
        return
    for name in imported_names(module):
        parts = name.split(".")
        if parts[0] != "iom" or len(parts) == 1 or parts[1] == room:
            continue
        assert LEVEL_OF[parts[1]] <= LEVEL_OF[room], f"{module} imports {name}, which is above it"


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_tensorflow_stays_in_its_rooms(module):
    allowed = room_of(module) in TENSORFLOW_ROOMS or module.as_posix() in TENSORFLOW_ROOMS
    for name in imported_names(module):
        assert allowed or name.split(".")[0] != "tensorflow", f"{module} imports {name}"
