"""The hash network of NumPy before any training is that of Keras."""

import numpy as np
import pytest

from iom.config import HasherConfig
from iom.errors import ConfigError
from iom.nn.hash_network import LEARNED_LAYER, build_hasher, head_program
from iom.nn.hash_numpy import Head, head_path, untrained_head, write_head


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"alphabet_size": 2},
        {"key_kind": "subset", "keep": 10},
        {"learned_layer": False, "whitening": 0.0},
        {"projection": "product", "code_length": 12, "refinement_steps": 0},
        {"projection": "product", "code_length": 5, "key_kind": "subset", "keep": 10, "refinement_steps": 0},
    ],
)
def test_it_is_the_network_of_keras(changes, tmp_path):
    config = HasherConfig(**{"code_length": 16, "alphabet_size": 4, **changes})
    whitening = np.random.default_rng(0).normal(size=(24, 24)).astype(np.float32) if config.learned_layer else None
    steps, arrays = untrained_head(24, config, seed=3, whitening=whitening)
    network = build_hasher(24, config, seed=3)
    network.get_layer("projection").trainable = False
    if config.learned_layer:
        network.get_layer(LEARNED_LAYER).set_weights([whitening])
    expected_steps, expected = head_program(network)
    assert steps == expected_steps
    assert arrays.keys() == expected.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, expected[name])
    write_head(head_path(tmp_path / "x"), steps, arrays)
    rows = np.random.default_rng(1).normal(size=(5, 24)).astype(np.float32)
    orders = np.tile(np.arange(network.get_layer("order").output.shape[1]) % 24, (5, 1)).astype(np.int32)
    codes = Head.load(head_path(tmp_path / "x")).hash(rows, orders)
    np.testing.assert_array_equal(codes, Head(expected_steps, expected).hash(rows, orders))


@pytest.mark.parametrize("changes", [{"hidden_layers": 1}, {"bottleneck": 8}])
def test_what_only_training_makes_is_refused(changes):
    with pytest.raises(ConfigError, match="iom train-stage2"):
        untrained_head(24, HasherConfig(code_length=16, **changes), seed=1)
