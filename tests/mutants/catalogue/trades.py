# ruff: noqa: E501 -- the product's lines as they are
"""Mutants of trades, locks and what is published of them."""

from typing import Final

from tests.mutants.catalogue.mutant import FAULTS, LEFT_OUT, LIFE, LOCKS, MESSAGES, PACKAGE, SILENCE, mutant

TRADES: Final = f"{PACKAGE}/postgres/trades.py"
COMMANDS: Final = f"{PACKAGE}/postgres/commands.py"
TURNS: Final = "infra/migrations/0015_a_failure_costs_a_turn.sql"
LOCK_RESPONSE: Final = f"{PACKAGE}/usecases/record_lock_response.py"
PUBLISH: Final = f"{PACKAGE}/usecases/publish_commands.py"
WAKE: Final = f"{PACKAGE}/usecases/wake_sweep.py"
DATABASE: Final = f"{PACKAGE}/database.py"
_MATCHES: Final = "tests/integration/test_matches.py"
_HISTORY: Final = "tests/integration/test_history.py"
_POOLERS: Final = "tests/integration/test_poolers.py"
_SILENT: Final = "tests/integration/test_silent_database.py"

MUTANTS: Final = (
    mutant(
        "a_device_that_is_back_is_not_new",
        "the asks of a device that is there again may trade again",
        LIFE,
        (TURNS, "IF OLD.status <> 'Online'\n        OR NEW.silent_since", "IF NEW.silent_since"),
    ),
    mutant(
        "a_zone_fails_in_silence",
        "a zone whose tick fails is an error of its function, which has an alarm",
        (
            "tests/integration/test_loop_faults.py::test_zones_are_ticked_at_once_and_one_that_hangs_or_fails_holds_up_neither_another_nor_the_commands",
        ),
        (
            "functions/matching/app.py",
            "        raise\n    duration_ms",
            '        return {"trades": 0}\n    duration_ms',
        ),
    ),
    mutant(
        "a_lock_counts_after_its_deadline",
        "a late answer never settles",
        LIFE,
        (
            TRADES,
            'AND status = \'Pending\' AND expires_at > clock_timestamp()\n            """',
            'AND status = \'Pending\'\n            """',
        ),
    ),
    mutant(
        "a_lock_revives_a_failed_trade",
        "a dropped `WHERE status =`",
        LIFE,
        (
            TRADES,
            'AND status = \'Pending\' AND expires_at > clock_timestamp()\n            """',
            'AND failed_at IS NULL AND expires_at > clock_timestamp()\n            """',
        ),
    ),
    mutant(
        "any_device_locks",
        "only the trade's own device answers for it",
        LIFE,
        (
            TRADES,
            "WHERE id = %s AND device_id = %s AND sell_order_id = %s\n              AND status = 'Pending'",
            "WHERE id = %s AND (device_id = %s OR true) AND sell_order_id = %s\n              AND status = 'Pending'",
        ),
    ),
    mutant(
        "the_order_of_an_answer_is_not_compared",
        "an answer that names another order means no trade",
        LIFE,
        (
            TRADES,
            "WHERE id = %s AND device_id = %s AND sell_order_id = %s\n              AND status = 'Pending'",
            "WHERE id = %s AND device_id = %s AND (sell_order_id = %s OR true)\n              AND status = 'Pending'",
        ),
    ),
    mutant(
        "a_nameless_answer_counts_for_one_of_several_trades",
        "it is not known which of them the device means",
        (f"{LOCKS}::test_an_answer_of_two_fields_means_nothing_once_the_order_has_had_two_trades",),
        (TRADES, "return rows[0][0] if len(rows) == 1 else None", "return rows[0][0] if rows else None"),
    ),
    mutant(
        "a_refusal_fails_a_paid_trade",
        "a dropped `WHERE status =`: a contradicting answer undoes what is settled",
        LIFE,
        (
            TRADES,
            "WHERE id = ANY (%(ids)s) AND status = %(expected)s\n            RETURNING id, sell_order_id",
            "WHERE id = ANY (%(ids)s) AND status <> 'Failed'\n            RETURNING id, sell_order_id",
        ),
    ),
    mutant(
        "locks_never_run_out",
        "silence fails a trade at its deadline",
        LIFE,
        (
            TRADES,
            "WHERE status = 'Pending' AND expires_at <= clock_timestamp() AND zone = %s",
            "WHERE status = 'Pending' AND expires_at <= clock_timestamp() - interval '1 hour' AND zone = %s",
        ),
    ),
    mutant(
        "the_end_of_a_pause_is_not_new",
        "a tick looks at nothing that only time has changed",
        (f"{SILENCE}::test_the_end_of_a_pause_is_seen_by_the_next_tick_though_nothing_else_is_new",),
        (TURNS, "OR NEW.paused_until IS NULL AND OLD.paused_until IS NOT NULL", ""),
    ),
    mutant(
        "one_failure_ends_the_order",
        "an ask whose device failed it keeps its place in the book",
        LIFE,
        (TRADES, "f.failures >= %(max_failures)s THEN 'Rejected'", "f.failures >= 1 THEN 'Rejected'"),
    ),
    mutant(
        "a_repeated_lock_moves_its_deadline",
        "a deadline is set once",
        LIFE,
        (
            COMMANDS,
            "SET expires_at = coalesce(expires_at, clock_timestamp() + make_interval(secs => %s)),",
            "SET expires_at = clock_timestamp() + make_interval(secs => %s),",
        ),
    ),
    mutant(
        "a_lost_lock_is_not_said_again",
        "the row is the outbox: what was claimed and not heard is repeated",
        (f"{LOCKS}::test_a_lock_that_was_claimed_and_never_sent_is_sent_again_under_its_deadline",),
        (COMMANDS, "LOCK_REPEAT_S: Final = 4\n", "LOCK_REPEAT_S: Final = 4_000\n"),
    ),
    mutant(
        "no_unlock_is_owed",
        "the energy of a failed trade stays reserved until a status happens to list it",
        LIFE,
        (
            TRADES,
            "unlock = CASE WHEN expires_at IS NOT NULL AND %(reason)s <> 'lock_rejected' THEN 'Owed' END,",
            "unlock = NULL,",
        ),
    ),
    mutant(
        "a_late_lock_is_not_released",
        "what was reserved too late is released again",
        (f"{MESSAGES}::test_an_answer_after_its_deadline_locks_nothing",),
        (
            LOCK_RESPONSE,
            'if status == "Failed":\n            deliveries.owe_unlock',
            'if status == "Pending":\n            trades.owe_unlock',
        ),
    ),
    mutant(
        "locks_are_said_before_unlocks",
        "a device that still holds the old reservation refuses the new one",
        (f"{LOCKS}::test_a_device_is_told_to_unlock_before_the_same_energy_is_locked_again",),
        (PUBLISH, "failed = publish(unlocks)", "failed = publish([])"),
        (PUBLISH, "publish(transfers)", "publish(transfers + unlocks)"),
    ),
    mutant(
        "a_locks_time_runs_while_others_are_said",
        "a lock is claimed when its turn comes, and not before",
        (f"{_MATCHES}::test_a_locks_time_begins_when_its_turn_comes",),
        (PUBLISH, "limit = min(LOCKS_AT_ONCE, MAX_AT_ONCE - locks)", "limit = MAX_AT_ONCE"),
    ),
    mutant(
        "locks_are_repeated_before_others_are_said_once",
        "silent devices do not hold up the others",
        (f"{_MATCHES}::test_a_lock_that_was_never_said_goes_before_those_that_are_said_again",),
        (COMMANDS, "ORDER BY command_sent_at NULLS FIRST, seq LIMIT", "ORDER BY seq LIMIT"),
    ),
    mutant(
        "a_failed_trade_leaves_its_bid_out",
        "the bid is back in the book",
        LIFE,
        (
            TRADES,
            "            FROM open WHERE closed IS NULL\n",
            "            FROM open WHERE closed IS NULL AND type = 'sell'\n",
        ),
    ),
    mutant(
        "a_bid_comes_back_with_a_new_arrival",
        "the bid keeps its old place",
        LIFE,
        (
            TRADES,
            "SELECT id, zone, type, user_id, device_id, energy_wh, price_micro, arrival, all_or_none, expires_at\n            FROM open WHERE closed IS NULL",
            "SELECT id, zone, type, user_id, device_id, energy_wh, price_micro, arrival + 1000000, all_or_none, expires_at\n            FROM open WHERE closed IS NULL",
        ),
    ),
    mutant(
        "a_failing_trade_opens_a_closed_order",
        "what was cancelled meanwhile stays closed",
        LIFE,
        (
            TRADES,
            "            WHERE o.closed IS NULL\n            ORDER BY o.id FOR NO KEY UPDATE OF o",
            "            ORDER BY o.id FOR NO KEY UPDATE OF o",
        ),
    ),
    mutant(
        "a_rejected_ask_stays_in_the_book",
        "what another trade of it gave back is withdrawn, too",
        LIFE,
        (
            TRADES,
            "DELETE FROM open_orders WHERE order_id IN (SELECT id FROM open WHERE closed IS NOT NULL)",
            "DELETE FROM open_orders WHERE order_id IN (SELECT id FROM open WHERE closed IS NOT NULL AND type = 'buy')",
        ),
    ),
    mutant(
        "energy_that_comes_back_replaces_what_is_open",
        "an order that is partly open gets back what the trade took",
        LIFE,
        (
            TRADES,
            "SET remaining_wh = book.remaining_wh + EXCLUDED.remaining_wh",
            "SET remaining_wh = EXCLUDED.remaining_wh",
        ),
    ),
    mutant(
        "the_bid_bears_a_refused_lock",
        "the device refused: its ask bears it, not the bid",
        LIFE,
        (
            LOCK_RESPONSE,
            'reason="lock_rejected", expected="Pending"',
            'reason="insufficient_escrow", expected="Pending"',
        ),
    ),
    mutant(
        "a_refusal_is_nobodys_to_know",
        "an owner learns why their device is not heard",
        (f"{LEFT_OUT}::test_an_owner_sees_what_was_refused_and_why",),
        (
            f"{PACKAGE}/usecases/note_refusals.py",
            "            _keep(conn, message, code=refused.reason",
            "            _ = (conn, message); str(refused.reason) or _keep(conn, message, code=refused.reason",
        ),
    ),
    mutant(
        "a_transfer_before_it_is_confirmed",
        "nothing is delivered before it is paid",
        LIFE,
        (
            COMMANDS,
            "(t.status = 'Confirmed' AND t.delivery IN ('Owed', 'Started'))",
            "(t.status IN ('Submitted', 'Confirmed') AND coalesce(t.delivery, 'Owed') IN ('Owed', 'Started'))",
        ),
    ),
    mutant(
        "every_answer_wakes_a_sweep",
        "of answers that come together one wakes the sweep",
        (f"{FAULTS}::test_a_sweep_is_woken_once_until_it_begins",),
        (WAKE, "    if is_first:\n        wake()", "    if is_first or not is_first:\n        wake()"),
    ),
    mutant(
        "a_candle_is_cut_where_the_window_begins",
        "the same start is the same candle",
        (f"{_HISTORY}::test_a_window_that_begins_or_ends_within_an_hour_has_that_hours_whole_candle",),
        ("functions/market_api/app.py", "since - (since - _EPOCH) % interval", "since"),
    ),
    mutant(
        "statements_are_prepared_in_a_session_that_is_shared",
        "nothing relies on a session that may be another's",
        (f"{_POOLERS}::test_sandboxes_that_share_sessions_get_their_own_answers",),
        (DATABASE, "if connection.is_shared or not prepare:", "if not prepare:"),
    ),
    mutant(
        "a_setting_is_left_in_a_session_that_is_shared",
        "nobody leaves anything in a session",
        (f"{_POOLERS}::test_nobody_leaves_a_setting_or_a_statement_in_a_session",),
        (DATABASE, "CASE WHEN pg_backend_pid() = %(told)s", "CASE WHEN %(told)s <> 0"),
    ),
    mutant(
        "a_silent_server_is_waited_for",
        "every wait has a deadline",
        (f"{_SILENT}::test_who_fell_silent_in_a_transaction_holds_no_row_for_long",),
        (DATABASE, "math.inf if statement_s is None else statement_s + BEYOND_STATEMENT_S", "math.inf"),
    ),
    mutant(
        "a_commit_is_sent_when_nobody_waits_for_it",
        "what is told to have failed for want of time has not happened",
        (f"{_SILENT}::test_nothing_is_sent_when_there_is_no_time_left",),
        (DATABASE, "        if left_s <= 0:", "        if False:"),
    ),
)
