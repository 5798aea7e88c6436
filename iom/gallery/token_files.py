"""Files of subject tokens: text, or a picture with a QR code."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from iom._files import IMAGE_SUFFIXES, write_secret
from iom._untrusted import read_bytes
from iom.errors import DataError, EnrolmentError, KeyMaterialError, TokenError
from iom.keys import SubjectToken
from iom.photos.qr_codes import check_qr_codes, qr_picture, read_qr_codes

PICTURE = ".png"
_MAX_TEXT_BYTES = 1024
_WITHOUT_QR_CODES = "use a token in a text file, whose name ends in none of a picture"


def check_new_token_file(path: Path) -> None:
    """Raise before any work where a new token cannot be written to `path`.

    Raises:
        TokenError: There is a file, or the name is one of a picture other than PNG.
        MissingExtraError: QR codes need the extra `qr`.
    """
    if path.suffix.lower() in IMAGE_SUFFIXES and path.suffix.lower() != PICTURE:
        raise TokenError(f"{path}: expected a name that ends in {PICTURE} for a QR code, or in none of a picture")
    if path.exists() or path.is_symlink():
        raise TokenError(f"{path}: there is a file already, and a token replaces none; name a new one")
    if path.suffix.lower() == PICTURE:
        check_qr_codes(otherwise=_WITHOUT_QR_CODES)


def write_token(path: Path, token: SubjectToken) -> None:
    """Write a token to a new file with mode 0600: a QR code where the name ends in `.png`, else a line of text.

    Raises:
        TokenError: There is a file already, or it cannot be written.
        MissingExtraError: QR codes need the extra `qr`.
    """
    text = token.to_text()
    content = qr_picture(text) if path.suffix.lower() == PICTURE else f"{text}\n".encode()
    try:
        write_secret(path, content)
    except FileExistsError:
        raise TokenError(f"{path}: there is a file already, and a token replaces none; name a new one") from None
    except OSError as error:
        raise TokenError(f"{path}: the token cannot be written: {error.strerror or error}") from error


@contextlib.contextmanager
def new_token(path: Path) -> Iterator[SubjectToken]:
    """A new token, which is in its file before it is used; the file is removed where an enrolment was refused.

    After other errors it stays: the enrolment may have been written.
    """
    token = SubjectToken.generate()
    write_token(path, token)
    try:
        yield token
    except (EnrolmentError, DataError):
        path.unlink(missing_ok=True)
        raise


def read_token(path: Path) -> SubjectToken:
    """The token in a file: of text, or a picture or photograph of its QR code where the name is one of a picture.

    Raises:
        TokenError: There is no such file, or no token in it. The message holds nothing of the content.
        MissingExtraError: QR codes need the extra `qr`.
    """
    is_picture = path.suffix.lower() in IMAGE_SUFFIXES
    texts = _qr_texts(path) if is_picture else [_text(path)]
    found, problem = [], ""
    for text in texts:
        try:
            found.append(SubjectToken.from_text(text))
        except KeyMaterialError as error:
            problem = problem or str(error)
    if len(found) == 1:
        return found[0]
    if found:
        raise TokenError(f"{path}: expected the QR code of one token, found {len(found)}")
    raise TokenError(f"{path}: {problem or 'expected the QR code of a token, found none'}")


def _text(path: Path) -> str:
    try:
        return read_bytes(path, _MAX_TEXT_BYTES).decode("ascii", "replace")
    except OSError as error:
        raise TokenError(f"{path}: the token cannot be read: {error.strerror or error}") from error


def _qr_texts(path: Path) -> list[str]:
    check_qr_codes(otherwise=_WITHOUT_QR_CODES)
    try:
        return read_qr_codes(path)
    except DataError as error:
        raise TokenError(f"{path}: expected a picture of a QR code: {error}") from error
