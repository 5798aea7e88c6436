"""The page with two services, to each of which it sends a share of each code."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from iom.cli.main import main
from iom.export.web import bundled_web
from iom.gallery.gallery import Gallery
from iom.gallery.on_device import OnDeviceGallery, WebHasher
from iom.gallery.templates import unmasked
from iom.service.on_device import decoded
from iom.service.tokens import add_token
from iom.split.shares import join_code
from tests.browser.conftest import ROOT
from tests.browser.face_page import FacePage

SIDES = ("a", "b")
APPLICATION = "default"


def free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


class Services:
    """Two programs, each with its stores and its token."""

    def __init__(self, folder):
        self.folder, self.running, self.logs = folder, [], []
        self.urls = dict(zip(SIDES, (f"http://127.0.0.1:{port}" for port in free_ports(2)), strict=True))
        self.tokens = {}
        self.hasher = bundled_web(folder)  # made once, not at each start
        self.model = ["--hasher", str(self.hasher)]
        pair = folder / "pair.key"
        assert main(["make-key", str(pair)]) == 0
        for side in SIDES:
            assert main(["init", "--key-mode", "device-share", *self.place(side), *self.model]) == 0
            file = folder / f"{side}.json"
            self.tokens[side] = add_token(file, name="page", application=APPLICATION, role="admin")
        for side, other in (SIDES, SIDES[::-1]):
            self.start(side, "--pair-key", str(pair), "--other", self.urls[other])
        for side, process in zip(SIDES, self.running, strict=True):
            self.wait(side, process)

    def place(self, side):
        return [
            "--gallery",
            f"sqlite:///{self.folder}/{side}.db",
            "--keys",
            f"file:{self.folder}/{side}.keys?key-file={self.folder}/{side}.wrap",
        ]

    def start(self, side, *more):
        port = self.urls[side].rsplit(":", 1)[1]
        command = [sys.executable, "-m", "iom", "serve", "--on-device", "--side", side, "--port", port, "--scores"]
        command += ["--tokens", str(self.folder / f"{side}.json"), *self.place(side), *self.model, *more]
        log = (self.folder / f"{side}.log").open("wb")
        self.logs.append(log)
        self.running.append(
            subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, env={**os.environ, "TMPDIR": str(self.folder)})
        )

    def wait(self, side, process):
        """Until a service answers."""
        end = time.monotonic() + 120
        while True:
            assert process.poll() is None, (self.folder / f"{side}.log").read_text()
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.urls[side]}/health/ready"):
                return
            assert time.monotonic() < end, f"service {side} does not answer"
            time.sleep(0.1)

    def stored(self, side, subject):
        """The share of a subject that a service has, and its encoding."""
        gallery, keys = self.place(side)[1::2]
        with Gallery.open(gallery, keys=keys) as opened:
            found = opened.application(APPLICATION)
            code = unmasked(opened.keys, found, opened.references(subject)).planes.astype("<u8").tobytes()
            return code, found.encoding

    def stop(self):
        for process in self.running:
            process.terminate()
            process.wait(30)
        for log in self.logs:
            log.close()


@pytest.fixture(scope="module")
def services(tmp_path_factory, chromium):  # which is skipped where there is none
    services = Services(tmp_path_factory.mktemp("services"))
    yield services
    services.stop()
    for side in SIDES:
        assert "Traceback" not in (services.folder / f"{side}.log").read_text()


@pytest.fixture(scope="module")
def page(services, browser):
    tokens = f"token={services.tokens['a']}&other-token={services.tokens['b']}"
    page = FacePage.open(browser, f"{services.urls['a']}/#application={APPLICATION}&{tokens}")
    yield page
    page.context.close()


def test_the_whole_way_in_two_shares(page, services, pictures):
    (first, second), (other,) = pictures["ann"], pictures["bea"]
    sent = []
    page.context.on("request", lambda request: sent.append((request.url, request.post_data)))
    page.at("access").evaluate("(element) => { element.open = true; }")
    page.expect(page.at("other-token")).to_be_visible()
    assert page.choose(first)
    assert page.act("enroll", "ann") == ("yes", "Enrolled")
    assert page.choose(second)
    assert page.act("verify", "ann") == ("yes", "Match: this is ann")
    if folder := os.environ.get("IOM_SCREENSHOTS"):
        page.screenshots(folder, "two_services")
    assert page.choose(other)
    assert page.act("verify", "ann") == ("no", "No match: not ann")
    assert page.choose(second)
    assert page.act("renew", "ann") == ("yes", "Renewed")
    assert page.act("verify", "ann") == ("yes", "Match: this is ann")
    (a, encoding), (b, _) = (services.stored(side, "ann") for side in SIDES)
    whole = join_code(a, b, encoding)
    assert page.act("revoke", "ann") == ("yes", "Revoked")
    assert page.act("verify", "ann") == ("refused", "Refused: the code is revoked")
    assert page.complaints() == []
    posted = {
        side: [json.loads(body) for url, body in sent if body and url.startswith(services.urls[side])] for side in SIDES
    }
    shares = [{decoded(body["code"]) for body in posted[side] if "code" in body} for side in SIDES]
    assert a in shares[0]
    assert b in shares[1]
    code = whole.planes.astype("<u8").tobytes()
    assert code not in shares[0] | shares[1]
    assert not shares[0] & shares[1]
    assert [len(each) for each in shares] == [5, 6]  # the last one was refused by the second service


def test_a_page_elsewhere_cannot_ask_the_second_service(page, services, browser):
    """Its answers are for the page of the first one alone."""
    script = """async (url) => {
      const headers = { 'Content-Type': 'application/json' };
      try { return (await fetch(url, { method: 'POST', headers, body: '{}' })).status; }
      catch { return 'refused'; }
    }"""
    address = f"{services.urls['b']}/v1/default/nonce"
    assert page.page.evaluate(script, address) == 401  # it may, and lacks the token here
    context = browser.new_context()
    elsewhere = context.new_page()
    elsewhere.goto("data:text/html,elsewhere")
    assert elsewhere.evaluate(script, address) == "refused"
    context.close()


def test_the_check_of_both_galleries(services):
    for side in SIDES:
        assert main(["check", *services.place(side)]) == 0


def test_the_stores_open_with_the_manifest_alone(services):
    gallery, keys = services.place("a")[1::2]
    with OnDeviceGallery.open(gallery, keys=keys, hasher=WebHasher(services.hasher)) as opened:
        assert opened.application(APPLICATION).key_mode == "device-share"
