"""HTTP to the API: one connection, retries of what may be retried, an end that another thread may call for."""

import contextlib
import http.client
import json
import random
import socket
import threading
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

from energy_market_client.errors import ApiError, EndedError, UnreachableError

ATTEMPTS: Final = 7
FIRST_PAUSE_S: Final = 0.2
LONGEST_PAUSE_S: Final = 8.0
LONGEST_WAIT_S: Final = 60.0
"""The longest that a server may tell us to wait before the pause that is ours: a minute's rate limit."""
TIMEOUT_S: Final = 30.0
OK_BELOW: Final = 300
TOO_MANY: Final = 429
UNAUTHORIZED: Final = 401
SERVER_ERROR: Final = 500


class Transport:
    """One session's way to the API at `api_url`. Not for sharing between threads, but for `end`."""

    def __init__(self, api_url: str) -> None:
        """Nothing is sent yet. Raises ValueError for what is no address."""
        parts = urlsplit(api_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"not an address of an API: {api_url}")
        self.requests = 0
        self.retries = 0
        self._ended = threading.Event()
        self._api_url = api_url
        self._secure = parts.scheme == "https"
        self._host, self._port, self._prefix = parts.hostname, parts.port, parts.path.rstrip("/")
        self._connection: http.client.HTTPConnection | None = None
        self._access_token = ""
        self._refresh_token = ""

    def _refresh(self) -> None:
        """Get another access token: the server takes this one no more."""
        raise NotImplementedError

    def get(self, path: str, **query: object) -> Any:  # noqa: ANN401 - JSON is anything
        """`GET`, with retries."""
        return self._call("GET", path + (f"?{urlencode(query)}" if query else ""), None, {}, signed_in=True)

    def post(self, path: str, body: Mapping[str, object], *, key: str | None = None, signed_in: bool = True) -> Any:  # noqa: ANN401
        """`POST` a JSON body, with retries; `key` makes a repetition harmless."""
        headers = {"Content-Type": "application/json"}
        if key is not None:
            headers["Idempotency-Key"] = key
        return self._call("POST", path, json.dumps(body).encode(), headers, signed_in=signed_in)

    def delete(self, path: str) -> None:
        """`DELETE`, with retries: what is asked for must be the same when it was done already."""
        self._call("DELETE", path, None, {}, signed_in=True)

    @property
    def ended(self) -> bool:
        """Whether the client was told to end."""
        return self._ended.is_set()

    def end(self) -> None:
        """From any thread: no request is sent any more, none is tried again, and one under way is broken off."""
        self._ended.set()
        connection = self._connection
        if connection is not None and connection.sock is not None:
            with contextlib.suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End, and let go of the connection; nobody else may be using the client any more."""
        self.end()
        self._hang_up()

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _call(self, method: str, path: str, body: bytes | None, headers: dict[str, str], *, signed_in: bool) -> Any:  # noqa: ANN401
        pause_s = FIRST_PAUSE_S
        trouble = ""
        refreshed = False
        for _ in range(ATTEMPTS):
            if self._ended.is_set():
                raise EndedError
            if signed_in and self._access_token:
                headers["Authorization"] = f"Bearer {self._access_token}"
            told_to_wait_s = 0.0
            try:
                status, answer_headers, text = self._send(method, path, body, headers)
            except (OSError, http.client.HTTPException) as error:
                self._hang_up()
                trouble = f"{type(error).__name__}: {error}"
            else:
                if status < OK_BELOW:
                    return json.loads(text, parse_float=Decimal) if text else None
                refusal = _refusal(status, text)
                if status == UNAUTHORIZED and signed_in and self._refresh_token and not refreshed:
                    refreshed = True
                    self._refresh()
                    continue
                if status != TOO_MANY and status < SERVER_ERROR:
                    raise refusal
                trouble = str(refusal)
                retry_after = answer_headers.get("Retry-After", "")
                told_to_wait_s = min(float(retry_after), LONGEST_WAIT_S) if retry_after.isdigit() else 0.0
            self.retries += 1
            # Full jitter, so that clients that failed together do not come again together.
            self._ended.wait(told_to_wait_s + random.uniform(0, pause_s))  # noqa: S311 - not cryptography
            pause_s = min(LONGEST_PAUSE_S, pause_s * 2)
        raise UnreachableError(f"{method} {path}: {trouble} (after {ATTEMPTS} attempts)")

    def _send(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        if self._connection is None:
            kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
            self._connection = kind(self._host, self._port, timeout=TIMEOUT_S)
        self.requests += 1
        self._connection.request(method, self._prefix + path, body=body, headers=dict(headers))
        response = self._connection.getresponse()
        return response.status, response.headers, response.read()


def _refusal(status: int, text: bytes) -> ApiError:
    """The error that an answer describes; a gateway's own answers have other bodies than the API's."""
    try:
        body = json.loads(text)
        return ApiError(status, str(body["code"]), str(body["error"]))
    except (ValueError, KeyError, TypeError):
        return ApiError(status, "unreadable", text[:200].decode(errors="replace"))
