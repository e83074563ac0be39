"""Start a sweep as soon as something is locked: one sweep for a whole burst of answers."""

from collections.abc import Callable
from typing import Final
from uuid import uuid4

from energy_market.database import Database
from energy_market.postgres import leases

WOKEN: Final = "sweep woken"
WOKEN_S: Final = 5.0
"""Seconds after which a woken sweep that has not begun counts as lost: the loop's next step starts one anyway."""


def wake_sweep(database: Database, wake: Callable[[], None]) -> bool:
    """Call `wake`, unless a woken sweep has not begun yet. Returns whether it was called.

    A sweep that begins finds everything that was committed before. It clears the note that it was woken before it
    reads, so no lock is missed. A burst of two thousand answers does not start a sweep for every ten of them, all of
    which would wait for the first to end.
    """
    with database.transaction() as conn:
        is_first = leases.acquire(conn, WOKEN, holder=uuid4(), lease_s=WOKEN_S)
    if is_first:
        wake()
    return is_first
