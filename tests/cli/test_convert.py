"""`iom convert` killed in the middle and started again leaves what it would have left anyway."""

import os
import signal
import subprocess
import sys
import time

import pytest

from iom.data.formats.pair_files import write_bin
from tests.commands import command
from tests.data.test_conversions import SIDE, encoded, write_rec

main = command("convert")

COUNT = 240


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    root = tmp_path_factory.mktemp("sources")
    images = [encoded(seed, "PNG") for seed in range(COUNT)]
    for number, data in enumerate(images):
        path = root / "folder" / f"s{number // 10:02d}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    write_rec(root / "recordio", [(number // 10, data) for number, data in enumerate(images)])
    write_bin(root / "pairs.bin", images, [True, False] * (COUNT // 4))
    return root


def tree(root):
    """Path to content of all files."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("source", "kind"),
    [("folder", "folder:tfrecord"), ("recordio/train.rec", "recordio:folder"), ("pairs.bin", "bin:pairs")],
)
def test_a_killed_conversion_is_continued(sources, tmp_path, source, kind):
    options = ["--kind", kind, "--size", str(SIDE), "--per-shard", "20", "--quiet"]
    command = [str(sources / source), str(tmp_path / "killed"), *options]
    process = subprocess.Popen([sys.executable, "-m", "iom", "convert", *command])
    while process.poll() is None and sum(1 for _ in (tmp_path / "killed").rglob("*.*")) < 24:
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it was done before it could be killed"
    assert main(command) == 0
    assert main([str(sources / source), str(tmp_path / "whole"), *options]) == 0
    assert tree(tmp_path / "killed") == tree(tmp_path / "whole")


def test_records_become_the_same_shards_as_their_images(sources, tmp_path):
    options = ["--size", str(SIDE), "--per-shard", "20", "--quiet"]
    steps = [
        (sources / "recordio/train.rec", "images", "recordio:folder"),
        (sources / "recordio/train.rec", "shards", "recordio:tfrecord"),
        (tmp_path / "shards", "again", "tfrecord:folder"),
    ]
    for source, target, kind in steps:
        assert main([source, tmp_path / target, "--kind", kind, *options]) == 0
    images = {name: data for name, data in tree(tmp_path / "images").items() if name.endswith(".png")}
    assert len(images) == COUNT
    assert images.items() <= tree(tmp_path / "again").items()
