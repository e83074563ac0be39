"""JSON-RPC over HTTP. Imports only the standard library: the health route uses it without the EVM libraries.

Providers refuse in many ways and words (`evm.refusals`). "Later" is retried, "too much" is asked for in smaller parts,
and everything else is a refusal of one call. A list that is refused, or twice gets no answer, is halved down to single
calls. A refusal inside a list is believed only if the call alone is refused as well.
"""

import json
import random
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from energy_market.evm.endpoint import Endpoint, Reply
from energy_market.evm.refusals import (
    TOO_MANY_REQUESTS,
    Behind,
    ChainError,
    Later,
    Refused,
    TooMuch,
    Unreachable,
    is_behind,
    is_later,
    is_revert,
    may_be_later,
)

__all__ = ["Behind", "ChainError", "Refused", "Rpc", "TooMuch", "Unreachable", "is_revert"]

MAX_CALLS_PER_REQUEST: Final = 50
SHORT_LISTS_S: Final = 600.0
"""Seconds for which lists stay as short as a node wanted them; after that a longer one is tried again."""
FIRST_BACKOFF_S: Final = 0.1
MAX_BACKOFF_S: Final = 2.0
LIST_TRIES: Final = 2
"""Tries of a list of calls that gets no answer, before it is halved."""
UNSURE_TRIES: Final = 4
"""Tries of a call that is refused in words that may mean "later", before the refusal is believed."""
LOGS: Final = "eth_getLogs"
"""The method whose request can be made smaller; a proxy may give up on a long one without any answer."""
BEHIND_TRIES: Final = 8
"""Tries of a call whose block the node does not know yet; another node behind the address, or this one, soon may."""
OK: Final = range(200, 300)
SERVER_ERRORS: Final = range(500, 600)
OVERLOADED: Final = frozenset({408, 425, TOO_MANY_REQUESTS, 503})
"""HTTP statuses that mean "later", whatever the body says."""
TOO_LARGE: Final = 413
MALFORMED: Final = frozenset({400, TOO_LARGE, 414, 422, 431})
"""HTTP statuses that judge the request itself, not its sender or its time."""
ADVICE: Final = {
    401: " (it requires other credentials than those in RpcUrl)",
    403: " (it refuses this client)",
    404: " (there is no node at this path)",
    407: " (a proxy requires credentials)",
}

Call = tuple[str, list[object]]


class _ListRefused(Exception):
    """The list as a whole was refused; its parts may be answered."""


class Rpc:
    """One node. Retries requests that got no answer, with exponential backoff and full jitter, until a deadline.

    A retry repeats a request whose answer was lost, so it only suits methods that may be repeated. All reads are, and
    so is sending a signed transaction, since the same bytes take effect once.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = 5.0,
        deadline_s: float = 20.0,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`timeout_s` limits one attempt, `deadline_s` all attempts together: from now, or from `start_deadline`."""
        self._endpoint = Endpoint(url)
        self._timeout_s = timeout_s
        self._monotonic = monotonic
        self._sleep = sleep
        self._chance = chance
        self._deadline = monotonic() + deadline_s
        self._last_id = 0
        self._calls_at_once = MAX_CALLS_PER_REQUEST
        self._short_lists_until = 0.0

    def start_deadline(self, deadline_s: float) -> None:
        """Limit all later calls together to `deadline_s` seconds; a call beyond it raises Unreachable."""
        self._deadline = self._monotonic() + deadline_s

    def remaining_s(self) -> float:
        """Seconds until the deadline; negative after it."""
        return self._deadline - self._monotonic()

    def call(self, method: str, *params: object) -> Any:  # noqa: ANN401 -- JSON
        """The result of one call. Raises Refused, Unreachable."""
        answer = self.call_many([(method, list(params))])[0]
        if isinstance(answer, Refused):
            raise answer
        return answer

    def call_many(self, calls: Sequence[Call], *, present: bool = False) -> list[Any]:
        """The results of many calls in few requests, in their order; a refused call gives a Refused.

        `present`: the requested items are known to exist, so null means that the node is behind. Raises Unreachable.
        """
        answers: list[Any] = []
        while len(answers) < len(calls):
            if self._monotonic() >= self._short_lists_until:
                self._calls_at_once = MAX_CALLS_PER_REQUEST
            answers += self._answers(calls[len(answers) : len(answers) + self._calls_at_once], present=present)
        return answers

    def close(self) -> None:
        """Drop the kept connection; the next call opens another."""
        self._endpoint.close()

    # ------------------------------------------------------------------------------------------------ again, or less

    def _answers(self, calls: Sequence[Call], *, present: bool) -> list[Any]:
        """An answer to each of the calls, after all retries and divisions that it takes."""
        found: dict[int, Any] = {}
        waiting = list(range(len(calls)))
        backoff_s, tries = FIRST_BACKOFF_S, 0
        while True:
            tries += 1
            try:
                outcomes = self._request([calls[i] for i in waiting], present=present)
            except _ListRefused:
                return self._in_parts(calls, found, waiting, present=present)
            except Unreachable as trouble:
                outcomes = [trouble] * len(waiting)
            alone = len(waiting) == 1
            if (
                alone
                and tries >= UNSURE_TRIES
                and calls[waiting[0]][0] == LOGS
                and isinstance(outcomes[0], Unreachable)
            ):
                outcomes = [TooMuch(0, str(outcomes[0]))]
            believed = {
                i: outcome
                for i, outcome in zip(waiting, outcomes, strict=True)
                if not isinstance(outcome, ChainError) or _is_believed(outcome, alone=alone, tries=tries)
            }
            found |= believed
            waiting = [i for i in waiting if i not in believed]
            if not waiting:
                return [found[i] for i in range(len(calls))]
            troubles = [one for one in outcomes if isinstance(one, Unreachable)] or [Later(str(outcomes[0]))]
            is_refused = any(isinstance(one, Refused) and not may_be_later(one) for one in outcomes)
            patience = LIST_TRIES
            if any(isinstance(one, Behind) for one in outcomes):
                patience = BEHIND_TRIES
            elif all(isinstance(one, Later) for one in troubles):
                patience = UNSURE_TRIES
            if not alone and (is_refused or (tries >= patience and not believed)):
                return self._in_parts(calls, found, waiting, present=present)
            last = max(troubles, key=lambda one: one.pause_s)
            pause_s = max(backoff_s * self._chance(), last.pause_s)
            if self.remaining_s() <= pause_s:
                raise last
            self._sleep(pause_s)
            backoff_s = min(2 * backoff_s, MAX_BACKOFF_S)

    def _in_parts(
        self, calls: Sequence[Call], found: dict[int, Any], waiting: Sequence[int], *, present: bool
    ) -> list[Any]:
        """Ask for the open calls of a list in halves. The length that was answered is remembered for a while."""
        size = (len(waiting) + 1) // 2
        for start in range(0, len(waiting), size):
            part = waiting[start : start + size]
            answers = self._answers([calls[i] for i in part], present=present)
            if not all(isinstance(one, Refused) for one in answers):
                self._calls_at_once = min(self._calls_at_once, max(size, len(calls) - len(waiting)))
                self._short_lists_until = self._monotonic() + SHORT_LISTS_S
            found |= dict(zip(part, answers, strict=True))
        return [found[i] for i in range(len(calls))]

    # ------------------------------------------------------------------------------------------------ one request

    def _request(self, calls: Sequence[Call], *, present: bool) -> list[Any]:
        """The outcome of each call: its result, Refused, or Unreachable if it should be retried.

        Raises Unreachable if no call was answered, and _ListRefused.
        """
        timeout_s = min(self._timeout_s, self.remaining_s())
        if timeout_s <= 0:
            raise Unreachable("the time for requests to the chain is used up")
        first = self._last_id + 1
        self._last_id += len(calls)
        requests = [
            {"jsonrpc": "2.0", "id": first + number, "method": method, "params": params}
            for number, (method, params) in enumerate(calls)
        ]
        # A single call is not sent as a list: some proxies before nodes do not support lists.
        alone = len(requests) == 1
        reply = self._endpoint.post(json.dumps(requests[0] if alone else requests).encode(), timeout_s=timeout_s)
        if reply.status in OVERLOADED:
            raise self._trouble(reply, Later)
        if alone:
            return [self._answer(reply, first, present=present)]
        return self._list(reply, range(first, first + len(calls)), present=present)

    def _answer(self, reply: Reply, id_: int, *, present: bool) -> Any:  # noqa: ANN401 -- JSON
        """The outcome of a call that was sent alone. Raises Unreachable."""
        if reply.body is None:
            return TooMuch(reply.status, "the node's answer is too long")
        answer = _json(reply.body)
        if isinstance(answer, list) and len(answer) == 1:
            (answer,) = answer
        if isinstance(answer, dict) and (_id(answer) == str(id_) or _is_error_to_nobody(answer)):
            return self._outcome(answer, reply, present=present)
        if reply.status in MALFORMED:
            kind = TooMuch if reply.status == TOO_LARGE else Refused
            return kind(reply.status, str(self._trouble(reply)))
        raise self._trouble(reply)

    def _list(self, reply: Reply, ids: Sequence[int], *, present: bool) -> list[Any]:
        """The outcome of each call of a list. Raises Unreachable, and _ListRefused."""
        if reply.body is None:
            raise _ListRefused
        answers = _json(reply.body)
        if isinstance(answers, list):
            by_id = {_id(one): one for one in answers if isinstance(one, dict)}
            if not any(str(id_) in by_id for id_ in ids):
                raise _ListRefused
            missing = {"error": {"code": 0, "message": "the node's answer is shorter than the list of calls"}}
            return [self._outcome(by_id.get(str(id_), missing), reply, present=present) for id_ in ids]
        if isinstance(answers, dict) and answers.get("error") is not None:
            outcome = self._outcome(answers, reply, present=present)
            if isinstance(outcome, Unreachable):
                raise outcome
            raise _ListRefused
        if reply.status in OK or reply.status in SERVER_ERRORS:
            raise self._trouble(reply)
        raise _ListRefused

    def _outcome(self, answer: dict[str, Any], reply: Reply, *, present: bool) -> Any:  # noqa: ANN401 -- JSON
        error = answer.get("error")
        if error is not None:
            return self._refusal(error, reply)
        if "result" not in answer:
            return Unreachable("the node's answer has neither a result nor an error")
        if answer["result"] is None and present:
            return Behind(0, "the node does not know what another node knows")
        return answer["result"]

    def _refusal(self, error: object, reply: Reply) -> ChainError:
        if not isinstance(error, dict):
            return Refused(0, self._endpoint.words(str(error)))
        code, data, told = error.get("code"), error.get("data"), str(error.get("message", ""))
        if data is not None and not (isinstance(data, str) and data.startswith("0x")):
            # Some nodes put their reason there: "invalid params", "range 9009594 is bigger than range limit 2000".
            told += f" {json.dumps(data)}"
        refusal = Refused(code if isinstance(code, int) else 0, self._endpoint.words(told), data)
        if is_later(refusal):
            return Later(f"the node asks us to come later: {refusal}", pause_s=reply.pause_s)
        if is_behind(refusal):
            return Behind(refusal.code, refusal.message, data)
        return refusal

    def _trouble(self, reply: Reply, kind: type[Unreachable] = Unreachable) -> Unreachable:
        """The reason why an answer is unusable, with the other side's own words."""
        body = reply.body or b""
        if reply.status not in OK:
            what = f"the node answered with HTTP status {reply.status}{ADVICE.get(reply.status, '')}"
        elif _json(body) is None:
            what = "the node's answer is not JSON"
        else:
            what = "the node's answer does not fit the request"
        words = self._endpoint.words(body.decode("utf-8", "replace"))
        return kind(f"{what}: {words}" if words else f"{what}, without an explanation", pause_s=reply.pause_s)


def _is_believed(outcome: ChainError, *, alone: bool, tries: int) -> bool:
    """Whether an error is the final answer to its call: not inside a list, and not while it may mean "later"."""
    if not isinstance(outcome, Refused):
        return False
    if isinstance(outcome, Behind):
        return tries >= BEHIND_TRIES
    return alone and (tries >= UNSURE_TRIES or not may_be_later(outcome))


def _json(body: bytes) -> Any:  # noqa: ANN401 -- JSON
    """The parsed body; None if it is not JSON, and for null."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _id(answer: dict[str, Any]) -> str:
    """The id as text: some nodes return a number as text, or with a decimal point."""
    id_ = answer.get("id")
    return str(int(id_) if isinstance(id_, float) and id_.is_integer() else id_)


def _is_error_to_nobody(answer: dict[str, Any]) -> bool:
    """Whether it is an error whose id is null or absent: the other side had not read as far as the id."""
    return answer.get("id") is None and answer.get("error") is not None
