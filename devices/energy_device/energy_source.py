"""The interface to plug in hardware below a device: the battery, the meter and the inverter of a home."""

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

_MAX_REMEMBERED: Final = 1_000
"""Maximum finished deliveries that a simulated battery remembers."""


class EnergySource(Protocol):
    """A home's hardware.

    Methods are called one at a time and should return at once. The hardware counts as failed if a method raises, takes
    more than three seconds, or returns an amount that is not a finite number or is below 0. The device then promises
    nothing, and asks again. Fractions of amounts are cut off.
    """

    def available_wh(self) -> int:
        """Energy that could be sold now, in watt-hours, reserved energy included. Below 0 counts as 0."""

    def battery_level(self) -> float:
        """State of charge in percent."""

    def consumption_wh(self) -> int:
        """The meter: energy consumed since its installation, in watt-hours. Never falls."""

    def power_w(self) -> int:
        """The power that the home draws now, in watts."""

    def deliver(self, transaction_id: str, energy_wh: int) -> int:
        """Have `energy_wh` in total fed into the grid for this transaction. Returns the watt-hours fed so far.

        Called repeatedly with the same arguments until it returns `energy_wh`: the first call starts the delivery,
        later ones report its progress. It must keep its count by transaction over a restart of the device's program, as
        an export meter does. Otherwise a restart during a delivery feeds energy twice.
        """

    def stop(self, transaction_id: str) -> int:
        """Feed no more for this transaction. Returns the watt-hours fed for it in total, 0 if it never began.

        Repeated calls return the same. `deliver` is called again only if the device's program died before it had
        recorded the end of the delivery.
        """


class SimulatedBattery:
    """A battery without a home: it holds a charge, and feeds one delivery at a time at a fixed power.

    With `path` it keeps its charge over restarts. `speed_up` accelerates its time: at 60, a minute of feeding takes a
    second. `charge` and `draw` simulate the sun and the household, from any thread.
    """

    def __init__(
        self,
        *,
        capacity_wh: int,
        charge_wh: int,
        power_w: int = 5_000,
        speed_up: float = 1.0,
        path: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not 0 <= charge_wh <= capacity_wh or capacity_wh <= 0 or power_w <= 0 or speed_up <= 0:
            raise ValueError("A battery needs a capacity, a charge within it, a power and a speed-up above 0.")
        self.capacity_wh = capacity_wh
        self.charge_wh = charge_wh
        self.consumed_wh = 0
        self._fed_wh: dict[str, int] = {}
        self._power_w = power_w
        self._speed_up = speed_up
        self._path = path
        self._clock = clock
        self._feeding: tuple[str, float] | None = None
        self._lock = threading.Lock()
        if path is not None and path.exists():
            kept = json.loads(path.read_bytes())
            self.charge_wh, self.consumed_wh, self._fed_wh = kept["charge_wh"], kept["consumed_wh"], kept["fed_wh"]

    def available_wh(self) -> int:
        """The whole charge."""
        return self.charge_wh

    def battery_level(self) -> float:
        """State of charge in percent."""
        return 100.0 * self.charge_wh / self.capacity_wh

    def consumption_wh(self) -> int:
        """Energy taken by `draw`."""
        return self.consumed_wh

    def power_w(self) -> int:
        """Always 0: it stands in no home."""
        return 0

    def charge(self, energy_wh: int) -> int:
        """Put energy in. Returns the watt-hours for which there was room."""
        with self._lock:
            taken_wh = min(energy_wh, self.capacity_wh - self.charge_wh)
            self._change(self.charge_wh + taken_wh)
            return taken_wh

    def draw(self, energy_wh: int) -> int:
        """Take energy out for the home. Returns the watt-hours that were available."""
        with self._lock:
            drawn_wh = min(energy_wh, self.charge_wh)
            self.consumed_wh += drawn_wh
            self._change(self.charge_wh - drawn_wh)
            return drawn_wh

    def deliver(self, transaction_id: str, energy_wh: int) -> int:
        """Feed the energy that the power allows since the last call, limited by the charge."""
        with self._lock:
            fed_wh = self._fed_wh.get(transaction_id, 0)
            now = self._clock()
            if fed_wh >= energy_wh:
                return fed_wh
            if self._feeding is None or self._feeding[0] != transaction_id:
                self._feeding = (transaction_id, now)
                return fed_wh
            wh_per_s = self._power_w * self._speed_up / 3600
            possible_wh = int(wh_per_s * (now - self._feeding[1]))
            step_wh = min(possible_wh, energy_wh - fed_wh, self.charge_wh)
            # The remainder of rounding counts for the next call; energy that an empty battery could not feed does not.
            self._feeding = (transaction_id, self._feeding[1] + possible_wh / wh_per_s)
            if step_wh > 0:
                self._fed_wh[transaction_id] = fed_wh + step_wh
                while len(self._fed_wh) > _MAX_REMEMBERED:
                    del self._fed_wh[next(iter(self._fed_wh))]
                self._change(self.charge_wh - step_wh)
            return fed_wh + step_wh

    def stop(self, transaction_id: str) -> int:
        """End a delivery with the energy fed up to the last call."""
        with self._lock:
            if self._feeding is not None and self._feeding[0] == transaction_id:
                self._feeding = None
            return self._fed_wh.get(transaction_id, 0)

    def _change(self, charge_wh: int) -> None:
        self.charge_wh = charge_wh
        if self._path is None:
            return
        new = self._path.with_suffix(".new")
        with new.open("w") as file:
            json.dump({"charge_wh": charge_wh, "consumed_wh": self.consumed_wh, "fed_wh": self._fed_wh}, file)
            file.flush()
            os.fsync(file.fileno())
        new.replace(self._path)


def simulated_battery(
    *,
    capacity_wh: int = 10_000,
    charge_wh: int = 8_000,
    power_w: int = 5_000,
    speed_up: float = 1.0,
    file: str = "battery.json",
) -> SimulatedBattery:
    """A simulated battery, for a device.json of a device without hardware; keeps its charge in `file`."""
    return SimulatedBattery(
        capacity_wh=capacity_wh, charge_wh=charge_wh, power_w=power_w, speed_up=speed_up, path=Path(file)
    )
