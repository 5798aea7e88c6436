"""A service over a gallery without a network; a face is the mean colour of its image."""

import io
import warnings

import numpy as np
import pytest
from PIL import Image

from iom.photos.align import TEMPLATES
from iom.service.app import create_app
from iom.service.decoding import Decoder
from iom.service.face_pipeline import FacePipeline, SharedHasher
from iom.service.settings import ServiceSettings
from iom.service.tokens import TokenFile, add_token
from tests.gallery.conftest import Place, again, faces

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it would rather have httpx2
    from starlette.testclient import TestClient


class FakeEmbedder:
    """A hasher that is its own embedder."""

    template = TEMPLATES["arcface"]
    embedder = property(lambda self: self)

    def chips(self, images):
        return images

    def embed(self, images):
        numbers = images.reshape(len(images), -1).max(axis=1)
        return np.stack([again(faces(250)[each], seed=each) for each in numbers])


def picture(number, *, size=(112, 112), kind="PNG", mode="L"):
    stream = io.BytesIO()
    Image.new(mode, size, number).save(stream, kind)
    return stream.getvalue()


@pytest.fixture(scope="session")
def decoder():
    decoder = Decoder(ServiceSettings(decode_workers=1))
    yield decoder
    decoder.close()


class Service:
    def __init__(self, folder, decoder, **settings):
        self.place = Place(folder)
        self.gallery = self.place.open(create=True)
        self.gallery.hasher = SharedHasher(self.gallery.hasher)
        for name in ("door", "other"):
            self.gallery.create_application(name)
        self.tokens = folder / "tokens.json"
        roles = ("verifier", "enroller", "admin", "monitor")
        self.text = {role: add_token(self.tokens, name=role, application="door", role=role) for role in roles}
        self.text["stranger"] = add_token(self.tokens, name="stranger", application="other", role="admin")
        options = ServiceSettings(**{"rate": 1000.0, "burst": 1000, **settings})
        app = create_app(self.gallery, FacePipeline(FakeEmbedder(), decoder), TokenFile(self.tokens), options)
        self.client = TestClient(app, raise_server_exceptions=False)

    def post(self, action, *images, subject=None, role="admin", application="door", **data):
        name = "images" if action in ("enroll", "renew") else "image"
        return self.client.post(
            f"/v1/{application}/{action}",
            data={**({} if subject is None else {"subject": subject}), **data},
            files=[(name, ("face.png", image)) for image in images] or None,
            headers=self.bearer(role),
        )

    def bearer(self, role):
        return {"Authorization": f"Bearer {self.text[role]}"}


@pytest.fixture
def service(tmp_path, decoder):
    service = Service(tmp_path, decoder)
    yield service
    service.place.close()
