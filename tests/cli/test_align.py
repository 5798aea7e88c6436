"""`iom align` on generated photographs with known landmarks."""

import functools
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from iom.photos.align import TEMPLATE, Face, write_landmarks
from tests.commands import command

main = command("align")


def listed_photos(folder, count, size=200):
    photos = folder / "photos"
    photos.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
    names = [f"{i:03d}.png" for i in range(count)]
    Image.fromarray(noise).save(photos / names[0])
    for name in names[1:]:
        (photos / name).hardlink_to(photos / names[0])
    rows = [(name, 0, Face(TEMPLATE + 30, 1.0), "") for name in names]
    write_landmarks(folder / "landmarks.csv", rows)
    return [str(photos), str(folder / "faces"), "--points", str(folder / "landmarks.csv")]


def test_photographs_become_faces(tmp_path, capsys):
    command = listed_photos(tmp_path, 3)
    assert main([*command, "--quiet"]) == 0
    assert "3 photographs: 3 aligned" in capsys.readouterr().out
    assert len(list((tmp_path / "faces").glob("*.jpg"))) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--workers", "-1"], "invalid value for '--workers': -1 is not in the range"),
        (["--faces", "best"], "faces: expected 'all', 'largest', 'centre', 'one' or 'dominant', received 'best'"),
        (["--min-score", "7"], "min_score: expected at most 1"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, capsys, options, message):
    assert main([*listed_photos(tmp_path, 1), *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_killed_run_is_continued(tmp_path):
    command = listed_photos(tmp_path, 60, size=600)
    arguments = [sys.executable, "-m", "iom", "align", *command, "--quiet"]
    journal = tmp_path / "faces" / "align.jsonl"
    process = subprocess.Popen([*arguments, "--workers", "2"])
    while process.poll() is None and not (journal.is_file() and journal.read_bytes().count(b"\n") > 5):
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = journal.read_bytes().count(b"\n") - 1
    assert 5 <= done < 60
    assert main([*command, "--quiet"]) == 0
    assert len(list((tmp_path / "faces").glob("*.jpg"))) == 60
    assert journal.read_bytes().count(b"\n") == 61


def test_an_interrupted_run_says_how_to_go_on_and_no_more(tmp_path):
    command = listed_photos(tmp_path, 200, size=600)
    arguments = [sys.executable, "-m", "iom", "align", *command, "--quiet", "--workers", "1"]
    journal = tmp_path / "faces" / "align.jsonl"
    heeds = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell's background job ignores it
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=heeds)
    while process.poll() is None and not (journal.is_file() and journal.read_bytes().count(b"\n") > 1):
        time.sleep(0.01)  # until a worker has finished a photograph
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the workers get it, too
    error = process.communicate(timeout=60)[1]
    assert error == "stopped; start the same command again to go on\n"
    assert process.returncode == 130
    assert main([*command, "--quiet"]) == 0
    assert len(list((tmp_path / "faces").glob("*.jpg"))) == 200


def test_a_single_photograph_is_a_folder_of_one(tmp_path):
    command = listed_photos(tmp_path, 1)
    photo = tmp_path / "photos" / "000.png"
    assert main([str(photo), *command[1:], "--quiet"]) == 0
    assert [path.stem for path in (tmp_path / "faces").glob("*.jpg")] == ["000"]
