"""A device's memory: its decisions, on disk before they are reported.

One SQLite file. A change is one transaction, synced to the disk when `save` returns. The device may lose power at any
line: either the decision is on disk, or it was never made and the broker delivers the command again.
"""

import sqlite3
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Self

from energy_device.reservations import Reservation, State

SCHEMA_VERSION: Final = 2

SEQ_BLOCK: Final = 1_000
"""Numbers taken from the disk at a time. A restart skips the rest of its block: numbers increase, with gaps."""

_SCHEMA: Final = """
CREATE TABLE device (
    one         INTEGER PRIMARY KEY CHECK (one = 1),
    device_id   TEXT NOT NULL,
    seq_ceiling INTEGER NOT NULL -- no seq above this was ever sent
) STRICT;
CREATE TABLE reservations (
    position  INTEGER PRIMARY KEY, -- of the last change
    id        TEXT NOT NULL UNIQUE,
    order_id  TEXT NOT NULL,
    energy_wh INTEGER NOT NULL,
    state     TEXT NOT NULL,
    reason    TEXT,
    owed      INTEGER NOT NULL, -- 1 until the broker has acknowledged the report of this state
    delivered_wh INTEGER NOT NULL DEFAULT 0 -- once the delivery has ended
) STRICT;
"""

_FROM_VERSION_1: Final = """
ALTER TABLE reservations ADD COLUMN delivered_wh INTEGER NOT NULL DEFAULT 0;
UPDATE reservations SET delivered_wh = energy_wh WHERE state = 'delivered';
"""

_SELECT: Final = "SELECT id, order_id, energy_wh, state, reason, delivered_wh FROM reservations"


def _wall_clock() -> datetime:
    return datetime.now(UTC)


class StateError(Exception):
    """The state file belongs to another device, or to a newer version of this program."""


class Store:
    """The state file of one device, held by one process at a time.

    Used by one thread at a time. Methods raise `sqlite3.Error` if the disk fails, and have then written nothing.
    """

    def __init__(
        self, connection: sqlite3.Connection, *, device_id: str, now: Callable[[], datetime] = _wall_clock
    ) -> None:
        """Take over the connection, which then belongs to the store. Most callers use `open`."""
        self._connection = connection
        self._settled: list[Reservation] = []
        self._prepare(device_id)
        (ceiling,) = connection.execute("SELECT seq_ceiling FROM device").fetchone()
        # At least the clock's time, which runs ahead of the counter. A device whose file was lost or is an old copy
        # then continues above the numbers that it sent before.
        self._seq: int = max(ceiling, int(now().timestamp() * 1000))
        self._seq_ceiling: int = ceiling

    @classmethod
    def open(cls, path: Path, *, device_id: str, now: Callable[[], datetime] = _wall_clock) -> Self:
        """Open the state file, or create it. Raises StateError, or `sqlite3.Error` if another process holds it."""
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=2)
        try:
            return cls(connection, device_id=device_id, now=now)
        except BaseException:
            connection.close()
            raise

    def _prepare(self, device_id: str) -> None:
        execute = self._connection.execute
        # Exclusive first: the write-ahead log then needs no shared memory, and a second process is refused.
        execute("PRAGMA locking_mode = EXCLUSIVE")
        execute("PRAGMA journal_mode = WAL")
        execute("PRAGMA synchronous = FULL")
        execute("PRAGMA cache_size = -256")
        execute("BEGIN IMMEDIATE")
        try:
            (version,) = execute("PRAGMA user_version").fetchone()
            if version < SCHEMA_VERSION:
                for statement in (_SCHEMA if version == 0 else _FROM_VERSION_1).split(";")[:-1]:
                    execute(statement)
                if version == 0:
                    execute("INSERT INTO device VALUES (1, ?, 0)", (device_id,))
                execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            execute("COMMIT")
        except BaseException:
            self._rollback()
            raise
        if version > SCHEMA_VERSION:
            raise StateError(f"The state file has version {version}; this program knows {SCHEMA_VERSION}.")
        (owner,) = execute("SELECT device_id FROM device").fetchone()
        if owner != device_id:
            raise StateError(f"The state file belongs to device {owner}, not to {device_id}.")

    def _rollback(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    def close(self) -> None:
        """Write pending changes and release the file."""
        try:
            if self._settled:
                self._write([], forgotten=[])
        finally:
            self._connection.close()

    def next_seq(self) -> int:
        """A number above all earlier ones, also over restarts."""
        if self._seq >= self._seq_ceiling:
            ceiling = self._seq + SEQ_BLOCK
            self._connection.execute("UPDATE device SET seq_ceiling = ?", (ceiling,))
            self._seq_ceiling = ceiling
        self._seq += 1
        return self._seq

    def load(self) -> list[Reservation]:
        """Everything remembered, the latest change last."""
        return [_reservation(row) for row in self._connection.execute(f"{_SELECT} ORDER BY position")]

    def owed(self) -> list[Reservation]:
        """The reservations whose report the broker has not acknowledged, oldest first."""
        # Reports settled since the last write are still owed on disk.
        settled = {(reservation.id, reservation.state) for reservation in self._settled}
        owed = map(_reservation, self._connection.execute(f"{_SELECT} WHERE owed ORDER BY position"))
        return [reservation for reservation in owed if (reservation.id, reservation.state) not in settled]

    def save(self, reservation: Reservation, *, owed: bool, forgotten: Sequence[str] = ()) -> None:
        """Write a decision; it is on the disk when this returns. `owed`: its report must reach the broker."""
        self._write([(reservation, owed)], forgotten=forgotten)

    def settle(self, reservation: Reservation) -> None:
        """Record that the broker has this state's report. Written with the next decision; if lost, it is sent again."""
        self._settled.append(reservation)

    def _write(self, changed: list[tuple[Reservation, bool]], *, forgotten: Sequence[str]) -> None:
        execute = self._connection.execute
        execute("BEGIN IMMEDIATE")
        try:
            for settled in self._settled:
                # Only for the state that was reported: another report may be owed by now.
                execute("UPDATE reservations SET owed = 0 WHERE id = ? AND state = ?", (settled.id, settled.state))
            for reservation, owed in changed:
                execute(
                    "REPLACE INTO reservations (id, order_id, energy_wh, state, reason, owed, delivered_wh)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (
                        reservation.id,
                        reservation.order_id,
                        reservation.energy_wh,
                        reservation.state,
                        reservation.reason,
                        owed,
                        reservation.delivered_wh,
                    ),
                )
            for reservation_id in forgotten:
                execute("DELETE FROM reservations WHERE id = ?", (reservation_id,))
            execute("COMMIT")
        except BaseException:
            self._rollback()
            raise
        self._settled.clear()


def _reservation(row: tuple[str, str, int, str, str | None, int]) -> Reservation:
    reservation_id, order_id, energy_wh, state, reason, delivered_wh = row
    return Reservation(
        id=reservation_id,
        order_id=order_id,
        energy_wh=energy_wh,
        state=State(state),
        reason=reason,
        delivered_wh=delivered_wh,
    )
