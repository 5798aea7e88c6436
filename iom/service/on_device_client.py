"""A device in Python: it signs requests for `iom serve --on-device`, for tests and for clients that are no browsers.

It has no camera and no hasher: codes come from `iom.load(...).hash` or from another program, packed as a gallery stores
them (`iom.codes.packing`).
"""

from collections.abc import Callable, Mapping
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils

from iom.gallery.device_messages import SIGNATURE_BYTES, DeviceMessage, write_device
from iom.gallery.models import check_subject_id
from iom.service.on_device import decoded, encoded

Post = Callable[[str, Mapping[str, Any]], Mapping[str, Any]]
"""Sends a JSON object to a path, such as `/v1/default/nonce`, and returns the one that is answered."""


class SigningDevice:
    """A device's signing key.

    Args:
        key: ECDSA on P-256; by default a new one.
    """

    def __init__(self, key: ec.EllipticCurvePrivateKey | None = None) -> None:
        self._key = key or ec.generate_private_key(ec.SECP256R1())

    def __repr__(self) -> str:
        return "SigningDevice()"

    @property
    def public(self) -> bytes:
        """The public key as it travels, 91 bytes."""
        return write_device(self._key.public_key())

    def sign(self, message: DeviceMessage) -> bytes:
        """The signature of a message, 64 bytes."""
        numbers = utils.decode_dss_signature(self._key.sign(message.to_bytes(), ec.ECDSA(hashes.SHA256())))
        return b"".join(number.to_bytes(SIGNATURE_BYTES // 2, "big") for number in numbers)


class OnDeviceClient:
    """Signed requests of one device to one application.

    Args:
        post: Sends a request, with the token, and raises what is right for an answer that is an error.
        application: Name of the application.
        hasher: Fingerprint of the hasher that codes are of.
        device: The device.
        side: Of the service, "a" or "b", where it has shares of codes.
    """

    def __init__(self, post: Post, *, application: str, hasher: str, device: SigningDevice, side: str = "") -> None:
        self.post, self._application, self._hasher, self.device = post, application, hasher, device
        self.side = side

    def nonce(self) -> bytes:
        """A nonce for one request."""
        return decoded(self.post(f"/v1/{self._application}/nonce", {})["nonce"])

    def enroll(self, subject: str, code: bytes, key: str, *, returning: bool = False) -> Mapping[str, Any]:
        """Enrol a packed code under the transform key with this public identifier.

        `returning` brings a revoked subject back, with the token of an admin.
        """
        path, body = self.request("enroll", subject, **self.coded(code, key), device=self.device.public)
        return self.post(path, {**body, "returning": True} if returning else body)

    def verify(self, subject: str, code: bytes, key: str) -> Mapping[str, Any]:
        """Compare a code with the enrolled one."""
        return self.post(*self.request("verify", subject, **self.coded(code, key)))

    def renew(self, subject: str, code: bytes, key: str, *, device: SigningDevice | None = None) -> Mapping[str, Any]:
        """Replace the enrolled code by one under another key, and this device by another one if given."""
        named = {} if device is None else {"device": device.public}
        answer = self.post(*self.request("renew", subject, new=device, **self.coded(code, key), **named))
        self.device = device or self.device
        return answer

    def revoke(self, subject: str) -> Mapping[str, Any]:
        """Revoke the subject for good."""
        return self.post(*self.request("revoke", subject))

    def request(
        self, action: str, subject: str, *, new: SigningDevice | None = None, **fields: Any
    ) -> tuple[str, dict[str, Any]]:
        """Path and body of a signed request; `fields` are those of `DeviceMessage`, `new` signs, too."""
        fields.setdefault("nonce", None)
        fields["nonce"] = fields["nonce"] or self.nonce()
        message = DeviceMessage(
            action=action, application=self._application, subject=check_subject_id(subject), **fields
        ).on_side(self.side)
        body = {name: encoded(each) if isinstance(each, bytes) else each for name, each in fields.items()}
        body |= {"subject": subject, "signature": encoded(self.device.sign(message))}
        if new is not None:
            body["device_signature"] = encoded(new.sign(message))
        return f"/v1/{self._application}/{action}-code", body

    def coded(self, code: bytes, key: str) -> dict[str, Any]:
        """The fields of a request that bring a code."""
        return {"hasher": self._hasher, "key": key, "code": code}
