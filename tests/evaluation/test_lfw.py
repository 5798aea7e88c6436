"""The published figures of `mobilefacenet_y1` on LFW, from stored embeddings."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from iom.data.benchmarks.pair_lists import read_pair_list
from iom.evaluation.scores import figures
from tests.scores import float_scores


def test_float_figures_on_the_standard_pairs(prepared_data):
    root = prepared_data / "lfw_112x112"
    benchmark = read_pair_list(prepared_data / "lists" / "lfw_pairs.txt", root)
    with np.load(prepared_data / "embeddings" / "lfw_112x112.mobilefacenet_y1.npz") as stored:
        row = {path: i for i, path in enumerate(stored["path"].tolist())}
        embeddings = stored["embedding"]
    names = [path.relative_to(root).as_posix() for path in benchmark.images]
    scores = float_scores(benchmark, embeddings[[row[name] for name in names]]).by_key[0]
    found = dict(figures(scores))
    assert (len(scores.mated), len(scores.non_mated)) == (3000, 3000)
    assert found["accuracy"] == pytest.approx(0.9932, abs=0.0008)
    assert found["accuracy_std"] == pytest.approx(0.005, abs=0.001)
    assert found["eer"] == pytest.approx(0.0080, abs=0.0003)
    assert found["auc"] == pytest.approx(roc_auc_score(scores.same, -scores.distances))
    assert 1 - found["fnmr_at_fmr_1e-3"] == pytest.approx(0.9877, abs=0.001)
