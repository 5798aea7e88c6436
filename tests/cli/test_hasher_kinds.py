"""Every command takes folders of trained hashers and artefacts, or says what an artefact lacks."""

import contextlib
import functools
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from iom.cli.main import main
from iom.models.face_hasher import load
from iom.synthetic import write_folder

ARTEFACTS = {"onnx": "tiny.onnx", "keras": "tiny.keras", "saved_model": "tiny.saved_model"}
KINDS = ["folder", "onnx"]
ALL_KINDS = [*KINDS, "keras", "saved_model"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder with a small calibrated hasher, its artefacts, faces, a key and configurations."""
    from iom.config import HasherConfig
    from iom.export.context import load_source
    from iom.export.exporter import Exporter
    from iom.export.trial import synthetic_faces
    from iom.keys import TransformKey
    from iom.models.artifact import Calibration
    from iom.models.embedder import load_embedder
    from iom.models.face_hasher import KerasFaceHasher
    from iom.nn.backbones.registry import build_backbone
    from iom.nn.hash_network import build_hasher

    place = tmp_path_factory.mktemp("models")
    weights = place / "backbone.keras"
    build_backbone("iresnet_slim", embedding_size=32, stem=16, widths=[16, 16], depths=[1, 1]).save(weights)
    KerasFaceHasher(
        build_hasher(32, HasherConfig(code_length=64, alphabet_size=4, key_kind="orthogonal")),
        embedder_name=str(weights),
        embedder_fingerprint=load_embedder(str(weights)).fingerprint,
        calibration=Calibration(threshold=30, fmr=0.01, fnmr=0.1, subjects=9, keys=2),
    ).save(place / "tiny")
    faces = synthetic_faces(112)
    source = load_source(place / "tiny")
    Exporter(source, calibration=faces.images[:2], faces=faces).export(list(ARTEFACTS), place, name="tiny")
    write_folder(place / "faces", 14, 4, seed=3)
    (place / "door.key").write_text(TransformKey.generate().to_text())
    (place / "stage2.yaml").write_text(
        f"data: {{root: {place / 'faces'}, holdout: 0.5}}\n"
        f"embedder: {{weights: {weights}, cache: ''}}\n"
        "calibration: {bootstrap: 0, keys: 2, fmr: 0.05}\n"
    )
    return place


def hasher_of(models, kind):
    return str(models / ARTEFACTS.get(kind, "tiny"))


@pytest.fixture(scope="module")
def opened():
    """`iom.load`, once for each hasher: the commands of a gallery share what it gives."""
    return functools.lru_cache(load)


@pytest.fixture
def share(monkeypatch, opened):
    for module in ("iom.models.face_hasher",):
        monkeypatch.setattr(f"{module}.load", opened)


@pytest.fixture
def iom(models, tmp_path, monkeypatch, capsys):
    """The command line in an empty folder, with the options of a gallery in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IOM_GALLERY", f"sqlite:///{tmp_path}/g.db")
    monkeypatch.setenv("IOM_KEYS", f"file:{tmp_path}/keys?key-file={tmp_path}/wrap")

    def run(*arguments):
        code = main([str(argument) for argument in arguments])
        shown = capsys.readouterr()
        assert code in (0, 1, 2), shown
        return code, shown.out, shown.err

    return run


def refused(result, *texts):
    code, shown, error = result
    assert (code, shown) == (2, "")
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    for text in texts:
        assert text in error


@pytest.mark.parametrize("kind", KINDS)
def test_a_gallery(share, iom, models, kind):
    option = ("--hasher", hasher_of(models, kind))
    first, again = sorted((models / "faces").glob("*/*"))[:2]
    assert iom("init", *option)[0] == 0
    assert iom("enroll", "alice", first, again, "--fuse", "majority", *option)[0] == 0
    assert iom("verify", "alice", first, *option)[0] == 0
    assert iom("identify", first, *option)[1].startswith("alice")
    assert iom("revoke", "alice")[0] == 0
    assert iom("renew", "alice", first, *option)[0] == 0
    assert iom("verify", "alice", first, *option)[1].startswith("match: distance 0")


@pytest.mark.parametrize("kind", KINDS)
def test_bulk_enroll(share, iom, models, kind):
    option = ("--hasher", hasher_of(models, kind))
    assert iom("init", *option)[0] == 0
    code, shown, error = iom(
        "bulk-enroll", models / "faces", "--engine", "here", "--quiet", *option,
        "--report", "report.jsonl",
    )  # fmt: skip
    assert code == 0, error
    assert "14 subjects, 56 references" in shown
    probe = sorted((models / "faces").glob("*/*"))[0]
    assert iom("verify", probe.parent.name, probe, *option)[0] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_hash(iom, models, kind):
    pytest.importorskip("pyarrow")
    code, shown, error = iom(
        "hash", models / "faces", "--aligned", "--output", "codes.parquet", "--workers", "0",
        "--key-file", models / "door.key", "--quiet", "--hasher", hasher_of(models, kind),
    )  # fmt: skip
    assert code == 0, error
    assert "56 photographs: 56 hashed" in shown


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_demo(iom, models, kind):
    code, shown, error = iom("demo", "--verbose", "--hasher", hasher_of(models, kind), "--output", "demo")
    assert code == 0, error
    assert "64 symbols over 4 values" in shown
    assert ("projection" if kind == "folder" else "runtime") in shown
    with Image.open("demo/demo.png") as picture:
        assert min(picture.size) > 500


def evaluate(iom, models, kind, *more):
    hasher = hasher_of(models, kind)
    embedder = models / "backbone.keras" if kind == "folder" else hasher
    sets = {
        "benchmark": "{name: nobody, source: synthetic, subjects: 12, images: 3}",
        "embedder": f"{{weights: {embedder}, batch_size: 8, cache: ''}}",
        "hasher": hasher,
        "scenario": "{keys: 2, bootstrap: 5, systems: [learned]}",
        "report": "{victims: 4, old_keys: 1, replicates: 5, pairs: 200, identification: false, "
        "attack_names: [closed_form]}",
    }
    text = "".join(f"{name}: {value}\n" for name, value in sets.items())
    Path("evaluate.yaml").write_text(text)
    return iom("evaluate", "--config", "evaluate.yaml", "--quiet", *more)


@pytest.mark.parametrize("kind", KINDS)
def test_evaluate_with_a_report(iom, models, kind):
    code, shown, error = evaluate(iom, models, kind, "--output", "out", "--report", "report")
    assert code == 0, error
    assert "calibrated threshold 30" in shown
    tree = json.loads(Path("report/report.json").read_text())
    rows = {row["attack"]: row for row in tree["sections"]["attacks"]}
    # What leaks of a linear hasher is its linear part: an artefact gives it away as a folder does.
    assert rows["closed_form"]["cosine"] > 0.8


def test_an_artefact_hashes_embeddings_of_its_own_alone(iom, models):
    more = ("--output", "out", "--set", f"embedder.weights={models / 'backbone.keras'}")
    refused(evaluate(iom, models, "onnx", *more), "embeds for itself", f"embedder.weights={models}")


@pytest.mark.parametrize("kind", KINDS)
def test_calibrate(iom, models, kind):
    hasher = hasher_of(models, kind)
    config = ("--config", models / "stage2.yaml", "--quiet")
    before = load(hasher, opens_embedder=False)
    code, shown, error = iom("calibrate", "--hasher", hasher, *config)
    assert code == 0, error
    assert "stored in" in shown
    after = load(hasher, opens_embedder=False)
    assert (after.calibration.fmr, after.calibration.keys) == (0.05, 2)
    assert after.fingerprint == before.fingerprint
    rows = np.random.default_rng(0).normal(size=(3, 32)).astype(np.float32)
    np.testing.assert_array_equal(
        before.hash_in_order(rows, before.identity_order), after.hash_in_order(rows, after.identity_order)
    )


@pytest.mark.parametrize("kind", ["onnx", "saved_model"])
def test_calibrate_a_copy(iom, models, kind):
    hasher = Path(hasher_of(models, kind))
    before = load(hasher, opens_embedder=False)
    code, _, error = iom(
        "calibrate", "--hasher", hasher, "--folder", models / "faces", "--output", "copy",
        "--fmr", "0.05", "--keys", "2", "--bootstrap", "0", "--quiet",
    )  # fmt: skip
    assert code == 0, error
    copy = load(Path("copy") / hasher.name if kind != "folder" else "copy", opens_embedder=False)
    assert copy.calibration.fmr == 0.05
    assert copy.calibration.subjects == 14
    assert load(hasher, opens_embedder=False).calibration == before.calibration
    assert copy.fingerprint == before.fingerprint


def test_calibrate_without_a_configuration(iom, models):
    refused(iom("calibrate", "--hasher", hasher_of(models, "onnx")), "--config")


@pytest.mark.parametrize("kind", ALL_KINDS[1:])
def test_deploy_of_an_artefact(iom, models, kind):
    refused(
        iom("deploy", "--hasher", hasher_of(models, kind), "--output", "out"),
        "expected the folder of a trained hasher, received an artefact",
        "lacks the Keras network",
    )


@pytest.mark.parametrize("kind", KINDS)
def test_serve(share, iom, models, kind, monkeypatch):
    pytest.importorskip("fastapi")
    from tests.service.conftest import TestClient

    def serve(app, listener, settings, *, ready, **options):
        with contextlib.redirect_stdout(io.StringIO()) as text:
            ready()
        with TestClient(app) as client:
            assert client.get("/health/ready").status_code == 200
            token = text.getvalue().split("token=")[1].split()[0]
            face = sorted((models / "faces").glob("*/*"))[0].read_bytes()
            for verb in ("enroll", "verify"):
                images = [("images" if verb == "enroll" else "image", ("a.png", face))]
                answer = client.post(
                    f"/v1/default/{verb}", data={"subject": "a"}, files=images,
                    headers={"Authorization": f"Bearer {token}"},
                )  # fmt: skip
                assert answer.status_code in (200, 201), answer.text
            assert answer.json()["match"]

    monkeypatch.setattr("iom.service.server.serve", serve)
    code, _, error = iom("serve", "--demo", "--detector", "none", "--hasher", hasher_of(models, kind))
    assert code == 0, error
