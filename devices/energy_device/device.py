"""A device's reaction to each command, and its reports. No network: the agent carries the messages.

The order is always the same: decide, write to disk, then answer. The agent acknowledges a command to the broker only
after `receive` has returned, so after a crash in between the broker sends the command again.
"""

import logging
import time
from collections.abc import Callable
from typing import Final, Literal, TypeVar

from energy_device import messages
from energy_device.energy_source import EnergySource
from energy_device.hardware import Hardware, HardwareError, Submit, at_once
from energy_device.messages import Report, UnreadableError, kwh
from energy_device.reservations import OVER, RefusedError, Reservation, Reservations, State
from energy_device.store import Store

logger: Final = logging.getLogger("energy_device")

ALERT_PAUSE_S: Final = 60.0
"""Seconds in which the same alert is raised only once, however often its cause recurs."""

STALLED_AFTER_S: Final = 60.0
"""Seconds without progress after which a delivery raises an alert."""

PATIENCE_S: Final = 43_200.0
"""Seconds without progress (half a day: a night) after which a delivery is ended, and its energy reported."""

_MAX_ALERTS_WAITING: Final = 20
_LEVELS: Final = {"info": logging.INFO, "warning": logging.WARNING, "critical": logging.ERROR}

T = TypeVar("T")


class Device:
    """One device: its reservations, its hardware, and its messages from and to the market.

    Used by one thread at a time. `elapsed` counts seconds; no decision depends on the time of day.
    Methods that write raise `sqlite3.Error` if the disk fails, and have then changed nothing.
    """

    def __init__(
        self,
        *,
        device_id: str,
        side: Literal["donor", "recipient"],
        store: Store,
        source: EnergySource,
        patience_s: float = PATIENCE_S,
        elapsed: Callable[[], float] = time.monotonic,
        submit: Submit = at_once,
    ) -> None:
        """`submit` calls the hardware, in another thread if it may take long."""
        self._device_id = device_id
        self._side = side
        self._store = store
        self._hardware = Hardware(source, submit=submit)
        self._hardware_fails = False
        self._said: str | None = None
        self._patience_s = patience_s
        self._elapsed = elapsed
        self._reservations = Reservations(store.load())
        # The hardware's last counts of deliveries under way. The hardware keeps them itself, so these may be lost.
        self._fed_wh: dict[str, int] = {}
        self._moved_at: dict[str, float] = {}
        self._alerts: list[Report] = []
        self._alerted_at: dict[str, float] = {}
        topic = f"energy/donor/{device_id}"
        self._commands: dict[str, Callable[[bytes], list[Report]]] = (
            {f"{topic}/lock": self._lock, f"{topic}/unlock": self._unlock, f"{topic}/transfer": self._transfer}
            if side == "donor"
            else {}
        )

    @property
    def command_topics(self) -> list[str]:
        """The topics to subscribe to."""
        return list(self._commands)

    @property
    def locks(self) -> list[str]:
        """The ids that hold energy, the latest change last."""
        return [reservation.id for reservation in self._reservations.holding()]

    @property
    def reserved_wh(self) -> int:
        """Energy promised and not yet delivered."""
        return self._reservations.reserved_wh() - sum(self._fed_wh.values())

    @property
    def is_delivering(self) -> bool:
        """Whether `advance` has anything to do."""
        return any(reservation.state is State.DELIVERING for reservation in self._reservations.holding())

    def receive(self, topic: str, payload: bytes) -> list[Report]:
        """Execute a command. Returns the reports to publish. A malformed command is dropped with a log and an alert."""
        command = self._commands.get(topic)
        if command is None:
            logger.warning("%s: Dropped a message on %s, which is none of its topics.", self._device_id, topic)
            return []
        try:
            return command(payload)
        except UnreadableError as error:
            message = f"A message of {len(payload)} bytes on {topic} was dropped: {error}"
            self.alert("warning", "unreadable_command", message)
        except RefusedError as error:
            self.alert("critical", error.code, error.sentence)
        return []

    def _lock(self, payload: bytes) -> list[Report]:
        command = messages.read_lock(payload)
        decision = self._reservations.lock(command, free_wh=self._free_wh())
        if decision is not self._reservations.find(command.id):
            self._record(decision, owed=True)
        return [messages.lock_response(self._device_id, command, decision, seq=self._store.next_seq())]

    def _unlock(self, payload: bytes) -> list[Report]:
        reservation_id = messages.read_unlock(payload)
        known = self._reservations.find(reservation_id)
        if known is not None and known.state is State.DELIVERING:
            return self._stop(known)
        decision = self._reservations.unlock(reservation_id)
        if decision is not known:
            self._record(decision, owed=False)
        return [self._progress(decision, "delivered")] if decision.state in OVER else []

    def _transfer(self, payload: bytes) -> list[Report]:
        command = messages.read_transfer(payload)
        known = self._reservations.find(command.id)
        try:
            decision = self._reservations.transfer(command.id, energy_wh=command.energy_wh)
        except RefusedError as error:
            self.alert("critical", error.code, error.sentence)
            refusal = messages.transfer_refused(
                self._device_id,
                command.id,
                reason=error.code,
                delivered_wh=0 if known is None else self._delivered_wh(known),
                seq=self._store.next_seq(),
            )
            return [refusal]
        if decision is known:
            return [self._progress(decision, "delivered" if decision.state in OVER else "delivering")]
        self._record(decision, owed=False)
        return [self._progress(decision, "started")]

    def _free_wh(self) -> int | None:
        """The energy that is available and not reserved; None if the hardware fails, so that nothing is promised."""
        try:
            available_wh = self._hardware.available_wh()
        except HardwareError as error:
            self._hardware_failed(error)
            return None
        return available_wh - self.reserved_wh

    def _record(self, decision: Reservation, *, owed: bool) -> None:
        """Write a decision to disk, then record it. If the disk fails, it was never made."""
        self._store.save(decision, owed=owed, forgotten=self._reservations.forgotten_by(decision))
        self._reservations.record(decision)
        logger.info("%s: %s", self._device_id, _sentence(decision))

    def advance(self) -> list[Report]:
        """Continue the oldest delivery. Returns its report. Call this every few seconds while `is_delivering`."""
        for reservation in self._reservations.holding():
            if reservation.state is State.DELIVERING:
                return self._carry_on(reservation)
        return []

    def _carry_on(self, reservation: Reservation) -> list[Report]:
        known_wh = self._fed_wh.get(reservation.id, 0)
        answers = True
        try:
            # Energy that was fed stays fed, even if a meter's count restarts.
            fed_wh = max(known_wh, self._hardware.deliver(reservation.id, reservation.energy_wh))
        except HardwareError as error:
            self._hardware_failed(error)
            fed_wh, answers = known_wh, False
        if fed_wh >= reservation.energy_wh:
            return self._end(reservation, fed_wh)
        now = self._elapsed()
        if fed_wh != known_wh or reservation.id not in self._moved_at:
            self._fed_wh[reservation.id] = fed_wh
            self._moved_at[reservation.id] = now
        elif now - self._moved_at[reservation.id] >= self._patience_s:
            return self._stop(reservation)
        elif now - self._moved_at[reservation.id] >= STALLED_AFTER_S:
            self.alert(
                "warning",
                "delivery_stalled",
                f"Delivery {reservation.id} stands at {fed_wh} of {reservation.energy_wh} Wh.",
            )
        return [self._progress(reservation, "delivering")] if answers else []

    def _stop(self, reservation: Reservation) -> list[Report]:
        """End a delivery at its present amount. Does nothing if the hardware fails: the command is sent again."""
        try:
            fed_wh = self._hardware.stop(reservation.id)
        except HardwareError as error:
            self._hardware_failed(error)
            return []
        return self._end(reservation, max(fed_wh, self._fed_wh.get(reservation.id, 0)))

    def _end(self, reservation: Reservation, fed_wh: int) -> list[Report]:
        decision = self._reservations.ended(reservation.id, fed_wh=fed_wh)
        self._record(decision, owed=True)
        self._fed_wh.pop(decision.id, None)
        self._moved_at.pop(decision.id, None)
        return [self._progress(decision, "delivered")]

    def _delivered_wh(self, reservation: Reservation) -> int:
        """The known amount delivered, at most the reserved amount."""
        if reservation.state in OVER:
            return reservation.delivered_wh
        return min(self._fed_wh.get(reservation.id, 0), reservation.energy_wh)

    def _progress(self, reservation: Reservation, status: Literal["started", "delivering", "delivered"]) -> Report:
        return messages.transfer_status(
            self._device_id,
            reservation,
            status=status,
            delivered_wh=self._delivered_wh(reservation),
            seq=self._store.next_seq(),
        )

    def status(self) -> list[Report]:
        """The device's energy and its promises, or its consumption. Nothing if its hardware does not answer.

        Battery level and power only inform: if one is missing, the rest is still reported.
        """
        try:
            if self._side == "recipient":
                consumption_wh = self._hardware.consumption_wh()
            else:
                available_wh = self._hardware.available_wh()
        except HardwareError as error:
            self._hardware_failed(error)
            return []
        if self._side == "recipient":
            power_w = self._if_known(self._hardware.power_w)
            self._note_recovery()
            self._say(f"Reporting a meter at {kwh(consumption_wh)} kWh.")
            return [
                messages.recipient_status(
                    self._device_id, consumption_wh=consumption_wh, power_w=power_w, seq=self._store.next_seq()
                )
            ]
        battery_level = self._if_known(self._hardware.battery_level)
        self._note_recovery()
        self._say(f"Reporting {kwh(available_wh)} kWh, of which {kwh(self.reserved_wh)} kWh are reserved.")
        if available_wh < self.reserved_wh:
            self.alert("critical", "over_reserved", f"{self.reserved_wh} Wh are promised, {available_wh} Wh are there.")
        return [
            messages.donor_status(
                self._device_id,
                available_wh=available_wh,
                battery_level=battery_level,
                locks=self.locks,
                seq=self._store.next_seq(),
            )
        ]

    def owed(self) -> list[Report]:
        """The answers and final reports that the broker has not acknowledged, to be published again."""
        return [
            self._progress(reservation, "delivered")
            if reservation.state in OVER
            else messages.lock_response(self._device_id, reservation, reservation, seq=self._store.next_seq())
            for reservation in self._store.owed()
        ]

    def settle(self, report: Report) -> None:
        """Record that the broker has acknowledged this report."""
        if report.of is not None:
            self._store.settle(report.of)

    def _if_known(self, ask: Callable[[], T]) -> T | None:
        """The result of an optional query; None, with an alert, if the hardware does not know it."""
        try:
            return ask()
        except HardwareError as error:
            self._hardware_failed(error)
            return None

    def _note_recovery(self) -> None:
        if self._hardware_fails and not self._hardware.failing:
            self._hardware_fails = False
            logger.info("%s: The hardware answers again.", self._device_id)

    def _say(self, sentence: str) -> None:
        """Log a repeated sentence once, until it changes."""
        if sentence != self._said:
            self._said = sentence
            logger.info("%s: %s", self._device_id, sentence)

    def alert(self, severity: Literal["info", "warning", "critical"], code: str, message: str) -> None:
        """Raise an alert, to be fetched with `take_alerts`, and log it; at most one a minute for each code."""
        now = self._elapsed()
        if now - self._alerted_at.get(code, -ALERT_PAUSE_S) < ALERT_PAUSE_S or len(self._alerts) >= _MAX_ALERTS_WAITING:
            return
        self._alerted_at[code] = now
        self._alerts.append(messages.alert(self._device_id, severity=severity, code=code, message=message))
        logger.log(_LEVELS[severity], "%s: Alert %s: %s", self._device_id, code, message)

    def take_alerts(self) -> list[Report]:
        """The alerts raised since the last call."""
        alerts, self._alerts = self._alerts, []
        return alerts

    def _hardware_failed(self, error: HardwareError) -> None:
        self._hardware_fails = True
        self.alert("critical", "hardware_failed", f"The hardware does not answer as it should: {error}")

    def close(self) -> None:
        """Release the state file."""
        self._store.close()


def _sentence(decision: Reservation) -> str:
    """A decision as a sentence for people."""
    energy = f"{kwh(decision.energy_wh)} kWh for trade {decision.id}"
    match decision.state:
        case State.LOCKED:
            return f"Locked {energy}."
        case State.REJECTED:
            return f"Rejected a lock of {energy}: {decision.reason}."
        case State.RELEASED if not decision.order_id:
            return f"Released trade {decision.id}, whose lock has not come."
        case State.RELEASED:
            return f"Released {energy}."
        case State.DELIVERING:
            return f"Delivering {energy}."
    return f"Delivered {kwh(decision.delivered_wh)} of {energy}."
