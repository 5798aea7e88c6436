"""Chromium on the page of the on-device service, as `iom serve --on-device --demo` serves it."""

import contextlib
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from PIL import Image

from iom.cli.deploy import DEMO_PEOPLE, DEMO_SEED
from iom.synthetic import load_face_model
from tests.browser.face_page import FLAGS, FacePage
from tests.browser.wire import Wire
from tests.service.chromium import installed

ROOT = Path(__file__).parents[2]
BUILT = ROOT / "iom" / "service" / "on_device_page" / "page.html"
CANVAS = 640, 480
GREY = 110, 120, 130


def sources():
    """The files that the page is built from."""
    web = ROOT / "clients" / "web"
    yield from (web / "src").glob("*.ts")
    yield from (path for path in (web / "page").rglob("*") if path.is_file())
    yield ROOT / "iom" / "service" / "page" / "page.css"


def pytest_collection_modifyitems(items):
    """Skip what needs the browser, the driver or the built page where one is missing."""
    reason = None
    if installed() is None:
        reason = "no Chromium on this machine"
    elif not BUILT.is_file():
        reason = f"the page is not built: expected {BUILT.relative_to(ROOT)}; run make web"
    elif newer := [path for path in sources() if path.stat().st_mtime > BUILT.stat().st_mtime]:
        reason = f"{newer[0].relative_to(ROOT)} is newer than the page that was built; run make web"
    if reason:
        for item in items:
            if Path(__file__).parent in item.path.parents and "chromium" in item.fixturenames:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """Address of the service, application and token; it shows scores."""
    folder = tmp_path_factory.mktemp("service")
    told, log = folder / "told", folder / "log"
    with told.open("wb") as out, log.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "iom", "serve", "--on-device", "--demo", "--scores", "--port", "0"],
            cwd=ROOT,
            stdout=out,
            stderr=errors,
            env={**os.environ, "TMPDIR": str(folder)},
        )
    try:
        end = time.monotonic() + 180
        while not (found := re.search(r"http://\S+#\S*token=\S+", told.read_text())):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, told.read_text() + log.read_text()
            time.sleep(0.1)
        yield urlsplit(found[0])
    finally:
        process.terminate()
        process.wait(30)
    assert "Traceback" not in log.read_text(), log.read_text()


@pytest.fixture(scope="module")
def wire(service):
    """The recorder before the service."""
    wire = Wire(service.hostname, service.port)
    yield wire
    wire.cut()


@pytest.fixture(scope="module")
def token(service):
    """Token of the demo, for all routes."""
    return parse_qs(service.fragment)["token"][0]


@pytest.fixture(scope="module")
def chromium():
    """Starts browsers, with more flags if need be; they end with the module."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="the driver is not installed: pip install playwright"
    )
    with contextlib.ExitStack() as stack:
        driver = stack.enter_context(playwright.sync_playwright())

        def start(*flags):
            browser = driver.chromium.launch(executable_path=installed(), args=[*FLAGS, *flags])
            stack.callback(browser.close)
            return browser

        yield start


@pytest.fixture(scope="module")
def browser(chromium):
    """A browser with a camera that shows a test picture."""
    return chromium()


@pytest.fixture(scope="module")
def devices(browser, wire, service):
    """Makes devices: pages in a profile of their own, loaded through the recorder; they end with the module."""
    with contextlib.ExitStack() as stack:

        def device(other_browser=None, **settings):
            page = FacePage.open(other_browser or browser, f"{wire.origin}/#{service.fragment}", **settings)
            stack.callback(page.context.close)
            return page

        yield device


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Photographs of 640 x 480 pixels with a synthetic face: two of `ann`, one of `bea`."""
    faces, _ = load_face_model().sample(DEMO_PEOPLE, 2, seed=DEMO_SEED)
    folder = tmp_path_factory.mktemp("pictures")
    chosen = {"ann": (4, 5), "bea": (2,)}
    return {
        name: [photograph(faces[number], folder / f"{name}_{number}.png") for number in numbers]
        for name, numbers in chosen.items()
    }


def photograph(face, path, *, size=CANVAS, side=224):
    """Write a photograph with an aligned face `(112, 112, 3)` in the middle of a grey wall."""
    wall = Image.new("RGB", size, GREY)
    enlarged = Image.fromarray(face).resize((side, side), Image.Resampling.BICUBIC)
    wall.paste(enlarged, ((size[0] - side) // 2, (size[1] - side) // 2))
    wall.save(path, quality=95)
    return path
