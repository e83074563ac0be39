"""Nothing grows without a limit: what one person or one device can make of it, and what time makes of it."""

import threading
from collections import Counter
from collections.abc import Callable, Collection
from functools import partial
from uuid import UUID, uuid4

import psycopg
import pytest

from energy_market.aws.registry import Credentials
from energy_market.database import Database
from energy_market.domain.errors import Conflict
from energy_market.domain.orders import MAX_OPEN_ORDERS_OF_A_USER
from energy_market.domain.sessions import MAX_SESSIONS_OF_A_USER
from energy_market.domain.sign_in import Challenge
from energy_market.postgres import admission, challenges, idempotency, refresh_tokens
from energy_market.postgres.device_reports import MAX_KEPT_CHARACTERS, MAX_REPORTS_IN_TEN_MINUTES
from energy_market.usecases import run_tick
from energy_market.usecases.register_device import Registration, register_device
from energy_market.usecases.register_node import register_node
from tests.support.market import Market
from tests.support.trouble.alongside import all_at_once

# What each table is bounded by; one that is in neither list is one that nobody has thought about.
PRUNED = {
    "challenges": "five minutes, then swept away by the next ones",
    "idempotency_keys": "a day",
    "rate_limits": "a minute",
    "refresh_tokens": "a week, and fifty a user",
    "device_reports": "a week, and sixty of a kind of a device in ten minutes",
    "open_orders": "500 a user, and the trades that put some back",
    "price_levels": "one a price that somebody's open order has",
    "level_changes": "what the book has seen since the loop's last step",
    "device_changes": "what was written of devices since the loop's last step",
    "device_supplies": "one a device",
    "matches": "what the tick before has matched, until the locks are published",
    "ticks": "one a zone",
    "leases": "one a name",
    "market_state": "one",
    "network_nodes": "fifty a user",
    "zones": "made by hand",
    "schema_migrations": "one a release",
    "delivery_reports": "taken by the next status of their device, a hundred a delivery until then",
}
KEPT = {
    "chain_state": "one row",
    "users": "accounts",
    "iot_devices": "fifty a user, and what he has removed: two hundred a day",
    "device_certificates": "which certificate spoke for a device, and when: twenty a day",
    "energy_orders": "what was ordered",
    "transactions": "what was traded",
    "events": "the record of every transition",
    "operator_acts": "what operators did",
    "settlement_batches": "what was signed",
    "signed_transactions": "what was signed",
    "settlement_batch_trades": "what was signed",
}


def test_every_table_is_bounded_or_kept_for_good(connection: psycopg.Connection) -> None:
    tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
    assert {name for (name,) in tables} == PRUNED.keys() | KEPT.keys()


# ------------------------------------------------------------------------------------------------ a person


def fill_book(market: Market, user: UUID, orders: int) -> None:
    market.sql(
        """WITH placed AS (
               INSERT INTO energy_orders (user_id, zone, type, energy_wh, price_micro, all_or_none)
               SELECT %s, 'default', 'buy', 1, 1, true FROM generate_series(1, %s) RETURNING *)
           INSERT INTO open_orders
           SELECT id, zone, type, user_id, device_id, energy_wh, price_micro, arrival, all_or_none, expires_at
           FROM placed""",
        user,
        orders,
    )


def test_a_user_has_so_many_orders_in_the_book_and_no_more(market: Market) -> None:
    ann, ben = market.user(), market.user()
    fill_book(market, ann, MAX_OPEN_ORDERS_OF_A_USER - 1)
    last = market.order(ann, "buy", 500, 100_000)
    with pytest.raises(Conflict, match="You have 500 open orders") as refusal:
        market.order(ann, "buy", 500, 100_000)
    assert refusal.value.code == "too_many_open_orders"
    assert market.sql("SELECT count(*) FROM energy_orders WHERE user_id = %s", ann) == [(500,)]
    market.order(ben, "buy", 500, 100_000)
    market.cancel(ann, last)
    market.order(ann, "buy", 500, 100_000)


def test_a_user_has_so_many_sessions_and_one_more_ends_the_oldest(market: Market) -> None:
    ann, ben = market.user(), market.user()

    def sign_in(user: UUID) -> UUID:
        with market.database.transaction() as conn:
            return refresh_tokens.open_session(
                conn, user_id=user, token_hash=b"x", life_s=60, most=MAX_SESSIONS_OF_A_USER
            )

    bens = sign_in(ben)
    sessions = [sign_in(ann) for _ in range(MAX_SESSIONS_OF_A_USER + 2)]
    kept = {row[0] for row in market.sql("SELECT id FROM refresh_tokens")}
    assert kept == {bens, *sessions[2:]}


def test_orders_of_one_moment_pass_the_limit_by_as_many_as_they_are_and_no_more(
    market: Market, database_url: str
) -> None:
    ann = market.user()
    fill_book(market, ann, MAX_OPEN_ORDERS_OF_A_USER - 1)
    at_once = [Market(database_url) for _ in range(8)]
    refused: list[Conflict] = []

    def place(one: Market) -> None:
        for _ in range(3):
            try:
                one.order(ann, "buy", 500, 100_000)
            except Conflict as refusal:
                refused.append(refusal)
        one.close()

    all_at_once([partial(place, one) for one in at_once])
    assert {refusal.code for refusal in refused} == {"too_many_open_orders"}
    ((placed,),) = market.sql("SELECT count(*) FROM open_orders WHERE user_id = %s", ann)
    assert MAX_OPEN_ORDERS_OF_A_USER <= int(str(placed)) <= MAX_OPEN_ORDERS_OF_A_USER - 1 + len(at_once)
    with pytest.raises(Conflict):
        market.order(ann, "buy", 500, 100_000)


def test_nodes_and_devices_of_one_moment_do_not_pass_their_limit(market: Market, database_url: str) -> None:
    ann = market.user()
    market.sql("INSERT INTO network_nodes (operator_id, location) SELECT %s, 'x' FROM generate_series(1, 47)", ann)
    for _ in range(47):
        market.device(ann)
    refused: list[str] = []

    class Nobody:
        """AWS IoT, where nothing is asked of it."""

        def issue(self, device_id: UUID, csr: str | None) -> Credentials:
            assert csr is None
            identity = 2 * device_id.hex
            return Credentials(
                certificate_arn=f"arn:{identity}", certificate_id=identity, certificate_pem="", private_key=""
            )

        def activate(self, certificate_id: str) -> None:
            assert len(certificate_id) == 64

        def tidy(self, device_id: UUID, *, kept: Collection[str], ended: Collection[str], is_removed: bool) -> None:
            raise AssertionError(device_id, kept, ended, is_removed)

    def register(one: Database) -> None:
        asked = Registration(owner_id=ann, device_type="esp32", side="donor", location="roof")
        for _ in range(2):
            try:
                with one.transaction() as conn:
                    register_node(conn, operator_id=ann, location="mast")
            except Conflict as refusal:
                refused.append(refusal.code)
            try:
                register_device(one, Nobody(), asked, present=lambda _: "")
            except Conflict as refusal:
                refused.append(refusal.code)
        one.close()

    all_at_once([partial(register, Database(database_url)) for _ in range(6)])
    assert Counter(refused) == {"too_many_nodes": 9, "too_many_devices": 9}
    assert market.sql("SELECT (SELECT count(*) FROM network_nodes), (SELECT count(*) FROM iot_devices)") == [(50, 50)]


# ------------------------------------------------------------------------------------------------ a device


def reports(market: Market, device: UUID) -> dict[str, int]:
    rows = market.sql("SELECT kind, count(*) FROM device_reports WHERE device_id = %s GROUP BY kind", device)
    return {str(kind): int(str(count)) for kind, count in rows}


def test_of_a_device_that_floods_the_newest_state_is_taken_and_the_history_is_short(market: Market) -> None:
    home, other = market.home(), market.home()
    for available_wh in range(1_000, 1_200):
        market.status(home.device, available_wh=available_wh)
    assert market.sql("SELECT available_wh FROM iot_devices WHERE id = %s", home.device) == [(1_199,)]
    assert reports(market, home.device) == {"donor_status": MAX_REPORTS_IN_TEN_MINUTES}
    market.report(f"energy/device/{home.device}/alert", {"code": "warm"})  # another kind
    market.status(other.device, available_wh=1)  # another device
    assert (reports(market, home.device)["alert"], reports(market, other.device)["donor_status"]) == (1, 2)
    market.sql("UPDATE device_reports SET received_at = received_at - interval '10 minutes'")
    market.status(home.device, available_wh=5)
    assert reports(market, home.device)["donor_status"] == MAX_REPORTS_IN_TEN_MINUTES + 1


def test_a_device_that_floods_does_not_hold_up_the_market(market: Market, database_url: str) -> None:
    flooding = market.home()
    ended = threading.Event()
    taken: list[int] = []

    def flood() -> None:
        flooder = Market(database_url)
        seq = 1_000
        while not ended.is_set():
            seq += 1
            flooder.status(flooding.device, available_wh=seq, seq=seq)
        taken.append(seq)
        flooder.close()

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        for _ in range(10):
            home, buyer, ask, _, trade = market.matched()
            assert market.answer(home.device, ask, "locked", trade=trade.id) == "locked"
            assert [one.status for one in market.trades(buyer)] == ["Locked"]
    finally:
        ended.set()
        thread.join()
    assert market.sql("SELECT available_wh FROM iot_devices WHERE id = %s", flooding.device) == [(taken[0],)]
    assert reports(market, flooding.device)["donor_status"] <= MAX_REPORTS_IN_TEN_MINUTES


def test_of_a_report_that_is_very_long_only_its_length_is_kept(market: Market) -> None:
    home = market.home()
    topic = f"energy/device/{home.device}/alert"
    market.report(topic, {"message": "x" * (MAX_KEPT_CHARACTERS - len('{"message": ""}'))})
    market.report(topic, {"message": "x" * MAX_KEPT_CHARACTERS})
    kept = market.sql("SELECT payload ->> 'not_kept_characters' FROM device_reports WHERE kind = 'alert' ORDER BY id")
    assert kept == [(None,), (str(MAX_KEPT_CHARACTERS + len('{"message": ""}')),)]


# ------------------------------------------------------------------------------------------------ the book


def test_a_tick_takes_the_best_of_a_long_book_and_the_next_one_the_others(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_tick, "MAX_CROSSING", 2)
    home, buyer = market.home(), market.user()
    asks = {price: market.order(home.user, "sell", 500, price) for price in (130, 110, 120)}
    bids = {price: market.order(buyer, "buy", 500, price) for price in (150, 170, 160)}
    matched: Callable[[], set[object]] = lambda: {  # noqa: E731
        order for row in market.sql("SELECT sell_order_id, buy_order_id FROM transactions") for order in row
    }
    assert len(market.tick().trade_ids) == 2
    assert matched() == {asks[110], asks[120], bids[170], bids[160]}
    assert len(market.tick().trade_ids) == 1
    assert matched() == {*asks.values(), *bids.values()}


# ------------------------------------------------------------------------------------------------ time


def left(market: Market, table: str) -> int:
    ((count,),) = market.sql(f"SELECT count(*) FROM {table}")
    return int(str(count))


def test_what_has_had_its_time_is_swept_away_faster_than_it_comes(market: Market) -> None:
    """Each table that forgets: old rows, one new one, and many old ones less."""
    user = market.user()
    market.sql(
        """INSERT INTO challenges (nonce, wallet_address, message, expires_at)
        SELECT n, 'w', 'm', now() - interval '1 second' FROM generate_series(1, 100) n"""
    )
    market.sql(
        """INSERT INTO idempotency_keys (user_id, route, key, body_hash, status, answer, created_at)
        SELECT %s, 'r', n, '', 200, '', now() - interval '25 hours' FROM generate_series(1, 100) n""",
        user,
    )
    market.sql(
        """INSERT INTO rate_limits (source, minute, requests)
        SELECT n, date_trunc('minute', now()) - interval '1 minute', 1 FROM generate_series(1, 100) n"""
    )
    others = [market.user() for _ in range(2)]
    market.sql(
        """INSERT INTO refresh_tokens (user_id, token_hash, expires_at)
        SELECT %s, '', now() - interval '1 second' FROM generate_series(1, 100)""",
        others[0],
    )
    home = market.home()
    market.sql(
        """INSERT INTO device_reports (device_id, kind, payload, received_at)
        SELECT %s, 'alert', '{}', now() - interval '8 days' FROM generate_series(1, 100)""",
        home.device,
    )
    tables = ("challenges", "idempotency_keys", "rate_limits", "refresh_tokens", "device_reports")
    before = {table: left(market, table) for table in tables}
    with market.database.transaction() as conn:
        challenges.add(conn, _challenge(conn), source="203.0.113.7")
        assert idempotency.claim(conn, user_id=user, route="r", key="new", body_hash=b"") is None
        admission.admit(conn, ["203.0.113.7"])
        refresh_tokens.open_session(conn, user_id=others[1], token_hash=b"x", life_s=60, most=50)
    market.report(f"energy/device/{home.device}/alert", {})
    gone = {table: before[table] - left(market, table) for table in tables}
    assert gone == {
        "challenges": challenges.PRUNED_AT_ONCE - 1,
        "idempotency_keys": idempotency.PRUNED_AT_ONCE - 1,
        "rate_limits": admission.PRUNED_AT_ONCE - 1,
        "refresh_tokens": refresh_tokens.PRUNED_AT_ONCE - 1,
        "device_reports": 4 - 1,
    }


def _challenge(conn: psycopg.Connection) -> Challenge:
    return Challenge(
        wallet_address="0x" + "0" * 40,
        domain="energy.example",
        uri="https://energy.example",
        chain_id=1,
        nonce=uuid4().hex,
        issued_at=challenges.database_time(conn),
    )
