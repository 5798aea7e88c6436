"""The notebooks run as they are on a newcomer's machine: synthetic faces, no network, an empty folder."""

import json
import os
import re

import pytest

QUICK = {"1_verify_and_hash", "5_gallery"}
NOTEBOOKS = ["1_verify_and_hash", "2_train", "3_evaluate", "4_attack_and_renew", "5_gallery", "6_export"]
MAX_BYTES = 150_000
MINUTES = 10


def test_they_are_small_and_all_are_run(root):
    found = {path.stem: path.stat().st_size for path in (root / "notebooks").glob("*.ipynb")}
    assert sorted(found) == NOTEBOOKS
    assert max(found.values()) < MAX_BYTES


def test_their_links_lead_somewhere(root):
    for path in (root / "notebooks").glob("*.ipynb"):
        for cell in json.loads(path.read_text("utf-8"))["cells"]:
            for target in re.findall(r"\]\(([^)#]+)\)", "".join(cell["source"]) * (cell["cell_type"] == "markdown")):
                assert "://" in target or (path.parent / target).exists(), f"{path.name}: {target}"


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.proof) for name in NOTEBOOKS]
)
def test_it_runs(name, root, tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="needs requirements-docs.txt")
    nbformat = pytest.importorskip("nbformat", reason="needs requirements-docs.txt")
    pytest.importorskip("ipykernel", reason="needs requirements-docs.txt")
    path = os.pathsep.join(filter(None, (str(root), os.environ.get("PYTHONPATH"))))
    monkeypatch.setenv("PYTHONPATH", path)
    notebook = nbformat.read(root / "notebooks" / f"{name}.ipynb", as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=60 * MINUTES, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
