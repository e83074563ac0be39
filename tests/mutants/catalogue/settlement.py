# ruff: noqa: E501 -- the product's lines as they are
"""Mutants of settlement and the chain."""

from typing import Final

from tests.mutants.catalogue.mutant import FAULTS, LEFT_OUT, LIFE, PACKAGE, mutant

SETTLE: Final = f"{PACKAGE}/usecases/settling/settle.py"
PAY: Final = f"{PACKAGE}/usecases/settling/pay.py"
CONFIRM: Final = f"{PACKAGE}/usecases/settling/confirm.py"
RESEND: Final = f"{PACKAGE}/usecases/settling/resend.py"
LEDGER: Final = f"{PACKAGE}/evm/ledger.py"
VALUES: Final = f"{PACKAGE}/evm/values.py"
_REFUSING: Final = "tests/integration/settlement/test_refusing_node.py"
_NODES: Final = "tests/integration/settlement/test_world_of_nodes.py"
_SETTLING: Final = "tests/integration/settlement/test_settling.py"
_FACTS: Final = "tests/integration/settlement/test_facts.py"
_OTHER_NODES: Final = "tests/integration/settlement/test_other_nodes.py"

MUTANTS: Final = (
    mutant(
        "the_ask_bears_an_empty_escrow",
        "the buyer is short: the bid is rejected, not the ask",
        LIFE,
        (CONFIRM, 'Skip.INSUFFICIENT_ESCROW: "insufficient_escrow"', 'Skip.INSUFFICIENT_ESCROW: "lock_rejected"'),
    ),
    mutant(
        "a_device_of_two_fields_keeps_its_energy_reserved_for_a_day",
        "what nobody will tell of is not waited for",
        (f"{LEFT_OUT}::test_a_device_of_two_fields_sells_and_its_delivery_ends_unreported_without_an_alarm",),
        (
            f"{PACKAGE}/postgres/settleable.py",
            "THEN %(window_s)s ELSE least(%(window_s)s, %(unreported_s)s) END",
            "THEN %(window_s)s ELSE greatest(%(window_s)s, %(unreported_s)s) END",
        ),
    ),
    mutant(
        "a_delivery_is_never_ordered",
        "what is paid is delivered",
        LIFE,
        (f"{PACKAGE}/postgres/settleable.py", "delivery = coalesce(delivery, 'Owed')", "delivery = delivery"),
    ),
    mutant(
        "sent_before_it_is_stored",
        "a process that dies in between has paid what nobody knows of",
        LIFE,
        (
            PAY,
            "    try:\n        with sweep.transaction() as conn:\n            if not leases.still_held(",
            "    sweep.ledger.send(signed.raw)\n    try:\n        with sweep.transaction() as conn:\n            if not leases.still_held(",
        ),
    ),
    mutant(
        "confirmed_at_once",
        "a payment counts only some blocks deep",
        LIFE,
        (CONFIRM, "if depth < sweep.rules.confirmations:", "if depth < 1:"),
    ),
    mutant(
        "a_payment_that_is_gone_stays_confirmed",
        "a reorganisation puts the trades of its blocks back",
        (f"{FAULTS}::test_a_reorganisation_before_finality_puts_a_trade_back_and_the_same_bytes_pay_it",),
        (
            f"{PACKAGE}/postgres/batches.py",
            "            FROM paid WHERE t.id = paid.id AND t.status = 'Confirmed'",
            "            FROM paid WHERE t.id = paid.id AND t.status = 'Submitted'",
        ),
    ),
    mutant(
        "reorganisations_are_not_looked_for",
        "a batch whose block is another one's now has to be asked for again",
        (f"{FAULTS}::test_a_payment_that_the_other_branch_refused_is_taken_back_at_the_next_look",),
        (CONFIRM, "undisturbed = newest is None or stands[newest.id] is True", "undisturbed = True"),
    ),
    mutant(
        "a_node_that_is_behind_takes_payments_back",
        "what a node does not know is no proof",
        (f"{_REFUSING}::test_a_node_that_fell_behind_takes_nothing_back",),
        (
            CONFIRM,
            "        if stands[batch.id] is False:\n            _put_back(sweep, batch)",
            "        if not stands[batch.id]:\n            _put_back(sweep, batch)",
        ),
    ),
    mutant(
        "what_cannot_be_estimated_ends_the_sweep",
        "an estimate that is refused in any words is asked for less",
        (f"{_REFUSING}::test_what_is_too_big_for_a_block_and_cannot_even_be_estimated_is_halved",),
        (
            PAY,
            "    except Refused as refusal:\n        if alone:\n            sweep.ledger.gas_for([])",
            "    except Refused as refusal:\n        if members:\n            raise\n        if alone:\n            sweep.ledger.gas_for([])",
        ),
    ),
    mutant(
        "what_was_refused_is_outbid_for_ever",
        "a form that the node refused is not about",
        (f"{_REFUSING}::test_above_the_ceiling_nothing_is_signed_and_a_spike_that_is_over_leaves_nothing_behind",),
        (RESEND, "    if batch.newest_refusal not in {None, Sent.REFUSED.value}:\n        return True\n", ""),
    ),
    mutant(
        "what_a_smaller_form_leaves_out_stays_behind",
        "what a mined form did not carry goes into another batch",
        (f"{_REFUSING}::test_a_batch_that_is_refused_for_its_size_goes_in_parts_under_the_same_nonce",),
        (CONFIRM, "    _free_left_out(sweep, batch, receipt)\n", ""),
    ),
    mutant(
        "a_begun_delivery_is_begun_again",
        "a delivery outlives a reorganisation",
        (f"{FAULTS}::test_a_delivery_that_began_is_not_begun_again_after_a_reorganisation",),
        (f"{PACKAGE}/postgres/settleable.py", "delivery = coalesce(delivery, 'Owed')", "delivery = 'Owed'"),
    ),
    mutant(
        "a_trade_fails_before_finality",
        "a reorganisation may yet pay what a block skipped",
        (
            f"{FAULTS}::test_a_buyer_who_withdraws_in_a_reorganisation_is_found_out",
            f"{_SETTLING}::test_a_buyer_short_of_escrow_loses_the_bid_and_the_ask_is_open_again",
            f"{FAULTS}::test_a_reorganisation_before_finality_puts_a_trade_back_and_the_same_bytes_pay_it",
        ),
        (
            CONFIRM,
            "if depth >= sweep.rules.finality_blocks:\n        _finish",
            "if depth >= sweep.rules.confirmations:\n        _finish",
        ),
    ),
    mutant(
        "a_stored_trade_expires_by_our_clock",
        "what was signed fails only on the chain's word",
        (
            f"{FAULTS}::test_a_signed_trade_is_overdue_by_the_chains_clock_not_by_ours",
            f"{_SETTLING}::test_a_trade_that_is_stored_fails_only_on_the_chains_word",
        ),
        (
            f"{PACKAGE}/postgres/settleable.py",
            "WHERE status = 'Locked' AND batch_id IS NULL AND valid_until < clock_timestamp()",
            "WHERE status = 'Locked' AND valid_until < clock_timestamp()",
        ),
    ),
    mutant(
        "nothing_expires_unpaid",
        "a trade that cannot be paid any more ends",
        LIFE,
        (
            f"{PACKAGE}/postgres/settleable.py",
            "WHERE status = 'Locked' AND batch_id IS NULL AND valid_until < clock_timestamp()",
            "WHERE status = 'Locked' AND batch_id IS NULL AND valid_until IS NULL",
        ),
    ),
    mutant(
        "a_trade_with_no_time_left_is_sent",
        "it would likely only burn gas",
        (f"{_SETTLING}::test_a_trade_with_too_little_time_left_is_not_sent",),
        (
            f"{PACKAGE}/postgres/settleable.py",
            "AND t.valid_until > greatest(clock_timestamp(), %s) + make_interval(secs => %s)",
            "AND t.valid_until > least(clock_timestamp(), %s) - make_interval(secs => %s)",
        ),
    ),
    mutant(
        "a_replacement_takes_a_new_nonce",
        "both could be mined",
        (f"{FAULTS}::test_when_the_base_fee_outgrows_a_transaction_it_is_replaced_at_once",),
        (LEDGER, '"gas": old["gas"]}, old["nonce"], fees', '"gas": old["gas"]}, old["nonce"] + 1, fees'),
    ),
    mutant(
        "a_replacement_pays_no_more",
        "the pool keeps the one that is stuck",
        (f"{FAULTS}::test_a_stuck_transaction_is_replaced_with_higher_fees_under_its_nonce",),
        (
            LEDGER,
            "max_fee_per_gas=max(self.max_fee_per_gas, _raised(old.max_fee_per_gas)),",
            "max_fee_per_gas=self.max_fee_per_gas,",
        ),
    ),
    mutant(
        "what_the_node_forgot_is_not_sent_again",
        "the same bytes are sent until they are mined",
        LIFE,
        (
            RESEND,
            "elif batch.since_sent_s is None or batch.since_sent_s >= sweep.rules.resend_after_s:",
            "elif batch.since_sent_s is None and batch.nonce < 0:",
        ),
    ),
    mutant(
        "halving_never_ends",
        "the culprit stands alone in the end",
        (f"{FAULTS}::test_a_batch_that_reverts_is_halved_until_the_culprit_stands_alone_and_fails",),
        (PAY, "middle = (len(members) + 1) // 2", "middle = len(members)"),
    ),
    mutant(
        "one_culprit_fails_all",
        "a trade that is refused does not undo the others of its batch",
        (
            f"{FAULTS}::test_a_batch_that_reverts_is_halved_until_the_culprit_stands_alone_and_fails",
            f"{FAULTS}::test_a_culprit_that_was_never_signed_for_fails_at_once",
        ),
        (
            PAY,
            "        if alone:\n            if sweep.ledger.reverts(payments, at=sweep.view.head):\n                _give_up(sweep, members[0], reason=str(refusal))\n            return",
            "        for one in members:\n            _give_up(sweep, one, reason=str(refusal))\n        return",
        ),
    ),
    mutant(
        "a_batch_is_stored_without_its_trades",
        "of a batch that somebody else has moved a trade of, nothing may be stored",
        (f"{FAULTS}::test_a_batch_is_not_stored_if_one_of_its_trades_is_no_longer_locked",),
        (f"{PACKAGE}/postgres/batches.py", "return batch_id if submitted == len(trades) else None", "return batch_id"),
    ),
    mutant(
        "a_sweep_leaves_the_note_that_it_was_woken",
        "what is locked while a sweep is at work wakes another",
        (f"{FAULTS}::test_a_sweep_is_woken_once_until_it_begins",),
        (SETTLE, "leases.clear(conn, WOKEN)", "pass"),
    ),
    mutant(
        "a_signed_nonce_is_given_away",
        "what the node forgot, still has its nonce",
        (f"{FAULTS}::test_a_nonce_of_something_that_the_node_forgot_is_not_given_away",),
        (PAY, "        if nonce not in used:\n", "        if nonce >= 0 or nonce not in used:\n"),
    ),
    mutant(
        "a_taken_nonce_is_waited_for_in_vain",
        "a batch whose nonce somebody else used goes under another",
        LIFE,
        (
            CONFIRM,
            "    if batch.nonce >= sweep.ledger.nonce_at(sweep.view.head.number - sweep.rules.confirmations + 1):\n        return\n",
            "    if batch.nonce >= 0:\n        return\n",
        ),
    ),
    mutant(
        "a_gap_is_not_filled",
        "what waits behind a nonce that nobody uses is never mined",
        (f"{FAULTS}::test_a_gap_that_somebody_else_left_is_filled",),
        (
            PAY,
            "if next_nonce == sweep.view.nonce_pending and any(b.nonce > next_nonce for b in waiting):",
            "if next_nonce < 0:",
        ),
    ),
    mutant(
        "signing_without_gas_money",
        "what cannot be paid for is not signed",
        (f"{FAULTS}::test_an_operator_without_gas_money_stores_nothing_and_says_so",),
        (PAY, "if cost_wei > balance_wei:", "if cost_wei < 0:"),
    ),
    mutant(
        "a_quiet_chain_stays_quiet",
        "on a chain without empty blocks a payment gets deep enough",
        (f"{_OTHER_NODES}::test_on_a_chain_without_empty_blocks_a_payment_gets_deep_enough_by_empty_batches",),
        (SETTLE, "            end_the_quiet(sweep)\n", ""),
    ),
    mutant(
        "the_parameter_is_believed",
        "amounts are in the unit that the token says, and a parameter that contradicts it stops payments",
        (f"{_FACTS}::test_a_parameter_that_the_token_contradicts_stops_payments_with_a_sentence",),
        (LEDGER, "self.gaps = node_check.contradictions(facts, self.expected)", "self.gaps = []"),
    ),
    mutant(
        "the_wrong_amount_is_paid",
        "what is paid is energy times price",
        LIFE,
        (LEDGER, "p.amount_nano * unit", "(p.amount_nano + 1) * unit"),
    ),
    mutant(
        "the_wrong_side_is_paid",
        "the buyer pays the seller",
        LIFE,
        (
            f"{PACKAGE}/postgres/settleable.py",
            "JOIN users buyer ON buyer.id = t.recipient_id\n            JOIN users seller ON seller.id = t.donor_id",
            "JOIN users buyer ON buyer.id = t.donor_id\n            JOIN users seller ON seller.id = t.recipient_id",
        ),
    ),
    mutant(
        "over_the_limit_is_for_ever",
        "a trade that the period had no room for is never tried again",
        (
            "tests/integration/settlement/test_limit.py::test_a_trade_that_the_chain_calls_over_the_limit_is_tried_again_and_paid_once",
        ),
        (CONFIRM, "    _try_again(sweep, batch, receipt)\n", ""),
    ),
    mutant(
        "what_is_sent_does_not_count_against_the_limit",
        "gas is spent on trades that the contract will skip",
        ("tests/integration/settlement/test_limit.py::test_what_waits_to_be_mined_counts",),
        (
            PAY,
            "room_nano -= settleable.unmined_nano(conn, sweep.account, contract=sweep.ledger.contract)",
            "settleable.unmined_nano(conn, sweep.account, contract=sweep.ledger.contract)",
        ),
    ),
    mutant(
        "a_hash_is_kept_as_the_node_spells_it",
        "a hash in capitals is the same hash",
        (f"{_NODES}::test_a_settlement_ends_through_each_way_of_nodes",),
        (VALUES, "    return answer.lower()\n", "    return answer\n"),
    ),
    mutant(
        "a_receipt_without_status_is_of_a_batch_that_was_undone",
        "chains by older rules have no status, and events tell",
        (f"{_NODES}::test_a_settlement_ends_through_each_way_of_nodes",),
        (LEDGER, "succeeded=bool(paid or skipped) if status is None", "succeeded=False if status is None"),
    ),
    mutant(
        "a_trade_above_the_limit_waits",
        "a trade that the contract can never pay does not wait for its time",
        (
            "tests/integration/settlement/test_limit.py::test_a_trade_above_a_limit_that_was_lowered_fails_at_once_and_costs_the_bid",
        ),
        (PAY, "if trade.amount_nano > sweep.ledger.limit_nano}", "if trade.amount_nano < 0}"),
    ),
)
