"""Publish commands to devices: reserve, release, deliver."""

import time
from dataclasses import dataclass
from typing import Final
from uuid import uuid4

from energy_market.database import Database
from energy_market.domain.commands import Command
from energy_market.messages.published import Publish
from energy_market.postgres import commands, leases, trades

MAX_AT_ONCE: Final = 2_000
LOCKS_AT_ONCE: Final = 200
"""Locks that are claimed and published at a time: a lock's deadline starts when it is claimed."""
LOCKS_FOR_S: Final = 3.0
"""Seconds in which one call publishes locks, less than a step: if the broker is slow, the next call goes on."""

LEASE: Final = "commands"
LEASE_S: Final = 10.0
"""Seconds after which a later call takes over from a publisher that died; its locks still have most of their time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """How many commands went out, and which did not, with why."""

    locks: int
    unlocks: int
    transfers: int
    failed: tuple[tuple[Command, Exception], ...]


def publish_commands(database: Database, publish: Publish, *, lock_timeout_s: int, device_online_s: int) -> Published:
    """Turn all matches into trades, `MAX_AT_ONCE` per transaction; then claim and publish the commands that are due.

    Claims are committed before anything is published, so a lock's deadline is durable before its device can answer. A
    command that was claimed and not published, because a process died or the broker was away, is claimed again later.
    Unlocks go first, because the same tick may sell the energy of a failed trade again. A device that receives the new
    lock while it still holds the old one refuses it. Transfers go last: they have no deadline.

    Two calls never run at once: the second does nothing, or a slow broker would have ever more of them.
    """
    holder = uuid4()
    with database.transaction() as conn:
        if not leases.acquire(conn, LEASE, holder=holder, lease_s=LEASE_S):
            return Published(locks=0, unlocks=0, transfers=0, failed=())
    try:
        return _publish_commands(database, publish, lock_timeout_s=lock_timeout_s, device_online_s=device_online_s)
    finally:
        with database.transaction() as conn:
            leases.release(conn, LEASE, holder=holder)


def _publish_commands(database: Database, publish: Publish, *, lock_timeout_s: int, device_online_s: int) -> Published:
    owed: list[Command] | None = None
    while owed is None:
        with database.transaction() as conn:
            if trades.make(conn, limit=MAX_AT_ONCE) < MAX_AT_ONCE:
                owed = commands.claim_owed(conn, device_online_s=device_online_s, limit=MAX_AT_ONCE)
    unlocks = [command for command in owed if command.kind == "unlock"]
    transfers = [command for command in owed if command.kind != "unlock"]
    failed = publish(unlocks)
    locks, until = 0, time.monotonic() + LOCKS_FOR_S
    while locks < MAX_AT_ONCE:
        limit = min(LOCKS_AT_ONCE, MAX_AT_ONCE - locks)
        with database.transaction() as conn:
            claimed = commands.claim_locks(conn, lock_timeout_s=lock_timeout_s, limit=limit)
        if not claimed:
            break
        locks += len(claimed)
        failed += publish(claimed)
        if time.monotonic() >= until:
            break
    failed += publish(transfers)
    return Published(locks=locks, unlocks=len(unlocks), transfers=len(transfers), failed=tuple(failed))
