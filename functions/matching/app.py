"""The loop's steps: a minute's marks, a tick of each zone at each mark, and the commands to devices after it."""

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Any, Final

import psycopg

from energy_market import config
from energy_market.database import Database
from energy_market.domain.loop import MINUTE, STEP, marks_from
from energy_market.logs import log, metric
from energy_market.messages.published import PUBLISHERS, Publish, publisher
from energy_market.postgres import market, zones
from energy_market.usecases.publish_commands import publish_commands
from energy_market.usecases.run_tick import run_tick

MARKS_DATABASE_S: Final = 7.0  # of the function's 10
DATABASE_S: Final = 25.0  # of a tick's and the commands' 30
STATEMENT_S: Final = 10.0  # a tick may write 50,000 trades at once


@cache
def _database() -> Database:
    return Database(config.database_url(), statement_s=STATEMENT_S)


@cache
def _publish() -> Publish:
    import boto3  # noqa: PLC0415 -- not needed by a tick
    from botocore.config import Config  # noqa: PLC0415

    # A later step publishes what is not published soon. The second attempt is for a connection that was closed.
    settings = Config(
        max_pool_connections=PUBLISHERS, connect_timeout=1, read_timeout=2, retries={"total_max_attempts": 2}
    )
    return publisher(boto3.client("iot-data", config=settings))


def marks(event: Mapping[str, Any], _context: object) -> dict[str, list[Any]]:
    """The marks of the minute that begins at the schedule's time, each with its deadline; and all zones.

    The schedule's time is used, not the execution's start, because executions start with varying delays. An execution
    without a schedule is the first after a deploy. The schedule itself first fires about a minute or more after its
    creation, so that execution covers two minutes. If both tick at a mark, the second does nothing.

    A zone that is added meanwhile is matched from the next minute. Raises what the database raises: the loop asks
    again, and gets the marks that are left then.
    """
    _database().start_deadline(MARKS_DATABASE_S)
    with _database().transaction() as conn:
        names = zones.all_zones(conn)
    scheduled = event["schedule"].get("time")
    begin = datetime.fromisoformat(scheduled or event["started_at"])
    window = MINUTE if scheduled else 2 * MINUTE
    ahead = marks_from(begin, window=window, now=datetime.now(UTC))
    return {"marks": [{"at": _spelt(mark), "until": _spelt(mark + STEP)} for mark in ahead], "zones": names}


def _spelt(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def tick(event: Mapping[str, str], _context: object) -> dict[str, int]:
    """Match one zone's book once. Raises what the database raises: the zone's next tick is the retry."""
    mark, zone = event["mark"], event["zone"]
    device_online_s, verified_only = config.device_online_s(), config.verified_only()
    began = time.perf_counter()
    _database().start_deadline(DATABASE_S)
    try:
        done = run_tick(_database(), zone=zone, device_online_s=device_online_s, verified_only=verified_only)
    except psycopg.Error as error:
        log("tick.failed", level="error", mark=mark, zone=zone, error=type(error).__name__)
        raise
    duration_ms = round((time.perf_counter() - began) * 1000, 2)
    log(
        "tick",
        mark=mark,
        zone=zone,
        ran=done.ran,
        matches=done.matches,
        locks_expired=done.locks_expired,
        orders_expired=done.orders_expired,
        attempts=done.attempts,
        halted=done.halted,
        duration_ms=duration_ms,
    )
    metric("TickDuration", duration_ms, "Milliseconds")
    if done.overlooked:
        log("tick.overlooked", level="error", mark=mark, zone=zone, matches=done.overlooked)
        metric("TradesOverlooked", done.overlooked)
    return {"matches": done.matches}


def commands(event: Mapping[str, Any], _context: object) -> dict[str, int]:
    """Publish the commands to the devices of all zones, then update what the books show.

    It makes trades of the matches, publishes the commands that are due, lets each order show what can trade now, and
    adds the changes to the price levels. Raises what the database raises: the next step is the retry.

    `missed`: the mark was skipped, and nothing was matched at it.
    """
    if event["missed"]:
        log("tick.missed", level="warning", mark=event["mark"])
        metric("TicksMissed", 1)
    lock_timeout_s, device_online_s = config.lock_timeout_s(), config.device_online_s()
    _database().start_deadline(DATABASE_S)
    published = publish_commands(
        _database(), _publish(), lock_timeout_s=lock_timeout_s, device_online_s=device_online_s
    )
    for command, error in published.failed:
        log(
            "command.unsent",
            level="error",
            kind=command.kind,
            transaction_id=command.transaction_id,
            device_id=command.device_id,
            error=type(error).__name__,
        )
    if published.failed:
        metric("CommandsUnsent", len(published.failed))
    told = published.locks + published.unlocks + published.transfers
    if told:
        log("commands", locks=published.locks, unlocks=published.unlocks, transfers=published.transfers)
    with _database().transaction() as conn:
        market.show_what_can_trade(conn, device_online_s=device_online_s, verified_only=config.verified_only())
    with _database().transaction() as conn:
        market.fold_changes(conn)
    return {"commands": told}
