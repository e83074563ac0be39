"""docs/paying.md says what the settlement contract's ABI says: names, types, selectors, topics."""

import re
from typing import Any

import pytest
from eth_utils.crypto import keccak

from tests.support.chain.chain import SETTLEMENT, TOKEN
from tests.support.template import ROOT

PAGE = (ROOT / "docs" / "paying.md").read_text()
ROWS = re.findall(r"^\| `(\w+\([\w,\[\]]*\))`[^|]*\| `(0x[0-9a-f]+)` \| (.*) \|$", PAGE, re.MULTILINE)
OF_THE_OWNER = {"LimitChanged", "OperatorChanged", "RaiseAnnounced", "Paused", "Unpaused"}
CALLED_BY_OTHERS = {  # the operator's, the owner's, and what a deploy is refused with
    "NotOperator", "TooManyTrades", "RaiseNotDue", "OwnerRequired", "WrongDecimals", "ZeroAddress", "ExpectedPause",
}  # fmt: skip


def signature(entry: dict[str, Any]) -> str:
    return f"{entry['name']}({','.join(parameter['type'] for parameter in entry['inputs'])})"


def known() -> dict[str, dict[str, Any]]:
    entries = [entry for entry in [*SETTLEMENT.abi, *TOKEN.abi] if entry["type"] in {"function", "event", "error"}]
    return {signature(entry): entry for entry in entries}


def listed(heading: str) -> set[str]:
    return set(re.findall(r"^\| `(\w+)\(", PAGE.split(f"## {heading}")[1].split("\n## ")[0], re.MULTILINE))


@pytest.mark.parametrize(("spelled", "word", "text"), ROWS, ids=[row[0] for row in ROWS])
def test_what_the_page_names_is_in_the_abi_with_this_word(spelled: str, word: str, text: str) -> None:
    entry = known()[spelled]
    digest = keccak(text=spelled).hex()
    assert word == "0x" + (digest if entry["type"] == "event" else digest[:8])
    if entry["type"] == "event":
        indexed = sum(parameter["indexed"] for parameter in entry["inputs"])
        assert len(re.findall(r"`\[\w+\]`", text)) == indexed
    if entry.get("stateMutability") == "view" and "the same of" not in text:
        outputs = [output["type"] for output in entry["outputs"]]
        assert re.findall(r"`((?:u?int\d+|bool|address)(?:\[\])?)`", text) == outputs


def test_every_event_of_an_account_and_of_a_trade_is_there() -> None:
    events = {entry["name"] for entry in SETTLEMENT.abi if entry["type"] == "event"}
    assert listed("What the contract emits") == {
        name for name in events - OF_THE_OWNER if not name.startswith("Ownership")
    }


def test_every_error_that_a_wallet_may_meet_is_there() -> None:
    errors = {entry["name"] for entry in SETTLEMENT.abi if entry["type"] == "error"}
    assert listed("What it refuses with") == {
        name for name in errors - CALLED_BY_OTHERS if not name.startswith("Ownable")
    }


def test_everything_that_a_wallet_may_send_is_there() -> None:
    functions = [entry for entry in SETTLEMENT.abi if entry["type"] == "function"]
    writes = {entry["name"] for entry in functions if entry["stateMutability"] == "nonpayable"}
    of_the_owner = {"settle", "pause", "unpause", "setOperator", "setLimit", "raiseLimit"}
    ownership = {"acceptOwnership", "transferOwnership"}
    assert listed("What a wallet calls") - {"approve"} == writes - of_the_owner - ownership


def test_the_reasons_of_a_skipped_trade_are_the_contracts() -> None:
    row = next(text for spelled, _, text in ROWS if spelled.startswith("TradeSkipped"))
    numbers = {int(number): words for number, words in re.findall(r"(\d) ([a-z' ]+)", row)}
    source = (ROOT / "infra" / "contracts" / "EnergySettlement.sol").read_text()
    block = source.split("Why a trade of a batch was not paid by it.")[1].split("///")[0]
    constants = dict(re.findall(r"uint8 public constant ([A-Z_]+) = (\d);", block))
    assert numbers.keys() == {int(value) for value in constants.values()}
    for name, value in constants.items():
        last = name.rpartition("_")[2].lower()
        assert last in numbers[int(value)], name


def test_the_tokens_own_words_are_its_own() -> None:
    for spelled, word in re.findall(r"`(ERC20\w+\([\w,]+\))` is\s+`(0x[0-9a-f]{8})`", PAGE):
        assert spelled in known()
        assert word == "0x" + keccak(text=spelled).hex()[:8]
