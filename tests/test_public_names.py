"""The public names of `iom` and of its packages, which are loaded when they are first used."""

import ast
import collections
import importlib
import pkgutil
import re
import subprocess
import sys

import pytest

import iom

PACKAGES = ["iom", *(f"iom.{module.name}" for module in pkgutil.iter_modules(iom.__path__) if module.ispkg)]
LAZY = [name for name in PACKAGES if hasattr(importlib.import_module(name), "__getattr__")]


@pytest.mark.parametrize("name", LAZY)
def test_every_public_name_exists(name):
    package = importlib.import_module(name)
    assert package.__all__
    for public in package.__all__:
        assert getattr(package, public)
        assert public in dir(package)


def test_a_package_is_imported_without_what_it_offers():
    code = f"import sys, {', '.join(LAZY)}; sys.exit(bool({{'numpy', 'keras', 'tensorflow'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_page_names_each_package(root):
    page = (root / "docs" / "api.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `(iom\.\w+)` \|", page, flags=re.M)
    assert sorted(listed) == sorted(name for name in PACKAGES if name not in ("iom", "iom.cli"))


def test_the_page_of_public_names_has_each_of_them(root):
    page = (root / "docs" / "api.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `(?!iom\.)(\w+)[^`]*` \|", page, flags=re.M)
    assert sorted(listed) == sorted([*iom.__all__, "__version__"])


def test_the_code_of_the_page_runs(root, tmp_path, monkeypatch):
    page = (root / "docs" / "api.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(block, names)
    assert names["decision"].match


def test_another_name_is_an_error():
    with pytest.raises(AttributeError, match="iom attribute nothing"):
        iom.nothing  # noqa: B018


def test_no_two_classes_have_one_name(root):
    found = collections.defaultdict(list)
    for file in sorted((root / "iom").rglob("*.py")):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                found[node.name].append(file.name)
    assert {name: files for name, files in found.items() if len(files) > 1} == {}
