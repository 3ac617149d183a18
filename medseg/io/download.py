"""One file from https, in a .part file that a later run continues; nothing else in medseg reaches for the network.

https only, also where a server sends us on; plain http from this machine itself (127.0.0.1, ::1, localhost), which no
wire carries. No telemetry: the request names medseg, its version and nothing else.
"""

import hashlib
import http.client
import json
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from medseg import __version__
from medseg.core.errors import ConfigError, DataError, ResourceError
from medseg.core.files import explained, sha256_of, write_json
from medseg.core.progress import Progress, silent
from medseg.core.text import printable

LOOPBACK = ("127.0.0.1", "::1", "localhost")
_ATTEMPTS = 5
_WAIT_SECONDS = 0.5
_TIMEOUT_SECONDS = 30.0
_STEP = 2**18
_MIB = 2**20
_PASSING = (408, 425, 429, 500, 502, 503, 504)
_PAGE = re.compile(rb"\s*<(!doctype\s+html|html|head|\?xml)", re.IGNORECASE)


class _Cut(Exception):
    """The connection broke, or the server is busy: worth another try from where the .part file ends."""


@dataclass(frozen=True)
class Download:
    """A file to fetch: ``url``, where its ``part`` grows, the ``sha256`` it must have if known, the ``most`` bytes it may have."""

    url: str
    part: Path
    sha256: str | None
    most: int

    @property
    def shown(self) -> str:
        """The address without its query, which may hold a secret."""
        return without_query(self.url)

    @property
    def _state(self) -> Path:
        return self.part.with_name(f"{self.part.name}.json")

    @property
    def _hashed(self) -> str:
        """The address as the state file has it: a query may hold a secret."""
        return hashlib.sha256(self.url.encode()).hexdigest()

    @property
    def have(self) -> int:
        return self.part.stat().st_size if self.part.is_file() else 0

    @property
    def validator(self) -> str | None:
        """What names the version of the file that ``part`` is the beginning of: its strong ETag or its time."""
        try:
            state = json.loads(self._state.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        known = isinstance(state, dict) and state.get("url") == self._hashed
        return str(state["validator"]) if known and state.get("validator") else None

    def begin(self, validator: str | None) -> None:
        """Forget what is there: the file comes from its start."""
        self.part.unlink(missing_ok=True)
        write_json(self._state, {"url": self._hashed, "validator": validator})

    def forget(self) -> None:
        """Remove what came, and what was known of it."""
        self.part.unlink(missing_ok=True)
        self._state.unlink(missing_ok=True)


def without_query(url: str) -> str:
    """``url`` for messages and records: without query and fragment."""
    return printable(urlunsplit((*urlsplit(url)[:3], "", "")))


def check_url(url: str) -> None:
    """Raise ConfigError unless ``url`` is https, or http from this machine, and names no password."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError as error:
        raise ConfigError(f"{printable(url)}: not an address ({error})") from None
    if "@" in parts.netloc:
        raise ConfigError(
            "an address with a user or a password in it is not fetched; download it yourself, give the file"
        )
    if not host or not (parts.scheme == "https" or (parts.scheme == "http" and host in LOOPBACK)):
        raise ConfigError(
            f"{without_query(url)}: not an https address; what comes over any other may be changed on its way"
        )


def download(wanted: Download, *, progress: Progress = silent) -> str:
    """Fetch ``wanted`` into its ``part``, from where an earlier try ended, and return the sha256 of the whole.

    A part is continued only where the server says that its file is still the same one, or where ``sha256`` will tell.
    Raises DataError where the server has no such file, sends a web page or another file than ``sha256`` says (which is
    then removed), or breaks off again and again (what came stays); ResourceError where the disk is too small.
    """
    check_url(wanted.url)
    if wanted.sha256 is not None and wanted.have and sha256_of(wanted.part) == wanted.sha256:
        return wanted.sha256
    for attempt in range(_ATTEMPTS):
        try:
            _fetch(wanted, progress)
            break
        except _Cut as error:
            if attempt == _ATTEMPTS - 1:
                kept = f"{wanted.have} bytes came and are kept: run the same command again to go on from there"
                raise DataError(
                    f"{wanted.shown}: {error}, {_ATTEMPTS} times; {kept if wanted.have else 'try again later'}"
                ) from None
            time.sleep(_WAIT_SECONDS * 2**attempt)
    found = sha256_of(wanted.part)
    if wanted.sha256 is not None and found != wanted.sha256:
        wanted.forget()
        raise DataError(
            f"{wanted.shown}: its sha256 is {found}, expected {wanted.sha256}; it is another file, or was changed on its way, "
            "and was removed"
        )
    return found


def _fetch(wanted: Download, progress: Progress) -> None:
    """One request, to the end of the file. Raises _Cut where another one may get further."""
    request = urllib.request.Request(
        wanted.url, headers={"User-Agent": f"medseg/{__version__}", "Accept-Encoding": "identity"}
    )
    validator = wanted.validator
    if wanted.have and (validator or wanted.sha256):
        request.add_header("Range", f"bytes={wanted.have}-")
        if validator:
            request.add_header("If-Range", validator)
    try:
        with _opener(wanted.url).open(request, timeout=_TIMEOUT_SECONDS) as response:
            _take(wanted, response, progress)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416 and wanted.have:
                if error.headers.get("Content-Range", "") == f"bytes */{wanted.have}":
                    return  # all of it came before
                wanted.forget()
                raise _Cut("what was there is no beginning of the file") from None
            if error.code in _PASSING:
                raise _Cut(f"the server answered {error.code} {error.reason}") from None
            why = {401: "it asks for a login", 403: "it asks for a login, or refuses", 404: "it has no such file"}
            raise DataError(
                f"{wanted.shown}: the server answered {error.code}: {why.get(error.code, printable(str(error.reason)))}; check the "
                "address, or download the file yourself and give it instead"
            ) from None
    except urllib.error.URLError as error:
        raise _Cut(f"cannot be reached ({_words(error.reason)})") from None
    except (TimeoutError, ConnectionError, http.client.HTTPException) as error:
        raise _Cut(_broke(error)) from None


def _take(wanted: Download, response: Any, progress: Progress) -> None:
    headers = response.headers
    if response.status == 206:
        place = re.match(r"bytes (\d+)-\d*/(\d+|\*)", headers.get("Content-Range", ""))
        if place is None or int(place[1]) != wanted.have:
            wanted.forget()
            raise _Cut("the server sent another part than was asked for")
    else:
        wanted.begin(_validator(headers))
    if headers.get_content_type() in ("text/html", "application/xhtml+xml") or headers.get("Content-Encoding"):
        wanted.forget()
        raise DataError(f"{wanted.shown}: a web page, not the file; give the address of the file itself")
    start, length = wanted.have, headers.get("Content-Length")
    total = start + int(length) if length and length.isdecimal() else None
    _check_room(wanted, start if total is None else total, start)
    try:
        with wanted.part.open("ab") as file:
            while piece := _read(response):
                if not file.tell() and _PAGE.match(piece):
                    raise DataError(f"{wanted.shown}: a web page, not the file; give the address of the file itself")
                _check_size(wanted, file.tell() + len(piece))
                file.write(piece)
                if total is not None:
                    progress("download MiB", file.tell() // _MIB, max(1, total // _MIB))
            file.flush()
            os.fsync(file.fileno())
    except DataError:
        wanted.forget()
        raise
    except OSError as error:
        raise explained(error, wanted.part) from error
    if total is not None and wanted.have < total:
        raise _Cut(f"the connection ended after {wanted.have} of {total} bytes")


def _read(response: Any) -> bytes:
    try:
        piece: bytes = response.read(_STEP)
    except (OSError, http.client.HTTPException) as error:
        raise _Cut(_broke(error)) from None
    return piece


def _broke(error: Exception) -> str:
    return f"the connection broke ({_words(error)})"


def _check_room(wanted: Download, total: int, start: int) -> None:
    _check_size(wanted, total)
    free = shutil.disk_usage(wanted.part.parent).free
    if total - start > free:
        raise ResourceError(
            f"{wanted.shown}: {total - start} bytes are to come, {free} are free in {wanted.part.parent}; free some space"
        )


def _check_size(wanted: Download, size: int) -> None:
    if size > wanted.most:
        raise DataError(f"{wanted.shown}: too large: {size} bytes or more, the limit is {wanted.most}")


def _validator(headers: Any) -> str | None:
    tag, changed = headers.get("ETag"), headers.get("Last-Modified")
    return str(tag) if tag and not tag.startswith("W/") else changed and str(changed)


class _SameSafety(urllib.request.HTTPRedirectHandler):
    """Follows a server to another address only where that one may be fetched, too; to this machine only from itself."""

    def __init__(self, start: str) -> None:
        self.local = urlsplit(start).hostname in LOOPBACK

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        with suppress(Exception):
            fp.close()
        check_url(newurl)
        if urlsplit(newurl).hostname in LOOPBACK and not self.local:
            raise ConfigError(
                f"{without_query(req.full_url)}: sends on to this machine itself, which no address elsewhere may"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener(url: str) -> urllib.request.OpenerDirector:
    """http and https alone: no files, no ftp."""
    opener = urllib.request.OpenerDirector()
    proxies: dict[str, str] | None = {} if urlsplit(url).hostname in LOOPBACK else None
    for handler in (
        urllib.request.ProxyHandler(proxies),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _SameSafety(url),
    ):
        opener.add_handler(handler)
    return opener


def _words(error: object) -> str:
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return printable(" ".join(str(reason).split()))
