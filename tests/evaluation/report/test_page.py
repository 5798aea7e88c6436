"""The page: everything is in it, it asks for nothing, and a browser shows it."""

import html.parser
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from iom.evaluation.records import Sections
from iom.evaluation.report.write import report_page, thumbnails, write_report
from iom.evaluation.scores import common_key, subject_key

SECTIONS = [
    "summary", "verification", "identification", "scores", "linkability", "attacks", "stolen_store", "per_key",
    "hardest_pairs", "environment", "config",
]  # fmt: skip
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--hide-scrollbars", "--window-size=1300,2400", "--virtual-time-budget=2000",
)  # fmt: skip
VOID = {"meta", "img", "br", "hr", "input", "link"}


class Reader(html.parser.HTMLParser):
    """Collects what matters and complains about tags that do not match."""

    def __init__(self):
        super().__init__()
        self.open, self.sections, self.ids, self.addresses, self.text = [], {}, [], [], []
        self.tags = []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for name, value in attributes:
            if name == "id":
                self.ids.append(value)
            if name in ("href", "src", "xlink:href", "srcset", "action", "data", "poster"):
                self.addresses.append(value)
            if name.startswith("on"):
                raise AssertionError(f"a script: {name}")
            self.addresses += re.findall(r"url\(([^)]*)\)", value or "")
        if tag == "section":
            self.sections[dict(attributes)["id"]] = len(self.tags)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)
        if self.open and self.open[-1] == "style":
            self.addresses += re.findall(r"url\(([^)]*)\)", data)
            assert "@import" not in data


def read(page):
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return reader


@pytest.fixture(scope="session")
def page(data):
    return report_page(data)


def test_every_section_is_there_and_nothing_outside(page):
    reader = read(page)
    assert list(reader.sections) == SECTIONS
    assert not {"script", "link", "iframe", "object", "embed", "base"} & set(reader.tags)
    assert reader.addresses
    assert all(address.startswith(("#", "data:image/")) for address in reader.addresses)
    targets = {address[1:] for address in reader.addresses if address.startswith("#")}
    assert targets <= set(reader.ids)
    assert len(set(reader.ids)) == len(reader.ids)
    assert not re.search(r"https?://|//www|ftp:", page)
    assert reader.tags.count("svg") == 9


def test_what_must_be_escaped_is(page):
    text = "".join(read(page).text)
    assert "made & <odd>" in text
    assert "<odd>" not in page


def test_hostile_names_are_text(data):
    name = '<script>alert(1)</script>.jpg" onerror="x'
    pairs = [pair.model_copy(update={"left": name}) for pair in data.sections.hardest_pairs]
    hostile = data.model_copy(
        update={
            "sections": data.sections.model_copy(update={"hardest_pairs": pairs}),
            "embedder": data.embedder.model_copy(update={"name": name}),
            "notes": [name],
            "config": data.config | {"hasher": name},
        }
    )
    reader = read(report_page(hostile, images={name: "data:image/jpeg;base64,AAAA"}))
    assert "script" not in reader.tags
    assert name in "".join(reader.text)


def test_figures_of_the_page_are_those_of_the_data(page, data):
    text = "".join(read(page).text)
    for row in data.rows:
        if row.metric == "eer" and row.system != "float":
            assert f"{100 * row.value:.2f} [{100 * row.low:.2f}" in text
    for sentence in data.summary:
        assert sentence.text in text
    assert "numpy" in text
    assert "closed form" in text


def test_images_only_on_request(data, inputs, page):
    assert "data:image" not in page
    pairs = data.sections.hardest_pairs
    reader = read(report_page(data, images=thumbnails(inputs.benchmark, pairs)))
    assert reader.tags.count("img") == 2 * len(pairs)
    assert all(a.startswith(("#", "data:image/jpeg;base64,")) for a in reader.addresses)


def test_sections_that_were_not_computed_are_left_out(data):
    sections = Sections(curves=data.sections.curves, histograms=data.sections.histograms)
    small = data.model_copy(update={"sections": sections})
    assert not {"identification", "linkability", "attacks"} & set(read(report_page(small)).sections)


def test_no_key_and_no_embedding_is_in_any_file(data, inputs, tmp_path):
    write_report(data, tmp_path)
    text = "".join(p.read_text() for p in tmp_path.rglob("*") if p.is_file())
    for number in range(3):
        assert common_key(4, number).secret.hex() not in text
        assert subject_key(4, number, 0).secret.hex() not in text
    assert "TransformKey" not in text
    for value in inputs.embeddings[:5].ravel()[:50]:
        assert repr(float(value)) not in text
    lists = [v for v in _lists(json.loads((tmp_path / "report.json").read_text()))]
    codes = inputs.systems["grp"].hash(inputs.embeddings, common_key(4, 0))
    assert not any(list(row) in lists for row in codes.tolist())


def _lists(value):
    if isinstance(value, dict):
        for item in value.values():
            yield from _lists(item)
    elif isinstance(value, list):
        yield value
        for item in value:
            if isinstance(item, dict | list):
                yield from _lists(item)


def test_a_browser_shows_it(page, tmp_path):
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"needs a browser to look at the page: none of {', '.join(BROWSERS)} is here")
    file, picture = tmp_path / "report.html", tmp_path / "shot.png"
    file.write_text(page, encoding="utf-8")
    base = [browser, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}"]
    for what in (f"--screenshot={picture}", "--dump-dom"):
        done = subprocess.run([*base, what, file.as_uri()], capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
    assert "Refused to" not in done.stderr
    dom = done.stdout
    assert all(f'<section id="{name}">' in dom for name in SECTIONS)
    with Image.open(picture) as shot:
        pixels = np.asarray(shot.convert("RGB"))
    assert pixels.shape == (2400, 1300, 3)
    top, rest = pixels[:60], pixels[200:]
    assert top.mean() < 60  # the dark heading: styles were applied
    for band in np.array_split(rest, 5):
        assert len(np.unique(band.reshape(-1, 3), axis=0)) > 20
