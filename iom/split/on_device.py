"""A device in Python whose codes go in two shares to two services; neither has a code, nor a key.

The services are two of `iom serve --on-device --side`, with applications of key mode `device-share`. See
docs/service.md for what each learns.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any

from iom.errors import ConfigError
from iom.service.on_device import encoded
from iom.service.on_device_client import OnDeviceClient, SigningDevice
from iom.split.shares import share_code

_Ask = Callable[[OnDeviceClient, bytes], Mapping[str, Any]]
"""A request to one service with its share of a code."""


class SplitOnDeviceClient:
    """Signed requests of one device to both services.

    An enrolment or renewal that reached one service alone is repeated under a fresh transform key, as either: it takes
    the place of what lies at one of them. Until then nothing matches. What both refuse is refused. For this, errors of
    `post` have an attribute `status`, that of HTTP.

    Args:
        a: Client of the service on side a, which decides; its `side` is "a".
        b: Client of the service on side b, of the same application, hasher and device; its `side` is "b".
        encoding: Of the codes, such as "iom-planes/1:1536x2".

    Raises:
        ConfigError: A client of another side.
    """

    def __init__(self, a: OnDeviceClient, b: OnDeviceClient, *, encoding: str) -> None:
        if (a.side, b.side) != ("a", "b"):
            raise ConfigError(
                f"clients: expected one with side='a' and one with side='b', received {a.side!r} and {b.side!r}"
            )
        self._a, self._b, self._encoding = a, b, encoding

    def enroll(self, subject: str, code: bytes, key: str, *, returning: bool = False) -> Mapping[str, Any]:
        """Enrol a packed code under the transform key with this public identifier, at both services."""
        return self._at_both(
            code,
            lambda client, share: client.enroll(subject, share, key, returning=returning),
            unless=[409],
            instead=lambda client, share: client.renew(subject, share, key),
        )

    def verify(self, subject: str, code: bytes, key: str) -> Mapping[str, Any]:
        """Compare a code with the enrolled one."""
        a, b = self._shares(code)
        nonce = self._a.nonce()
        path, body = self._b.request("verify", subject, **self._b.coded(b, key))
        path = path.replace("/verify-code", "/verify-share")
        sealed = self._b.post(path, {**body, "other_nonce": encoded(nonce)})["difference"]
        path, body = self._a.request("verify", subject, **self._a.coded(a, key), nonce=nonce)
        return self._a.post(path, {**body, "other": sealed})

    def renew(self, subject: str, code: bytes, key: str, *, device: SigningDevice | None = None) -> Mapping[str, Any]:
        """Replace the enrolled code by one under another key, and this device by another one if given, at both."""
        return self._at_both(
            code,
            lambda client, share: client.renew(subject, share, key, device=device),
            unless=[404] if device is None else [],
            instead=lambda client, share: client.enroll(subject, share, key),
        )

    def revoke(self, subject: str) -> Mapping[str, Any]:
        """Revoke the subject for good, at both services; one alone is enough to have it refused.

        Both are asked, also where one of them fails; its error is raised then.
        """
        try:
            self._b.revoke(subject)
        finally:
            answer = self._a.revoke(subject)
        return answer

    def _at_both(self, code: bytes, ask: _Ask, *, unless: Collection[int], instead: _Ask) -> Mapping[str, Any]:
        """The answer of side a to `ask`; a service that alone refuses with a status in `unless` is asked `instead`."""
        clients, shares = (self._a, self._b), self._shares(code)
        answers: dict[int, Mapping[str, Any]] = {}
        refusals: dict[int, Exception] = {}
        for place, (client, share) in enumerate(zip(clients, shares, strict=True)):
            try:
                answers[place] = ask(client, share)
            except Exception as error:
                if getattr(error, "status", None) not in unless:
                    raise
                refusals[place] = error
        if not answers:
            raise refusals[0]
        for place in refusals:
            answers[place] = instead(clients[place], shares[place])
        return answers[0]

    def _shares(self, code: bytes) -> tuple[bytes, bytes]:
        return share_code(code, self._encoding)
