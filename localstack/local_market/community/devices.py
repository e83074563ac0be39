"""The homes' devices at work, wherever they run."""

import logging
from typing import Final, Protocol

from energy_device.agent import DeviceAgent, Network
from energy_device.config import DeviceConfig

from local_market.community.hardware import HomeHardware

logger: Final = logging.getLogger("community")


class RunningDevice(Protocol):
    """A home's device at work, wherever it runs."""

    def wait_ready(self, timeout_s: float) -> bool:
        """Wait until it is connected and hears its commands."""

    def stop(self) -> None:
        """End it in order, so that its state file may be read. Raises TimeoutError."""


class Devices(Protocol):
    """What starts devices, and ends with them."""

    def start(self, config: DeviceConfig, hardware: HomeHardware, *, name: str) -> RunningDevice:
        """Start the device of the home of this name."""

    def close(self) -> None:
        """Let go of what the devices shared; all of them must have stopped. Raises TimeoutError."""


class DevicesHere:
    """Devices as agents in this process."""

    def __init__(self) -> None:
        """No device yet."""
        self._network = Network()

    def start(self, config: DeviceConfig, hardware: HomeHardware, *, name: str) -> RunningDevice:
        """Start an agent."""
        logger.info("the device of %s is %s", name, config.device_id)
        agent = DeviceAgent(config=config, source=hardware, network=self._network)
        agent.start()
        return agent

    def close(self) -> None:
        """End the agents' threads."""
        self._network.close()
