"""Files that the page keeps: a new version waits for the person, networks go with their manifest."""

import contextlib
import http.server
import re
import shutil
import threading
from functools import partial

import pytest

from tests.browser.conftest import BUILT
from tests.browser.face_page import FacePage

MANIFEST, NETWORK = "/artefact/some.web.json", "/artefact/some.web/embedder.onnx"
_FETCH = "async (path) => (await fetch(path)).text()"


class Handler(http.server.SimpleHTTPRequestHandler):
    """Files of a folder, never from the browser's own cache."""

    protocol_version = "HTTP/1.1"

    def translate_path(self, path):
        return super().translate_path("/page.html" if path == "/" else path)

    def end_headers(self):
        self.send_header("Cache-Control", "no-store")
        super().end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def site(tmp_path):
    """A copy of the built page, which a test changes, behind a server that is not ready; its folder and address."""
    folder = tmp_path / "site"
    shutil.copytree(BUILT.parent, folder)
    (folder / "artefact" / "some.web").mkdir(parents=True)
    (folder / MANIFEST[1:]).write_text("first")
    (folder / NETWORK[1:]).write_text("first network")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    with contextlib.ExitStack() as stack:
        stack.callback(thread.join)
        stack.callback(server.server_close)
        stack.callback(server.shutdown)
        yield folder, f"http://127.0.0.1:{server.server_address[1]}/"


@pytest.fixture
def page(browser, site):
    """The page, whose service worker is in charge."""
    page = FacePage(browser.new_context())
    page.page.goto(site[1])
    page.expect(page.at("state")).to_have_text("not ready")
    page.page.evaluate("navigator.serviceWorker.ready.then(() => null)")
    page.page.reload()
    page.expect(page.at("state")).to_have_text("not ready")
    assert page.page.evaluate("Boolean(navigator.serviceWorker.controller)")
    yield page
    page.context.close()


def test_a_new_version_waits_until_it_is_wanted(site, page):
    folder, _ = site
    shown = page.text("version")
    old = re.match(r"Page ([0-9a-f]{12})", shown)[1]
    new = "0" * 12
    (main,) = folder.glob("client/main-*.js")
    renamed = main.with_name("main-new.js")
    renamed.write_text(main.read_text().replace(old, new))
    main.unlink()
    for name in ("page.html", "sw.js"):
        path = folder / name
        path.write_text(path.read_text().replace(main.name, renamed.name).replace(old, new))
    page.page.reload()
    page.expect(page.at("update")).to_be_visible()
    assert page.text("version").startswith(f"Page {old}")  # from the cache: the service has it no more
    page.at("update-now").click()
    page.expect(page.at("version")).to_contain_text(f"Page {new}")
    page.expect(page.at("update")).to_be_hidden()
    assert [name for name in page.page.evaluate("caches.keys()") if "page" in name] == [f"iom-page-{new}"]


def test_networks_are_kept_until_their_manifest_changes(site, page):
    folder, _ = site
    fetch = partial(page.page.evaluate, _FETCH)
    assert (fetch(MANIFEST), fetch(NETWORK)) == ("first", "first network")
    (folder / NETWORK[1:]).write_text("second network")
    assert (fetch(MANIFEST), fetch(NETWORK)) == ("first", "first network")
    (folder / MANIFEST[1:]).write_text("second")
    assert (fetch(MANIFEST), fetch(NETWORK)) == ("second", "second network")


def test_what_is_no_file_is_not_kept(site, page):
    fetch = partial(page.page.evaluate, "async (path) => (await fetch(path)).status")
    assert fetch("/client/missing.js") == 404
    assert fetch("/artefact/some.web/missing.onnx") == 404
    assert fetch("/health/ready") == 404
    kept = page.page.evaluate(
        "async () => (await Promise.all((await caches.keys()).map(async (name) => "
        "(await (await caches.open(name)).keys()).map(({ url }) => new URL(url).pathname)))).flat()"
    )
    assert "/" in kept
    assert not [path for path in kept if "missing" in path or path.startswith(("/health", "/v1"))]
