"""Serve a gallery over HTTP, with a page to try it: `iom serve`."""

import argparse
import contextlib
import math
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from iom.cli.arguments import new_parser, run
from iom.cli.gallery import _add_hasher, _add_places
from iom.errors import ConfigError

EPILOG = """\
to look at it, with a gallery that is thrown away at the end:
  iom serve --demo

with a gallery of your own:
  iom init --gallery sqlite:///door.db --keys file:door.keys
  iom make-token tokens.json alice --role admin
  iom serve --gallery sqlite:///door.db --keys file:door.keys --tokens tokens.json

Then open http://127.0.0.1:8000/. Needs the extra `service`, and `align` to take
photographs. Tokens and faces cross the network: serve other machines only with --certificate and
--certificate-key, or behind a proxy that does TLS. Ctrl-C or SIGTERM stops it after the requests
that are under way. docs/service.md tells more.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `iom serve`."""
    parser = new_parser("iom serve", "Serve a gallery over HTTP, with a page to try it.", epilog=EPILOG)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--tokens", type=Path, metavar="FILE", help="made by iom make-token")
    source.add_argument(
        "--demo",
        action="store_true",
        help="a gallery of its own, with a token and faces of nobody to try; all of it is thrown away at the end",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000, help="port, 0 for any that is free (default: 8000)")
    parser.add_argument("--certificate", type=Path, metavar="FILE", help="for TLS (PEM)")
    parser.add_argument("--certificate-key", type=Path, metavar="FILE", help="its key (PEM)")
    parser.add_argument(
        "--proxy",
        action="append",
        default=[],
        metavar="ADDRESS",
        help="a proxy in front of this (address or network; may be given again): its "
        "X-Forwarded-For tells the address of a client (default: no header is believed)",
    )
    parser.add_argument(
        "--detector",
        default="auto",
        metavar="NAME",
        help="finds and aligns the faces of photographs: mtcnn, yunet or yunet_onnx; auto is mtcnn "
        "where it is installed; none takes only faces that are aligned (default: auto)",
    )
    parser.add_argument("--detector-weights", type=Path, metavar="FILE", help="the detector's ONNX (yunet, yunet_onnx)")
    parser.add_argument("--rate", type=float, default=20.0, metavar="N", help="requests/s of a token (default: 20)")
    parser.add_argument(
        "--failures",
        type=float,
        default=60.0,
        metavar="N",
        help="failed verifications of a subject by a token in an hour, a sixth of them at once; "
        "all tokens together have three times as many, searches ten times (default: 60)",
    )
    parser.add_argument("--largest-request", type=float, default=8.0, metavar="MB", help="megabytes (default: 8)")
    parser.add_argument(
        "--decode-workers", type=int, default=2, metavar="N", help="processes that decode images (default: 2)"
    )
    parser.add_argument(
        "--scores", action="store_true", help="tell distances, too: a help for an attacker who tries image after image"
    )
    _add_places(parser)
    _add_hasher(parser)
    return run(_serve, parser, argv)


def _serve(arguments: argparse.Namespace) -> int:
    from iom.errors import missing_extra

    try:
        from iom.service.server import forbid_core_dumps, serve
    except ModuleNotFoundError as error:
        if str(error.name).startswith("iom"):
            raise
        raise missing_extra("the service", "service", cause=error) from error

    forbid_core_dumps()
    if arguments.certificate is None and arguments.host not in ("127.0.0.1", "::1", "localhost"):
        print(
            f"warning: {arguments.host} without --certificate: tokens and faces can be read on "
            "the way, unless a proxy in front of this does TLS",
            file=sys.stderr,
        )
    return serve(
        lambda address: _opened(arguments, address),
        host=arguments.host,
        port=arguments.port,
        certificate=arguments.certificate,
        certificate_key=arguments.certificate_key,
        proxies=arguments.proxy,
        ready=lambda text: print(text, flush=True),
    )


@contextlib.contextmanager
def _opened(arguments: argparse.Namespace, address: str) -> Iterator[Any]:
    from iom.cli.gallery_access import open_gallery
    from iom.service.app import make_demo, open_service
    from iom.service.settings import ServiceSettings
    from iom.service.tokens import TokenFile

    settings = ServiceSettings(
        rate=arguments.rate,
        burst=max(1, _whole("--rate", 2 * arguments.rate)),
        failures=_whole("--failures", arguments.failures),
        max_body=_whole("--largest-request", arguments.largest_request * 2**20),
        decode_workers=arguments.decode_workers,
        scores=arguments.scores or arguments.demo,
    )
    with contextlib.ExitStack() as stack:
        token = ""
        if arguments.demo:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="iom-demo-")))
            demo = make_demo(folder, arguments.application)
            arguments.gallery, arguments.keys, arguments.tokens = demo.store, demo.keys, demo.tokens
            token = demo.token
        # Errors and the passphrase come before what takes seconds to load.
        tokens = TokenFile(arguments.tokens)
        gallery = open_gallery(arguments, create=arguments.demo)
        yield stack.enter_context(
            open_service(
                address,
                gallery,
                tokens,
                hasher=arguments.hasher,
                weights=arguments.weights or "",
                application=arguments.application,
                settings=settings,
                detector=arguments.detector,
                detector_weights=arguments.detector_weights,
                demo_token=token,
            )
        )


def _whole(option: str, value: float) -> int:
    if not math.isfinite(value):
        raise ConfigError(f"{option}: expected a finite number, received {value}")
    return round(value)


if __name__ == "__main__":
    raise SystemExit(main())
