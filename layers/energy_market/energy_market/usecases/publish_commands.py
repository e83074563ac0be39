"""Tell devices what they are to do: reserve, release, deliver."""

import time
from dataclasses import dataclass
from typing import Final
from uuid import uuid4

from energy_market.config import MarketSettings
from energy_market.database import Database
from energy_market.domain.commands import Command
from energy_market.messages.published import Publish
from energy_market.postgres import commands, leases, trades

MAX_AT_ONCE: Final = 2_000
LOCKS_AT_ONCE: Final = 200
"""Of a lock that is claimed the time runs: what is not said for a while yet is not claimed yet."""
LOCKS_FOR_S: Final = 3.0
"""Less than a step: where the broker is slow, the next call says the others, and not both at the same time."""

LEASE: Final = "commands"
LEASE_S: Final = 10.0
"""Of a publisher that died the next but one goes on: its locks still have most of their time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """How many commands went out, and which did not, with why."""

    locks: int
    unlocks: int
    transfers: int
    failed: tuple[tuple[Command, Exception], ...]


def publish_commands(database: Database, publish: Publish, *, settings: MarketSettings) -> Published:
    """Make trades of all matches, so many at once; claim what is to be said, commit, then say it, locks in portions.

    A lock's deadline is durable before its device can answer.

    What is claimed and then not said, because a process died or the broker was away, is claimed again a little later.
    Unlocks go first: the energy of a failed trade may be sold again by the same tick, and a device that hears the new
    lock while it still holds the old one refuses it. Transfers go last: they have no deadline.

    One at a time: while another is at it this does nothing, or a slow broker would have ever more of them.
    """
    holder = uuid4()
    with database.transaction() as conn:
        if not leases.acquire(conn, LEASE, holder=holder, lease_s=LEASE_S):
            return Published(locks=0, unlocks=0, transfers=0, failed=())
    try:
        return _publish_commands(database, publish, settings=settings)
    finally:
        with database.transaction() as conn:
            leases.release(conn, LEASE, holder=holder)


def _publish_commands(database: Database, publish: Publish, *, settings: MarketSettings) -> Published:
    owed: list[Command] | None = None
    while owed is None:
        with database.transaction() as conn:
            if trades.make(conn, limit=MAX_AT_ONCE) < MAX_AT_ONCE:
                owed = commands.claim_owed(conn, device_online_s=settings.device_online_s, limit=MAX_AT_ONCE)
    unlocks = [command for command in owed if command.kind == "unlock"]
    transfers = [command for command in owed if command.kind != "unlock"]
    failed = publish(unlocks)
    locks, until = 0, time.monotonic() + LOCKS_FOR_S
    while locks < MAX_AT_ONCE:
        limit = min(LOCKS_AT_ONCE, MAX_AT_ONCE - locks)
        with database.transaction() as conn:
            claimed = commands.claim_locks(conn, lock_timeout_s=settings.lock_timeout_s, limit=limit)
        if not claimed:
            break
        locks += len(claimed)
        failed += publish(claimed)
        if time.monotonic() >= until:
            break
    failed += publish(transfers)
    return Published(locks=locks, unlocks=len(unlocks), transfers=len(transfers), failed=tuple(failed))
