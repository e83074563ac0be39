"""A node's address, and one HTTP exchange with it. Secrets in the address are never shown."""

import base64
import re
import time
import zlib
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

from energy_market.evm.refusals import Unreachable

MAX_ANSWER_BYTES: Final = 16 * 1024 * 1024
CHUNK_BYTES: Final = 64 * 1024
WORDS_KEPT: Final = 300
"""Maximum characters of the other side's text in an error."""
MIN_SECRET_CHARACTERS: Final = 4
USER_AGENT: Final = "energy-market"
REDIRECTS: Final = range(300, 400)
_UNPRINTABLE: Final = re.compile(r"[^\x20-\x7e]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An HTTP answer. `body` is None if it is too long; `pause_s`: seconds of its Retry-After header."""

    status: int
    body: bytes | None
    pause_s: float


class Endpoint:
    """An address, and one kept connection to it."""

    def __init__(self, url: str) -> None:
        """Connects later. Raises ValueError, which does not quote the address."""
        parts = _parts_of(url)
        self._secure, self._host, self._port = parts.scheme == "https", str(parts.hostname), parts.port
        self._target = _target(parts)
        self._headers = {
            "Content-Type": "application/json",
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "User-Agent": USER_AGENT,  # some firewalls reject requests without it
            **_authorization(parts),
        }
        self._secrets = _secrets(parts)
        self._connection: HTTPConnection | None = None

    def close(self) -> None:
        """Drop the kept connection; the next exchange opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def post(self, body: bytes, *, timeout_s: float) -> Reply:
        """Send a body and read its answer. Raises Unreachable."""
        is_kept = self._connection is not None and self._connection.sock is not None
        try:
            try:
                return self._exchange(body, timeout_s)
            except (ConnectionError, HTTPException):
                self.close()
                if not is_kept:
                    raise
            # A proxy closes connections after some time; that says nothing about the node.
            return self._exchange(body, timeout_s)
        except (OSError, HTTPException) as error:
            self.close()
            raise Unreachable(f"the node cannot be reached: {error or type(error).__name__}") from error

    def words(self, text: str) -> str:
        """The other side's text for the log: without the address's secrets, on one line, shortened."""
        text = text[: 100 * WORDS_KEPT]
        for secret in self._secrets:
            text = re.sub(re.escape(secret), "***", text, flags=re.IGNORECASE)
        if text.lstrip().startswith("<"):
            text = re.sub(r"(?s)<style.*?</style>|<script.*?</script>|<[^>]*>", " ", text)
        return " ".join(_UNPRINTABLE.sub(" ", text).split())[:WORDS_KEPT]

    def _exchange(self, body: bytes, timeout_s: float) -> Reply:
        give_up = time.monotonic() + timeout_s
        connection = self._connected(timeout_s)
        connection.request("POST", self._target, body, self._headers)
        response = connection.getresponse()
        if response.status in REDIRECTS:
            # Not followed: the address's secrets are for its own host only.
            self.close()
            raise Unreachable(
                f"the node's address redirects (HTTP status {response.status}) to"
                f" {_host_of(response.getheader('Location'), self._host)}: RpcUrl must name the node's own address"
            )
        answer = bytearray()
        while len(answer) <= MAX_ANSWER_BYTES and (chunk := response.read1(CHUNK_BYTES)):
            answer += chunk
            if time.monotonic() >= give_up:
                raise TimeoutError("the answer takes too long")
        if len(answer) <= MAX_ANSWER_BYTES:
            response.read()  # reads nothing, but lets the connection be reused
        plain = _unpacked(bytes(answer), response) if len(answer) <= MAX_ANSWER_BYTES else None
        if plain is None:
            self.close()
        return Reply(status=response.status, body=plain, pause_s=_retry_after_s(response.getheader("Retry-After")))

    def _connected(self, timeout_s: float) -> HTTPConnection:
        if self._connection is None:
            make = HTTPSConnection if self._secure else HTTPConnection
            self._connection = make(self._host, self._port, timeout=timeout_s)
        self._connection.timeout = timeout_s
        if self._connection.sock is not None:
            self._connection.sock.settimeout(timeout_s)
        return self._connection


def _parts_of(url: str) -> SplitResult:
    """Parse an address. Raises ValueError, which does not quote the address: it may hold an access key."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ValueError("the address of a node cannot be read") from None
    if parts.scheme not in ("http", "https") or host is None:
        raise ValueError("the address of a node begins with http:// or https://")
    target = _target(parts)
    if not (target.isascii() and target.isprintable() and " " not in target):
        raise ValueError("the address of a node has a character that no address has")
    return parts


def _target(parts: SplitResult) -> str:
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def _authorization(parts: SplitResult) -> dict[str, str]:
    if parts.username is None and parts.password is None:
        return {}
    pair = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
    return {"Authorization": "Basic " + base64.b64encode(pair.encode()).decode()}


def _secrets(parts: SplitResult) -> list[str]:
    """The parts of an address that may be secret, in all their spellings, longest first."""
    written = [parts.username or "", parts.password or "", *parts.path.split("/"), *re.split("[&=]", parts.query)]
    found = {form for one in written for form in (one, unquote(one))}
    found |= {value.removeprefix("Basic ") for value in _authorization(parts).values()}
    return sorted((one for one in found if len(one) >= MIN_SECRET_CHARACTERS), key=len, reverse=True)


def _host_of(location: str | None, here: str) -> str:
    """Scheme and host of a redirect's target; the rest may hold a key."""
    try:
        goal = urlsplit(location or "")
        host = goal.hostname or here
    except ValueError:
        return "an address that cannot be read"
    return _UNPRINTABLE.sub("?", f"{goal.scheme}://{host}" if goal.scheme else host)[:WORDS_KEPT]


def _unpacked(body: bytes, response: HTTPResponse) -> bytes | None:
    """The body without its content coding, which was not requested; None if it is too long."""
    coding = (response.getheader("Content-Encoding") or "identity").strip().lower()
    if coding == "identity":
        return body
    if coding not in ("gzip", "x-gzip", "deflate"):
        raise HTTPException(f"the answer is packed as {_UNPRINTABLE.sub('?', coding)[:20]}, which was not asked for")
    unpack = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
    try:
        plain = unpack.decompress(body, MAX_ANSWER_BYTES + 1)
    except zlib.error:
        raise HTTPException(f"the answer claims to be {coding} and is not") from None
    return plain if len(plain) <= MAX_ANSWER_BYTES else None


def _retry_after_s(value: str | None) -> float:
    """Seconds of a Retry-After header (RFC 9110, 10.2.3), which is a number or a date."""
    if not value:
        return 0.0
    if value.strip().isdecimal():
        return float(value.strip()[:9])
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0
