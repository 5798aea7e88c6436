"""The attack on a stolen record store, and what single files of a gallery give away."""

import argparse
import dataclasses
import json
import shutil
import warnings

import numpy as np
import pytest

from benchmarks import stolen_store
from benchmarks.attack_setting import load_setting
from benchmarks.stolen_files import attack_files, attack_gallery, disclosed_row, meet, read_codes, templates_of
from benchmarks.stolen_store import PROTECTIONS, enrolled_gallery, make_scene
from iom.codes.packing import unpack
from iom.errors import KeyKindWarning, UnmaskedWarning
from iom.gallery.gallery import Gallery
from iom.gallery.templates import unmasked
from iom.gallery.transfer import export_application
from iom.keys import SubjectToken


@pytest.fixture(scope="module")
def scene():
    """Random subjects, a refined hasher with permutation keys, 40 of whose enrolled are known by their photograph."""
    arguments = argparse.Namespace(synthetic=True, seed=1, victims=30, old_keys=1, quick=True)
    made = make_scene(arguments, load_setting(arguments), "permutation")
    keys = dataclasses.replace(made.keys, fresh=made.keys.fresh[:4])
    return dataclasses.replace(made, keys=keys, replicates=50)


def opened_gallery(scene, folder, **options):
    """The gallery of a folder, without warnings of what is measured."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnmaskedWarning)
        return Gallery.open(folder / "door.db", keys=folder / "door.keys", hasher=scene.hasher,
                            passphrase=stolen_store.PASSPHRASE, **options)  # fmt: skip


@pytest.fixture
def gallery_files(scene, tmp_path):
    """Record store, key store, export and backup of a gallery with some protection; and the plain codes."""

    def make(protection):
        with enrolled_gallery(scene, tmp_path, **PROTECTIONS[protection]) as gallery:
            both = attack_gallery(gallery, scene)
            export_application(gallery, "default", tmp_path / "door.export")
            references = [gallery.references(name)[0] for name in scene.names]
            stored = b"".join(reference.code for reference in references)
        shutil.copy(tmp_path / "door.db", tmp_path / "backup.db")
        return both, stored

    return make


def test_a_record_store_under_a_common_key_gives_everybody_away(scene, gallery_files, tmp_path):
    """The control: what the other tests find to be chance can be found."""
    both, _ = gallery_files("common")
    assert both.accepted_fresh == 1
    assert both.knowledge == "store + key"
    for name in ("door.db", "backup.db", "door.export"):
        found = attack_files([tmp_path / name], scene)
        assert found.records == len(scene.names)
        assert found.best.accepted_fresh > 0.9
        assert not found.is_chance


def test_masked_codes_and_either_store_alone_leave_a_guess(scene, gallery_files, tmp_path):
    both, _ = gallery_files("masked")
    assert both.accepted_fresh == 1
    for name in ("door.db", "backup.db", "door.export"):
        found = attack_files([tmp_path / name], scene)
        assert found.records == len(scene.names)
        assert found.is_chance
        assert found.best.accepted_fresh < 0.1
    assert attack_files([tmp_path / "door.keys"], scene).records == 0
    together = attack_files([tmp_path / "door.db", tmp_path / "door.keys"], scene)
    assert together.is_chance  # the key store is sealed by a passphrase


def test_a_key_per_record_leaves_a_guess(scene, gallery_files, tmp_path):
    both, _ = gallery_files("per_record")
    assert both.accepted_fresh == 1
    found = attack_files([tmp_path / "door.db"], scene)
    assert (found.records, found.is_chance) == (len(scene.names), True)


def test_codes_are_found_in_any_bytes(scene, gallery_files, tmp_path):
    """Damaged pages, a dump of a process: behind the names, or wherever the true codes stand."""
    gallery_files("common")
    data = (tmp_path / "door.db").read_bytes()
    dump = bytes(1000) + data[100:]  # no header that says what it is
    found = attack_files([dump], scene)
    assert found.records > 0.8 * len(scene.names)
    assert found.best.accepted_fresh > 0.9
    (reading,) = read_codes(data, scene.names, scene.encoding)
    codes = templates_of(reading, scene)
    matrix = b"".join(reading[name] for name in scene.names)
    without_names = attack_files([b"?" * 77 + matrix], scene, true_codes=codes)
    assert (without_names.plain_codes, without_names.best.accepted_fresh > 0.9) == (len(scene.names), True)
    nothing = attack_files([np.random.default_rng(1).bytes(100_000)], scene, true_codes=codes)
    assert (nothing.records, nothing.plain_codes, nothing.is_chance) == (0, 0, True)


def test_the_bytes_of_a_store_are_its_codes(scene, gallery_files, tmp_path):
    _, stored = gallery_files("common")
    for name in ("door.db", "door.export"):
        (reading,) = read_codes((tmp_path / name).read_bytes(), scene.names, scene.encoding)
        assert b"".join(reading[subject] for subject in scene.names) == stored
    expected = scene.hasher.hash(scene.enrolled.samples[:1], [scene.keys.old[0]])
    assert templates_of({}, scene).shape == (len(scene.names), expected.shape[1])


@pytest.mark.proof
def test_a_run_on_random_vectors(root, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(root)
    small = ["--synthetic", "--victims", "20", "--known", "10", "--kinds", "permutation"]
    assert stolen_store.main(small) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["acceptance_common_10_known_exact"] > 0.9 > 0.2 > figures["acceptance_masked_10_known_exact"]
    assert figures["acceptance_common_10_known"] > figures["fmr_interval"][1]
    for protection in ("masked", "per_record"):
        assert figures[f"is_chance_{protection}_10_known"]
        assert figures[f"interval_{protection}_10_known"][0] <= figures["fmr_interval"][1]
        assert figures[f"acceptance_{protection}_both_stores"] == 1
    noise = tmp_path / "noise"
    noise.write_bytes(bytes(5000))
    assert stolen_store.main([*small, "--files", str(noise)]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["records"] == 0


def test_baselines_under_a_common_key(root, monkeypatch, capsys):
    monkeypatch.chdir(root)
    small = ["--synthetic", "--victims", "20", "--known", "40", "--kinds", "--systems", "grp", "scalar_4bit", "urp"]
    assert stolen_store.main(small) == 0
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]
    best = {
        name: max(
            row["accepted_fresh"] or 0 for row in rows if (row["system"], row["photograph"]) == (name, "enrolled")
        )
        for name in ("grp", "scalar_4bit", "urp")
    }
    assert best["grp"] > 0.9
    assert best["scalar_4bit"] > 0.6
    assert best["urp"] < 0.1


def test_help(capsys):
    with pytest.raises(SystemExit) as stopped:
        stolen_store.main(["--help"])
    assert stopped.value.code == 0
    assert "python -m benchmarks.stolen_store" in capsys.readouterr().out


@pytest.mark.proof
def test_stolen_store_reaches_its_figures(prepared_data, root, monkeypatch, capsys):
    """A quarter of an hour: real faces, the committed hasher."""
    monkeypatch.chdir(root)
    assert stolen_store.main(["--data", str(prepared_data), "--known", "10", "100"]) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["acceptance_common_10_known"] > 0.9
    assert figures["acceptance_common_orthogonal_100_known_exact"] > 0.8
    for kind in ("", "orthogonal_"):
        assert figures[f"is_chance_masked_{kind}10_known"]
        assert figures[f"is_chance_per_record_{kind}10_known"]


def test_masks_that_were_added_in_place_leave_a_guess(scene, gallery_files, tmp_path):
    """The file and its logs after `iom migrate --mask`; the backup of before is the control."""
    gallery_files("common")
    with opened_gallery(scene, tmp_path) as gallery:
        (reading,) = read_codes((tmp_path / "door.db").read_bytes(), scene.names, scene.encoding)
        codes = templates_of(reading, scene)
        assert gallery.mask() == len(scene.names)
        export_application(gallery, "default", tmp_path / "masked.export")
        assert attack_gallery(gallery, scene).accepted_fresh == 1
        live = [path.read_bytes() for path in sorted(tmp_path.glob("door.db*"))]
    assert attack_files([tmp_path / "backup.db"], scene).best.accepted_fresh > 0.9
    for files in ([tmp_path / "door.db"], live, [tmp_path / "masked.export"], [tmp_path / "door.keys"]):
        found = attack_files(files, scene, true_codes=codes)
        assert (found.plain_codes, found.is_chance) == (0, True)
        assert found.best.accepted_fresh < 0.1


@pytest.mark.parametrize("masked", [False, True])
def test_both_stores_without_the_tokens_leave_a_guess(scene, tmp_path, masked):
    """Whoever opens both stores has the codes and the keys of the key store, and lacks what the subjects keep."""
    rows = dict(zip(scene.names, scene.enrolled.samples, strict=True))
    victims = [scene.names[row] for row in scene.enrolled.wanted]
    tokens = {name: SubjectToken.generate() for name in victims}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", KeyKindWarning)
        with opened_gallery(scene, tmp_path, create=True) as gallery:
            gallery.create_application("default", threshold=int(scene.threshold), masked=masked)
            for name in victims:
                gallery.enroll(name, rows[name], token=tokens[name])
            references = [gallery.references(name)[0] for name in victims]
            codes = unpack(unmasked(gallery.keys, gallery.application("default"), references))
            without = gallery.keys.record_keys("default", [(each.subject_id, each.record) for each in references])
            found = attack_gallery(gallery, scene)
    guess, *_ = scene.rows(templates_of({}, scene), known=(0,))
    assert meet(found, guess)
    assert found.accepted_old < 0.1
    assert abs(found.cosine) < 0.1
    whole = [key.with_token(tokens[name]) for key, name in zip(without, victims, strict=True)]
    control = disclosed_row(scene, codes, whole)
    assert min(control.accepted_fresh, control.accepted_old, control.cosine) > 0.9
