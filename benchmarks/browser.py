"""The client library in Chromium against this program, and against face-api and TF.js in the same browser.

    make web
    python -m benchmarks.browser
    python -m benchmarks.browser --hashers bundled --no-peer --no-tfjs

For each hasher, an artefact of `iom deploy --to web` is loaded in headless Chromium (WebAssembly, no GPU), and hashes
under one random key of the hasher's kind:

- `equal_symbols_pixels`: share of the symbols that are those of the hasher itself, of 200 images of LFW as chips cut by
  this program;
- `equal_symbols_photos`: the same from photographs, by `hash` there and here, each with its own decoder, detector and
  alignment. They are made: the prepared data holds no whole photographs, so that each is an image of LFW, enlarged 1.5
  to 5 times, turned by up to 20 degrees and laid into a picture of up to 1600 x 1200 pixels of noise and gradients, as
  JPEG (qualities 75 to 95, four EXIF orientations, some grey) or PNG. `photos_refused` counts what both refuse,
  `photos_differ` what one refuses. `equal_symbols_real` is of the six photographs in the source package of
  face_recognition 1.3.0, which pip fetches (null where it cannot);
- in milliseconds, the least of the medians of ten turns, between which the peers have theirs, as the machine has other
  business: `detect_ms`, from a picture of 640 x 480 pixels to the chip of its face; `embed_ms` and `hash_ms`, of one
  face; and the least of the processor's time (all threads of the page) per face of 20, `embed_cpu_ms` and
  `hash_image_cpu_ms`, which is from chip to code;
- `load_mb`, `load_seconds`: what comes over the wire, scripts and WebAssembly with gzip, as the service sends them;
- `images_sent`: requests during all of it whose body, or a value in it, holds 32 bytes in a row of a picture, of a chip
  or of an embedding. The bundled hasher enrols, verifies, renews and revokes with `iom serve --on-device --demo`.

The peer is `@vladmandic/face-api` of npm, with the models in its package, in .cache/peers/face-api:
`computeFaceDescriptor` of the same chips, on the quicker of its backends `wasm` and `cpu` (WebGL has no GPU here).
`lfw_600` are accuracies on the first 600 pairs of LFW (thresholds chosen on nine tenths of them, ten times), of
embeddings and, with the key stolen, of codes; `ratio` is the peer's `embed_cpu_ms` over ours. TF.js runs the
same hasher as exported by `iom deploy --to tfjs`, from chip to code: `tfjs`. Ends with one line of JSON by hasher.
"""

import argparse
import base64
import contextlib
import functools
import gzip
import http.server
import json
import mimetypes
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.command_line import add_data_option, new_parser, run
from iom._files import list_images
from iom._random import numpy_stream
from iom.data.benchmarks.pair_lists import read_pair_list
from iom.errors import ConfigError, FaceError
from iom.keys import TransformKey
from iom.metrics.verification import FoldedScores
from iom.models.face_hasher import load
from iom.photos.images import SIZE, Pixels, read_images

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = ROOT / "clients" / "web" / "dist"
CACHE = ROOT / ".cache"
PEER = ("@vladmandic/face-api@1.7.15", "@tensorflow/tfjs@4.22.0", "@tensorflow/tfjs-backend-wasm@4.22.0")
PHOTOGRAPHS = "face_recognition==1.3.0"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
HASHERS = ("bundled", "mobilefacenet_y1_1536x2")
ISOLATED = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
}
ORIENTATIONS = {1: None, 3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
"""EXIF orientation to what is done to the stored pixels so that it undoes that."""
RUN, FEW_VALUES = 16, 4
"""Bytes in a row that tell what they are of; so few different ones tell nothing."""
PEER_BACKENDS, TRIED = ("wasm", "cpu"), 5
SHOWN = 20
"""Faces of each turn whose speeds are compared."""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `python -m benchmarks.browser`."""
    parser = new_parser("python -m benchmarks.browser", str(__doc__))
    add_data_option(parser)
    parser.add_argument("--hashers", nargs="+", default=list(HASHERS), metavar="NAME")
    parser.add_argument("--faces", type=int, default=200, help="chips (default: %(default)s)")
    parser.add_argument("--photographs", type=int, default=100, help="made ones (default: %(default)s)")
    parser.add_argument("--pairs", type=int, default=600, help="of LFW's list, its first (default: %(default)s)")
    parser.add_argument("--turns", type=int, default=10, help="whose speeds are compared (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=0, help="of the networks (default: the library's choice)")
    parser.add_argument("--no-peer", action="store_true", help="leave out face-api")
    parser.add_argument("--no-tfjs", action="store_true", help="leave out TF.js")
    parser.add_argument("--browser", default=next(filter(None, map(shutil.which, BROWSERS)), ""), metavar="FILE")
    return run(_measure, parser, argv)


def _measure(arguments: argparse.Namespace) -> int:
    if not (LIBRARY / "index.js").is_file():
        raise ConfigError(f"no {LIBRARY.relative_to(ROOT)}/index.js: run make web")
    if not arguments.browser:
        raise ConfigError("no Chromium on this machine; name one with --browser")
    faces = _faces(arguments.data, arguments.faces)
    pairs = read_pair_list(arguments.data / "lists" / "lfw_pairs.txt", arguments.data / "lfw_112x112")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photos = made_photographs(faces, arguments.photographs, folder)
        frames = _frames(faces, folder)
        figures = {}
        for hasher in arguments.hashers:
            bench = _Bench(hasher, folder, arguments)
            figures[hasher] = bench.figures(faces, photos, frames, pairs, peer=not arguments.no_peer)
            print(f"{hasher}: {json.dumps(figures[hasher])}", flush=True)
    print(json.dumps(figures))
    return 0


class _Bench:
    """One hasher in the browser, with its artefacts in `folder`."""

    def __init__(self, name: str, folder: Path, arguments: argparse.Namespace) -> None:
        self.name, self.folder, self.arguments = name, folder, arguments
        targets = ["web"] if arguments.no_tfjs else ["web", "tfjs"]
        self.made = folder / name
        command = [sys.executable, "-m", "iom", "deploy", "--hasher", name, "--name", name, "--output", str(self.made)]
        for target in targets:
            print(f"{name}: writing {target}", flush=True)
            done = subprocess.run([*command, "--to", target], capture_output=True, text=True, cwd=ROOT)
            if done.returncode:
                raise ConfigError(f"iom deploy --hasher {name} --to {target}: {done.stderr.strip()}")
        self.artefact = self.made / f"{name}.web"
        self.hasher = load(name, batch_size=1)
        self.key = TransformKey.generate()

    def figures(
        self, faces: Pixels, photos: list[Path], frames: list[Path], pairs: Any, *, peer: bool
    ) -> dict[str, Any]:
        chips = self.hasher.embedder.chips(faces)
        self._write("chips.bin", chips)
        count, _, size, _ = chips.shape
        used = pairs.images, slice(0, self.arguments.pairs)
        left, right, same = pairs.left[used[1]], pairs.right[used[1]], pairs.same[used[1]]
        shown, place = np.unique(np.concatenate([left, right]), return_inverse=True)
        paths = [Path(str(pairs.images[each])) for each in shown]
        self._write("pairs.bin", self.hasher.embedder.chips(read_images(paths, size=SIZE)))
        both = place[: len(left)], place[len(left) :]
        found: dict[str, Any] = {}
        with _browser(self) as (open_page, sent, service):
            first = open_page()
            call = functools.partial(_call, first)
            manifest = f"/made/{self.artefact.name}.json"
            found |= call("load", manifest, self.key.to_text(), self.arguments.threads or None)
            answer = call("chips", "/made/chips.bin", size, count)
            rows = self.hasher.embed(chips)
            expected = self.hasher.hash(rows, self.key)
            found["equal_symbols_pixels"] = _equal(answer, expected)
            found |= self._photos(call, photos)
            real = _real_photographs(self.folder)
            found["equal_symbols_real"] = self._photos(call, real)["equal_symbols_photos"] if real else None
            many = call("chips", "/made/pairs.bin", size, len(shown))
            embeddings, codes = (np.array(many[name]) for name in ("embeddings", "codes"))
            found["lfw_600"] = {
                "embeddings": _accuracy(1 - np.sum(embeddings[both[0]] * embeddings[both[1]], axis=1), same),
                "codes": _accuracy(np.sum(codes[both[0]] != codes[both[1]], axis=1), same),
            }
            call("prepare", "/made/chips.bin", size, self._timed_faces, False)
            costs = [(first, "", "embedPrepared", "embed_cpu_ms", [])]
            costs += [(first, "", "hashPrepared", "hash_image_cpu_ms", [])]
            timed: dict[str, Callable[[], dict[str, Any]]] = {
                "": lambda: call("chips", "/made/chips.bin", size, self._timed_faces)
            }
            if peer:
                second = open_page()
                other = functools.partial(_call, second)
                found["face_api"] = self._peer(other, size)
                distant = np.array(other("peerChips", "/made/pairs.bin", size, len(shown))["embeddings"])
                apart = np.linalg.norm(distant[both[0]] - distant[both[1]], axis=1)
                found["face_api"]["lfw_600"] = _accuracy(apart, same)
                other("prepare", "/made/chips.bin", size, self._timed_faces, True)
                costs += [(second, "face_api", "peerPrepared", "embed_cpu_ms", [])]
                timed["face_api"] = lambda: other("peerChips", "/made/chips.bin", size, self._timed_faces)
            if not self.arguments.no_tfjs:
                last = open_page()
                third = functools.partial(_call, last)
                third("load", manifest, self.key.to_text(), 1)  # for the order of the key
                shape = self.hasher.key_kind, self.hasher.key_size, self.hasher.keep
                model = f"/made/{self.name}.tfjs/model.json"
                export = third("tfjs", model, "/made/chips.bin", size, count, *shape)
                found["tfjs"] = {"equal_symbols_pixels": _equal(export, expected), "load_mb": export["load_mb"]}
                costs += [
                    (
                        last,
                        "tfjs",
                        "tfjs",
                        "hash_image_cpu_ms",
                        [model, "/made/chips.bin", size, self._timed_faces, *shape],
                    )
                ]
                timed["tfjs"] = lambda: third("tfjs", model, "/made/chips.bin", size, self._timed_faces, *shape)
            timed["frames"] = lambda: {"detect_ms": call("frames", [f"/photos/{path.name}" for path in frames])}
            self._speeds(found, timed, costs)
            if service:
                token, application = service
                found["service"] = call("service", token, application, *(f"/photos/{p.name}" for p in photos[:2]))
            pictures = [chips.tobytes(), *(path.read_bytes() for path in (*photos, *frames))]
            values = [np.asarray(answer["embeddings"], "<f4").tobytes(), rows.astype("<f4").tobytes()]
            found["requests"] = len(sent)
            found["bodies"] = sum(body is not None for body in sent)
            found["images_sent"] = sum(tells(body, [*pictures, *values]) for body in sent if body)
        return _rounded(found)

    @property
    def _timed_faces(self) -> int:
        """Faces of one measurement of time."""
        return min(SHOWN, int(self.arguments.faces))

    def _speeds(
        self, found: dict[str, Any], timed: dict[str, Callable[[], dict[str, Any]]], costs: list[tuple[Any, ...]]
    ) -> None:
        """Milliseconds of the clock, medians of turns, and of the page's processor; of all turns the lowest."""
        sessions = {id(page): page.context.new_cdp_session(page) for page, *_ in costs}
        for session in sessions.values():
            session.send("Performance.enable")
        for _ in range(self.arguments.turns):
            for name, work in timed.items():
                place = found if name in ("", "frames") else found[name]
                answer = work()
                for each in ("detect_ms", "embed_ms", "hash_ms", "hash_image_ms"):
                    if each in answer:
                        place[each] = min(place.get(each, np.inf), answer[each])
            for page, name, function, field, given in costs:
                place, session = found if not name else found[name], sessions[id(page)]
                before = _processor_ms(session)
                _call(page, function, *given)
                place[field] = min(place.get(field, np.inf), (_processor_ms(session) - before) / self._timed_faces)
        if "face_api" in found:
            found["ratio"] = found["face_api"]["embed_cpu_ms"] / found["embed_cpu_ms"]
        if "tfjs" in found:
            found["tfjs"]["ratio"] = found["tfjs"]["hash_image_cpu_ms"] / found["hash_image_cpu_ms"]

    def _write(self, name: str, pixels: Pixels) -> None:
        (self.made / name).write_bytes(np.ascontiguousarray(pixels).tobytes())

    def _photos(self, call: Callable[..., Any], photos: list[Path]) -> dict[str, Any]:
        """Share of equal symbols, and how many photographs both or one refused."""
        answers = call("photographs", [f"/photos/{path.name}" for path in photos])
        equal, refused, differ = [], 0, 0
        for path, answer in zip(photos, answers, strict=True):
            try:
                expected: NDArray[np.uint8] | None = self.hasher.hash(path, self.key).symbols
            except FaceError:
                expected = None
            if expected is None or isinstance(answer, str):
                both = expected is None and isinstance(answer, str)
                refused += both
                differ += not both
                continue
            equal.append(float(np.mean(np.array(answer, np.uint8) == expected)))
        return {
            "equal_symbols_photos": float(np.mean(equal)),
            "least_equal_symbols_photo": min(equal),
            "photos_refused": refused,
            "photos_differ": differ,
        }

    def _peer(self, call: Callable[..., Any], size: int) -> dict[str, Any]:
        """Start the peer on the quickest of its backends."""
        taken = {}
        for backend in PEER_BACKENDS:
            if call("peer", backend):
                call("peerChips", "/made/chips.bin", size, TRIED)
                taken[backend] = call("peerChips", "/made/chips.bin", size, TRIED)["embed_ms"]
        if not taken:
            raise ConfigError(f"face-api starts on none of {', '.join(PEER_BACKENDS)}")
        started: dict[str, Any] = call("peer", min(taken, key=lambda backend: taken[backend]))
        return started


def _equal(answer: dict[str, Any], expected: NDArray[np.uint8]) -> float:
    """Share of the symbols of an answer that are those expected."""
    return float(np.mean(np.array(answer["codes"], np.uint8) == expected))


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    return round(value, 5) if isinstance(value, float) else value


def _accuracy(distances: NDArray[Any], same: NDArray[np.bool_]) -> float:
    """Accuracy where the threshold is chosen on nine tenths of the pairs, ten times."""
    return FoldedScores(distances, same, np.arange(len(same)) % 10).accuracy().mean


def _processor_ms(session: Any) -> float:
    """Milliseconds that all threads of a page's process had a processor."""
    metrics = session.send("Performance.getMetrics")["metrics"]
    return 1000 * next(float(each["value"]) for each in metrics if each["name"] == "ProcessTime")


def _call(page: Any, name: str, *arguments: Any) -> Any:
    script = "async ([name, given]) => (await import('/browser_page.mjs'))[name](...given)"
    return page.evaluate(script, [name, list(arguments)])


def _faces(data: Path, count: int) -> Pixels:
    """Images of LFW, evenly spread over people."""
    folder = data / "lfw_112x112"
    names = list_images(folder).images
    chosen = np.linspace(0, len(names) - 1, count).astype(int)
    return read_images([folder / names[number] for number in chosen], size=SIZE)


def made_photographs(faces: Pixels, count: int, folder: Path) -> list[Path]:
    """Photographs made of faces, see above."""
    chance = numpy_stream(1, "benchmarks/browser/photographs")
    paths = []
    for number in range(count):
        enlarged = float(chance.uniform(1.5, 5.0))
        width, height = ((640, 480), (1280, 960), (1600, 1200), (960, 1280))[number % 4]
        picture = _pasted(faces[number % len(faces)], enlarged, (width, height), chance)
        orientation = (1, 3, 6, 8)[number // 4 % 4]
        if turned := ORIENTATIONS[orientation]:
            picture = picture.transpose(turned)
        if number % 10 == 9:
            picture = picture.convert("L")
        exif = Image.Exif()
        exif[0x0112] = orientation
        suffix = "png" if number % 16 == 15 else "jpg"
        path = folder / f"photo-{number:03}.{suffix}"
        settings = {"quality": int(chance.integers(75, 96))} if suffix == "jpg" else {}
        picture.save(path, exif=exif, **settings)
        paths.append(path)
    return paths


def _real_photographs(folder: Path) -> list[Path]:
    """Photographs of people in office that a source package carries, put into `folder`; none where pip has no index."""
    place = CACHE / "peers"
    archive = place / "face_recognition-1.3.0.tar.gz"
    if not archive.is_file():
        place.mkdir(parents=True, exist_ok=True)
        fetch = [*("-m", "pip", "download", "-q", "--no-deps", "--no-binary=:all:", "-d", str(place)), PHOTOGRAPHS]
        if subprocess.run([sys.executable, *fetch], stderr=subprocess.DEVNULL).returncode:
            return []
    paths = []
    with tarfile.open(archive) as package:
        for member in package.getmembers():
            if member.name.endswith(".jpg") and (content := package.extractfile(member)):
                paths.append(folder / f"real-{Path(member.name).name}")
                paths[-1].write_bytes(content.read())
    return paths


def _frames(faces: Pixels, folder: Path, count: int = 30) -> list[Path]:
    """Pictures as of a camera."""
    chance = numpy_stream(2, "benchmarks/browser/frames")
    paths = [folder / f"frame-{number:02}.png" for number in range(count)]
    for number, path in enumerate(paths):
        _pasted(faces[number % len(faces)], float(chance.uniform(1.5, 3.0)), (640, 480), chance).save(path)
    return paths


def _pasted(face: Pixels, enlarged: float, size: tuple[int, int], chance: np.random.Generator) -> Image.Image:
    width, height = size
    ramp = np.linspace(0, 1, width)[None, :, None] * chance.uniform(40, 200, 3) + chance.uniform(0, 55, 3)
    noise = chance.normal(0, 6, (height, width, 3))
    picture = Image.fromarray(np.clip(ramp + noise, 0, 255).astype(np.uint8))
    side = int(min(SIZE * enlarged, 0.75 * min(size)))
    large = Image.fromarray(face).resize((side, side), Image.Resampling.LANCZOS)
    mask = Image.new("L", (side, side), 255)
    angle = float(chance.uniform(-20, 20))
    large, mask = (each.rotate(angle, Image.Resampling.BICUBIC, expand=True) for each in (large, mask))
    corner = (int(chance.integers(0, width - large.width + 1)), int(chance.integers(0, height - large.height + 1)))
    picture.paste(large, corner, mask)
    return picture


@contextlib.contextmanager
def _browser(bench: _Bench) -> Iterator[tuple[Callable[[], Any], list[bytes | None], tuple[str, str] | None]]:
    """What opens pages in Chromium, the bodies of requests so far, and token and application of a service, if any."""
    from playwright.sync_api import sync_playwright

    with contextlib.ExitStack() as stack:
        address, service = None, None
        if bench.name == "bundled":
            address, *service = stack.enter_context(_service(bench.artefact))
        folders = {
            "library": LIBRARY,
            "made": bench.made,
            "photos": bench.folder,
            "peer": _peer_packages() if not (bench.arguments.no_peer and bench.arguments.no_tfjs) else LIBRARY,
        }
        origin = stack.enter_context(_served(folders, address))
        playwright = stack.enter_context(sync_playwright())
        browser = playwright.chromium.launch(executable_path=bench.arguments.browser, args=list(FLAGS))
        stack.callback(browser.close)
        sent: list[bytes | None] = []

        def open_page() -> Any:
            page = browser.new_page()
            page.set_default_timeout(0)
            page.on("request", lambda request: sent.append(request.post_data_buffer))
            page.goto(f"{origin}/")
            return page

        yield open_page, sent, tuple(service) if service else None  # type: ignore[arg-type]


@contextlib.contextmanager
def _service(artefact: Path) -> Iterator[tuple[str, str, str]]:
    """Address, token and application of the on-device service."""
    command = [sys.executable, "-u", "-m", "iom", "serve", "--on-device", "--demo", "--port", "0"]
    process = subprocess.Popen([*command, "--hasher", str(artefact)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout  # noqa: S101
        found = next((match for line in process.stdout if (match := re.search(r"http://\S+#\S*token=\S+", line))), None)
        if found is None:
            raise ConfigError("iom serve --on-device --demo did not start; see what it says")
        parts = urlsplit(found[0])
        named = parse_qs(parts.fragment)
        yield f"http://{parts.netloc}", named["token"][0], named["application"][0]
    finally:
        process.terminate()
        process.communicate(timeout=30)


def _peer_packages() -> Path:
    """Folder of the peer's packages, installed on the first run."""
    place = CACHE / "peers" / "face-api"
    packages = place / "node_modules"
    if not all((packages / name.rpartition("@")[0]).is_dir() for name in PEER):
        if shutil.which("npm") is None:
            raise ConfigError("the peer needs npm, which is not installed; leave it out with --no-peer --no-tfjs")
        place.mkdir(parents=True, exist_ok=True)
        (place / "package.json").write_text("{}\n", encoding="utf-8")
        command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", *PEER]
        subprocess.run(command, cwd=place, check=True, stdout=subprocess.DEVNULL)
    return packages


@contextlib.contextmanager
def _served(folders: dict[str, Path], service: str | None) -> Iterator[str]:
    """Origin of a server of folders by the first part of a path; `/v1/` is passed on to a service."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Handler, folders, service))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, folders: dict[str, Path], service: str | None, *arguments: Any) -> None:
        self._folders, self._service = folders, service
        super().__init__(*arguments)

    def do_GET(self) -> None:
        first, _, rest = self.path.lstrip("/").partition("?")[0].partition("/")
        if not first:
            return self._answer(b"<!doctype html><title>benchmark</title>", "text/html")
        if first == "favicon.ico":
            return self._answer(b"", "image/x-icon")
        if first == "browser_page.mjs":
            return self._answer((ROOT / "benchmarks" / first).read_bytes(), "text/javascript")
        if first == "size":
            data = (LIBRARY / Path(rest).name).read_bytes()
            return self._answer(
                json.dumps({"plain": len(data), "gzip": len(_zipped(data))}).encode(), "application/json"
            )
        path = self._folders[first] / rest
        if not path.is_file():
            return self.send_error(404)
        kinds = {".mjs": "text/javascript", ".js": "text/javascript", ".wasm": "application/wasm"}
        kind = kinds.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        return self._answer(path.read_bytes(), kind, zipped=path.suffix in kinds)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        request = urllib.request.Request(f"{self._service}{self.path}", body)  # noqa: S310  (own service)
        for name in ("Authorization", "Content-Type"):
            request.add_header(name, self.headers.get(name, ""))
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
                self._answer(answer.read(), "application/json")
        except urllib.error.HTTPError as error:
            self._answer(error.read(), "application/json", status=error.code)

    def _answer(self, body: bytes, kind: str, *, zipped: bool = False, status: int = 200) -> None:
        self.send_response(status)
        for name, value in ISOLATED.items():
            self.send_header(name, value)
        if zipped:
            body = _zipped(body)
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@functools.lru_cache(maxsize=32)
def _zipped(data: bytes) -> bytes:
    return gzip.compress(data, 6)


def _windows(body: bytes) -> set[bytes]:
    """All runs of `RUN` bytes in a body, and in the values of its JSON that are Base64; not those of few values."""
    parts = [body]
    with contextlib.suppress(ValueError, AttributeError):
        for value in json.loads(body).values():
            with contextlib.suppress(ValueError, TypeError):
                parts.append(base64.urlsafe_b64decode(value + "=="))
    runs = {part[i : i + RUN] for part in parts for i in range(len(part) - RUN + 1)}
    return {run for run in runs if len(set(run)) > FEW_VALUES}


def tells(body: bytes, secrets: Sequence[bytes]) -> bool:
    """Whether a body holds a part of a secret: twice `RUN` bytes are found wherever they lie."""
    runs = _windows(body)
    return any(secret[i : i + RUN] in runs for secret in secrets for i in range(0, len(secret), RUN))


if __name__ == "__main__":
    raise SystemExit(main())
