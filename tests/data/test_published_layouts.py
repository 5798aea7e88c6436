"""Published protocols, read from small sets of their layout, whole and damaged."""

import json

import numpy as np
import pytest

from iom.config import BenchmarkConfig
from iom.data.benchmarks import load_benchmark
from iom.data.benchmarks.base import Pooling
from iom.data.benchmarks.identification import read_blufr, read_ijb_identification, read_ijb_pairs, read_megaface
from iom.data.benchmarks.pair_lists import read_cfp, read_two_line_pairs, read_youtube_faces
from iom.errors import ConfigError, DataError
from tests.data import layouts


def replace_line(path, number, text):
    lines = path.read_text().splitlines()
    lines[number] = text
    path.write_text("\n".join(lines) + "\n")


def pair_names(benchmark, pair):
    return tuple(benchmark.images[side[pair]].name for side in (benchmark.left, benchmark.right))


class TestTwoLines:
    def test_pairs(self, tmp_path):
        benchmark = read_two_line_pairs(*layouts.two_lines(tmp_path))
        assert len(benchmark) == 12
        assert benchmark.same.tolist() == [True, False] * 6
        assert pair_names(benchmark, 0) == ("Ada_0001.jpg", "Ada_0002.jpg")
        assert pair_names(benchmark, 1) == ("Ada_0001.jpg", "Bea_0002.jpg")
        assert len(np.unique(benchmark.subjects)) == 6

    def test_damaged(self, tmp_path):
        path, root = layouts.two_lines(tmp_path)
        text = path.read_text()
        replace_line(path, 1, "Ada_0002.jpg 0")
        with pytest.raises(DataError, match="labels, first at Ada_0001"):
            read_two_line_pairs(path, root)
        path.write_text(text + "Ada_0001.jpg 1\n")
        with pytest.raises(DataError, match="received 25 lines"):
            read_two_line_pairs(path, root)
        path.write_text(text.replace("Cid_0001.jpg 1", "Cid_0001.jpg yes"))
        with pytest.raises(DataError, match=r"line 9: expected 'image 0\|1'"):
            read_two_line_pairs(path, root)
        path.write_text(text)
        for name in ("Ada_0001.jpg", "Bea_0001.jpg", "Cid_0001.jpg", "Dov_0001.jpg"):
            (root / name).unlink()
        with pytest.raises(DataError, match=r"4 of 12 images .*Ada_0001\.jpg, .*, \.\.\."):
            read_two_line_pairs(path, root)

    def test_one_class_missing(self, tmp_path):
        path, root = layouts.two_lines(tmp_path)
        path.write_text("Ada_0001.jpg 1\nAda_0002.jpg 1\n")
        with pytest.raises(DataError, match="1 mated and 0 non-mated"):
            read_two_line_pairs(path, root)


class TestCfp:
    @pytest.mark.parametrize("kind", ["FP", "FF"])
    def test_pairs(self, tmp_path, kind):
        split, root = layouts.cfp(tmp_path)
        benchmark = read_cfp(split.with_name(kind), root)
        assert (len(benchmark), benchmark.folds, int(benchmark.same.sum())) == (8, 2, 4)
        for left, right, same in zip(benchmark.left, benchmark.right, benchmark.same, strict=True):
            first, second = benchmark.images[left], benchmark.images[right]
            assert (first.parts[-3] == second.parts[-3]) == same
            assert first.parts[-2] == "frontal"
            assert second.parts[-2] == ("profile" if kind == "FP" else "frontal")

    def test_damaged(self, tmp_path):
        split, root = layouts.cfp(tmp_path)
        replace_line(split / "01" / "same.txt", 0, "1,99")
        with pytest.raises(DataError, match=r"same\.txt, line 1: expected 'i,j' within the lists"):
            read_cfp(split, root)
        with pytest.raises(DataError, match="Split/FF or Split/FP"):
            read_cfp(split.parent.parent / "Split" / "XX", root)
        replace_line(split.parent.parent / "Pair_list_F.txt", 2, "9 Data/x.jpg")
        with pytest.raises(DataError, match="expected number 3"):
            read_cfp(split, root)


class TestYouTubeFaces:
    def test_videos_are_templates(self, tmp_path):
        benchmark = read_youtube_faces(*layouts.youtube_faces(tmp_path))
        assert (len(benchmark), benchmark.templates, len(benchmark.images)) == (8, 8, 24)
        assert (benchmark.folds, len(np.unique(benchmark.subjects))) == (2, 4)
        for left, right, same in zip(benchmark.left, benchmark.right, benchmark.same, strict=True):
            assert (benchmark.subjects[left] == benchmark.subjects[right]) == same

    def test_damaged(self, tmp_path):
        splits, root = layouts.youtube_faces(tmp_path)
        text = splits.read_text()
        splits.write_text(text.replace("1, 0, Ada/0, Ada/1, 1", "1, 0, Ada/0, Ada/1, 0"))
        with pytest.raises(DataError, match="1 pairs whose label contradicts the names"):
            read_youtube_faces(splits, root)
        splits.write_text(text.replace("1, 0, Ada/0, Ada/1, 1", "1, 0, Ada/0, Ada/1"))
        with pytest.raises(DataError, match="line 2: expected 'split, pair, first video"):
            read_youtube_faces(splits, root)
        splits.write_text(text.replace("Ada/0", "../0"))
        with pytest.raises(DataError):
            read_youtube_faces(splits, root)
        splits.write_text(text)
        for frame in (root / "Bea" / "1").iterdir():
            frame.unlink()
        with pytest.raises(DataError, match=r"1 of 8 videos have no frames .*Bea/1"):
            read_youtube_faces(splits, root)


class TestIjb:
    @pytest.mark.parametrize("prefix", ["ijbb", "ijbc"])
    def test_pairs(self, tmp_path, prefix):
        benchmark = read_ijb_pairs(*layouts.ijb(tmp_path, prefix))
        assert (len(benchmark), benchmark.templates, len(benchmark.images)) == (12, 12, 48)
        assert benchmark.same.tolist() == [True] * 6 + [False] * 6
        assert benchmark.pooling.weight.tolist() == [0.9] * 48
        assert len(np.unique(benchmark.subjects)) == 6

    @pytest.mark.parametrize(("prefix", "names"), [("ijbb", ["S1", "S2"]), ("ijbc", ["G1", "G2"])])
    def test_searches(self, tmp_path, prefix, names):
        benchmark = read_ijb_identification(*layouts.ijb(tmp_path, prefix))
        assert list(benchmark.galleries) == names
        subjects = [benchmark.subjects[rows].tolist() for rows in benchmark.galleries.values()]
        assert subjects == [[100, 101], [102, 103]]
        assert benchmark.subjects[benchmark.probes].tolist() == list(range(100, 106))

    def test_lists_that_do_not_belong_together(self, tmp_path):
        meta, root = layouts.ijb(tmp_path)
        path = meta / "ijbc_name_5pts_score.txt"
        text = path.read_text()
        replace_line(path, 2, text.splitlines()[2].replace("1_1", "1_7"))
        with pytest.raises(DataError, match=r"same faces in the same order.*first at line 3"):
            read_ijb_pairs(meta, root)
        path.write_text("\n".join(text.splitlines()[:-1]))
        with pytest.raises(DataError, match="received 47 and 48"):
            read_ijb_pairs(meta, root)
        path.write_text(text.replace(" 0.9", "", 1))
        with pytest.raises(DataError, match="line 1: expected 'image x1 y1"):
            read_ijb_pairs(meta, root)

    def test_templates_without_faces(self, tmp_path):
        meta, root = layouts.ijb(tmp_path)
        replace_line(meta / "ijbc_template_pair_label.txt", 0, "77 2 1")
        with pytest.raises(DataError, match="1 templates have no face in the list of faces: 77"):
            read_ijb_pairs(meta, root)

    def test_a_subject_twice_in_a_gallery(self, tmp_path):
        meta, root = layouts.ijb(tmp_path)
        replace_line(meta / "ijbc_1N_gallery_G1.csv", 2, "2,100")
        with pytest.raises(DataError, match="gallery G1: 1 of 1 subjects stand in it more than"):
            read_ijb_identification(meta, root)

    def test_a_template_of_two_subjects(self, tmp_path):
        meta, root = layouts.ijb(tmp_path)
        replace_line(meta / "ijbc_1N_probe_mixed.csv", 1, "1,105")
        with pytest.raises(DataError, match=r"1 templates belong to another subject.*: 1"):
            read_ijb_identification(meta, root)

    def test_a_template_of_two_subjects_within_one_list(self, tmp_path):
        meta, root = layouts.ijb(tmp_path)
        path = meta / "ijbc_1N_probe_mixed.csv"
        again = path.read_text().splitlines()[1].split(",")[0]
        path.write_text(path.read_text() + f"{again},999\n")
        with pytest.raises(DataError, match=rf"1 templates belong to two subjects: {again}"):
            read_ijb_identification(meta, root)

    def test_missing(self, tmp_path):
        meta, root = layouts.ijb(tmp_path)
        (root / "img" / "1_p.jpg").unlink()
        with pytest.raises(DataError, match=r"1 of 48 images .*img/1_p\.jpg"):
            read_ijb_pairs(meta, root)
        with pytest.raises(DataError, match="found neither"):
            read_ijb_pairs(root, root)


class TestMegaFace:
    def test_lists(self, tmp_path):
        benchmark = read_megaface(*layouts.megaface(tmp_path))
        assert (benchmark.name, len(benchmark.images)) == ("megaface_12", 21)
        assert benchmark.subjects.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            (lambda lists: lists.pop("id"), "under 'id'"),
            (lambda lists: lists["id"].pop(), "of one length"),
            (lambda lists: lists["path"].__setitem__(0, 3), "list of texts"),
            (lambda lists: lists["path"].__setitem__(1, lists["path"][0]), "1 images are listed twice"),
            (lambda lists: lists["path"].__setitem__(1, "../x.png"), "within the folder"),
            (lambda lists: lists.__setitem__("id", list("abcdefghi")), "two images or more"),
        ],
    )
    def test_damaged(self, tmp_path, change, reason):
        arguments = layouts.megaface(tmp_path)
        lists = json.loads(arguments[0].read_text())
        change(lists)
        arguments[0].write_text(json.dumps(lists))
        with pytest.raises(DataError, match=reason):
            read_megaface(*arguments)

    @pytest.mark.parametrize("text", ["{", "[]", "[" * 100000, ""])
    def test_not_such_a_file(self, tmp_path, text):
        arguments = layouts.megaface(tmp_path)
        arguments[1].write_text(text)
        with pytest.raises(DataError):
            read_megaface(*arguments)


class TestBlufr:
    def test_trials(self, tmp_path):
        protocol = read_blufr(*layouts.blufr(tmp_path))
        assert (len(protocol.images), len(protocol.trials)) == (18, 2)
        assert protocol.trials[1].gallery.tolist() == [6, 9]
        assert protocol.subjects.tolist() == np.repeat(np.arange(6), 3).tolist()

    @pytest.mark.parametrize(
        ("file", "line", "text", "reason"),
        [
            ("gallery_set.txt", 0, "1 2", "trial 1: 2 gallery images share a subject: Ada_0001"),
            ("gallery_set.txt", 0, "1 19", "line 1: expected distinct indexes 1 to 18"),
            ("gallery_set.txt", 0, "1 x", "line 1: expected distinct"),
            ("probe_set.txt", 1, "2 2", "line 2: expected distinct"),
            ("probe_set.txt", 0, "1 2", "both in the gallery and among the probes"),
            ("test_set.txt", 0, "1 2 4 5", "1[0-9] gallery or probe images are not in the test"),
            ("image_list.txt", 0, "Ada.jpg", r"received Ada\.jpg"),
            ("image_list.txt", 0, "Ada_0009.jpg", r"1 of 18 images .*Ada/Ada_0009"),
        ],
    )
    def test_damaged(self, tmp_path, file, line, text, reason):
        lists, root = layouts.blufr(tmp_path)
        replace_line(lists / file, line, text)
        with pytest.raises(DataError, match=reason):
            read_blufr(lists, root)

    def test_the_published_lists(self, prepared_data):
        """Counts as the authors give them: 9,708 test images of 4,249 subjects on average."""
        protocol = read_blufr(prepared_data / "lists" / "blufr", prepared_data / "lfw_112x112")
        tests = [trial.test for trial in protocol.trials]
        assert len(tests) == 10
        assert round(np.mean([len(rows) for rows in tests])) == 9708
        assert round(np.mean([len(np.unique(protocol.subjects[rows])) for rows in tests])) == 4249
        assert all(len(trial.gallery) == 1000 for trial in protocol.trials)


@pytest.mark.parametrize("source", ["two_lines", "cfp", "youtube_faces", "ijb"])
def test_every_layout_is_a_source(tmp_path, source):
    path, root = getattr(layouts, source)(tmp_path)
    config = BenchmarkConfig(name="made", source=source, path=str(path), root=str(root))
    benchmark = load_benchmark(config, seed=1)
    assert benchmark.name == "made"
    assert (benchmark.pooling is not None) == (source in ("youtube_faces", "ijb"))
    with pytest.raises(ConfigError, match=rf"source '{source}' needs"):
        load_benchmark(BenchmarkConfig(source=source), seed=1)


def test_pooling_that_does_not_fit():
    ones = np.ones(3)
    with pytest.raises(DataError, match="1 have no image, the first is 1"):
        Pooling(np.array([0, 0, 2]), np.arange(3))
    with pytest.raises(DataError, match="positive weights"):
        Pooling(np.array([0, 0, 1]), np.arange(3), -ones)
    with pytest.raises(DataError, match="a template and a medium"):
        Pooling(np.array([0, 0, 1]), np.arange(2))
