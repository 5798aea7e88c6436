"""Fetching of known weights over HTTPS: continued where it was cut off, checked, unpacked, each file whole."""

import contextlib
import fcntl
import http.client
import shutil
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from iom._files import atomic_path, check_output, sha256_of
from iom._progress import tqdm
from iom._untrusted import check_name, one_line
from iom.errors import WeightsError
from iom.pretrained.manifest import Download, Entry

CHUNK = 1 << 20
TIMEOUT = 30.0
"""Seconds without a byte, after which the connection counts as lost."""
LOCAL = ("127.0.0.1", "::1", "localhost")
ZIP_SUFFIX = ".zip"


def fetch(entry: Entry, *, progress: bool = True) -> list[Path]:
    """Fetch the files of an entry into the cache folder; returns their paths.

    What has arrived stays beside them in a `.part` file, from which the next call goes on. The SHA-256 of the download
    and of each file is compared with the manifest's before a file gets its name.

    Raises:
        WeightsError: No known URL, no network, a refusal of the server, another file than the manifest's, or a folder
            that cannot be written.
    """
    download = entry.download
    if download is None:
        raise WeightsError(
            f"{entry.name}: there is no URL that a program could fetch it from; get it from {entry.source}"
        )
    _check_url(download.url)
    folder = entry.cached
    check_output(folder)
    folder.mkdir(parents=True, exist_ok=True)
    name = Path(urllib.parse.urlsplit(download.url).path).name
    part = folder / f"{name}.part"
    try:
        with part.open("ab") as stream, _alone(stream, part):
            _receive(download, stream, label=name, progress=progress)
            try:
                _check_digest(part, download.sha256, download.url)
                (_unpack if name.endswith(ZIP_SUFFIX) else _place)(part, entry)
            except WeightsError:
                part.unlink()  # going on with it would mend nothing
                raise
            part.unlink()
    except OSError as error:
        raise WeightsError(f"cannot write to {folder}: {error.strerror or error}") from error
    return [folder / each for each in entry.files]


@contextlib.contextmanager
def _alone(stream: IO[bytes], part: Path) -> Iterator[None]:
    """Refuse to write what another process is writing."""
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise WeightsError(f"{part}: another process is fetching it; wait until it has ended") from error
    yield


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows no redirection to an address that is not encrypted."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        _check_url(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _check_url(url: str) -> None:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOCAL):
        raise WeightsError(f"{url}: expected an address that begins with https://")


def _receive(download: Download, stream: IO[bytes], *, label: str, progress: bool) -> None:
    """Append what is missing of the download."""
    have = stream.tell()
    if have > download.bytes:
        stream.truncate(have := 0)
    if have == download.bytes:
        return
    if (free := shutil.disk_usage(Path(stream.name).parent).free) < download.bytes - have:
        raise WeightsError(
            f"{stream.name}: expected {_megabytes(download.bytes - have)} of free space for it, there are "
            f"{_megabytes(free)}; make room, or name another folder with IOM_CACHE"
        )
    with _opened(download.url, have) as response:
        if response.status != http.client.PARTIAL_CONTENT:  # the server gives all of it, whatever was asked
            stream.truncate(have := 0)
        _check_size(download, have, response)
        with tqdm(
            total=download.bytes, initial=have, desc=label, unit="B", unit_scale=True, disable=not progress
        ) as bar:
            have = _copy(response, stream, have, download, bar)
    if have < download.bytes:
        raise WeightsError(
            f"{download.url}: the connection ended after {_megabytes(have)} of {_megabytes(download.bytes)}; start the "
            "same command again to go on"
        )


def _copy(response: http.client.HTTPResponse, stream: IO[bytes], have: int, download: Download, bar: Any) -> int:
    """Write what comes, as long as it comes and is not too much; returns the bytes that are there then."""
    while have <= download.bytes:
        try:
            data = response.read1(CHUNK)
        except (OSError, http.client.HTTPException):
            break
        if not data:
            break
        stream.write(data)
        have += len(data)
        bar.update(len(data))
    stream.flush()
    if have > download.bytes:
        stream.truncate(0)
        raise _other_size(download, "more")
    return have


@contextlib.contextmanager
def _opened(url: str, start: int) -> Iterator[http.client.HTTPResponse]:
    """The answer of a server that was asked for the bytes from `start` on."""
    headers = {"User-Agent": "iom", "Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - its scheme was checked
    try:
        response = urllib.request.build_opener(_SafeRedirects).open(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        raise WeightsError(
            f"{url}: the server answers {error.code} {one_line(error.reason)}; look for the file where it comes from, "
            "and see iom weights list for its folder"
        ) from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise WeightsError(
            f"{url}: no connection ({one_line(reason)}); is there a network? iom weights list says where the files "
            "come from and belong"
        ) from error
    with response:
        yield response


def _check_size(download: Download, start: int, response: http.client.HTTPResponse) -> None:
    """Refuse another file at once: by the size that the server states for all of it."""
    if response.status == http.client.PARTIAL_CONTENT:
        unit, _, place = str(response.headers.get("Content-Range", "")).partition(" ")
        stated, _, total = place.partition("/")
        if unit != "bytes" or not stated.startswith(f"{start}-"):
            raise WeightsError(f"{download.url}: expected the bytes from {start} on, the server gives {place[:40]!r}")
    else:
        total = response.headers.get("Content-Length", "")
    if total.isdecimal() and int(total) != download.bytes:
        raise _other_size(download, total)


def _other_size(download: Download, received: str) -> WeightsError:
    return WeightsError(
        f"{download.url}: expected {download.bytes} bytes, as the manifest has it, the server gives {received}; the "
        "file there is another one"
    )


def _check_digest(path: Path, digest: str | None, source: str) -> None:
    """Refuse what is not the file of the manifest."""
    if digest and (found := sha256_of(path)) != digest:
        raise WeightsError(
            f"{source}: not the file of the manifest, and removed: expected SHA-256 {digest}, received {found}; it was "
            "damaged on the way, or replaced where it comes from"
        )


def _place(part: Path, entry: Entry) -> None:
    """Give the one file of an entry its name."""
    ((name, digest),) = entry.files.items()
    _check_digest(part, digest, name)
    with atomic_path(entry.cached / name) as temporary:
        shutil.copyfile(part, temporary)


def _unpack(part: Path, entry: Entry) -> None:
    """Write the files of an entry out of an archive, whichever folder they lie in there; nothing else of it."""
    source = entry.download.url if entry.download else str(part)
    try:
        with zipfile.ZipFile(part) as archive:
            for name in archive.namelist():
                check_name(name, source=source, error=WeightsError)
            for name, digest in entry.files.items():
                found = [each for each in archive.infolist() if Path(each.filename).name == name]
                if len(found) != 1:
                    raise WeightsError(f"{source}: expected one file {name} in the archive, found {len(found)}")
                if found[0].file_size > entry.bytes:
                    raise WeightsError(
                        f"{source}: {name} has {found[0].file_size} bytes, expected at most {entry.bytes}"
                    )
                with atomic_path(entry.cached / name) as temporary:
                    with archive.open(found[0]) as stream, temporary.open("wb") as target:
                        shutil.copyfileobj(stream, target, CHUNK)  # no more than the archive states
                    _check_digest(temporary, digest, f"{source}: {name}")
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise WeightsError(f"{source}: not a sound archive, and removed: {one_line(error)}") from error


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB"
