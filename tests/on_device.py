"""Galleries for devices without a network: an artefact of nothing but a manifest, random codes, devices in Python."""

import json
import time

import numpy as np

from iom.codes.packing import pack
from iom.gallery.device_messages import DeviceMessage
from iom.gallery.on_device import OnDeviceGallery, WebHasher
from iom.models.artifact import Calibration, Manifest, hashed_files, write_manifest
from iom.service.on_device_client import SigningDevice

LENGTH, ALPHABET, THRESHOLD = 100, 6, 30
"""Neither a whole number of words nor of bits."""


def web_artifact(folder, name="tiny", **changes):
    """An artefact for browsers whose files hold nothing that runs."""
    path = folder / f"{name}.web"
    path.mkdir()
    (path / "embedder.onnx").write_bytes(b"no network " * 20_000)
    (path / "web.json").write_text(json.dumps({"format": 1}))
    calibration = Calibration(threshold=THRESHOLD, fmr=0.01, fnmr=0.1, subjects=9, keys=2)
    fields = {
        "target": "web",
        "runtime": "web",
        "precision": "float32",
        "input_size": 112,
        "embedding_size": 32,
        "code_length": LENGTH,
        "alphabet_size": ALPHABET,
        "keep": 0,
        "key_size": 32,
        "key_kind": "orthogonal",
        "embedder": {"name": "tiny", "sha256": "0" * 64},
        "hasher": "1" * 64,
        "calibration": calibration,
        **changes,
    }
    write_manifest(path, Manifest(files=hashed_files(sorted(path.iterdir()), folder), **fields))
    return path


def symbols(seed, *, other=0):
    """Symbols of a face, `(M,)`; of an image of it where the first `other` symbols are others."""
    found = np.random.default_rng(seed).integers(0, ALPHABET, LENGTH)
    found[:other] = (found[:other] + 1) % ALPHABET
    return found


def code(seed, *, other=0):
    """The packed code of `symbols`."""
    return pack(symbols(seed, other=other)[None], ALPHABET).planes.astype("<u8").tobytes()


def key(number):
    """Public identifier of a transform key."""
    return f"{number:032x}"


class Place:
    """A folder with a gallery for devices that can be opened again and again, and a device for each subject."""

    def __init__(self, folder, url="", **changes):
        self.folder, self.database, self.key_file = folder, folder / "g.db", folder / "g.keys"
        self.artifact = web_artifact(folder, **changes)
        self.url = url or f"sqlite:///{self.database}"
        self.opened, self.devices = [], {}

    def open(self, *, create=False):
        keys = f"file:{self.key_file}?key-file={self.folder}/g.wrap"
        gallery = OnDeviceGallery.open(self.url, keys=keys, hasher=WebHasher(self.artifact), create=create)
        self.opened.append(gallery)
        return gallery

    def made(self, key_mode="device"):
        gallery = self.open(create=True)
        for name in ("door", "other"):
            gallery.create_application(name, key_mode=key_mode)
        return gallery

    def close(self):
        while self.opened:
            self.opened.pop().close()

    def device(self, subject):
        return self.devices.setdefault(subject, SigningDevice())

    def message(self, gallery, action, subject, seed=0, number=0, *, other=0, **changes):
        """A message as the subject's device makes it."""
        fields = {"action": action, "application": "door", "subject": subject}
        if action != "revoke":
            fields |= {"hasher": gallery.hasher.fingerprint, "key": key(number), "code": code(seed, other=other)}
        if action == "enroll":
            fields["device"] = self.device(subject).public
        fields |= changes
        if "nonce" not in fields:
            fields["nonce"] = gallery.new_nonce(fields["application"])
        return DeviceMessage(**fields)

    def ask(self, gallery, action, subject, seed=0, number=0, *, device=None, **changes):
        """A signed request to the gallery."""
        message = self.message(gallery, action, subject, seed, number, **changes)
        return getattr(gallery, f"{action}_code")(message, (device or self.device(subject)).sign(message))


def wait_for(path, seconds=30):
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.01)
