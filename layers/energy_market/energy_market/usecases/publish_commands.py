"""Tell devices what they are to do: reserve, release, deliver."""

from dataclasses import dataclass
from typing import Final

from energy_market.config import MarketSettings
from energy_market.database import Database
from energy_market.devices import Publish
from energy_market.domain.commands import Command
from energy_market.postgres import commands, trades

MAX_AT_ONCE: Final = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """How many commands went out, and which did not, with why."""

    locks: int
    unlocks: int
    transfers: int
    failed: tuple[tuple[Command, Exception], ...]


def publish_commands(database: Database, publish: Publish, *, settings: MarketSettings) -> Published:
    """Make trades of all matches, so many at once; claim what is to be said, commit, then say it.

    A lock's deadline is durable before its device can answer.

    What is claimed and then not said, because a process died or the broker was away, is claimed again a little later.
    Unlocks go first: the energy of a failed trade may be sold again by the same tick, and a device that hears the new
    lock while it still holds the old one refuses it.
    """
    claimed: list[Command] | None = None
    while claimed is None:
        with database.transaction() as conn:
            if trades.make(conn, limit=MAX_AT_ONCE) < MAX_AT_ONCE:
                claimed = commands.claim_locks(conn, lock_timeout_s=settings.lock_timeout_s, limit=MAX_AT_ONCE)
                claimed += commands.claim_owed(conn, device_online_s=settings.device_online_s, limit=MAX_AT_ONCE)
    failed = publish([command for command in claimed if command.kind == "unlock"])
    failed += publish([command for command in claimed if command.kind != "unlock"])
    kinds = [command.kind for command in claimed]
    return Published(
        locks=kinds.count("lock"),
        unlocks=kinds.count("unlock"),
        transfers=kinds.count("transfer"),
        failed=tuple(failed),
    )
