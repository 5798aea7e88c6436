"""The public names of `iom`, which are loaded when they are first used."""

import pytest

import iom


@pytest.mark.parametrize("name", iom.__all__)
def test_every_public_name_exists(name):
    assert getattr(iom, name)
    assert name in dir(iom)


def test_another_name_is_an_error():
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        iom.nothing  # noqa: B018
