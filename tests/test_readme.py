"""What the README promises: its code runs, its commands and links exist."""

import re

import pytest

from iom.data.synthetic import load_face_model


@pytest.fixture
def readme(root):
    return (root / "README.md").read_text(encoding="utf-8")


def test_the_code_runs(readme, root, monkeypatch):
    monkeypatch.chdir(root)
    images, _ = load_face_model().sample(2, 2, seed=1)
    names = {"images": images}
    blocks = re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL)
    assert blocks
    for block in blocks:
        exec(block, names)
    assert names["codes"].shape == (4, names["hasher"].code_length)


def test_links_and_configurations_exist(readme, root):
    documents = [readme, *(path.read_text("utf-8") for path in (root / "docs").glob("*.md"))]
    for text in documents:
        for target in re.findall(r"\]\(([^)#]+)\)", text):
            if "://" not in target:
                assert (root / target).exists() or (root / "docs" / target).exists(), target
        for target in re.findall(r"configs/[\w/]+\.yaml", text):
            assert (root / target).exists(), target


def test_make_targets_exist(readme, root):
    targets = set(re.findall(r"^([a-z]+):", (root / "Makefile").read_text("utf-8"), flags=re.M))
    for target in re.findall(r"`make ([a-z]+)`|^make ([a-z]+)", readme, flags=re.M):
        assert (target[0] or target[1]) in targets
