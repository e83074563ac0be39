"""What people see is what can trade: price and book count what is eligible, as of the loop's last step."""

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest

from energy_market.database import Database
from energy_market.domain.market import Level, PriceSummary
from energy_market.domain.orders import Order
from energy_market.postgres import market as market_sql
from energy_market.postgres import orders as orders_sql
from energy_market.postgres.reconciliation import database_differences
from energy_market.usecases.run_tick import run_tick
from tests.support.market import SETTINGS, Home, Market


def book(market: Market, viewer: UUID) -> tuple[list[Level], list[Level]]:
    return market.database.statement(lambda conn: market_sql.depth(conn, viewer, levels=500))


def prices(market: Market, viewer: UUID) -> PriceSummary:
    return market.database.statement(lambda conn: market_sql.price_summary(conn, viewer))


def asks(market: Market) -> list[tuple[int, int]]:
    """(price, Wh) of each level of the asks, which the price must agree with."""
    viewer = market.user()
    _, found = book(market, viewer)
    summary = prices(market, viewer)
    assert summary.supply_wh == sum(level.energy_wh for level in found)
    assert summary.best_ask_micro == (found[0].price_micro if found else None)
    return [(level.price_micro, level.energy_wh) for level in found]


def bids(market: Market) -> list[tuple[int, int]]:
    """The same of the bids."""
    viewer = market.user()
    found, _ = book(market, viewer)
    summary = prices(market, viewer)
    assert summary.demand_wh == sum(level.energy_wh for level in found)
    assert summary.best_bid_micro == (found[0].price_micro if found else None)
    return [(level.price_micro, level.energy_wh) for level in found]


# ------------------------------------------------------------------------------------------------ asks


def test_an_ask_without_a_device_is_in_no_price_and_no_supply(market: Market) -> None:
    home, stranger = market.home(), market.user()
    market.show()
    idle = market.order(stranger, "sell", 100_000, 10_000)
    good = market.order(home.user, "sell", 1_000, 250_000)
    market.order(market.user(), "buy", 500, 200_000)
    market.show()
    assert (asks(market), bids(market)) == ([(250_000, 1_000)], [(200_000, 500)])
    assert (market.get(idle).shown_wh, market.get(idle).unmatchable) == (0, "no_device")
    assert (market.get(good).shown_wh, market.get(good).unmatchable) == (1_000, None)


@pytest.mark.parametrize(
    ("what", "word"),
    [
        ("UPDATE iot_devices SET status = 'Offline'", "device_offline"),
        ("UPDATE iot_devices SET last_ping = now() - interval '121 seconds'", "device_offline"),
        ("UPDATE iot_devices SET silent_since = now()", "device_silent"),
        ("UPDATE iot_devices SET available_wh = 0", "no_free_energy"),
        ("UPDATE iot_devices SET available_wh = 499", "no_free_energy"),
    ],
)
def test_an_ask_whose_device_cannot_take_part_is_shown_again_when_it_can(market: Market, what: str, word: str) -> None:
    home = market.home(available_wh=500)
    market.show()
    ask = market.order(home.user, "sell", 500, 250_000)
    assert asks(market) == [(250_000, 500)]
    market.sql(what)
    market.show()
    assert asks(market) == []
    assert (market.get(ask).shown_wh, market.get(ask).unmatchable) == (0, word)
    market.sql("UPDATE iot_devices SET status = 'Online', last_ping = now(), silent_since = NULL, available_wh = 500")
    market.show()
    assert asks(market) == [(250_000, 500)]
    assert market.get(ask).unmatchable is None


def test_a_device_that_only_falls_silent_shows_nothing(market: Market) -> None:
    """Nothing is written of it."""
    home = market.home()
    market.sql("UPDATE iot_devices SET last_ping = now() - interval '119 seconds'")
    market.show()
    market.order(home.user, "sell", 500, 250_000)
    market.show()
    assert asks(market) == [(250_000, 500)]
    time.sleep(1)
    market.show()
    assert asks(market) == []


def test_an_order_shows_at_most_what_its_device_has_free_and_less_than_all_only_in_parts(market: Market) -> None:
    home = market.home(available_wh=600)
    market.show()
    market.order(home.user, "sell", 1_000, 100_000)
    market.order(home.user, "sell", 900, 200_000, partial=True)
    market.order(home.user, "sell", 500, 300_000)
    market.order(home.user, "sell", 400, 400_000, partial=True)
    assert asks(market) == [(200_000, 600), (300_000, 500), (400_000, 400)]
    market.status(home.device, available_wh=450)
    market.show()
    assert asks(market) == [(200_000, 450), (400_000, 400)]
    market.status(home.device, available_wh=5_000)
    market.show()
    assert asks(market) == [(100_000, 1_000), (200_000, 900), (300_000, 500), (400_000, 400)]


def test_what_a_device_has_promised_its_other_orders_no_longer_show(market: Market) -> None:
    """The step after the tick shows it, be it a match, a trade, or a trade that came to nothing."""
    home, buyer = market.home(available_wh=1_000), market.user()
    market.show()
    market.order(home.user, "sell", 700, 250_000)
    market.order(home.user, "sell", 400, 300_000)
    market.order(home.user, "sell", 800, 350_000, partial=True)
    market.order(buyer, "buy", 700, 250_000)
    assert run_tick(market.database, zone="default", device_online_s=SETTINGS.device_online_s).matches == 1
    market.show()  # it is a match yet
    assert asks(market) == [(350_000, 300)]
    market.publish()
    market.show()
    assert asks(market) == [(350_000, 300)]
    ((trade, ask),) = market.sql("SELECT id, sell_order_id FROM transactions")
    market.sql("UPDATE transactions SET expires_at = now()")
    run_tick(market.database, zone="default", device_online_s=SETTINGS.device_online_s)
    market.show()
    assert asks(market) == []  # silent
    market.status(home.device, available_wh=1_000)
    market.show()
    assert asks(market)[-2:] == [(300_000, 400), (350_000, 800)]
    assert (trade, ask) != (None, None)


def test_a_new_device_that_was_heard_shows_its_owners_waiting_asks(market: Market) -> None:
    owner = market.user()
    ask = market.order(owner, "sell", 500, 250_000)
    home = Home(user=owner, device=market.device(owner))
    market.sql("UPDATE energy_orders SET device_id = %s", home.device)
    market.sql("UPDATE open_orders SET device_id = %s", home.device)
    market.status(home.device, available_wh=500)
    market.show()
    assert asks(market) == [(250_000, 500)]
    assert market.get(ask).shown_wh == 500


# ------------------------------------------------------------------------------------------------ who may trade


def test_where_only_verified_users_trade_others_orders_are_not_shown(market: Market) -> None:
    home, other = market.home(), market.home()
    buyer, stranger = market.user(), market.user()
    known = [home.user, buyer]
    market.sql("UPDATE users SET kyc_status = 'Verified' WHERE id = ANY (%s)", known)
    market.show()
    for user, kind, price in (
        (home.user, "sell", 300_000),
        (other.user, "sell", 100_000),
        (buyer, "buy", 200_000),
        (stranger, "buy", 400_000),
    ):
        market.order(user, "sell" if kind == "sell" else "buy", 500, price)
    assert (asks(market)[0], bids(market)[0]) == ((100_000, 500), (400_000, 500))
    market.show(verified_only=True)
    assert (asks(market), bids(market)) == ([(300_000, 500)], [(200_000, 500)])
    market.sql("UPDATE users SET kyc_status = 'Verified' WHERE id = %s", stranger)
    market.sql("UPDATE users SET kyc_status = 'Refused' WHERE id = %s", buyer)
    assert (asks(market), bids(market)) == ([(300_000, 500)], [(400_000, 500)])
    market.show()
    assert asks(market) == [(100_000, 500), (300_000, 500)]
    assert bids(market) == [(400_000, 500), (200_000, 500)]


def test_who_may_not_trade_is_told_so_of_bids_and_asks(market: Market) -> None:
    home = market.home()
    market.show()
    for order in (
        market.order(home.user, "sell", 500, 300_000),
        market.order(home.user, "buy", 500, 200_000),
    ):
        assert market.get(order).unmatchable is None
        with market.database.transaction() as conn:
            found = orders_sql.get(conn, order, device_online_s=120, verified_only=True)
        assert found is not None
        assert found.unmatchable == "kyc_required"


# ------------------------------------------------------------------------------------------------ a word, not null


def words(market: Market, user: UUID) -> list[str | None]:
    with market.database.transaction() as conn:
        found = orders_sql.of_user(conn, user, device_online_s=120, verified_only=False, limit=100)
    return [order.unmatchable for order in found]


def test_own_orders_that_cross_say_so_until_somebody_elses_is_there(market: Market) -> None:
    home = market.home()
    market.show()
    market.order(home.user, "sell", 500, 200_000)
    market.order(home.user, "buy", 500, 250_000)
    assert market.tick().trade_ids == ()
    assert words(market, home.user) == ["own_orders_cross", "own_orders_cross"]
    market.order(market.user(), "buy", 500, 210_000)
    assert words(market, home.user) == ["own_orders_cross", None]
    assert len(market.tick().trade_ids) == 1


@pytest.mark.parametrize(
    ("ask", "bid", "word"),
    [
        ((500, False), (700, False), "no_counterparty_of_this_size"),
        ((700, False), (500, False), "no_counterparty_of_this_size"),
        ((700, False), (500, True), "no_counterparty_of_this_size"),
        ((500, True), (700, False), "no_counterparty_of_this_size"),
        ((500, False), (500, False), None),
        ((700, True), (500, False), None),
        ((500, False), (700, True), None),
        ((500, True), (700, True), None),
    ],
)
def test_orders_that_cross_but_do_not_fit_in_size_say_so(
    market: Market, ask: tuple[int, bool], bid: tuple[int, bool], word: str | None
) -> None:
    home, buyer = market.home(), market.user()
    market.show()
    market.order(home.user, "sell", ask[0], 200_000, partial=ask[1])
    market.order(buyer, "buy", bid[0], 250_000, partial=bid[1])
    assert (words(market, home.user), words(market, buyer)) == ([word], [word])
    assert len(market.tick().trade_ids) == (1 if word is None else 0)


def test_orders_that_do_not_cross_or_cross_what_cannot_trade_wait_without_a_word(market: Market) -> None:
    home, buyer = market.home(), market.user()
    market.show()
    market.order(home.user, "sell", 500, 300_000)
    market.order(market.user(), "sell", 700, 100_000)  # no device
    market.order(buyer, "buy", 600, 200_000)
    assert (words(market, home.user), words(market, buyer)) == ([None], [None])


def test_among_hundreds_that_cross_those_of_ones_own_size_are_found(market: Market) -> None:
    home = market.home(available_wh=1_000_000)
    market.show()
    buyer = market.user()
    market.sql("UPDATE users SET kyc_status = 'Verified'")
    for n in range(orders_sql.LOOKED_AT + 10):
        market.order(buyer, "buy", 1_000 + n, 250_000)
    market.order(home.user, "sell", 500, 200_000)
    assert words(market, home.user) == ["no_counterparty_of_this_size"]
    market.order(market.user(), "buy", 500, 210_000)
    assert words(market, home.user) == [None]
    assert len(market.tick().trade_ids) == 1


def test_a_paused_market_is_the_word_of_whoever_could_trade(market: Market) -> None:
    home, idle = market.home(), market.user()
    market.show()
    market.order(home.user, "sell", 500, 300_000)
    market.order(idle, "sell", 500, 300_000)
    market.order(idle, "buy", 500, 200_000)
    market.sql("UPDATE market_state SET paused = true")
    assert words(market, home.user) == ["market_paused"]
    assert words(market, idle) == ["market_paused", "no_device"]


def test_only_its_owner_is_told_why(market: Market) -> None:
    owner, viewer = market.user(), market.user()
    ask = market.order(owner, "sell", 500, 300_000)

    def seen_by(user: UUID) -> Order:
        with market.database.transaction() as conn:
            found = orders_sql.seen_by(conn, user, ask, device_online_s=120, verified_only=False)
        assert found is not None
        return found

    assert (seen_by(owner).unmatchable, seen_by(viewer).unmatchable) == ("no_device", None)
    assert seen_by(viewer).shown_wh == 0


# ------------------------------------------------------------------------------------------------ how it is kept


def eligible(market: Market, *, verified_only: bool) -> dict[UUID, int]:
    """What each open order can trade now, counted the slow way: Wh, of those that can trade any."""
    promised: dict[Any, int] = {}
    for device, wh in market.sql(
        """
        SELECT device_id, energy_wh - fed_wh FROM transactions
        WHERE status <> 'Failed' AND coalesce(delivery, '') NOT IN ('Delivered', 'Short')
        UNION ALL  -- what was fed is in the status still that came before it
        SELECT device_id, delivered_wh - fed_wh FROM transactions
        WHERE status = 'Failed' OR delivery IN ('Delivered', 'Short')
        UNION ALL
        SELECT d.id, m.energy_wh FROM matches m JOIN iot_devices d ON d.no = m.device_no
        """
    ):
        promised[device] = promised.get(device, 0) + int(str(wh))
    free = {
        device: max(0, int(str(available)) - promised.get(device, 0))
        for device, available, is_there in market.sql(
            """
            SELECT id, coalesce(available_wh, 0),
                   status = 'Online' AND silent_since IS NULL AND paused_until IS NULL
                       AND last_ping > now() - interval '120 seconds'
            FROM iot_devices
            """
        )
        if is_there
    }
    found = {}
    for order, kind, device, whole, remaining, verified in market.sql(
        """
        SELECT o.order_id, o.type, o.device_id, o.all_or_none, o.remaining_wh, u.kyc_status = 'Verified'
        FROM open_orders o JOIN users u ON u.id = o.user_id
        """
    ):
        wh = int(str(remaining))
        if kind == "sell":
            wh = 0 if whole and free.get(device, 0) < wh else min(wh, free.get(device, 0))
        if wh and (verified or not verified_only):
            found[UUID(str(order))] = wh
    return found


def shown(market: Market) -> dict[UUID, int]:
    rows = market.sql("SELECT order_id, shown_wh FROM open_orders WHERE shown_wh > 0")
    return {UUID(str(order)): int(str(wh)) for order, wh in rows}


class History:
    """What happens in a market, by chance."""

    def __init__(self, market: Market, chance: random.Random) -> None:
        self.market, self.chance = market, chance
        self.homes = [market.home(available_wh=1_500) for _ in range(3)]
        self.users = [market.user() for _ in range(3)]
        self.verified_only = False

    def order(self) -> None:
        is_ask = self.chance.random() < 0.6
        owners = [home.user for home in self.homes] if is_ask and self.chance.random() < 0.9 else self.users
        self.market.order(
            self.chance.choice(owners),
            "sell" if is_ask else "buy",
            100 * self.chance.randint(1, 12),
            10_000 * self.chance.randint(8, 12),
            partial=self.chance.random() < 0.6,
        )

    def withdraw(self) -> None:
        for user, order in self.market.sql("SELECT user_id, order_id FROM open_orders ORDER BY random() LIMIT 1"):
            self.market.cancel(UUID(str(user)), UUID(str(order)))

    def status(self) -> None:
        self.market.status(self.chance.choice(self.homes).device, available_wh=100 * self.chance.randint(0, 30))

    def silence(self) -> None:
        device = self.chance.choice(self.homes).device
        self.market.sql("UPDATE iot_devices SET last_ping = now() - interval '10 minutes' WHERE id = %s", device)

    def tick(self) -> None:
        run_tick(
            self.market.database,
            zone="default",
            device_online_s=SETTINGS.device_online_s,
            verified_only=self.verified_only,
        )

    def lock_runs_out(self) -> None:
        self.market.publish()
        self.market.sql("UPDATE transactions SET expires_at = now() WHERE status = 'Pending'")

    def deliver(self) -> None:
        self.market.publish()
        for trade, device, ask in self.market.sql(
            "SELECT id, device_id, sell_order_id FROM transactions"
            " WHERE status = 'Pending' AND expires_at > now() LIMIT 1"
        ):
            self.market.answer(UUID(str(device)), UUID(str(ask)), "locked", trade=UUID(str(trade)))
            self.market.confirm(UUID(str(trade)))
            self.market.sql(
                "UPDATE transactions SET delivery = 'Delivered', delivered_wh = energy_wh WHERE id = %s", trade
            )

    def vouch(self) -> None:
        user = self.chance.choice([*self.users, *(home.user for home in self.homes)])
        self.market.sql(
            "UPDATE users SET kyc_status = CASE kyc_status WHEN 'Verified' THEN 'Refused' ELSE 'Verified' END"
            " WHERE id = %s",
            user,
        )

    def go_on(self) -> None:
        often, seldom = (
            [self.order] * 8 + [self.status] * 3 + [self.tick] * 2,
            [self.silence, self.withdraw, self.vouch],
        )
        for _ in range(self.chance.randint(1, 4)):
            self.chance.choice([*often, *seldom, self.lock_runs_out, self.deliver])()
        if self.chance.random() < 0.1:
            self.verified_only = not self.verified_only


@pytest.mark.parametrize("seed", range(4))
def test_after_each_step_what_is_shown_is_what_adding_up_all_that_is_eligible_gives(market: Market, seed: int) -> None:
    history, most = History(market, random.Random(seed)), 0
    for _ in range(60):
        history.go_on()
        market.show(verified_only=history.verified_only)
        wanted = eligible(market, verified_only=history.verified_only)
        assert shown(market) == wanted
        assert market.sql("SELECT count(*) FROM device_changes") == [(0,)]
        with market.database.transaction() as conn:
            assert not [line for line in database_differences(conn, at_rest=False).lines if " shows " in line]
            market_sql.fold_changes(conn)
        levels = market.sql(
            "SELECT sum(energy_wh)::bigint, sum(orders)::bigint FROM price_levels WHERE price_micro > 0"
        )
        assert levels == [(sum(wanted.values()), len(wanted)) if wanted else (None, None)]
        most = max(most, len(wanted))
    assert most > 5


def test_a_status_that_changes_nothing_of_what_is_shown_writes_no_order(market: Market) -> None:
    home = market.home(available_wh=10_000)
    market.show()
    for n in range(5):
        market.order(home.user, "sell", 500, 200_000 + n, partial=n % 2 == 0)
    market.show()
    before = market.sql("SELECT order_id, ctid, xmin FROM open_orders ORDER BY arrival")
    changes = market.sql("SELECT count(*) FROM level_changes")
    for available_wh in (9_900, 9_800, 9_800, 700):
        market.status(home.device, available_wh=available_wh)
        market.show()
    assert market.sql("SELECT order_id, ctid, xmin FROM open_orders ORDER BY arrival") == before
    assert market.sql("SELECT count(*) FROM level_changes") == changes
    assert market.sql("SELECT energy_wh FROM device_supplies") == [(700,)]


@contextmanager
def another(url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(url) as conn:
        yield conn


def test_an_order_that_somebody_holds_is_shown_by_the_next_step(market: Market, database_url: str) -> None:
    home = market.home(available_wh=10_000)
    market.show()
    first, second = (market.order(home.user, "sell", 500, price) for price in (200_000, 300_000))
    market.status(home.device, available_wh=0)
    with another(database_url) as other:
        other.execute("SELECT FROM open_orders WHERE order_id = %s FOR UPDATE", (first,))
        market.show()
        assert shown(market) == {first: 500}
    market.show()
    assert shown(market) == {}
    market.status(home.device, available_wh=500)
    market.show()
    assert shown(market) == {first: 500, second: 500}


def test_an_order_that_comes_while_the_step_is_at_work_is_shown_by_the_next(market: Market, database_url: str) -> None:
    """It saw what its device could give before, and the step did not see it."""
    home = market.home(available_wh=10_000)
    market.show()
    market.status(home.device, available_wh=0)
    with another(database_url) as other, other.transaction():
        other.execute(
            """
            WITH placed AS (
                INSERT INTO energy_orders (user_id, device_id, zone, type, energy_wh, price_micro, all_or_none)
                VALUES (%s, %s, 'default', 'sell', 500, 200000, true) RETURNING *)
            INSERT INTO open_orders
            SELECT id, zone, type, user_id, device_id, energy_wh, price_micro, arrival, all_or_none, expires_at
            FROM placed
            """,
            (home.user, home.device),
        )
        market.show()
    assert list(shown(market).values()) == [500]
    market.show()
    assert shown(market) == {}


def test_of_two_steps_one_shows(market: Market, database_url: str) -> None:
    market.home()
    other = Database(database_url)
    with other.transaction() as conn:
        market_sql.show_what_can_trade(conn, device_online_s=120, verified_only=False)
        market.show()
        assert market.sql("SELECT count(*) FROM device_supplies") == [(0,)]
    other.close()
    assert market.sql("SELECT count(*) FROM device_supplies") == [(1,)]


def test_an_order_that_has_run_out_shows_nothing_though_no_tick_has_closed_it(market: Market) -> None:
    home = market.home()
    market.show()
    soon = datetime.now(UTC) + timedelta(hours=1)
    ask = market.order(home.user, "sell", 500, 200_000, expires_at=soon)
    market.sql("UPDATE open_orders SET expires_at = now()")
    assert asks(market) == []
    assert market.get(ask).shown_wh == 0
