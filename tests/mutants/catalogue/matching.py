"""Mutants of the book, the rule and the tick."""

from typing import Final

from tests.mutants.catalogue.mutant import ADMIN, FAULTS, LIFE, PACKAGE, mutant

MATCHING: Final = f"{PACKAGE}/domain/matching.py"
LEASES: Final = f"{PACKAGE}/postgres/leases.py"
BOOK: Final = f"{PACKAGE}/postgres/book.py"
CANDIDATES: Final = f"{PACKAGE}/domain/candidates.py"
CHANGES: Final = "infra/migrations/0005_the_tick_looks_at_what_changed.sql"
SHOWN: Final = "infra/migrations/0013_the_book_shows_what_can_trade.sql"
BY_PRICE: Final = f"{PACKAGE}/postgres/market.py"
RUN_TICK: Final = f"{PACKAGE}/usecases/run_tick.py"
_GATE: Final = "tests/integration/test_chain_gate.py"
_SHOWN: Final = "tests/integration/test_what_is_shown.py"
_READS: Final = "tests/integration/test_market_reads.py"

MUTANTS: Final = (
    mutant(
        "the_oldest_ask_before_the_cheapest",
        "price goes before time",
        LIFE,
        (
            CANDIDATES,
            "_merged(one.whole_asks, other.whole_asks)",
            "sorted(_merged(one.whole_asks, other.whole_asks), key=lambda o: (o[0], o[2]))",
        ),
    ),
    mutant(
        "the_youngest_ask_first",
        "at one price the older trades first",
        LIFE,
        (
            CANDIDATES,
            "_merged(one.whole_asks, other.whole_asks)",
            "sorted(_merged(one.whole_asks, other.whole_asks), key=lambda o: (o[0], o[1], -o[2]))",
        ),
    ),
    mutant(
        "the_cheapest_bid_first",
        "the dearest bid trades first",
        LIFE,
        (
            CANDIDATES,
            "_merged(one.whole_bids, other.whole_bids)",
            "sorted(_merged(one.whole_bids, other.whole_bids), key=lambda o: (o[0], -o[1], o[2]))",
        ),
    ),
    mutant(
        "the_youngest_bid_first",
        "a bid that is put back has lost its place",
        LIFE,
        (
            CANDIDATES,
            "_merged(one.whole_bids, other.whole_bids)",
            "sorted(_merged(one.whole_bids, other.whole_bids), key=lambda o: (o[0], o[1], -o[2]))",
        ),
    ),
    mutant(
        "the_price_of_the_younger_order",
        "the older order's price is the trade's",
        LIFE,
        (
            MATCHING,
            "size, price if arrival < bid_arrival else -bid_price))\n            if not waiting",
            "size, price if arrival > bid_arrival else -bid_price))\n            if not waiting",
        ),
    ),
    mutant(
        "a_bid_below_the_ask",
        "a trade must lie within both limits",
        LIFE,
        (MATCHING, "if price + bid_price > 0:\n                break", "if False:\n                break"),
    ),
    mutant(
        "one_trades_with_himself",
        "nobody trades with himself",
        LIFE,
        (MATCHING, "if user == bid_user:", "if False:"),
    ),
    mutant(
        "a_whole_bid_is_split",
        "an all-or-none order trades wholly or not at all",
        LIFE,
        (MATCHING, "if not energy or -energy > tradable or bid_user == user:", "if not energy or bid_user == user:"),
        (MATCHING, "energy = abs(energy)\n", "energy = min(abs(energy), tradable)\n"),
        (BOOK, "o.arrival = shrunk.arrival AND NOT o.all_or_none", "o.arrival = shrunk.arrival"),
    ),
    mutant(
        "a_whole_ask_above_its_devices_free_energy",
        "a device promises no more than it has",
        LIFE,
        (MATCHING, "            if left < 0:\n", "            if False:\n"),
    ),
    mutant(
        "free_energy_does_not_fall_during_a_tick",
        "two asks of one device sell the same energy in one tick",
        ("tests/unit/test_matching.py::test_a_device_promises_no_more_than_its_free_energy",),
        (MATCHING, "            left_wh[device] = left\n", "            left_wh[device] = left + size\n"),
    ),
    mutant(
        "who_commits_late_is_never_seen",
        "an order may be written by a transaction that began before the tick and ended after it",
        ("tests/integration/test_matches.py::test_an_order_that_commits_after_a_later_one_was_seen_is_seen",),
        (
            BOOK,
            '"{0} >= pg_snapshot_xmin({1}) AND NOT pg_visible_in_snapshot({0}, {1})"',
            '"{0} >= pg_snapshot_xmax({1})"',
        ),
    ),
    mutant(
        "what_is_beyond_the_limit_is_not_new",
        "more new orders than a tick looks at one by one make it look at all that crosses",
        ("tests/integration/test_matches.py::test_more_new_orders_than_are_looked_at_one_by_one_are_all_seen",),
        (BOOK, "if len(rows) > limit:", "if len(rows) > 2 * limit:"),
    ),
    mutant(
        "what_came_back_is_not_new",
        "an order that grows may trade again",
        ("tests/integration/test_matches.py::test_a_bid_that_grows_again_meets_an_ask_that_was_too_large_for_it",),
        (SHOWN, "WHEN (NEW.remaining_wh > OLD.remaining_wh OR NEW.device_id", "WHEN (NEW.device_id"),
    ),
    mutant(
        "released_energy_is_not_new",
        "what a failed trade gives back may be sold",
        LIFE,
        (CHANGES, "NEW.released := pg_current_xact_id();", "NULL;"),
    ),
    mutant(
        "a_tick_that_was_cut_off_has_seen_all",
        "what it did not come to would wait for the next look at the whole book",
        ("tests/integration/test_bounds.py::test_a_tick_takes_the_best_of_a_long_book_and_the_next_one_the_others",),
        (RUN_TICK, "is_all = not bounds.any() and len(matches) <= MAX_MATCHES", "is_all = True"),
    ),
    mutant(
        "a_level_keeps_who_has_left",
        "the levels of the book are what its orders show",
        (f"{_READS}::test_the_levels_are_what_all_that_is_shown_adds_up_to_at_any_moment",),
        (SHOWN, "-sum(shown_wh), -count(*) FROM old_rows", "0 * sum(shown_wh), 0 * count(*) FROM old_rows"),
    ),
    mutant(
        "the_book_shows_what_has_run_out",
        "an order whose time is over is not in the book, whether or not a tick has closed it",
        (f"{_READS}::test_the_levels_are_what_all_that_is_shown_adds_up_to_at_any_moment",),
        (BY_PRICE, "AND expires_at <= now()\n    )", "AND expires_at <= now() - interval '1 day'\n    )"),
    ),
    mutant(
        "a_level_is_forgotten_when_its_orders_are_none_yet",
        "changes are added up in whatever order they are found",
        (f"{_READS}::test_changes_may_be_added_up_in_any_order_and_few_at_a_time",),
        (BY_PRICE, " AND l.energy_wh + c.energy_wh = 0 THEN DELETE", " THEN DELETE"),
    ),
    mutant(
        "the_book_is_not_looked_at_again",
        "an order that was cancelled between reading and writing is matched",
        LIFE,
        (
            BOOK,
            "WHERE (SELECT count(*) FROM filled) + (SELECT count(*) FROM shrunk) = %(orders)s",
            "WHERE %(orders)s > 0",
        ),
        (
            BOOK,
            'conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")',
            'conn.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")',
        ),
    ),
    mutant(
        "two_ticks_at_once",
        "ticks of a zone never overlap",
        LIFE,
        (f"{PACKAGE}/postgres/zones.py", "return bool(row[0])", "return True"),
    ),
    mutant(
        "a_remainder_leaves_the_book",
        "a partly filled order stays with what is left of it",
        LIFE,
        (BOOK, "filled = [arrival for arrival in taken if not left_wh.get(arrival)]", "filled = taken"),
        (BOOK, "shrunk = [arrival for arrival in taken if left_wh.get(arrival)]", "shrunk: list[int] = []"),
    ),
    mutant(
        "silence_has_no_consequence",
        "a device that let a lock run out is matched again at once",
        LIFE,
        (RUN_TICK, "    devices.wait_for_status(conn, failed)\n", ""),
    ),
    mutant(
        "two_sweeps_at_once_share_a_nonce",
        "lease and unique nonce are both gone",
        (f"{FAULTS}::test_a_sweep_without_a_lease_stores_nothing_though_nobody_else_has_begun",),
        (LEASES, "WHERE leases.expires_at <= clock_timestamp() OR leases.holder = EXCLUDED.holder", "WHERE true"),
        (LEASES, "return row is not None", "return True"),
        ("infra/migrations/0001_market.sql", "    UNIQUE (chain_id, sender, nonce)\n", "    CHECK (chain_id > 0)\n"),
    ),
    mutant(
        "ticks_match_blindly",
        "while the chain can't be asked nothing is matched",
        (f"{_GATE}::test_nothing_is_matched_a_minute_after_the_chain_last_answered",),
        (RUN_TICK, "if not (due.paused or due.halted) and (", "if not due.paused and ("),
    ),
    mutant(
        "a_tick_matches_though_the_market_was_paused_meanwhile",
        "while the market is paused nothing is matched",
        (f"{ADMIN}::test_a_tick_that_saw_no_pause_before_it_took_its_turn_sees_it_then",),
        (f"{PACKAGE}/postgres/zones.py", "return Turn.NOBODYS if is_paused else Turn.OURS", "return Turn.OURS"),
    ),
    mutant(
        "a_pause_is_answered_while_a_tick_matches",
        "once a pause is answered nothing is matched",
        (f"{ADMIN}::test_pausing_waits_for_the_tick_that_is_matching",),
        (
            f"{PACKAGE}/postgres/market_state.py",
            "LOCK TABLE market_state IN EXCLUSIVE MODE",
            "LOCK TABLE market_state IN ACCESS SHARE MODE",
        ),
    ),
    mutant(
        "orders_of_refused_users_are_matched",
        "where only verified users trade, resting orders of others are not matched",
        (f"{ADMIN}::test_resting_orders_of_who_is_no_longer_verified_are_not_matched",),
        (BOOK, 'of_zone + " AND o.verified"', "of_zone"),
    ),
    mutant(
        "an_ask_shows_what_its_device_has_not",
        "an order shows no more than its device has free",
        (f"{_SHOWN}::test_an_order_shows_at_most_what_its_device_has_free_and_less_than_all_only_in_parts",),
        (SHOWN, "ELSE least(remaining_wh, coalesce(supply_wh, 0))", "ELSE remaining_wh"),
    ),
    mutant(
        "asks_of_a_device_that_fell_silent_are_shown_on",
        "the loop's step finds the devices that fell silent by the clock alone",
        (f"{_SHOWN}::test_a_device_that_only_falls_silent_shows_nothing",),
        (BY_PRICE, "ON d.id = s.device_id WHERE NOT (", "ON d.id = s.device_id WHERE false AND NOT ("),
    ),
    mutant(
        "an_order_that_was_held_is_forgotten",
        "an order that somebody held shows what is right from the next step on",
        (f"{_SHOWN}::test_an_order_that_somebody_holds_is_shown_by_the_next_step",),
        (BY_PRICE, "WHERE order_id NOT IN (SELECT order_id FROM shown)", "WHERE false"),
    ),
)
