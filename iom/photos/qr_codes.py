"""QR codes (ISO/IEC 18004): texts as pictures, and the texts of the QR codes in a photograph."""

import io
from pathlib import Path

import numpy as np

from iom.errors import needs_extra
from iom.photos.images import decode_photograph, file_bytes

_MODULE_PIXELS = 8


def check_qr_codes(*, otherwise: str = "") -> None:
    """Raise `MissingExtraError` where QR codes cannot be made or read; `otherwise` says how to do without."""
    with needs_extra("a QR code", "qr", otherwise=otherwise):
        import segno  # noqa: F401
        import zxingcpp  # noqa: F401


def qr_picture(text: str, kind: str = "png") -> bytes:
    """A picture `png`, `svg` or `pdf` of a text's QR code in error correction M: a seventh of it may be damaged."""
    check_qr_codes()
    import segno

    stream = io.BytesIO()
    segno.make_qr(text, error="m", boost_error=False).save(stream, kind=kind, scale=_MODULE_PIXELS)
    return stream.getvalue()


def read_qr_codes(path: Path) -> list[str]:
    """The texts of all QR codes in a picture or photograph.

    Raises:
        DataError: The picture cannot be read.
    """
    check_qr_codes()
    import zxingcpp

    pixels, _ = decode_photograph(file_bytes(path, str(path)), str(path))
    codes = zxingcpp.read_barcodes(np.ascontiguousarray(pixels), formats=zxingcpp.BarcodeFormat.QRCode)
    return [code.text for code in codes if code.valid]
