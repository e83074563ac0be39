"""What nodes answer, read as the numbers, words and hashes that it is meant as (Ethereum's JSON-RPC specification).

Quantities are 0x-hex by the specification; some gateways send JSON numbers, capitals, or zeros in front.
"""

import re
from typing import Any, Final

from energy_market.evm.rpc import Unreachable

WORD: Final = 64  # hexadecimal digits of the 32 bytes that events and the contract's answers are made of
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
    """A number of at most so many bits: what is beyond that, no node counts. Raises Unreachable if it is none."""
    if isinstance(answer, int) and not isinstance(answer, bool):
        number = answer
    elif isinstance(answer, str) and answer[:2].lower() == "0x":  # without it nobody knows which digits they are
        number = _hexadecimal(answer[2:])
    else:
        raise Unreachable("the node's answer is no number")
    if not 0 <= number < 2**bits:
        raise Unreachable("the node's answer is no such number")
    return number


def words(answer: object) -> list[int]:
    """The words of a contract's answer or of an event's data. Raises Unreachable if it is not made of words."""
    if not isinstance(answer, str) or answer[:2].lower() != "0x" or len(answer) % WORD != 2:  # noqa: PLR2004 -- of 0x
        raise Unreachable("the node's answer is not made of words")
    return [_hexadecimal(answer[start : start + WORD]) for start in range(2, len(answer), WORD)]


def _hexadecimal(digits: str) -> int:
    if not _DIGITS.fullmatch(digits):
        raise Unreachable("the node's answer is no number")
    return int(digits, 16)


def word(number: int) -> str:
    """A number as the 64 digits of a word, without 0x."""
    return f"{number:0{WORD}x}"


def digest(answer: Any) -> str:  # noqa: ANN401 -- JSON
    """A hash or a topic as we store and compare it: in lower case. Raises Unreachable if it is no text."""
    if not isinstance(answer, str):
        raise Unreachable("the node's answer is no hash")
    return answer.lower()
