"""Energy that is fed is counted once: as available, as promised, or as gone, in whatever order that is reported."""

import json
from contextlib import suppress
from itertools import permutations
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from energy_market.messages.received import Dropped, QueuedMessage
from energy_market.postgres import devices
from energy_market.postgres.deliveries import COUNT_FORGOTTEN_AFTER_S, MAX_REPORTS_BETWEEN_STATUSES
from energy_market.usecases.record_telemetry import record_telemetry
from energy_market.usecases.settling.deliveries import end_deliveries
from tests.support.devices.real import RealDevice
from tests.support.market import SETTINGS, Home, Market, now_ms

AVAILABLE_WH = 10_000


def free_wh(market: Market, home: Home) -> int:
    """As its owner sees it, which is as the next tick counts it, but never below zero."""
    with market.database.transaction() as conn:
        ((number,),) = conn.execute("SELECT no FROM iot_devices WHERE id = %s", (home.device,)).fetchall()
        promised = devices.free_to_promise(conn, [number], device_online_s=SETTINGS.device_online_s)
    found = market.seen(home).free_wh
    assert found == max(0, promised.get(number, 0))
    return found


class Deal:
    """A home that reports 10 kWh and has sold 8, which are paid and to be delivered."""

    def __init__(self, market: Market, *, energy_wh: int = 8_000) -> None:
        self.market = market
        self.home = market.home(available_wh=None)
        self.status(10.0, seq=1)
        ask = market.order(self.home.user, "sell", energy_wh, 200_000)
        market.order(market.user(), "buy", energy_wh, 200_000)
        (self.trade,) = market.tick().trade_ids
        market.publish()
        assert market.answer(self.home.device, ask, "locked", trade=self.trade) == "locked"
        market.confirm(self.trade)
        assert self.free_wh == AVAILABLE_WH - energy_wh

    @property
    def free_wh(self) -> int:
        return free_wh(self.market, self.home)

    def status(self, kwh: float, *, seq: int, received_ms: int | None = None) -> None:
        self.market.status(self.home.device, available_wh=round(kwh * 1000), seq=seq, received_ms=received_ms)

    def fed(self, kwh: float, *, seq: int, status: str = "delivering", received_ms: int | None = None) -> None:
        report = {"transaction_id": str(self.trade), "status": status, "kwh_delivered": kwh, "seq": seq}
        self.market.report(f"energy/transfer/{self.home.device}/status", report, received_ms=received_ms)


@pytest.fixture
def deal(market: Market) -> Deal:
    return Deal(market)


def test_what_was_fed_before_a_status_is_not_promised_any_more(deal: Deal) -> None:
    deal.fed(4, seq=2, status="started")
    assert deal.free_wh == 2_000, "10 kWh at the status, 8 of them to be fed since"
    assert deal.market.seen(deal.home).available_wh == 6_000
    deal.status(6, seq=3)
    assert deal.free_wh == 2_000
    deal.fed(8, seq=4, status="delivered")
    assert (deal.free_wh, deal.market.seen(deal.home).available_wh) == (2_000, 2_000)
    deal.status(2, seq=5)
    assert (deal.free_wh, deal.market.seen(deal.home).available_wh) == (2_000, 2_000)


def test_what_is_free_in_the_middle_of_a_delivery_is_sold(deal: Deal) -> None:
    market = deal.market
    deal.status(6, seq=3)
    market.order(deal.home.user, "sell", 2_000, 200_000)
    market.order(market.user(), "buy", 2_000, 200_000)
    assert market.tick().trade_ids == (), "nobody has said that anything was fed"
    deal.fed(4, seq=2, status="started")
    assert len(market.tick().trade_ids) == 1, "the report alone makes the ask new"
    assert deal.free_wh == 0


def test_more_than_was_fed_may_have_come_in_meanwhile(deal: Deal) -> None:
    """The sun shines on it: available falls, and more is free than before."""
    market = deal.market
    deal.fed(4, seq=2)
    market.order(deal.home.user, "sell", 3_000, 200_000)
    market.order(market.user(), "buy", 3_000, 200_000)
    assert market.tick().trade_ids == ()
    deal.status(7, seq=3)
    assert len(market.tick().trade_ids) == 1


MESSAGES = [("fed", 2.0, 2), ("fed", 4.0, 3), ("status", 6.0, 4), ("fed", 6.0, 5), ("delivered", 8.0, 6)]


def test_no_order_of_messages_counts_anything_twice(market: Market) -> None:
    for order in permutations(MESSAGES):
        deal = Deal(market)
        for kind, kwh, seq in (*order, *order):
            with suppress(Dropped):
                if kind == "status":
                    deal.status(kwh, seq=seq)
                else:
                    deal.fed(kwh, seq=seq, status="delivered" if kind == "delivered" else "delivering")
            assert deal.free_wh <= 2_000, order
        assert deal.free_wh == 2_000, order
    assert market.sql("SELECT DISTINCT delivery, delivered_wh FROM transactions") == [("Delivered", 8_000)]


def test_free_energy_is_never_below_zero_on_the_wire(deal: Deal) -> None:
    deal.status(3, seq=2)
    assert deal.free_wh == 0


def test_of_a_delivery_that_falls_short_what_was_not_fed_is_free(deal: Deal) -> None:
    deal.fed(3, seq=2)
    deal.status(7, seq=3)
    deal.fed(5, seq=4, status="delivered")
    assert (deal.free_wh, deal.market.seen(deal.home).available_wh) == (5_000, 5_000)
    deal.status(5, seq=5)
    assert deal.free_wh == 5_000


def test_what_was_fed_since_the_status_is_gone_when_the_time_of_a_delivery_is_over(deal: Deal) -> None:
    deal.fed(3, seq=2)
    deal.market.sql("UPDATE transactions SET deliver_by = clock_timestamp()")
    end_deliveries(deal.market.database)
    assert deal.free_wh == 7_000
    deal.fed(4, seq=3, status="delivered")
    assert deal.free_wh == 6_000, "it fed on until it was told to stop"
    deal.status(6, seq=4)
    assert deal.free_wh == 6_000


def test_a_report_that_a_reorganisation_overtakes_counts(deal: Deal) -> None:
    deal.fed(1, seq=2)
    deal.market.sql("UPDATE transactions SET status = 'Submitted', blockchain_hash = NULL, confirmed_at = NULL")
    deal.fed(4, seq=3)
    deal.status(6, seq=4)
    assert deal.free_wh == 2_000


def test_a_count_that_begins_anew_hides_nothing_for_ever(deal: Deal) -> None:
    """The device counted by a clock that was ahead, lost its memory, and counts by the right one."""
    long_ago_ms = now_ms() - 2_000 * COUNT_FORGOTTEN_AFTER_S
    hours_ago = "now() - interval '2 hours'"
    deal.market.sql(f"UPDATE iot_devices SET status_heard_at = {hours_ago}, available_at = {hours_ago}")
    deal.fed(8, seq=10**15, status="delivered", received_ms=long_ago_ms)
    assert deal.free_wh == 2_000
    deal.status(2, seq=2)
    assert deal.free_wh == 2_000


def test_a_late_report_under_a_new_count_is_not_taken_for_an_old_one(deal: Deal) -> None:
    """It counts less than the status, but was said long after it: what it tells is in no status yet."""
    deal.status(10, seq=1_000)
    long_ago = f"now() - interval '{COUNT_FORGOTTEN_AFTER_S + 1} seconds'"
    deal.market.sql(f"UPDATE iot_devices SET status_heard_at = {long_ago}, available_at = {long_ago}")
    deal.fed(8, seq=5, status="delivered")
    assert deal.free_wh == 2_000
    deal.status(2, seq=6)
    assert deal.free_wh == 2_000


def test_reports_without_a_status_are_kept_within_bounds_and_count_with_the_next(deal: Deal) -> None:
    for number in range(MAX_REPORTS_BETWEEN_STATUSES + 20):
        deal.fed((number + 1) / 100, seq=2 + number)
    assert deal.market.sql("SELECT count(*) FROM delivery_reports") == [(MAX_REPORTS_BETWEEN_STATUSES,)]
    fed_wh = 10 * (MAX_REPORTS_BETWEEN_STATUSES + 20)
    deal.status((AVAILABLE_WH - fed_wh) / 1000, seq=10_000)
    assert deal.free_wh == 2_000
    assert deal.market.sql("SELECT count(*) FROM delivery_reports") == [(0,)]


def test_another_device_feeds_nothing(deal: Deal) -> None:
    thief = deal.market.home()
    report = {"transaction_id": str(deal.trade), "status": "delivering", "kwh_delivered": 4, "seq": 9}
    with pytest.raises(Dropped):
        deal.market.report(f"energy/transfer/{thief.device}/status", report)
    deal.status(10, seq=10)
    assert deal.free_wh == 2_000


def test_what_a_device_has_promised_is_found_by_its_index(market: Market) -> None:
    """Or a tick would read all trades that there ever were."""
    with market.database.transaction() as conn:
        conn.execute("SET LOCAL enable_seqscan = off")
        rows = conn.execute("EXPLAIN SELECT (" + devices.PROMISED + ") FROM iot_devices d").fetchall()
    assert "transactions_reserving" in "".join(row[0] for row in rows)


# ------------------------------------------------------------------------------------------ the reference device


class Street:
    """The reference device beside the market, with up to three trades to be delivered."""

    def __init__(self, market: Market, folder: Path, sizes: list[int]) -> None:
        self.market = market
        self.home = market.home(available_wh=None)
        self.device = RealDevice(self.home.device, folder, available_wh=AVAILABLE_WH)
        self.own_wh: dict[int, int] = {}  # what the device counted as free, by the count of its status
        self.said: list[QueuedMessage] = []
        self.report()
        self.take(self.said.pop())
        buyer = market.user()
        for size in sizes:
            market.order(self.home.user, "sell", size, 200_000)
            market.order(buyer, "buy", size, 200_000)
        market.tick()
        market.publish()
        self.obey()
        for answer in self.said:
            ask, trade = (UUID(json.loads(answer.payload)[name]) for name in ("order_id", "transaction_id"))
            market.answer(self.home.device, ask, "locked", trade=trade)
            market.confirm(trade)
        self.said.clear()
        market.publish()
        self.obey()

    def obey(self) -> None:
        for command in self.market.published:
            if command.device_id == self.device.id:
                self.device.hear(command)
        self.market.published.clear()
        self.collect()

    def collect(self) -> None:
        self.said += self.device.queue
        self.device.queue.clear()

    @property
    def its_own_wh(self) -> int:
        return self.device.battery.charge_wh - self.device.holds_wh

    def report(self) -> None:
        self.device.report()
        self.own_wh[json.loads(self.device.queue[-1].payload)["seq"]] = self.its_own_wh
        self.collect()

    def feed(self, energy_wh: int) -> None:
        self.device.feed(energy_wh)
        self.collect()

    def use(self, energy_wh: int) -> None:
        """The sun, or the household, which leaves alone what is reserved."""
        if energy_wh > 0:
            self.device.battery.charge(energy_wh)
        else:
            self.device.battery.draw(min(-energy_wh, max(0, self.its_own_wh)))

    def take(self, message: QueuedMessage) -> None:
        with suppress(Dropped), self.market.database.transaction() as conn:
            record_telemetry(conn, message)
        ((seq,),) = self.market.sql("SELECT available_seq FROM iot_devices WHERE id = %s", self.home.device)
        assert isinstance(seq, int)
        assert free_wh(self.market, self.home) <= max(0, self.own_wh[seq])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("devices")


ACTS = st.one_of(
    st.tuples(st.just("feed"), st.integers(1, 1_500)),
    st.tuples(st.just("use"), st.integers(-1_000, 1_000)),
    st.just(("report", 0)),
)


@given(
    sizes=st.lists(st.integers(100, 3_000), min_size=1, max_size=3),
    acts=st.lists(ACTS, min_size=1, max_size=10),
    chance=st.randoms(use_true_random=False),
)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_market_never_counts_more_as_free_than_the_device_and_in_the_end_the_same(
    market: Market, folder: Path, sizes: list[int], acts: list[tuple[str, int]], chance: object
) -> None:
    street = Street(market, folder, sizes)
    for act, energy_wh in acts:
        getattr(street, act)(*([energy_wh] if act != "report" else []))
    street.report()
    messages = [*street.said, *street.said]
    chance.shuffle(messages)  # type: ignore[attr-defined]
    for message in messages:
        street.take(message)
    assert free_wh(market, street.home) == street.its_own_wh
    street.device.close()
