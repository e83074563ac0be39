# ruff: noqa: E501 -- the product's lines as they are
"""Bugs that were never written: each a small change of the product, and what must find it.

Those marked `LIFE` break what is promised about energy, money, locks or priority, and must be found by the state
machine of `tests/integration/test_whole_life.py`; the others by the tests that they name. A change of the product that
moves a line named here moves it here, too: `tests/unit/test_mutants.py` finds each text, exactly once.
"""

from dataclasses import dataclass
from typing import Final

PACKAGE: Final = "layers/energy_market/energy_market"
MATCHING: Final = f"{PACKAGE}/domain/matching.py"
DEVICES: Final = f"{PACKAGE}/postgres/devices.py"
CERTIFICATES: Final = f"{PACKAGE}/postgres/certificates.py"
ORDERS: Final = f"{PACKAGE}/postgres/orders.py"
TRADES: Final = f"{PACKAGE}/postgres/trades.py"
COMMANDS: Final = f"{PACKAGE}/postgres/commands.py"
SETTLEMENT: Final = f"{PACKAGE}/postgres/settlement.py"
LEASES: Final = f"{PACKAGE}/postgres/leases.py"
BOOK: Final = f"{PACKAGE}/postgres/book.py"
CANDIDATES: Final = f"{PACKAGE}/domain/candidates.py"
CHANGES: Final = "infra/migrations/0005_the_tick_looks_at_what_changed.sql"
SHOWN: Final = "infra/migrations/0013_the_book_shows_what_can_trade.sql"
TURNS: Final = "infra/migrations/0015_a_failure_costs_a_turn.sql"
FED: Final = "infra/migrations/0016_what_was_fed_is_counted_once.sql"
BY_PRICE: Final = f"{PACKAGE}/postgres/market.py"
RUN_TICK: Final = f"{PACKAGE}/usecases/run_tick.py"
LOCK_RESPONSE: Final = f"{PACKAGE}/usecases/record_lock_response.py"
TELEMETRY: Final = f"{PACKAGE}/usecases/record_telemetry.py"
SETTLE: Final = f"{PACKAGE}/usecases/settling/settle.py"
PAY: Final = f"{PACKAGE}/usecases/settling/pay.py"
PUBLISH: Final = f"{PACKAGE}/usecases/publish_commands.py"
WAKE: Final = f"{PACKAGE}/usecases/wake_sweep.py"
CONFIRM: Final = f"{PACKAGE}/usecases/settling/confirm.py"
RESEND: Final = f"{PACKAGE}/usecases/settling/resend.py"
ONCE: Final = f"{PACKAGE}/usecases/answer_once.py"
REGISTER: Final = f"{PACKAGE}/usecases/register_device.py"
LEDGER: Final = f"{PACKAGE}/evm/ledger.py"
VALUES: Final = f"{PACKAGE}/evm/values.py"
DATABASE: Final = f"{PACKAGE}/database.py"
CONTRACT: Final = "infra/contracts/EnergySettlement.sol"

LIFE: Final = ("the state machine",)
_FAULTS: Final = "tests/integration/settlement/test_faults.py"
_REFUSING: Final = "tests/integration/settlement/test_refusing_node.py"
_NODES: Final = "tests/integration/settlement/test_world_of_nodes.py"
_SETTLING: Final = "tests/integration/settlement/test_settling.py"
_FACTS: Final = "tests/integration/settlement/test_facts.py"
_GATE: Final = "tests/integration/test_chain_gate.py"
_OTHER_NODES: Final = "tests/integration/settlement/test_other_nodes.py"
_LOCKS: Final = "tests/integration/test_locks_and_reports.py"
_LEFT_OUT: Final = "tests/integration/test_what_devices_leave_out.py"
_MESSAGES: Final = "tests/integration/test_message_faults.py"
_MATCHES: Final = "tests/integration/test_matches.py"
_TICKS: Final = "tests/integration/test_orders_and_ticks.py"
_DELIVERIES: Final = "tests/integration/test_deliveries.py"
_LOST: Final = "tests/integration/test_lost_devices.py"
_REGISTERING: Final = "tests/integration/test_iot_api.py"
_CERTIFICATES: Final = "tests/integration/test_certificates.py"
_MARKET: Final = "tests/integration/test_market_api.py"
_HISTORY: Final = "tests/integration/test_history.py"
_SHOWN: Final = "tests/integration/test_what_is_shown.py"
_READS: Final = "tests/integration/test_market_reads.py"
_SILENCE: Final = "tests/integration/test_silence.py"
_FED: Final = "tests/integration/test_fed_once.py"
_AUTH: Final = "tests/integration/test_auth_api.py"
_SIGN_IN: Final = "tests/integration/test_sign_in.py"
_AUTHORISATION: Final = "tests/integration/test_authorisation.py"
_HTTP: Final = "tests/integration/test_http.py"
_CONTRACT: Final = "tests/contracts/test_settlement_contract.py"
_ADMIN: Final = "tests/integration/test_admin_api.py"
_POOLERS: Final = "tests/integration/test_poolers.py"
_SILENT: Final = "tests/integration/test_silent_database.py"


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """`old` stands exactly once in the file, and gives way to `new`."""

    file: str
    old: str
    new: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """A bug. `found_by`: LIFE, or tests, each by its file and name."""

    name: str
    why: str
    edits: tuple[Edit, ...]
    found_by: tuple[str, ...]


def _mutant(name: str, why: str, found_by: tuple[str, ...], *edits: tuple[str, str, str]) -> Mutant:
    return Mutant(
        name=name,
        why=why,
        edits=tuple(Edit(file=file, old=old, new=new) for file, old, new in edits),
        found_by=found_by,
    )


MUTANTS: Final = (
    # ------------------------------------------------------------------------------------------------- the rule
    _mutant(
        "the_oldest_ask_before_the_cheapest",
        "price goes before time",
        LIFE,
        (CANDIDATES, "_merged(one.whole_asks, other.whole_asks)", "sorted(_merged(one.whole_asks, other.whole_asks), key=lambda o: (o[0], o[2]))"),
    ),
    _mutant(
        "the_youngest_ask_first",
        "at one price the older trades first",
        LIFE,
        (CANDIDATES, "_merged(one.whole_asks, other.whole_asks)", "sorted(_merged(one.whole_asks, other.whole_asks), key=lambda o: (o[0], o[1], -o[2]))"),
    ),
    _mutant(
        "the_cheapest_bid_first",
        "the dearest bid trades first",
        LIFE,
        (CANDIDATES, "_merged(one.whole_bids, other.whole_bids)", "sorted(_merged(one.whole_bids, other.whole_bids), key=lambda o: (o[0], -o[1], o[2]))"),
    ),
    _mutant(
        "the_youngest_bid_first",
        "a bid that is put back has lost its place",
        LIFE,
        (CANDIDATES, "_merged(one.whole_bids, other.whole_bids)", "sorted(_merged(one.whole_bids, other.whole_bids), key=lambda o: (o[0], o[1], -o[2]))"),
    ),
    _mutant(
        "the_price_of_the_younger_order",
        "the older order's price is the trade's",
        LIFE,
        (MATCHING, "size, price if arrival < bid_arrival else -bid_price))\n            if not waiting", "size, price if arrival > bid_arrival else -bid_price))\n            if not waiting"),
    ),
    _mutant(
        "a_bid_below_the_ask",
        "a trade must lie within both limits",
        LIFE,
        (MATCHING, "if price + bid_price > 0:\n                break", "if False:\n                break"),
    ),
    _mutant(
        "one_trades_with_himself",
        "nobody trades with himself",
        LIFE,
        (MATCHING, "if user == bid_user:", "if False:"),
    ),
    _mutant(
        "a_whole_bid_is_split",
        "an all-or-none order trades wholly or not at all",
        LIFE,
        (MATCHING, "if not energy or -energy > tradable or bid_user == user:", "if not energy or bid_user == user:"),
        (MATCHING, "energy = abs(energy)\n", "energy = min(abs(energy), tradable)\n"),
        (BOOK, "o.arrival = shrunk.arrival AND NOT o.all_or_none", "o.arrival = shrunk.arrival"),
    ),
    _mutant(
        "a_whole_ask_above_its_devices_free_energy",
        "a device promises no more than it has",
        LIFE,
        (MATCHING, "            if left < 0:\n", "            if False:\n"),
    ),
    _mutant(
        "free_energy_does_not_fall_during_a_tick",
        "two asks of one device sell the same energy in one tick",
        ("tests/unit/test_matching.py::test_a_device_promises_no_more_than_its_free_energy",),
        (MATCHING, "            left_wh[device] = left\n", "            left_wh[device] = left + size\n"),
    ),
    # ------------------------------------------------------------------------------------------------- the book
    _mutant(
        "free_energy_forgets_promises",
        "what is promised is sold again by the next tick",
        LIFE,
        (DEVICES, '"SELECT d.no, (d.available_wh - (" + _TRADED + ") -', '"SELECT d.no, (d.available_wh - 0 * (" + _TRADED + ") -'),
    ),
    _mutant(
        "free_energy_forgets_what_is_locked",
        "a lock does not end a promise",
        LIFE,
        (DEVICES, '" FROM transactions t WHERE t.device_id = d.id AND "', '" FROM transactions t WHERE t.status IN (\'Pending\', \'Confirmed\') AND t.device_id = d.id AND "'),
    ),
    _mutant(
        "what_falls_short_stays_promised",
        "energy that is not delivered any more may be sold",
        LIFE,
        (f"{PACKAGE}/postgres/deliveries.py", "CASE WHEN t.status = 'Failed' OR t.delivery IN ('Delivered', 'Short') THEN", "CASE WHEN t.status = 'Failed' OR t.delivery = 'Delivered' THEN"),
    ),
    _mutant(
        "devices_that_are_away_are_matched",
        "an ask takes part only while its device is there",
        LIFE,
        (DEVICES, "\"d.status = 'Online' AND d.silent_since IS NULL", '"d.silent_since IS NULL'),
    ),
    _mutant(
        "devices_that_are_silent_are_matched",
        "a device that let a lock run out waits for its next status",
        LIFE,
        (DEVICES, "AND d.silent_since IS NULL AND d.paused_until", "AND d.paused_until"),
    ),
    _mutant(
        "devices_not_heard_of_are_matched",
        "an ask takes part only while its device was heard of lately",
        LIFE,
        (DEVICES, 'AND d.last_ping > now() - make_interval(secs => %(online_s)s)"\n', 'AND %(online_s)s > 0"\n'),
    ),
    _mutant(
        "who_commits_late_is_never_seen",
        "an order may be written by a transaction that began before the tick and ended after it",
        ("tests/integration/test_matches.py::test_an_order_that_commits_after_a_later_one_was_seen_is_seen",),
        (BOOK, '"{0} >= pg_snapshot_xmin({1}) AND NOT pg_visible_in_snapshot({0}, {1})"', '"{0} >= pg_snapshot_xmax({1})"'),
    ),
    _mutant(
        "what_is_beyond_the_limit_is_not_new",
        "more new orders than a tick looks at one by one make it look at all that crosses",
        ("tests/integration/test_matches.py::test_more_new_orders_than_are_looked_at_one_by_one_are_all_seen",),
        (BOOK, "if len(rows) > limit:", "if len(rows) > 2 * limit:"),
    ),
    _mutant(
        "what_came_back_is_not_new",
        "an order that grows may trade again",
        ("tests/integration/test_matches.py::test_a_bid_that_grows_again_meets_an_ask_that_was_too_large_for_it",),
        (SHOWN, "WHEN (NEW.remaining_wh > OLD.remaining_wh OR NEW.device_id", "WHEN (NEW.device_id"),
    ),
    _mutant(
        "a_device_that_is_back_is_not_new",
        "the asks of a device that is there again may trade again",
        LIFE,
        (TURNS, "IF OLD.status <> 'Online'\n        OR NEW.silent_since", "IF NEW.silent_since"),
    ),
    _mutant(
        "released_energy_is_not_new",
        "what a failed trade gives back may be sold",
        LIFE,
        (CHANGES, "NEW.released := pg_current_xact_id();", "NULL;"),
    ),
    _mutant(
        "a_match_is_no_promise",
        "what is matched, and not a trade yet, is sold again by the next tick",
        ("tests/integration/test_matches.py::test_a_match_counts_as_matched_and_as_promised_before_it_is_a_trade",),
        (DEVICES, "- coalesce(m.energy_wh, 0))::bigint", "- 0 * coalesce(m.energy_wh, 0))::bigint"),
    ),
    _mutant(
        "a_tick_that_was_cut_off_has_seen_all",
        "what it did not come to would wait for the next look at the whole book",
        ("tests/integration/test_bounds.py::test_a_tick_takes_the_best_of_a_long_book_and_the_next_one_the_others",),
        (RUN_TICK, "is_all = not bounds.any() and len(matches) <= MAX_MATCHES", "is_all = True"),
    ),
    _mutant(
        "a_level_keeps_who_has_left",
        "the levels of the book are what its orders show",
        (f"{_READS}::test_the_levels_are_what_all_that_is_shown_adds_up_to_at_any_moment",),
        (SHOWN, "-sum(shown_wh), -count(*) FROM old_rows", "0 * sum(shown_wh), 0 * count(*) FROM old_rows"),
    ),
    _mutant(
        "the_book_shows_what_has_run_out",
        "an order whose time is over is not in the book, whether or not a tick has closed it",
        (f"{_READS}::test_the_levels_are_what_all_that_is_shown_adds_up_to_at_any_moment",),
        (BY_PRICE, "AND expires_at <= now()\n    )", "AND expires_at <= now() - interval '1 day'\n    )"),
    ),
    _mutant(
        "a_level_is_forgotten_when_its_orders_are_none_yet",
        "changes are added up in whatever order they are found",
        (f"{_READS}::test_changes_may_be_added_up_in_any_order_and_few_at_a_time",),
        (BY_PRICE, " AND l.energy_wh + c.energy_wh = 0 THEN DELETE", " THEN DELETE"),
    ),
    _mutant(
        "somebody_elses_device_sells",
        "an order belongs to a donor device of its owner",
        (f"{_MARKET}::test_a_refused_order_keeps_no_key",),
        (ORDERS, "ELSE %(device)s = ANY (donors.ids) END", "ELSE true END"),
    ),
    _mutant(
        "a_token_that_anybody_signed",
        "a token counts with the signature of one of our keys",
        ("tests/unit/test_tokens.py::test_a_token_that_is_not_exactly_ours_is_refused",),
        (f"{PACKAGE}/domain/tokens.py", '"strict_aud": True,', '"strict_aud": True, "verify_signature": False,'),
    ),
    _mutant(
        "orders_never_expire",
        "an order whose time in force has passed is closed",
        LIFE,
        (ORDERS, "WHERE b.expires_at <= now() AND b.zone = %s", "WHERE b.expires_at <= now() - interval '1 day' AND b.zone = %s"),
    ),
    _mutant(
        "the_book_is_not_looked_at_again",
        "an order that was cancelled between reading and writing is matched",
        LIFE,
        (BOOK, "WHERE (SELECT count(*) FROM filled) + (SELECT count(*) FROM shrunk) = %(orders)s", "WHERE %(orders)s > 0"),
        (BOOK, 'conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")', 'conn.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")'),
    ),
    _mutant(
        "two_ticks_at_once",
        "ticks of a zone never overlap",
        LIFE,
        (f"{PACKAGE}/postgres/zones.py", "return bool(row[0])", "return True"),
    ),
    _mutant(
        "a_zone_fails_in_silence",
        "a zone whose tick fails is an error of its function, which has an alarm",
        ("tests/integration/test_loop_faults.py::test_zones_are_ticked_at_once_and_one_that_hangs_or_fails_holds_up_neither_another_nor_the_commands",),
        ("functions/matching/app.py", "        raise\n    duration_ms", '        return {"trades": 0}\n    duration_ms'),
    ),
    _mutant(
        "a_remainder_leaves_the_book",
        "a partly filled order stays with what is left of it",
        LIFE,
        (BOOK, "filled = [arrival for arrival in taken if not left_wh.get(arrival)]", "filled = taken"),
        (BOOK, "shrunk = [arrival for arrival in taken if left_wh.get(arrival)]", "shrunk: list[int] = []"),
    ),
    _mutant(
        "a_cancelled_order_stays_in_the_book",
        "what was cancelled is not matched",
        LIFE,
        (ORDERS, "WITH withdrawn AS (DELETE FROM open_orders WHERE order_id = %s RETURNING order_id)", "WITH withdrawn AS (SELECT order_id FROM open_orders WHERE order_id = %s)"),
    ),
    _mutant(
        "anybody_cancels",
        "an order is its owner's",
        (f"{_MARKET}::test_an_order_is_cancelled_by_its_owner_once",),
        (f"{PACKAGE}/usecases/cancel_order.py", "if orders.owner(conn, order_id) != user_id:", "if orders.owner(conn, order_id) is None:"),
    ),
    # ------------------------------------------------------------------------------------------- locks and failures
    _mutant(
        "a_lock_counts_after_its_deadline",
        "a late answer never settles",
        LIFE,
        (TRADES, "AND status = 'Pending' AND expires_at > clock_timestamp()\n            \"\"\"", "AND status = 'Pending'\n            \"\"\""),
    ),
    _mutant(
        "a_lock_revives_a_failed_trade",
        "a dropped `WHERE status =`",
        LIFE,
        (TRADES, "AND status = 'Pending' AND expires_at > clock_timestamp()\n            \"\"\"", 'AND failed_at IS NULL AND expires_at > clock_timestamp()\n            """'),
    ),
    _mutant(
        "any_device_locks",
        "only the trade's own device answers for it",
        LIFE,
        (TRADES, "WHERE id = %s AND device_id = %s AND sell_order_id = %s\n              AND status = 'Pending'", "WHERE id = %s AND (device_id = %s OR true) AND sell_order_id = %s\n              AND status = 'Pending'"),
    ),
    _mutant(
        "the_order_of_an_answer_is_not_compared",
        "an answer that names another order means no trade",
        LIFE,
        (TRADES, "WHERE id = %s AND device_id = %s AND sell_order_id = %s\n              AND status = 'Pending'", "WHERE id = %s AND device_id = %s AND (sell_order_id = %s OR true)\n              AND status = 'Pending'"),
    ),
    _mutant(
        "the_client_of_a_topic_is_not_compared",
        "a device speaks under another's topic",
        LIFE,
        (f"{PACKAGE}/messages/received.py", "if message.client_id != device_id:", "if not message.client_id:"),
    ),
    _mutant(
        "anybody_speaks_for_a_device",
        "a message counts under a certificate of its device only",
        (f"{_CERTIFICATES}::test_under_no_certificate_or_a_foreign_one_nothing_that_is_said_of_a_device_counts",),
        (f"{PACKAGE}/usecases/recognise_device.py", 'raise Dropped("unknown_certificate")', "return False"),
    ),
    _mutant(
        "a_certificate_that_has_ended_speaks_on",
        "what is revoked counts no more",
        (f"{_CERTIFICATES}::test_under_a_revoked_certificate_nothing_counts_and_the_device_is_not_matched",),
        (CERTIFICATES, "WHERE c.id = %s AND c.device_id = %s AND (c.valid_until IS NULL OR c.valid_until > clock_timestamp())", "WHERE c.id = %s AND c.device_id = %s AND (c.valid_until IS NULL OR true)"),
    ),
    _mutant(
        "a_certificate_is_let_in_before_it_is_written_down",
        "nothing is active that nobody knows of",
        (f"{_REGISTERING}::test_a_certificate_opens_no_door_before_it_is_written_down",),
        (f"{PACKAGE}/aws/registry.py", "iot.create_keys_and_certificate()", "iot.create_keys_and_certificate(setAsActive=True)"),
    ),
    _mutant(
        "a_device_goes_with_what_it_owes",
        "who was paid delivers",
        (f"{_CERTIFICATES}::test_a_device_that_owes_energy_is_not_removed_by_its_owner",),
        (f"{PACKAGE}/usecases/remove_device.py", "if owner_id is not None and deliveries.owed_by_device(conn, device_id):", "if owner_id is not None and not device_id:"),
    ),
    _mutant(
        "somebody_elses_device_is_removed",
        "a device is its owner's",
        (f"{_CERTIFICATES}::test_somebody_elses_device_is_nobodys",),
        (DEVICES, "WHERE id = %s AND owner_id = coalesce(%s, owner_id) AND status NOT IN", "WHERE id = %s AND owner_id = coalesce(owner_id, %s) AND status NOT IN"),
        (DEVICES, "AND id = coalesce(%s, id) FOR NO KEY UPDATE", "AND id = coalesce(id, %s) FOR NO KEY UPDATE"),
    ),
    _mutant(
        "a_nameless_answer_counts_for_one_of_several_trades",
        "it is not known which of them the device means",
        (f"{_LOCKS}::test_an_answer_of_two_fields_means_nothing_once_the_order_has_had_two_trades",),
        (TRADES, "return rows[0][0] if len(rows) == 1 else None", "return rows[0][0] if rows else None"),
    ),
    _mutant(
        "a_refusal_fails_a_paid_trade",
        "a dropped `WHERE status =`: a contradicting answer undoes what is settled",
        LIFE,
        (TRADES, "WHERE id = ANY (%(ids)s) AND status = %(expected)s\n            RETURNING id, sell_order_id", "WHERE id = ANY (%(ids)s) AND status <> 'Failed'\n            RETURNING id, sell_order_id"),
    ),
    _mutant(
        "locks_never_run_out",
        "silence fails a trade at its deadline",
        LIFE,
        (TRADES, "WHERE status = 'Pending' AND expires_at <= clock_timestamp() AND zone = %s", "WHERE status = 'Pending' AND expires_at <= clock_timestamp() - interval '1 hour' AND zone = %s"),
    ),
    _mutant(
        "silence_has_no_consequence",
        "a device that let a lock run out is matched again at once",
        LIFE,
        (RUN_TICK, "    devices.wait_for_status(conn, failed)\n", ""),
    ),
    _mutant(
        "a_device_that_fails_again_and_again_never_pauses",
        "one cheap ask of a device that never answers does not hold up the best bid for ever",
        (f"{_SILENCE}::test_the_third_failure_in_a_row_rejects_the_order_and_makes_its_device_pause",),
        (DEVICES, "AND d.paused_until IS NULL AND d.available_wh > 0", "AND d.available_wh > 0"),
    ),
    _mutant(
        "the_end_of_a_pause_is_not_new",
        "a tick looks at nothing that only time has changed",
        (f"{_SILENCE}::test_the_end_of_a_pause_is_seen_by_the_next_tick_though_nothing_else_is_new",),
        (TURNS, "OR NEW.paused_until IS NULL AND OLD.paused_until IS NOT NULL", ""),
    ),
    _mutant(
        "one_silence_counts_by_its_trades",
        "a line that is down for a minute fails all that was matched before, once",
        (f"{_SILENCE}::test_what_was_matched_before_a_failure_was_noticed_fails_with_it_once",),
        (DEVICES, "CASE WHEN d.failed_at IS NULL OR d.failed_at < t.matched_at", "CASE WHEN true"),
    ),
    _mutant(
        "one_failure_ends_the_order",
        "an ask whose device failed it keeps its place in the book",
        LIFE,
        (TRADES, "f.failures >= %(max_failures)s THEN 'Rejected'", "f.failures >= 1 THEN 'Rejected'"),
    ),
    _mutant(
        "a_repeated_lock_moves_its_deadline",
        "a deadline is set once",
        LIFE,
        (COMMANDS, "SET expires_at = coalesce(expires_at, clock_timestamp() + make_interval(secs => %s)),", "SET expires_at = clock_timestamp() + make_interval(secs => %s),"),
    ),
    _mutant(
        "a_lost_lock_is_not_said_again",
        "the row is the outbox: what was claimed and not heard is repeated",
        (f"{_LOCKS}::test_a_lock_that_was_claimed_and_never_sent_is_sent_again_under_its_deadline",),
        (COMMANDS, "LOCK_REPEAT_S: Final = 4\n", "LOCK_REPEAT_S: Final = 4_000\n"),
    ),
    _mutant(
        "no_unlock_is_owed",
        "the energy of a failed trade stays reserved until a status happens to list it",
        LIFE,
        (TRADES, "unlock = CASE WHEN expires_at IS NOT NULL AND %(reason)s <> 'lock_rejected' THEN 'Owed' END,", "unlock = NULL,"),
    ),
    _mutant(
        "what_a_status_still_lists_is_not_released",
        "a device that refused and holds nevertheless keeps the energy for ever",
        (f"{_LOCKS}::test_an_unlock_is_owed_until_the_device_no_longer_lists_the_lock",),
        (TELEMETRY, "        deliveries.owe_unlock(conn, device_id, status.locks, seq=status.seq)\n", ""),
    ),
    _mutant(
        "an_unlock_counts_before_it_was_said",
        "a status from before the lock was heard ends the unlock",
        LIFE,
        (f"{PACKAGE}/postgres/deliveries.py", "AND unlock = 'Owed' AND command_sent_at IS NOT NULL AND NOT id = ANY (%s)", "AND unlock = 'Owed' AND NOT id = ANY (%s)"),
    ),
    _mutant(
        "a_late_lock_is_not_released",
        "what was reserved too late is released again",
        (f"{_MESSAGES}::test_an_answer_after_its_deadline_locks_nothing",),
        (LOCK_RESPONSE, 'if status == "Failed":\n            deliveries.owe_unlock', 'if status == "Pending":\n            trades.owe_unlock'),
    ),
    _mutant(
        "locks_are_said_before_unlocks",
        "a device that still holds the old reservation refuses the new one",
        (f"{_LOCKS}::test_a_device_is_told_to_unlock_before_the_same_energy_is_locked_again",),
        (PUBLISH, "failed = publish(unlocks)", "failed = publish([])"),
        (PUBLISH, "publish(transfers)", "publish(transfers + unlocks)"),
    ),
    _mutant(
        "a_locks_time_runs_while_others_are_said",
        "a lock is claimed when its turn comes, and not before",
        (f"{_MATCHES}::test_a_locks_time_begins_when_its_turn_comes",),
        (PUBLISH, "limit = min(LOCKS_AT_ONCE, MAX_AT_ONCE - locks)", "limit = MAX_AT_ONCE"),
    ),
    _mutant(
        "locks_are_repeated_before_others_are_said_once",
        "silent devices do not hold up the others",
        (f"{_MATCHES}::test_a_lock_that_was_never_said_goes_before_those_that_are_said_again",),
        (COMMANDS, "ORDER BY command_sent_at NULLS FIRST, seq LIMIT", "ORDER BY seq LIMIT"),
    ),
    _mutant(
        "a_failed_trade_leaves_its_bid_out",
        "the bid is back in the book",
        LIFE,
        (TRADES, "            FROM open WHERE closed IS NULL\n", "            FROM open WHERE closed IS NULL AND type = 'sell'\n"),
    ),
    _mutant(
        "a_bid_comes_back_with_a_new_arrival",
        "the bid keeps its old place",
        LIFE,
        (TRADES, "SELECT id, zone, type, user_id, device_id, energy_wh, price_micro, arrival, all_or_none, expires_at\n            FROM open WHERE closed IS NULL", "SELECT id, zone, type, user_id, device_id, energy_wh, price_micro, arrival + 1000000, all_or_none, expires_at\n            FROM open WHERE closed IS NULL"),
    ),
    _mutant(
        "a_failing_trade_opens_a_closed_order",
        "what was cancelled meanwhile stays closed",
        LIFE,
        (TRADES, "            WHERE o.closed IS NULL\n            ORDER BY o.id FOR NO KEY UPDATE OF o", "            ORDER BY o.id FOR NO KEY UPDATE OF o"),
    ),
    _mutant(
        "a_rejected_ask_stays_in_the_book",
        "what another trade of it gave back is withdrawn, too",
        LIFE,
        (TRADES, "DELETE FROM open_orders WHERE order_id IN (SELECT id FROM open WHERE closed IS NOT NULL)", "DELETE FROM open_orders WHERE order_id IN (SELECT id FROM open WHERE closed IS NOT NULL AND type = 'buy')"),
    ),
    _mutant(
        "energy_that_comes_back_replaces_what_is_open",
        "an order that is partly open gets back what the trade took",
        LIFE,
        (TRADES, "SET remaining_wh = book.remaining_wh + EXCLUDED.remaining_wh", "SET remaining_wh = EXCLUDED.remaining_wh"),
    ),
    _mutant(
        "the_bid_bears_a_refused_lock",
        "the device refused: its ask bears it, not the bid",
        LIFE,
        (LOCK_RESPONSE, 'reason="lock_rejected", expected="Pending"', 'reason="insufficient_escrow", expected="Pending"'),
    ),
    _mutant(
        "the_ask_bears_an_empty_escrow",
        "the buyer is short: the bid is rejected, not the ask",
        LIFE,
        (CONFIRM, 'Skip.INSUFFICIENT_ESCROW: "insufficient_escrow"', 'Skip.INSUFFICIENT_ESCROW: "lock_rejected"'),
    ),
    # --------------------------------------------------------------------------------------------- reports, delivery
    _mutant(
        "old_statuses_count",
        "a status that was overtaken says what is not so any more",
        (f"{_LOCKS}::test_an_old_status_is_dropped",),
        (f"{PACKAGE}/postgres/device_reports.py", "ELSE status_seq IS NULL OR status_seq < %(seq)s\n", "ELSE true\n"),
    ),
    _mutant(
        "what_was_delivered_stays_available",
        "energy that left the house is sold again before the next status",
        LIFE,
        (f"{PACKAGE}/postgres/deliveries.py", "THEN t.delivered_wh ELSE t.energy_wh END", "THEN 0 ELSE t.energy_wh END"),
    ),
    _mutant(
        "what_was_fed_stays_promised",
        "what was fed before a status is in its available energy no more, and is not promised any more",
        (f"{_FED}::test_what_was_fed_before_a_status_is_not_promised_any_more", f"{_FED}::test_no_order_of_messages_counts_anything_twice"),
        (TELEMETRY, "    if status.available_wh is not None:\n        deliveries.count_fed", "    if not status:\n        deliveries.count_fed"),
    ),
    _mutant(
        "what_was_fed_after_a_status_counts_as_before_it",
        "a report that was said after a status tells of energy that the status still has",
        (f"{_FED}::test_no_order_of_messages_counts_anything_twice",),
        (f"{PACKAGE}/postgres/deliveries.py", "OR r.seq < s.seq AND r.heard_at", "OR true AND r.heard_at"),
    ),
    _mutant(
        "energy_that_was_fed_makes_nothing_new",
        "a report that comes late leaves its device more to give",
        (f"{_FED}::test_what_is_free_in_the_middle_of_a_delivery_is_sold",),
        (FED, "\n          OR NEW.fed_wh > OLD.fed_wh", ""),
    ),
    _mutant(
        "a_lost_reservation_is_paid",
        "a device that says it holds nothing will deliver nothing",
        LIFE,
        (f"{PACKAGE}/postgres/deliveries.py", "return [trade for trade, is_lost in rows if is_lost]", "return [trade for trade, is_lost in rows if not trade]"),
    ),
    _mutant(
        "a_delivery_is_subtracted_twice",
        "what is delivered again after a repeated transfer is no news",
        (f"{_MESSAGES}::test_a_message_that_comes_twice_counts_once",),
        (f"{PACKAGE}/postgres/deliveries.py", "AND status = 'Confirmed' AND delivery <> 'Delivered'\n", "AND status = 'Confirmed'\n"),
    ),
    _mutant(
        "any_end_of_a_delivery_is_all_of_it",
        "what ended with less is short",
        LIFE,
        (f"{PACKAGE}/postgres/deliveries.py", "%(wh)s >= energy_wh AS in_full,", "%(ended)s::text IS NOT NULL AS in_full,"),
    ),
    _mutant(
        "a_short_delivery_is_not_released",
        "what a device holds for a delivery that ended is released",
        LIFE,
        (f"{PACKAGE}/postgres/deliveries.py", "unlock = CASE WHEN falls_short THEN 'Owed' ELSE unlock END,", "unlock = unlock,"),
    ),
    _mutant(
        "a_delivery_has_no_end",
        "what is not delivered in time is short",
        (f"{_DELIVERIES}::test_what_is_not_delivered_in_time_is_short",),
        (f"{PACKAGE}/postgres/deliveries.py", "AND t.deliver_by <= clock_timestamp()", "AND t.deliver_by IS NULL"),
    ),
    _mutant(
        "a_full_delivery_counts_only_in_order",
        "all of it is all of it, whatever was said meanwhile",
        (f"{_DELIVERIES}::test_a_full_delivery_counts_however_late_and_in_whatever_order_it_is_reported",),
        (f"{PACKAGE}/postgres/deliveries.py", "AND (%(wh)s >= energy_wh OR delivery_seq IS NULL", "AND (delivery_seq IS NULL"),
    ),
    _mutant(
        "an_unlock_is_owed_for_ever",
        "what nobody hears lapses",
        (f"{_LOST}::test_a_trade_ends_wherever_its_device_is_lost",),
        (f"{PACKAGE}/postgres/deliveries.py", "WHERE unlock = 'Owed' AND unlock_by <= clock_timestamp()", "WHERE unlock = 'Owed' AND unlock_by IS NULL"),
    ),
    _mutant(
        "a_status_from_before_the_lock_loses_it",
        "statuses and answers overtake each other",
        (f"{_LOST}::test_no_order_of_messages_makes_a_reservation_look_lost",),
        (f"{PACKAGE}/postgres/deliveries.py", "coalesce(status = 'Locked' AND batch_id IS NULL AND lock_seq < %(seq)s::bigint", "coalesce(status = 'Locked' AND batch_id IS NULL"),
        (f"{PACKAGE}/postgres/deliveries.py", "'Short' AND batch_id IS NULL AND lock_seq < %(seq)s::bigint", "'Short' AND batch_id IS NULL"),
    ),
    _mutant(
        "a_lost_lock_fails_what_may_be_paid",
        "what was signed may be paid",
        (f"{_LOST}::test_a_trade_that_may_be_paid_is_not_failed_for_a_lost_reservation",),
        (f"{PACKAGE}/postgres/deliveries.py", "coalesce(status = 'Locked' AND batch_id IS NULL AND lock_seq < %(seq)s::bigint", "coalesce(status = 'Locked' AND lock_seq < %(seq)s::bigint"),
        (f"{PACKAGE}/postgres/deliveries.py", "'Short' AND batch_id IS NULL AND lock_seq < %(seq)s::bigint", "'Short' AND lock_seq < %(seq)s::bigint"),
    ),
    _mutant(
        "a_count_that_fell_behind_is_never_heard",
        "a device that forgot is heard again",
        (f"{_LOST}::test_a_device_whose_count_is_behind_is_heard_again_after_ten_minutes",),
        (f"{PACKAGE}/postgres/device_reports.py", "OR status_heard_at < ", "OR status_heard_at > "),
    ),
    _mutant(
        "a_device_feeds_on_when_it_is_told_to_stop",
        "what the market waits for no longer is not delivered",
        (f"{_LOST}::test_a_delivery_that_takes_too_long_is_stopped_and_counts_as_far_as_it_came",),
        ("devices/energy_device/device.py", "if known is not None and known.state is State.DELIVERING:", "if known is None:"),
    ),
    _mutant(
        "a_command_is_acknowledged_only_if_it_brought_an_answer_worth_sending",
        "a broker that keeps Receive Maximum does not fall silent",
        ("tests/integration/test_brokers.py::test_a_plug_in_that_raises_does_not_make_a_device_deaf_on_mosquitto",),
        ("devices/energy_device/agent.py", "if control is not None and self._client is not None:", 'if control is not None and b"locked" in b"".join(r.payload for r in reports):'),
    ),
    _mutant(
        "not_a_number_is_taken_for_energy",
        "whatever is plugged in returns, nothing is promised blindly",
        ("tests/unit/test_hardware.py::test_a_lock_is_rejected_with_a_reason_until_the_plug_in_works_again",),
        ("devices/energy_device/hardware.py", "if isinstance(value, bool) or not isinstance(value, Real | Decimal)", "if not isinstance(value, Real | Decimal)"),
    ),
    _mutant(
        "what_a_status_does_not_say_is_taken_for_nothing",
        "absent is not empty",
        (f"{_LEFT_OUT}::test_a_status_without_locks_loses_no_reservation_and_settles_no_unlock",),
        (f"{PACKAGE}/messages/reports.py", 'locks=reader.if_sound("locks", _ids),', 'locks=reader.if_sound("locks", _ids) or (),'),
    ),
    _mutant(
        "a_refusal_is_nobodys_to_know",
        "an owner learns why their device is not heard",
        (f"{_LEFT_OUT}::test_an_owner_sees_what_was_refused_and_why",),
        (f"{PACKAGE}/usecases/note_refusals.py", "            _keep(conn, message, code=refused.reason", "            _ = (conn, message); str(refused.reason) or _keep(conn, message, code=refused.reason"),
    ),
    _mutant(
        "a_device_of_two_fields_keeps_its_energy_reserved_for_a_day",
        "what nobody will tell of is not waited for",
        (f"{_LEFT_OUT}::test_a_device_of_two_fields_sells_and_its_delivery_ends_unreported_without_an_alarm",),
        (f"{PACKAGE}/postgres/settleable.py", "THEN %(window_s)s ELSE least(%(window_s)s, %(unreported_s)s) END", "THEN %(window_s)s ELSE greatest(%(window_s)s, %(unreported_s)s) END"),
    ),
    _mutant(
        "two_registrations_under_one_key",
        "one that is asked for again gives way",
        (f"{_REGISTERING}::test_a_registration_that_is_asked_for_again_meanwhile_gives_way",),
        (REGISTER, "            devices.give_way(conn, given_way)\n", "            pass\n"),
        (REGISTER, "        tidy_device(database, registry, given_way)\n", "        pass\n"),
    ),
    _mutant(
        "a_private_key_under_a_key_of_the_client",
        "no secret is stored",
        (f"{_REGISTERING}::test_a_private_key_is_given_once",),
        (REGISTER, "        if asked.csr is None:\n            _keep", '        if asked.csr == "":\n            _keep'),
    ),
    _mutant(
        "a_transfer_before_it_is_confirmed",
        "nothing is delivered before it is paid",
        LIFE,
        (COMMANDS, "(t.status = 'Confirmed' AND t.delivery IN ('Owed', 'Started'))", "(t.status IN ('Submitted', 'Confirmed') AND coalesce(t.delivery, 'Owed') IN ('Owed', 'Started'))"),
    ),
    _mutant(
        "a_delivery_is_never_ordered",
        "what is paid is delivered",
        LIFE,
        (f"{PACKAGE}/postgres/settleable.py", "delivery = coalesce(delivery, 'Owed')", "delivery = delivery"),
    ),
    _mutant(
        "the_end_of_an_old_session_puts_a_device_offline",
        "only the session that is known ends",
        LIFE,
        (f"{PACKAGE}/postgres/device_reports.py", "AND (%(connected)s OR presence_session IS NULL OR presence_session = %(session)s)", "AND (%(connected)s OR true)"),
    ),
    _mutant(
        "presence_that_was_overtaken_counts",
        "events of the broker come out of order",
        (f"{_MESSAGES}::test_messages_that_overtake_each_other_end_where_they_would_have_ended",),
        (f"{PACKAGE}/postgres/device_reports.py", "AND (presence_ms IS NULL OR presence_ms <= %(at_ms)s)", "AND (presence_ms IS NULL OR presence_ms > 0)"),
    ),
    # -------------------------------------------------------------------------------------------------- settlement
    _mutant(
        "sent_before_it_is_stored",
        "a process that dies in between has paid what nobody knows of",
        LIFE,
        (PAY, "    try:\n        with sweep.transaction() as conn:\n            if not leases.holds(", "    sweep.ledger.send(signed.raw)\n    try:\n        with sweep.transaction() as conn:\n            if not leases.holds("),
    ),
    _mutant(
        "confirmed_at_once",
        "a payment counts only some blocks deep",
        LIFE,
        (CONFIRM, "if depth < sweep.rules.confirmations:", "if depth < 1:"),
    ),
    _mutant(
        "a_payment_that_is_gone_stays_confirmed",
        "a reorganisation puts the trades of its blocks back",
        (f"{_FAULTS}::test_a_reorganisation_before_finality_puts_a_trade_back_and_the_same_bytes_pay_it",),
        (f"{PACKAGE}/postgres/batches.py", "            FROM paid WHERE t.id = paid.id AND t.status = 'Confirmed'", "            FROM paid WHERE t.id = paid.id AND t.status = 'Submitted'"),
    ),
    _mutant(
        "reorganisations_are_not_looked_for",
        "a batch whose block is another one's now has to be asked for again",
        (f"{_FAULTS}::test_a_payment_that_the_other_branch_refused_is_taken_back_at_the_next_look",),
        (CONFIRM, "undisturbed = newest is None or stands[newest.id] is True", "undisturbed = True"),
    ),
    _mutant(
        "a_node_that_is_behind_takes_payments_back",
        "what a node does not know is no proof",
        (f"{_REFUSING}::test_a_node_that_fell_behind_takes_nothing_back",),
        (CONFIRM, "        if stands[batch.id] is False:\n            _put_back(sweep, batch)", "        if not stands[batch.id]:\n            _put_back(sweep, batch)"),
    ),
    _mutant(
        "what_cannot_be_estimated_ends_the_sweep",
        "an estimate that is refused in any words is asked for less",
        (f"{_REFUSING}::test_what_is_too_big_for_a_block_and_cannot_even_be_estimated_is_halved",),
        (PAY, "    except Refused as refusal:\n        if alone:\n            sweep.ledger.gas_for([])", "    except Refused as refusal:\n        if members:\n            raise\n        if alone:\n            sweep.ledger.gas_for([])"),
    ),
    _mutant(
        "what_was_refused_is_outbid_for_ever",
        "a form that the node refused is not about",
        (f"{_REFUSING}::test_above_the_ceiling_nothing_is_signed_and_a_spike_that_is_over_leaves_nothing_behind",),
        (RESEND, "    if batch.newest_refusal not in {None, Sent.REFUSED.value}:\n        return True\n", ""),
    ),
    _mutant(
        "what_a_smaller_form_leaves_out_stays_behind",
        "what a mined form did not carry goes into another batch",
        (f"{_REFUSING}::test_a_batch_that_is_refused_for_its_size_goes_in_parts_under_the_same_nonce",),
        (CONFIRM, "    _free_left_out(sweep, batch, receipt)\n", ""),
    ),
    _mutant(
        "a_begun_delivery_is_begun_again",
        "a delivery outlives a reorganisation",
        (f"{_FAULTS}::test_a_delivery_that_began_is_not_begun_again_after_a_reorganisation",),
        (f"{PACKAGE}/postgres/settleable.py", "delivery = coalesce(delivery, 'Owed')", "delivery = 'Owed'"),
    ),
    _mutant(
        "a_trade_fails_before_finality",
        "a reorganisation may yet pay what a block skipped",
        (f"{_FAULTS}::test_a_buyer_who_withdraws_in_a_reorganisation_is_found_out", f"{_SETTLING}::test_a_buyer_short_of_escrow_loses_the_bid_and_the_ask_is_open_again", f"{_FAULTS}::test_a_reorganisation_before_finality_puts_a_trade_back_and_the_same_bytes_pay_it"),
        (CONFIRM, "if depth >= sweep.rules.finality_blocks:\n        _finish", "if depth >= sweep.rules.confirmations:\n        _finish"),
    ),
    _mutant(
        "a_stored_trade_expires_by_our_clock",
        "what was signed fails only on the chain's word",
        (f"{_FAULTS}::test_a_signed_trade_is_overdue_by_the_chains_clock_not_by_ours", f"{_SETTLING}::test_a_trade_that_is_stored_fails_only_on_the_chains_word"),
        (f"{PACKAGE}/postgres/settleable.py", "WHERE status = 'Locked' AND batch_id IS NULL AND valid_until < clock_timestamp()", "WHERE status = 'Locked' AND valid_until < clock_timestamp()"),
    ),
    _mutant(
        "nothing_expires_unpaid",
        "a trade that cannot be paid any more ends",
        LIFE,
        (f"{PACKAGE}/postgres/settleable.py", "WHERE status = 'Locked' AND batch_id IS NULL AND valid_until < clock_timestamp()", "WHERE status = 'Locked' AND batch_id IS NULL AND valid_until IS NULL"),
    ),
    _mutant(
        "a_trade_with_no_time_left_is_sent",
        "it would likely only burn gas",
        (f"{_SETTLING}::test_a_trade_with_too_little_time_left_is_not_sent",),
        (f"{PACKAGE}/postgres/settleable.py", "AND t.valid_until > greatest(clock_timestamp(), %s) + make_interval(secs => %s)", "AND t.valid_until > least(clock_timestamp(), %s) - make_interval(secs => %s)"),
    ),
    _mutant(
        "a_replacement_takes_a_new_nonce",
        "both could be mined",
        (f"{_FAULTS}::test_when_the_base_fee_outgrows_a_transaction_it_is_replaced_at_once",),
        (LEDGER, '"gas": old["gas"]}, old["nonce"], fees', '"gas": old["gas"]}, old["nonce"] + 1, fees'),
    ),
    _mutant(
        "a_replacement_pays_no_more",
        "the pool keeps the one that is stuck",
        (f"{_FAULTS}::test_a_stuck_transaction_is_replaced_with_higher_fees_under_its_nonce",),
        (LEDGER, "max_fee_per_gas=max(self.max_fee_per_gas, _raised(old.max_fee_per_gas)),", "max_fee_per_gas=self.max_fee_per_gas,"),
    ),
    _mutant(
        "what_the_node_forgot_is_not_sent_again",
        "the same bytes are sent until they are mined",
        LIFE,
        (RESEND, "elif batch.since_sent_s is None or batch.since_sent_s >= sweep.rules.resend_after_s:", "elif batch.since_sent_s is None and batch.nonce < 0:"),
    ),
    _mutant(
        "halving_never_ends",
        "the culprit stands alone in the end",
        (f"{_FAULTS}::test_a_batch_that_reverts_is_halved_until_the_culprit_stands_alone_and_fails",),
        (PAY, "middle = (len(members) + 1) // 2", "middle = len(members)"),
    ),
    _mutant(
        "one_culprit_fails_all",
        "a trade that is refused does not undo the others of its batch",
        (f"{_FAULTS}::test_a_batch_that_reverts_is_halved_until_the_culprit_stands_alone_and_fails", f"{_FAULTS}::test_a_culprit_that_was_never_signed_for_fails_at_once"),
        (PAY, "        if alone:\n            if sweep.ledger.reverts(payments, at=sweep.view.head):\n                _give_up(sweep, members[0], reason=str(refusal))\n            return", "        for one in members:\n            _give_up(sweep, one, reason=str(refusal))\n        return"),
    ),
    _mutant(
        "a_batch_is_stored_without_its_trades",
        "of a batch that somebody else has moved a trade of, nothing may be stored",
        (f"{_FAULTS}::test_a_batch_is_not_stored_if_one_of_its_trades_is_no_longer_locked",),
        (f"{PACKAGE}/postgres/batches.py", "return batch_id if submitted == len(trades) else None", "return batch_id"),
    ),
    _mutant(
        "two_sweeps_at_once_share_a_nonce",
        "lease and unique nonce are both gone",
        (f"{_FAULTS}::test_a_sweep_without_a_lease_stores_nothing_though_nobody_else_has_begun",),
        (LEASES, "WHERE leases.expires_at <= clock_timestamp() OR leases.holder = EXCLUDED.holder", "WHERE true"),
        (LEASES, "return row is not None", "return True"),
        ("infra/migrations/0001_market.sql", "    UNIQUE (chain_id, sender, nonce)\n", "    CHECK (chain_id > 0)\n"),
    ),
    _mutant(
        "a_sweep_leaves_the_note_that_it_was_woken",
        "what is locked while a sweep is at work wakes another",
        (f"{_FAULTS}::test_a_sweep_is_woken_once_until_it_begins",),
        (SETTLE, "leases.clear(conn, WOKEN)", "pass"),
    ),
    _mutant(
        "every_answer_wakes_a_sweep",
        "of answers that come together one wakes the sweep",
        (f"{_FAULTS}::test_a_sweep_is_woken_once_until_it_begins",),
        (WAKE, "    if is_first:\n        wake()", "    if is_first or not is_first:\n        wake()"),
    ),
    _mutant(
        "a_signed_nonce_is_given_away",
        "what the node forgot, still has its nonce",
        (f"{_FAULTS}::test_a_nonce_of_something_that_the_node_forgot_is_not_given_away",),
        (PAY, "        if nonce not in used:\n", "        if nonce >= 0 or nonce not in used:\n"),
    ),
    _mutant(
        "a_taken_nonce_is_waited_for_in_vain",
        "a batch whose nonce somebody else used goes under another",
        LIFE,
        (CONFIRM, "    if batch.nonce >= sweep.ledger.nonce_at(sweep.view.head.number - sweep.rules.confirmations + 1):\n        return\n", "    if batch.nonce >= 0:\n        return\n"),
    ),
    _mutant(
        "a_gap_is_not_filled",
        "what waits behind a nonce that nobody uses is never mined",
        (f"{_FAULTS}::test_a_gap_that_somebody_else_left_is_filled",),
        (PAY, "if next_nonce == sweep.view.nonce_pending and any(b.nonce > next_nonce for b in waiting):", "if next_nonce < 0:"),
    ),
    _mutant(
        "signing_without_gas_money",
        "what cannot be paid for is not signed",
        (f"{_FAULTS}::test_an_operator_without_gas_money_stores_nothing_and_says_so",),
        (PAY, "if cost_wei > balance_wei:", "if cost_wei < 0:"),
    ),
    _mutant(
        "a_quiet_chain_stays_quiet",
        "on a chain without empty blocks a payment gets deep enough",
        (f"{_OTHER_NODES}::test_on_a_chain_without_empty_blocks_a_payment_gets_deep_enough_by_empty_batches",),
        (SETTLE, "            end_the_quiet(sweep)\n", ""),
    ),
    _mutant(
        "the_parameter_is_believed",
        "amounts are in the unit that the token says, and a parameter that contradicts it stops payments",
        (f"{_FACTS}::test_a_parameter_that_the_token_contradicts_stops_payments_with_a_sentence",),
        (LEDGER, "self.gaps = node_check.contradictions(facts, self.expected)", "self.gaps = []"),
    ),
    _mutant(
        "ticks_match_blindly",
        "while the chain can't be asked nothing is matched",
        (f"{_GATE}::test_nothing_is_matched_a_minute_after_the_chain_last_answered",),
        (RUN_TICK, "if not (due.paused or due.halted) and (", "if not due.paused and ("),
    ),
    _mutant(
        "the_wrong_amount_is_paid",
        "what is paid is energy times price",
        LIFE,
        (LEDGER, "p.amount_nano * unit", "(p.amount_nano + 1) * unit"),
    ),
    _mutant(
        "the_wrong_side_is_paid",
        "the buyer pays the seller",
        LIFE,
        (f"{PACKAGE}/postgres/settleable.py", "JOIN users buyer ON buyer.id = t.recipient_id\n            JOIN users seller ON seller.id = t.donor_id", "JOIN users buyer ON buyer.id = t.donor_id\n            JOIN users seller ON seller.id = t.recipient_id"),
    ),
    # -------------------------------------------------------------------------------------------------- the contract
    _mutant(
        "the_contract_pays_twice",
        "a trade id is paid at most once, ever",
        (f"{_CONTRACT}::test_a_trade_is_paid_once_whatever_it_says_the_second_time", f"{_CONTRACT}::test_the_same_trade_twice_in_a_batch_is_paid_once"),
        (CONTRACT, "        if (settled[trade.id]) return ALREADY_SETTLED;\n", ""),
    ),
    _mutant(
        "the_contract_pays_too_late",
        "after `validUntil` it skips a trade, so that it can be given up",
        (f"{_CONTRACT}::test_a_trade_is_paid_up_to_its_last_second",),
        (CONTRACT, "        if (block.timestamp > trade.validUntil) return EXPIRED;\n", ""),
    ),
    _mutant(
        "the_contract_pays_what_is_not_there",
        "escrow is checked before it is moved",
        LIFE,
        (CONTRACT, "        if (available < trade.amount) return INSUFFICIENT_ESCROW;\n", ""),
    ),
    _mutant(
        "the_contract_keeps_the_sellers_money",
        "paying moves escrow from buyer to seller",
        LIFE,
        (CONTRACT, "            accounts[trade.seller].escrow += uint128(trade.amount);\n", ""),
    ),
    _mutant(
        "the_contract_has_no_limit",
        "a stolen operator's key moves all there is",
        (f"{_CONTRACT}::test_a_thief_with_the_operators_key_moves_the_limit_and_no_more",),
        (CONTRACT, "if (room < trade.amount) return OVER_LIMIT;", "if (room > room) return OVER_LIMIT;"),
    ),
    _mutant(
        "each_batch_has_the_limit_to_itself",
        "what was moved is not counted",
        (f"{_CONTRACT}::test_in_a_period_no_more_is_moved_than_the_limit_and_what_fits_is",),
        (CONTRACT, "        if (left != room) _count(budget, room - left);\n", ""),
    ),
    _mutant(
        "a_higher_limit_holds_at_once",
        "who has stolen the owner's key too need not announce what he takes",
        (f"{_CONTRACT}::test_a_higher_limit_is_announced_two_days_before_it_holds",),
        (CONTRACT, "block.timestamp < raise.from || ", ""),
    ),
    _mutant(
        "a_cap_bounds_each_trade_but_not_the_hour",
        "what was moved under a cap is not counted",
        (f"{_CONTRACT}::test_out_of_an_account_no_more_is_moved_than_its_owner_lets",),
        (CONTRACT, "        if (capped) _count(caps[trade.buyer], trade.amount);\n", ""),
    ),
    _mutant(
        "others_pay_the_fee_of_a_withdrawal",
        "a token that takes its fee on top takes it out of others' escrow",
        (f"{_CONTRACT}::test_of_a_token_that_takes_a_fee_on_top_whoever_withdraws_bears_it",),
        (CONTRACT, "        if (transferred > amount) _debit(msg.sender, transferred - amount);\n", ""),
    ),
    _mutant(
        "over_the_limit_is_for_ever",
        "a trade that the period had no room for is never tried again",
        ("tests/integration/settlement/test_limit.py::test_a_trade_that_the_chain_calls_over_the_limit_is_tried_again_and_paid_once",),
        (CONFIRM, "    _try_again(sweep, batch, receipt)\n", ""),
    ),
    _mutant(
        "what_is_sent_does_not_count_against_the_limit",
        "gas is spent on trades that the contract will skip",
        ("tests/integration/settlement/test_limit.py::test_what_waits_to_be_mined_counts",),
        (PAY, "room_nano -= settleable.unmined_nano(conn, sweep.account, contract=sweep.ledger.contract)", "settleable.unmined_nano(conn, sweep.account, contract=sweep.ledger.contract)"),
    ),
    _mutant(
        "anybody_settles",
        "only the operator may",
        (f"{_CONTRACT}::test_only_the_operator_settles",),
        (CONTRACT, "        if (msg.sender != operator) revert NotOperator(msg.sender);\n", ""),
    ),
    # ------------------------------------------------------------------------------------------------------- people
    _mutant(
        "an_order_sent_twice_is_placed_twice",
        "one idempotency key is one order",
        LIFE,
        (ONCE, "    if key is None:\n", "    if key is None or key:\n"),
    ),
    _mutant(
        "a_key_answers_for_another_order",
        "a key that was used for another body is refused",
        (f"{_MARKET}::test_an_order_sent_twice_with_one_key_is_placed_once",),
        (ONCE, "if kept.body_hash != body_hash:", "if not kept.body_hash:"),
    ),
    _mutant(
        "an_old_refresh_token_goes_on",
        "a refresh token is rotated at each use",
        (f"{_AUTH}::test_an_old_refresh_token_ends_the_session_for_whoever_holds_it",),
        (f"{PACKAGE}/postgres/refresh_tokens.py", "WHERE id = %s AND token_hash = %s AND revoked_at IS NULL AND expires_at > now()", "WHERE id = %s AND (token_hash = %s OR true) AND revoked_at IS NULL AND expires_at > now()"),
    ),
    _mutant(
        "a_stolen_session_goes_on",
        "a token that is used again ends the session for both",
        (f"{_AUTH}::test_an_old_refresh_token_ends_the_session_for_whoever_holds_it",),
        (f"{PACKAGE}/usecases/refresh_session.py", "        refresh_tokens.revoke(conn, given.session_id)\n", ""),
    ),
    _mutant(
        "a_lost_answer_to_a_refresh_is_lost",
        "a token gives its successor again until that one is used",
        (f"{_AUTH}::test_whoever_lost_the_answer_to_a_refresh_has_the_successor_again_for_ten_minutes",),
        (f"{PACKAGE}/domain/sessions.py", "HAD_AGAIN_S: Final = 600", "HAD_AGAIN_S: Final = 10"),
    ),
    _mutant(
        "a_used_successor_can_be_had_again",
        "a token from two rotations ago ends the session",
        (f"{_AUTH}::test_a_token_from_two_rotations_ago_ends_the_session_even_at_once",),
        (f"{PACKAGE}/postgres/refresh_tokens.py", "WHEN previous_hash = %s AND rotated_at >", "WHEN (previous_hash = %s OR true) AND rotated_at >"),
    ),
    _mutant(
        "a_signature_signs_in_twice",
        "a challenge is used once",
        (f"{_AUTH}::test_a_signature_signs_in_once",),
        (f"{PACKAGE}/postgres/challenges.py", '"DELETE FROM challenges WHERE nonce = %s AND expires_at > now() RETURNING nonce"', '"SELECT nonce FROM challenges WHERE nonce = %s AND expires_at > now()"'),
    ),
    _mutant(
        "a_challenge_of_another_service_counts",
        "a text counts that this service would write",
        (f"{_SIGN_IN}::test_a_challenge_of_another_service_is_none_here",),
        (f"{PACKAGE}/usecases/answer_challenge.py", "challenge.message == asked.message\n            and ", ""),
    ),
    _mutant(
        "strangers_challenges_come_first",
        "nobody's challenges push another's out",
        (f"{_SIGN_IN}::test_challenges_that_strangers_ask_for_lock_nobody_out",),
        (f"{PACKAGE}/postgres/challenges.py", "ORDER BY (source = %s) DESC,", "ORDER BY (source <> %s) DESC,"),
    ),
    _mutant(
        "who_logged_out_is_still_in",
        "an access token ends with its session",
        (f"{_SIGN_IN}::test_an_access_token_ends_with_its_session_in_every_function",),
        (f"{PACKAGE}/postgres/rate_limits.py", "(SELECT revoked_at IS NULL AND expires_at > now() FROM", "(SELECT expires_at > now() FROM"),
    ),
    _mutant(
        "a_token_has_many_spellings",
        "a token is what we have written",
        ("tests/unit/test_tokens.py::test_a_token_has_one_spelling",),
        (f"{PACKAGE}/domain/tokens.py", " or not _SPELLING.fullmatch(token)", ""),
    ),
    _mutant(
        "a_token_names_its_algorithm",
        "the algorithm is pinned",
        ("tests/unit/test_tokens.py::test_another_algorithm_is_refused_though_the_key_is_right",),
        (f"{PACKAGE}/domain/tokens.py", "algorithms=[ALGORITHM],", 'algorithms=["HS256", "HS384", "HS512", "none"],'),
        # Both, or the other alone would do: a signature is as long as the algorithm makes it.
        (f"{PACKAGE}/domain/tokens.py", "[\\w-]{42}[AEIMQUYcgkosw048]", "[\\w-]+"),
    ),
    _mutant(
        "a_user_may_ask_for_ever",
        "each user is counted, whatever address he asks from",
        (f"{_HTTP}::test_a_user_may_ask_so_often_from_wherever",),
        (f"{PACKAGE}/api/edge.py", 'limits[f"user {asking.user_id}"] = self._settings.user_limit_per_minute', 'limits[f"user {asking.user_id}"] = 10**9'),
    ),
    _mutant(
        "a_forged_token_uses_up_anothers_share",
        "a user is counted by a token of ours",
        (f"{_HTTP}::test_nobody_uses_up_what_another_user_may_ask",),
        (f"{PACKAGE}/domain/tokens.py", '"strict_aud": True,\n        },\n    )\n    session_id', '"strict_aud": True,\n            "verify_signature": False,\n        },\n    )\n    session_id'),
    ),
    _mutant(
        "a_network_of_ipv6_is_many_sources",
        "who has one of its addresses has them all",
        (f"{_HTTP}::test_a_source_of_ipv6_is_the_network_that_one_subscriber_has",),
        (f"{PACKAGE}/api/exchange.py", "address[:8] + bytes(8)", "address"),
    ),
    _mutant(
        "a_body_may_name_a_price_twice",
        "of two prices nobody knows which one was meant",
        (f"{_HTTP}::test_a_body_that_is_not_as_it_should_be_is_refused",),
        (f"{PACKAGE}/api/edge.py", "        if name in names:\n", "        if name in names and False:\n"),
    ),
    _mutant(
        "a_port_makes_another_source",
        "a source is an address, however its port is told",
        (f"{_HTTP}::test_whatever_is_said_of_a_source_the_request_is_served_and_counted",),
        (f"{PACKAGE}/api/exchange.py", '    elif first.count(":") == 1:\n', '    elif first.count(":") == 0:\n'),
    ),
    _mutant(
        "signatures_may_be_guessed_as_fast_as_prices_are_read",
        "what signs in has a stricter limit",
        (f"{_HTTP}::test_signing_in_has_a_limit_of_its_own_which_all_its_routes_share",),
        (f"{PACKAGE}/api/edge.py", 'limits[f"sign-in {source}"] = sign_in_limit', 'limits[f"sign-in {source}"] = 10**9'),
    ),
    _mutant(
        "everybody_reads_closed_orders",
        "an order is its owner's once it has left the book",
        (f"{_AUTHORISATION}::test_what_is_hers_alone_is_to_others_as_if_it_were_not",),
        (ORDERS, "AND (s.user_id = %(viewer)s OR ", "AND (true OR "),
    ),
    _mutant(
        "a_neighbour_learns_of_closed_orders_by_cancelling",
        "to others an order that is closed is as if it were not",
        (f"{_AUTHORISATION}::test_what_is_hers_alone_is_to_others_as_if_it_were_not",),
        (f"{PACKAGE}/usecases/cancel_order.py", "if orders.is_in_book_of(conn, user_id, order_id):", "if orders.owner(conn, order_id):"),
    ),
    _mutant(
        "anybody_is_an_operator",
        "operators are those that the configuration names",
        (f"{_ADMIN}::test_an_operators_route_is_nobody_elses",),
        (f"{PACKAGE}/usecases/name_operator.py", "if user.wallet_address not in wallets:", "if not wallets:"),
    ),
    _mutant(
        "a_paused_market_takes_orders",
        "a paused market takes no orders",
        (f"{_ADMIN}::test_while_the_market_is_paused_no_order_is_taken_and_nothing_matched",),
        (ORDERS, "AND NOT (SELECT paused FROM market_state)", ""),
    ),
    _mutant(
        "a_tick_matches_though_the_market_was_paused_meanwhile",
        "while the market is paused nothing is matched",
        (f"{_ADMIN}::test_a_tick_that_saw_no_pause_before_it_took_its_turn_sees_it_then",),
        (f"{PACKAGE}/postgres/zones.py", "return Turn.NOBODYS if is_paused else Turn.OURS", "return Turn.OURS"),
    ),
    _mutant(
        "a_pause_is_answered_while_a_tick_matches",
        "once a pause is answered nothing is matched",
        (f"{_ADMIN}::test_pausing_waits_for_the_tick_that_is_matching",),
        (f"{PACKAGE}/postgres/market_state.py", "LOCK TABLE market_state IN EXCLUSIVE MODE", "LOCK TABLE market_state IN ACCESS SHARE MODE"),
    ),
    _mutant(
        "orders_of_refused_users_are_matched",
        "where only verified users trade, resting orders of others are not matched",
        (f"{_ADMIN}::test_resting_orders_of_who_is_no_longer_verified_are_not_matched",),
        (BOOK, 'of_zone + " AND o.verified"', "of_zone"),
    ),
    _mutant(
        "an_order_slips_in_while_its_user_is_refused",
        "whoever changes a user's status holds the book",
        (f"{_ADMIN}::test_an_order_that_is_placed_while_its_user_is_refused_is_not_matched",),
        (f"{PACKAGE}/usecases/set_kyc_status.py", "        book.hold(conn)\n", ""),
    ),
    _mutant(
        "a_candle_is_cut_where_the_window_begins",
        "the same start is the same candle",
        (f"{_HISTORY}::test_a_window_that_begins_or_ends_within_an_hour_has_that_hours_whole_candle",),
        ("functions/market_api/app.py", "since - (since - _EPOCH) % interval", "since"),
    ),
    _mutant(
        "a_hash_is_kept_as_the_node_spells_it",
        "a hash in capitals is the same hash",
        (f"{_NODES}::test_a_settlement_ends_through_each_way_of_nodes",),
        (VALUES, "    return answer.lower()\n", "    return answer\n"),
    ),
    _mutant(
        "a_receipt_without_status_is_of_a_batch_that_was_undone",
        "chains by older rules have no status, and events tell",
        (f"{_NODES}::test_a_settlement_ends_through_each_way_of_nodes",),
        (LEDGER, "succeeded=bool(paid or skipped) if status is None", "succeeded=False if status is None"),
    ),
    _mutant(
        "statements_are_prepared_in_a_session_that_is_shared",
        "nothing relies on a session that may be another's",
        (f"{_POOLERS}::test_sandboxes_that_share_sessions_get_their_own_answers",),
        (DATABASE, "if connection.is_shared or not prepare:", "if not prepare:"),
    ),
    _mutant(
        "a_setting_is_left_in_a_session_that_is_shared",
        "nobody leaves anything in a session",
        (f"{_POOLERS}::test_nobody_leaves_a_setting_or_a_statement_in_a_session",),
        (DATABASE, "CASE WHEN pg_backend_pid() = %(told)s", "CASE WHEN %(told)s <> 0"),
    ),
    _mutant(
        "a_silent_server_is_waited_for",
        "every wait has a deadline",
        (f"{_SILENT}::test_who_fell_silent_in_a_transaction_holds_no_row_for_long",),
        (DATABASE, "math.inf if statement_s is None else statement_s + BEYOND_STATEMENT_S", "math.inf"),
    ),
    _mutant(
        "a_commit_is_sent_when_nobody_waits_for_it",
        "what is told to have failed for want of time has not happened",
        (f"{_SILENT}::test_nothing_is_sent_when_there_is_no_time_left",),
        (DATABASE, "        if left_s <= 0:", "        if False:"),
    ),
    _mutant(
        "an_ask_shows_what_its_device_has_not",
        "an order shows no more than its device has free",
        (f"{_SHOWN}::test_an_order_shows_at_most_what_its_device_has_free_and_less_than_all_only_in_parts",),
        (SHOWN, "ELSE least(remaining_wh, coalesce(supply_wh, 0))", "ELSE remaining_wh"),
    ),
    _mutant(
        "asks_of_a_device_that_fell_silent_are_shown_on",
        "the loop's step finds the devices that fell silent by the clock alone",
        (f"{_SHOWN}::test_a_device_that_only_falls_silent_shows_nothing",),
        (BY_PRICE, "ON d.id = s.device_id WHERE NOT (", "ON d.id = s.device_id WHERE false AND NOT ("),
    ),
    _mutant(
        "an_order_above_the_limit_is_taken",
        "what could never be paid is refused when it is ordered",
        ("tests/integration/settlement/test_limit.py::test_more_than_the_whole_limit_is_refused_when_it_is_ordered",),
        (f"{PACKAGE}/postgres/orders.py", "WHERE limit_nano < %(least_nano)s", "WHERE limit_nano < 0 * %(least_nano)s"),
    ),
    _mutant(
        "a_trade_above_the_limit_waits",
        "a trade that the contract can never pay does not wait for its time",
        ("tests/integration/settlement/test_limit.py::test_a_trade_above_a_limit_that_was_lowered_fails_at_once_and_costs_the_bid",),
        (PAY, "if trade.amount_nano > sweep.ledger.limit_nano}", "if trade.amount_nano < 0}"),
    ),
    _mutant(
        "an_order_that_was_held_is_forgotten",
        "an order that somebody held shows what is right from the next step on",
        (f"{_SHOWN}::test_an_order_that_somebody_holds_is_shown_by_the_next_step",),
        (BY_PRICE, "WHERE order_id NOT IN (SELECT order_id FROM shown)", "WHERE false"),
    ),
)  # fmt: skip
