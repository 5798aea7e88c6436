"""The vectors that clients in other languages are tested with are what Python computes."""

import base64
import json

import numpy as np
import pytest

from tests.clients.client_vectors import CASES, FOLDER, aligned_pixels, resized_pixels, symbols_of

HEADS, PICTURES = (json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8")) for name in ("heads", "pictures"))


def pixels(case, found):
    return np.frombuffer(base64.b64decode(case["pixels"]), np.uint8).reshape(found.shape)


@pytest.mark.parametrize("name", CASES)
def test_codes_of_a_hash(name):
    assert symbols_of(HEADS[name]).tolist() == HEADS[name]["symbols"]


def test_every_case_is_there():
    assert list(HEADS) == list(CASES)


@pytest.mark.parametrize("name", PICTURES["aligned"])
def test_an_aligned_face(name):
    case = PICTURES["aligned"][name]
    found = aligned_pixels(case)
    np.testing.assert_array_equal(found, pixels(case, found))


@pytest.mark.parametrize("name", PICTURES["resized"])
def test_a_resized_picture(name):
    case = PICTURES["resized"][name]
    found = resized_pixels(case)
    np.testing.assert_array_equal(found, pixels(case, found))
