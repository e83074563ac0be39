"""JSON-RPC over HTTP. Imports only the standard library: the health route uses it without the EVM libraries."""

import json
import random
import time
from collections.abc import Callable, Sequence
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any, Final
from urllib.parse import urlsplit

MAX_ANSWER_BYTES: Final = 16 * 1024 * 1024
MAX_CALLS_PER_REQUEST: Final = 50
FIRST_BACKOFF_S: Final = 0.1
MAX_BACKOFF_S: Final = 2.0
TOO_MANY_REQUESTS: Final = 429
SERVER_ERRORS: Final = 500


class ChainError(Exception):
    """The chain could not be asked, or did not do what was asked."""


class Unreachable(ChainError):
    """No usable answer came in time. Whether the node acted on the request is not known."""


class AnswerTooLong(Unreachable):
    """The node answered with more than we take, as it would again: less must be asked for."""


class Refused(ChainError):
    """The node answered with an error."""

    def __init__(self, code: int, message: str, data: object = None) -> None:
        """`data` is the revert data, as 0x-hex, where the node gives it."""
        super().__init__(f"{message} ({code})")
        self.code = code
        self.message = message
        self.data = data if isinstance(data, str) else None


class Rpc:
    """One node. Retries what did not get through, with exponential backoff and full jitter, until a deadline.

    A retry repeats a request whose answer was lost, so it is only for methods that may be repeated: all reads are,
    and so is sending a signed transaction (the same bytes have one effect).
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = 5.0,
        budget_s: float = 20.0,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`timeout_s` bounds one attempt; `budget_s` all attempts together, counted from now or `start_budget`."""
        self._secure, self._host, self._port, self._target = _parts_of(url)
        self._timeout_s = timeout_s
        self._monotonic = monotonic
        self._sleep = sleep
        self._chance = chance
        self._deadline = monotonic() + budget_s
        self._connection: HTTPConnection | None = None
        self._last_id = 0

    def start_budget(self, budget_s: float) -> None:
        """From now on, all calls together may take this long; a call beyond it raises Unreachable."""
        self._deadline = self._monotonic() + budget_s

    def remaining_s(self) -> float:
        """What is left of the budget, in seconds; negative when it is spent."""
        return self._deadline - self._monotonic()

    def call(self, method: str, *params: object) -> Any:  # noqa: ANN401 -- JSON
        """The result of one call. Raises Refused, Unreachable."""
        answer = self.call_many([(method, list(params))])[0]
        if isinstance(answer, Refused):
            raise answer
        return answer

    def call_many(self, calls: Sequence[tuple[str, list[object]]]) -> list[Any]:
        """The results of many calls in few requests, in their order; a call that the node refused gives a Refused.

        Raises Unreachable.
        """
        answers: list[Any] = []
        for start in range(0, len(calls), MAX_CALLS_PER_REQUEST):
            answers += self._request_until_answered(calls[start : start + MAX_CALLS_PER_REQUEST])
        return answers

    def close(self) -> None:
        """Drop the kept connection; the next call opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _request_until_answered(self, calls: Sequence[tuple[str, list[object]]]) -> list[Any]:
        backoff_s = FIRST_BACKOFF_S
        while True:
            try:
                return self._request(calls)
            except AnswerTooLong:
                raise
            except Unreachable:
                pause_s = backoff_s * self._chance()
                if self.remaining_s() <= pause_s:
                    raise
                self._sleep(pause_s)
                backoff_s = min(2 * backoff_s, MAX_BACKOFF_S)

    def _request(self, calls: Sequence[tuple[str, list[object]]]) -> list[Any]:
        timeout_s = min(self._timeout_s, self.remaining_s())
        if timeout_s <= 0:
            raise Unreachable("the time for talking to the chain is used up")
        requests = []
        for method, params in calls:
            self._last_id += 1
            requests.append({"jsonrpc": "2.0", "id": self._last_id, "method": method, "params": params})
        # A single call is not sent as a list: not every proxy before a node knows lists.
        body = self._post(json.dumps(requests if len(requests) > 1 else requests[0]).encode(), timeout_s)
        try:
            answer = json.loads(body)
        except ValueError as error:
            raise Unreachable("the node's answer is no JSON") from error
        answers = answer if isinstance(answer, list) else [answer]
        by_id = {one["id"]: one for one in answers if isinstance(one, dict) and isinstance(one.get("id"), int)}
        results = []
        for request in requests:
            found = by_id.get(request["id"])
            if found is None:
                raise Unreachable("the node's answer is not to what was asked")
            results.append(_result(found))
        return results

    def _post(self, body: bytes, timeout_s: float) -> bytes:
        try:
            connection = self._connected(timeout_s)
            connection.request("POST", self._target, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            answer = response.read(MAX_ANSWER_BYTES + 1)
        except (OSError, HTTPException) as error:
            self.close()
            raise Unreachable(f"the node cannot be reached: {error or type(error).__name__}") from error
        if len(answer) > MAX_ANSWER_BYTES:
            self.close()
            raise AnswerTooLong("the node's answer is too long")
        if response.status == TOO_MANY_REQUESTS or response.status >= SERVER_ERRORS:
            raise Unreachable(f"the node answered with HTTP status {response.status}")
        return answer

    def _connected(self, timeout_s: float) -> HTTPConnection:
        if self._connection is None:
            make = HTTPSConnection if self._secure else HTTPConnection
            self._connection = make(self._host, self._port, timeout=timeout_s)
        self._connection.timeout = timeout_s
        if self._connection.sock is not None:
            self._connection.sock.settimeout(timeout_s)
        return self._connection


def _parts_of(url: str) -> tuple[bool, str, int | None, str]:
    """(secure, host, port, target). Raises ValueError, which does not quote the address: it may hold an access key."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError("the address of a node cannot be read") from None
    if parts.scheme not in ("http", "https") or host is None:
        raise ValueError("the address of a node begins with http:// or https://")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not (target.isascii() and target.isprintable() and " " not in target):
        raise ValueError("the address of a node has a character that no address has")
    return parts.scheme == "https", host, port, target


def _result(answer: dict[str, Any]) -> Any:  # noqa: ANN401 -- JSON
    error = answer.get("error")
    if error is None:
        if "result" not in answer:
            raise Unreachable("the node's answer has neither a result nor an error")
        return answer["result"]
    if not isinstance(error, dict):
        return Refused(0, str(error))
    code = error.get("code")
    return Refused(code if isinstance(code, int) else 0, str(error.get("message", "")), error.get("data"))


def chain_reachable(url: str, *, chain_id: int, timeout_s: float = 1.0) -> bool:
    """Whether a node answers at this address, in time, for this chain."""
    rpc = Rpc(url, timeout_s=timeout_s, budget_s=timeout_s)
    try:
        return bool(int(rpc.call("eth_chainId"), 16) == chain_id)
    except (ChainError, TypeError, ValueError):
        return False
    finally:
        rpc.close()
