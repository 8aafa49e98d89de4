"""Downloading one file over http or https, in a way that survives cut connections and killed runs.

What has come so far lies in NAME.part; NAME.part.etag says which version of the file that is, so that the server
sends the rest only if it is still that version.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.client
import logging
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from email.message import Message
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from singleshot.datasets.fetch.catalogue import Archive
from singleshot.errors import ConfigError, DataError, printable
from singleshot.files import atomic_write

logger = logging.getLogger(__name__)

# Called with what is being done, how much of it is done and how much there is (None: unknown), both in bytes.
Progress = Callable[[str, int, int | None], None]

TIMEOUT = 30.0  # seconds without an answer
PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0)  # seconds between tries; one more failure in a row is the last
_CHUNK = 2**18
# A try that brought this much does not count as a failure; a server slower than this for a minute counts as cut.
_WORTH = 2**20
_WINDOW_SECONDS, _WINDOW_BYTES = 60.0, 64 * 1024
_RETRIED = {408, 425, 429, 500, 502, 503, 504}
_LONGEST_WAIT = 120.0


class _CutError(Exception):
    """The connection failed in a way that may not happen again. wait: seconds that the server asks for."""

    def __init__(self, why: str, wait: float = 0.0) -> None:
        super().__init__(why)
        self.wait = wait


def ignore_progress(what: str, done: int, total: int | None) -> None:
    """The `Progress` that shows nothing."""


def with_mirror(address: str, mirror: str | None) -> str:
    """The address with scheme and host of the mirror, below its folder if it has one. Raises ConfigError."""
    if mirror is None:
        return address
    try:
        parts = urlsplit(mirror)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a port that is no number
        good = False
    if not good or parts.query or parts.fragment or "@" in parts.netloc or not mirror.isprintable() or " " in mirror:
        raise ConfigError(f"--mirror {printable(mirror)!r}: want http(s)://HOST[:PORT][/FOLDER]")
    return mirror.rstrip("/") + urlsplit(address).path


def download_archive(
    archive: Archive, folder: Path, mirror: str | None = None, progress: Progress = ignore_progress
) -> Path:
    """The archive in `folder`, its checksum verified; what an earlier run left there is used.

    Raises DataError, in one line, when it cannot be had or is not what was expected. A KeyboardInterrupt or a kill
    leaves what has come so far for the next call.
    """
    address = with_mirror(archive.address, mirror)
    whole = folder / archive.name
    if whole.exists():
        _verify(archive, whole, _hash_of(whole, archive.name, progress) if archive.checksum else "")
        return whole
    part = _Part(whole, archive, progress)
    failures = 0
    while True:
        before = part.size
        try:
            _transfer(address, archive, part, progress)
            break
        except _CutError as cut:
            failures = 1 if part.size - before >= _WORTH else failures + 1
            if failures > len(PAUSES):
                raise DataError(
                    f"{printable(address)}: {cut}, {failures} times; run it again to go on from {part.size} bytes, "
                    f"give --mirror URL, or put the file at {printable(whole)} yourself"
                ) from cut
            pause = max(PAUSES[failures - 1], cut.wait)
            logger.warning("%s: %s; trying again in %g s", printable(archive.name), cut, pause)
            time.sleep(pause)
    if archive.checksum and part.digest.hexdigest() != archive.checksum:
        part.remove()
    _verify(archive, part.path, part.digest.hexdigest() if archive.checksum else "")
    part.finish()
    return whole


def _verify(archive: Archive, path: Path, found: str) -> None:
    if found != archive.checksum:
        what = "run it again, or give --mirror URL" if not path.exists() else f"remove {printable(path)}, run it again"
        raise DataError(f"{printable(path.name)}: sha256 is {found}; want {archive.checksum}; {what}")


def _hash_of(path: Path, name: str, progress: Progress) -> str:
    digest = hashlib.sha256()
    _add_file(digest, path, name, progress)
    return digest.hexdigest()


def _add_file(digest: Any, path: Path, name: str, progress: Progress) -> int:
    """Feed a file to a digest; returns its bytes."""
    total, done = path.stat().st_size, 0
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
            done += len(chunk)
            progress(f"check {name}", done, total)
    return done


class _Part:
    """What has come so far of a file: its bytes, their sha256, and the version that they are of."""

    def __init__(self, whole: Path, archive: Archive, progress: Progress) -> None:
        self._whole = whole
        self.path = whole.with_name(f"{whole.name}.part")
        self._version = whole.with_name(f"{whole.name}.part.etag")
        self.digest = hashlib.sha256()
        self.size = 0
        self.version = ""
        with contextlib.suppress(FileNotFoundError):
            self.version = self._version.read_text(encoding="latin-1").strip()
        # Without a version only the checksum can tell whether the rest fits.
        can_continue = (self.version or archive.checksum) and self.path.exists()
        if can_continue and self.path.stat().st_size <= archive.most:
            self.size = _add_file(self.digest, self.path, archive.name, progress)
        else:
            self.restart("")

    def restart(self, version: str) -> None:
        """Start from nothing, with another version of the file."""
        self.path.write_bytes(b"")
        self.size, self.digest, self.version = 0, hashlib.sha256(), version
        with atomic_write(self._version) as temporary:
            temporary.write_text(version, encoding="latin-1")

    def add(self, file: IO[bytes], chunk: bytes) -> None:
        try:
            file.write(chunk)
        except OSError as error:
            raise disk_error(self.path, error) from error
        self.digest.update(chunk)
        self.size += len(chunk)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
        self._version.unlink(missing_ok=True)

    def finish(self) -> None:
        """All has come and is right: give it its own name."""
        self.path.replace(self._whole)
        self._version.unlink(missing_ok=True)


def disk_error(path: Path, error: OSError, advice: str = "give another --out") -> DataError:
    """What to say when something cannot be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DataError(f"{printable(path)}: the disk is full; make room and run it again, or {advice}")
    return DataError(f"{printable(path)}: cannot be written ({error.strerror}); {advice}")


def free_bytes(folder: Path) -> int:
    """Bytes that may still be written to the disk of that folder."""
    return shutil.disk_usage(folder).free


# ---------------------------------------------------------------------------------------------- one request


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows to http and https only. (The parent refuses file: itself, but would follow to ftp:.)"""

    max_redirections = 8

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if urlsplit(newurl).scheme not in ("http", "https"):
            raise urllib.error.HTTPError(req.full_url, code, msg, headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    """One that knows http and https (and proxies of the environment); the usual one opens files and ftp too."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
        _Redirects(),
    ):
        opener.add_handler(handler)
    return opener


def _transfer(address: str, archive: Archive, part: _Part, progress: Progress) -> None:
    """One try: ask for what is missing and append it. Raises _CutError, or DataError where trying again is useless."""
    if archive.checksum and part.size == archive.size:
        return
    headers = {"User-Agent": "singleshot", "Accept-Encoding": "identity"}
    if part.size:
        if not (part.version or archive.checksum):
            part.restart("")
        else:
            headers |= {"Range": f"bytes={part.size}-"} | ({"If-Range": part.version} if part.version else {})
    with _ask(urllib.request.Request(address, headers=headers), archive, part) as response:
        total = _accept(address, response, archive, part)
        what = f"download {archive.name}"
        progress(what, part.size, total)
        mark, at_mark = time.monotonic(), part.size
        with part.path.open("ab") as file:
            while chunk := _read(response):
                if part.size + len(chunk) > (total if total is not None else archive.most):
                    file.close()
                    part.remove()
                    raise DataError(f"{printable(address)}: sends more than {total or archive.most} bytes; {_OTHER}")
                part.add(file, chunk)
                progress(what, part.size, total)
                if part.size != total and time.monotonic() - mark > _WINDOW_SECONDS:
                    if part.size - at_mark < _WINDOW_BYTES:
                        raise _CutError(f"only {part.size - at_mark} bytes came in a minute")
                    mark, at_mark = time.monotonic(), part.size
    if total is not None and part.size < total:
        raise _CutError(f"the connection was cut after {part.size} of {total} bytes")


_OTHER = "not the file that is expected; give --mirror URL"


def _ask(request: urllib.request.Request, archive: Archive, part: _Part) -> Any:
    """The open response. Raises _CutError or DataError."""
    where = printable(request.full_url)
    try:
        return _opener().open(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        with error:
            code, reason = error.code, printable(error.reason, 60)
            if code == 416:
                part.restart("")
                raise _CutError("the server has less than what came before") from error
            if code in _RETRIED:
                raise _CutError(f"the server answers {code} ({reason})", _asked_wait(error.headers)) from error
            if 300 <= code < 400:
                target = printable(error.headers.get("Location", "nowhere"), 100)
                raise DataError(
                    f"{where}: leads to {target}; want http(s), and {_Redirects.max_redirections} steps at most"
                ) from error
            raise DataError(
                f"{where}: the server answers {code} ({reason}); give --mirror URL, or see whether "
                f"{printable(archive.name)} has moved"
            ) from error
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            fault = printable(error.reason.verify_message, 80)
            raise DataError(f"{where}: its certificate is not valid ({fault}); give --mirror URL") from error
        raise _CutError(f"cannot be reached ({_say(error.reason)})") from error
    except (OSError, http.client.HTTPException) as error:
        raise _CutError(f"no answer ({_say(error)})") from error
    except ValueError as error:  # an address that is none, after a redirect
        raise DataError(f"{where}: leads to an address that is none ({_say(error)}); give --mirror URL") from error


def _read(response: Any) -> bytes:
    try:
        return bytes(response.read1(_CHUNK))
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _CutError(f"the connection was cut ({_say(error)})") from error


def _say(error: object) -> str:
    reason = error.strerror if isinstance(error, OSError) else None
    return printable(reason or error or type(error).__name__, 100)


def _asked_wait(headers: Message) -> float:
    text = headers.get("Retry-After", "")
    return min(float(text), _LONGEST_WAIT) if text.isascii() and text.isdigit() else 0.0


def _accept(address: str, response: Any, archive: Archive, part: _Part) -> int | None:
    """Look at the answer's head, empty the part file where the whole file comes; returns its bytes, None if unknown."""
    where = printable(address)
    total: int | None
    if response.status == 206:
        start, total = _content_range(response.headers.get("Content-Range", ""))
        if start != part.size or total is None or total < start or (archive.checksum and total != archive.size):
            part.restart("")
            raise _CutError("the server sends another part than the one asked for")
        return total
    if response.status != 200:
        raise DataError(f"{where}: the server answers {response.status}; want the file itself; give --mirror URL")
    length = response.headers.get("Content-Length", "")
    total = int(length) if length.isascii() and length.isdigit() and len(length) < 19 else None
    part.restart(_version_of(response.headers))
    if archive.checksum and total is not None and total != archive.size:
        part.remove()
        raise DataError(f"{where}: has {total} bytes; want {archive.size}; {_OTHER}")
    if total is not None and total > archive.most:
        part.remove()
        raise DataError(f"{where}: has {total} bytes; want {archive.most} at most; {_OTHER}")
    return archive.size if archive.checksum else total


def _version_of(headers: Message) -> str:
    """What If-Range may hold: a strong ETag, else a date; "" where the server gives neither."""
    tag = headers.get("ETag", "").strip()
    strong = tag.startswith('"') and tag.endswith('"') and len(tag) > 2
    version = tag if strong else headers.get("Last-Modified", "").strip()
    return version if version.isascii() and version.isprintable() and len(version) < 500 else ""


def _content_range(text: str) -> tuple[int, int | None]:
    """("bytes 5-9/10") -> 5, 10; -1 where it says nothing of the kind."""
    unit, _, rest = text.strip().partition(" ")
    span, _, total = rest.partition("/")
    start = span.partition("-")[0]
    if unit != "bytes" or not (start.isascii() and start.isdigit() and len(start) < 19):
        return -1, None
    return int(start), int(total) if total.isascii() and total.isdigit() and len(total) < 19 else None
