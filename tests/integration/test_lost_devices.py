"""A device that is replaced, forgets, or has a wrong clock: whatever its trades stand at, they end, and nothing stays
reserved. The device is the reference program; the database is real."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import permutations
from pathlib import Path
from uuid import UUID

import pytest
from energy_device.device import PATIENCE_S

from energy_market.messages.received import Dropped, QueuedMessage
from energy_market.postgres import trades
from energy_market.postgres.reconciliation import database_differences
from energy_market.usecases.record_lock_response import record_lock_response
from energy_market.usecases.record_telemetry import record_telemetry
from energy_market.usecases.settling.deliveries import end_deliveries
from energy_market.usecases.settling.expire import expire_unstored
from tests.support.devices.real import RealDevice
from tests.support.market import SETTINGS, Home, Market

AVAILABLE_WH = 10_000
TRADE_WH = 500
DAY_S = 86_400


class Scene:
    """One home with its device, one buyer, and one trade between them."""

    def __init__(self, market: Market, folder: Path, *, ahead: timedelta = timedelta(0)) -> None:
        self.market = market
        self.home: Home = market.home(available_wh=None)
        self.device = RealDevice(self.home.device, folder, available_wh=AVAILABLE_WH, ahead=ahead)
        self.is_dead = False
        self.is_away = False
        self.buyer = market.user()
        self.device.report()
        self.drain()
        self.ask = market.order(self.home.user, "sell", TRADE_WH, 200_000)
        self.bid = market.order(self.buyer, "buy", TRADE_WH, 200_000)
        assert len(market.tick().trade_ids) == 1
        (self.trade,) = (trade.id for trade in market.trades(self.buyer))

    # ------------------------------------------------------------------------------------------------ steps

    def tell(self) -> None:
        """Commands go out; the device hears them, if it is there."""
        self.market.published.clear()
        self.market.publish()
        for command in self.market.published:
            if not self.is_dead and not self.is_away and command.device_id == self.device.id:
                self.device.hear(command)

    def drain(self) -> None:
        while self.device.queue and not self.is_away:
            self.take(self.device.queue.popleft())

    def take(self, message: QueuedMessage) -> None:
        with self.market.database.transaction() as conn:
            if message.topic.endswith("/lock/response"):
                record_lock_response(conn, message, settlement_window_s=SETTINGS.settlement_window_s)
                return
            try:
                record_telemetry(conn, message)
            except Dropped as dropped:
                assert dropped.reason in {"unknown_device_or_old_news", "unpaid_trade_or_old_news"}  # noqa: PT017

    def pay(self) -> None:
        """The chain pays what is locked or submitted."""
        for (trade,) in self.market.sql("SELECT id FROM transactions WHERE status IN ('Locked', 'Submitted')"):
            assert isinstance(trade, UUID)
            self.market.confirm(trade)

    def time_passes(self, seconds: int) -> None:
        """All that was set for later is so much nearer."""
        self.market.sql(
            """
            UPDATE transactions SET
                expires_at = expires_at - CASE WHEN status = 'Pending' THEN make_interval(secs => %s) ELSE '0' END,
                valid_until = valid_until - CASE WHEN status = 'Locked' THEN make_interval(secs => %s) ELSE '0' END,
                deliver_by = deliver_by - make_interval(secs => %s),
                unlock_by = unlock_by - make_interval(secs => %s),
                command_sent_at = command_sent_at - make_interval(secs => %s)
            """,
            *[seconds] * 5,
        )

    def live_on(self, *, days: int = 3) -> None:
        """The system runs on: for a quarter of an hour, in seconds at first, and then for days, in leaps."""
        for seconds in (5, 5, 11, 31, 61, 601, *[DAY_S // 2] * 2 * days):
            self.time_passes(seconds)
            if not self.is_dead:
                self.device.report()
                self.device.feed(TRADE_WH)
            self.drain()
            self.market.tick()
            expire_unstored(self.market.database)
            end_deliveries(self.market.database)
            self.tell()
            self.drain()
            self.pay()
            for owner, order in ((self.home.user, self.ask), (self.buyer, self.bid)):
                if self.market.status_of(order) == "Created":
                    self.market.cancel(owner, order)

    def outcome(self) -> tuple[str, str | None, str | None, int]:
        """(status, delivery, why, Wh delivered)."""
        (trade,) = self.market.trades(self.buyer)
        return trade.status, trade.delivery, trade.reason or trade.delivery_reason, trade.delivered_wh

    def left_over(self) -> list[str]:
        """What has not come to an end, or does not agree; the device's own word counts if it lives."""
        with self.market.database.transaction() as conn:
            found = database_differences(conn, at_rest=True).as_lines()
        free_wh = self.market.seen(self.home).free_wh
        assert free_wh is not None
        promised_wh = self.device.battery.charge_wh - free_wh
        if promised_wh:
            found.append(f"{promised_wh} Wh are still promised")
        if not self.is_dead and self.device.holds_wh:
            found.append(f"{self.device.holds_wh} Wh are still held")
        return found

    # ---------------------------------------------------------------------------------------------- stages

    def pending(self) -> None:
        """Its lock went out, and was lost on the way."""
        self.market.publish()

    def locked(self) -> None:
        self.tell()
        self.drain()
        assert self.outcome()[0] == "Locked"

    def submitted(self) -> None:
        self.locked()
        self.market.sql(
            """
            WITH batch AS (INSERT INTO settlement_batches (chain_id, contract, sender, nonce)
                           SELECT 1, '0x', '0x', 1000 + count(*) FROM settlement_batches RETURNING id)
            UPDATE transactions SET status = 'Submitted', submitted_at = now(), batch_id = (SELECT id FROM batch)
            WHERE id = %s
            """,
            self.trade,
        )

    def owed(self) -> None:
        self.locked()
        self.pay()

    def started(self) -> None:
        self.owed()
        self.tell()
        self.device.feed(200)
        self.drain()
        assert self.outcome() == ("Confirmed", "Started", None, 200)

    def unlock_owed(self) -> None:
        self.locked()
        with self.market.database.transaction() as conn:
            trades.fail(conn, [self.trade], reason="insufficient_escrow", expected="Locked")

    # ---------------------------------------------------------------------------------------------- faults

    def dies(self) -> None:
        """For good; its owner may register another, which is another device."""
        self.is_dead = True

    def forgets(self) -> None:
        """A new device of the same identity, or the same with an empty disk."""
        self.device.lose_its_memory()

    def goes_away(self) -> None:
        """Its line is cut; what it does, it goes on doing."""
        self.is_away = True

    def comes_back(self) -> None:
        self.is_away = False
        self.drain()


@pytest.fixture
def scene(market: Market, tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(market, tmp_path)
    yield scene
    scene.device.close()


PAID_FOR_NOTHING = ("Confirmed", "Short", "delivery_timeout", 0)
ENDS: dict[tuple[Callable[[Scene], None], Callable[[Scene], None]], tuple[str, str | None, str | None, int]] = {
    (Scene.pending, Scene.dies): ("Failed", None, "lock_timeout", 0),
    (Scene.locked, Scene.dies): PAID_FOR_NOTHING,
    (Scene.submitted, Scene.dies): PAID_FOR_NOTHING,
    (Scene.owed, Scene.dies): PAID_FOR_NOTHING,
    (Scene.started, Scene.dies): ("Confirmed", "Short", "delivery_timeout", 200),
    (Scene.unlock_owed, Scene.dies): ("Failed", None, "insufficient_escrow", 0),
    # The lock is repeated within its deadline, and the new device takes it.
    (Scene.pending, Scene.forgets): ("Confirmed", "Delivered", None, TRADE_WH),
    (Scene.locked, Scene.forgets): ("Failed", None, "reservation_lost", 0),
    (Scene.submitted, Scene.forgets): ("Confirmed", "Short", "reservation_lost", 0),
    (Scene.owed, Scene.forgets): ("Confirmed", "Short", "reservation_lost", 0),
    (Scene.started, Scene.forgets): ("Confirmed", "Short", "reservation_lost", 200),
    (Scene.unlock_owed, Scene.forgets): ("Failed", None, "insufficient_escrow", 0),
}


@pytest.mark.parametrize(("stage", "fault"), ENDS, ids=lambda step: step.__name__)
def test_a_trade_ends_wherever_its_device_is_lost(
    scene: Scene, stage: Callable[[Scene], None], fault: Callable[[Scene], None]
) -> None:
    stage(scene)
    fault(scene)
    scene.live_on()
    assert scene.outcome() == ENDS[stage, fault]
    assert scene.left_over() == []


@pytest.mark.parametrize("stage", [Scene.locked, Scene.owed, Scene.started], ids=lambda step: step.__name__)
def test_a_device_put_back_to_an_old_copy_gives_nothing_twice_and_keeps_nothing(
    scene: Scene, stage: Callable[[Scene], None]
) -> None:
    stage(scene)
    old = scene.device.copy()
    scene.live_on()
    assert scene.outcome() == ("Confirmed", "Delivered", None, TRADE_WH)
    scene.device.lose_its_memory(old)
    assert scene.device.holds_wh > 0
    scene.live_on()
    assert scene.outcome() == ("Confirmed", "Delivered", None, TRADE_WH)
    assert scene.device.battery.charge_wh == AVAILABLE_WH - TRADE_WH
    assert scene.left_over() == []


IN_TIME, TOO_LATE = 0, 3
FULL = ("Confirmed", "Delivered", None, TRADE_WH)


@pytest.mark.parametrize(
    ("stage", "days", "end"),
    [
        (Scene.locked, IN_TIME, FULL),
        (Scene.locked, TOO_LATE, PAID_FOR_NOTHING),
        (Scene.owed, IN_TIME, FULL),
        (Scene.owed, TOO_LATE, PAID_FOR_NOTHING),
        (Scene.started, IN_TIME, FULL),
        (Scene.started, TOO_LATE, FULL),  # a delivery needs no line
        (Scene.unlock_owed, IN_TIME, ("Failed", None, "insufficient_escrow", 0)),
        (Scene.unlock_owed, TOO_LATE, ("Failed", None, "insufficient_escrow", 0)),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_device_that_comes_back_delivers_or_gives_free(
    scene: Scene, stage: Callable[[Scene], None], days: int, end: tuple[str, str | None, str | None, int]
) -> None:
    stage(scene)
    scene.goes_away()
    scene.live_on(days=days)
    scene.comes_back()
    scene.live_on()
    assert scene.outcome() == end
    assert scene.device.battery.charge_wh == AVAILABLE_WH - end[3]
    assert scene.left_over() == []


def test_a_delivery_that_takes_too_long_is_stopped_and_counts_as_far_as_it_came(scene: Scene) -> None:
    scene.started()
    scene.time_passes(DAY_S)
    end_deliveries(scene.market.database)
    scene.device.feed(100)
    scene.tell()
    scene.drain()
    scene.live_on()
    assert scene.outcome() == ("Confirmed", "Short", "delivery_timeout", 300)
    assert scene.device.battery.charge_wh == AVAILABLE_WH - 300
    assert scene.left_over() == []


def test_a_battery_that_runs_empty_delivers_what_it_has_and_says_so(scene: Scene) -> None:
    scene.started()
    scene.device.battery.draw(AVAILABLE_WH)
    scene.device.feed(TRADE_WH)
    scene.device.seconds += PATIENCE_S
    scene.device.feed(0)
    scene.drain()
    assert scene.outcome() == ("Confirmed", "Short", "under_delivered", 200)
    scene.live_on()
    assert scene.left_over() == []


def test_offers_of_a_dead_device_trade_no_more_and_can_be_taken_back(market: Market) -> None:
    home, buyer = market.home(), market.user()
    ask = market.order(home.user, "sell", TRADE_WH, 200_000)
    market.sql("UPDATE iot_devices SET last_ping = now() - interval '3 minutes'")
    new = market.device(home.user)
    market.status(new, available_wh=AVAILABLE_WH)
    market.order(buyer, "buy", TRADE_WH, 200_000)
    assert market.tick().trade_ids == ()
    assert market.get(ask).unmatchable == "device_offline"
    market.cancel(home.user, ask)
    market.order(home.user, "sell", TRADE_WH, 200_000, device=new)
    assert len(market.tick().trade_ids) == 1


# --------------------------------------------------------------------------------------------- lost reservations


def test_no_order_of_messages_makes_a_reservation_look_lost(market: Market, tmp_path: Path) -> None:
    """Statuses and answers travel through different queues, and overtake each other."""
    for order in permutations(range(4)):
        scene = Scene(market, tmp_path)
        scene.device.report()
        scene.tell()
        scene.device.report()
        scene.tell()  # nothing more to say: the lock is repeated after four seconds only
        market.sql("UPDATE transactions SET command_sent_at = command_sent_at - interval '5 seconds'")
        scene.tell()
        before, answer, after, again = list(scene.device.queue)
        messages = [before, answer, after, again]
        scene.device.queue.clear()
        for number in order:
            scene.take(messages[number])
            scene.take(messages[number])
        assert scene.outcome()[0] == "Locked", order
        scene.device.close()


def test_a_trade_that_may_be_paid_is_not_failed_for_a_lost_reservation(scene: Scene) -> None:
    scene.locked()
    market = scene.market
    market.sql(
        """
        WITH batch AS (INSERT INTO settlement_batches (chain_id, contract, sender, nonce)
                       VALUES (1, '0x', '0x', 0) RETURNING id)
        UPDATE transactions SET batch_id = (SELECT id FROM batch)
        """
    )  # it was signed for once, and that batch was undone
    scene.forgets()
    scene.device.report()
    scene.drain()
    assert scene.outcome()[0] == "Locked"


def test_a_device_that_counts_only_its_statuses_loses_no_trade_by_them(market: Market) -> None:
    home, buyer, ask, _, trade = market.matched()
    market.answer(home.device, ask, "locked", trade=trade.id)
    market.status(home.device, available_wh=AVAILABLE_WH, seq=10**6)
    assert market.trades(buyer)[0].status == "Locked"


def test_a_device_that_says_both_is_believed_its_status(scene: Scene) -> None:
    scene.locked()
    rejected = {"order_id": str(scene.ask), "transaction_id": str(scene.trade), "status": "rejected"}
    scene.take(Market.say(f"energy/donor/{scene.device.id}/lock/response", rejected))
    assert scene.outcome()[0] == "Locked"
    scene.device.report()
    scene.drain()
    assert scene.outcome()[0] == "Locked", "it still lists the lock"
    scene.forgets()
    scene.device.report()
    scene.drain()
    assert scene.outcome()[::2] == ("Failed", "reservation_lost")
    assert scene.market.status_of(scene.ask) == "Created"
    assert scene.market.get(scene.ask).unmatchable == "device_lost_reservation"
    assert scene.market.status_of(scene.bid) == "Created"


# ------------------------------------------------------------------------------------------------------- clocks


@pytest.mark.parametrize("minutes", [-10, 10])
def test_a_device_with_a_wrong_clock_trades_like_any_other(market: Market, tmp_path: Path, minutes: int) -> None:
    scene = Scene(market, tmp_path, ahead=timedelta(minutes=minutes))
    scene.live_on()
    assert scene.outcome() == ("Confirmed", "Delivered", None, TRADE_WH)
    assert scene.left_over() == []
    scene.device.close()


@pytest.mark.parametrize("minutes", [-10, 10])
def test_a_lock_that_comes_too_late_is_released_whatever_the_devices_clock_says(
    market: Market, tmp_path: Path, minutes: int
) -> None:
    scene = Scene(market, tmp_path, ahead=timedelta(minutes=minutes))
    market.publish()
    (lock,) = (command for command in market.published if command.transaction_id == scene.trade)
    scene.time_passes(31)
    market.tick()
    assert scene.outcome()[::2] == ("Failed", "lock_timeout")
    scene.device.hear(lock)
    assert scene.device.holds_wh == TRADE_WH
    scene.drain()
    scene.tell()
    assert scene.device.holds_wh == 0
    scene.live_on()
    assert scene.left_over() == []
    scene.device.close()


def test_a_device_whose_count_is_behind_is_heard_again_after_ten_minutes(market: Market, tmp_path: Path) -> None:
    scene = Scene(market, tmp_path, ahead=timedelta(days=365))
    scene.device.ahead = timedelta(0)
    scene.forgets()
    scene.device.battery.draw(1_000)

    def heard_wh() -> object:
        scene.device.report()
        scene.drain()
        return market.sql("SELECT available_wh FROM iot_devices")[0][0]

    assert heard_wh() == AVAILABLE_WH, "old news, as far as one can tell"
    market.sql("UPDATE iot_devices SET status_heard_at = now() - interval '9 minutes'")
    assert heard_wh() == AVAILABLE_WH
    market.sql("UPDATE iot_devices SET status_heard_at = now() - interval '11 minutes'")
    assert heard_wh() == AVAILABLE_WH - 1_000
    scene.device.battery.draw(1_000)
    assert heard_wh() == AVAILABLE_WH - 2_000, "from now on by its new count"
    scene.device.close()


def test_a_status_that_lay_in_a_queue_is_not_taken_for_a_new_count(market: Market) -> None:
    home = market.home(available_wh=None)
    market.status(home.device, available_wh=5_000, seq=10)
    ((sent_ms,),) = market.sql("SELECT (extract(epoch FROM status_heard_at) * 1000)::bigint FROM iot_devices")
    assert isinstance(sent_ms, int)
    market.sql("UPDATE iot_devices SET status_heard_at = now() - interval '1 hour'")
    with pytest.raises(Dropped):
        market.status(home.device, available_wh=9_000, seq=9, received_ms=sent_ms - 3_600_000)
    assert market.sql("SELECT available_wh FROM iot_devices") == [(5_000,)]
