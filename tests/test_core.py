"""What a gallery, the service and `iom verify` need is installed without the extra `train`."""

import json
import os
import subprocess
import sys
import tomllib

import pytest
from onnx import TensorProto, helper

from iom.errors import TRAIN_MODULES, MissingExtraError, needs_train

NEED_TRAIN = (
    "iom.attacks.",
    "iom.baselines.",
    "iom.codes._kernels.compiled",
    "iom.data.batches",
    "iom.data.image_batches",
    "iom.evaluation.",
    "iom.export.",
    "iom.metrics.protection",
    "iom.nn.",
    "iom.pretrained.importers.",
    "iom.pretrained.make_bundled",
    "iom.pretrained.weights",
    "iom.training.",
)
"""Modules that the extra `train` may be needed for; all others import without it."""
IMPORTS = """
import importlib, json, sys
modules, hidden = json.loads(sys.argv[1])
sys.modules |= dict.fromkeys(hidden)
failed = {}
for name in modules:
    try:
        importlib.import_module(name)
    except Exception as error:
        failed[name] = repr(error)
print(json.dumps(failed))
"""


def run(program, *arguments):
    return subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True)


def test_the_core_imports_nothing_of_the_extra_train(root):
    paths = (path.relative_to(root).with_suffix("") for path in (root / "iom").rglob("*.py"))
    modules = [".".join(path.parts).removesuffix(".__init__") for path in paths if path.stem != "__main__"]
    core = [name for name in modules if not f"{name}.".startswith(NEED_TRAIN) and not name.startswith(NEED_TRAIN)]
    assert len(core) > 70
    done = run(IMPORTS, json.dumps([core, sorted(TRAIN_MODULES)]))
    assert json.loads(done.stdout) == {}, done.stderr


def test_the_extra_train_brings_what_the_core_does_without(root):
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = {"sklearn": "scikit-learn"}
    for module in TRAIN_MODULES:
        name = names.get(module, module)
        assert any(text.startswith(name) for text in project["optional-dependencies"]["train"])
        assert not any(text.startswith(name) for text in project["dependencies"])


def test_a_missing_package_of_training_is_told_with_the_command_for_it(monkeypatch):
    import iom

    monkeypatch.setitem(sys.modules, "keras", None)
    monkeypatch.delitem(sys.modules, "iom.training.hasher", raising=False)
    with pytest.raises(MissingExtraError, match=r"^iom\.train_hasher needs the extra 'train'.*: pip install ."):
        iom.__getattr__("train_hasher")
    with pytest.raises(ModuleNotFoundError, match="surely_not_there"), needs_train("a"):
        import surely_not_there  # noqa: F401


def test_a_command_says_what_it_needs():
    program = (
        "import sys; sys.modules['keras'] = None\n"
        "from iom.cli.main import main\n"
        "raise SystemExit(main(['deploy', '--hasher', 'bundled', '--output', sys.argv[1]]))"
    )
    done = run(program, "surely_not_written")
    assert done.returncode == 2
    assert done.stderr.startswith("error: iom deploy needs the extra 'train'")
    assert len(done.stderr.splitlines()) == 1


def test_onnxruntime_notes_no_device_and_sends_nothing(tmp_path):
    """By default its builds write an identifier into the user's cache and report what they run."""
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("Identity", ["x"], ["y"])],
            "identity",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
    home = tmp_path / "home"
    home.mkdir()
    program = "import sys, iom, onnxruntime; onnxruntime.InferenceSession(sys.argv[1])"
    unset = {"ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME"}
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    command = [sys.executable, "-c", program, str(tmp_path / "a.onnx")]
    subprocess.run(command, env={**environment, "HOME": str(home)}, check=True)
    assert list(home.iterdir()) == []
