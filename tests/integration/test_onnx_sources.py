"""Full-size networks that PyTorch wrote, by three exporters, against onnxruntime's embeddings."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from iom.pretrained.importers.foreign import build_foreign
from iom.pretrained.importers.onnx import read_onnx
from iom.pretrained.manifest import Statement

HERE = Path(__file__).parent
NAMES = ("iresnet18", "iresnet34", "iresnet50", "iresnet100", "mobilefacenet", "mobilefacenet_deep")
EXPORTERS = ("legacy", "unfolded", "dynamo")


@pytest.fixture(scope="session")
def torch_python(root):
    """Python with PyTorch: `$IOM_TORCH_PYTHON`, or an environment made here once."""
    if os.environ.get("IOM_TORCH_PYTHON"):
        return os.environ["IOM_TORCH_PYTHON"]
    folder = root / ".cache" / "onnx-sources"
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        requirements = HERE / "onnx-requirements.txt"
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "-r", requirements], check=True)
        (folder / "complete").touch()
    return str(python)


@pytest.mark.proof
@pytest.mark.parametrize("name", NAMES)
def test_full_size_parity(tmp_path, torch_python, name):
    script = HERE / "make_onnx_sources.py"
    subprocess.run([torch_python, script, tmp_path, name], check=True, capture_output=True)
    statement = Statement(colour_order="RGB", range="-1..1", size=112, embedding_size=512)
    for exporter in EXPORTERS:
        path = tmp_path / f"{name}-{exporter}.onnx"
        source = np.load(path.with_suffix(".npz"))
        model = build_foreign(read_onnx(path), statement)
        result = np.asarray(model(source["images"].astype(np.float32)))
        expected = source["embeddings"]
        norms = np.linalg.norm(result, axis=1) * np.linalg.norm(expected, axis=1)
        cosine = ((result * expected).sum(1) / norms).min()
        deviation = np.abs(result - expected).max() / expected.std()
        print(f"{path.name}: lowest cosine {cosine:.7f}, largest deviation {deviation:.1e} std")
        assert cosine >= 0.9999
        assert deviation < 1e-3
        for file in tmp_path.glob(f"{path.name}*"):
            file.unlink()
