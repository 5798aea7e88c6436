import hashlib
import io
import json
import struct

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from iom.config import AugmentationConfig, FolderConfig
from iom.data import tfrecord
from iom.data.check import check_data
from iom.data.folders import hold_out, scan_folder
from iom.data.formats.conversions import convert
from iom.data.formats.pair_files import read_bin_images, write_bin
from iom.data.formats.recordio import MAGIC, read_record_file
from iom.data.image_batches import LABEL, ImageBatches
from iom.data.tfrecord import open_shards, read_records
from iom.errors import ConfigError, DataError
from tests.commands import command

SIDE = 16
SUBJECTS = ("anna", "bert", "carl", "dora")
MANY = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def encoded(seed, kind="JPEG"):
    pixels = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    root = tmp_path_factory.mktemp("faces")
    for number, subject in enumerate(SUBJECTS):
        (root / subject).mkdir()
        for image in range(3):
            (root / subject / f"{image}.jpg").write_bytes(encoded(10 * number + image))
    return root


@pytest.fixture(scope="module")
def shards(faces, tmp_path_factory):
    root = tmp_path_factory.mktemp("shards")
    convert(("folder", "tfrecord"), faces, root, size=SIDE, per_shard=5)
    return root


def part(kind, content):
    head = MAGIC + struct.pack("<I", kind << 29 | len(content))
    return head + content + bytes(-len(content) % 4)


def write_rec(folder, rows, *, ranges=True):
    """A RecordIO file in the manner of InsightFace; `rows` are (label, image)."""
    folder.mkdir(exist_ok=True)
    header = struct.Struct("<IfQQ")
    labels = sorted({label for label, _ in rows})
    end = len(rows) + 1
    contents = {i: header.pack(0, label, i, 0) + data for i, (label, data) in enumerate(rows, 1)}
    if ranges:
        contents[0] = header.pack(2, 0, 0, 0) + struct.pack("<2f", end, end + len(labels))
        for key, label in enumerate(labels, end):
            own = [i for i, row in enumerate(rows, 1) if row[0] == label]
            contents[key] = header.pack(2, 0, key, 0) + struct.pack("<2f", own[0], own[-1] + 1)
    stream, index = b"", ""
    for key in sorted(contents):
        index += f"{key}\t{len(stream)}\n"
        stream += part(0, contents[key])
    (folder / "train.rec").write_bytes(stream)
    (folder / "train.idx").write_text(index)
    (folder / "property").write_text(f"{len(labels)},{SIDE},{SIDE}")
    return folder / "train.rec"


ROWS = [(label, encoded(7 * label + i, "PNG")) for label in range(3) for i in range(3)]


def test_shards_and_back_is_byte_for_byte(faces, shards, tmp_path):
    manifest = convert(("tfrecord", "folder"), shards, tmp_path / "again", size=SIDE)
    assert manifest["subjects"] == list(SUBJECTS)
    for path in faces.rglob("*.jpg"):
        again = tmp_path / "again" / path.relative_to(faces)
        assert again.read_bytes() == path.read_bytes()


def test_a_shard_is_held_open_while_it_is_read(shards, monkeypatch):
    """A thread may be given a descriptor that the cache does not keep, as another thread was faster."""
    monkeypatch.setattr(tfrecord, "_descriptor", tfrecord._Descriptor)
    for row in open_shards(shards).values():
        assert hashlib.sha256(row.read_bytes()).hexdigest() == row.sha256


def test_arcface_tf2_can_read_the_shards(faces, shards):
    wanted = {
        "image/source_id": tf.io.FixedLenFeature([], tf.int64),
        "image/filename": tf.io.FixedLenFeature([], tf.string),
        "image/encoded": tf.io.FixedLenFeature([], tf.string),
    }
    for record in tf.data.TFRecordDataset(str(shards / "00000.tfrecord")):
        example = tf.io.parse_single_example(record, wanted)
        name = example["image/filename"].numpy().decode()
        assert example["image/encoded"].numpy() == (faces / name).read_bytes()
        assert SUBJECTS[int(example["image/source_id"])] == name.split("/")[0]


def test_a_finished_shard_is_kept_and_a_damaged_one_written_again(faces, tmp_path):
    run = {"size": SIDE, "per_shard": 4}
    first = convert(("folder", "tfrecord"), faces, tmp_path / "s", **run)
    kept = (tmp_path / "s" / "00000.tfrecord").stat().st_mtime_ns
    (tmp_path / "s" / "manifest.json").unlink()
    (tmp_path / "s" / "00001.tfrecord").write_bytes(b"half")
    journal = tmp_path / "s" / ".conversion.jsonl"
    journal.write_bytes(journal.read_bytes()[:-5])  # the last shard was not noted
    assert convert(("folder", "tfrecord"), faces, tmp_path / "s", **run) == first
    assert (tmp_path / "s" / "00000.tfrecord").stat().st_mtime_ns == kept
    with pytest.raises(DataError, match="begun with other settings"):
        convert(("folder", "tfrecord"), faces, tmp_path / "s", size=SIDE, per_shard=5)


def test_training_from_shards_is_training_from_the_folder(faces, shards):
    config = {"holdout": 0.5, "min_images": 2}
    plain = hold_out(*[f(FolderConfig(root=str(faces), **config)) for f in (scan_folder,)],
                     FolderConfig(root=str(faces), **config))[0]  # fmt: skip
    data = FolderConfig(root=str(shards), **config)
    stored = hold_out(scan_folder(data), data)[0]
    assert stored.paths == plain.paths
    assert [file.read_bytes() for file in stored.files] == [p.read_bytes() for p in plain.files]
    for mix in (0.0, 0.4):
        batches = [
            ImageBatches(folder, AugmentationConfig(), 2, seed=1, input_size=SIDE, mix=mix)
            for folder in (plain, stored)
        ]
        for one, two in zip(batches[0].epoch(1, 1), batches[1].epoch(1, 1), strict=True):
            np.testing.assert_array_equal(one[0], two[0])
            np.testing.assert_array_equal(one[1][LABEL], two[1][LABEL])


def test_record_io_with_a_record_of_parts(tmp_path):
    data = encoded(1, "PNG") + MAGIC  # after the end of the image
    data = data[: len(data) // 4 * 4]
    path = write_rec(tmp_path / "r", [(0, data), (0, ROWS[1][1]), (1, ROWS[2][1])])
    content = struct.pack("<IfQQ", 0, 5.0, 0, 0) + b"left" + MAGIC + b"right"
    (tmp_path / "p").mkdir()
    before, after = content.split(MAGIC)
    (tmp_path / "p" / "train.rec").write_bytes(part(1, before) + part(3, after))
    (tmp_path / "p" / "train.idx").write_text("0\t0\n")
    records = read_record_file(tmp_path / "p" / "train.rec")
    assert records.read(0) == b"left" + MAGIC + b"right"
    assert records.labels.tolist() == [5]
    assert read_record_file(path).read(0) == data


def test_record_io_to_folder_and_shards(tmp_path):
    path = write_rec(tmp_path / "r", ROWS)
    for kind in ("folder", "tfrecord"):
        manifest = convert(("recordio", kind), path, tmp_path / kind, size=SIDE)
        assert manifest["images"] == 9
        assert manifest["subjects"] == ["00000000", "00000001", "00000002"]
        assert manifest["notes"] == []
    for key, (label, data) in enumerate(ROWS, 1):
        assert (tmp_path / "folder" / f"{label:08d}" / f"{key:09d}.png").read_bytes() == data


def test_bin_to_pairs_and_back(tmp_path):
    images = [encoded(i) for i in (0, 1, 2, 0, 4, 5)]
    write_bin(tmp_path / "a.bin", images, [True, False, True])
    convert(("bin", "pairs"), tmp_path / "a.bin", tmp_path / "pairs")
    convert(("pairs", "bin"), tmp_path / "pairs", tmp_path / "b.bin")
    assert read_bin_images(tmp_path / "b.bin") == (images, [True, False, True])


def test_an_unknown_conversion(faces, tmp_path):
    with pytest.raises(ConfigError, match="folder to tfrecord"):
        convert(("folder", "lmdb"), faces, tmp_path)


def damaged(data, tenth, flip):
    if tenth is not None:
        return data[: len(data) * tenth // 10]
    place, bit = flip
    place = int(place * len(data))
    return data[:place] + bytes([data[place] ^ (1 << bit)]) + data[place + 1 :]


CUTS = st.tuples(st.integers(0, 9), st.none())
FLIPS = st.tuples(st.none(), st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 7)))


@MANY
@given(st.one_of(CUTS, FLIPS), st.sampled_from(["train.rec", "train.idx"]))
def test_damaged_record_io_never_gives_wrong_labels(tmp_path, damage, name):
    path = write_rec(tmp_path / "r", ROWS)
    target = path.with_name(name)
    target.write_bytes(damaged(target.read_bytes(), *damage))
    try:
        records = read_record_file(path)
    except DataError:
        return
    assert records.labels.tolist() == [label for label, _ in ROWS]


@MANY
@given(st.one_of(CUTS, FLIPS), st.sampled_from(["00000.tfrecord", "00000.tsv", "manifest.json"]))
def test_damaged_shards_are_refused_or_right(shards, tmp_path, damage, name):
    root = tmp_path / "s"
    root.mkdir(exist_ok=True)
    for file in shards.iterdir():
        (root / file.name).write_bytes(file.read_bytes())
    changed = damaged((root / name).read_bytes(), *damage)
    (root / name).write_bytes(changed)
    try:
        found = open_shards(root, verify=True)
    except DataError:
        return
    whole = open_shards(shards)
    assert name == "manifest.json"
    assert {p: r.path.split("/")[0] for p, r in found.items()} == {p: r.path.split("/")[0] for p, r in whole.items()}


@pytest.mark.parametrize("tenth", range(10))
def test_a_truncated_tfrecord_is_an_error_or_ends_early(shards, tmp_path, tenth):
    data = (shards / "00000.tfrecord").read_bytes()
    (tmp_path / "t").write_bytes(damaged(data, tenth, None))
    whole = list(read_records(shards / "00000.tfrecord"))
    try:
        rows = list(read_records(tmp_path / "t"))
    except DataError:
        return
    assert rows == whole[: len(rows)]


@MANY
@given(st.one_of(CUTS, FLIPS))
def test_a_damaged_bin_is_refused_or_has_as_many_pairs(tmp_path, damage):
    path = tmp_path / "a.bin"
    write_bin(path, [encoded(i) for i in range(6)], [True, False, True])
    path.write_bytes(damaged(path.read_bytes(), *damage))
    try:
        images, same = read_bin_images(path)
    except DataError:
        return
    assert len(images) == 2 * len(same)


def test_the_checker_finds_everything(faces, tmp_path, capsys):
    main = command("check-data")

    root = tmp_path / "f"
    for subject, name, data in [
        ("a", "1.jpg", encoded(1)), ("a", "2.jpg", encoded(1)), ("a", "3.jpg", encoded(3)[:90]),
        ("b", "1.jpg", encoded(1)), ("b", "2.png", encoded(5, "PNG")), ("c", "1.png", b"x"),
    ]:  # fmt: skip
        (root / subject).mkdir(parents=True, exist_ok=True)
        (root / subject / name).write_bytes(data)
    Image.new("L", (SIDE, SIDE)).save(root / "b" / "grey.png")
    Image.new("RGB", (SIDE, 9)).save(root / "b" / "long.png")
    (root / "b" / "notes.txt").write_text("x")
    (root / "empty").mkdir()
    assert main([str(root), "--size", str(SIDE), "--json", "--quiet"]) == 1
    kinds = {item["kind"] for item in json.loads(capsys.readouterr().out)["findings"]}
    assert kinds == {
        "corrupt", "wrong_size", "not_rgb", "same_bytes", "two_labels", "one_image",
        "empty_folder", "odd_file",
    }  # fmt: skip
    assert main([str(faces), "--size", str(SIDE), "--quiet"]) == 0
    assert main([str(tmp_path / "nothing")]) == 2
    assert "does not exist" in capsys.readouterr().err


def test_the_checker_reads_shards_records_and_bins(shards, tmp_path):
    assert check_data(shards, size=SIDE) == (12, [])
    assert check_data(write_rec(tmp_path / "r", ROWS), size=SIDE) == (9, [])
    write_bin(tmp_path / "a.bin", [encoded(i) for i in range(4)], [True, False])
    assert check_data(tmp_path / "a.bin", size=SIDE) == (4, [])
