"""Serve a gallery over HTTP, with a page to try it: `python -m iom.cli.serve`."""

import argparse
import importlib.util
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from iom.cli.arguments import new_parser, run
from iom.cli.gallery import _add_hasher, _add_places

EPILOG = """\
examples:
  iom init --gallery sqlite:///door.db --keys file:door.keys
  iom make-token tokens.json alice --role admin
  iom serve --gallery sqlite:///door.db --keys file:door.keys --tokens tokens.json

Then open http://127.0.0.1:8000/. Tokens and faces cross the network: serve other machines only with
--certificate and --certificate-key, or behind a proxy that does TLS. Needs pip install 'iom[service]'.
"""
DETECTORS = ("auto", "mtcnn", "yunet", "none")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `python -m iom.cli.serve`."""
    parser = new_parser(
        "iom serve", "Serve a gallery over HTTP, with a page to try it.", epilog=EPILOG
    )
    _add_places(parser)
    _add_hasher(parser)
    parser.add_argument(
        "--tokens", type=Path, required=True, metavar="FILE", help="made by iom make-token"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000, help="port (default: 8000)")
    parser.add_argument("--certificate", type=Path, metavar="FILE", help="for TLS (PEM)")
    parser.add_argument("--certificate-key", type=Path, metavar="FILE", help="its key (PEM)")
    parser.add_argument(
        "--detector",
        choices=DETECTORS,
        default="auto",
        help="aligns photographs; auto is mtcnn where it is installed, none takes only faces that "
        "are aligned (default: auto)",
    )
    parser.add_argument(
        "--detector-weights", type=Path, metavar="FILE", help="the detector's ONNX (yunet)"
    )
    parser.add_argument(
        "--rate", type=float, default=20.0, metavar="N", help="requests/s of a token (default: 20)"
    )
    parser.add_argument(
        "--scores",
        action="store_true",
        help="tell distances, too: a help for an attacker who tries image after image",
    )
    return run(_serve, parser, argv)


def _serve(arguments: argparse.Namespace) -> int:
    from iom.errors import ConfigError, MissingExtraError

    if (arguments.certificate is None) != (arguments.certificate_key is None):
        raise ConfigError("expected both --certificate and --certificate-key, or neither")
    try:
        import uvicorn

        from iom.service.app import create_app
    except ModuleNotFoundError as error:
        if str(error.name).startswith("iom"):
            raise
        raise MissingExtraError(
            f"the service needs the package {error.name}: pip install 'iom[service]'"
        ) from error
    from iom.cli.gallery_commands import _open
    from iom.service.decoding import Decoder
    from iom.service.faces import Faces
    from iom.service.settings import ServiceSettings
    from iom.service.tokens import TokenFile

    settings = ServiceSettings(
        rate=arguments.rate, burst=max(1, round(2 * arguments.rate)), scores=arguments.scores
    )
    tokens = TokenFile(arguments.tokens)
    embedder, hasher = _models(arguments)
    detect = _detector(arguments)
    gallery = _open(arguments, hasher)
    faces = Faces(embedder, Decoder(settings, photographs=detect is not None), detect)
    app = create_app(gallery, faces, tokens, settings)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    print(f"serving on {arguments.host}:{arguments.port}; photographs are "
          f"{'aligned' if detect else 'refused, only aligned faces are taken'}", flush=True)  # fmt: skip
    uvicorn.run(
        app,
        host=arguments.host,
        port=arguments.port,
        access_log=False,  # the service writes its own, without paths
        server_header=False,
        limit_concurrency=128,
        timeout_keep_alive=10,
        log_level="warning",
        ssl_certfile=arguments.certificate,
        ssl_keyfile=arguments.certificate_key,
    )
    return 0


def _models(arguments: argparse.Namespace) -> tuple[Any, Any]:
    """Embedder for one image a call, and hasher, checked against each other and warm."""
    import numpy as np

    from iom.models.embedder import load_embedder
    from iom.models.hasher import Hasher

    hasher = Hasher.load(arguments.hasher)
    embedder = load_embedder(arguments.weights or hasher.embedder_name, batch_size=1)
    hasher.check_embedder(embedder)
    size = embedder.input_size
    embedder.embed(np.random.default_rng(0).integers(0, 256, (1, size, size, 3), np.uint8))
    return embedder, hasher


def _detector(arguments: argparse.Namespace) -> Any:
    name = arguments.detector
    if name == "auto":
        name = "mtcnn" if importlib.util.find_spec("mtcnn") else "none"
    if name == "none":
        return None
    from iom.data.detectors import build_detector

    return build_detector(name, weights=arguments.detector_weights)


if __name__ == "__main__":
    raise SystemExit(main())
