"""Commands of deployment: `iom deploy`, `iom serve`, `iom make-token`."""

import contextlib
import dataclasses
import ipaddress
import math
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click

from iom._memory import forbid_core_dumps
from iom._peers import CERTIFICATE_DAYS, TlsFiles
from iom._registry import ROLES
from iom.cli._command import (
    COUNT,
    OK,
    Answer,
    Choice,
    DetectorWeights,
    HasherOptions,
    argument,
    option,
    output_option,
    root,
)
from iom.cli.data import read_key
from iom.cli.gallery import GalleryOptions, KeyOptions, Search
from iom.errors import ConfigError
from iom.export.formats import FORMATS

if TYPE_CHECKING:
    from fastapi import FastAPI

    from iom.models.artifact import Manifest
    from iom.service.settings import ServiceSettings
    from iom.service.tokens import TokenFile

command = root.section("Service")

MAX_DAYS = 36500
SIDES = ("a", "b")
DEMO_SEED = 4
"""Seed of the synthetic faces of `iom serve --demo`, three people that the bundled hasher separates well."""
DEMO_PEOPLE = 3


@command(
    "deploy",
    context_settings={"allow_extra_args": True},
    renamed={"--faces": "--folder"},
    epilog="""\
An artefact goes from raw RGB pixels and the order of a key to the integer code. The key is never in
it. Beside it come a manifest (.json) and the hash alone (.head.npz); the three belong together.
After each export the artefact is run by its own runtime on faces and compared with the hasher; one
that loses more than its format may is an error, and nothing of it stays.

web is a folder for browsers, with the detector and the hash in it (docs/on_device.md): the --hasher
of iom init --key-mode device and of iom serve --on-device.
""",
    examples=(
        "--to onnx --to openvino --output exported",
        "--hasher DIR --to litert_int8 --folder FACES --pairs FILE --calibration OTHER_FACES",
    ),
)
def deploy(
    models: HasherOptions,
    targets: Annotated[
        Sequence[str],
        option(
            f"any of {', '.join(FORMATS)}; may be given several times",
            "FORMAT",
            flag="--to",
            type=Choice(list(FORMATS)),
            multiple=True,
        ),
    ] = ("onnx",),
    output: Annotated[Path, output_option("folder of the artefacts")] = Path("exported"),
    name: Annotated[str, option("of the artefacts (default: the hasher's)")] = "",
    folder: Annotated[Path | None, option("aligned faces of --pairs, for the check", "DIR")] = None,
    pairs: Annotated[Path | None, option("list of pairs (default: synthetic faces, no EER)", "FILE")] = None,
    check_pairs: Annotated[int, option("pairs of the list to try; 0 takes all", "N")] = 600,
    calibration: Annotated[Path | None, option("other aligned faces, for the ranges of integers", "DIR")] = None,
    calibration_faces: Annotated[int, option("number of them", "N")] = 64,
) -> Answer:
    """Export a hasher and its backbone to other runtimes, each artefact tried in its own."""
    _check_deploy(targets, folder, pairs)
    from iom.export.trial import TrialFaces, faces_of_pairs, synthetic_faces
    from iom.export.web import TARGET, deploy_embedder, embedder_alone
    from iom.pretrained import hasher_path

    def trial_faces(size: int) -> TrialFaces:
        if pairs and folder:
            return faces_of_pairs(pairs, folder, size=size, max_pairs=check_pairs)
        return synthetic_faces(size)

    rows = []

    def report(target: str, name: str, manifest: "Manifest") -> None:
        check = manifest.check
        assert check is not None  # noqa: S101  (an export without one does not return)
        rate = "" if check.eer is None else f", EER {check.eer:.2%} ({check.source_eer:.2%})"
        print(f"{target}, {manifest.precision}: {check.equal_symbols:.2%} equal symbols{rate} -> {output}")
        rows.append({"format": target, "name": name, "precision": manifest.precision, **dataclasses.asdict(check)})

    path, left = hasher_path(models.hasher), list(targets)
    if TARGET in left and not models.weights and (alone := embedder_alone(path)):  # without Keras
        left.remove(TARGET)
        name_there = name or path.stem
        report(TARGET, name_there, deploy_embedder(alone, output, name=name_there, faces=trial_faces(alone.input_size)))
    if left:
        from iom.export.context import load_source
        from iom.export.exporter import Exporter
        from iom.export.exporter import calibration_faces as read_calibration_faces

        source = load_source(models.hasher, weights=models.weights)
        size = source.embedder.input_size
        faces = trial_faces(size)
        ranges = read_calibration_faces(calibration, calibration_faces, size=size)
        exporter = Exporter(source, calibration=ranges, faces=faces)
        name = name or path.name
        for target in left:
            for manifest in exporter.export([target], output, name=name).values():
                report(target, name, manifest)
    return Answer({"output": output, "artefacts": rows})


def _check_deploy(targets: Sequence[str], folder: Path | None, pairs: Path | None) -> None:
    """Refuse options of `iom deploy` that do not go together."""
    if more := click.get_current_context().args:
        raise ConfigError(f"unexpected {' '.join(more)}: repeat --to for each format; see iom deploy --help")
    if len({FORMATS[target].suffix for target in targets}) < len(targets):
        raise ConfigError(f"--to {' --to '.join(targets)}: two of them write the same file; give one at a time")
    if (pairs is None) != (folder is None):
        raise ConfigError("--folder and --pairs go together: a list of pairs and its folder")


@command(
    "make-token",
    epilog="""\
roles
  verifier   verify and identify; with --on-device verify, and revoke where the device signs it
  enroller   that, enrol and renew
  admin      that, revoke and count
  monitor    read the metrics, of all applications

FILE is made if missing; NAME is that of the token, for logs and to take it back.
The token is shown once; the file holds its hash. A running service notices both.
""",
    examples=(
        "tokens.json front-door --application default --role verifier --days 90",
        "tokens.json front-door --remove",
    ),
)
def make_token(
    file: Path,
    name: str,
    application: Annotated[str, option("tenant", "NAME")] = "default",
    role: Annotated[str, option("what it allows", type=Choice(ROLES))] = "verifier",
    days: Annotated[float | None, option("until it expires (default: never)", "N")] = None,
    remove: Annotated[bool, option("take the token back")] = False,
) -> Answer:
    """Make a token for the service, or take one back."""
    from iom.service.tokens import add_token, remove_token

    if days is not None and not 0 < days <= MAX_DAYS:
        raise ConfigError(
            f"--days: expected more than 0, {MAX_DAYS} at most, received {days:g}; "
            "leave it out for a token that does not expire"
        )
    if remove:
        remove_token(file, name)
        return Answer({"name": name, "removed": True}, f"removed {name}")
    token = add_token(file, name=name, application=application, role=role, days=days)
    return Answer({"name": name, "application": application, "role": role, "token": token}, token)


@command(
    "make-certificates",
    epilog="""\
DIR gets authority.pem and authority.key, where there are none, and NAME.pem and NAME.key for each
NAME: the name of one program, in both directions. Give a machine its NAME.pem and NAME.key and
authority.pem; authority.key stays where certificates are made, best on no server. No file is
overwritten. The certificates hold for localhost, NAME and each --host.
""",
    examples=("certificates keys door", "certificates door-2 --host door-2.example.org --days 365"),
)
def make_certificates(
    folder: Annotated[Path, argument("DIR")],
    names: Annotated[Sequence[str], argument("NAME...", nargs=-1, required=True)],
    host: Annotated[Sequence[str], option("further name or address; repeatable", "HOST", multiple=True)],
    days: Annotated[float, option("until they expire", "N")] = CERTIFICATE_DAYS,
) -> Answer:
    """Make certificates for programs that talk over mutual TLS, under a private authority."""
    import iom._peers

    made = iom._peers.make_certificates(folder, names, hosts=host, days=days)
    return Answer({"files": made}, "\n".join(str(each) for each in made))


@command(
    "serve",
    answers=False,
    renamed={"--largest-request": "--max-request"},
    epilog="""\
to look at it, with a gallery that is thrown away at the end:
  iom serve --demo

with a gallery of your own:
  iom init --gallery door.db --keys door.keys
  iom make-token tokens.json alice --role admin
  iom serve --gallery door.db --keys door.keys --tokens tokens.json

with codes that browsers make (build the page with make web once; docs/on_device.md):
  iom serve --on-device --demo
  iom init --gallery door.db --keys door.keys --key-mode device
  iom serve --on-device --gallery door.db --keys door.keys --tokens tokens.json
or two services, each with shares of the codes (docs/service.md):
  iom init --key-mode device-share ...; iom serve --on-device --side a --pair-key FILE --other URL ...
There, --hasher is an artefact of iom deploy --to web, and nothing is decoded or detected here.

Then open http://127.0.0.1:8000/. Tokens and faces cross the network: serve other machines only
with --certificate and --certificate-key, or behind a proxy that does TLS. Ctrl-C or SIGTERM stops
it after the requests that are under way.

--failures counts by token and subject, a sixth of them at once; all tokens together have three times
as many, searches ten times. --proxy takes an address or a network in front of the service; without
it no header is believed. docs/service.md explains both.
""",
)
def serve(
    *,
    tokens: Annotated[Path | None, option("made by iom make-token", "FILE")],
    demo: Annotated[bool, option("a gallery with a token and synthetic faces, gone at the end")],
    on_device: Annotated[bool, option("browsers keep the faces and send signed codes; see docs/on_device.md")],
    side: Annotated[
        str | None, option("with --on-device: one of two services with shares of the codes", type=Choice(SIDES))
    ],
    pair_key: Annotated[Path | None, option("of iom make-key, which both services have and no device", "FILE")],
    other: Annotated[str, option("the other service; on side b the address of the page", "https://HOST[:PORT]")] = "",
    host: Annotated[str, option("address")] = "127.0.0.1",
    port: Annotated[int, option("port, 0 for any that is free")] = 8000,
    certificate: Annotated[Path | None, option("for TLS (PEM)", "FILE")],
    certificate_key: Annotated[Path | None, option("its key (PEM)", "FILE")],
    proxy: Annotated[
        Sequence[str], option("proxy whose X-Forwarded-For is believed; repeatable", "ADDRESS", multiple=True)
    ],
    detector: Annotated[
        str,
        option(
            "finds and aligns the faces of photographs: mtcnn, yunet or yunet_onnx; none takes only faces that are "
            "aligned",
            "NAME",
        ),
    ] = "mtcnn",
    detector_weights: DetectorWeights,
    rate: Annotated[float, option("requests/s of a token", "N")] = 20.0,
    failures: Annotated[float, option("failed verifications of a subject in an hour", "N")] = 60.0,
    max_request: Annotated[float, option("megabytes of a request", "MB")] = 8.0,
    decode_workers: Annotated[int, option("processes that decode images", "N")] = 2,
    scores: Annotated[bool, option("tell distances, too: a help for an attacker who tries image after image")],
    search: Search,
    place: GalleryOptions,
    models: HasherOptions,
) -> int:
    """Serve a gallery over HTTP, with a page to try it."""
    if (tokens is None) != demo:
        raise ConfigError("serve: expected --tokens FILE or --demo, and not both; see iom serve --help")
    if not (side is None) == (pair_key is None) == (not other) or (side and (demo or not on_device)):
        raise ConfigError(
            "--side: shares of codes need --on-device --side a|b --pair-key FILE --other URL together, and no --demo"
        )
    if on_device and search:
        raise ConfigError("--search: an on-device service compares with one subject and searches nothing; leave it out")
    if (certificate is None) != (certificate_key is None):
        raise ConfigError("expected both a certificate and its key, or neither")
    from iom.service.server import listening, serve
    from iom.service.settings import ServiceSettings
    from iom.service.tokens import TokenFile, add_token

    forbid_core_dumps()
    if certificate is None and host not in ("127.0.0.1", "::1", "localhost"):
        print(
            f"warning: {host} without --certificate: tokens and {'codes' if on_device else 'faces'} can be read on "
            "the way, unless a proxy in front of this does TLS",
            file=sys.stderr,
        )

    settings = ServiceSettings(
        rate=rate,
        burst=max(1, _whole("--rate", 2 * rate)),
        failures=_whole("--failures", failures),
        max_body=_whole("--max-request", max_request * 2**20),
        decode_workers=decode_workers,
        scores=scores or demo,
    )
    proxies, name = [_network(each) for each in proxy], place.application
    # Errors and the passphrase come before what takes seconds to load.
    with listening(host, port) as listener, contextlib.ExitStack() as stack:
        address = f"{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
        url = f"http{'s' * (certificate is not None)}://{address}"
        greeting = [f"serving on {url}"]
        token = ""
        if tokens is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="iom-demo-"))
            tokens = Path(folder, "tokens.json")
            token = add_token(tokens, name="demo", application=name, role="admin")
            place = GalleryOptions(
                gallery=f"sqlite:///{folder}/demo.db",
                keys=f"file:{folder}/demo.keys?key-file={folder}/demo.wrap",
                application=name,
            )
        known = TokenFile(tokens)
        if on_device:
            opened = _codes_app(stack, place, models, known, settings, demo=demo, shares=(side, pair_key, other))
        else:
            finder = detector, detector_weights
            opened = _faces_app(stack, place, models, known, settings, demo=demo, search=search, detector=finder)
        app, about = opened
        greeting.append(about)
        if demo:
            greeting.append(f"\nopen  {url}/#application={name}&token={token}\n")
            greeting.append("the gallery and this token are deleted when you stop the service with Ctrl-C")
        serve(
            app,
            listener,
            settings,
            tls=TlsFiles(certificate, certificate_key) if certificate and certificate_key else None,
            proxies=proxies,
            ready=lambda: print("\n".join(greeting), flush=True),
        )
    return OK


def _faces_app(
    stack: contextlib.ExitStack,
    place: GalleryOptions,
    models: HasherOptions,
    tokens: "TokenFile",
    settings: "ServiceSettings",
    *,
    demo: bool,
    search: str | None,
    detector: tuple[str, Path | None],
) -> tuple["FastAPI", str]:
    """The application that takes images, and what it does with them; `stack` closes what is opened for it."""
    from iom.service.app import create_app, find_detector
    from iom.service.decoding import Decoder
    from iom.service.face_pipeline import FacePipeline, warm_hasher

    gallery = stack.enter_context(place.open(create=demo, search=search))
    detect = find_detector(*detector)
    gallery.hasher = hasher = warm_hasher(models.load(batch_size=1))
    samples = []
    if demo:
        from iom.synthetic import load_face_model

        gallery.create_application(place.application)
        samples = list(load_face_model().sample(DEMO_PEOPLE, 2, seed=DEMO_SEED)[0])
    decoder = stack.enter_context(contextlib.closing(Decoder(settings, photographs=detect is not None)))
    app = create_app(gallery, FacePipeline(hasher, decoder, detect), tokens, settings, samples=samples)
    return app, "photographs are aligned" if detect else "aligned faces of 112x112 only"


def _codes_app(
    stack: contextlib.ExitStack,
    place: GalleryOptions,
    models: HasherOptions,
    tokens: "TokenFile",
    settings: "ServiceSettings",
    *,
    demo: bool,
    shares: tuple[str | None, Path | None, str],
) -> tuple["FastAPI", str]:
    """The application that takes codes of devices, and what it says of itself; `stack` closes what is opened for it."""
    from iom.gallery.on_device import Side
    from iom.service.on_device import create_on_device_app, page_files

    name, pair_key, other = shares
    if name != "b":
        page_files()  # where they are not built, that is told at once
    artifact = models.web_artifact(stack)
    gallery = place.open_on_device(artifact, create=demo)
    stack.enter_context(gallery)
    if demo:
        gallery.create_application(place.application, key_mode="device")
    gallery.side = Side(name, read_key(pair_key)) if name else None
    gallery.check_hashers()
    told = "on the device: faces and keys stay in browsers" + (f"; shares of side {name}" if name else "")
    return create_on_device_app(gallery, artifact, tokens, settings, other=other), told


@command(
    "serve-keys",
    answers=False,
    epilog="""\
FILE of --callers is JSON: {"door": "door", "door-2": "door", "gate": "gate"} gives each caller, by the
common name of its certificate, a name space. Callers of one name space get the same keys. The file
is read again when it changes; a caller that is taken out is refused from then on.

The master stays here, in the key store of --keys, which may be of any kind and belongs to this
service alone. A caller gets keys for labels, --burst of them at once, --rate a second in the long
run, and each request is written to --audit before it is answered. docs/deployment.md has a set-up.
""",
    examples=(
        "--keys keys/service.keys --create --callers callers.json \\\n"
        "      --certificate c/keys.pem --key c/keys.key --authority c/authority.pem",
    ),
)
def serve_keys(
    *,
    place: Annotated[KeyOptions, {"keys": {"default": "service.keys", "envvar": None, "show_envvar": False}}],
    callers: Annotated[Path, option("callers and their name spaces (JSON)", "FILE", required=True)],
    certificate: Annotated[Path, option("of this service (PEM)", "FILE", required=True)],
    key: Annotated[Path, option("its key (PEM)", "FILE", required=True)],
    authority: Annotated[Path, option("whose certificates callers need (PEM)", "FILE", required=True)],
    host: Annotated[str, option("address")] = "127.0.0.1",
    port: Annotated[int, option("port, 0 for any that is free")] = 8100,
    rate: Annotated[float, option("keys per second of a caller, in the long run", "N")] = 50.0,
    burst: Annotated[int, option("keys of a caller at once", "N", type=COUNT)] = 5000,
    audit: Annotated[Path | None, option("audit log (default: the key store's file and .audit)", "FILE")] = None,
    create: Annotated[bool, option("make the key store where it is missing")],
) -> int:
    """Serve keys, never the master, to other programs over mutual TLS."""
    from iom.gallery.key_store import open_key_store
    from iom.gallery.key_url import parse_key_url
    from iom.service.audit_log import AuditLog
    from iom.service.callers import Callers
    from iom.service.key_service import KeyService, audit_key
    from iom.service.mutual_tls import PeerApp, serve_peers
    from iom.service.server import listening

    forbid_core_dumps()
    if not rate > 0 or not math.isfinite(rate):
        raise ConfigError(f"--rate: expected a number above 0, received {rate}")
    tls, known = TlsFiles(certificate, key, authority), Callers(callers)
    tls.check()
    file = parse_key_url(place.keys, None).path
    with listening(host, port) as listener, contextlib.ExitStack() as stack:
        is_new = create and not file.exists()
        keys = stack.enter_context(open_key_store(place.keys, create=is_new, passphrase=place.passphrase))
        log = stack.enter_context(AuditLog(audit or file.with_name(file.name + ".audit"), audit_key(keys)))
        service = KeyService(keys, known, log, rate=rate, burst=burst)
        url = f"https://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
        serve_peers(PeerApp(service.handlers), listener, tls, ready=lambda: print(f"serving keys on {url}", flush=True))
    return OK


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise ConfigError(
            f"--proxy: expected an address or a network such as 10.0.0.0/24, received {text!r}"
        ) from error


def _whole(option: str, value: float) -> int:
    if not math.isfinite(value):
        raise ConfigError(f"{option}: expected a finite number, received {value}")
    return round(value)
