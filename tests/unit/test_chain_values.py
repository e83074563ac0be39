"""Numbers, words and hashes as nodes and gateways spell them."""

import pytest

from energy_market.evm.rpc import Unreachable
from energy_market.evm.values import digest, is_quantity, quantity, word, words

ONES = "1" * 64


@pytest.mark.parametrize(
    ("answer", "number"),
    [("0x0", 0), ("0x1f", 31), ("0X1F", 31), ("0x001f", 31), ("0x" + 63 * "0" + "1", 1), (31, 31), (0, 0)],
)
def test_a_number_is_read_in_each_spelling(answer: object, number: int) -> None:
    assert (quantity(answer), is_quantity(answer)) == (number, True)


@pytest.mark.parametrize(
    "answer", [None, True, "", "0x", "31", "1f", "0x1g", "0x1_0", "0x 1", "-0x1", -1, 1.5, [], {}, "0x" + 65 * "1"]
)
def test_a_number_that_could_mean_another_is_none(answer: object) -> None:
    assert not is_quantity(answer)
    with pytest.raises(Unreachable):
        quantity(answer)


def test_a_number_has_no_more_bits_than_it_may() -> None:
    assert quantity("0xff", bits=8) == 255
    with pytest.raises(Unreachable):
        quantity("0x100", bits=8)


def test_words_are_read_whole_or_not_at_all() -> None:
    assert words("0x" + word(1) + word(2)) == [1, 2]
    assert words("0X" + ("a" * 64).upper()) == [int("a" * 64, 16)]
    assert words("0x") == []
    for answer in ("", ONES, "0x1", "0x" + ONES + "1", "0x" + "g" * 64, None, 5):
        with pytest.raises(Unreachable):
            words(answer)


def test_a_hash_is_in_lower_case() -> None:
    assert digest("0xABcd") == "0xabcd"
    for answer in (None, 5):
        with pytest.raises(Unreachable):
            digest(answer)
