import numpy as np

from iom._random import numpy_stream


def test_streams_are_named():
    first = numpy_stream(1, "a").random(4)
    np.testing.assert_array_equal(first, numpy_stream(1, "a").random(4))
    assert not np.array_equal(first, numpy_stream(1, "b").random(4))
    assert not np.array_equal(first, numpy_stream(2, "a").random(4))


def test_streams_never_change():
    """Results in docs/results.md depend on them."""
    assert numpy_stream(1, "pinned").integers(0, 1000, 4).tolist() == PINNED


PINNED = [987, 83, 233, 153]
