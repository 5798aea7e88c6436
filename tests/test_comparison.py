"""docs/comparison.md: the code for iom runs, and the table counts the lines that are there."""

import re

import pytest
from PIL import Image

from iom.synthetic import load_face_model

TITLES = ("Are these two photographs of one person?", "Find the faces of a picture", "Who of my people is this?")


@pytest.fixture(scope="module")
def blocks(root):
    """Title of a task to its code: iom, deepface, face_recognition, insightface."""
    text = (root / "docs" / "comparison.md").read_text(encoding="utf-8")
    parts = {part.partition("\n")[0]: part for part in text.split("\n## ")}
    return {title: re.findall(r"```python\n(.*?)```", parts[title], flags=re.DOTALL) for title in TITLES}


def test_the_lines_of_the_table(blocks, root):
    (row,) = re.findall(
        r"\| lines for the three tasks \| (.*?) \|\n", (root / "docs" / "comparison.md").read_text("utf-8")
    )
    counted = [[len(re.findall(r"\S.*\n", code)) for code in blocks[title]] for title in TITLES]
    assert [tuple(map(int, cell.split(", "))) for cell in row.split(" | ")] == list(zip(*counted, strict=True))


def test_the_code_of_iom_runs(blocks, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    faces, _ = load_face_model().sample(1, 2, seed=5)
    for face, name in zip(faces, ("a.jpg", "b.jpg"), strict=True):
        picture = Image.new("RGB", (320, 240), (128, 128, 128))
        picture.paste(Image.fromarray(face).resize((200, 200)), (60, 20))
        picture.save(name, quality=95)
    for title in TITLES:
        exec(blocks[title][0], {})
    match, face, who = capsys.readouterr().out.splitlines()
    assert match in ("True", "False")
    assert re.fullmatch(r"\[.*\] [\d.]+|\(.*\) [\d.]+", face)
    assert who.startswith("alice ")
