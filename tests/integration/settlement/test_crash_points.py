"""A sweep that dies after any of its side effects, whatever else goes wrong at the same time.

What can be is played on a contract that would pay a trade as often as it is asked (`ForgetfulSettlement`): that each
trade is paid once is then the settlement's own doing. `LEANING` are the lives that lean on the real contract's memory.
"""

from collections.abc import Iterator

import pytest

from energy_market.domain.settlement import SettlementRules
from tests.support.chain.chain import LIMIT, trade, word
from tests.support.chain.shop import (
    AMOUNT,
    CONFIRMATIONS,
    CONFIRMED,
    ENERGY_WH,
    FINALITY,
    IMPATIENT,
    RULES,
    Life,
    Outcome,
    Script,
    Shop,
    nothing_special,
)
from tests.support.chain.world import POISON_SLOT, World
from tests.support.trouble.covered import COVERS
from tests.support.trouble.crashes import every_crash


def stuck(shop: Shop) -> Iterator[SettlementRules]:
    shop.locked()
    shop.world.hold()
    yield IMPATIENT
    yield IMPATIENT
    yield IMPATIENT
    shop.world.mine()
    shop.world.go_on()
    yield RULES


def forgotten_by_the_node(shop: Shop) -> Iterator[SettlementRules]:
    shop.locked()
    shop.world.hold()
    yield RULES
    shop.world.drop_pool()
    yield RULES
    shop.world.mine()
    yield RULES


def a_culprit_in_a_batch_that_reverts(shop: Shop) -> Iterator[SettlementRules]:
    shop.locked()
    culprit = shop.locked()
    shop.locked()
    shop.world.hold()
    yield RULES
    shop.chain.rpc.call("anvil_setStorageAt", shop.chain.settlement.address, POISON_SLOT, "0x" + word(culprit).hex())
    shop.world.mine(2)
    shop.world.go_on()
    yield RULES
    shop.world.mine(2)
    yield RULES


def a_nonce_that_somebody_else_used(shop: Shop) -> Iterator[SettlementRules]:
    shop.locked()
    shop.world.hold()
    nonce = shop.world.nonce()
    yield RULES
    shop.world.use_key(nonce)
    shop.world.mine(2)
    yield RULES
    shop.world.mine()
    shop.world.go_on()
    yield RULES


def a_gap_that_somebody_else_left(shop: Shop) -> Iterator[SettlementRules]:
    shop.locked()
    shop.world.hold()
    foreign = shop.world.use_key(shop.world.nonce())
    yield RULES
    shop.chain.rpc.call("anvil_dropTransaction", foreign)
    shop.world.mine()
    yield RULES
    shop.world.mine()
    yield RULES


def a_reorganisation_before_finality(shop: Shop) -> Iterator[SettlementRules]:
    shop.locked()
    yield RULES
    shop.world.mine()
    yield RULES
    shop.world.hold()
    shop.world.reorganise(2)
    yield RULES
    shop.world.mine()
    yield RULES


def a_reorganisation_below_finality(shop: Shop) -> Iterator[SettlementRules]:
    shop.world.mine(FINALITY)  # what was settled before stays
    shop.locked()
    yield RULES
    shop.world.mine(FINALITY)
    yield RULES
    shop.world.reorganise(FINALITY + 1)
    yield RULES
    shop.world.mine(2)
    yield RULES


def out_of_time(shop: Shop) -> Iterator[SettlementRules]:
    """One trade was never signed for, since the operator had no gas money; one was, and its bytes are nowhere."""
    shop.locked()
    shop.world.hold()
    yield RULES
    shop.world.drop_pool()
    shop.chain.rpc.call("anvil_setBalance", shop.chain.operator.address, "0x1")
    unsigned = shop.locked()
    yield RULES
    shop.world.sql("UPDATE transactions SET valid_until = clock_timestamp() - interval '1 s' WHERE id = %s", unsigned)
    yield RULES
    shop.chain.rpc.call("anvil_setBalance", shop.chain.operator.address, hex(10**20))


def paid_by_somebody_else_with_our_key(shop: Shop) -> Iterator[SettlementRules]:
    made = shop.locked()
    shop.world.hold()
    nonce = shop.world.nonce()
    yield RULES
    payment = trade(shop.rich_wallet, shop.seller, AMOUNT, id=made, energy_wh=ENERGY_WH)
    data = shop.chain.settlement.artifact.call("settle", [payment])
    shop.world.send_as(shop.chain.operator, nonce=nonce, to=shop.chain.settlement.address, data=data)
    shop.world.mine(2)
    yield RULES
    shop.world.mine(FINALITY)
    yield RULES


def a_batch_that_comes_back_to_life(shop: Shop) -> Iterator[SettlementRules]:
    """Its nonce was used by somebody else, so its trade went into another; then a reorganisation took that use back."""
    shop.world.mine(FINALITY)
    shop.locked()
    shop.world.hold()
    nonce = shop.world.nonce()
    yield RULES
    shop.world.use_key(nonce)
    shop.world.mine(CONFIRMATIONS)
    yield RULES
    shop.world.mine()
    shop.world.reorganise(CONFIRMATIONS + 1)
    yield RULES
    shop.world.mine()
    yield RULES
    shop.world.mine()
    yield RULES


def over_the_limit_of_a_period(shop: Shop) -> Iterator[SettlementRules]:
    """When its batch is mined there is no room for it any more. It goes into another; then the first is mined anew."""
    shop.world.sql("UPDATE chain_state SET limit_nano = NULL")  # so that each time the same sweeps write it down
    shop.world.mine(FINALITY)
    shop.locked()
    shop.world.hold()
    yield RULES
    shop.world.leave_room(0)
    shop.world.mine(CONFIRMATIONS)
    yield RULES
    yield RULES
    shop.world.leave_room(LIMIT)
    yield RULES
    shop.world.reorganise(CONFIRMATIONS)
    shop.world.leave_room(LIMIT)
    yield RULES
    shop.world.mine()
    shop.world.go_on()
    yield RULES


def too_big_for_the_node(shop: Shop) -> Iterator[SettlementRules]:
    """Its bytes are refused, so a form with half the trades takes their nonce; the others go into another batch."""
    shop.locked()
    shop.locked()
    shop.world.hold()
    yield RULES
    # The node refused it, as far as anybody knows; it holds nothing.
    shop.world.drop_pool()
    shop.world.sql("UPDATE signed_transactions SET refusal = 'too_much', sends = 1")
    yield RULES
    shop.world.mine(CONFIRMATIONS)
    yield RULES
    shop.world.mine(CONFIRMATIONS)
    shop.world.go_on()
    yield RULES


LIVES: list[tuple[Script, list[Outcome]]] = [
    (nothing_special, [CONFIRMED, ("Failed", "insufficient_escrow")]),
    (stuck, [CONFIRMED]),
    (forgotten_by_the_node, [CONFIRMED]),
    (too_big_for_the_node, [CONFIRMED, CONFIRMED]),
    (a_culprit_in_a_batch_that_reverts, [CONFIRMED, ("Failed", "chain_refused"), CONFIRMED]),
    (a_nonce_that_somebody_else_used, [CONFIRMED]),
    (a_gap_that_somebody_else_left, [CONFIRMED]),
    (a_reorganisation_before_finality, [CONFIRMED]),
    (a_reorganisation_below_finality, [CONFIRMED]),
    (out_of_time, [CONFIRMED, ("Failed", "settlement_expired")]),
]


LEANING: list[tuple[Script, list[Outcome]]] = [
    (paid_by_somebody_else_with_our_key, [CONFIRMED]),
    (a_batch_that_comes_back_to_life, [CONFIRMED]),
    (over_the_limit_of_a_period, [CONFIRMED]),
]
"""Two signed transactions carry the same trade here, and both can be mined."""


@pytest.mark.parametrize(("script", "expected"), LIVES, ids=[script.__name__ for script, _ in LIVES])
def test_a_sweep_that_dies_pays_each_trade_once_whatever_else_goes_wrong(
    forgetful: World, script: Script, expected: list[Outcome]
) -> None:
    shop = Shop(forgetful)
    every_crash(
        script.__name__,
        shop.process,
        lambda: Life(shop=shop, script=script, expected=expected),
        covers=COVERS["a sweep"],
        at_least=8,
    )
    shop.agrees()


@pytest.mark.parametrize(("script", "expected"), LEANING, ids=[script.__name__ for script, _ in LEANING])
def test_what_only_the_contract_can_know_it_pays_once(world: World, script: Script, expected: list[Outcome]) -> None:
    shop = Shop(world)
    every_crash(
        script.__name__,
        shop.process,
        lambda: Life(shop=shop, script=script, expected=expected),
        covers=COVERS["a sweep"],
        at_least=8,
    )
    shop.agrees()


def test_the_loops_function_may_die_as_well(forgetful: World, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = Shop(forgetful)
    shop.settle_by_function(monkeypatch)
    every_crash(
        "the function that sweeps",
        shop.process,
        lambda: Life(shop=shop, script=nothing_special, expected=[CONFIRMED, ("Failed", "insufficient_escrow")]),
        covers=COVERS["the function"],
        at_least=8,
    )
    shop.agrees()
