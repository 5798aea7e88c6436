"""A process that uses a gallery for devices, for races and kills: `python -m tests.gallery.device_worker ...`."""

import json
import os
import signal
import sys
from pathlib import Path
from unittest import mock

from iom.errors import IomError
from iom.gallery.device_messages import DeviceMessage
from iom.gallery.key_store import KeyStore
from iom.gallery.on_device import OnDeviceGallery, WebHasher
from tests.on_device import wait_for

STAGES = {
    "nonce used": ("iom.gallery.on_device.references_of", "before"),
    "masks written": ("iom.gallery.on_device.sealed_device", "before"),
    "in the transaction": ("iom.gallery.on_device.add_device", "before"),
    "device written": ("iom.gallery.on_device.add_device", "after"),
    "record store written": (KeyStore.revoke, "before"),
    "key store written": (KeyStore.revoke, "after"),
}
"""Where a renewal is killed."""


def open_gallery(folder):
    return OnDeviceGallery.open(
        f"sqlite:///{folder}/g.db",
        keys=f"file:{folder}/g.keys?key-file={folder}/g.wrap",
        hasher=WebHasher(Path(folder, "tiny.web")),
    )


def read_message(text):
    fields = json.loads(text)
    return DeviceMessage(
        **{
            name: bytes.fromhex(value) if name in ("code", "device", "nonce") else value
            for name, value in fields.items()
        }
    )


def write_message(message):
    return json.dumps({name: v.hex() if isinstance(v, bytes) else v for name, v in vars(message).items()})


def race(folder, text, signature):
    """Send a signed request as soon as the file `go` is there; print what came of it."""
    with open_gallery(folder) as gallery:
        Path(folder, f"ready-{os.getpid()}").touch()
        wait_for(Path(folder, "go"))
        try:
            print(json.dumps(gallery.verify_code(read_message(text), bytes.fromhex(signature)).match))
        except IomError as error:
            print(json.dumps(f"{type(error).__name__}: {error}"))


def killed(folder, stage, text, signature):
    """Renew a subject, and end as by `kill -9` at a stage of it."""
    place, when = STAGES[stage]

    def dying(original):
        def call(*args, **options):
            if when == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            original(*args, **options)
            os.kill(os.getpid(), signal.SIGKILL)

        return call

    with open_gallery(folder) as gallery:
        if isinstance(place, str):
            module, name = place.rsplit(".", 1)
            patch = mock.patch(place, dying(getattr(sys.modules[module], name)))
        else:
            patch = mock.patch.object(KeyStore, place.__name__, dying(place))
        with patch:
            gallery.renew_code(read_message(text), bytes.fromhex(signature))


if __name__ == "__main__":
    {"race": race, "killed": killed}[sys.argv[1]](*sys.argv[2:])
