"""Mutants of the settlement contract."""

from typing import Final

from tests.mutants.catalogue.mutant import CONTRACT, LIFE, mutant

_CONTRACT: Final = "tests/contracts/test_settlement_contract.py"

MUTANTS: Final = (
    mutant(
        "the_contract_pays_twice",
        "a trade id is paid at most once, ever",
        (
            f"{_CONTRACT}::test_a_trade_is_paid_once_whatever_it_says_the_second_time",
            f"{_CONTRACT}::test_the_same_trade_twice_in_a_batch_is_paid_once",
        ),
        (CONTRACT, "        if (settled[trade.id]) return ALREADY_SETTLED;\n", ""),
    ),
    mutant(
        "the_contract_pays_too_late",
        "after `validUntil` it skips a trade, so that it can be given up",
        (f"{_CONTRACT}::test_a_trade_is_paid_up_to_its_last_second",),
        (CONTRACT, "        if (block.timestamp > trade.validUntil) return EXPIRED;\n", ""),
    ),
    mutant(
        "the_contract_pays_what_is_not_there",
        "escrow is checked before it is moved",
        LIFE,
        (CONTRACT, "        if (available < trade.amount) return INSUFFICIENT_ESCROW;\n", ""),
    ),
    mutant(
        "the_contract_keeps_the_sellers_money",
        "paying moves escrow from buyer to seller",
        LIFE,
        (CONTRACT, "            accounts[trade.seller].escrow += uint128(trade.amount);\n", ""),
    ),
    mutant(
        "the_contract_has_no_limit",
        "a stolen operator's key moves all there is",
        (f"{_CONTRACT}::test_a_thief_with_the_operators_key_moves_the_limit_and_no_more",),
        (CONTRACT, "if (room < trade.amount) return OVER_LIMIT;", "if (room > room) return OVER_LIMIT;"),
    ),
    mutant(
        "each_batch_has_the_limit_to_itself",
        "what was moved is not counted",
        (f"{_CONTRACT}::test_in_a_period_no_more_is_moved_than_the_limit_and_what_fits_is",),
        (CONTRACT, "        if (left != room) _count(budget, room - left);\n", ""),
    ),
    mutant(
        "a_higher_limit_holds_at_once",
        "who has stolen the owner's key too need not announce what he takes",
        (f"{_CONTRACT}::test_a_higher_limit_is_announced_two_days_before_it_holds",),
        (CONTRACT, "block.timestamp < raise.from || ", ""),
    ),
    mutant(
        "a_cap_bounds_each_trade_but_not_the_hour",
        "what was moved under a cap is not counted",
        (f"{_CONTRACT}::test_out_of_an_account_no_more_is_moved_than_its_owner_lets",),
        (CONTRACT, "        if (capped) _count(caps[trade.buyer], trade.amount);\n", ""),
    ),
    mutant(
        "others_pay_the_fee_of_a_withdrawal",
        "a token that takes its fee on top takes it out of others' escrow",
        (f"{_CONTRACT}::test_of_a_token_that_takes_a_fee_on_top_whoever_withdraws_bears_it",),
        (CONTRACT, "        if (transferred > amount) _debit(msg.sender, transferred - amount);\n", ""),
    ),
    mutant(
        "anybody_settles",
        "only the operator may",
        (f"{_CONTRACT}::test_only_the_operator_settles",),
        (CONTRACT, "        if (msg.sender != operator) revert NotOperator(msg.sender);\n", ""),
    ),
)
