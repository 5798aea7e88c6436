"""The codes in memory against a dictionary."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from iom.codes.packing import pack
from iom.gallery import search as module
from iom.gallery.search import CodeIndex

CODES = np.random.default_rng(1).integers(0, 4, (40, 70)).astype(np.uint8)


def ranked(held, probe):
    pairs = [(int((CODES[r] != probe).sum()), r) for r in held]
    return [(record, distance) for distance, record in sorted(pairs)]


@settings(max_examples=60)
@given(st.lists(st.tuples(st.booleans(), st.lists(st.integers(0, 39), min_size=1)), max_size=12))
def test_any_order_of_appending_and_deleting(steps):
    index, held, ever = CodeIndex(70, 4), set(), set()
    for appends, records in steps:
        if appends:
            new = sorted(set(records) - ever)
            ever |= set(new)
            held |= set(new)
            index.append(new, pack(CODES[new], 4))
        else:
            held -= set(records)
            index.delete(records)
    probe = CODES[3]
    packed = pack(probe[None], 4)
    assert len(index) == len(held)
    assert [tuple(hit) for hit in index.search(packed, top=5, threshold=None)] == ranked(held, probe)[:5]
    near = [pair for pair in ranked(held, probe) if pair[1] <= 50]
    assert [tuple(hit) for hit in index.search(packed, top=0, threshold=50)] == near


def test_many_deletions_are_squeezed_out(monkeypatch):
    monkeypatch.setattr(module, "_MAX_DELETED", 3)
    index = CodeIndex(70, 4)
    index.append(range(40), pack(CODES, 4))
    index.delete(range(0, 40, 2))
    assert [hit.record for hit in index.search(pack(CODES[7:8], 4), top=1, threshold=None)] == [7]
    assert len(index.search(pack(CODES[:1], 4), top=99, threshold=None)) == len(index) == 20


def test_two_hundred_bytes_a_template():
    index = CodeIndex(512, 8, capacity=5000)
    held = index._planes.nbytes + index._marks.nbytes
    assert held == 5000 * 200
