"""The page in a browser, before the service as `iom serve --demo` starts it."""

import base64
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from iom._files import data_folder
from iom.cli.deploy import DEMO_PEOPLE, DEMO_SEED
from iom.synthetic import load_face_model
from tests.service.chromium import Chromium, installed

ROOT = Path(__file__).parents[2]
PEOPLE = {"alice": "Edwina_Currie", "bob": "Augusto_Pinochet"}
WIDTHS = {"wide": 1200, "phone": 390}

pytestmark = pytest.mark.skipif(installed() is None, reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """Address with the token, the process, and the file of its log."""
    folder = tmp_path_factory.mktemp("service")
    (folder / "temporary").mkdir()
    told, log = folder / "told", folder / "log"
    with told.open("wb") as out, log.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "iom", "serve", "--demo", "--port", "0", "--detector", "none"],
            cwd=ROOT,
            stdout=out,
            stderr=errors,
            env={**os.environ, "TMPDIR": str(folder / "temporary")},
        )
    try:
        end = time.monotonic() + 180
        while not (found := re.search(r"http://\S+#\S*token=\S+", told.read_text())):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, told.read_text()
            time.sleep(0.1)
        yield found[0], process, log
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Two images of each of two people: real faces if there are any, else drawn ones."""
    folder = data_folder() / "lfw_112x112"
    if folder.is_dir():
        return {name: sorted((folder / person).glob("*.jpg"))[:2] for name, person in PEOPLE.items()}
    faces, _ = load_face_model().sample(DEMO_PEOPLE, 2, seed=DEMO_SEED)
    place = tmp_path_factory.mktemp("faces")
    paths = [place / f"{number}.png" for number in range(4)]
    for path, face in zip(paths, faces[:4], strict=True):
        Image.fromarray(face).save(path)
    return dict(zip(PEOPLE, (paths[:2], paths[2:]), strict=True))


@pytest.fixture(scope="module")
def page(service, tmp_path_factory):
    """The browser on the page."""
    browser = Chromium(tmp_path_factory.mktemp("profile"))
    browser.call("Page.navigate", url=service[0])
    browser.wait("document.readyState === 'complete'")
    browser.wait("document.querySelectorAll('#people img').length === 6")
    yield browser
    browser.close()


def ask(page, action, subject=""):
    """Press a button as a person would; the class and the text of the answer."""
    page.run("at('result').className = ''; at('answer').textContent = ''")
    page.run(f"at('subject').value = {subject!r}; document.querySelector("
             f"'[data-action={action}]').click()")  # fmt: skip
    page.wait("at('answer').textContent && !document.querySelector('[data-action]').disabled")
    return page.run("[at('result').className, at('answer').textContent]")


def choose(page, path):
    page.put_file("#file", path)
    page.wait("face && !at('aligned').hidden && at('aligned').complete")


def test_the_whole_way(page, pictures):
    folder = os.environ.get("IOM_SCREENSHOTS")  # a folder, to look at them
    assert page.run("location.hash") == ""
    assert page.run("at('access').open") is False
    for name, (first, _) in pictures.items():
        choose(page, first)
        assert ask(page, "enroll", name) == ["yes", "Enrolled"]
    choose(page, pictures["alice"][1])
    assert ask(page, "verify", "alice") == ["yes", "Match: this is alice"]
    screenshots(page, folder, "match")
    assert ask(page, "verify", "bob") == ["no", "No match: not bob"]
    assert ask(page, "identify") == ["yes", "This is alice"]
    assert ask(page, "revoke", "alice") == ["yes", "Revoked"]
    refused = ["refused", "Refused: the template is revoked"]
    assert ask(page, "verify", "alice") == refused
    screenshots(page, folder, "refused")
    assert ask(page, "identify") == ["no", "No match"]
    assert ask(page, "revoke", "alice") == refused
    assert ask(page, "renew", "alice") == ["yes", "Renewed"]
    assert ask(page, "verify", "alice") == ["yes", "Match: this is alice"]
    choose(page, pictures["bob"][1])
    assert ask(page, "verify", "bob") == ["yes", "Match: this is bob"]
    screenshots(page, folder, "end")
    assert page.run("document.querySelectorAll('#tour .done').length") == 7
    assert page.run("at('counts').textContent") == "enrolled 2, templates 2, revoked 1"


def test_a_drawn_face_and_what_is_no_face(page, tmp_path):
    page.run("face = null; document.querySelector('#people button').click()")
    page.wait("face && document.querySelector('#people button[aria-pressed=true]')")
    assert ask(page, "enroll", "<img src=x onerror=alert(1)>") == ["yes", "Enrolled"]
    assert page.run("document.querySelectorAll('#result img, #log img').length") == 0
    bad = tmp_path / "not.png"
    bad.write_bytes(b"no picture")
    page.put_file("#file", bad)
    page.wait("at('answer').textContent === 'This picture cannot be used'")
    assert ask(page, "verify", "bob") == ["no", "No face yet"]
    assert ask(page, "verify") == ["no", "Who is it?"]


def result(page):
    return page.run("[at('result').className, at('answer').textContent, at('scale').hidden]")


def test_an_answer_goes_when_another_picture_comes(page, pictures, tmp_path):
    nothing = ["", "Nothing asked yet", True]
    folder = os.environ.get("IOM_SCREENSHOTS")
    choose(page, pictures["bob"][1])
    assert ask(page, "verify", "bob") == ["yes", "Match: this is bob"]
    page.run("face = null")
    choose(page, pictures["alice"][1])
    assert result(page) == nothing
    screenshots(page, folder, "another_picture")
    bad = tmp_path / "not.png"
    bad.write_bytes(b"no picture")
    page.put_file("#file", bad)
    page.wait("at('answer').textContent === 'This picture cannot be used'")
    choose(page, pictures["bob"][0])
    assert result(page) == nothing
    assert ask(page, "verify", "bob")[0] == "yes"
    page.run("face = null; document.querySelectorAll('#people button')[1].click()")
    page.wait("face")
    assert result(page) == nothing
    assert ask(page, "verify", "bob")[0] == "no"
    page.run("startCamera()")
    page.wait("!at('video').hidden")
    assert result(page) == nothing
    assert page.run("[face, at('aligned').hidden]") == [None, True]


def test_an_answer_that_comes_after_another_picture_is_not_shown_beside_it(page, pictures):
    choose(page, pictures["bob"][1])
    page.run("at('subject').value = 'bob'; window.fetched = fetch; window.held = []")
    page.run(
        "window.fetch = (path, options) => String(path).endsWith('verify') "
        "? new Promise((go) => held.push(go)).then(() => fetched(path, options)) "
        ": fetched(path, options)"
    )
    page.run("document.querySelector('[data-action=verify]').click()")
    page.wait("held.length")
    page.run("face = null")
    choose(page, pictures["alice"][1])
    page.run("held[0](); window.fetch = fetched")
    page.wait("!document.querySelector('[data-action]').disabled")
    assert result(page)[:2] == ["", "Nothing asked yet"]
    assert page.run("at('log').firstChild.textContent") == "Verify bob: Match: this is bob"


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_it_fits(page, width):
    resize(page, width)
    assert page.run("document.documentElement.scrollWidth <= innerWidth")
    small = "[...document.querySelectorAll('button, .button')].map((each) => each.offsetHeight)"
    assert [each for each in page.run(small) if 0 < each < 40] == []


def test_nothing_is_complained_about_or_fetched_elsewhere(page, service):
    texts = [str(each) for each in page.complaints()]
    # A refusal is an error to the browser's console, too; everything else is one of the page.
    assert [each for each in texts if "Failed to load resource" not in each] == []
    origin = service[0].split("/#")[0]
    asked = {
        each["params"]["request"]["url"] for each in page.events if each.get("method") == "Network.requestWillBeSent"
    }
    assert len(asked) > 10
    assert [url for url in asked if not url.startswith((origin, "blob:", "about:"))] == []


def test_it_ends_when_told_to(service):
    """The last test here: requests are over, so the service ends at once, and leaves nothing."""
    _, process, file = service
    assert [each.name for each in file.parent.glob("temporary/iom-demo-*/demo.db")]
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert not list(file.parent.glob("temporary/iom-demo-*"))
    log = file.read_text()
    assert "Traceback" not in log
    assert "alice" not in log
    assert "token=" not in log


def resize(page, width):
    page.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600)


def screenshots(page, folder, name):
    if folder is None:
        return
    for label, width in WIDTHS.items():
        resize(page, width)
        image = page.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        (Path(folder) / f"{name}_{label}.png").write_bytes(base64.b64decode(image))
