"""A whole life of subjects over HTTP, in a process of its own: `python -m tests.service.on_device_cycle FOLDER PAGE`.

Prints the modules of runtimes and decoders that were imported, as JSON: there must be none.
"""

import json
import os
import re
import signal
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

from iom.cli.main import main
from iom.gallery.on_device import WebHasher
from iom.service import on_device
from iom.service.on_device_client import OnDeviceClient, SigningDevice
from tests.on_device import code, key

RUNTIMES = ("onnxruntime", "tensorflow", "keras", "cv2", "openvino", "ai_edge_litert", "torch", "onnx", "h5py")
DECODERS = ("PIL.JpegImagePlugin", "PIL.PngImagePlugin", "PIL.WebPImagePlugin")


class Answers:
    """HTTP with the standard library."""

    def __init__(self, url, token):
        self._url, self._token = url, token

    def post(self, path, body):
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        request = urllib.request.Request(self._url + path, json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            return {"status": error.code}


def live(url, token, artifact):
    """What came of each step."""
    http = Answers(url, token)
    client = OnDeviceClient(
        http.post, application="default", hasher=WebHasher(artifact).fingerprint, device=SigningDevice()
    )
    with urllib.request.urlopen(f"{url}/health/ready", timeout=30) as answer:
        manifest = json.load(answer)["manifest"]
    with urllib.request.urlopen(url + manifest, timeout=30) as answer:
        assert json.load(answer)["fingerprint"] == WebHasher(artifact).fingerprint
    return [
        client.enroll("alice", code(1), key(1)),
        client.verify("alice", code(1, other=3), key(1)),
        client.verify("alice", code(2), key(1)),
        client.renew("alice", code(3), key(2)),
        client.verify("alice", code(1), key(1)),
        client.verify("alice", code(3), key(2)),
        client.revoke("alice"),
        client.verify("alice", code(3), key(2)),
    ]


def run(folder, page):
    """Serve in this thread, and be the client in another one."""
    artifact, printed, answers = Path(folder, "tiny.web"), Path(folder, "printed"), []
    on_device.PAGE_FOLDER = Path(page)

    def be_client():

        try:
            while not (
                found := re.search(r"open +(http://\S+?)/#application=default&token=(\S+)", printed.read_text())
            ):
                time.sleep(0.02)
            answers.extend(live(found[1], found[2], artifact))
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=be_client, daemon=True)
    with printed.open("w", buffering=1) as stream:
        sys.stdout = stream
        thread.start()
        status = main(["serve", "--on-device", "--demo", "--port", "0", "--hasher", str(artifact)])
        thread.join()
        sys.stdout = sys.__stdout__
    found = [name for name in (*RUNTIMES, *DECODERS) if name in sys.modules]
    print(json.dumps({"status": status, "answers": answers, "runtimes": found, "printed": printed.read_text()}))


if __name__ == "__main__":
    run(*sys.argv[1:])
