"""Pair lists and `.bin` files: what is read, and that nothing wrong is read in silence."""

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from iom.config import BenchmarkConfig
from iom.data.benchmarks import load_benchmark
from iom.data.benchmarks.base import PairBenchmark, linked_subjects
from iom.data.benchmarks.folders import synthetic_pairs
from iom.data.benchmarks.pair_lists import parse_pair_list, read_pair_list
from iom.data.formats.pair_files import read_bin, write_bin
from iom.errors import ConfigError, DataError

SIZE = 16


def encode(value: int, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((SIZE, SIZE, 3), value, np.uint8)).save(stream, kind)
    return stream.getvalue()


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    """Four subjects with four images each, as LFW lies."""
    root = tmp_path / "faces"
    for s, name in enumerate(["Ada_A", "Bo_B", "Cy_C", "Di_D"]):
        (root / name).mkdir(parents=True)
        for i in range(1, 5):
            path = root / name / f"{name}_{i:04d}.jpg"
            Image.fromarray(np.full((SIZE, SIZE, 3), 40 * s + i, np.uint8)).save(path)
    return root


LFW = """2\t2
Ada_A\t1\t2
Ada_A\t3\t4
Ada_A\t1\tBo_B\t2
Ada_A\t2\tBo_B\t1
Cy_C\t1\t4
Di_D\t2\t3
Cy_C\t1\tDi_D\t2
Cy_C\t3\tDi_D\t2
"""


def listed(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "pairs.txt"
    path.write_text(text, encoding="utf-8")
    return path


def test_lfw_list_is_read_in_order_with_its_folds(faces: Path, tmp_path: Path) -> None:
    benchmark = read_pair_list(listed(tmp_path, LFW), faces)
    assert benchmark.name == "pairs"
    assert len(benchmark) == 8
    assert benchmark.folds == 2
    assert benchmark.same.tolist() == [True, True, False, False] * 2
    assert benchmark.fold.tolist() == [0] * 4 + [1] * 4
    images = benchmark.images
    assert isinstance(images, tuple)
    assert len(set(images)) == len(images)
    assert images[benchmark.left[2]] == faces / "Ada_A" / "Ada_A_0001.jpg"
    assert images[benchmark.right[2]] == faces / "Bo_B" / "Bo_B_0002.jpg"
    of_subject = benchmark.subjects
    assert (of_subject[benchmark.left] == of_subject[benchmark.right]).tolist() == (benchmark.same.tolist())


def test_blank_separated_lists_byte_order_marks_and_line_ends_are_read(faces: Path, tmp_path: Path) -> None:
    path = tmp_path / "pairs.txt"
    path.write_bytes(b"\xef\xbb\xbf" + LFW.replace("\t", " ").replace("\n", "\r\n").encode())
    assert len(read_pair_list(path, faces)) == 8


def test_a_header_without_folds_is_dealt_into_folds(faces: Path, tmp_path: Path) -> None:
    lines = LFW.splitlines()
    text = "\n".join(["4", lines[1], lines[2], lines[5], lines[6], *lines[3:5], *lines[7:]])
    benchmark = read_pair_list(listed(tmp_path, text), faces)
    assert benchmark.folds == 4
    for fold in range(4):
        assert sorted(benchmark.same[benchmark.fold == fold]) == [False, True]


def test_plain_lists_are_read(faces: Path, tmp_path: Path) -> None:
    text = """# left right same
Ada_A/Ada_A_0001.jpg Ada_A/Ada_A_0002.jpg 1
Ada_A/Ada_A_0001.jpg Bo_B/Bo_B_0002.jpg 0

Bo_B/Bo_B_0001.jpg\tBo_B/Bo_B_0002.jpg\tTrue
Cy_C/Cy_C_0001.jpg Bo_B/Bo_B_0002.jpg false
"""
    benchmark = read_pair_list(listed(tmp_path, text), faces)
    assert benchmark.same.tolist() == [True, False, True, False]
    assert benchmark.fold.tolist() == [0, 0, 1, 1]
    assert len(set(benchmark.subjects.tolist())) == 3


def test_a_label_that_contradicts_the_folders_is_refused(faces: Path, tmp_path: Path) -> None:
    names = [f"{p}/{p}_{i:04d}.jpg" for p in ("Ada_A", "Bo_B", "Cy_C", "Di_D") for i in range(1, 5)]
    pairs = [(a, b, a[:3] == b[:3]) for i, a in enumerate(names) for b in names[:i]]
    text = "".join(f"{a} {b} {int(same)}\n" for a, b, same in pairs)
    read_pair_list(listed(tmp_path, text), faces)
    wrong = text.replace("Ada_A/Ada_A_0002.jpg Ada_A/Ada_A_0001.jpg 1", "Ada_A/Ada_A_0002.jpg Ada_A/Ada_A_0001.jpg 0")
    with pytest.raises(DataError, match=r"1 of 120 pairs .*Ada_A_0002.jpg with .* as non-mated"):
        read_pair_list(listed(tmp_path, wrong), faces)


def test_subjects_of_lists_without_subject_folders_are_linked(tmp_path: Path) -> None:
    for name in "abcd":
        (tmp_path / f"{name}.png").write_bytes(encode(1))
    path = listed(tmp_path, "a.png b.png 1\nb.png c.png 1\na.png d.png 0\n")
    subjects = read_pair_list(path, tmp_path).subjects
    assert subjects[0] == subjects[1] == subjects[2] != subjects[3]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty file"),
        ("\n\n# nothing\n", "comments only"),
        ("2\t2\nAda_A\t1\t2\n", "promises 2 x 2 .* found 1"),
        (LFW.replace("Ada_A\t3\t4", "Ada_A\t3"), "line 3: expected 'name n1 n2'"),
        (LFW.replace("Ada_A\t3\t4", "Ada_A\t3\tx"), "line 3: expected"),
        (LFW.replace("Ada_A\t3\t4", "Ada_A\t3\t-4"), "line 3: expected"),
        (LFW.replace("Ada_A\t3\t4", "Ada_A\t3\t" + "9" * 5000), "line 3: expected"),
        (LFW.replace("Ada_A\t3\t4", "../../Ada_A\t3\t4"), "line 3: expected"),
        (LFW.replace("Ada_A\t3\t4", "Ada_A\t3\t3"), "line 3: .* paired with itself"),
        (LFW.replace("Ada_A\t1\tBo_B\t2", "Ada_A\t1\tAda_A\t2"), "line 4: .* names Ada_A twice"),
        (LFW.replace("Ada_A\t1\tBo_B\t2", "Ada_A\t1\t3"), "fold 1: expected 2 mated pairs, found 3"),
        ("0\t0\n", "promises 0 x 0"),
        ("Ada_A\t1\t4\n", "line 1: expected 'left right same'"),
        ("a.jpg b.jpg 1\na.jpg b.jpg 2\n", "line 2: expected 'left right same'"),
        ("a.jpg ../b.jpg 1\n", "line 1: expected a relative path"),
        ("/etc/a.jpg b.jpg 1\n", "line 1: expected a relative path"),
    ],
)
def test_malformed_lists_name_the_line(text: str, reason: str, faces: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=reason) as caught:
        read_pair_list(listed(tmp_path, text), faces)
    assert "pairs.txt" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_a_list_of_another_folder_is_refused(faces: Path, tmp_path: Path) -> None:
    text = LFW.replace("Cy_C", "Zoe_Z")
    with pytest.raises(DataError, match=r"3 of 11 images are not in .*faces: Zoe_Z/Zoe_Z_0001\.jpg"):
        read_pair_list(listed(tmp_path, text), faces)
    with pytest.raises(DataError, match="no folder"):
        read_pair_list(listed(tmp_path, LFW), tmp_path / "elsewhere")
    with pytest.raises(DataError, match="cannot read"):
        read_pair_list(tmp_path / "missing.txt", faces)
    (tmp_path / "latin.txt").write_bytes("3\t1\nJosé\t1\t2".encode("latin1"))
    with pytest.raises(DataError, match="UTF-8"):
        read_pair_list(tmp_path / "latin.txt", faces)


def test_a_list_needs_both_kinds(faces: Path, tmp_path: Path) -> None:
    path = listed(tmp_path, "Ada_A/Ada_A_0001.jpg Ada_A/Ada_A_0002.jpg 1\n")
    with pytest.raises(DataError, match="received 1 mated and 0 non-mated"):
        read_pair_list(path, faces)


@given(st.text(max_size=80))
@settings(max_examples=100, deadline=None)
def test_any_text_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("text") / "pairs.txt"
    path.write_text(text, encoding="utf-8", newline="")
    try:
        pairs, _ = parse_pair_list(path)
    except DataError:
        return
    assert pairs


def test_the_lfw_list_reads_as_published(prepared_data: Path) -> None:
    benchmark = read_pair_list(prepared_data / "lists" / "lfw_pairs.txt", prepared_data / "lfw_112x112")
    assert len(benchmark) == 6000
    assert benchmark.folds == 10
    assert len(benchmark.images) == 7701
    for fold in range(10):
        assert int(benchmark.same[benchmark.fold == fold].sum()) == 300
    folds_of = {}
    for side in (benchmark.left, benchmark.right):
        for image, fold in zip(side, benchmark.fold, strict=True):
            folds_of.setdefault(int(benchmark.subjects[image]), set()).add(int(fold))
    assert all(len(folds) == 1 for folds in folds_of.values())  # LFW's folds share no subject


IMAGES = [encode(v) for v in (10, 11, 10, 20, 30, 31, 11, 30)]
SAME = [True, False, True, False]


def check_tiny(benchmark: PairBenchmark) -> None:
    assert isinstance(benchmark.images, np.ndarray)
    assert benchmark.images.shape == (5, SIZE, SIZE, 3)  # equal bytes once
    assert benchmark.images[benchmark.left, 0, 0, 0].tolist() == [10, 10, 30, 11]
    assert benchmark.images[benchmark.right, 0, 0, 0].tolist() == [11, 20, 31, 30]
    assert benchmark.same.tolist() == SAME
    assert benchmark.fold.tolist() == [0, 1, 2, 3]
    level_of = dict(zip(benchmark.images[:, 0, 0, 0].tolist(), benchmark.subjects, strict=True))
    assert level_of[10] == level_of[11] != level_of[30] == level_of[31] != level_of[20]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("stored_as", ["bytes", "arrays", "numpy labels"])
def test_bin_files_of_all_protocols_are_read(protocol: int, stored_as: str, tmp_path: Path) -> None:
    images: list[object] = list(IMAGES)
    same: object = SAME
    if stored_as == "arrays":
        images = [np.frombuffer(item, np.uint8) for item in IMAGES]
    elif stored_as == "numpy labels":
        same = [np.bool_(item) for item in SAME]
    path = tmp_path / "tiny.bin"
    path.write_bytes(pickle.dumps((images, same), protocol=protocol))
    check_tiny(read_bin(path, size=SIZE))


def test_a_python_2_bin_is_read(tmp_path: Path) -> None:
    """Python 2 wrote the images as `str`: SHORT_BINSTRING or BINSTRING."""
    body = b"\x80\x02]q\x00("
    for item in IMAGES:
        body += b"T" + len(item).to_bytes(4, "little") + item
    body += b"e](" + b"".join(b"\x88" if item else b"\x89" for item in SAME) + b"e\x86."
    path = tmp_path / "tiny.bin"
    path.write_bytes(body)
    check_tiny(read_bin(path, size=SIZE))


def test_bin_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "tiny.bin"
    write_bin(path, IMAGES, SAME)
    assert pickle.loads(path.read_bytes(), encoding="bytes") == (IMAGES, SAME)
    check_tiny(read_bin(path, size=SIZE))
    with pytest.raises(DataError, match="two images a pair, received 3 images and 1 pairs"):
        write_bin(path, IMAGES[:3], SAME[:1])
    check_tiny(read_bin(path, size=SIZE))


def test_bin_folds_are_those_of_an_unshuffled_kfold(tmp_path: Path) -> None:
    from sklearn.model_selection import KFold

    count = 37
    path = tmp_path / "many.bin"
    write_bin(path, [encode(v) for v in range(2 * count)], [i % 2 == 0 for i in range(count)])
    fold = read_bin(path, size=SIZE).fold
    for number, (_, test) in enumerate(KFold(10, shuffle=False).split(np.arange(count))):
        assert np.flatnonzero(fold == number).tolist() == test.tolist()


class Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> object:
        return (Path.touch, (self.path,))


def test_a_hostile_bin_does_not_run(tmp_path: Path) -> None:
    for place in (Hostile(tmp_path / "ran"), ([Hostile(tmp_path / "ran")], [True])):
        path = tmp_path / "hostile.bin"
        path.write_bytes(pickle.dumps(place))
        with pytest.raises(DataError, match=r"hostile\.bin"):
            read_bin(path)
        assert not (tmp_path / "ran").exists()


def test_damaged_bin_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "tiny.bin"
    write_bin(path, IMAGES, SAME)
    data = path.read_bytes()
    for damaged in (b"", b"text", data[:50], data[: len(data) // 2], data[:-1]):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"tiny\.bin"):
            read_bin(path, size=SIZE)
    with pytest.raises(DataError, match="cannot read"):
        read_bin(tmp_path / "missing.bin")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ((IMAGES, SAME[:3]), "two images a pair, received 8 images and 3 pairs"),
        (([], []), "received 0 images"),
        ((IMAGES, [1, 0, 2, 0]), "pair 2: expected True or False"),
        ((IMAGES, ["yes"] * 4), "pair 0: expected True or False"),
        ((IMAGES, [True] * 4), "4 mated and 0 non-mated"),
        (([*IMAGES[:-1], b"text"], SAME), "image 7: expected .* received something else"),
        (([*IMAGES[:-1], IMAGES[0][:60]], SAME), "image 7: the image is damaged"),
        (([*IMAGES[:-1], "text"], SAME), "image 7: expected an encoded image"),
        (([*IMAGES[:-1], np.zeros((16, 16, 3), np.uint8)], SAME), "image 7: .* received array"),
        ((IMAGES, SAME, 1), r"expected \(images, is same\)"),
        ({"images": 1}, r"expected \(images, is same\)"),
        ((5, SAME), r"expected \(images, is same\)"),
        ((IMAGES, None), r"expected \(images, is same\)"),
    ],
)
def test_inconsistent_bin_files_are_refused(content: object, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "tiny.bin"
    path.write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(DataError, match=reason):
        read_bin(path, size=SIZE)


def test_bin_images_of_another_size_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "tiny.bin"
    write_bin(path, IMAGES, SAME)
    with pytest.raises(DataError, match="image 0: expected 112x112 aligned face, received 16x16"):
        read_bin(path)


def test_linked_images_form_subjects() -> None:
    labels = linked_subjects([0, 1, 3, 5], [1, 2, 4, 0], [True, True, True, False], 6)
    assert labels[0] == labels[1] == labels[2]
    assert labels[3] == labels[4]
    assert len(set(labels.tolist())) == 3


def test_synthetic_pairs_are_balanced_and_their_folds_share_no_subject() -> None:
    benchmark = synthetic_pairs(23, 3, seed=4)
    subjects = benchmark.subjects
    assert benchmark.folds == 10
    assert int(benchmark.same.sum()) == 23 * 3
    left, right = subjects[benchmark.left], subjects[benchmark.right]
    assert ((left == right) == benchmark.same).all()
    assert (benchmark.left != benchmark.right).all()
    for fold in range(10):
        here = benchmark.fold == fold
        assert int(benchmark.same[here].sum()) == int((~benchmark.same[here]).sum())
        elsewhere = set(left[~here]) | set(right[~here])
        assert not (set(left[here]) | set(right[here])) & elsewhere
    again = synthetic_pairs(23, 3, seed=4)
    assert np.array_equal(again.left, benchmark.left)
    with pytest.raises(DataError, match="at least 4 subjects"):
        synthetic_pairs(3, 3, seed=4)


def test_benchmarks_are_found_by_the_name_of_their_source(faces: Path, tmp_path: Path) -> None:
    path = listed(tmp_path, LFW)
    pairs = BenchmarkConfig(source="pairs", path=str(path), root=str(faces))
    assert len(load_benchmark(pairs, seed=1)) == 8
    stored = tmp_path / "tiny.bin"
    write_bin(stored, IMAGES, SAME)
    with pytest.raises(DataError, match="expected 112x112"):
        load_benchmark(BenchmarkConfig(source="bin", path=str(stored)), seed=1)
    synthetic = BenchmarkConfig(source="synthetic", subjects=4, images=2)
    assert len(load_benchmark(synthetic, seed=1)) == 8
    for broken, reason in (
        (BenchmarkConfig(source="pair"), "did you mean 'pairs'"),
        (BenchmarkConfig(source="pairs"), r"benchmark\.path"),
        (BenchmarkConfig(source="bin"), r"benchmark\.path"),
    ):
        with pytest.raises(ConfigError, match=reason):
            load_benchmark(broken, seed=1)
