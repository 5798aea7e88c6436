"""The parts of `iom serve`: models, gallery, tokens, and the throwaway gallery of a trial."""

import argparse
import contextlib
import importlib.util
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI

from iom.cli.gallery_access import open_gallery
from iom.data.images import Pixels
from iom.errors import ConfigError
from iom.keys import TransformKey
from iom.models.face_hasher import load
from iom.photos.detectors import DETECTORS, Detect, build_detector
from iom.service.app import create_app
from iom.service.batched_models import FACES_A_CALL, SharedHasher
from iom.service.decoding import Decoder
from iom.service.face_pipeline import Faces
from iom.service.settings import ServiceSettings
from iom.service.tokens import TokenFile, add_token
from iom.synthetic import load_face_model

DEMO_SEED = 4
"""Of the faces of nobody: three people whom the bundled model tells apart well."""
DEMO_PEOPLE = 3


@contextlib.contextmanager
def open_service(arguments: argparse.Namespace, address: str) -> Iterator[tuple[FastAPI, str]]:
    """The application that the options ask for, and what to say when it is ready."""
    settings = ServiceSettings(
        rate=arguments.rate,
        burst=max(1, _whole("--rate", 2 * arguments.rate)),
        failures=_whole("--failures", arguments.failures),
        largest_body=_whole("--largest-request", arguments.largest_request * 2**20),
        decode_workers=arguments.decode_workers,
        scores=arguments.scores or arguments.demo,
    )
    with contextlib.ExitStack() as stack:
        text, samples = "", np.zeros((0, 112, 112, 3), np.uint8)
        if arguments.demo:
            place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="iom-demo-")))
            text, samples = _throwaway(arguments, place), _nobody()
        # What may be wrong or asks for a passphrase comes before what takes seconds to load.
        tokens = TokenFile(arguments.tokens)
        gallery = open_gallery(arguments, create=arguments.demo)
        detect = _detector(arguments)
        gallery.hasher = hasher = _shared_hasher(arguments)
        if arguments.demo:
            gallery.create_application(arguments.application)
        decoder = Decoder(settings, photographs=detect is not None)
        decoder.start()
        app = create_app(gallery, Faces(hasher, decoder, detect), tokens, settings, samples=list(samples))
        page = f"{address}/#application={arguments.application}&token={text}" if text else ""
        yield app, _greeting(address, page, aligns=detect is not None)


def _whole(option: str, value: float) -> int:
    if not math.isfinite(value):
        raise ConfigError(f"{option}: expected a finite number, received {value}")
    return round(value)


def _greeting(address: str, page: str, *, aligns: bool) -> str:
    lines = [f"serving on {address}"]
    lines.append("photographs are aligned" if aligns else "only aligned faces of 112x112 are taken")
    if page:
        lines += [f"\nopen  {page}\n", "the gallery and this token are gone when you stop the service with Ctrl-C"]
    return "\n".join(lines)


def _throwaway(arguments: argparse.Namespace, place: Path) -> str:
    """Point the options at a gallery in `place`, and make a token for it."""
    arguments.gallery = f"sqlite:///{place / 'demo.db'}"
    arguments.keys = f"file:{place / 'demo.keys'}?key-file={place / 'demo.wrap'}"
    arguments.tokens = place / "tokens.json"
    return add_token(arguments.tokens, name="demo", application=arguments.application, role="admin")


def _nobody() -> Pixels:
    faces, _ = load_face_model().sample(DEMO_PEOPLE, 2, seed=DEMO_SEED)
    return faces


def _shared_hasher(arguments: argparse.Namespace) -> SharedHasher:
    """The hasher of the options, warm for both numbers of faces a call."""
    hasher = load(arguments.hasher, weights=arguments.weights or "", batch_size=1)
    size = hasher.input_size
    noise = np.random.default_rng(0).integers(0, 256, (1, size, size, 3), np.uint8)
    for faces in (1, FACES_A_CALL):
        rows = hasher.with_batch_size(faces).embed(noise)
    hasher.hash(rows, TransformKey.generate())
    return SharedHasher(hasher)


def _detector(arguments: argparse.Namespace) -> Detect | None:
    name = arguments.detector
    if name == "auto":
        name = "mtcnn" if importlib.util.find_spec("mtcnn") else "none"
    if name == "none":
        return None
    detect = build_detector(name, weights=arguments.detector_weights)
    min_score = DETECTORS[name].min_score

    def certain(image: Pixels) -> list[Any]:
        return [face for face in detect(image) if face.score >= min_score]

    certain(np.zeros((112, 112, 3), np.uint8))  # the first request should not wait for its start
    return certain
