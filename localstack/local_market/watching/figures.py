"""The figures of a running local stack: what `make run` shows, and what it sums up at the end.

Reads the database and the functions' logs directly, which only the launcher may do; the homes never see any of this.
"""

import json
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import psycopg
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from local_market.emulators.local_aws import STACK, aws_session

if TYPE_CHECKING:
    from types_boto3_logs import CloudWatchLogsClient

BOOK_ROWS: Final = 6
LOG_PAGE_LIMIT: Final = 20
REMEMBERED_FAULTS: Final = 20
LOG_OVERLAP_MS: Final = 3_000  # a line may become readable a little after its time
FUNCTION_LOGS: Final = f"/aws/lambda/{STACK}-"  # how the names of the functions' log groups begin
STAGES: Final = ("Pending", "Locked", "Submitted", "Confirmed", "Failed")


@dataclass(frozen=True, slots=True, kw_only=True)
class BookRow:
    """A price level of the book."""

    side: str
    price_micro: int
    energy_wh: int
    orders: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """The market at one moment. Energy in Wh, prices in micro-tokens per kWh, amounts in nano-tokens."""

    orders: int = 0
    open_orders: int = 0
    asks: Sequence[BookRow] = ()
    bids: Sequence[BookRow] = ()
    trades: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)
    traded_wh: int = 0
    delivered_wh: int = 0
    settled_nano: int = 0
    last_price_micro: int | None = None
    devices: int = 0
    devices_online: int = 0
    settle_ms: Sequence[float] = ()

    @property
    def under_way(self) -> int:
        """Trades that are neither confirmed nor failed."""
        return sum(self.trades.get(stage, 0) for stage in ("Pending", "Locked", "Submitted"))


def percentile(values: Iterable[float], percent: float) -> float | None:
    """The value that `percent` of all do not exceed (nearest rank), to a tenth; None of nothing."""
    ordered = sorted(values)
    if not ordered:
        return None
    return round(ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)], 1)


def read_figures(conn: psycopg.Connection[Any]) -> Figures:
    """Read the market as it is now."""
    with conn.transaction():
        levels = [
            BookRow(side=side, price_micro=price_micro, energy_wh=energy_wh, orders=orders)
            for side, price_micro, energy_wh, orders in conn.execute(
                """SELECT type, price_micro, sum(shown_wh)::bigint, count(*)
                   FROM open_orders WHERE shown_wh > 0 GROUP BY type, price_micro ORDER BY price_micro"""
            )
        ]
        trades = {
            stage: (count, energy_wh, amount_nano, delivered_wh)
            for stage, count, energy_wh, amount_nano, delivered_wh in conn.execute(
                """SELECT status, count(*), sum(energy_wh)::bigint, sum(amount_nano)::bigint, sum(delivered_wh)::bigint
                   FROM transactions GROUP BY status"""
            )
        }
        reasons = dict(
            conn.execute("SELECT reason, count(*) FROM transactions WHERE status = 'Failed' GROUP BY reason").fetchall()
        )
        settled = conn.execute(
            """SELECT price_micro, extract(epoch FROM confirmed_at - "timestamp")::float * 1000
               FROM transactions WHERE status = 'Confirmed' ORDER BY confirmed_at"""
        ).fetchall()
        ((orders, open_orders, devices, online),) = conn.execute(
            """SELECT (SELECT count(*) FROM energy_orders), (SELECT count(*) FROM open_orders), count(*),
                      count(*) FILTER (WHERE status = 'Online')
               FROM iot_devices"""
        ).fetchall()
    _, traded_wh, settled_nano, delivered_wh = trades.get("Confirmed", (0, 0, 0, 0))
    return Figures(
        orders=orders,
        open_orders=open_orders,
        asks=[level for level in levels if level.side == "sell"][:BOOK_ROWS],
        bids=[level for level in reversed(levels) if level.side == "buy"][:BOOK_ROWS],
        trades={stage: trades[stage][0] if stage in trades else 0 for stage in STAGES},
        reasons=reasons,
        traded_wh=traded_wh,
        delivered_wh=delivered_wh,
        settled_nano=settled_nano,
        last_price_micro=settled[-1][0] if settled else None,
        devices=devices,
        devices_online=online,
        settle_ms=[ms for _, ms in settled],
    )


# Each query lists what is under way, one line each.
UNDER_WAY: Final = (
    """SELECT format('trade %s is %s', id, status)
       FROM transactions WHERE status IN ('Pending', 'Locked', 'Submitted')""",
    """SELECT format('trade %s is over, and its device is still to release it', id)
       FROM transactions WHERE unlock = 'Owed'""",
    """SELECT format('trade %s is confirmed, and its delivery is %s (%s of %s Wh)',
                     id, coalesce(delivery, 'not ordered'), delivered_wh, energy_wh)
       FROM transactions WHERE status = 'Confirmed' AND coalesce(delivery, 'Owed') IN ('Owed', 'Started')""",
    """SELECT format('device %s reports locks: %s', id, reported_locks)
       FROM iot_devices WHERE reported_locks <> '{}'""",
)


def under_way(conn: psycopg.Connection[Any]) -> list[str]:
    """What has not come to rest: trades, deliveries, unlocks owed, locks on a device's last word; one line each."""
    with conn.transaction():
        return [row[0] for query in UNDER_WAY for row in conn.execute(query)]


_Line = tuple[int, str, str]


def log_groups(logs: "CloudWatchLogsClient") -> list[str]:
    """The functions' log groups, which the template makes."""
    pages = logs.get_paginator("describe_log_groups").paginate(logGroupNamePrefix=FUNCTION_LOGS)
    return [group["logGroupName"] for page in pages for group in page["logGroups"]]


class FunctionLogs:
    """What the functions have logged: the ticks' durations, and what went wrong. By the CloudWatch Logs API."""

    def __init__(self, endpoint_url: str) -> None:
        """Of the local AWS at this address, from now on."""
        self._client = aws_session().client(
            "logs",
            endpoint_url=endpoint_url,
            config=Config(connect_timeout=5, read_timeout=10, retries={"max_attempts": 2}),
        )
        self._ticks_in = f"{FUNCTION_LOGS}match"
        groups = log_groups(self._client)
        self._since_ms = {group: int(time.time() * 1000) - LOG_OVERLAP_MS for group in groups}
        self._seen: dict[str, set[_Line]] = {group: set() for group in groups}
        self.tick_ms: list[float] = []
        self.ticks_missed = 0
        self.errors = 0
        self.recent_errors: list[str] = []

    def read(self) -> None:
        """Take in what is new in all groups."""
        for group in self._since_ms:
            try:
                self._read(group)
            except (BotoCoreError, ClientError) as error:
                self._fault(group, f"its log cannot be read: {error}")

    def _read(self, group: str) -> None:
        seen, fresh = self._seen[group], set[_Line]()
        latest_ms = self._since_ms[group] + LOG_OVERLAP_MS
        token = ""
        for _ in range(LOG_PAGE_LIMIT):
            try:
                page = self._client.filter_log_events(
                    logGroupName=group,
                    startTime=self._since_ms[group],
                    **({"nextToken": token} if token else {}),  # type: ignore[arg-type] # its stub wants each key spelt out
                )
            except self._client.exceptions.ResourceNotFoundException:
                return  # not called yet
            for event in page["events"]:
                # Not the event's id: not every emulator gives one.
                line = (event["timestamp"], event["logStreamName"], event["message"])
                fresh.add(line)
                latest_ms = max(latest_ms, event["timestamp"])
                if line not in seen:
                    self._take(group, event["message"])
            token = page.get("nextToken", "")
            if not token:
                break
        self._since_ms[group] = latest_ms - LOG_OVERLAP_MS
        self._seen[group] = fresh | (seen if len(seen) < 10 * (len(fresh) + 1) else set())

    def _take(self, group: str, message: str) -> None:
        try:
            line = json.loads(message)
        except ValueError:
            if "Traceback" in message or "Task timed out" in message:
                self._fault(group, message.strip().splitlines()[-1])
            return
        if not isinstance(line, dict):
            return
        if group == self._ticks_in and line.get("event") == "tick" and line.get("ran", True):
            self.tick_ms.append(float(line["duration_ms"]))
        elif line.get("event") == "tick.missed":
            self.ticks_missed += 1
        elif str(line.get("level", "")).lower() == "error":
            self._fault(group, str(line.get("message") or line.get("event") or line)[:160])

    def _fault(self, group: str, sentence: str) -> None:
        self.errors += 1
        self.recent_errors = [*self.recent_errors[1 - REMEMBERED_FAULTS :], f"{group.rsplit('/', 1)[-1]}: {sentence}"]

    def close(self) -> None:
        """Drop the connections."""
        self._client.close()
