"""What the README promises: its code runs, its commands and links exist."""

import re

import numpy as np
import pytest
from PIL import Image

from iom.cli.main import root as program
from iom.synthetic import load_face_model


@pytest.fixture
def readme(root):
    return (root / "README.md").read_text(encoding="utf-8")


def test_the_code_runs(readme, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    faces, _ = load_face_model().sample(1, 2, seed=8)
    for name, face in zip("ab", faces, strict=True):
        Image.fromarray(face).save(tmp_path / f"{name}.jpg", quality=95)
    names = {}
    blocks = re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL)
    assert blocks
    for block in blocks:
        exec(block, names)
    assert names["codes"].shape == (4, names["hasher"].code_length)
    assert capsys.readouterr().out == "[ True False False]\n"


@pytest.mark.parametrize("name", ["heads", "stage1_scale"])
def test_the_code_of_a_document_runs(name, root):
    text = (root / "docs" / f"{name}.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert blocks
    names = {}
    for block in blocks:
        exec(block, names)  # later blocks go on from earlier ones, as a reader does
    assert all(np.isfinite(weights).all() for weights in names["model"].get_weights())


@pytest.mark.parametrize("name", ["gallery", "cards"])
def test_the_code_of_a_decision_runs(name, root, tmp_path, monkeypatch):
    (block,) = re.findall(r"```python\n(.*?)```", (root / "docs" / f"{name}.md").read_text("utf-8"), flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(block, names)
    assert names["decision"].match


def test_links_and_configurations_exist(readme, root):
    documents = [readme, *(path.read_text("utf-8") for path in (root / "docs").glob("*.md"))]
    for text in documents:
        for target in re.findall(r"\]\(([^)#]+)\)", text):
            if "://" not in target:
                assert (root / target).exists() or (root / "docs" / target).exists(), target
        for target in re.findall(r"configs/[\w/]+\.yaml", text):
            assert (root / target).exists(), target


def test_anchors_exist(root):
    toc = pytest.importorskip("markdown.extensions.toc", reason="needs requirements-docs.txt")
    pages = {
        path: path.read_text("utf-8")
        for path in [root / "README.md", root / "pre_models" / "README.md", *(root / "docs").glob("**/*.md")]
    }
    anchors = {
        path: {toc.slugify(title, "-") for title in re.findall(r"^#+ (.+)$", text.replace("`", ""), flags=re.M)}
        for path, text in pages.items()
    }
    for path, text in pages.items():
        for target, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", text):
            page = (path.parent / target).resolve() if target else path
            assert anchor in anchors[page], f"{path.name}: {target}#{anchor}"


def test_commands_that_are_named_exist(readme, root):
    texts = [readme, *(path.read_text("utf-8") for path in (root / "docs").glob("*.md"))]
    text = " ".join(texts)
    commands = set(re.findall(r"(?:python -m |`|^)iom ([a-z][a-z0-9-]+)", text, flags=re.M))
    assert commands
    assert commands <= set(program.commands)
    assert "iom.cli" not in text
