"""Commands of a split gallery's servers: `iom serve-share`, `iom refresh-shares`."""

import contextlib
import dataclasses
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from iom._memory import forbid_core_dumps
from iom.cli._command import OK, Answer, Choice, counted, option, root
from iom.cli.gallery import KeyOptions
from iom.errors import IomError

if TYPE_CHECKING:
    from iom.split.server import ShareServer
    from iom.split.share_store import ShareStore

command = root.section("Service")
SIDES = ("a", "b")
PEER_SECONDS = 5.0
"""Longest wait for the other server."""


@dataclasses.dataclass(frozen=True)
class _Tls:
    """Certificate of a program, and whose certificates it accepts."""

    certificate: Annotated[Path, option("of this server, made by iom make-certificates (PEM)", "FILE")]
    key: Annotated[Path, option("its key (PEM)", "FILE")]
    authority: Annotated[Path, option("authority of all certificates (PEM)", "FILE")]


@dataclasses.dataclass(frozen=True)
class _Stores(KeyOptions):
    """The stores of a share server."""

    store: Annotated[str, option("store of shares, made by iom init --key-mode share", "PATH_OR_URL")] = "gallery.db"

    def open(self, stack: contextlib.ExitStack) -> "ShareStore":
        """The share store."""
        from iom.gallery.key_store import open_key_store
        from iom.gallery.stores.base import open_store
        from iom.split.share_store import ShareStore

        keys = stack.enter_context(open_key_store(self.keys, passphrase=self.passphrase))
        shares = ShareStore(stack.enter_context(open_store(self.store)), keys)
        stack.callback(shares.close)
        return shares


@command(
    "serve-share",
    answers=False,
    epilog="""\
Two servers, under two administrators, hold the shares of a split gallery: neither has a template,
nor a key. Each is set up by itself; docs/split.md has all steps. FILE of --callers is JSON:
{"door": "verifier", "desk": "enroller", "root": "admin"} gives each caller, by the common name of its
certificate, a role. The file is read again when it changes; a caller that is taken out is refused from
then on.

  verifier   verify
  enroller   that, enrol and renew
  admin      that, revoke and refresh

With --correlations (iom deal) the servers compare by the full protocol, in which neither learns
the outcome; without, by the lite one, in which A sees which symbols differ. SIGTERM stops it.
""",
    examples=(
        "--side a --store a.db --keys 'file:a.keys?key-file=a.wrap' --certificate a.pem --key a.key "
        "--authority authority.pem --port 8441 --peer https://localhost:8442 --callers callers.json",
    ),
)
def serve_share(
    *,
    side: Annotated[str, option("which of the two servers", type=Choice(SIDES))],
    stores: _Stores,
    tls: _Tls,
    peer: Annotated[str, option("the other server", "https://HOST:PORT")],
    peer_name: Annotated[str, option("name in its certificate (default: the other side)")] = "",
    callers: Annotated[Path, option("callers and their roles (JSON)", "FILE", required=True)],
    correlations: Annotated[Path | None, option("this side's file of iom deal", "FILE")],
    host: Annotated[str, option("address")] = "127.0.0.1",
    port: Annotated[int, option("port, 0 for any that is free")] = 0,
    rate: Annotated[float, option("requests/s of a caller", "N")] = 200.0,
    attempts: Annotated[float, option("verifications of a subject by a caller in an hour", "N")] = 60.0,
) -> int:
    """Serve one of the two halves of a split gallery over mutual TLS."""
    from iom._peers import PeerClient, TlsFiles
    from iom.service.callers import Callers
    from iom.service.mutual_tls import PEER_SETTINGS, PeerApp, serve_peers
    from iom.service.server import listening
    from iom.split.server import CALLER_ROLES, ShareServer, open_correlations

    forbid_core_dumps()
    other = SIDES[side == "a"]
    roles, name_of_peer = Callers(callers, CALLER_ROLES), peer_name or other

    def role_of(caller: str) -> str | None:
        return "peer" if caller == name_of_peer else roles.word(caller)

    files = TlsFiles(tls.certificate, tls.key, tls.authority)
    files.check()
    settings = dataclasses.replace(PEER_SETTINGS, rate=rate, burst=max(1, round(2 * rate)))
    with contextlib.ExitStack() as stack:
        shares = stores.open(stack)
        dealt = open_correlations(correlations, side) if correlations else None
        if dealt:
            stack.callback(dealt.close)
        client = stack.enter_context(PeerClient(peer, **vars(files), name=name_of_peer, seconds=PEER_SECONDS))
        server = stack.enter_context(ShareServer(shares, side, role_of, client, correlations=dealt, failures=attempts))
        listener = stack.enter_context(listening(host, port))
        app = PeerApp(server.handlers, settings, admit=server.admit)
        place = f"{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
        with _synchronizing(server):
            serve_peers(
                app,
                listener,
                files,
                settings,
                ready=lambda: print(f"share server {side} ({server.protocol}): https://{place}", flush=True),
            )
    return OK


@contextlib.contextmanager
def _synchronizing(server: "ShareServer") -> Iterator[None]:
    """Settle with the other server now and then, in a thread."""
    from iom.split.server import SYNCHRONIZE_SECONDS

    stop, log = threading.Event(), logging.getLogger("iom.split")

    def work() -> None:
        wait = 0.0
        while not stop.wait(wait):
            try:
                server.synchronize()
            except IomError as error:
                log.warning("not in agreement with the other server: %s", error)
            wait = SYNCHRONIZE_SECONDS

    thread = threading.Thread(target=work, name="synchronize")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@command(
    "refresh-shares",
    epilog="""\
Both servers re-randomise their shares, without any face: what was stolen from one of them before
does not combine with what is stolen from the other one afterwards. GALLERY is the URL of the split
gallery with the certificate of an administrator. It can be interrupted and repeated at any time.
""",
    examples=("'split://localhost:8441,localhost:8442?certificate=root.pem&key=root.key&authority=authority.pem'",),
)
def refresh_shares(
    gallery: str,
    side: Annotated[str, option("server that begins it", type=Choice(SIDES))] = "a",
    application: Annotated[str, option("tenant", "NAME")] = "default",
) -> Answer:
    """Re-randomise the shares of both servers of a split gallery."""
    from iom.split.gallery import SplitGallery

    with SplitGallery.open(gallery) as opened:
        count = opened.refresh(side, application=application)
    return Answer({"application": application, "refreshed": count}, f"refreshed {counted(count, 'record')}")
