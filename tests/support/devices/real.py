"""The reference device's own program beside the real market: everything of it but the line and the hardware."""

from collections import deque
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

from energy_device.device import Device
from energy_device.energy_source import SimulatedBattery
from energy_device.messages import Report
from energy_device.store import Store

from energy_market.domain.commands import Command
from energy_market.messages.published import payload
from energy_market.messages.received import QueuedMessage
from tests.support.market import Market

POWER_W = 3_600  # a watt-hour a second


class RealDevice:
    """A device with its state file in `folder`. What it says waits in `queue`; its own clock is `ahead`."""

    def __init__(self, device_id: UUID, folder: Path, *, available_wh: int, ahead: timedelta = timedelta(0)) -> None:
        self.id = device_id
        self.queue: deque[QueuedMessage] = deque()
        self.ahead = ahead
        self.seconds = 0.0
        self.path = folder / f"{device_id}.db"
        self.battery = SimulatedBattery(
            capacity_wh=1_000_000, charge_wh=available_wh, power_w=POWER_W, clock=lambda: self.seconds
        )
        self.program = self._start()

    def _start(self) -> Device:
        store = Store.open(self.path, device_id=str(self.id), now=lambda: datetime.now(UTC) + self.ahead)
        return Device(
            device_id=str(self.id), side="donor", store=store, source=self.battery, elapsed=lambda: self.seconds
        )

    def hear(self, command: Command) -> None:
        self._say(self.program.receive(command.topic, payload(command)))

    def report(self) -> None:
        """A status."""
        self._say(self.program.status())

    def feed(self, energy_wh: int) -> None:
        """Let so much time pass that its inverter can feed so much."""
        self._say(self.program.advance())
        self.seconds += energy_wh * 3600 / POWER_W
        self._say(self.program.advance())

    def copy(self) -> bytes:
        """Its state file as it is now."""
        self.close()
        content = self.path.read_bytes()
        self.program = self._start()
        return content

    def lose_its_memory(self, instead: bytes | None = None) -> None:
        """It starts with an empty disk, or with an old copy of it."""
        self.close()
        self.path.unlink()
        if instead is not None:
            self.path.write_bytes(instead)
        self.program = self._start()

    def close(self) -> None:
        self.program.close()

    @property
    def holds_wh(self) -> int:
        return self.program.reserved_wh

    def _say(self, reports: list[Report]) -> None:
        for report in reports:
            self.queue.append(Market.say(report.topic, report.payload))
            self.program.settle(report)
