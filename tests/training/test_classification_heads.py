import keras
import numpy as np
import pytest

from iom.config import MarginConfig, Stage1Config, load_config
from iom.errors import ConfigError
from iom.nn.losses.margin import MARGIN_LOSSES, build_margin_loss
from iom.training.backbone import build_heads


def heads(*overrides, classes=6):
    config = load_config(Stage1Config, overrides=["data.root=x", *overrides])
    return build_heads(config, keras.Input((16,)), classes=classes)


@pytest.mark.parametrize("name", sorted(MARGIN_LOSSES))
def test_every_loss_by_its_name_with_the_defaults_of_its_paper(name):
    built = heads(f"margin.name={name}")
    width = 7 if built.losses["cosines"].needs_norm else 6
    assert built.outputs["cosines"].shape == (None, width)
    plain = MARGIN_LOSSES[name](**({"classes": 6} if width == 7 else {}))
    assert built.losses["cosines"].get_config() == plain.get_config()


def test_a_weighted_sum_of_losses():
    built = heads(
        "margin.name=adaface", "margin.weight=0.5", "center.weight=0.01", "triplet.weight=2",
        "triplet.mining=semi_hard", "margin.label_smoothing=0.1",
    )  # fmt: skip
    assert built.weights == {"cosines": 0.5, "center": 0.01, "triplet": 2.0}
    assert set(built.outputs) == set(built.losses) == set(built.weights)
    assert len(built.state) == 2
    assert built.losses["cosines"].label_smoothing == 0.1
    assert built.losses["triplet"].mining == "semi_hard"


def test_sub_centers():
    built = heads("margin.sub_centers=3")
    model = keras.Model(built.outputs["cosines"]._keras_history.operation.input, built.outputs)
    assert model.weights[0].shape == (16, 18)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5, 16)).astype("float32")
    centres = np.asarray(model.weights[0]).reshape(16, 3, 6)
    expected = np.max(
        np.einsum("bd,dkc->bkc", x / np.linalg.norm(x, axis=1, keepdims=True), centres)
        / np.linalg.norm(centres, axis=0),
        axis=1,
    )
    np.testing.assert_allclose(model.predict(x, verbose=0)["cosines"], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["margin.name=arcfase"], "did you mean 'arcface'"),
        (
            ["margin.name=normalised_softmax", "margin.margin=0.5"],
            "unknown key 'margin.margin' (known: scale); the loss is normalised_softmax (`null` takes",
        ),
        (["margin.name=softmax", "margin.scale=30"], "unknown key 'margin.scale'"),
        (["margin.name=softmax", "margin.sub_centers=2"], "softmax compares no centres"),
        (["margin.easing=1"], "unknown key 'margin.easing'"),
        (["margin.scal=1"], "did you mean 'scale'"),
        (["triplet.weight=1", "triplet.mining=hardest"], "triplet.mining: expected"),
        (["triplet.weight=1", "triplet.distance=manhattan"], "triplet.distance: expected"),
        (["margin.label_smoothing=1"], "margin.label_smoothing"),
        (["margin.weight=0"], "nothing to learn"),
        (["margin.scale=-1"], "margin.scale"),
        (["margin.sample=0"], "margin.sample"),
        (["center.weight=-1"], "center.weight"),
        (["margin.margin=wide"], "margin.margin: expected a number"),
    ],
)
def test_mistakes_are_told(overrides, reason):
    with pytest.raises(ConfigError) as caught:
        heads(*overrides)
    assert reason in str(caught.value)


def test_arguments_that_only_one_loss_has():
    loss = build_margin_loss(MarginConfig(name="magface", norm_weight=5.0), classes=4)
    assert loss.norm_weight == 5.0
    assert loss.classes == 4
