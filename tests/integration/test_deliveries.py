"""Every delivery comes to an end: in full, or short for a reason; and nothing stays reserved for what is over."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final
from uuid import UUID

import psycopg
import pytest
from psycopg import sql

from energy_market.messages.received import Dropped
from energy_market.postgres import deliveries
from energy_market.postgres.migrations import migrate
from energy_market.postgres.reconciliation import database_differences
from energy_market.usecases.settling.deliveries import end_deliveries
from tests.support.market import Home, Market
from tests.support.trouble.alongside import Alongside, wait_until_somebody_waits_for

MIGRATIONS: Final = Path(__file__).resolve().parents[2] / "infra" / "migrations"


def say(market: Market, home: Home, trade: UUID, status: str, kwh: float, *, seq: int) -> None:
    report = {"transaction_id": str(trade), "status": status, "kwh_delivered": kwh, "seq": seq}
    market.report(f"energy/transfer/{home.device}/status", report)


def delivery(market: Market) -> tuple[object, ...]:
    """(delivery, why, Wh, unlock) of the only trade."""
    ((*row,),) = market.sql("SELECT delivery, delivery_reason, delivered_wh, unlock FROM transactions")
    return tuple(row)


def free_wh(market: Market, home: Home) -> int:
    free = market.seen(home).free_wh
    assert free is not None
    return free


def overdue(market: Market) -> None:
    """The delivery's time is over, and the sweep looks."""
    market.sql("UPDATE transactions SET deliver_by = clock_timestamp()")
    end_deliveries(market.database)


def differences(market: Market, *, at_rest: bool) -> list[str]:
    with market.database.transaction() as conn:
        return database_differences(conn, at_rest=at_rest).as_lines()


def test_what_ends_with_less_than_was_traded_is_short_and_no_longer_promised(market: Market) -> None:
    home, _, trade = market.sold(energy_wh=500)
    assert free_wh(market, home) == 99_500
    say(market, home, trade.id, "delivered", 0.3, seq=100)
    assert delivery(market) == ("Short", "under_delivered", 300, "Owed")
    assert free_wh(market, home) == 99_700, "what was delivered is gone, the rest is free again"
    market.publish()
    assert market.published[-1].kind == "unlock"
    market.status(home.device, available_wh=99_700, seq=101)
    assert delivery(market)[-1] == "Done"
    assert differences(market, at_rest=True) == []


def test_what_was_delivered_is_gone_in_whatever_order_it_is_reported(market: Market) -> None:
    home, buyer = market.home(available_wh=1_000), market.user()
    for size in (300, 400):
        market.order(home.user, "sell", size, 200_000)
        market.order(buyer, "buy", size, 200_000)
    market.tick()
    market.publish()
    for trade in market.trades(buyer):
        market.answer(home.device, trade.sell_order_id, "locked", trade=trade.id)
        market.confirm(trade.id)
    small, large = sorted(market.trades(buyer), key=lambda trade: trade.energy_wh)
    say(market, home, large.id, "delivered", 0.4, seq=102)
    say(market, home, small.id, "delivered", 0.3, seq=101)
    assert free_wh(market, home) == 300


def test_a_status_that_was_overtaken_by_a_delivery_tells_what_was_there_before_it(market: Market) -> None:
    home, _, trade = market.sold(energy_wh=500)
    say(market, home, trade.id, "delivered", 0.5, seq=101)
    market.status(home.device, available_wh=100_100, seq=100)
    assert free_wh(market, home) == 99_600
    market.status(home.device, available_wh=99_600, seq=102)
    assert free_wh(market, home) == 99_600


def test_what_is_not_delivered_in_time_is_short(market: Market) -> None:
    home, buyer, trade = market.sold(energy_wh=500)
    assert trade.deliver_by is not None
    end_deliveries(market.database)
    assert delivery(market) == ("Owed", None, 0, None)
    say(market, home, trade.id, "delivering", 0.2, seq=100)
    overdue(market)
    assert delivery(market) == ("Short", "delivery_timeout", 200, "Owed")
    assert market.trades(buyer)[0].status == "Confirmed", "what was paid stays paid"
    assert free_wh(market, home) == 99_800


def test_a_device_in_the_middle_of_it_says_what_it_delivered_until_it_was_stopped(market: Market) -> None:
    home, _, trade = market.sold(energy_wh=500)
    overdue(market)
    say(market, home, trade.id, "delivering", 0.2, seq=100)
    say(market, home, trade.id, "delivered", 0.3, seq=101)
    assert delivery(market) == ("Short", "delivery_timeout", 300, "Owed")


def test_a_device_that_holds_no_reservation_for_it_ends_it(market: Market) -> None:
    home, _, trade = market.sold(energy_wh=500)
    say(market, home, trade.id, "delivering", 0.1, seq=100)
    say(market, home, trade.id, "refused", 0, seq=101)
    assert delivery(market) == ("Short", "reservation_lost", 100, "Owed")


def test_a_full_delivery_counts_however_late_and_in_whatever_order_it_is_reported(market: Market) -> None:
    home, _, trade = market.sold(energy_wh=500)
    say(market, home, trade.id, "refused", 0, seq=200)
    say(market, home, trade.id, "delivered", 0.5, seq=100)
    assert delivery(market) == ("Delivered", None, 500, "Owed")
    with pytest.raises(Dropped):
        say(market, home, trade.id, "refused", 0, seq=300)
    market.publish()
    market.status(home.device, available_wh=99_500, seq=301)
    assert delivery(market) == ("Delivered", None, 500, "Done")
    assert differences(market, at_rest=True) == []


def test_a_partial_delivery_that_is_old_news_changes_nothing_of_it(market: Market) -> None:
    home, _, trade = market.sold(energy_wh=500)
    say(market, home, trade.id, "delivering", 0.4, seq=100)
    say(market, home, trade.id, "delivered", 0.3, seq=99)
    assert delivery(market) == ("Started", None, 400, None)
    with pytest.raises(Dropped):
        say(market, home, trade.id, "delivered", 0.3, seq=99)


def test_no_more_is_delivered_than_was_traded(market: Market) -> None:
    home, _, trade = market.sold(energy_wh=500)
    say(market, home, trade.id, "delivered", 0.501, seq=100)
    assert delivery(market) == ("Delivered", None, 500, None)


def test_another_device_ends_no_delivery(market: Market) -> None:
    home, _, trade = market.sold(energy_wh=500)
    thief = market.home()
    with pytest.raises(Dropped):
        say(market, thief, trade.id, "refused", 0, seq=100)
    assert delivery(market)[0] == "Owed"
    assert home


def test_an_unlock_that_nobody_hears_lapses_and_is_owed_again_when_the_device_is_back(market: Market) -> None:
    home, _, trade = market.sold(energy_wh=500)
    overdue(market)
    market.publish()
    market.sql("UPDATE transactions SET unlock_by = clock_timestamp()")
    end_deliveries(market.database)
    assert delivery(market)[-1] == "Lapsed"
    assert differences(market, at_rest=True) == []
    market.status(home.device, available_wh=100_000, locks=(trade.id,))
    assert delivery(market)[-1] == "Owed"
    assert market.sql("SELECT unlock_by > now() + interval '23 hours' FROM transactions") == [(True,)]
    market.publish()
    assert (market.published[-1].kind, market.published[-1].transaction_id) == ("unlock", trade.id)
    market.status(home.device, available_wh=100_000)
    assert delivery(market)[-1] == "Done"


def test_a_lock_that_is_still_held_after_its_delivery_is_released(market: Market) -> None:
    home, _, trade = market.sold(energy_wh=500)
    say(market, home, trade.id, "delivered", 0.5, seq=100)
    market.status(home.device, available_wh=99_500, locks=(trade.id,), seq=101)
    market.publish()
    assert (market.published[-1].kind, market.published[-1].transaction_id) == ("unlock", trade.id)


def test_a_sweep_ends_a_bounded_number_the_longest_overdue_first(market: Market) -> None:
    first, second = market.sold()[2], market.sold()[2]
    market.sql("UPDATE transactions SET deliver_by = now() - interval '1 hour' WHERE id = %s", first.id)
    market.sql("UPDATE transactions SET deliver_by = now() - interval '1 minute' WHERE id = %s", second.id)
    with market.database.transaction() as conn:
        assert [short.transaction_id for short in deliveries.end_overdue_deliveries(conn, limit=1)] == [first.id]
        assert [short.transaction_id for short in deliveries.end_overdue_deliveries(conn, limit=1)] == [second.id]
        assert deliveries.end_overdue_deliveries(conn, limit=1) == []


def test_two_sweeps_at_once_end_a_delivery_once(market: Market, database_url: str) -> None:
    market.sold()
    market.sql("UPDATE transactions SET deliver_by = clock_timestamp()")
    with psycopg.connect(database_url) as one, psycopg.connect(database_url) as other:
        assert len(deliveries.end_overdue_deliveries(one, limit=10)) == 1
        assert deliveries.end_overdue_deliveries(other, limit=10) == []


def test_a_status_that_waits_for_a_trade_does_not_hold_its_device(market: Market, database_url: str) -> None:
    """A report of a delivery changes the trade and then the device: neither must wait for what the other has."""
    home, _, trade = market.sold(energy_wh=500)
    say(market, home, trade.id, "delivered", 0.3, seq=100)
    statuses = Market(database_url)
    with psycopg.connect(database_url) as reporting, psycopg.connect(database_url) as third:
        reporting.execute("SELECT FROM transactions FOR NO KEY UPDATE")
        listing = Alongside(lambda: statuses.status(home.device, available_wh=1, locks=(trade.id,), seq=101))
        wait_until_somebody_waits_for(reporting)
        assert third.execute("SELECT FROM iot_devices FOR UPDATE SKIP LOCKED").rowcount == 1
        third.rollback()
        reporting.rollback()
        listing.end()
    statuses.close()
    assert market.sql("SELECT available_wh FROM iot_devices") == [(1,)]


def test_a_status_from_before_the_end_of_a_delivery_asks_for_no_unlock(market: Market) -> None:
    home, _, trade = market.sold(energy_wh=500)
    say(market, home, trade.id, "delivered", 0.5, seq=100)
    market.status(home.device, available_wh=100_000, locks=(trade.id,), seq=99)
    assert delivery(market)[-1] is None
    market.status(home.device, available_wh=99_500, locks=(trade.id,), seq=101)
    assert delivery(market)[-1] == "Owed"


def test_a_status_that_is_old_news_changes_no_trade_either(market: Market) -> None:
    home, _, trade = market.sold(energy_wh=500)
    market.status(home.device, available_wh=100_000, seq=101)
    say(market, home, trade.id, "delivered", 0.5, seq=99)
    with pytest.raises(Dropped):
        market.status(home.device, available_wh=100_000, locks=(trade.id,), seq=100)
    assert delivery(market)[-1] is None


def test_every_step_of_a_delivery_is_an_event(market: Market) -> None:
    home, _, trade = market.sold(energy_wh=500)
    say(market, home, trade.id, "started", 0, seq=100)
    say(market, home, trade.id, "delivered", 0.3, seq=101)
    say(market, home, trade.id, "delivered", 0.5, seq=102)
    assert market.sql(
        "SELECT from_status, to_status, reason FROM events WHERE entity = 'delivery' AND entity_id = %s ORDER BY id",
        trade.id,
    ) == [
        (None, "Owed", None),
        ("Owed", "Started", None),
        ("Started", "Short", "under_delivered"),
        ("Short", "Delivered", None),
    ]


BEFORE: Final = """
    WITH people AS (
        INSERT INTO users (wallet_address) VALUES ('0x' || repeat('a', 40)), ('0x' || repeat('b', 40)) RETURNING id
    ), seller AS (SELECT min(id::text)::uuid AS id FROM people), buyer AS (
        SELECT max(id::text)::uuid AS id FROM people
    ), device AS (
        INSERT INTO iot_devices (owner_id, device_type, side, location, zone, status)
        SELECT id, 'esp32', 'donor', 'roof', 'default', 'Registered' FROM seller RETURNING id
    ), ask AS (
        INSERT INTO energy_orders (user_id, device_id, zone, type, energy_wh, price_micro, all_or_none)
        SELECT seller.id, device.id, 'default', 'sell', 2500, 1, false FROM seller, device RETURNING id
    ), bid AS (
        INSERT INTO energy_orders (user_id, zone, type, energy_wh, price_micro, all_or_none)
        SELECT id, 'default', 'buy', 2500, 1, false FROM buyer RETURNING id
    ), batch AS (
        INSERT INTO settlement_batches (chain_id, contract, sender, nonce, status)
        VALUES (1, 'contract', 'sender', 0, 'Final') RETURNING id
    )
    INSERT INTO transactions (sell_order_id, buy_order_id, donor_id, recipient_id, device_id, zone, energy_wh,
                              price_micro, rule_version, status, batch_id, blockchain_hash, expires_at, locked_at,
                              valid_until, confirmed_at, delivery, delivered_wh)
    SELECT ask.id, bid.id, seller.id, buyer.id, device.id, 'default', 500, 1, 1, 'Confirmed', batch.id, '0x1',
           now(), now() - interval '1 second', now(), now() - interval '1 week', d.delivery, d.delivered_wh
    FROM ask, bid, seller, buyer, device, batch,
         (VALUES ('Owed', 0), ('Started', 100), ('Delivered', 500), ('Delivered', 300), ('Delivered', 501))
             d (delivery, delivered_wh)
"""


@pytest.fixture
def version_before(postgres: str, tmp_path: Path) -> Iterator[psycopg.Connection]:
    """A database as the version before left it, with deliveries in each state."""
    for number in (1, 2):
        (older,) = MIGRATIONS.glob(f"000{number}_*.sql")
        (tmp_path / older.name).write_bytes(older.read_bytes())
    name = "before_deliveries_ended"
    with psycopg.connect(postgres, autocommit=True) as server:
        server.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        with psycopg.connect(f"{postgres.rpartition('/')[0]}/{name}", autocommit=True) as conn:
            migrate(conn, tmp_path)
            conn.execute(BEFORE)
            yield conn
        server.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def test_what_the_version_before_left_gets_its_deadline_or_its_end(version_before: psycopg.Connection) -> None:
    migrate(version_before, MIGRATIONS)
    rows = version_before.execute(
        """SELECT delivery, delivery_reason, delivered_wh, deliver_by > now() + interval '23 hours'
           FROM transactions ORDER BY seq"""
    ).fetchall()
    assert rows == [
        ("Owed", None, 0, True),
        ("Started", None, 100, True),
        ("Delivered", None, 500, None),
        ("Short", "under_delivered", 300, None),
        ("Delivered", None, 500, None),
    ]
    found = database_differences(version_before, at_rest=False)
    assert [line for line in found.as_lines() if "delivery" in line] == []


def test_the_version_before_gives_no_deadline_and_yet_there_is_one(market: Market) -> None:
    """Until a deploy has ended, its statements meet the new schema."""
    market.sold()  # its Market.confirm sets no deliver_by
    assert market.sql("SELECT deliver_by > now() + interval '23 hours' FROM transactions") == [(True,)]
