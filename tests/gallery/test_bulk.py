import collections
import json
import os
import subprocess
import sys
import time
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from iom._registry import lookup
from iom.errors import ConfigError, DataError, WeightsError
from iom.gallery.bulk import (
    ENGINES,
    BulkSummary,
    EmbeddingWorker,
    ImageEmbedding,
    ImageRow,
    WorkerSettings,
    enroll_in_bulk,
    read_rows,
)

HERE = Path(__file__).parent
SUBJECTS = 30


@pytest.fixture(scope="module")
def worker():
    """The helper that other processes import, too."""
    sys.path.insert(0, str(HERE))
    import bulk_worker

    yield bulk_worker
    sys.path.remove(str(HERE))
    del sys.modules["bulk_worker"]


@pytest.fixture
def folder(tmp_path, worker):
    """A gallery, and images of thirty subjects, one to three of each."""
    write_people(tmp_path / "people")
    with worker.opened(tmp_path, create=True) as gallery:
        gallery.create_application("door", threshold=100)
    return tmp_path


def write_people(place):
    random = np.random.default_rng(1)
    for number in range(SUBJECTS):
        (place / f"p{number:02}").mkdir(parents=True)
        for image in range(1 + number % 3):
            pixels = random.integers(0, 256, (112, 112, 3), np.uint8)
            Image.fromarray(pixels).save(place / f"p{number:02}" / f"{image}.png")


def expected():
    return {f"p{number:02}": 1 + number % 3 for number in range(SUBJECTS)}


def enrolled(folder, worker):
    """References by subject, after a check of the whole gallery."""
    with worker.opened(folder) as gallery:
        assert gallery.check() == []
        found = gallery.store.scan("door", limit=10**6)
        return dict(collections.Counter(each.subject_id for each in found))


def lines(folder):
    return [json.loads(line) for line in (folder / "report.jsonl").read_text().splitlines() if line]


def test_every_subject_is_enrolled_with_all_its_images_and_verifies(folder, worker):
    done = worker.enrol(folder)
    assert done == BulkSummary(subjects=30, references=60)
    assert enrolled(folder, worker) == expected()
    pixels = np.asarray(Image.open(folder / "people/p02/2.png"))
    with worker.opened(folder) as gallery:
        row = worker.PixelEmbedder().embed(pixels[None])[0]
        assert gallery.verify("p02", row, application="door").distance == 0
        assert gallery.verify("p02", row, application="door").slot == 2
        assert not gallery.verify("p03", row, application="door").match
    assert lines(folder)[-1]["counts"]["references"] == 60


def test_a_second_run_finds_everybody_there_and_keeps_the_revoked_away(folder, worker):
    worker.enrol(folder)
    with worker.opened(folder) as gallery:
        gallery.revoke("p04", application="door")
    done = worker.enrol(folder)
    assert done == BulkSummary(present=29, revoked=1)
    assert enrolled(folder, worker) == {k: v for k, v in expected().items() if k != "p04"}


def test_subjects_whose_folders_have_decomposed_names_are_found_again(folder, worker):
    names = {f"p{number:02}": f"p{number:02} Jos\u00e9" for number in range(3)}
    for old, new in names.items():
        (folder / "people" / old).rename(folder / "people" / unicodedata.normalize("NFD", new))
    assert worker.enrol(folder) == BulkSummary(subjects=30, references=60)
    assert enrolled(folder, worker) == {names.get(name, name): count for name, count in expected().items()}
    assert worker.enrol(folder) == BulkSummary(present=30)


def test_what_failed_is_reported_and_mended_by_the_next_run(folder, worker):
    people = folder / "people"
    good = (people / "p05/0.png").read_bytes()
    (people / "p05/0.png").write_bytes(good[:1000])
    (people / "p02/1.png").write_bytes(b"no image")
    Image.new("RGB", (112, 112)).save(people / "p03/0.png")
    Image.new("RGB", (50, 112)).save(people / "p07/1.png")
    (people / "p06/0.png").unlink()
    (people / "p06/0.png").symlink_to(people / "nowhere.png")
    for name in ("p05/1.png", "p05/2.png"):
        (people / name).unlink()
    done = worker.enrol(folder)
    assert (done.failed_images, done.failed_subjects) == (5, 3)
    problems = {line["image"]: line["problem"] for line in lines(folder)[1:-1]}
    assert sorted(problems) == ["p02/1.png", "p03/0.png", "p05/0.png", "p06/0.png", "p07/1.png"]
    assert "zero" in problems["p03/0.png"]
    assert "No such file" in problems["p06/0.png"]
    found = enrolled(folder, worker)
    assert found["p02"] == 2
    assert not {"p03", "p05", "p06"} & set(found)
    (people / "p05/0.png").write_bytes(good)
    done = worker.enrol(folder)
    assert (done.subjects, done.failed_images, done.failed_subjects) == (1, 4, 2)
    assert enrolled(folder, worker)["p05"] == 1


def test_killed_again_and_again_it_enrols_everybody_once(folder, worker):
    random = np.random.default_rng(3)
    Image.new("RGB", (112, 112)).save(folder / "people/p00/black.png")
    kills = 0
    for _ in range(6):
        kills += killed(folder, "here", float(random.uniform(0.3, 0.8)))
        with worker.opened(folder) as gallery:
            assert gallery.check() == []
    assert kills
    worker.enrol(folder)
    assert enrolled(folder, worker) == expected()
    # a run may have ended before it was to be killed: its counts stand in the report, too
    assert [line["image"] for line in lines(folder) if "image" in line] == ["p00/black.png"]


def started(folder, engine):
    environment = {**os.environ, "PYTHONPATH": f"{HERE}:{HERE.parents[1]}"}
    return subprocess.Popen(
        [sys.executable, str(HERE / "bulk_worker.py"), str(folder), engine],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )


def killed(folder, engine, seconds):
    """Whether a run was still at work when it was killed."""
    with started(folder, engine) as process:
        assert process.stdout.readline() == "ready\n"
        time.sleep(seconds)
        process.kill()
    return process.returncode != 0


@pytest.mark.proof
def test_two_workers_of_ray_enrol_everybody_once_though_killed(folder, worker):
    pytest.importorskip("ray")
    (folder / "people/p02/1.png").write_bytes(b"no image")
    for seconds in (6, 12):
        killed(folder, "ray", seconds)
    process = started(folder, "ray")
    assert "failed_images=1" in process.communicate(timeout=240)[0]
    assert enrolled(folder, worker) == expected() | {"p02": 2}


def test_results_out_of_order_and_twice_do_no_harm(folder, worker):
    here = lookup(ENGINES, "here", "engine")

    def shuffled(rows, settings):
        results = [each for part in here(rows, settings) for each in part]
        results += results[:10]
        np.random.default_rng(0).shuffle(results)
        yield from ([ImageEmbedding(*each)] for each in results)

    with worker.opened(folder) as gallery:
        done = bulk(gallery, folder, shuffled)
    assert done.references == 60
    assert enrolled(folder, worker) == expected()


def test_an_engine_that_loses_an_image_is_noticed(folder, worker):
    here = lookup(ENGINES, "here", "engine")

    def careless(rows, settings):
        for part in here(rows, settings):
            yield part[1:]

    with worker.opened(folder) as gallery, pytest.raises(DataError, match="the engine lost"):
        bulk(gallery, folder, careless)
    worker.enrol(folder)
    assert enrolled(folder, worker) == expected()


def bulk(gallery, folder, engine):
    import bulk_worker

    rows = read_rows("folder", folder / "people")
    settings = WorkerSettings("none", "pixels", batch_size=4, load=bulk_worker.load)
    return enroll_in_bulk(gallery, "door", rows, engine, settings, report=folder / "report.jsonl", batch=8)


def test_a_second_run_at_the_same_time_is_refused(folder, worker):
    def busy(rows, settings):
        with pytest.raises(DataError, match="another run is at work"):
            worker.enrol(folder)
        yield from lookup(ENGINES, "here", "engine")(rows, settings)

    with worker.opened(folder) as gallery:
        assert bulk(gallery, folder, busy).subjects == 30


def test_workers_get_no_keys(folder):
    """What is sent to a worker is its settings and where images lie, nothing of the gallery."""
    fields = {*WorkerSettings.__dataclass_fields__, *ImageRow.__dataclass_fields__}
    assert fields == {
        *("weights", "fingerprint", "batch_size", "workers", "checked", "load"),
        *("subject_id", "name", "file", "offset", "length"),
    }


def test_a_worker_with_other_weights_is_refused(worker):
    with pytest.raises(WeightsError, match="differ from those"):
        EmbeddingWorker(WorkerSettings("none", "other", load=worker.load))


def test_lists_and_shards_give_the_same_as_the_folder(folder, tmp_path):
    by_folder = read_rows("folder", folder / "people")
    listed = tmp_path / "people.txt"
    listed.write_text("".join(f"people/{r.name}\t{r.subject_id}\n" for r in reversed(by_folder)))
    assert [(r.subject_id, r.file) for r in read_rows("list", listed)] == [(r.subject_id, r.file) for r in by_folder]
    listed.write_text("people/p00/0.png p00\n")
    with pytest.raises(DataError, match="line 1: expected <image><tab><subject>"):
        read_rows("list", listed)
    for kind, place in (("folder", "nowhere"), ("list", "nowhere.txt")):
        with pytest.raises(DataError):
            read_rows(kind, tmp_path / place)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="found none"):
        read_rows("folder", tmp_path / "empty")


def test_unknown_engines_and_kinds_are_refused():
    with pytest.raises(ConfigError, match=", ".join(sorted(ENGINES))):
        lookup(ENGINES, "spark", "engine")
    with pytest.raises(ConfigError, match="folder, list, tfrecord"):
        read_rows("csv", Path("x"))
