"""Run one device: `python -m energy_device --config device.json`, until SIGINT or SIGTERM."""

import argparse
import importlib
import logging
import signal
import sqlite3
import sys
import threading
from pathlib import Path
from typing import cast

from energy_device.agent import DeviceAgent, Network
from energy_device.config import ConfigError, Installation
from energy_device.energy_source import EnergySource
from energy_device.store import StateError


def _open_hardware(installation: Installation) -> EnergySource:
    module, _, name = installation.hardware.partition(":")
    try:
        factory = getattr(importlib.import_module(module), name)
        return cast("EnergySource", factory(**installation.hardware_options))
    except Exception as error:  # a plug-in may raise anything
        raise ConfigError(f"The hardware {installation.hardware} cannot be opened: {error}") from error


def main() -> int:
    """Run the device. Returns 0 after it was told to end, 2 if it could not start."""
    parser = argparse.ArgumentParser(prog="energy_device", description="Run a home's device in the energy market.")
    parser.add_argument("--config", type=Path, required=True, help="the device.json of this device")
    parser.add_argument("--quiet", action="store_true", help="print only problems, not the device's normal work")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING if arguments.quiet else logging.INFO, format="%(asctime)s %(message)s")
    told_to_end = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: told_to_end.set())
    try:
        installation = Installation.read(arguments.config)
        source = _open_hardware(installation)
        network = Network()
        agent = DeviceAgent(config=installation.device, source=source, network=network)
        agent.start()
    except (ConfigError, StateError, sqlite3.Error) as error:
        print(f"energy_device: {error}", file=sys.stderr)
        return 2
    told_to_end.wait()
    agent.stop()
    network.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
