"""What a gallery costs with keys of each kind: in the file, in a token, of a key service, of two parts joined.

A batch of enrolments, one key, a verification and an identification (a key for each record), in turns over all
kinds; each figure is a median, and beside it stands its ratio to keys in the file. `call_ms` is a call over mutual TLS
that does nothing, to a server in this process.

The key service runs as a process of its own on
this machine, over mutual TLS, with its audit log on the same disk; the token is SoftHSM's, where it is installed
(otherwise its kind is left out).

python -m benchmarks.key_stores [--rounds 20] [--batch 1024]
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.command_line import new_parser, run
from benchmarks.gallery_crash import APPLICATION, FakeHasher, faces
from iom._peers import PeerClient, TlsFiles, make_certificates
from iom.gallery.gallery import Gallery
from iom.service.mutual_tls import PeerApp, peers_in_background

LIBRARIES = ("/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/pkcs11/libsofthsm2.so")
SIDES = ("keys", "door")
CALLS = 1000
VERIFICATIONS = 10
"""Verifications of a round."""
IDENTIFIED = 200
"""Records of the application that is searched."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print one line of JSON."""
    parser = new_parser("python -m benchmarks.key_stores", str(__doc__))
    parser.add_argument("--rounds", type=int, default=20, help="default: %(default)s")
    parser.add_argument("--batch", type=int, default=1024, help="enrolments of a batch (default: %(default)s)")
    return run(_run, parser, argv)


def _run(arguments: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        service = stack.enter_context(_key_service(folder))
        own = f"file:{folder}/{{0}}.keys?key-file={folder}/{{0}}.wrap"
        urls = {"file": own, "https": f"{service}&file={folder}/{{0}}.keys", "file+https": f"{own}+{service}"}
        if token := _token(folder):
            urls["pkcs11"] = f"{token}&file={folder}/{{0}}.keys"
        galleries = {
            kind: stack.enter_context(
                Gallery.open(folder / f"{number}.db", keys=url.format(number), hasher=FakeHasher(), create=True)  # type: ignore[arg-type]
            )
            for number, (kind, url) in enumerate(urls.items())
        }
        figures: dict[str, Any] = {**_figures(galleries, arguments.rounds, arguments.batch)}
        print(json.dumps({**figures, "call_ms": _call_ms(folder / "certificates")}))
    return 0


def _figures(galleries: dict[str, Gallery], rounds: int, batch: int) -> dict[str, dict[str, float]]:
    people = faces([f"p{i}" for i in range(max(batch, IDENTIFIED))], 1)
    seconds: dict[str, dict[str, list[float]]] = {}

    def timed(kind: str, what: str, action: Callable[[], object]) -> None:
        began = time.perf_counter()
        action()
        seconds.setdefault(kind, {}).setdefault(what, []).append(time.perf_counter() - began)

    for gallery in galleries.values():
        gallery.create_application(APPLICATION, threshold=100, masked=True)
        gallery.create_application("small", threshold=100, masked=True)
        gallery.enroll_many([f"p{i}" for i in range(IDENTIFIED)], people[:IDENTIFIED], application="small")
    for number in range(rounds):
        for kind, gallery in galleries.items():
            names = [f"r{number}.{i}" for i in range(batch)]
            timed(kind, "enrol", lambda g=gallery, n=names: g.enroll_many(n, people[:batch], application=APPLICATION))
            for i in range(VERIFICATIONS):
                timed(kind, "derive", lambda g=gallery: g.keys.derive("benchmark", [b"label"]))
                timed(kind, "verify", lambda g=gallery, i=i: g.verify(f"p{i}", people[i], application="small"))
            timed(kind, "identify", lambda g=gallery: g.identify(people[3], application="small"))
    medians = {kind: {what: statistics.median(values) for what, values in of.items()} for kind, of in seconds.items()}
    return {
        kind: {
            "enrol_per_s": round(batch / of["enrol"], 1),
            "derive_ms": round(1e3 * of["derive"], 3),
            "verify_ms": round(1e3 * of["verify"], 3),
            "identify_ms": round(1e3 * of["identify"], 3),
            **{f"{what}_over_file": round(of[what] / medians["file"][what], 2) for what in of if what != "derive"},
        }
        for kind, of in medians.items()
    }


def _call_ms(place: Path) -> float:
    """Median of a call of 32 bytes that does nothing."""
    files = [TlsFiles(*(place / name for name in (f"{side}.pem", f"{side}.key", "authority.pem"))) for side in SIDES]
    seconds = []
    with (
        peers_in_background(PeerApp({"echo": lambda caller, body: body}), files[0]) as url,
        PeerClient(url, certificate=files[1].certificate, key=files[1].key, authority=place / "authority.pem") as door,
    ):
        for _ in range(CALLS):
            began = time.perf_counter()
            door.call("echo", bytes(32))
            seconds.append(time.perf_counter() - began)
    return round(1e3 * statistics.median(seconds), 3)


@contextlib.contextmanager
def _key_service(folder: Path) -> Iterator[str]:
    """A running `iom serve-keys`; yields the URL of its keys for a client, without a file."""
    place = folder / "certificates"
    make_certificates(place, SIDES)
    (folder / "callers.json").write_text('{"door": "door"}', encoding="utf-8")
    command = [sys.executable, "-m", "iom", "serve-keys", "--create", "--port=0", f"--callers={folder}/callers.json"]
    command += [f"--keys=file:{folder}/s.keys?key-file={folder}/s.wrap", "--rate=1e9", "--burst=100000000"]
    command += [f"--certificate={place}/keys.pem", f"--key={place}/keys.key", f"--authority={place}/authority.pem"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            url = (process.stdout.readline() if process.stdout else "").split()[-1]
            yield f"{url}?certificate={place}/door.pem&key={place}/door.key&authority={place}/authority.pem&name=keys"
        finally:
            process.send_signal(signal.SIGTERM)


def _token(folder: Path) -> str:
    """The URL of a new token of SoftHSM, without a file; empty where it is not installed."""
    library = next((path for path in LIBRARIES if Path(path).is_file()), None)
    if library is None or shutil.which("softhsm2-util") is None:
        print("SoftHSM is not installed: no figures of pkcs11", file=sys.stderr)
        return ""
    (folder / "tokens").mkdir()
    configuration, pin = folder / "softhsm2.conf", folder / "pin"
    configuration.write_text(f"directories.tokendir = {folder}/tokens\nlog.level = ERROR\n", encoding="utf-8")
    pin.write_text("5678", encoding="utf-8")
    os.environ["SOFTHSM2_CONF"] = str(configuration)
    command = ["softhsm2-util", "--init-token", "--free", "--label", "iom", "--so-pin", "12345678", "--pin", "5678"]
    subprocess.run(command, check=True, capture_output=True)
    return f"pkcs11:token=iom;object=master?module-path={library}&pin-source=file:{pin}"


if __name__ == "__main__":
    raise SystemExit(main())
