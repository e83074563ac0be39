"""The energy that is promised to each trade.

A lock makes a reservation, and an unlock or a delivery ends it, but never the clock. Promised energy stays promised
until the market ends it, and the market's clock decides whether a lock came in time. Every decision on an id is
remembered, so that a repeated, late or reordered command meets the same decision again.

    lock -> LOCKED -> transfer -> DELIVERING -> DELIVERED
    lock -> LOCKED -> unlock -> RELEASED
    lock -> REJECTED                              (no energy)
    unlock -> RELEASED -> lock -> REJECTED        (the unlock overtook its lock)
    transfer -> DELIVERING -> unlock -> STOPPED   (the market stops waiting; the device may also stop by itself)

Energy is in whole watt-hours. Nothing here reads a clock, a file or a network.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

MAX_LOCKS: Final = 256
"""Maximum reservations held at one time; a status message lists them all."""

MAX_HISTORY: Final = 2_000
"""Maximum decisions remembered after their reservation has ended; the oldest is forgotten first."""


class State(StrEnum):
    """The state of a reservation."""

    LOCKED = "locked"
    DELIVERING = "delivering"
    DELIVERED = "delivered"
    STOPPED = "stopped"
    RELEASED = "released"
    REJECTED = "rejected"


HOLDING: Final = frozenset({State.LOCKED, State.DELIVERING})
"""The states in which energy is held back."""

OVER: Final = frozenset({State.DELIVERED, State.STOPPED})
"""The states of a delivery that has ended, in full or with less."""


class RefusedError(Exception):
    """A command that contradicts the decision on its id: nothing changes, and a person should look at it."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code
        self.sentence = sentence


@dataclass(frozen=True, slots=True, kw_only=True)
class Lock:
    """A lock command. The specification's two-field form has no id of its own, so its `id` is the order's."""

    id: str
    order_id: str
    energy_wh: int

    def __post_init__(self) -> None:
        if self.energy_wh <= 0:
            raise ValueError("A lock is for a positive amount of energy.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """The decision on one id."""

    id: str
    order_id: str
    """The order; empty if an unlock came first and no lock followed."""
    energy_wh: int
    state: State
    reason: str | None = None
    """The reason for a rejection."""
    delivered_wh: int = 0
    """The energy delivered, once the delivery has ended."""

    @property
    def held_wh(self) -> int:
        """The energy held back for it, including energy that is already delivered."""
        return self.energy_wh if self.state in HOLDING else 0


class Reservations:
    """All reservations of one device, in the order of their last change.

    `lock`, `unlock`, `transfer` and `ended` decide and change nothing. They return the reservation as it should be,
    which is the known object itself if the command brings nothing new. The caller writes it to disk and then calls
    `record`. A decision that could not be written was thus never made.
    """

    def __init__(
        self, known: Iterable[Reservation] = (), *, max_locks: int = MAX_LOCKS, max_history: int = MAX_HISTORY
    ) -> None:
        self._known = {reservation.id: reservation for reservation in known}
        self._max_locks = max_locks
        self._max_history = max_history

    def find(self, reservation_id: str) -> Reservation | None:
        """The decision on this id; None if there was none, or it was forgotten."""
        return self._known.get(reservation_id)

    def holding(self) -> list[Reservation]:
        """The reservations for which energy is held back."""
        return [reservation for reservation in self._known.values() if reservation.state in HOLDING]

    def reserved_wh(self) -> int:
        """The energy held back for all reservations, including energy that is already delivered."""
        return sum(reservation.held_wh for reservation in self._known.values())

    def lock(self, command: Lock, *, free_wh: int | None) -> Reservation:
        """Decide on a lock: hold the energy back if it is free.

        `free_wh`: energy that is available and not reserved; None if the hardware does not answer. A lock that was
        decided before is not decided again, whatever the battery holds now. Raises RefusedError for a known id with
        another order or amount: each id has one answer.
        """
        known = self._known.get(command.id)
        if known is not None and known.order_id:
            if (known.order_id, known.energy_wh) != (command.order_id, command.energy_wh):
                raise RefusedError("lock_conflict", f"Lock {command.id} came again with another order or amount.")
            return known
        reason = "released" if known is not None else self._reason_against(command, free_wh=free_wh)
        return Reservation(
            id=command.id,
            order_id=command.order_id,
            energy_wh=command.energy_wh,
            state=State.LOCKED if reason is None else State.REJECTED,
            reason=reason,
        )

    def _reason_against(self, command: Lock, *, free_wh: int | None) -> str | None:
        if len(self.holding()) >= self._max_locks:
            return "too_many_locks"
        if free_wh is None:
            return "hardware_failed"
        if command.energy_wh > free_wh:
            return "insufficient_energy"
        return None

    def unlock(self, reservation_id: str) -> Reservation:
        """Decide on an unlock: free the energy, and remember the id even if its lock has not arrived yet.

        A delivery must be stopped first: see `ended`.
        """
        known = self._known.get(reservation_id)
        if known is None:
            return Reservation(id=reservation_id, order_id="", energy_wh=0, state=State.RELEASED)
        if known.state is State.LOCKED:
            return replace(known, state=State.RELEASED)
        return known

    def transfer(self, reservation_id: str, *, energy_wh: int) -> Reservation:
        """Decide on a transfer: begin the delivery, once. Raises RefusedError if the energy is not reserved for it."""
        known = self._known.get(reservation_id)
        if known is None:
            raise RefusedError("unknown_transfer", f"Transfer {reservation_id} has no lock here.")
        if known.state in (State.RELEASED, State.REJECTED):
            raise RefusedError("transfer_refused", f"Transfer {reservation_id} is of a lock that is {known.state}.")
        if known.energy_wh != energy_wh:
            raise RefusedError("transfer_mismatch", f"Transfer {reservation_id} is of another amount than its lock.")
        if known.state is State.LOCKED:
            return replace(known, state=State.DELIVERING)
        return known

    def ended(self, reservation_id: str, *, fed_wh: int) -> Reservation:
        """The reservation after the end of its delivery. Raises KeyError if it is not being delivered."""
        known = self._known[reservation_id]
        if known.state is not State.DELIVERING:
            raise KeyError(reservation_id)
        state = State.DELIVERED if fed_wh >= known.energy_wh else State.STOPPED
        return replace(known, state=state, delivered_wh=min(fed_wh, known.energy_wh))

    def forgotten_by(self, reservation: Reservation) -> list[str]:
        """The ids that recording this one will displace: ended ones, oldest first, never one that holds energy."""
        ended = [
            known.id for known in self._known.values() if known.state not in HOLDING and known.id != reservation.id
        ]
        if reservation.state not in HOLDING:
            ended.append(reservation.id)
        return ended[: max(0, len(ended) - self._max_history)]

    def record(self, reservation: Reservation) -> None:
        """Record a decision as made."""
        forgotten = self.forgotten_by(reservation)
        self._known.pop(reservation.id, None)
        self._known[reservation.id] = reservation
        for reservation_id in forgotten:
            del self._known[reservation_id]
