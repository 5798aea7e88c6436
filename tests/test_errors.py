"""Errors tell what to do."""

import importlib.metadata
import re
import tomllib

import pytest

from iom.errors import missing_extra


@pytest.fixture
def metadata(root, monkeypatch):
    """Metadata of an installed `iom`, as the build writes it."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    required = [*project["dependencies"]]
    required += [f'{text}; extra == "{name}"' for name, texts in extras.items() for text in texts]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: {"iom": required}[name])
    return extras


def test_what_an_extra_installs_is_named_so_that_it_works_anywhere(metadata):
    message = str(missing_extra("reading a.onnx", "onnx", cause="no onnx", otherwise="do without"))
    assert message == (
        "reading a.onnx needs the extra 'onnx', which is not installed (no onnx): "
        "pip install 'onnx>=1.18', or do without"
    )
    both = str(missing_extra("export", "onnx", "openvino"))
    assert both.endswith("pip install 'onnx>=1.18' 'openvino>=2025.0'")


def test_without_metadata_the_sources_are_named(root, monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", missing)
    assert str(missing_extra("a", "heic")).endswith(f"pip install '{root}[heic]'")


def test_every_extra_that_is_asked_for_exists(root, metadata):
    calls = [
        text
        for path in (root / "iom").rglob("*.py")
        for text in re.findall(r"(?:raise missing_extra|with needs_extra)\((.*?)\)", path.read_text(encoding="utf-8"))
    ]
    named = {name for text in calls for name in re.findall(r', "([\w-]+)"', text)}
    assert len(named) > 8
    assert named <= set(metadata)


def test_no_text_offers_a_package_that_the_index_does_not_have(root):
    texts = [path for folder in ("iom", "docs", "notebooks") for path in (root / folder).rglob("*.*")]
    for path in [*texts, root / "README.md", root / "pre_models" / "README.md"]:
        if path.suffix in {".py", ".md", ".html", ".js", ".ipynb"}:
            assert not re.search(r"\biom\[\w", path.read_text(encoding="utf-8")), path
