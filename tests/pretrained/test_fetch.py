"""Fetching weights, from a server of the test's own."""

import contextlib
import fcntl
import hashlib
import http.server
import io
import threading
import zipfile

import pytest

from iom.errors import DataError, WeightsError
from iom.pretrained import manifest
from iom.pretrained.fetch import fetch
from iom.pretrained.manifest import Entry, read_manifest
from tests.commands import command

MODEL = hashlib.sha256(b"seed").digest() * 40_000  # 1.3 MB
MEMBER = "w600k.onnx"


def archive(**members):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as made:
        for name, data in members.items():
            made.writestr(name, data)
    return packed.getvalue()


ZIP = archive(**{"pack/detector.onnx": b"another", f"pack/{MEMBER}": MODEL})


class Server(http.server.ThreadingHTTPServer):
    """Serves `content`; `cut` bytes a request at most, `ignores_range`, `moved` to a URL, `status` of an error."""

    content, cut, ignores_range, moved, status = ZIP, 0, False, "", 0
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked = []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/pack.zip"


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        server = self.server
        asked = self.headers.get("Range", "")
        server.asked.append(asked)
        if server.moved:
            self.send_response(302)
            self.send_header("Location", server.moved)
            self.end_headers()
            return
        if server.status:
            self.send_error(server.status)
            return
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and not server.ignores_range else 0
        body = server.content[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(body[: server.cut or None])


@pytest.fixture
def server():
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache folder, no other folder with weights, and no proxy."""
    monkeypatch.setenv("IOM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("INSIGHTFACE_HOME", str(tmp_path / "insightface"))
    monkeypatch.delenv("IOM_WEIGHTS", raising=False)
    monkeypatch.setenv("no_proxy", "*")
    return tmp_path / "cache" / "weights" / "pack"


def entry_of(url, content=ZIP, **changes):
    values = {
        "name": "net.test",
        "architecture": "net",
        "format": "onnx",
        "folder": "pack",
        "files": {MEMBER: hashlib.sha256(MODEL).hexdigest()},
        "bytes": len(MODEL),
        "download": {"url": url, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()},
        "colour_order": "RGB",
        "range": "-1..1",
        "size": 112,
        "licence": "none",
        "training_data": "none",
        "source": "the tests",
        "figures": [{"by": "nobody"}],
    }
    return Entry.model_validate(values | changes)


def taken(folder):
    """Names in a folder but those of unfinished files."""
    return sorted(path.name for path in folder.iterdir())


def test_the_member_of_an_archive_is_fetched_and_nothing_else_of_it(server, cache):
    assert fetch(entry_of(server.url), progress=False) == [cache / MEMBER]
    assert (cache / MEMBER).read_bytes() == MODEL
    assert taken(cache) == [MEMBER]


def test_a_file_that_is_no_archive_is_fetched_as_it_is(server, cache):
    server.content = MODEL
    fetch(entry_of(server.url.replace("pack.zip", MEMBER), MODEL), progress=False)
    assert (cache / MEMBER).read_bytes() == MODEL
    assert taken(cache) == [MEMBER]


def test_a_cut_download_goes_on_where_it_was_cut(server, cache):
    server.cut = 1000
    with pytest.raises(WeightsError, match=r"ended after 0\.0 MB of .* start the same command again to go on"):
        fetch(entry_of(server.url), progress=False)
    assert taken(cache) == ["pack.zip.part"]
    server.cut = 0
    fetch(entry_of(server.url), progress=False)
    assert server.asked == ["", "bytes=1000-"]
    assert (cache / MEMBER).read_bytes() == MODEL


def test_a_server_without_ranges_is_asked_for_all_of_it(server, cache):
    server.cut, server.ignores_range = 1000, True
    with pytest.raises(WeightsError, match="go on"):
        fetch(entry_of(server.url), progress=False)
    server.cut = 0
    fetch(entry_of(server.url), progress=False)
    assert (cache / MEMBER).read_bytes() == MODEL


def test_a_whole_part_is_not_fetched_again(server, cache):
    cache.mkdir(parents=True)
    (cache / "pack.zip.part").write_bytes(ZIP)
    fetch(entry_of(server.url), progress=False)
    assert server.asked == []
    (cache / "pack.zip.part").write_bytes(ZIP + b"too long")
    fetch(entry_of(server.url), progress=False)
    assert server.asked == [""]


@pytest.mark.parametrize("where", ["download", "files"])
def test_another_content_is_removed(server, cache, where):
    digest = "0" * 64
    changes = {"files": {MEMBER: digest}}
    if where == "download":
        changes = {"download": {"url": server.url, "bytes": len(ZIP), "sha256": digest}}
    with pytest.raises(WeightsError, match=r"not the file of the manifest, and removed: expected SHA-256 0{64}"):
        fetch(entry_of(server.url, **changes), progress=False)
    assert taken(cache) == []


def test_another_size_is_refused_before_it_is_fetched(server, cache):
    server.content = ZIP + b"more"
    with pytest.raises(WeightsError, match=rf"expected {len(ZIP)} bytes.* gives {len(ZIP) + 4}; .*another one"):
        fetch(entry_of(server.url), progress=False)
    assert (cache / "pack.zip.part").stat().st_size == 0


@pytest.mark.parametrize("code", [404, 403, 500, 416])
def test_a_refusal_of_the_server_is_told(server, code):
    server.status = code
    with pytest.raises(WeightsError, match=f"the server answers {code}") as caught:
        fetch(entry_of(server.url), progress=False)
    assert "\n" not in str(caught.value)


def test_no_network_is_told(server):
    url = server.url
    server.server_close()
    with pytest.raises(WeightsError, match=r"no connection.*is there a network"):
        fetch(entry_of(url), progress=False)


@pytest.mark.parametrize("url", ["http://example.org/pack.zip", "file:///etc/pack.zip", "ftp://127.0.0.1/pack.zip"])
def test_only_encrypted_addresses_are_asked(server, url):
    with pytest.raises(WeightsError, match="expected an address that begins with https"):
        fetch(entry_of(url), progress=False)
    server.moved = url
    with pytest.raises(WeightsError, match=r"expected an address that begins with https|not allowed"):
        fetch(entry_of(server.url), progress=False)


def test_a_folder_that_cannot_be_written_is_told_first(server, cache):
    cache.parent.mkdir(parents=True)
    cache.write_text("a file")
    with pytest.raises(DataError, match=f"cannot write to {cache}"):
        fetch(entry_of(server.url), progress=False)
    assert server.asked == []


def test_a_full_disk_is_told_first(server, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("usage", (), {"free": 10}))
    with pytest.raises(WeightsError, match=r"of free space for it, there are 0\.0 MB"):
        fetch(entry_of(server.url), progress=False)
    assert server.asked == []


def test_two_at_once_are_refused(server, cache):
    cache.mkdir(parents=True)
    with (cache / "pack.zip.part").open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(WeightsError, match="another process is fetching it"):
            fetch(entry_of(server.url), progress=False)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (archive(**{f"../../{MEMBER}": MODEL}), "leads out"),
        (archive(**{MEMBER: MODEL, "/etc/x": b""}), "absolute"),
        (archive(other=MODEL), f"expected one file {MEMBER} in the archive, found 0"),
        (archive(**{f"a/{MEMBER}": MODEL, f"b/{MEMBER}": MODEL}), "found 2"),
        (archive(**{MEMBER: bytes(10 * len(MODEL))}), f"has {10 * len(MODEL)} bytes, expected at most {len(MODEL)}"),
        (ZIP[:-40], "not a sound archive"),
        (ZIP[:200] + bytes(100) + ZIP[300:], "not a sound archive"),
    ],
)
def test_a_hostile_or_damaged_archive_is_refused(server, cache, content, message):
    server.content = content
    with pytest.raises(WeightsError, match=message):
        fetch(entry_of(server.url, content), progress=False)
    assert taken(cache) == []
    assert taken(cache.parent) == ["pack"]


def test_the_command_shows_the_terms_and_asks(server, cache, monkeypatch, capsys):
    entry = entry_of(server.url, licence="for research")
    monkeypatch.setattr(manifest, "read_manifest", lambda: {entry.name: entry})
    main = command("weights")
    assert main(["fetch", "net"]) == 2
    error = capsys.readouterr().err
    assert all(text in error for text in ("for research", server.url, entry.download.sha256, "give --yes"))
    assert server.asked == []
    assert main(["fetch", "net.test", "--yes", "--quiet"]) == 0
    assert capsys.readouterr().out == f"{cache / MEMBER}\n"
    assert main(["fetch", "net.test"]) == 0
    assert "is here already" in capsys.readouterr().out


def test_an_answer_of_no_fetches_nothing(server, monkeypatch, capsys):
    entry = entry_of(server.url)
    monkeypatch.setattr(manifest, "read_manifest", lambda: {entry.name: entry})
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("click.confirm", lambda *_, **__: False)
    assert command("weights")(["fetch", "net.test"]) == 1
    assert "nothing fetched" in capsys.readouterr().out
    assert server.asked == []


def test_weights_without_a_url_say_where_they_are(capsys):
    assert command("weights")(["fetch", "iresnet100.mmdnn", "--yes"]) == 2
    assert "no URL that a program could fetch it from; get it from" in capsys.readouterr().err
    assert command("weights")(["fetch", "iresnet50.w600"]) == 2
    assert "did you mean 'iresnet50.w600k'" in capsys.readouterr().err


def test_the_urls_of_the_manifest_are_encrypted_and_pinned():
    downloads = [entry.download for entry in read_manifest().values() if entry.download]
    assert downloads
    assert all(each.url.startswith("https://") and each.sha256 for each in downloads)
