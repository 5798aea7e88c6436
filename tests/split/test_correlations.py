"""Dealt correlations: the files, and that none is used twice."""

import concurrent.futures
import contextlib
import dataclasses
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iom._peers import error_from_json, error_to_json
from iom.errors import CodeError, CorrelationError, DataError, StoreError, StoreNotFoundError
from iom.split.correlations import CHUNK, CorrelationsA, CorrelationsB, Terms, deal, deal_files, table_entries

TERMS = Terms(64, 2, 10)


@pytest.fixture
def dealt(tmp_path):
    """Deals into files of the test's folder, and gives their paths."""

    def run(count=100, terms=TERMS):
        paths = tmp_path / "a.deal", tmp_path / "b.deal"
        deal_files(terms, count, *paths)
        return paths

    return run


@pytest.mark.parametrize("terms", [TERMS, Terms(65, 3, -1), Terms(40, 5, 40), Terms(1, 2, 0)], ids=str)
def test_the_two_parts_belong_together(terms, dealt):
    paths = dealt(3, terms)
    modulus, entries = terms.modulus, terms.entries
    with CorrelationsA(paths[0], terms) as a, CorrelationsB(paths[1], terms) as b:
        for _ in range(3):
            taken = a.take()
            own, theirs = taken.correlation, b.claim(taken.deal, taken.index).correlation
            whole = [(int(x) + int(y)) % modulus for x, y in zip(own.shares, theirs.shares, strict=True)]
            *products, delta, mask = whole
            differs = np.unpackbits(own.bits ^ theirs.bits, bitorder="little")
            assert products == [int(each) * delta for each in differs]
            assert delta % entries == 1
            for distance in range(entries):
                opened = (distance * delta + mask) % modulus
                assert (own.entry(opened) == theirs.entry(opened)) is (distance <= terms.threshold)
                assert own.entry((opened + entries) % modulus) != theirs.entry(opened)


@given(st.integers(1, 65536))
def test_the_modulus_has_what_the_proof_needs(length):
    terms = Terms(length, 2, 0)
    entries, cofactor = terms.entries, terms.modulus // terms.entries
    assert entries % 2 == 1
    assert entries > length
    assert terms.modulus == entries * cofactor
    assert (2**64 - 1) * 0.999 < terms.modulus < 2**64
    assert all(cofactor % factor for factor in range(2, min(entries, 2000) + 1))


def test_table_entries_do_not_repeat():
    values = [0, 1, 2**63, 2**64 - 1]
    joined = table_entries(bytes(32), values)
    assert len({joined[16 * i : 16 * i + 16] for i in range(4)}) == 4


@pytest.mark.parametrize("terms", [(64, 2, 65), (64, 2, -2), (0, 2, 0), (64, 1, 0), (64, 257, 0), (65537, 2, 0)])
def test_impossible_terms_are_refused(terms):
    with pytest.raises(CodeError, match="expected"):
        Terms(*terms)


def test_files_are_secret_and_never_overwrite(dealt, tmp_path):
    paths = dealt()
    assert [stat.S_IMODE(path.stat().st_mode) for path in paths] == [0o600, 0o600]
    before = [path.read_bytes() for path in paths]
    for pair in (paths, (paths[0], tmp_path / "new.deal"), (tmp_path / "new.deal", paths[1])):
        with pytest.raises(DataError, match="is there already"):
            deal_files(TERMS, 1, *pair)
    with pytest.raises(DataError, match="one for both"):
        deal_files(TERMS, 1, tmp_path / "new.deal", tmp_path / "new.deal")
    assert [path.read_bytes() for path in paths] == before
    assert sorted(tmp_path.iterdir()) == sorted(paths)


@pytest.mark.parametrize("late", ["a.deal", "b.deal"])
def test_a_deal_that_fails_leaves_nothing(tmp_path, late):
    """Another program makes one of the files meanwhile."""
    with pytest.raises(FileExistsError):
        deal_files(TERMS, 1, tmp_path / "a.deal", tmp_path / "b.deal", step=lambda: (tmp_path / late).write_text("x"))
    assert [path.name for path in tmp_path.iterdir()] == [late]
    assert (tmp_path / late).read_text() == "x"


def test_an_interrupted_deal_leaves_nothing(tmp_path):
    def stop():
        assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in tmp_path.iterdir())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        deal_files(TERMS, 5, tmp_path / "a.deal", tmp_path / "b.deal", step=stop)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_seen_before_the_work(tmp_path):
    with pytest.raises(DataError, match="GB are free"):
        deal_files(Terms(1536, 2, 200), 1 << 32, tmp_path / "a.deal", tmp_path / "b.deal")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DataError, match="expected 1 to"):
        deal_files(TERMS, 0, tmp_path / "a.deal", tmp_path / "b.deal")


def test_each_is_taken_once_until_none_is_left(dealt):
    path_a, path_b = dealt(70)
    with CorrelationsA(path_a) as a, CorrelationsB(path_b) as b:
        assert (a.left, b.left) == (70, 70)
        for index in range(70):
            taken = a.take()
            assert taken.index == index
            b.claim(taken.deal, index)
            assert (a.left, b.left) == (69 - index, 69 - index)
            with pytest.raises(CorrelationError, match=f"correlation {index} is used"):
                b.claim(taken.deal, index)
        with pytest.raises(CorrelationError, match="all 70 correlations are used; run iom deal"):
            a.take()
    with CorrelationsA(path_a) as a, CorrelationsB(path_b) as b:
        assert (a.left, b.left) == (0, 0)
        with pytest.raises(CorrelationError, match="all 70"):
            a.take()


def test_the_log_says_when_few_are_left(dealt, caplog):
    path_a, path_b = dealt(640)
    with CorrelationsA(path_a) as a, CorrelationsB(path_b) as b:
        for _ in range(640):
            b.claim(a.deal, a.take().index)
    said = [record.getMessage() for record in caplog.records]
    for path in (path_a, path_b):
        assert [text.split(": ")[1].split(";")[0] for text in said if text.startswith(f"{path}: ")] == [
            "64 of 640 correlations left",
            "0 of 640 correlations left",
        ]


def test_used_correlations_are_zeros_in_the_file(dealt):
    path_a, path_b = dealt(100)
    before = path_b.read_bytes()
    with CorrelationsA(path_a) as a, CorrelationsB(path_b) as b:
        for _ in range(10):
            taken = a.take()
            part = b.claim(taken.deal, taken.index).correlation
            assert part.to_bytes() in before
            assert part.to_bytes() not in path_b.read_bytes()
            assert taken.correlation.seed not in path_a.read_bytes()
        other = b.claim(taken.deal, 50).correlation  # in any order
        assert other.to_bytes() not in path_b.read_bytes()
        unused = len(before) // 101 * 20
        assert path_b.read_bytes()[-unused:] == before[-unused:]


def test_indexes_may_come_in_any_order(dealt):
    path_a, path_b = dealt(200)
    with CorrelationsA(path_a) as a, CorrelationsB(path_b) as b:
        order = random.Random(1).sample(range(200), 200)
        for index in order:
            b.claim(a.deal, index)
        for index in order:
            with pytest.raises(CorrelationError):
                b.claim(a.deal, index)
        assert b.left == 0


def test_threads_share_a_file(dealt):
    path_a, path_b = dealt(600)
    with CorrelationsA(path_a) as a, CorrelationsB(path_b) as b, concurrent.futures.ThreadPoolExecutor(16) as pool:
        taken = list(pool.map(lambda _: a.take(), range(600)))
        assert sorted(each.index for each in taken) == list(range(600))
        assert len({each.correlation.seed for each in taken}) == 600

        def claim(index):
            try:
                return b.claim(a.deal, index).index
            except CorrelationError:
                return None

        claimed = [index for index in pool.map(claim, [*range(600), *range(600)]) if index is not None]
        assert sorted(claimed) == list(range(600))


def test_a_second_process_is_refused(dealt):
    path_a, path_b = dealt()
    code = "import sys, pathlib, iom.split.correlations as c; getattr(c, sys.argv[1])(pathlib.Path(sys.argv[2]))"
    for kind, path in (("CorrelationsA", path_a), ("CorrelationsB", path_b)):
        with {"CorrelationsA": CorrelationsA, "CorrelationsB": CorrelationsB}[kind](path) as mine:
            with pytest.raises(StoreError, match="another process has it open"):
                type(mine)(path)
            run = subprocess.run([sys.executable, "-c", code, kind, str(path)], capture_output=True, text=True)
            assert "StoreError: " in run.stderr
            assert "another process has it open" in run.stderr
        assert subprocess.run([sys.executable, "-c", code, kind, str(path)]).returncode == 0


def test_a_forked_process_is_refused(dealt):
    code = """
import os, pathlib, sys
from iom.errors import StoreError
from iom.split.correlations import CorrelationsA
a = CorrelationsA(pathlib.Path(sys.argv[1]))
a.take()
if os.fork() == 0:
    try:
        a.take()
    except StoreError as error:
        os._exit(7 if "after the fork" in str(error) else 1)
    os._exit(0)
assert os.waitstatus_to_exitcode(os.wait()[1]) == 7
assert a.take().index == 1
"""
    subprocess.run([sys.executable, "-c", code, str(dealt()[0])], check=True)


TAKER = """
import pathlib, sys
from iom.split.correlations import CorrelationsA
a = CorrelationsA(pathlib.Path(sys.argv[1]))
while True:
    print(a.take().index, flush=True)
"""
CLAIMER = """
import pathlib, sys
from iom.errors import CorrelationError
from iom.split.correlations import CorrelationsB
b = CorrelationsB(pathlib.Path(sys.argv[1]))
print("mark", b.mark, flush=True)
for index in range(max(0, b.mark - 100), b.count):
    try:
        print(b.claim(b.deal, index).index, flush=True)
    except CorrelationError:
        pass
"""


@pytest.mark.parametrize(("side", "code"), [(0, TAKER), (1, CLAIMER)])
def test_a_kill_brings_none_back(dealt, side, code):
    path = dealt(20_000)[side]
    seen = []
    for turn in range(8):
        process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
        first = process.stdout.readline()
        time.sleep(0.002 * turn)
        os.kill(process.pid, signal.SIGKILL)
        lines = [first.strip(), *process.stdout.read().split("\n")[:-1]]
        process.wait()
        process.stdout.close()
        seen += [int(line) for line in lines if line.isdigit()]
    assert len(seen) > 8
    assert len(seen) == len(set(seen))


def test_an_error_of_another_program_without_a_mark_has_mark_0():
    assert error_from_json(b'{"error": "CorrelationError", "detail": "used"}', "https://b:1").mark == 0
    sent = error_to_json(CorrelationError("used", mark=64))
    assert error_from_json(sent, "https://b:1").mark == 64


def test_a_goes_on_at_the_mark_of_b(dealt):
    path_a, path_b = dealt(200)
    with CorrelationsA(path_a) as a:
        with CorrelationsB(path_b) as b:
            for _ in range(5):
                b.claim(a.deal, a.take().index)
        with CorrelationsB(path_b) as b:  # after a crash
            taken = a.take()
            with pytest.raises(CorrelationError, match="taken before a crash; go on at 32") as refused:
                b.claim(taken.deal, taken.index)
            assert refused.value.mark == b.mark == CHUNK
            a.skip_to(refused.value.mark)
            assert b.claim(a.deal, a.take().index).index == CHUNK
            a.skip_to(0)
            assert a.take().index == CHUNK + 1
            a.skip_to(150)
            assert a.mark == 150
            assert a.take().index == 150
            for mark in (-1, 201, "150", 150.0, None):
                with pytest.raises(CorrelationError, match="expected a mark of 0 to 200"):
                    a.skip_to(mark)


def test_an_older_copy_of_one_file_brings_none_back(dealt, tmp_path):
    path_a, path_b = dealt(200)
    old_a, old_b = (shutil.copy(path, tmp_path / f"old-{path.name}") for path in (path_a, path_b))
    used = set()

    def verify(a, b):
        """What the servers do: A goes on at B's mark where B refuses."""
        taken = a.take()
        try:
            claimed = b.claim(taken.deal, taken.index)
        except CorrelationError as refused:
            a.skip_to(refused.mark)
            taken = a.take()
            claimed = b.claim(taken.deal, taken.index)
        assert claimed.index not in used
        used.add(claimed.index)

    def verify_some():
        with CorrelationsA(path_a) as a, CorrelationsB(path_b) as b:
            for _ in range(7):
                verify(a, b)

    verify_some()
    verify_some()
    shutil.copy(old_a, path_a)
    verify_some()
    shutil.copy(old_b, path_b)
    verify_some()
    assert len(used) == 28


def test_a_file_of_other_terms_is_refused(dealt):
    path_a, path_b = dealt()
    for kind, path in ((CorrelationsA, path_a), (CorrelationsB, path_b)):
        with pytest.raises(StoreError, match=r"threshold=10.*expected.*threshold=11.*run iom deal"):
            kind(path, dataclasses.replace(TERMS, threshold=11))
        with kind(path, TERMS) as opened:
            assert opened.terms == TERMS


def test_the_file_of_the_other_side_is_refused(dealt):
    path_a, path_b = dealt()
    with pytest.raises(StoreError, match="expected the file of side A, received that of B"):
        CorrelationsA(path_b)
    with pytest.raises(StoreError, match="expected the file of side B, received that of A"):
        CorrelationsB(path_a)


def test_files_of_two_deals_do_not_mix(dealt, tmp_path):
    path_a, _ = dealt()
    deal_files(TERMS, 100, tmp_path / "a2.deal", tmp_path / "b2.deal")
    with CorrelationsA(path_a) as a, CorrelationsB(tmp_path / "b2.deal") as b:
        taken = a.take()
        with pytest.raises(CorrelationError, match="files of one deal"):
            b.claim(taken.deal, taken.index)
        with pytest.raises(CorrelationError, match="files of one deal"):
            b.claim(b.deal, 100)
        assert b.left == 100


def test_missing_closed_and_unreadable_files(dealt, tmp_path):
    with pytest.raises(StoreNotFoundError, match="iom deal") as missing:
        CorrelationsA(tmp_path / "none.deal")
    assert missing.value.place.endswith("none.deal")
    with pytest.raises(StoreNotFoundError):
        CorrelationsA(tmp_path)
    path_a, path_b = dealt()
    a, b = CorrelationsA(path_a), CorrelationsB(path_b)
    for each in (a, b):
        each.close()
        each.close()
    with pytest.raises(StoreError, match="closed"):
        a.take()
    with pytest.raises(StoreError, match="closed"):
        b.claim(b.deal, 0)


@pytest.mark.parametrize("size", [0, 10, 4096, 8192, -1, 1])
def test_a_cut_or_longer_file_is_refused(dealt, size):
    for kind, path in zip((CorrelationsA, CorrelationsB), dealt(), strict=True):
        data = path.read_bytes()
        path.write_bytes(data + b"x" if size == 1 else data[:size])
        with pytest.raises(StoreError, match=r"damaged|it is cut"):
            kind(path)


@given(st.binary(max_size=300))
def test_any_first_bytes_are_a_file_or_an_error(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("deal") / "x.deal"
    path.write_bytes(data)
    with pytest.raises(StoreError):
        CorrelationsA(path)


def claim_both(path):
    with CorrelationsB(path, TERMS) as b:
        return [b.claim(b.deal, index) for index in range(2)]


def test_each_damaged_byte_is_seen(dealt):
    """Header, mark, and correlation: no damage gives a part that does not belong to the other side's."""
    path_a, path_b = dealt(2)
    data = path_b.read_bytes()
    places = [*range(90), *range(4096, 4096 + 24), *range(8192, len(data), 97)]
    for place in places:
        changed = bytearray(data)
        changed[place] ^= 1 << place % 8
        path_b.write_bytes(changed)
        behind_the_header = 78 <= place < 4096
        with contextlib.nullcontext() if behind_the_header else pytest.raises(StoreError, match="damaged"):
            claim_both(path_b)
    shifted = bytearray(data)
    shifted[8192:] = data[8192 + (len(data) - 8192) // 2 :] + data[8192 : 8192 + (len(data) - 8192) // 2]
    path_b.write_bytes(shifted)  # two correlations that changed places
    with CorrelationsB(path_b) as b, pytest.raises(CorrelationError, match="correlation 0 is damaged"):
        b.claim(b.deal, 0)
    changed = bytearray(path_a.read_bytes())
    changed[8200] ^= 1
    path_a.write_bytes(changed)
    with CorrelationsA(path_a) as a:
        with pytest.raises(CorrelationError, match="correlation 0 is damaged"):
            a.take()
        assert a.take().index == 1


def test_a_write_that_fails_gives_nothing(dealt, monkeypatch):
    path_a, path_b = dealt()

    def fail(file):
        raise OSError(5, "Input/output error")

    with CorrelationsA(path_a) as a, CorrelationsB(path_b) as b:
        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(StoreError, match="cannot read or write: Input/output error"):
            a.take()
        with pytest.raises(StoreError, match="cannot read or write: Input/output error"):
            b.claim(b.deal, 0)
        monkeypatch.undo()
        assert b.claim(b.deal, 0).index == 0
        assert a.take().index == CHUNK  # the first ones are zeros by now


def test_no_part_shows_its_secrets():
    a, b = deal(TERMS)
    assert repr(a) == "CorrelationA()"
    assert repr(b) == "CorrelationB()"
