import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iom.errors import ConfigError, DataError
from iom.evaluation.score_files import FORMATS, ScoreTable, read_scores, write_scores

NAMES = st.text("abcXYZ019_-/.é", min_size=1, max_size=8)
FIVE = ["Ada m1 Ada p1 0.9", "Ada m1 Bea p2 0.2", "Bea m2 Ada p1 0.1", "Bea m2 Bea p2 0.95"]


def write(folder, *lines, name="scores.txt"):
    path = folder / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("form", sorted(FORMATS))
@given(
    rows=st.lists(
        st.tuples(NAMES, NAMES, NAMES, NAMES, st.floats(allow_nan=False, allow_infinity=False)), min_size=1, max_size=8
    )
)
def test_what_is_written_is_read(tmp_path_factory, form, rows):
    claimed, reference, real, probe, distances = (np.array(c) for c in zip(*rows, strict=True))
    table = ScoreTable(claimed, real, probe, distances.astype(float), reference)
    path = tmp_path_factory.mktemp("scores") / "file"
    write_scores(path, table, form)
    again = read_scores(path, form)
    for name in ("claimed", "real", "probe", "distances"):
        np.testing.assert_array_equal(getattr(again, name), getattr(table, name))
    if form == "four":
        assert again.reference is None
    else:
        np.testing.assert_array_equal(again.reference, reference)


def test_formats_are_told_apart(tmp_path):
    five = write(tmp_path, *FIVE)
    four = write(tmp_path, *(" ".join(np.delete(line.split(), 1)) for line in FIVE), name="four")
    header = "probe_key,probe_subject_id,bio_ref_subject_id,score,note"
    comma = write(tmp_path, header, 'k,Ada,Ada,0.9,"a, b"', "k,Bea,Ada,0.2,", name="s.csv")
    assert read_scores(five).reference is not None
    assert read_scores(four).reference is None
    table = read_scores(comma)
    assert (table.claimed.tolist(), table.real.tolist()) == (["Ada", "Ada"], ["Ada", "Bea"])
    assert table.distances.tolist() == [-0.9, -0.2]
    assert read_scores(five, higher_is_closer=False).distances.tolist() == [0.9, 0.2, 0.1, 0.95]


def test_searches(tmp_path):
    searches = read_scores(write(tmp_path, *FIVE)).searches()
    assert searches.rank.tolist() == [1, 1]
    assert searches.own.tolist() == [-0.9, -0.95]


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (FIVE[:3], r"1 of 4 pairs otherwise, first p2 with m2, 0 times"),
        ([*FIVE, FIVE[0]], r"first p1 with m1, 2 times"),
        ([*FIVE[:3], "Bea m2 Ada p2 0.5"], "1 probes belong to two subjects: p2"),
        ([line.replace("Bea m2", "Ada m2") for line in FIVE], "1 of 1 subjects stand in it more"),
        (["Ada m1 Ada p1 0.1", "Bea m1 Bea p2 1"], "1 references belong to two subjects: m1"),
    ],
)
def test_searches_that_are_incomplete(tmp_path, lines, reason):
    with pytest.raises(DataError, match=reason):
        read_scores(write(tmp_path, *lines)).searches()


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([], "four or five columns, received 0"),
        (["a b c"], "line 1: expected four or five columns, received 3"),
        (["a a p 1", "a b p"], "line 2: expected 4 columns"),
        (["a a p 1", "a m b p 1"], "line 2: expected 4 columns"),
        (["a a p 1", "a b p x"], "line 2: expected 4 columns, the last a score"),
        (["a a p nan", "a b p 1", "a b q inf"], "2 of 3 are NaN or infinite, at comparisons 1, 3"),
    ],
)
def test_damaged_columns(tmp_path, lines, reason):
    with pytest.raises(DataError, match=reason):
        read_scores(write(tmp_path, *lines))


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (["a,b"], "expected a header with bio_ref_subject_id"),
        (["bio_ref_subject_id,probe_subject_id,score"], "empty"),
        (["bio_ref_subject_id,probe_subject_id,score", "a,b"], "line 2: expected as many fields"),
        (["bio_ref_subject_id,probe_subject_id,score", "a,b,1,2"], "line 2: expected as many"),
        (["bio_ref_subject_id,probe_subject_id,score", "a,b,c"], "line 2"),
        (["bio_ref_subject_id,probe_subject_id,score", 'a,"b,1'], "not a CSV file"),
        (["bio_ref_subject_id,probe_subject_id,score", "a,b,NaN"], "1 of 1 are NaN"),
    ],
)
def test_damaged_csv(tmp_path, lines, reason):
    with pytest.raises(DataError, match=reason):
        read_scores(write(tmp_path, *lines, name="s.csv"))


@given(data=st.binary(max_size=200))
def test_any_bytes_are_scores_or_an_error(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("hostile")
    for name in ("file.txt", "file.csv"):
        (folder / name).write_bytes(data)
        try:
            assert len(read_scores(folder / name))
        except DataError:
            continue


def test_other_bad_input(tmp_path):
    with pytest.raises(DataError, match="cannot read"):
        read_scores(tmp_path / "none")
    with pytest.raises(ConfigError, match="unknown score format 'fiv' - did you mean 'five'"):
        read_scores(write(tmp_path, *FIVE), "fiv")
    table = read_scores(write(tmp_path, *FIVE))
    blank = dataclasses.replace(table, claimed=np.array(["A a", "b", "c", "d"]))
    with pytest.raises(DataError, match="without blanks, received 'A a'"):
        write_scores(tmp_path / "out", blank, "five")
    assert not (tmp_path / "out").exists()
    with pytest.raises(DataError, match="names of references"):
        write_scores(tmp_path / "out", dataclasses.replace(table, reference=None), "five")
    with pytest.raises(DataError, match="five columns or CSV"):
        dataclasses.replace(table, reference=None).searches()
    with pytest.raises(DataError, match="expected mated and non-mated comparisons, received 4"):
        dataclasses.replace(table, real=table.claimed).by_kind()
