"""The service under load: verifications of a face among many subjects, by `wrk` on loopback.

    python -m benchmarks.service_load [--seconds 60] [--subjects 100000] [--connections 16]

A gallery is filled with codes that the bundled hasher makes of random embeddings, and one subject
of a real face of LFW (a drawn one where there is none). `iom serve` is started over it as it
is, but for its limits of rate and failures, and wrk posts that face for verification as fast as the
answers come. An error is any answer but 200, and any failure of a connection. Memory is that of the
service and its workers: after the first requests, in the middle, and at the end. `--key-mode
application --action identify` searches all subjects instead.
"""

import argparse
import re
import shutil
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

from benchmarks.service_client import HASHER, Service, drawn_faces, form, real_face, report, serving

APPLICATION = "load"
SUBJECT = "somebody"
CHUNK = 2000
WARM_UP = 200
"""Requests before the first look at memory."""
LINE = re.compile(r"IOM (\S+) (\S+) (\S+) (\S+) (\S+)")
SCRIPT = """\
wrk.method = "POST"
wrk.headers["Content-Type"] = "{kind}"
wrk.headers["Authorization"] = "Bearer {token}"
local file = io.open("{body}", "rb")
wrk.body = file:read("*a")
file:close()
done = function(summary, latency)
  local e = summary.errors
  io.write(string.format("IOM %d %d %d %d %d\\n", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99),
    e.connect + e.read + e.write + e.status + e.timeout))
end
"""


def main(argv: list[str] | None = None) -> int:
    """Fill, serve, load; print one line of JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.service_load", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--seconds", type=int, default=60, help="of load (default: 60)")
    parser.add_argument("--subjects", type=int, default=100_000, help="(default: 100000)")
    parser.add_argument("--connections", type=int, default=16, help="(default: 16)")
    parser.add_argument("--key-mode", choices=("subject", "application"), default="subject")
    parser.add_argument("--action", choices=("verify", "identify"), default="verify")
    arguments = parser.parse_args(argv)
    wrk = shutil.which("wrk")
    if wrk is None:
        raise SystemExit("error: needs the program wrk: apt-get install wrk, or brew install wrk")
    face = real_face() or drawn_faces(1)[0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        token = fill(folder, arguments.subjects, arguments.key_mode)
        options = [
            *("--gallery", f"sqlite:///{folder / 'g.db'}"),
            *("--keys", f"file:{folder / 'keys'}?key-file={folder / 'wrap'}"),
            *("--tokens", str(folder / "tokens.json"), "--hasher", HASHER),
            *("--rate", "1e9", "--failures", "1e9", "--detector", "none"),
        ]
        with serving(*options) as service:
            fields = {"image": face}
            if arguments.action == "verify":
                service.ok(f"/v1/{APPLICATION}/enroll", token=token, subject=SUBJECT, images=[face])
                fields["subject"] = SUBJECT
            path = f"/v1/{APPLICATION}/{arguments.action}"
            body, kind = form(fields)
            for _ in tqdm(range(WARM_UP), desc="warm-up", unit="request"):
                service.ok(path, token=token, seconds=120, **fields)
            (folder / "body").write_bytes(body)
            script = SCRIPT.format(kind=kind, token=token, body=folder / "body")
            (folder / "load.lua").write_text(script)
            command = [
                *(wrk, "-t", "1", "-c", str(arguments.connections)),
                *("-d", f"{arguments.seconds}s", "--timeout", "30s", "--latency"),
                *("-s", str(folder / "load.lua")),
                f"http://{service.host}:{service.port}{path}",
            ]
            figures = load(service, command, arguments.seconds)
    print(f"{arguments.action} among {arguments.subjects} subjects, key of each "
          f"{arguments.key_mode}, {arguments.connections} connections")  # fmt: skip
    report(figures)
    return 0 if not figures["errors"] else 1


def fill(folder: Path, subjects: int, key_mode: str) -> str:
    """A gallery of random faces; a token that opens it."""
    from iom.gallery.gallery import Gallery
    from iom.gallery.key_store import open_key_store
    from iom.gallery.stores.base import open_store
    from iom.models.face_hasher import KerasFaceHasher
    from iom.service.tokens import add_token

    hasher = KerasFaceHasher.load(HASHER)
    store = open_store(f"sqlite:///{folder / 'g.db'}", create=True)
    keys = open_key_store(f"file:{folder / 'keys'}?key-file={folder / 'wrap'}", create=True, passphrase=lambda: "")
    random = np.random.default_rng(1)
    with Gallery(store, keys, hasher) as gallery:
        gallery.create_application(APPLICATION, key_mode=key_mode)
        for start in tqdm(range(0, subjects, CHUNK), desc="filling", unit=f"{CHUNK} subjects"):
            names = [f"s{number}" for number in range(start, min(start + CHUNK, subjects))]
            rows = random.normal(size=(len(names), hasher.embedding_size)).astype(np.float32)
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
            gallery.enroll_many(names, rows, application=APPLICATION)
    return add_token(folder / "tokens.json", name="load", application=APPLICATION, role="enroller")


def load(service: Service, command: list[str], seconds: int) -> dict[str, float]:
    """Figures of one run of wrk, with memory at the start, in the middle and at the end."""
    memory = [service.memory()]
    middle = threading.Timer(seconds / 2, lambda: memory.append(service.memory()))
    middle.start()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    middle.join()
    time.sleep(0.5)
    memory.append(service.memory())
    found = LINE.search(done.stdout)
    if found is None:
        raise SystemExit(f"wrk failed:\n{done.stdout}\n{done.stderr}")
    requests, duration, median, slowest, errors = (float(each) for each in found.groups())
    megabytes = [round(each / 2**20) for each in memory]
    return {
        "rps": round(1e6 * requests / duration, 1),
        "p50_ms": round(median / 1e3, 1),
        "p99_ms": round(slowest / 1e3, 1),
        "errors": int(errors),
        "rss_start_mb": megabytes[0],
        "rss_middle_mb": megabytes[1],
        "rss_end_mb": megabytes[-1],
    }


if __name__ == "__main__":
    raise SystemExit(main())
