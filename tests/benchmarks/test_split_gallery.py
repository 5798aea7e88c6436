"""The benchmark of split galleries runs, and its attack finds what is there to find."""

import json

import numpy as np
import pytest

from benchmarks import split_gallery
from iom.keys import TransformKey


@pytest.mark.parametrize("protocol", ["full", pytest.param("lite", marks=pytest.mark.proof)])
def test_the_benchmark_runs(capsys, protocol):
    assert split_gallery.main(["--synthetic", "--decisions", "24", "--protocol", protocol]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["decisions"], figures["different"], figures["reused_correlations"]) == (24, 0, 0)
    assert 0 < figures["matches"] < 24
    assert figures["control_cosine"] > 0.85
    assert figures["control_auc"] > 0.99
    for side in figures["sides"].values():
        assert side["found"] == 0
        assert abs(side["cosine"]) < 0.3


@pytest.mark.proof
def test_kills(capsys):
    assert split_gallery.main(["--synthetic", "--kills", "2"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["kills"], figures["lost"], figures["half_done"], figures["reused_correlations"]) == (2, 0, 0, 0)
    assert figures["acknowledged"] > 0


@pytest.fixture(scope="module")
def records():
    hasher = split_gallery.HeadHasher.synthetic()
    people = split_gallery.People.synthetic()
    made = []
    for number in range(12):
        rows = people.rows[people.labels == number]
        key = TransformKey(bytes([number]) * 32)
        code = split_gallery.code_bytes_of(hasher.hash(rows[:1], key))
        random = np.random.default_rng(number)
        shares, halves = ({side: random.bytes(size) for side in "ab"} for size in (len(code), 32))
        made.append(split_gallery.Record(number, number, rows, key, code, shares, halves))
    return hasher, made


def test_secrets_in_bytes_are_found(records):
    _, made = records
    noise = np.random.default_rng(1003).bytes(100_001)
    assert split_gallery._needles(noise, made, "a") == 0
    assert split_gallery._needles(noise + made[0].code + noise, made, "a") == 1
    assert split_gallery._needles(noise + made[1].key.secret.hex().encode(), made, "a") == 1
    assert split_gallery._needles(made[1].shares["b"] + noise + made[2].halves["b"], made, "a") == 2
    assert split_gallery._needles(made[1].shares["b"] + noise + made[2].halves["b"], made, "b") == 0


def test_codes_in_what_passed_are_read_back(records):
    hasher, made = records
    ways = {"code": [each.code for each in made], "share": [each.shares["a"] for each in made]}
    code, share = split_gallery._scores(hasher, made, ways)
    cosine, auc = split_gallery._null(hasher, made, 2, 1)
    assert code[0] > 0.85 > cosine
    assert code[1] > 0.99 > auc
    assert abs(share[0]) < 0.15
