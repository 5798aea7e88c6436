"""The estimate of the face model finds again what samples were made from."""

import numpy as np
import pytest

from iom.errors import DataError
from iom.synthetic import covariances, fit_face_model, load_face_model, mirror_planes, select_frontal, to_planes, to_rgb


def test_covariances_agree_with_plain_loops() -> None:
    generator = np.random.default_rng(1)
    labels = np.repeat([0, 1, 2, 3], [2, 5, 3, 4])
    scores = generator.standard_normal((14, 3)) + labels[:, None]
    between, within = covariances(scores, labels)
    square_within = np.zeros((3, 3))
    square_between = np.zeros((3, 3))
    counts = []
    for subject in range(4):
        own = scores[labels == subject]
        counts.append(len(own))
        for row in own:
            square_within += np.outer(row - own.mean(0), row - own.mean(0))
        off = own.mean(0) - scores.mean(0)
        square_between += len(own) * np.outer(off, off)
    effective = (14 - sum(count**2 for count in counts) / 14) / 3
    assert np.allclose(within, square_within / 10)
    assert np.allclose(between, (square_between / 3 - square_within / 10) / effective)


def test_covariances_are_unbiased_on_unequal_groups() -> None:
    generator = np.random.default_rng(2)
    labels = np.repeat(np.arange(900), generator.integers(2, 8, 900))
    subject = 2.0 * generator.standard_normal((900, 2))
    scores = subject[labels] + 3.0 * generator.standard_normal((len(labels), 2))
    between, within = covariances(scores, labels)
    assert np.allclose(between, 4 * np.eye(2), atol=0.8)
    assert np.allclose(within, 9 * np.eye(2), atol=0.8)


def test_a_fit_on_samples_reproduces_them() -> None:
    images, labels = load_face_model().sample(60, 3, seed=1)
    model, shares = fit_face_model(images, labels, symmetric=120, antisymmetric=60)
    assert shares["symmetric_share"] > 0.95
    again, _ = model.sample(60, 3, seed=1, between=1.0, within=1.0)
    spread, expected = again.astype(float).std(0).mean(), images.astype(float).std(0).mean()
    assert again.mean() == pytest.approx(images.mean(), abs=4)
    assert spread == pytest.approx(expected, rel=0.15)
    power = np.square(model.symmetric).sum(1)
    between, within = (power @ np.square(root).sum(1) for root in (model.between, model.within))
    assert 2 < between / within < 6  # 3.7 by the model, with its factors on samples


def test_too_few_images_are_refused() -> None:
    images, labels = load_face_model().sample(5, 2, seed=1)
    with pytest.raises(DataError, match="10 images of 5 subjects"):
        fit_face_model(images, labels, symmetric=20, antisymmetric=5)
    with pytest.raises(DataError, match="10 images of 1 subjects"):
        fit_face_model(images, np.zeros(10, int), symmetric=4, antisymmetric=4)


def test_turned_heads_are_left_out() -> None:
    model = load_face_model()
    symmetric, antisymmetric = model.coefficients(8, 4, seed=3)
    labels = np.repeat(np.arange(8), 4)
    uneven = np.arange(32) % 4 == 3
    images = model.render(symmetric, np.where(uneven[:, None], 4, 0.3) * antisymmetric)
    kept = select_frontal(images, labels, share=0.75, min_images=3)
    assert kept.tolist() == np.flatnonzero(~uneven).tolist()
    assert len(select_frontal(images, labels, share=0.75, min_images=4)) == 0


def test_planes_and_back_keep_a_smooth_image() -> None:
    images, _ = load_face_model().sample(6, 1, seed=2)
    planes = to_planes(images)
    assert planes.shape == (6, 64 * 64 + 2 * 16 * 16)
    assert np.abs(to_rgb(planes) - images).mean() < 2
    grey = np.full((1, 112, 112, 3), 77, np.uint8)
    assert np.allclose(to_rgb(to_planes(grey)), 77, atol=1e-3)
    mirrored = mirror_planes(planes)
    assert np.allclose(to_planes(images[:, :, ::-1]), mirrored, atol=1e-3)
