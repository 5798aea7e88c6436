"""Keys of a PKCS #11 token: a generic secret that cannot be taken out, and its HMAC-SHA-256.

The place is a URI (RFC 7512), such as `pkcs11:token=iom;object=master?module-path=/usr/lib/softhsm/libsofthsm2.so`.
"""

import contextlib
import ctypes
import os
import ssl
import threading
import urllib.parse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iom.errors import StoreError, needs_extra
from iom.gallery.key_source import KEY_BYTES, KeySource

if TYPE_CHECKING:
    import pkcs11

_CONTEXT = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
PIN_VARIABLE = "IOM_PKCS11_PIN"
_ATTRIBUTES = ("token", "object", "serial", "manufacturer", "model", "type")


class Pkcs11Source(KeySource):
    """Keys of a generic secret in a token, which computes them; the secret never leaves it.

    Args:
        attributes: The path of the URI, without its scheme: `token` or `serial`, and `object`.
        module: The token's library.
        pin_source: `file:PATH` or `environment:NAME`; by default the environment variable IOM_PKCS11_PIN. It is read
            again where a lost session is opened anew.
        create: Make the secret where the token has none of this name.

    Raises:
        StoreError: The library, the token or the secret is missing, the PIN is wrong, or the secret could be taken out.
        MissingExtraError: python-pkcs11 is not installed.
    """

    def __init__(self, attributes: str, *, module: str, pin_source: str = "", create: bool = False) -> None:
        with needs_extra("a key store in a PKCS #11 token", "pkcs11"):
            import pkcs11 as library
        self._library = library
        self._attributes = _parsed(attributes)
        self._module, self._pin_source = module, pin_source or f"environment:{PIN_VARIABLE}"
        self._lock = threading.Lock()  # a session serves one thread at a time
        self._session: pkcs11.Session | None = None
        self._key: Any = None
        self._is_closed = False
        try:
            self._open(create=create)
        except BaseException:
            self.close()
            raise
        finally:
            _clear_openssl_errors()

    def __repr__(self) -> str:
        return f"Pkcs11Source({self._place()!r})"

    def derive(self, labels: Sequence[bytes]) -> list[bytes]:
        with self._lock, contextlib.ExitStack() as after:
            after.callback(_clear_openssl_errors)
            if self._is_closed:
                raise StoreError("the key store is closed")
            lib = self._library
            lost: tuple[type[Exception], ...] = (lib.SessionHandleInvalid, lib.SessionClosed, lib.UserNotLoggedIn)
            lost += (lib.KeyHandleInvalid, lib.ObjectHandleInvalid)
            try:
                return self._signed(labels)
            except lost:
                self._open()
            except self._library.PKCS11Error as error:
                raise self._explained(error) from error
            try:
                return self._signed(labels)
            except self._library.PKCS11Error as error:
                raise self._explained(error) from error

    def close(self) -> None:
        self._is_closed = True
        self._drop_session()

    def _drop_session(self) -> None:
        session, self._session, self._key = self._session, None, None
        if session is not None:
            with contextlib.suppress(self._library.PKCS11Error):  # the token may be gone
                session.close()

    def _signed(self, labels: Sequence[bytes]) -> list[bytes]:
        mechanism = self._library.Mechanism.SHA256_HMAC
        keys = [bytes(self._key.sign(label, mechanism=mechanism)) for label in labels]
        if any(len(key) != KEY_BYTES for key in keys):
            raise StoreError(f"{self._place()}: expected {KEY_BYTES} bytes from the token's HMAC")
        return keys

    def _open(self, *, create: bool = False) -> None:
        self._drop_session()
        names = {"token": "token_label", "serial": "serial", "manufacturer": "manufacturer_id", "model": "model"}
        wanted: dict[str, Any] = {names[name]: value for name, value in self._attributes.items() if name in names}
        if "serial" in wanted:
            wanted["serial"] = wanted["serial"].encode()
        try:
            # Its own OpenSSL comes before that of libraries loaded earlier: TensorFlow's, which has the same names,
            # would crash the process.
            ctypes.CDLL(self._module, mode=os.RTLD_NOW | getattr(os, "RTLD_DEEPBIND", 0))
            library = self._library.lib(self._module)
        except (OSError, RuntimeError, self._library.PKCS11Error) as error:
            raise StoreError(f"{self._place()}: cannot load the library {self._module}: {error}") from error
        pin = self._read_pin()
        try:
            tokens = [token for slot in library.get_slots(token_present=True) for token in self._tokens(slot, wanted)]
            if len(tokens) != 1:
                raise StoreError(f"{self._place()}: expected one such token, found {len(tokens)}; is it plugged in?")
            try:
                self._session = tokens[0].open(rw=create, user_pin=pin)
            except self._library.UserAlreadyLoggedIn:  # another key store of this process
                self._session = tokens[0].open(rw=create)
            self._key = self._found(create=create)
        except self._library.PKCS11Error as error:
            raise self._explained(error) from error

    def _tokens(self, slot: Any, wanted: dict[str, Any]) -> list[Any]:
        try:
            token = slot.get_token()
        except self._library.PKCS11Error:  # taken out meanwhile, or not initialized
            return []
        found = {
            "token_label": token.label,
            "serial": token.serial,
            "manufacturer_id": token.manufacturer_id,
            "model": token.model,
        }
        return [token] if all(_text(found[name]) == _text(value) for name, value in wanted.items()) else []

    def _found(self, *, create: bool) -> Any:
        """The secret; with `create`, a new one where it is missing."""
        library, label = self._library, self._attributes["object"]
        attribute = library.Attribute
        session: Any = self._session
        try:
            key = session.get_key(object_class=library.ObjectClass.SECRET_KEY, label=label)
        except library.NoSuchKey:
            if not create:
                raise StoreError(
                    f"{self._place()}: the token has no secret {label!r}; take the right token, or make a new key store"
                ) from None
            session.generate_key(
                library.KeyType.GENERIC_SECRET,
                8 * KEY_BYTES,
                label=label,
                store=True,
                capabilities=library.MechanismFlag.SIGN,
                template={
                    attribute.SENSITIVE: True,
                    attribute.EXTRACTABLE: False,
                    attribute.PRIVATE: True,
                    attribute.MODIFIABLE: False,
                    attribute.COPYABLE: False,
                },
            )
            key = session.get_key(object_class=library.ObjectClass.SECRET_KEY, label=label)
        if key[attribute.EXTRACTABLE] or not key[attribute.SENSITIVE]:
            raise StoreError(
                f"{self._place()}: expected a secret that is sensitive and not extractable, found one that can be "
                "taken out of the token; make another one"
            )
        return key

    def _read_pin(self) -> str:
        kind, _, place = self._pin_source.partition(":")
        if kind == "environment" and place:
            if (pin := os.environ.get(place)) is None:
                raise StoreError(
                    f"{self._place()}: expected the PIN in the environment variable {place}, or pin-source=file:PATH"
                )
            return pin
        if kind != "file" or not place:
            raise StoreError(f"{self._place()}: expected pin-source=file:PATH or environment:NAME")
        try:
            return Path(place).read_text(encoding="utf-8").split("\n")[0]
        except OSError as error:
            raise StoreError(f"{self._place()}: cannot read the PIN from {place}: {error.strerror}") from error
        except UnicodeDecodeError:
            raise StoreError(f"{self._place()}: {place} is no text") from None

    def _explained(self, error: Exception) -> StoreError:
        library = self._library
        known: tuple[tuple[Any, str], ...] = (
            ((library.PinIncorrect, library.PinInvalid, library.PinLenRange), "the PIN is wrong"),
            ((library.PinLocked,), "the PIN is locked after too many wrong ones; unlock it with the token's own tool"),
            ((library.PinExpired,), "the PIN has expired; set another with the token's own tool"),
            ((library.UserPinNotInitialized,), "the token has no user PIN; initialize it"),
            (
                (library.TokenNotPresent, library.DeviceRemoved, library.DeviceError, library.SlotIDInvalid),
                "the token was taken out or does not answer; put it back and start this program again",
            ),
            ((library.MultipleObjectsReturned,), "the token has several secrets of this name"),
            ((library.MechanismInvalid,), "the token has no HMAC-SHA-256 with generic secrets"),
            ((library.TokenWriteProtected,), "the token is write-protected"),
        )
        reason = next((text for kinds, text in known if isinstance(error, kinds)), type(error).__name__)
        return StoreError(f"{self._place()}: {reason}")

    def _place(self) -> str:
        return "pkcs11:" + ";".join(f"{name}={value}" for name, value in self._attributes.items())


def _clear_openssl_errors() -> None:
    """Empty the thread's queue of OpenSSL errors.

    A token's library that uses OpenSSL leaves errors there (SoftHSM: "no such engine"), which the next TLS connection
    of the thread would take for its own.
    """
    with contextlib.suppress(ssl.SSLError):
        _CONTEXT.set_ciphers("none")  # which fails, after it has emptied the queue


def _parsed(attributes: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in filter(None, attributes.split(";")):
        name, separator, value = pair.partition("=")
        if not separator or name not in _ATTRIBUTES or name in found:
            raise StoreError(
                f"key store: expected pkcs11:token=NAME;object=NAME, of {', '.join(_ATTRIBUTES)}, received "
                f"{name[:40]!r}"
            )
        found[name] = urllib.parse.unquote(value)
    if found.pop("type", "secret-key") != "secret-key" or not found.get("object"):
        raise StoreError("key store: expected pkcs11:token=NAME;object=NAME, where NAME is of a secret key")
    if not (found.get("token") or found.get("serial")):
        raise StoreError("key store: expected pkcs11:token=NAME;object=NAME, received no token")
    return found


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "replace").strip() if isinstance(value, bytes) else value.strip()
