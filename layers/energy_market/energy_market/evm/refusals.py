"""Refusals of nodes and their providers: an error tree, and the meaning of the many spellings.

    ChainError
    ├── Unreachable        no usable answer came in time: retry later
    │   └── Later          the other side is busy or limits our rate
    └── Refused            the node answered the call with an error
        ├── Behind         it does not know a block that another node, or it a moment ago, had
        └── TooMuch        the request or its answer is too long: ask for less

A word list covers the common spellings. Rules that need no words apply beyond them: see `evm.rpc`.
"""

import re
from typing import Final

TOO_MANY_REQUESTS: Final = 429
LATER_CODES: Final = frozenset({TOO_MANY_REQUESTS, -32005, -32007, -32011, -32016, -32029})
"""JSON-RPC codes of rate limits: EIP-1474, QuickNode, proxyd, TheRPC. Some nodes use them for other limits as well."""
RESOURCE_NOT_FOUND: Final = -32001
REVERT_CODE: Final = 3
_RATE: Final = re.compile(
    r"\brate\b|rate.?limit|too many requests|too many concurrent|requests? (limit|count|per)|per (second|minute|day)"
    r"|compute unit|throughput|quota|\b429\b"
)
"""Words that certainly mean "later"."""
_BUSY: Final = re.compile(
    r"try again|retry|busy|overload|temporar|service unavailable|no (healthy )?backend|capacity|credits|limit exceeded"
    r"|time.?out|timed out|deadline exceeded|internal (json-rpc )?error|server error"
)
"""Words that may mean "later", unless the message speaks of a size."""
_SIZE: Final = re.compile(r"gas|range|result|more than|too (large|big|long|wide)|size|batch|blocks|payload|oversized")
_BEHIND: Final = re.compile(
    r"(header|block|hash)\b.{0,80}(not|n't be) found|unknown (block|header)|cannot find (block|header)|no such block"
    r"|(beyond|ahead of) (the )?(current )?(head|latest)|block is not available|not yet (available|synced|known)"
)


class ChainError(Exception):
    """The chain could not be asked, or refused the request."""


class Unreachable(ChainError):
    """No usable answer came in time. It is unknown whether the node acted on the request."""

    def __init__(self, message: str, *, pause_s: float = 0.0) -> None:
        """`pause_s`: seconds that the other side asks us to wait."""
        super().__init__(message)
        self.pause_s = pause_s


class Later(Unreachable):
    """The other side is busy or limits our rate."""


class Refused(ChainError):
    """The node answered with an error."""

    def __init__(self, code: int, message: str, data: object = None) -> None:
        """`data` is the revert data, as 0x-hex, if the node sends it."""
        super().__init__(f"{message} ({code})")
        self.code = code
        self.message = message
        self.data = data if isinstance(data, str) else None


class Behind(Refused):
    """The node does not know a block that another node, or it a moment ago, had."""


class TooMuch(Refused):
    """The request or its answer is too long, and would be again: ask for less."""


def is_revert(refusal: Refused) -> bool:
    """Whether the contract refused, and not the node."""
    return refusal.code == REVERT_CODE or "revert" in refusal.message.lower()


def is_later(refusal: Refused) -> bool:
    """Whether a node certainly says that it is busy or limits our rate."""
    return bool(_RATE.search(refusal.message.lower())) and not is_revert(refusal)


def may_be_later(refusal: Refused) -> bool:
    """Whether to retry before a refusal is believed: its code or words also have other meanings elsewhere."""
    if isinstance(refusal, Behind):
        return True
    words = refusal.message.lower()
    said = refusal.code in LATER_CODES or _BUSY.search(words) is not None
    return said and not _SIZE.search(words) and not is_revert(refusal)


def is_behind(refusal: Refused) -> bool:
    """Whether the node's words say that it does not know a block."""
    words = refusal.message.lower()
    return bool(_BEHIND.search(words)) or (refusal.code == RESOURCE_NOT_FOUND and "state" not in words)
