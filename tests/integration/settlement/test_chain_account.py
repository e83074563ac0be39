"""What one has in the settlement contract, over the API's edge, on a real chain."""

import json
from collections.abc import Iterator
from decimal import Decimal

import pytest

from tests.support.api import Client, SignedIn, signed_in
from tests.support.chain.chain import ONE, Chain, trade
from tests.support.chain.world import BUDGET_SLOT
from tests.support.fixtures import LoadApi

ACCOUNT = "/api/v1/chain/account"


@pytest.fixture
def chain(own_chain: str) -> Iterator[Chain]:
    chain = Chain(own_chain, limit=1000 * ONE)
    yield chain
    chain.rpc.close()


@pytest.fixture
def ann(auth: Client) -> SignedIn:
    return signed_in(auth)


@pytest.fixture
def api(load_api: LoadApi, own_chain: str, chain: Chain, monkeypatch: pytest.MonkeyPatch) -> Client:
    monkeypatch.setenv("RPC_URL", own_chain)
    monkeypatch.setenv("SETTLEMENT_CONTRACT", chain.settlement.address)
    monkeypatch.setenv("TOKEN_DECIMALS", "18")
    return load_api("analytics_api")


def fund(chain: Chain, ann: SignedIn, units: int) -> None:
    chain.rpc.call("anvil_setBalance", ann.wallet.address, hex(ONE))
    chain.deposit(ann.wallet, units)


def test_a_newcomer_has_nothing_and_no_cap(api: Client, ann: SignedIn) -> None:
    found = api.get(ACCOUNT, token=ann.token).json
    assert found["wallet_address"] == ann.wallet.address
    assert (found["escrow"], found["escrow_units"], found["cap"], found["cap_left"]) == (0, "0", None, None)
    assert (found["limit"], found["limit_left"]) == (1000, 1000)


def test_an_escrow_is_told_to_the_last_unit(api: Client, chain: Chain, ann: SignedIn) -> None:
    units = 123456789012 * ONE + 1
    fund(chain, ann, units)
    answer = api.get(ACCOUNT, token=ann.token)
    assert '"escrow":123456789012.000000000000000001' in answer.text
    assert answer.json["escrow_units"] == str(units)


def test_what_was_moved_this_hour_is_taken_off_cap_and_limit(api: Client, chain: Chain, ann: SignedIn) -> None:
    fund(chain, ann, 100 * ONE)
    chain.settlement.transact(ann.wallet, "setCap", 30 * ONE)
    chain.settle([trade(ann.wallet, chain.person(), 12 * ONE)])
    found = api.get(ACCOUNT, token=ann.token).json
    assert (found["escrow"], found["cap"], found["cap_left"]) == (88, 30, 18)
    assert (found["limit"], found["limit_left"]) == (1000, 988)


def test_when_the_hour_is_over_all_may_be_moved_again_also_before_a_block_says_so(
    api: Client, chain: Chain, ann: SignedIn
) -> None:
    fund(chain, ann, 100 * ONE)
    chain.settle([trade(ann.wallet, chain.person(), 12 * ONE)])
    packed = int(chain.rpc.call("eth_getStorageAt", chain.settlement.address, BUDGET_SLOT, "latest"), 16)
    an_hour_before = packed - (1 << 224)  # its last 32 bits are the hour
    chain.rpc.call("anvil_setStorageAt", chain.settlement.address, BUDGET_SLOT, f"0x{an_hour_before:064x}")
    found = api.get(ACCOUNT, token=ann.token).json
    assert (found["limit"], found["limit_left"]) == (1000, 1000)


def test_a_cap_of_nothing_is_no_missing_cap(api: Client, chain: Chain, ann: SignedIn) -> None:
    fund(chain, ann, ONE)
    chain.settlement.transact(ann.wallet, "setCap", 0)
    found = api.get(ACCOUNT, token=ann.token).json
    assert (found["cap"], found["cap_left"]) == (0, 0)
    chain.settlement.transact(ann.wallet, "removeCap")
    assert api.get(ACCOUNT, token=ann.token).json["cap"] is None


def test_where_no_contract_stands_the_chain_is_unfit(
    api: Client, chain: Chain, ann: SignedIn, capsys: pytest.CaptureFixture[str]
) -> None:
    chain.rpc.call("anvil_setCode", chain.settlement.address, "0x")
    answer = api.get(ACCOUNT, token=ann.token)
    assert answer.refusal == (503, "chain_unfit")
    assert answer.headers["Retry-After"] == "5"
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["detail"] for line in lines if line.get("event") == "chain.unfit"] == [
        f"there is no settlement contract at {chain.settlement.address}"
    ]


def test_numbers_are_exact(api: Client, chain: Chain, ann: SignedIn) -> None:
    fund(chain, ann, 15 * ONE // 10)
    assert api.get(ACCOUNT, token=ann.token).json["escrow"] == Decimal("1.5")
