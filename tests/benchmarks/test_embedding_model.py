import numpy as np

from benchmarks.embedding_model import STORED, EmbeddingModel


def test_the_model_has_the_mean_and_covariances_of_its_data(tmp_path):
    random = np.random.default_rng(1)
    known = EmbeddingModel.fitted(None)
    subjects, first = known.drawn(3000, random)
    second = known.images(subjects, random)
    rows = np.stack([first, second], axis=1).reshape(-1, 128)
    file = tmp_path / STORED
    file.parent.mkdir()
    np.savez(file, embedding=rows, path=np.array([f"{n // 2}/{n}.jpg" for n in range(6000)]))
    fitted = EmbeddingModel.fitted(tmp_path)
    np.testing.assert_allclose(fitted.mean, rows.mean(axis=0), atol=1e-6)
    again, one = fitted.drawn(3000, random)
    other = fitted.images(again, random)
    for a, b in ((first, second), (one, other)):
        assert np.abs(np.linalg.norm(a, axis=1) - 1).max() < 1e-5
        assert abs((a * b).sum(axis=1).mean() - 0.56) < 0.05
        assert abs((a * np.roll(b, 1, axis=0)).sum(axis=1).mean()) < 0.05
