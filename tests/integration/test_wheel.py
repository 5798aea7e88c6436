"""The wheel, installed: the README's examples in an empty folder, with nothing of the sources.

The environment is a new one, which sees the packages of the running one but not its `iom`, nor
any package that the core does not require; a connection to elsewhere is refused.
"""

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import urllib.request
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

from iom.errors import TRAIN_MODULES
from iom.synthetic import load_face_model

DRIVER = Path(__file__).with_name("installed_examples.py")
SOURCES = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE", "iom", "configs")
ONLY_IN_SOURCES = r"\.py\b|\bconfigs/|pre_models|python -m (?!iom\b)"
REFUSED = {
    "iom evaluate --output runs --config configs/evaluate/lfw.yaml": "did you mean 'evaluate/lfw'",
    "iom calibrate --hasher pre_models/dlib_resnet.bundled": "its name alone: dlib_resnet",
    "iom train-stage1 --output runs/stage1 --config stage1/base": "needs the extra 'train'",
}
HIDE = """
import sys
from importlib.abc import MetaPathFinder

class Finder(MetaPathFinder):
    hidden = frozenset({hidden!r})

    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in self.hidden:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Finder())

def refuse(event, arguments):
    places = {{"socket.connect": -1, "socket.getaddrinfo": 0}}
    if event in places:
        place = arguments[places[event]]
        host = place[0] if isinstance(place, tuple) else place
        if host not in ("127.0.0.1", "0.0.0.0", "localhost", None):
            raise OSError(f"{{event}} {{place!r}}: nothing is to be fetched")

sys.addaudithook(refuse)
"""
PHOTOGRAPHS = """
import iom, sys
a, b, c = sys.argv[1:]
assert iom.verify(a, b).match and not iom.verify(a, c).match
assert len(iom.faces(a)) == 1
hasher, key = iom.load("bundled"), iom.Key.generate()
code = hasher.hash(a, key)
assert hasher.compare(code, b, key).match and not hasher.compare(code, c, key).match
with iom.Gallery.open("door.db", keys="door.keys", passphrase="a long passphrase", create=True) as gallery:
    gallery.enroll("alice", a)
    assert gallery.verify("alice", b).match and not gallery.verify("alice", c).match
    assert [each.subject_id for each in gallery.identify(b)] == ["alice"]
    gallery.renew("alice", b)
    assert gallery.verify("alice", a).match
    gallery.revoke("alice")
    try:
        gallery.verify("alice", a)
    except iom.IomError as error:
        print(error)
"""
TOKEN = re.compile(r"(http://127\.0\.0\.1:\d+)/#?\S*")


def pip(*arguments):
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def core_packages(wheel_of):
    """Names of what the core requires, and of what that brings along."""
    waiting, known = [Requirement(text) for text in wheel_of.requires], set()
    while waiting:
        required = waiting.pop()
        name = canonicalize_name(required.name)
        if name not in known and (required.marker is None or required.marker.evaluate({"extra": ""})):
            known.add(name)
            waiting += [Requirement(text) for text in importlib.metadata.requires(name) or []]
    return known


@pytest.fixture(scope="module")
def installed(root, tmp_path_factory):
    """Folder of the programs of an environment with the wheel and its core alone."""
    place = tmp_path_factory.mktemp("wheel")
    sources = place / "sources"  # a build leaves files beside them
    sources.mkdir()
    for name in SOURCES:
        if (root / name).is_dir():
            skip = shutil.ignore_patterns("__pycache__")
            shutil.copytree(root / name, sources / name, ignore=skip)
        else:
            shutil.copy(root / name, sources)
    offline = ("--no-deps", "--no-index")
    pip("wheel", *offline, "--no-build-isolation", "--wheel-dir", place, sources)
    (wheel,) = place.glob("iom-*.whl")
    environment = place / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    python = environment / "bin" / "python"
    pip("--python", python, "install", *offline, wheel)
    shutil.rmtree(sources)
    (packages,) = (environment / "lib").glob("python*/site-packages")
    borrowed = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (packages / "borrowed.pth").write_text("\n".join(sorted(borrowed)) + "\n")
    core = core_packages(next(importlib.metadata.distributions(name="iom", path=[str(packages)])))
    owners = importlib.metadata.packages_distributions()
    hidden = {module for module, names in owners.items() if core.isdisjoint(map(canonicalize_name, names))}
    assert hidden >= TRAIN_MODULES
    (packages / "sitecustomize.py").write_text(HIDE.format(hidden=sorted(hidden - {"iom"})))
    return environment / "bin"


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """An empty working folder, and a user without settings."""
    for name in [name for name in os.environ if name.startswith(("IOM_", "PYTHON"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("IOM_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def take_photographs(names):
    """Two photographs of one person and one of another, in the working folder."""
    faces, _ = load_face_model().sample(2, 2, seed=2)
    for name, face in zip(names, faces, strict=False):
        photograph = Image.new("RGB", (640, 480), (120, 120, 120))
        photograph.paste(Image.fromarray(face).resize((168, 168)), (200, 120))
        photograph.save(name, quality=95)


def blocks(root, language):
    text = (root / "README.md").read_text(encoding="utf-8")
    found = re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)
    assert found
    return found


def test_the_examples_of_the_readme_run_in_an_empty_folder(installed, empty, root, tmp_path):
    listing = subprocess.run([installed / "iom", "--help"], capture_output=True, text=True, check=True).stdout
    commands = re.findall(r"^  ([a-z][a-z0-9-]+)  ", listing, flags=re.M)
    assert len(commands) > 25
    examples = {
        "shell": ["".join(re.findall(r"(?m)^(?:iom (?!serve)|export ).*\n", text)) for text in blocks(root, "sh")],
        "python": blocks(root, "python"),
        "commands": ["iom demo", "iom weights list", *(f"iom {name} --help" for name in commands), *REFUSED],
    }
    take_photographs(["a.jpg", "b.jpg"])
    (tmp_path / "examples.json").write_text(json.dumps(examples), encoding="utf-8")
    done = subprocess.run(
        [installed / "python", "-I", DRIVER, tmp_path / "examples.json"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert Path(result["place"]).is_relative_to(installed.parent)
    for line, code, shown in result["shell"]:
        assert code == 0, f"{line}: {code}\n{shown}"
    assert (empty / "runs" / "demo" / "demo.png").is_file()
    assert result["codes"] == [4, 1536]
    for line, code, shown in result["commands"]:
        assert code == (2 if line in REFUSED else 0), f"{line}: {code}\n{shown}"
        assert REFUSED.get(line, "") in shown
        own_words = shown.replace(line.split()[-1], "")
        assert not re.search(ONLY_IN_SOURCES, own_words), f"{line}\n{shown}"


def test_photographs_need_no_preparation(installed, empty, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    names = ["a.jpg", "b.jpg", "c.jpg"]
    take_photographs(names)

    def run(*command):
        return subprocess.run(command, capture_output=True, text=True)

    done = run(installed / "iom", "verify", *names[:2])
    assert (done.returncode, done.stdout[:6], done.stderr) == (0, "match:", "")
    assert run(installed / "iom", "verify", *names[::2]).returncode == 1
    done = run(installed / "python", "-I", "-c", PHOTOGRAPHS, *names)
    assert done.returncode == 0, done.stderr
    assert "was revoked" in done.stdout
    assert list((tmp_path / "home").iterdir()) == []


def test_serve_demo_answers(installed, empty):
    with subprocess.Popen(
        [installed / "iom", "serve", "--demo", "--port", "0", "--detector", "none"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            lines = iter(process.stdout.readline, "")
            address = next(filter(None, map(TOKEN.search, lines)))[1]
            with urllib.request.urlopen(f"{address}/", timeout=20) as page:
                assert b"<html" in page.read()
        finally:
            process.terminate()
            process.communicate(timeout=60)
    assert list(empty.iterdir()) == []
