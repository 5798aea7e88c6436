"""JSON files that others made: too deep, too large, with huge integers: one line, no traceback."""

import json
import struct
import zipfile

import numpy as np
import pytest

from iom.data.benchmarks.identification import read_megaface
from iom.data.formats.pair_files import read_carray
from iom.data.tfrecord import open_shards
from iom.errors import IomError
from iom.evaluation.records import read_report
from iom.models.artifact import read_manifest
from iom.models.face_hasher import KerasFaceHasher
from iom.nn.hash_numpy import PROGRAM, Head
from iom.photos.photograph import PhotoSettings
from iom.photos.pipeline import PhotoRun, align_photos
from iom.pretrained.importers.keras_files import read_keras
from iom.pretrained.importers.mxnet import read_mxnet
from iom.pretrained.manifest import read_manifest as read_weights_manifest
from iom.pretrained.manifest import read_statement
from iom.service.tokens import read_tokens
from iom.training.run_dir import read_records

DEEP = '{"heads": ' + "[" * 100_000 + "]" * 100_000 + "}"
HUGE = '{"heads": ' + "1" * 100_000 + "}"


def symbol(folder, text):
    (folder / "m-0000.params").write_bytes(struct.pack("<4Q", 0x112, 0, 0, 0))
    (folder / "m-symbol.json").write_text(text)
    read_mxnet(folder / "m-0000.params")


def statement(folder, text):
    (folder / "x.onnx.input.json").write_text(text)
    read_statement(folder / "x.onnx")


def artefact(folder, text):
    (folder / "x.onnx").touch()
    (folder / "x.onnx.json").write_text(text)
    read_manifest(folder / "x.onnx")


def tokens(folder, text):
    (folder / "tokens.json").write_text(text)
    read_tokens(folder / "tokens.json")


def weights(folder, text):
    (folder / "manifest.json").write_text(text)
    read_weights_manifest(folder / "manifest.json")


def hasher(folder, text):
    (folder / "hasher.json").write_text(text)
    KerasFaceHasher.load(folder)


def shards(folder, text):
    (folder / "manifest.json").write_text(text)
    open_shards(folder)


def report(folder, text):
    (folder / "report.json").write_text(text)
    read_report(folder)


def megaface(folder, text):
    (folder / "list.json").write_text(text)
    read_megaface(folder / "list.json", folder / "list.json", folder, folder)


def carray(folder, text):
    np.save(folder / "a_list.npy", [True, False])
    (folder / "a" / "meta").mkdir(parents=True)
    (folder / "a" / "meta" / "storage").write_text(text)
    read_carray(folder / "a")


def records(folder, text):
    (folder / "metrics.jsonl").write_text(text)
    read_records(folder / "metrics.jsonl")


def journal(folder, text):
    for name, content in {"photos/a.jpg": "", "out/align.jsonl": text + "\n"}.items():
        (folder / name).parent.mkdir()
        (folder / name).write_text(content)
    run = PhotoRun(folder / "photos", PhotoSettings(detector="points"), points={"a.jpg": []}, workers=0)
    align_photos(run, folder / "out")


def keras_archive(folder, text):
    with zipfile.ZipFile(folder / "m.keras", "w") as archive:
        archive.writestr("config.json", text)
    read_keras(folder / "m.keras", None)


def head(folder, text):
    np.savez(folder / "x.head.npz", **{PROGRAM: np.frombuffer(text.encode(), np.uint8)})
    Head.load(folder / "x.head.npz")


READERS = [symbol, statement, artefact, tokens, weights, hasher, shards, report, megaface, carray,
           records, journal, keras_archive, head]  # fmt: skip


@pytest.mark.parametrize("text", [DEEP, HUGE, DEEP[:90_000], "[1, 2", ""], ids=range(5))
@pytest.mark.parametrize("read", READERS)
def test_hostile_json_is_one_line(tmp_path, read, text):
    if (read, text) == (records, ""):
        pytest.skip("no line is no record")
    with pytest.raises(IomError) as caught:
        read(tmp_path, text)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000
    json.dumps(str(caught.value))
