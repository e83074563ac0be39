"""Nodes' answers, read as the numbers, words and hashes that Ethereum's JSON-RPC specification defines.

Quantities are 0x-hex by the specification; some gateways send JSON numbers, capitals, or leading zeros.
"""

import re
from typing import Any, Final

from energy_market.evm.rpc import Unreachable

WORD: Final = 64  # hexadecimal digits of a word of 32 bytes, the unit of events and of the contract's answers
WORD_BITS: Final = 256
_DIGITS: Final = re.compile(r"[0-9a-fA-F]+")


def is_quantity(answer: object) -> bool:
    """Whether it can be read as a number that is not negative."""
    try:
        quantity(answer)
    except Unreachable:
        return False
    return True


def quantity(answer: Any, *, bits: int = WORD_BITS) -> int:  # noqa: ANN401 -- JSON
    """A number of at most `bits` bits; no true count is larger. Raises Unreachable if it is malformed or larger."""
    if isinstance(answer, int) and not isinstance(answer, bool):
        number = answer
    elif isinstance(answer, str) and answer[:2].lower() == "0x":  # without it nobody knows which digits they are
        number = _hexadecimal(answer[2:])
    else:
        raise Unreachable("the node sent a malformed number")
    if not 0 <= number < 2**bits:
        raise Unreachable("the node sent a number that is too large")
    return number


def words(answer: object) -> list[int]:
    """The words of a contract's answer or of an event's data. Raises Unreachable if they are malformed."""
    if not isinstance(answer, str) or answer[:2].lower() != "0x" or len(answer) % WORD != 2:  # noqa: PLR2004 -- of 0x
        raise Unreachable("the node sent malformed words")
    return [_hexadecimal(answer[start : start + WORD]) for start in range(2, len(answer), WORD)]


def _hexadecimal(digits: str) -> int:
    if not _DIGITS.fullmatch(digits):
        raise Unreachable("the node sent a malformed number")
    return int(digits, 16)


def word(number: int) -> str:
    """A number as the 64 digits of a word, without 0x."""
    return f"{number:0{WORD}x}"


def digest(answer: Any) -> str:  # noqa: ANN401 -- JSON
    """A hash or a topic, as it is stored and compared: in lower case. Raises Unreachable if it is not a text."""
    if not isinstance(answer, str):
        raise Unreachable("the node sent a malformed hash")
    return answer.lower()
