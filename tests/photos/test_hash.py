"""Folders of photographs to codes: every row right, nothing lost, nothing twice."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from iom.codes.packing import unpack
from iom.errors import ConfigError, DataError, WeightsError
from iom.keys import TransformKey
from iom.photos import pipeline as engine
from iom.photos.align import TEMPLATE, Face
from iom.photos.codes_file import read_codes, schema_of
from iom.photos.photograph import STATUSES, PhotoSettings
from iom.photos.pipeline import PhotoRun, embed_all, hash_photos, report_path
from iom.synthetic import write_folder
from tests.photos.conftest import FakeModels, write_faces

ALIGNED = PhotoSettings(detector="aligned")


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(engine, "BATCH", 4)


def run(root, out, models, key, *, landmarks=False, **options):
    photos = PhotoRun(root, **{"settings": ALIGNED, "workers": 0, **options})
    return hash_photos(photos, out, hasher=models, key=key, landmarks=landmarks)


def report(out):
    lines = [json.loads(line) for line in report_path(out).read_text().splitlines()]
    return {line["photo"]: line for line in lines[:-1]}, lines[-1]


@pytest.mark.parametrize("workers", [0, 2])
def test_every_row_is_the_code_of_its_face(tmp_path, models, key, workers):
    pixels = write_faces(tmp_path / "faces", 11)
    out = tmp_path / "codes.parquet"
    done = run(tmp_path / "faces", out, models, key, workers=workers)
    assert done.counts == {"photographs": 11, "faces": 11, "hashed": 11, "hidden_files": 0}
    found = read_codes(out)
    assert found.photos == tuple(sorted(pixels))
    assert (found.encoding, found.model) == ("iom-planes/1:100x6", models.fingerprint)
    embeddings = models.embed(np.stack([pixels[name] for name in found.photos]))
    np.testing.assert_array_equal(unpack(found.codes), models.hash(embeddings, key))
    assert np.isnan(found.measures["yaw"]).all()
    assert (found.measures["brightness"] > 0).all()
    assert not out.with_name("codes.parquet.journal").exists()
    assert report(out)[1] == {"counts": dict(done.counts), "notes": {}}


def test_neither_key_nor_embedding_is_in_any_file(tmp_path, models, key):
    pixels = write_faces(tmp_path / "faces", 3)
    run(tmp_path / "faces", tmp_path / "codes.parquet", models, key)
    written = [p.read_bytes() for p in tmp_path.glob("codes*")]
    rows = models.embed(np.stack(list(pixels.values())))
    for secret in (key.secret, key.secret.hex().encode(), key.to_text().encode(), rows[0].tobytes()):
        assert all(secret[:16] not in data for data in written)


def test_several_faces_and_their_measures(tmp_path, models, key):
    root = tmp_path / "photos"
    root.mkdir()
    scene = np.random.default_rng(1).integers(0, 256, (200, 300, 3)).astype(np.uint8)
    for name in ("two.png", "none.png", "one.png"):
        Image.fromarray(scene).save(root / name)
    left, right = (Face(TEMPLATE + np.array([5, 20]), 0.9), Face(TEMPLATE * 0.8 + np.array([160, 20]), 0.8))
    points = {"two.png": [left, right], "one.png": [right]}
    out = tmp_path / "codes.parquet"
    settings = PhotoSettings(detector="points")
    done = run(root, out, models, key, settings=settings, points=points, landmarks=True)
    assert done.counts["faces"] == 3
    assert done.counts["no_face"] == 1
    found = read_codes(out)
    assert found.photos == ("one.png", "two.png", "two.png")
    assert found.faces.tolist() == [0, 0, 1]
    np.testing.assert_allclose(found.landmarks[1], left.points, atol=1e-4)
    np.testing.assert_allclose(found.measures["score"], [0.8, 0.9, 0.8])
    np.testing.assert_allclose(found.measures["size"], [89.6, 112, 89.6], rtol=1e-3)
    np.testing.assert_allclose(found.measures["left"][1], 4.5, atol=0.02)
    lines, last = report(out)
    assert lines["none.png"]["status"] == "no_face"
    assert lines["two.png"]["notes"] == ["several_faces"]
    assert "one.png" not in lines
    assert last["notes"] == {"several_faces": 1}


def test_everything_bad_is_counted_and_told(tmp_path, models, key):
    root = tmp_path / "faces"
    pixels = write_faces(root, 5)
    whole = (root / "a" / "000.png").read_bytes()
    (root / "half.png").write_bytes(whole[: len(whole) // 2])
    (root / "empty.jpg").write_bytes(b"")
    (root / "text.jpg").write_text("no photograph")
    (root / "letter.doc").write_text("no photograph")
    (root / "new\nline.png").write_bytes(whole)
    latin = os.fsdecode(b"caf\xe9.png")
    (root / latin).write_bytes(whole)
    (root / os.fsdecode(b"bad\xff.jpg")).write_bytes(b"x")
    (root / "loop").symlink_to(root)
    (root / "self.png").symlink_to("self.png")
    Image.new("RGB", (112, 112)).save(root / "black.png")
    out = tmp_path / "codes.parquet"
    done = run(root, out, models, key)
    assert done.counts == {
        "photographs": 13, "faces": 7, "hashed": 7, "empty": 1, "wrong_type": 3, "damaged": 1,
        "unreadable": 1, "linked_folder": 1, "not_embedded": 1, "hidden_files": 0,
    }  # fmt: skip
    found = read_codes(out)
    assert set(found.photos) == {*pixels, "new\nline.png", latin}
    rows = {name: code for name, code in zip(found.photos, unpack(found.codes), strict=True)}
    np.testing.assert_array_equal(rows[latin], rows["a/000.png"])
    lines, last = report(out)
    assert last["counts"] == dict(done.counts)
    assert lines["letter.doc"]["status"] == "wrong_type"
    assert lines["bad�.jpg"]["photo_bytes"] == b"bad\xff.jpg".hex()
    assert lines["black.png"]["notes"] == ["face_not_embedded"]
    assert all(line["reason"] for line in lines.values())
    assert len(lines) == 8


def test_weights_that_embed_nothing_are_an_error(tmp_path, models, key):
    (tmp_path / "faces").mkdir()
    for i in range(3):
        Image.new("RGB", (112, 112)).save(tmp_path / "faces" / f"{i}.png")
    with pytest.raises(WeightsError, match="not finite"):
        run(tmp_path / "faces", tmp_path / "codes.parquet", models, key)


class Stopping(FakeModels):
    """Ends like a killed process after some faces: nothing is tidied up."""

    def __init__(self, after):
        super().__init__()
        self.after = after

    def embed(self, faces):
        if self.embedded + len(faces) > self.after:
            raise KeyboardInterrupt
        return super().embed(faces)


def same(first, second):
    assert first.read_bytes() == second.read_bytes()
    assert report_path(first).read_bytes() == report_path(second).read_bytes()


@pytest.mark.parametrize("after", [0, 5, 9, 17])
def test_a_run_goes_on_where_it_was_stopped(tmp_path, models, key, after):
    root = tmp_path / "faces"
    write_faces(root, 19)
    (root / "z.png").write_bytes(b"x")
    run(root, tmp_path / "whole.parquet", models, key)
    out = tmp_path / "codes.parquet"
    with pytest.raises(KeyboardInterrupt):
        run(root, out, Stopping(after), key)
    assert not out.exists()
    again = FakeModels()
    done = run(root, out, again, key)
    hashed = after // 4 * 4
    assert done.continued == hashed + (after == 17)  # z.png, which has no face to wait for, was reached
    assert again.embedded == 19 - hashed
    same(tmp_path / "whole.parquet", out)


def test_a_cut_line_is_done_again_and_other_damage_is_an_error(tmp_path, models, key):
    root = tmp_path / "faces"
    write_faces(root, 19)
    run(root, tmp_path / "whole.parquet", models, key)
    out, journal = tmp_path / "codes.parquet", tmp_path / "codes.parquet.journal"
    with pytest.raises(KeyboardInterrupt):
        run(root, out, Stopping(16), key)
    lines = journal.read_bytes().splitlines(keepends=True)
    rows = json.loads(lines[2])
    rows["rows"][0]["code"] = rows["rows"][0]["code"][:-8]
    for damaged in (b"{}\n", b"nonsense\n", json.dumps(rows).encode() + b"\n"):
        journal.write_bytes(b"".join([*lines[:2], damaged, *lines[3:]]))
        with pytest.raises(DataError, match=r"codes\.parquet\.journal: damaged; remove it"):
            run(root, out, models, key)
    journal.write_bytes(b"".join(lines)[:-20])
    assert run(root, out, models, key).continued == 15
    same(tmp_path / "whole.parquet", out)


def test_photographs_that_came_went_or_changed(tmp_path, models, key):
    root = tmp_path / "faces"
    write_faces(root, 12)
    out = tmp_path / "codes.parquet"
    with pytest.raises(KeyboardInterrupt):
        run(root, out, Stopping(8), key)
    (root / "a" / "000.png").unlink()
    (root / "a" / "003.png").write_bytes((root / "c" / "011.png").read_bytes())
    (root / "a" / "000b.png").write_bytes((root / "c" / "011.png").read_bytes())
    run(root, out, models, key)
    run(root, tmp_path / "whole.parquet", models, key)
    same(tmp_path / "whole.parquet", out)
    found = read_codes(out)
    rows = dict(zip(found.photos, unpack(found.codes).tolist(), strict=True))
    assert rows["a/003.png"] == rows["a/000b.png"] == rows["c/011.png"]


def test_what_could_not_be_opened_is_tried_again(tmp_path, models, key, monkeypatch):
    root, out = tmp_path / "faces", tmp_path / "codes.parquet"
    write_faces(root, 12)
    real = os.open

    def refuse(path, *flags, **options):
        if str(path).endswith("000.png"):
            raise PermissionError(13, "Permission denied")
        return real(path, *flags, **options)

    with monkeypatch.context() as patch:
        patch.setattr("os.open", refuse)
        with pytest.raises(KeyboardInterrupt):
            run(root, out, Stopping(8), key)
    done = run(root, out, models, key)
    assert done.counts["hashed"] == 12
    run(root, tmp_path / "whole.parquet", models, key)
    same(tmp_path / "whole.parquet", out)


def test_another_model_key_or_setting_is_refused(tmp_path, models, key):
    root, out = tmp_path / "faces", tmp_path / "codes.parquet"
    write_faces(root, 9)
    with pytest.raises(KeyboardInterrupt):
        run(root, out, Stopping(5), key)
    other = FakeModels()
    other.fingerprint = "0" * 64
    with pytest.raises(DataError, match=r"other settings \(model\)"):
        run(root, out, other, key)
    with pytest.raises(DataError, match=r"other settings \(key\)"):
        run(root, out, models, TransformKey(bytes(32)))
    with pytest.raises(DataError, match=r"other settings \(min_size\)"):
        run(root, out, models, key, settings=PhotoSettings(detector="aligned", min_size=1))
    run(root, out, models, key)
    with pytest.raises(DataError, match="exists already and is finished"):
        run(root, out, models, key)


def test_parts_of_an_older_version_say_what_to_do(tmp_path, models, key):
    root, out = tmp_path / "faces", tmp_path / "codes.parquet"
    write_faces(root, 2)
    (tmp_path / "codes.parquet.parts").mkdir()
    with pytest.raises(DataError, match="older version of iom; finish it with that version, or remove it"):
        run(root, out, models, key)


def test_two_runs_at_a_time_are_refused(tmp_path, models, key):
    root, out = tmp_path / "faces", tmp_path / "codes.parquet"
    write_faces(root, 5)

    class Greedy(FakeModels):
        def embed(self, faces):
            with pytest.raises(DataError, match="another run"):
                run(root, out, models, key)
            return super().embed(faces)

    assert run(root, out, Greedy(), key).counts["faces"] == 5


def test_where_the_output_may_not_be(tmp_path, models, key):
    root = tmp_path / "faces"
    write_faces(root, 2)
    with pytest.raises(DataError, match="outside of"):
        run(root, root / "codes.parquet", models, key)
    with pytest.raises(ConfigError, match=r"ends in \.parquet"):
        run(root, tmp_path / "codes.csv", models, key)
    (tmp_path / "folder.parquet").mkdir()
    with pytest.raises(DataError, match="received a folder"):
        run(root, tmp_path / "folder.parquet", models, key)
    with pytest.raises(DataError, match="no folder"):
        run(tmp_path / "none", tmp_path / "a.parquet", models, key)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no photographs"):
        run(tmp_path / "empty", tmp_path / "a.parquet", models, key)


KILLED = """
import sys, time
from pathlib import Path
from iom.keys import TransformKey
from iom.photos import pipeline as engine
from iom.photos.photograph import PhotoSettings
from tests.photos.conftest import FakeModels

class Slow(FakeModels):
    def embed(self, faces):
        time.sleep(0.03)
        return super().embed(faces)

if __name__ == "__main__":
    engine.BATCH = 3
    run = engine.PhotoRun(Path(sys.argv[1]), PhotoSettings(detector="aligned"), workers=int(sys.argv[3]))
    engine.hash_photos(run, Path(sys.argv[2]), hasher=Slow(), key=TransformKey(bytes(range(32))))
"""


def lines_of(path):
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_kill_9_loses_and_doubles_nothing(tmp_path, models, key, root):
    faces, out = tmp_path / "faces", tmp_path / "codes.parquet"
    write_faces(faces, 45)
    (faces / "broken.png").write_bytes(b"x")
    run(faces, tmp_path / "whole.parquet", models, key)
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    environment = {**os.environ, "PYTHONPATH": str(root)}
    kills = 0
    for trial in range(6):
        command = [sys.executable, str(script), str(faces), str(out), "1" if trial == 2 else "0"]
        process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
        journal = out.with_name("codes.parquet.journal")
        begun = lines_of(journal)
        while process.poll() is None and trial < 5:
            if lines_of(journal) > begun + 5:
                time.sleep(0.013 * trial)
                process.send_signal(signal.SIGKILL)
                kills += 1
                break
            time.sleep(0.002)
        process.communicate()
        if out.exists() and not journal.exists():
            break
    assert kills >= 3
    same(tmp_path / "whole.parquet", out)


def test_the_code_of_the_document_runs(tmp_path, models, key, root, monkeypatch):
    text = (root / "docs" / "photographs.md").read_text("utf-8")
    picture, codes = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    write_faces(tmp_path / "faces", 3)
    run(tmp_path / "faces", tmp_path / "codes.parquet", models, key)
    write_folder(tmp_path / "people", 1, 1, seed=1, progress=False)
    group = Image.new("RGB", (300, 300), "gray")
    group.paste(Image.open(next((tmp_path / "people").glob("*/*.png"))).resize((180, 180)), (60, 60))
    group.save(tmp_path / "group.jpg")
    monkeypatch.chdir(tmp_path)
    exec(picture, names := {})
    assert names["face"].score > 0.9
    assert (tmp_path / "boxes.png").is_file()
    exec(codes, names := {})
    assert (np.diag(names["distances"]) == 0).all()
    assert names["sharp"].shape == (3,)


def test_every_column_status_and_note_is_documented(root):
    text = (root / "docs" / "photographs.md").read_text("utf-8")
    columns = schema_of({"encoding": "iom-planes/1:512x8", "settings": {"landmarks": True}}).names
    missing = [name for name in (*columns, *STATUSES) if f"`{name}`" not in text]
    assert missing == []


def test_the_engine_imports_no_tensorflow(root):
    code = (
        "import sys, iom.photos.pipeline, iom.models.face_hasher, iom.photos.codes_file\n"
        "heavy = {'tensorflow', 'keras', 'numba', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)


def test_faces_without_an_embedding_are_told_apart():
    faces = list(np.random.default_rng(1).integers(1, 256, (4, 112, 112, 3)).astype(np.uint8))
    black = np.zeros((112, 112, 3), np.uint8)
    models = FakeModels()
    expected = models.embed(np.stack(faces))
    rows = embed_all(models, [faces[0], black, *faces[1:]])
    assert rows[1] is None
    np.testing.assert_array_equal(np.stack([*rows[:1], *rows[2:]]), expected)
    assert embed_all(models, [black]) == [None]
    with pytest.raises(WeightsError, match="not finite"):
        embed_all(models, [black, black])
