"""The public names of `iom`, which are loaded when they are first used."""

import ast
import re

import pytest

import iom


@pytest.mark.parametrize("name", iom.__all__)
def test_every_public_name_exists(name):
    assert getattr(iom, name)
    assert name in dir(iom)


def test_type_checkers_know_the_same_names(root):
    stub = ast.parse((root / "iom" / "__init__.pyi").read_text(encoding="utf-8"))
    known = {alias.asname for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert known == {*iom.__all__} - {"__version__"}


def test_the_page_of_public_names_has_each_of_them(root):
    page = (root / "docs" / "api.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `(\w+)[^`]*` \|", page, flags=re.M)
    assert sorted(listed) == sorted(iom.__all__)


def test_the_code_of_the_page_runs(root, tmp_path, monkeypatch):
    page = (root / "docs" / "api.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(block, names)
    assert names["decision"].match


def test_another_name_is_an_error():
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        iom.nothing  # noqa: B018
