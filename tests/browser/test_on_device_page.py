"""The page of the on-device service in a browser, with synthetic faces: what it does, and what it sends."""

import json
import os
import re

import numpy as np
import pytest
from PIL import Image

from tests.browser.conftest import CANVAS, ROOT, photograph
from tests.browser.face_page import SIZES
from tests.browser.leaks import FIELDS, check_bytes, check_heads, check_posts, holds
from tests.browser.wire import Wire

SHOTS = os.environ.get("IOM_SCREENSHOTS")  # a folder, to look at them
AXE = ROOT / "clients" / "web" / "node_modules" / "axe-core" / "axe.min.js"
APPLICATION = "default"
REFUSED = "refused", "Refused: the code is revoked"
LEAKS = {
    "body": "(bytes) => fetch('/v1/x', { method: 'POST', body: new Uint8Array(bytes) }).catch(() => null)",
    "base64": "(bytes) => fetch('/v1/x', { method: 'POST', body: btoa(String.fromCharCode(...bytes)) })",
    "address": "(bytes) => fetch('/x?' + bytes.map((byte) => byte.toString(16).padStart(2, '0')).join(''))",
    "header": "(bytes) => fetch('/x', { headers: { 'X-Some': btoa(String.fromCharCode(...bytes)) } })",
    "beacon": "(bytes) => navigator.sendBeacon('/v1/x', new Uint8Array(bytes))",
}
"""Ways of a script to send bytes."""


@pytest.fixture(scope="module")
def progress():
    """A script that notes what the page says of its loading."""
    return """
      window.steps = [];
      addEventListener('DOMContentLoaded', () => new MutationObserver(
        () => steps.push(document.getElementById('loaded').textContent)
      ).observe(document.getElementById('loaded'), { childList: true, characterData: true, subtree: true }));
    """


@pytest.fixture(scope="module")
def page(devices, progress):
    """The device of most tests."""
    return devices(before=progress)


@pytest.fixture(scope="module")
def second_device(devices, pictures):
    """Another device of the same service; a picture was chosen while it loaded, and `early` is what it said then."""

    def choose_early(page):
        page.at("file").set_input_files(str(pictures["ann"][0]))
        page.expect(page.at("pending")).to_have_text("looking…")
        page.early = page.text("pending"), page.text("state")
        page.screenshots(SHOTS, "loading")
        page.expect(page.at("answer")).to_have_text("A face was found")

    return devices(meanwhile=choose_early)


def test_the_whole_way_and_all_that_was_sent(page, wire, pictures):
    (first, second), (other,) = pictures["ann"], pictures["bea"]
    before = wire.mark()
    assert page.choose(first)
    assert page.act("enroll", "ann") == ("yes", "Enrolled")
    assert page.choose(second)
    assert page.act("verify", "ann") == ("yes", "Match: this is ann")
    page.screenshots(SHOTS, "match")
    code = page.at("code").get_attribute("aria-label")
    assert code == "the code: 1536 symbols of 2 values"
    sent = page.at("sent").inner_text()
    assert page.choose(other)
    assert page.act("verify", "ann") == ("no", "No match: not ann")
    chip = page.chip()
    page.screenshots(SHOTS, "no_match")
    assert page.choose(second)
    old = page.record(APPLICATION, "ann") or {"current": 0, "tried": 0}
    assert page.act("renew", "ann") == ("yes", "Renewed")
    assert page.act("verify", "ann") == ("yes", "Match: this is ann")
    new = page.record(APPLICATION, "ann", old)
    assert page.act("verify", "ann") == REFUSED  # the old key's code
    page.screenshots(SHOTS, "old_code")
    page.record(APPLICATION, "ann", new)
    assert page.act("revoke", "ann") == ("yes", "Revoked")
    assert page.act("verify", "ann") == REFUSED
    assert page.act("enroll", "ann") == REFUSED
    page.screenshots(SHOTS, "end")
    page.at("again").click()
    page.expect(page.at("answer")).to_have_text("Enrolled")
    page.expect(page.at("again")).to_be_hidden()
    assert page.act("verify", "ann") == ("yes", "Match: this is ann")
    assert page.page.locator("#tour .done").count() == 6
    posts = [each for each in wire.requests(before) if each.method != "GET"]
    assert {each.path.rpartition("/")[2] for each in posts} == set(FIELDS)
    check_heads(wire.requests(), wire.origin)
    check_posts(posts, subjects={"ann"})
    check_bytes(page, wire, posts, [first, second, other], chip)
    _check_shown(sent, [each for each in posts if each.path.endswith("/verify-code")])


def _check_shown(sent, verifications):
    """The table beside the camera has the true lengths."""
    bodies = {len(each.body): each.body for each in verifications}
    assert len(bodies) == 1
    ((length, body),) = bodies.items()
    assert f"in all\t{length + 2} bytes" in sent  # and {} for the nonce
    assert "picture, face, key\t0 bytes" in sent
    for name, value in json.loads(body).items():
        label = {"subject": "name", "hasher": "network id", "key": "key id", "nonce": "one-time number"}.get(name, name)
        assert f"{label}\t{len(value)} bytes" in sent


def test_the_record_has_whatever_a_page_sends(browser, service):
    """The control of the test before: a page that does leak is caught."""
    wire = Wire(service.hostname, service.port)
    context = browser.new_context()
    try:
        page = context.new_page()
        page.goto(f"{wire.origin}/health/live")
        secrets = {way: np.random.default_rng(number).bytes(200) for number, way in enumerate(LEAKS)}
        for way, script in LEAKS.items():
            page.evaluate(script, list(secrets[way]))
        page.wait_for_timeout(200)
    finally:
        context.close()
        wire.cut()
    found = [holds(b"".join(bytes(stream) for stream in wire.streams), secret) for secret in secrets.values()]
    assert found == [True] * len(LEAKS)
    with pytest.raises(AssertionError):
        check_heads(wire.requests(), wire.origin)


def test_a_picture_waits_for_the_networks(second_device):
    pending, state = second_device.early
    assert pending == "looking…"
    assert not state.startswith("ready")


def test_loading_is_shown_and_the_token_leaves_the_address(page, wire):
    assert page.page.url == f"{wire.origin}/"
    assert page.page.evaluate("history.length") <= 2  # the empty page and this one
    assert page.at("access").get_attribute("open") is None
    steps = [re.fullmatch(r"([\d.]+) of ([\d.]+) MB", each) for each in page.page.evaluate("steps")]
    loaded = [float(each[1]) for each in steps]
    assert len(set(loaded)) > 5
    assert loaded == sorted(loaded)
    assert loaded[-1] == float(steps[-1][2])
    assert page.page.evaluate("crossOriginIsolated") is True
    assert page.at("loading").is_hidden()


def test_a_second_visit_loads_nothing_again(page, wire):
    before = wire.mark()
    page.reload()
    paths = {each.path for each in wire.requests(before)}
    manifest = {path for path in paths if path.startswith("/artefact/") and path.endswith(".json")}
    assert len(manifest) == 1
    assert paths - manifest <= {"/health/ready", "/sw.js"}


def test_a_damaged_file_is_refused_and_fetched_again(second_device):
    page = second_device
    place = page.page.evaluate(
        """async () => {
          const cache = await caches.open('iom-networks');
          const { url } = (await cache.keys()).find(({ url }) => url.endsWith('head.bin'));
          await cache.put(url, new Response('damaged'));
          return url;
        }"""
    )
    page.page.reload()
    page.expect(page.at("state")).to_have_text("not ready")
    assert f"Loading failed: {place.rpartition('/')[2]}: the SHA-256 differs" in page.text("loaded")
    page.reload()


def test_a_revocation_needs_no_networks(second_device, pictures):
    page = second_device
    assert page.choose(pictures["ann"][0])
    assert page.act("enroll", "dora")[0] == "yes"
    answer = {"status": "ready", "on_device": True, "manifest": "/artefact/nowhere.web.json", "other": None}
    page.page.route("**/health/ready", lambda route: route.fulfill(json=answer))
    try:
        page.page.reload()
        page.page.goto(page.url)
        page.expect(page.at("state")).to_have_text("not ready")
        assert page.act("revoke", "dora") == ("yes", "Revoked")
    finally:
        page.page.unroute("**/health/ready")
        page.reload()


def test_it_works_without_the_service_and_says_what_does_not(page, wire, pictures):
    wire.cut()
    try:
        page.reload()
        assert page.text("state") == "ready, no connection"
        assert page.at("offline").is_visible()
        assert page.choose(pictures["ann"][0])
        assert page.act("verify", "ann") == ("no", "The service cannot be reached")
        assert page.at("code").is_visible()
        assert page.text("sent") == "Nothing: the service was not reached."
        page.screenshots(SHOTS, "offline")
    finally:
        wire.mend()
    page.reload()
    assert page.text("state") == "ready"
    assert page.at("offline").is_hidden()


def test_a_camera(devices, chromium, pictures, tmp_path):
    browser = chromium(f"--use-file-for-fake-video-capture={film(pictures['ann'][1], tmp_path)}")
    page = devices(browser)
    assert page.choose(pictures["ann"][0])
    assert page.act("enroll", "cam") == ("yes", "Enrolled")
    page.at("camera").click()
    page.expect(page.at("shoot")).to_be_focused()
    page.expect(page.at("shoot")).to_be_visible()
    page.page.wait_for_timeout(300)
    page.screenshots(SHOTS, "camera")
    page.at("shoot").click()
    page.expect(page.at("answer")).to_have_text("A face was found")
    assert page.at("video").is_hidden()
    assert page.act("verify", "cam") == ("yes", "Match: this is cam")
    assert page.choose(pictures["bea"][0])
    assert page.act("verify", "cam") == ("no", "No match: not cam")
    assert page.complaints() == []


def film(picture, folder, frames=30):
    """A film of one picture, as Chromium's camera takes it: JPEG images one after the other."""
    path = folder / "film.mjpeg"
    frame = folder / "frame.jpg"
    Image.open(picture).convert("RGB").save(frame, quality=95, subsampling=0)
    path.write_bytes(frame.read_bytes() * frames)
    return path


def test_a_request_serves_once_and_for_one_device(page, second_device, wire, pictures):
    assert page.choose(pictures["ann"][0])
    assert page.act("enroll", "once") == ("yes", "Enrolled")
    before = wire.mark()
    assert page.act("verify", "once") == ("yes", "Match: this is once")
    (last,) = [each for each in wire.requests(before) if each.path.endswith("/verify-code")]
    status = page.page.evaluate(
        """async ([path, token, body]) => (await fetch(path, {
          method: 'POST', body, headers: { 'Content-Type': 'application/json', Authorization: token },
        })).status""",
        [last.path, last.headers["authorization"], last.body.decode()],
    )
    assert status == 409
    thief = second_device
    assert thief.choose(pictures["ann"][0])
    kind, answer = thief.act("verify", "once")
    assert (kind, answer) == ("no", "Not done")
    assert thief.act("revoke", "once") == ("no", "Not done")
    master = page.key()
    thief.at("show-import").click()  # the secret alone is not enough: the device signs
    thief.at("import-text").fill(master.to_text())
    thief.at("import").click()
    thief.expect(thief.at("answer")).to_have_text("The key was replaced")
    assert thief.act("verify", "once") == ("no", "Not done")
    assert page.act("verify", "once") == ("yes", "Match: this is once")


def test_the_key_is_saved_brought_and_deleted(second_device, pictures, tmp_path):
    zxing = pytest.importorskip("zxingcpp")
    page = second_device
    assert page.choose(pictures["ann"][0])
    assert page.act("enroll", "key") == ("yes", "Enrolled")
    page.at("show-export").click()
    page.expect(page.at("export-dialog")).to_be_visible()
    text = page.at("export-text").input_value()
    shot = tmp_path / "code.png"
    page.expect(page.at("export-qr")).to_be_visible()
    page.page.wait_for_timeout(200)
    page.at("export-qr").screenshot(path=shot)
    page.screenshots(SHOTS, "save_key")
    assert [each.text for each in zxing.read_barcodes(Image.open(shot))] == [text]
    page.page.keyboard.press("Escape")
    page.expect(page.at("show-export")).to_be_focused()
    page.expect(page.at("export-text")).to_have_value("")
    assert text not in page.page.content()

    page.at("show-delete").click()
    page.screenshots(SHOTS, "delete_key")
    page.at("delete").click()
    page.expect(page.at("answer")).to_have_text("The key was deleted")
    assert page.page.evaluate("indexedDB.databases()") == []
    assert page.at("show-export").is_disabled()

    page.at("show-import").click()
    page.at("import-text").fill("iom-key-1:not-a-key")
    page.at("import").click()
    page.expect(page.at("import-result")).to_contain_text("truncated or damaged")
    page.at("import-file").set_input_files(str(pictures["ann"][0]))
    page.expect(page.at("import-result")).to_contain_text("expected a picture of a QR code")
    page.at("import-file").set_input_files(str(shot))
    page.expect(page.at("import-result")).to_contain_text("A text was read")
    page.screenshots(SHOTS, "bring_key")
    page.at("import").click()
    page.expect(page.at("answer")).to_have_text("The key was replaced")
    page.expect(page.at("import-text")).to_have_value("")
    assert page.key().to_text() == text
    assert page.complaints() == []


def test_pictures_that_cannot_be_used(page, tmp_path):
    blank, broken = tmp_path / "blank.png", tmp_path / "broken.png"
    Image.new("RGB", CANVAS, (200, 30, 30)).save(blank)
    broken.write_bytes(b"no picture")
    for path, reason in ((blank, "expected a face, found none"), (broken, "expected a picture that this browser can")):
        assert not page.choose(path)
        assert reason in page.text("reason")
        page.at("subject").fill("ann")
        page.page.locator("[data-action=verify]").click()
        page.expect(page.at("answer")).to_have_text("No face yet")
    page.at("subject").fill("")
    page.page.locator("[data-action=verify]").click()
    page.expect(page.at("answer")).to_have_text("Who is it?")
    page.expect(page.at("subject")).to_be_focused()


def test_names_are_text(page, pictures):
    name = "<img src=x onerror=alert(1)>"
    assert page.choose(pictures["bea"][0])
    assert page.act("enroll", name) == ("yes", "Enrolled")
    assert page.page.locator("#result img, #log img").count() == 0


def pressed_for_a_file(page):
    """The file chooser that Space on the focused field opens; a busy Chromium may let a press go by."""
    opened = []
    page.on("filechooser", lambda chooser: opened.append(chooser))
    for _ in range(40):
        page.keyboard.press("Space")
        for _ in range(10):
            page.wait_for_timeout(100)
            if opened:
                return opened[0]
    raise AssertionError("Space on the file field opens no file chooser")


def test_a_keyboard_is_enough(page, pictures):
    keyboard = page.page.keyboard

    def go_to(name):
        for _ in range(40):
            keyboard.press("Tab")
            if page.page.evaluate("document.activeElement.id || document.activeElement.dataset.action") == name:
                return
        raise AssertionError(f"{name} cannot be reached by Tab")

    def outline():
        return page.page.evaluate("getComputedStyle(document.activeElement).outlineStyle")

    page.page.evaluate("document.activeElement.blur()")
    go_to("file")
    chooser = pressed_for_a_file(page.page)
    chooser.set_files(str(pictures["ann"][0]))
    page.expect(page.at("answer")).to_have_text("A face was found")
    go_to("subject")
    assert outline() == "solid"
    keyboard.type("keys")
    go_to("enroll")
    assert outline() == "solid"
    keyboard.press("Enter")
    page.expect(page.at("answer")).to_have_text("Enrolled")
    page.expect(page.page.locator("[data-action=enroll]")).to_be_focused()  # and not lost while it was disabled
    go_to("verify")
    keyboard.press("Space")
    page.expect(page.at("answer")).to_have_text("Match: this is keys")
    go_to("show-export")
    keyboard.press("Enter")
    page.expect(page.at("export-dialog")).to_be_visible()
    for _ in range(8):  # the focus stays in the dialog, or is the browser's own
        keyboard.press("Tab")
        assert page.page.evaluate(
            "document.activeElement === document.body || Boolean(document.activeElement.closest('dialog'))"
        )
    keyboard.press("Escape")
    page.expect(page.at("show-export")).to_be_focused()


@pytest.mark.parametrize("size", SIZES)
def test_it_fits(page, size):
    page.resize(size)
    assert page.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    heights = page.page.evaluate("[...document.querySelectorAll('button, .button')].map((each) => each.offsetHeight)")
    assert [each for each in heights if 0 < each < 40] == []


@pytest.mark.parametrize(("size", "scheme"), [("wide", "light"), ("phone", "dark")])
@pytest.mark.parametrize("dialog", [None, "export", "import", "delete"])
def test_accessibility_rules_hold(page, size, scheme, dialog):
    if not AXE.is_file():
        pytest.skip("axe-core is not installed: run make web")
    page.resize(size)
    page.page.emulate_media(color_scheme=scheme)
    if dialog:
        page.at(f"show-{dialog}").click()
        page.expect(page.at(f"{dialog}-dialog")).to_be_visible()
    page.page.evaluate(AXE.read_text())
    found = page.page.evaluate("axe.run({ resultTypes: ['violations'] }).then(({ violations }) => violations)")
    if dialog:
        page.page.keyboard.press("Escape")
    assert [(each["id"], [node["target"] for node in each["nodes"]]) for each in found] == []


def test_nothing_is_complained_about_or_fetched_elsewhere(page, wire):
    assert page.complaints() == []
    assert len(page.urls) > 20
    assert [url for url in page.urls if not url.startswith((wire.origin, "blob:"))] == []


@pytest.mark.parametrize("side", [448])
def test_a_large_photograph(page, tmp_path, pictures, side):
    face = np.asarray(Image.open(pictures["ann"][0]).crop((208, 128, 432, 352)).resize((112, 112)))
    assert page.choose(photograph(face, tmp_path / "large.jpg", size=(4000, 3000), side=1200))
