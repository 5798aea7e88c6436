"""The documentation site: it builds without a warning and loads nothing from elsewhere."""

import importlib
import os
import re
import subprocess
import sys

import pytest


def test_the_reference_has_every_public_name(root, monkeypatch):
    pytest.importorskip("mkdocs", reason="needs requirements-docs.txt")
    monkeypatch.syspath_prepend(root / "docs")
    packages = importlib.import_module("_site")._packages()
    for package, names in packages.items():
        offered = getattr(importlib.import_module(package), "__all__", names)
        assert set(offered) - {"__version__"} == set(names), package
    assert packages["iom"]["Gallery"] == "iom.gallery.gallery.Gallery"
    assert "iom.synthetic" in packages


@pytest.mark.proof
def test_the_site_builds_without_a_warning_and_loads_nothing_from_elsewhere(root, tmp_path):
    pytest.importorskip("mkdocs", reason="needs requirements-docs.txt")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=root,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    pages = {path.relative_to(tmp_path).as_posix(): path.read_text("utf-8") for path in tmp_path.rglob("*.html")}
    for name in ("index", "faq", "configurations", "commands", "reference/iom", "reference/iom.gallery"):
        assert f"{name}.html" in pages
    for name, page in pages.items():
        loaded = re.findall(
            r"<(?:script|img|iframe|source|link)\b[^>]*(?:src|href)=[\"']?((?:https?:)?//[^\"'\s>]+)", page
        )
        assert loaded == [], name
    assert "code_length" in pages["configurations.html"]
    assert "--detector-weights" in pages["commands.html"]
