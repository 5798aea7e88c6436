"""Two share servers in one process, each with its own stores, over calls that tests can cut, change and repeat."""

import pytest

from iom.errors import PeerError
from iom.gallery.gallery import Gallery
from iom.gallery.key_source import Seal
from iom.gallery.key_store import KeyStore
from iom.gallery.stores.sqlite import SqliteStore
from iom.split.correlations import Terms, deal_files
from iom.split.gallery import SplitGallery
from iom.split.server import ShareServer, open_correlations
from iom.split.share_store import ShareStore
from tests.gallery.conftest import FakeHasher

ROLES = {"door": "admin", "desk": "verifier", "a": "peer", "b": "peer"}


class Line:
    """A connection to a server of this process.

    Attributes:
        is_up: Whether calls arrive.
        change: `(action, body, answer) -> answer` of a server that lies.
        sent: Actions and bodies so far.
    """

    def __init__(self, pair, side, caller):
        self._pair, self._side, self._caller = pair, side, caller
        self.is_up, self.sent = True, []
        self.change = lambda action, body, answer: answer
        self.lost = set()

    def call(self, action, body):
        self.sent.append((action, body))
        if not self.is_up or action in self.lost:
            raise PeerError("nothing listens there; is the server running?")
        answer = self._pair.servers[self._side].handlers[action](self._caller, body)
        if f"answer of {action}" in self.lost:
            raise PeerError("no answer within 5 s")
        return self.change(action, body, answer)


class Pair:
    """Both servers, which can be stopped, opened again and set back to copies of their files."""

    def __init__(self, folder, protocol, threshold=50):
        self.folder, self.protocol = folder, protocol
        self.dealt = {side: folder / f"{side}.deal" for side in "ab"} if protocol == "full" else {}
        if self.dealt:
            deal_files(Terms(96, 8, threshold), 200, *self.dealt.values())
        self.opened = {}
        self.servers, self.stores = {}, {}
        self.lines = {("door", side): Line(self, side, "door") for side in "ab"}
        self.lines |= {(caller, side): Line(self, side, caller) for caller, side in ("ab", "ba")}
        for side in "ab":
            (folder / side).mkdir(exist_ok=True)
            with Gallery(*self.files(side, create=True), FakeHasher()) as gallery:
                gallery.create_application("default", key_mode="share", threshold=threshold)
            self.start(side)
        self.gallery = SplitGallery((self.lines["door", "a"], self.lines["door", "b"]), FakeHasher(), protocol=protocol)

    def files(self, side, *, create=False):
        folder = self.folder / side
        wrapping = Seal("key", lambda *_: bytes(31) + side.encode())
        return self.store(side, create=create), KeyStore.open(folder / "s.keys", wrapping, create=create)

    def store(self, side, *, create):
        return SqliteStore(self.folder / side / "s.db", create=create)

    def start(self, side):
        """Start a server, as after a crash."""
        other = "ab"[side == "a"]
        self.stores[side] = ShareStore(*self.files(side))
        if self.dealt:
            self.opened[side] = open_correlations(self.dealt[side], side)
        self.servers[side] = ShareServer(
            self.stores[side],
            side,
            ROLES.get,
            self.lines[side, other],
            correlations=self.opened.get(side),
            failures=1e6,
        )

    def stop(self, side):
        self.servers.pop(side).close()
        if self.dealt:
            self.opened.pop(side).close()
        self.stores.pop(side).close()

    def restart(self, side):
        self.stop(side)
        self.start(side)

    def copy(self, side):
        """Files of a server, for `set_back`."""
        self.stop(side)
        copies = {each.name: each.read_bytes() for each in (self.folder / side).iterdir()}
        self.start(side)
        return copies

    def set_back(self, side, copies):
        self.stop(side)
        for each in (self.folder / side).iterdir():
            each.unlink()
        for name, content in copies.items():
            (self.folder / side / name).write_bytes(content)
        self.start(side)

    def records(self, side, subject="alice"):
        return [each.record for each in self.stores[side].store.references("default", subject)]

    def close(self):
        self.gallery.close()
        for side in list(self.servers):
            self.stop(side)


@pytest.fixture(params=["lite", "full"])
def pair(request, tmp_path):
    made = Pair(tmp_path, request.param)
    yield made
    made.close()
