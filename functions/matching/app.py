"""The loop's steps: the marks of a minute, and one tick at each."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any

import boto3
import psycopg

from energy_market import config
from energy_market.database import Database, Unreachable
from energy_market.devices import Publish, publisher
from energy_market.domain.loop import MINUTE, STEP, marks_from, missed
from energy_market.logs import log, metric
from energy_market.postgres import zones
from energy_market.usecases.publish_commands import publish_commands
from energy_market.usecases.run_tick import run_tick


@dataclass(slots=True)
class Sandbox:
    """What this sandbox remembers: when it last ticked, by a clock that nobody sets."""

    ticked_at_s: float = -math.inf


sandbox = Sandbox()


@cache
def _database() -> Database:
    return Database(config.database_url())


@cache
def _publish() -> Publish:
    return publisher(boto3.client("iot-data"))


def marks(event: Mapping[str, Any], _context: object) -> dict[str, list[str]]:
    """The marks of the minute that begins with the schedule's time.

    The schedule's time and not the execution's start, because executions start a little late, each by another little.
    An execution that nothing scheduled is the first after a deploy: the schedule's own first comes a minute after it
    was made, or somewhat later, so that one takes two minutes. Where both tick at a mark, the second does nothing.
    """
    scheduled = event["schedule"].get("time")
    begin = datetime.fromisoformat(scheduled or event["started_at"])
    window = MINUTE if scheduled else 2 * MINUTE
    ahead = marks_from(begin, window=window, now=datetime.now(UTC))
    return {"marks": [mark.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ") for mark in ahead]}


def tick(event: Mapping[str, str], _context: object) -> dict[str, int]:
    """Match every zone's book once, then tell the devices.

    At a mark that was missed only if the last tick is a step ago: a loop that was held up ticks on at once and makes up
    for no mark, and one whose steps all take too long still ticks.

    A zone whose tick fails holds up neither the others nor the commands. Raises its error when they are done, or at
    once when there is no database: the loop's next step is the retry.
    """
    since_last_s = time.monotonic() - sandbox.ticked_at_s
    if missed(datetime.fromisoformat(event["mark"]), now=datetime.now(UTC)) and since_last_s < STEP.total_seconds():
        log("tick.missed", level="warning", mark=event["mark"])
        metric("TicksMissed", 1)
        return {"trades": 0, "commands": 0}
    sandbox.ticked_at_s = time.monotonic()
    settings = config.market_settings()
    database = _database()
    with database.transaction() as conn:
        names = zones.all_zones(conn)
    made = 0
    failure: psycopg.Error | None = None
    for zone in names:
        try:
            made += _tick(database, zone, settings, mark=event["mark"])
        except Unreachable:
            raise  # the next zone would wait for a connection as long, and the devices' commands too
        except psycopg.Error as error:
            log("tick.failed", level="error", mark=event["mark"], zone=zone, error=type(error).__name__)
            failure = error
    told = _tell_devices(database, settings)
    if failure is not None:
        raise failure
    return {"trades": made, "commands": told}


def _tick(database: Database, zone: str, settings: config.MarketSettings, *, mark: str) -> int:
    began = time.perf_counter()
    done = run_tick(database, zone=zone, settings=settings)
    duration_ms = round((time.perf_counter() - began) * 1000, 2)
    log(
        "tick",
        mark=mark,
        zone=zone,
        ran=done.ran,
        trades=done.trades,
        locks_expired=done.locks_expired,
        orders_expired=done.orders_expired,
        attempts=done.attempts,
        duration_ms=duration_ms,
    )
    metric("TickDuration", duration_ms, "Milliseconds")
    if done.overlooked:
        log("tick.overlooked", level="error", mark=mark, zone=zone, trades=done.overlooked)
        metric("TradesOverlooked", done.overlooked)
    return done.trades


def _tell_devices(database: Database, settings: config.MarketSettings) -> int:
    published = publish_commands(database, _publish(), settings=settings)
    for command, error in published.failed:
        log(
            "command.unsent",
            level="error",
            kind=command.kind,
            trade=command.transaction_id,
            device=command.device_id,
            error=type(error).__name__,
        )
    if published.failed:
        metric("CommandsUnsent", len(published.failed))
    commands = published.locks + published.unlocks + published.transfers
    if commands:
        log("commands", locks=published.locks, unlocks=published.unlocks, transfers=published.transfers)
    return commands
