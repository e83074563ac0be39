"""Mutants of orders, and of requests that are repeated."""

from typing import Final

from tests.mutants.catalogue.mutant import ADMIN, LIFE, PACKAGE, mutant

ORDERS: Final = f"{PACKAGE}/postgres/orders.py"
ONCE: Final = f"{PACKAGE}/usecases/answer_once.py"
_MARKET: Final = "tests/integration/test_market_api.py"
_AUTHORISATION: Final = "tests/integration/test_authorisation.py"

MUTANTS: Final = (
    mutant(
        "somebody_elses_device_sells",
        "an order belongs to a donor device of its owner",
        (f"{_MARKET}::test_a_refused_order_keeps_no_key",),
        (ORDERS, "ELSE %(device)s = ANY (donors.ids) END", "ELSE true END"),
    ),
    mutant(
        "orders_never_expire",
        "an order whose time in force has passed is closed",
        LIFE,
        (
            ORDERS,
            "WHERE b.expires_at <= now() AND b.zone = %s",
            "WHERE b.expires_at <= now() - interval '1 day' AND b.zone = %s",
        ),
    ),
    mutant(
        "a_cancelled_order_stays_in_the_book",
        "what was cancelled is not matched",
        LIFE,
        (
            ORDERS,
            "WITH withdrawn AS (DELETE FROM open_orders WHERE order_id = %s RETURNING order_id)",
            "WITH withdrawn AS (SELECT order_id FROM open_orders WHERE order_id = %s)",
        ),
    ),
    mutant(
        "anybody_cancels",
        "an order is its owner's",
        (f"{_MARKET}::test_an_order_is_cancelled_by_its_owner_once",),
        (
            f"{PACKAGE}/usecases/cancel_order.py",
            "if orders.owner(conn, order_id) != user_id:",
            "if orders.owner(conn, order_id) is None:",
        ),
    ),
    mutant(
        "an_order_sent_twice_is_placed_twice",
        "one idempotency key is one order",
        LIFE,
        (ONCE, "    if key is None:\n", "    if key is None or key:\n"),
    ),
    mutant(
        "a_key_answers_for_another_order",
        "a key that was used for another body is refused",
        (f"{_MARKET}::test_an_order_sent_twice_with_one_key_is_placed_once",),
        (ONCE, "if kept.body_hash != body_hash:", "if not kept.body_hash:"),
    ),
    mutant(
        "everybody_reads_closed_orders",
        "an order is its owner's once it has left the book",
        (f"{_AUTHORISATION}::test_what_is_hers_alone_is_to_others_as_if_it_were_not",),
        (ORDERS, "AND (s.user_id = %(viewer)s OR ", "AND (true OR "),
    ),
    mutant(
        "a_neighbour_learns_of_closed_orders_by_cancelling",
        "to others an order that is closed is as if it were not",
        (f"{_AUTHORISATION}::test_what_is_hers_alone_is_to_others_as_if_it_were_not",),
        (
            f"{PACKAGE}/usecases/cancel_order.py",
            "if orders.is_in_book_of(conn, user_id, order_id):",
            "if orders.owner(conn, order_id):",
        ),
    ),
    mutant(
        "a_paused_market_takes_orders",
        "a paused market takes no orders",
        (f"{ADMIN}::test_while_the_market_is_paused_no_order_is_taken_and_nothing_matched",),
        (ORDERS, "AND NOT (SELECT paused FROM market_state)", ""),
    ),
    mutant(
        "an_order_above_the_limit_is_taken",
        "what could never be paid is refused when it is ordered",
        ("tests/integration/settlement/test_limit.py::test_more_than_the_whole_limit_is_refused_when_it_is_ordered",),
        (f"{PACKAGE}/postgres/orders.py", "WHERE limit_nano < %(least_nano)s", "WHERE limit_nano < 0 * %(least_nano)s"),
    ),
)
