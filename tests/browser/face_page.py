"""The page as a person uses it."""

import base64
import re
from pathlib import Path

from iom.keys import TransformKey

FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
)  # fmt: skip
SECONDS = 60
SIZES = {"wide": (1280, 900), "phone": (390, 844)}
# A refusal of the service is an error to the browser's console, too; so is a service that cannot be reached.
EXPECTED = re.compile(r"Failed to load resource: (the server responded with a status of 4\d\d|net::ERR_)")
_RECORD = """
async ([application, subject, value]) => {
  const opened = await new Promise((done, failed) => {
    const request = indexedDB.open('iom-device');
    request.onsuccess = () => done(request.result);
    request.onerror = () => failed(request.error);
  });
  const store = opened.transaction('records', 'readwrite').objectStore('records');
  const ask = (request) => new Promise((done, failed) => {
    request.onsuccess = () => done(request.result);
    request.onerror = () => failed(request.error);
  });
  const before = await ask(store.get([application, subject]));
  if (value) await ask(store.put(value, [application, subject]));
  opened.close();
  return before;
}
"""


class FacePage:
    """One device: a profile of its own with the page open."""

    def __init__(self, context):
        import playwright.sync_api as playwright

        self.context, self.page = context, context.new_page()
        self.page.set_default_timeout(1000 * SECONDS)
        self.expect = playwright.expect
        self.expect.set_options(timeout=1000 * SECONDS)
        self.said, self.urls = [], []
        self.page.on("console", lambda message: self.said.append((message.type, message.text)))
        self.page.on("pageerror", lambda error: self.said.append(("exception", str(error))))
        context.on("request", lambda request: self.urls.append(request.url))

    @classmethod
    def open(cls, browser, url, *, before=None, meanwhile=None):
        """Load the page and wait until it is ready.

        `before` is a script that runs before the page's own; `meanwhile(page)` is called while the networks load.
        """
        width, height = SIZES["wide"]
        page = cls(browser.new_context(viewport={"width": width, "height": height}))
        if before:
            page.page.add_init_script(before)
        page.url = url
        page.page.goto(url, wait_until="domcontentloaded")
        if meanwhile:
            meanwhile(page)
        page.wait_ready()
        return page

    def reload(self):
        """Load the page anew, and follow the link with the token, which no page keeps."""
        self.page.reload()
        self.wait_ready()
        self.page.goto(self.url)
        self.expect(self.at("token")).not_to_have_value("")

    def wait_ready(self):
        """Until networks are loaded, or loading failed."""
        self.expect(self.at("state")).to_have_text(re.compile("ready"))
        assert self.text("state").startswith("ready"), self.text("loading")

    def at(self, name):
        """An element by its id."""
        return self.page.locator(f"#{name}")

    def text(self, name):
        """The text of an element."""
        return self.at(name).inner_text()

    def choose(self, path):
        """Upload a photograph; whether a face was found in it."""
        self.at("file").set_input_files(str(path))
        self.expect(self.at("answer")).to_have_text(re.compile("A face was found|This picture cannot be used"))
        return self.text("answer") == "A face was found"

    def act(self, action, subject):
        """Press a button; the class and the title of the answer."""
        self.at("subject").fill(subject)
        count = self.page.locator("#log li").count()
        self.page.locator(f"[data-action={action}]").click()
        self.expect(self.page.locator("#log li")).to_have_count(count + 1)
        self.expect(self.page.locator("[data-action]:disabled")).to_have_count(0)
        return self.at("result").get_attribute("class"), self.text("answer")

    def key(self):
        """The master key, from the dialog that saves it."""
        self.at("show-export").click()
        self.expect(self.at("export-dialog")).to_be_visible()
        text = self.at("export-text").input_value()
        self.at("export-dialog").locator("[data-close]").click()
        return TransformKey.from_text(text)

    def record(self, application, subject, value=None):
        """The stored record numbers of a subject; `value` takes their place."""
        return self.page.evaluate(_RECORD, [application, subject, value])

    def chip(self):
        """Pixels of the aligned face that the page shows, RGBA bytes."""
        data = self.page.evaluate(
            """() => {
              const canvas = document.getElementById('aligned');
              const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
              return btoa(Array.from(data, (value) => String.fromCharCode(value)).join(''));
            }"""
        )
        return base64.b64decode(data)

    def complaints(self):
        """Errors and warnings of scripts, console and content policy."""
        self.page.evaluate("0")  # whatever came before has arrived now
        return [
            each for each in self.said if each[0] in ("error", "warning", "exception") and not EXPECTED.match(each[1])
        ]

    def resize(self, size):
        """Take a size of `SIZES`."""
        width, height = SIZES[size]
        self.page.set_viewport_size({"width": width, "height": height})

    def screenshots(self, folder, name):
        """Pictures of the whole page, wide and as on a phone, light and dark; none without a folder."""
        if not folder:
            return
        for size in SIZES:
            self.resize(size)
            for scheme in ("light", "dark"):
                self.page.emulate_media(color_scheme=scheme)
                self.page.screenshot(path=Path(folder) / f"{name}_{size}_{scheme}.png", full_page=True)
        self.resize("wide")
        self.page.emulate_media(color_scheme="light")
