"""The loop when two of it run, when a step takes too long, when it stood still, and when it is deployed anew."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import UUID

import psycopg
import pytest

from energy_market.domain.commands import Command
from energy_market.domain.errors import Conflict
from energy_market.domain.loop import STEP
from energy_market.postgres.commands import LOCK_REPEAT_S
from energy_market.postgres.migrations import migrate
from energy_market.postgres.reconciliation import database_differences
from tests.support.api import ENVIRONMENT, load_function
from tests.support.market import SETTINGS, Home, Market
from tests.support.owner import as_owner
from tests.support.places import CHECKOUT
from tests.support.trouble.alongside import Alongside, all_at_once, wait_until_somebody_waits_for


def differences(database_url: str) -> list[str]:
    with psycopg.connect(database_url) as conn:
        return database_differences(conn, at_rest=False).lines


# ------------------------------------------------------------------------------------------------ two at once


@contextmanager
def loop_process(database_url: str) -> Iterator["subprocess.Popen[str]"]:
    environment = {**os.environ, **ENVIRONMENT, "DATABASE_URL": database_url, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-m", "tests.support.loop_process"],
        cwd=CHECKOUT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process


def read_until_it_ends(process: "subprocess.Popen[str]", lines: list[dict[str, Any]]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(json.loads(line))  # noqa: PERF401 -- others look at what is there


def test_two_loops_in_two_processes_trade_nothing_twice_and_say_every_lock_once_in_its_time(
    market: Market, database_url: str
) -> None:
    # Whoever trades takes his time, so that the other comes across him.
    market.sql(
        """
        CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM pg_sleep(0.005); RETURN NEW; END $$
        """
    )
    market.sql("CREATE TRIGGER dawdle BEFORE INSERT ON transactions FOR EACH ROW EXECUTE FUNCTION dawdle()")
    homes, buyers = [market.home(available_wh=10**8) for _ in range(3)], [market.user() for _ in range(3)]
    lines: list[dict[str, Any]] = []
    with loop_process(database_url) as first, loop_process(database_url) as second:
        reading = [Alongside(lambda one=one: read_until_it_ends(one, lines)) for one in (first, second)]  # type: ignore[misc]
        until = float("inf")
        placed = 0
        while time.monotonic() < until:
            market.order(homes[placed % 3].user, "sell", 500, 200_000, partial=placed % 2 == 0)
            market.order(buyers[placed % 3], "buy", 500, 200_000, partial=placed % 2 == 0)
            placed += 1
            time.sleep(0.01)  # no faster than they trade, or the book would fill up to the most that one may have open
            if until == float("inf") and any("said" in line for line in lines):
                until = time.monotonic() + LOCK_REPEAT_S + 1
        for process in (first, second):
            assert process.stdin is not None
            process.stdin.close()
        for one in reading:
            one.end()
        assert (first.wait(), second.wait()) == (0, 0)
    market.tick()
    market.publish()

    events = [line["event"] for line in lines if "event" in line]
    assert set(events) == {"tick", "commands"}, "nothing failed"
    assert {line["ran"] for line in lines if line.get("event") == "tick"} == {True, False}
    ((trades, sold_wh),) = market.sql("SELECT count(*), sum(energy_wh) FROM transactions")
    assert sold_wh == placed * 500
    assert market.sql("SELECT order_id FROM open_orders") == []
    assert differences(database_url) == []
    said: dict[str, list[float]] = defaultdict(list)
    for line in lines:
        if "said" in line:
            said[line["trade"]].append(line["at"])
    assert len(said.keys() | {str(command.transaction_id) for command in market.published}) == trades
    pauses = [later - earlier for times in said.values() for earlier, later in pairwise(sorted(times))]
    assert pauses, "no lock was repeated"
    assert min(pauses) > LOCK_REPEAT_S - 0.5


def test_publishers_at_once_claim_each_lock_once_a_period(market: Market, database_url: str) -> None:
    home, buyer = market.home(available_wh=10**8), market.user()
    for _ in range(60):
        market.order(home.user, "sell", 500, 200_000)
        market.order(buyer, "buy", 500, 200_000)
    made = set(market.tick().trade_ids)
    publishers = [Market(database_url) for _ in range(4)]

    def claimed() -> Counter[UUID]:
        """What all of them together claim, when each looks three times."""
        claims: list[UUID] = []

        def claim(publisher: Market) -> None:
            for _ in range(3):
                claims.extend(command.transaction_id for command in publisher.claim_locks())

        all_at_once([partial(claim, publisher) for publisher in publishers])
        return Counter(claims)

    assert claimed() == dict.fromkeys(made, 1)
    deadlines = market.sql("SELECT id, expires_at FROM transactions ORDER BY seq")
    time_passes(market, LOCK_REPEAT_S + 1)
    assert claimed() == dict.fromkeys(made, 1)
    shifted = timedelta(seconds=LOCK_REPEAT_S + 1)
    assert market.sql("SELECT id, expires_at FROM transactions ORDER BY seq") == [
        (trade, deadline - shifted)  # type: ignore[operator]
        for trade, deadline in deadlines
    ]
    for publisher in publishers:
        publisher.close()


def time_passes(market: Market, seconds: float) -> None:
    """Everything that happened is so much longer ago, and every deadline nearer."""
    shift = {"s": seconds}
    with market.database.transaction() as conn:
        conn.execute(
            """
            UPDATE transactions SET "timestamp" = "timestamp" - make_interval(secs => %(s)s),
                expires_at = expires_at - make_interval(secs => %(s)s),
                command_sent_at = command_sent_at - make_interval(secs => %(s)s),
                valid_until = valid_until - make_interval(secs => %(s)s)
            """,
            shift,
        )
        conn.execute("UPDATE energy_orders SET expires_at = expires_at - make_interval(secs => %(s)s)", shift)
        conn.execute("UPDATE open_orders SET expires_at = expires_at - make_interval(secs => %(s)s)", shift)
        conn.execute("UPDATE iot_devices SET last_ping = last_ping - make_interval(secs => %(s)s)", shift)


# ------------------------------------------------------------------------------------------------ a step too long

LoadMatching = Callable[[list[Command]], ModuleType]


@pytest.fixture
def load_matching(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoadMatching]:
    """Loads the function as a new sandbox would; what it says to devices is kept."""
    for name, value in {**ENVIRONMENT, "DATABASE_URL": database_url}.items():
        monkeypatch.setenv(name, value)
    loaded: list[ModuleType] = []

    def load(said: list[Command]) -> ModuleType:
        def say(commands: list[Command]) -> list[tuple[Command, Exception]]:
            said.extend(commands)
            return []

        matching = load_function("matching")
        vars(matching)["_publish"] = lambda: say
        loaded.append(matching)
        return matching

    yield load
    for matching in loaded:
        matching._database().close()  # noqa: SLF001 -- a sandbox that ends takes its connection with it


def now() -> dict[str, str]:
    return {"mark": datetime.now(UTC).isoformat(), "zone": "default"}


def test_a_tick_that_takes_longer_than_a_step_is_not_joined_and_holds_up_no_command(
    market: Market, database_url: str, load_matching: LoadMatching, capsys: pytest.CaptureFixture[str]
) -> None:
    home, buyer = market.home(), market.user()
    market.order(home.user, "sell", 300, 200_000)
    market.order(buyer, "buy", 300, 200_000)
    (earlier,) = market.tick().trade_ids
    market.order(home.user, "sell", 500, 200_000)
    bid = market.order(buyer, "buy", 500, 200_000)
    said: list[Command] = []
    slow, following = load_matching(said), load_matching(said)
    with psycopg.connect(database_url) as somebody:
        somebody.execute("SELECT FROM open_orders WHERE order_id = %s FOR UPDATE", (bid,))
        mark = now()
        ticking = Alongside(lambda: slow.tick(mark, None))
        wait_until_somebody_waits_for(somebody)
        capsys.readouterr()

        # Five seconds later: the loop's next step, though the first one is not done.
        assert following.tick(now(), None) == {"matches": 0}
        (first, *_) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert (first["event"], first["ran"]) == ("tick", False)
        assert following.commands({**now(), "missed": False}, None) == {"commands": 1}
        assert [command.transaction_id for command in said] == [earlier], "devices are told all the same"
        somebody.rollback()
    ticking.end()
    assert following.tick(now(), None) == {"matches": 0}
    assert following.commands({**now(), "missed": False}, None) == {"commands": 1}
    assert [trade.energy_wh for trade in market.trades(buyer)] == [500, 300]
    assert {command.transaction_id for command in said} == {trade.id for trade in market.trades(buyer)}
    assert differences(database_url) == []


def test_at_a_mark_that_was_missed_devices_are_told_and_it_is_counted(
    market: Market, load_matching: LoadMatching, capsys: pytest.CaptureFixture[str]
) -> None:
    home, buyer = market.home(), market.user()
    market.order(home.user, "sell", 300, 200_000)
    market.order(buyer, "buy", 300, 200_000)
    market.tick()
    said: list[Command] = []
    assert load_matching(said).commands({**now(), "missed": True}, None) == {"commands": 1}
    missed, metric, _ = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (missed["event"], metric["TicksMissed"]) == ("tick.missed", 1)
    assert [command.kind for command in said] == ["lock"]


# ------------------------------------------------------------------------------------------------ a minute, and zones


def test_a_minute_has_the_zones_there_are_and_marks_from_the_schedule_or_for_two_minutes(
    market: Market, load_matching: LoadMatching
) -> None:
    market.sql("INSERT INTO zones (id) VALUES ('another')")
    marks = load_matching([]).marks
    at = datetime.now(UTC)
    scheduled = marks({"started_at": at.isoformat(), "schedule": {"time": at.isoformat()}}, None)
    assert scheduled["zones"] == ["another", "default"]
    assert len(scheduled["marks"]) == 12
    assert len(marks({"started_at": at.isoformat(), "schedule": {}}, None)["marks"]) == 24
    for mark in scheduled["marks"]:
        times = datetime.fromisoformat(mark["at"]), datetime.fromisoformat(mark["until"])
        assert times[1] - times[0] == STEP


def test_zones_are_ticked_at_once_and_one_that_hangs_or_fails_holds_up_neither_another_nor_the_commands(
    market: Market, database_url: str, load_matching: LoadMatching, capsys: pytest.CaptureFixture[str]
) -> None:
    trading: dict[str, UUID] = {}
    for zone in ("failing", "hanging", "sound"):
        market.sql("INSERT INTO zones (id) VALUES (%s)", zone)
        home, trading[zone] = market.home(), market.user()
        market.sql("UPDATE users SET zone = %s WHERE id = ANY (%s)", zone, [home.user, trading[zone]])
        market.order(home.user, "sell", 400, 200_000)
        market.order(trading[zone], "buy", 400, 200_000)
    market.sql(
        """
        CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'this zone cannot be ticked'; END $$
        """
    )
    market.sql(
        "CREATE TRIGGER fail BEFORE INSERT ON ticks FOR EACH ROW WHEN (NEW.zone = 'failing') EXECUTE FUNCTION fail()"
    )
    said: list[Command] = []
    sandboxes = {zone: load_matching(said) for zone in trading}

    def step(zone: str) -> dict[str, int]:
        traded: dict[str, int] = sandboxes[zone].tick({**now(), "zone": zone}, None)
        return traded

    with psycopg.connect(database_url) as somebody:
        somebody.execute("SELECT FROM open_orders WHERE user_id = %s FOR UPDATE", (trading["hanging"],))
        hanging = Alongside(lambda: step("hanging"))
        wait_until_somebody_waits_for(somebody)
        with pytest.raises(psycopg.errors.RaiseException):
            step("failing")
        assert step("sound") == {"matches": 1}
        assert sandboxes["sound"].commands({**now(), "missed": False}, None) == {"commands": 1}
        somebody.rollback()
    hanging.end()
    assert sandboxes["sound"].commands({**now(), "missed": False}, None) == {"commands": 1}
    assert {zone: len(market.trades(buyer)) for zone, buyer in trading.items()} == {
        "failing": 0,
        "hanging": 1,
        "sound": 1,
    }
    logged = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["zone"] for line in logged if line.get("event") == "tick.failed"] == ["failing"]
    market.sql("DROP TRIGGER fail ON ticks")
    assert step("failing") == {"matches": 1}, "its next tick is the retry"
    assert differences(database_url) == []


# ------------------------------------------------------------------------------------------------ a minute without one


def published(market: Market) -> tuple[Home, UUID, UUID, UUID]:
    """(donor's home, ask, bid, trade) of a trade whose lock is published."""
    home, _, ask, bid, trade = market.matched()
    return home, ask, bid, trade.id


def trade_status(market: Market, trade: UUID) -> tuple[object, ...]:
    (found,) = market.sql("SELECT status, reason FROM transactions WHERE id = %s", trade)
    return found


def test_a_lock_runs_out_by_the_clock_though_no_tick_says_so(market: Market, database_url: str) -> None:
    home, ask, bid, trade = published(market)
    time_passes(market, 60)
    assert market.answer(home.device, ask, "locked", trade=trade) == "late"
    assert trade_status(market, trade) == ("Pending", None)
    other = market.home()
    market.order(other.user, "sell", 500, 200_000)
    tick = market.tick()
    assert (tick.locks_expired, len(tick.trade_ids)) == (1, 1)
    assert trade_status(market, trade) == ("Failed", "lock_timeout")
    assert (market.status_of(ask), market.status_of(bid)) == ("Created", "Matched")
    assert differences(database_url) == []


def test_a_lock_that_is_answered_in_time_needs_no_tick(market: Market) -> None:
    home, ask, _, trade = published(market)
    time_passes(market, 29)
    assert market.answer(home.device, ask, "locked", trade=trade) == "locked"
    time_passes(market, 31)
    assert market.tick().locks_expired == 0
    assert trade_status(market, trade) == ("Locked", None)


def test_the_time_of_a_lock_begins_when_it_is_published_not_when_it_is_matched(market: Market) -> None:
    home, buyer = market.home(), market.user()
    ask = market.order(home.user, "sell", 500, 200_000)
    market.order(buyer, "buy", 500, 200_000)
    (trade,) = market.tick().trade_ids
    time_passes(market, 60)
    assert market.answer(home.device, ask, "locked", trade=trade) == "late", "nobody has asked it yet"
    assert market.tick().locks_expired == 0
    market.publish()
    ((ahead,),) = market.sql("SELECT extract(epoch FROM expires_at - clock_timestamp()) FROM transactions")
    assert SETTINGS.lock_timeout_s - 5 < float(ahead) <= SETTINGS.lock_timeout_s  # type: ignore[arg-type]
    assert market.answer(home.device, ask, "locked", trade=trade) == "locked"


def test_what_ran_out_in_a_minute_without_a_tick_does_not_trade_in_the_next(market: Market) -> None:
    home, buyer = market.home(), market.user()
    soon = datetime.now(UTC) + timedelta(seconds=50)
    ask = market.order(home.user, "sell", 500, 200_000)
    market.order(buyer, "buy", 500, 200_000, expires_at=soon)
    later = market.order(buyer, "buy", 500, 200_000)
    time_passes(market, 60)
    tick = market.tick()
    assert (tick.orders_expired, len(tick.trade_ids)) == (1, 1)
    assert [trade.buy_order_id for trade in market.trades(buyer)] == [later]
    assert market.status_of(ask) == "Matched"


def test_a_device_that_was_not_heard_of_meanwhile_trades_only_after_its_next_word(market: Market) -> None:
    home, buyer = market.home(), market.user()
    market.order(home.user, "sell", 500, 200_000)
    market.order(buyer, "buy", 500, 200_000)
    time_passes(market, SETTINGS.device_online_s + 1)
    assert market.tick().trade_ids == ()
    market.status(home.device, available_wh=500)
    assert len(market.tick().trade_ids) == 1


# ------------------------------------------------------------------------------------------------ deployed meanwhile


def test_a_migration_in_the_midst_of_trading(market: Market, database_url: str, tmp_path: Path) -> None:
    """What runs goes on, with its connections and its plans, while every table is changed under it."""
    folder = tmp_path / "migrations"
    shutil.copytree(CHECKOUT / "infra" / "migrations", folder)
    version = len(list(folder.glob("*.sql"))) + 1
    tables = ("transactions", "events", "open_orders", "energy_orders", "iot_devices", "users", "zones")
    (folder / f"{version:04}_more.sql").write_text(
        "".join(f"ALTER TABLE {table} ADD COLUMN more text; SELECT pg_sleep(0.05);\n" for table in tables)
    )
    home, buyer = market.home(available_wh=10**9), market.user()
    over = False
    done: Counter[str] = Counter()
    unavailable: list[str] = []

    def keep(name: str, work: Callable[[Market], None]) -> None:
        own = Market(database_url)
        while not over:
            try:
                work(own)
                done[name] += 1
            except psycopg.OperationalError as error:  # what the API answers with 503, and the loop tries again
                unavailable.append(type(error).__name__)
        own.close()

    def trade(own: Market) -> None:
        own.order(home.user, "sell", 500, 200_000)
        own.order(buyer, "buy", 500, 200_000)

    def take_back(own: Market) -> None:
        try:
            own.cancel(buyer, own.order(buyer, "buy", 300, 200_000))
        except Conflict:
            done["matched"] += 1

    def report(own: Market) -> None:
        own.status(home.device, available_wh=10**9, seq=time.monotonic_ns())

    def loop(own: Market) -> None:
        own.tick()
        own.publish()

    everybody = [
        Alongside(partial(keep, name, work))
        for name, work in (("trade", trade), ("cancel", take_back), ("report", report), ("loop", loop))
    ]
    try:
        wait_until(lambda: all(done[name] > 10 for name in ("trade", "cancel", "report", "loop")))
        with psycopg.connect(as_owner(database_url), autocommit=True) as conn:
            assert migrate(conn, folder) == [version]
        before = done.copy()
        wait_until(lambda: all(done[name] > before[name] + 10 for name in ("trade", "cancel", "report", "loop")))
    finally:
        over = True
        for one in everybody:
            one.end()
    assert unavailable == []
    market.tick()
    assert differences(database_url) == []


def wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)
