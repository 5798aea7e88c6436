"""The page of the on-device service with photographs of real people, by file and by camera."""

import os
import re

import numpy as np
import pytest
from PIL import Image

import iom
from iom.photos.picture import one_face
from iom.pretrained import BUNDLED
from tests.browser.conftest import photograph
from tests.browser.leaks import APPLICATION, check_bytes, check_heads, check_posts
from tests.browser.test_on_device_page import REFUSED, film

pytestmark = pytest.mark.proof

SHOTS = os.environ.get("IOM_SCREENSHOTS")
LFW = ("Edwina_Currie", "Augusto_Pinochet", "Kofi_Annan", "Serena_Williams", "Hans_Blix", "Jiang_Zemin")
CFP = ("001", "050", "100", "150", "200", "250")
NEAR = 30
"""Symbols of 1,536 by which a distance may differ from the one of the Python package: their decoders differ, too."""
SIZES = ((640, 480, 224), (1280, 960, 400), (480, 640, 300), (2400, 1600, 500))


@pytest.fixture(scope="module")
def people(prepared_data, tmp_path_factory):
    """Two photographs of each person: a crop of the data sets on a wall, in several sizes; JPEG."""
    folder = tmp_path_factory.mktemp("people")
    crops = {name: sorted((prepared_data / "lfw_112x112" / name).glob("*.jpg"))[:2] for name in LFW}
    cfp = prepared_data / "cfp_112x112"
    crops |= {f"cfp {name}": sorted((cfp / name).glob("frontal_*.jpg"))[:2] for name in CFP if cfp.is_dir()}
    made = {}
    for number, (name, paths) in enumerate(crops.items()):
        width, height, side = SIZES[number % len(SIZES)]
        made[name] = [
            photograph(np.asarray(Image.open(path)), folder / f"{name}_{i}.jpg", size=(width, height), side=side)
            for i, path in enumerate(paths)
        ]
    return made


def test_real_people_are_told_apart(devices, wire, people):
    page = devices()
    before = wire.mark()
    names = list(people)
    for name, (first, _) in people.items():
        assert page.choose(first), name
        assert page.act("enroll", name) == ("yes", "Enrolled")
    master, hasher = page.key(), iom.load(BUNDLED)
    matches = 0
    for number, (name, (first, second)) in enumerate(people.items()):
        other = names[(number + 1) % len(names)]
        assert page.choose(second), name
        kind, _ = page.act("verify", name)
        matches += kind == "yes"
        page.screenshots(SHOTS if number == 0 else None, "real_match")
        shown = int(re.match(r"(\d+) differing positions", page.text("reason"))[1])
        assert (
            abs(shown - distance(hasher, master.derive(application=APPLICATION, subject=name), first, second)) <= NEAR
        )
        assert page.act("verify", other) == ("no", f"No match: not {other}")
    assert matches >= 0.7 * len(people)  # the bundled recogniser refuses some of them in Python, too
    first, second = people[names[0]]
    assert page.choose(second)
    old = page.record(APPLICATION, names[0]) or {"current": 0, "tried": 0}
    assert page.act("renew", names[0]) == ("yes", "Renewed")
    assert page.choose(first)
    assert page.act("verify", names[0]) == ("yes", f"Match: this is {names[0]}")
    page.record(APPLICATION, names[0], old)
    assert page.act("verify", names[0]) == REFUSED
    page.record(APPLICATION, names[0], {"current": 1, "tried": 1})
    assert page.act("revoke", names[0]) == ("yes", "Revoked")
    assert page.act("verify", names[0]) == REFUSED
    posts = [each for each in wire.requests(before) if each.method != "GET"]
    check_heads(wire.requests(), wire.origin)
    check_posts(posts, set(names))
    check_bytes(page, wire, posts, [path for paths in people.values() for path in paths], page.chip())
    assert page.complaints() == []


def distance(hasher, key, *paths):
    """Differing symbols of the codes of two photographs as the Python package makes them."""
    faces = [one_face(path, template=hasher.embedder.template.name)[0] for path in paths]
    first, second = hasher.hash(hasher.embed(np.stack(faces)), key)
    return np.count_nonzero(first != second)


def test_aligned_crops_are_taken_as_they_are(devices, prepared_data):
    page = devices()
    first, second = sorted((prepared_data / "lfw_112x112" / LFW[2]).glob("*.jpg"))[:2]
    other = next((prepared_data / "lfw_112x112" / LFW[3]).glob("*.jpg"))
    assert page.choose(first)
    assert page.act("enroll", "crop") == ("yes", "Enrolled")
    assert page.choose(second)
    assert page.act("verify", "crop") == ("yes", "Match: this is crop")
    assert page.choose(other)
    assert page.act("verify", "crop") == ("no", "No match: not crop")


@pytest.mark.parametrize("name", LFW[:3])
def test_a_camera_that_shows_a_real_person(devices, chromium, people, tmp_path, name):
    browser = chromium(f"--use-file-for-fake-video-capture={film(people[name][1], tmp_path)}")
    page = devices(browser)
    other = people[LFW[3]][0]
    subject = f"camera {name}"
    assert page.choose(people[name][0])
    assert page.act("enroll", subject) == ("yes", "Enrolled")
    assert page.choose(other)
    assert page.act("verify", subject) == ("no", f"No match: not {subject}")
    page.at("camera").click()
    page.expect(page.at("shoot")).to_be_visible()
    page.page.wait_for_timeout(500)
    page.screenshots(SHOTS if name == LFW[0] else None, "real_camera")
    page.at("shoot").click()
    page.expect(page.at("answer")).to_have_text("A face was found")
    assert page.act("verify", subject) == ("yes", f"Match: this is {subject}")
    assert page.complaints() == []
