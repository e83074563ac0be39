"""Devices as programs of their own, so that they can be killed; their hardware stays, here in the launcher.

    python -m local_market.community.device_process DEVICE_JSON [SKEW_S]

runs one device, whose clock is SKEW_S seconds ahead.

A device speaks with its hardware over a connection to the launcher, one JSON text a line: a question is
`[home, method, arguments...]`, its answer what the method returns.
"""

import contextlib
import dataclasses
import json
import logging
import os
import signal
import socket
import socketserver
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import psutil
from energy_device.agent import DeviceAgent, Network
from energy_device.config import DeviceConfig, Installation
from energy_device.energy_source import EnergySource

from local_market.parts.places import PACKAGES
from local_market.parts.processes import Started, plain_environment, start, stop

METHODS: Final = frozenset({"available_wh", "battery_level", "consumption_wh", "power_w", "deliver", "stop", "ready"})
HARDWARE_TIMEOUT_S: Final = 5.0
STOPPED_POLL_S: Final = 0.05


class RemoteHardware:
    """A home's hardware, as its device's program sees it (an `EnergySource`)."""

    def __init__(self, *, home: str, port: int) -> None:
        """Not connected yet."""
        self._home = home
        self._port = port
        self._connection: socket.socket | None = None

    def ask(self, method: str, *arguments: object) -> Any:  # noqa: ANN401 - JSON
        """What the hardware says. Raises OSError if it says nothing in time."""
        try:
            if self._connection is None:
                self._connection = socket.create_connection(("127.0.0.1", self._port), timeout=HARDWARE_TIMEOUT_S)
                self._answers = self._connection.makefile("rb")
            self._connection.sendall(json.dumps([self._home, method, *arguments]).encode() + b"\n")
            line = self._answers.readline()
            if not line:
                raise ConnectionResetError("the hardware is gone")
        except OSError:
            # An answer that comes too late must not be taken for the next one's.
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            raise
        return json.loads(line)

    def available_wh(self) -> int:
        """What may be sold, promised energy included."""
        return int(self.ask("available_wh"))

    def battery_level(self) -> float:
        """How full the battery is, in percent."""
        return float(self.ask("battery_level"))

    def consumption_wh(self) -> int:
        """The meter."""
        return int(self.ask("consumption_wh"))

    def power_w(self) -> int:
        """What the home draws now."""
        return int(self.ask("power_w"))

    def deliver(self, transaction_id: str, energy_wh: int) -> int:
        """The watt-hours fed for this trade in all."""
        return int(self.ask("deliver", transaction_id, energy_wh))

    def stop(self, transaction_id: str) -> int:
        """The watt-hours fed for this trade in all; from now on no more."""
        return int(self.ask("stop", transaction_id))


class DeviceProcess:
    """A home's device as the launcher sees it; who starts or kills it has its `turn`."""

    def __init__(self, *, name: str, folder: Path, logs: Path) -> None:
        """`folder` has its device.json."""
        self.name = name
        self._folder = folder
        self._log = logs / f"device-{name}.log"
        self._process: Started | None = None
        self.ready = threading.Event()
        self.turn = threading.Lock()

    def run(self, *, skew_s: float = 0.0) -> None:
        """Start the program; its clock is `skew_s` ahead."""
        self.ready.clear()
        self._process = start(
            f"device-{self.name}",
            [sys.executable, "-P", "-m", __name__, self._folder / "device.json", str(skew_s)],
            log=self._log,
            environment={
                **plain_environment(),
                "PYTHONPATH": os.pathsep.join(map(str, PACKAGES)),
            },
        )

    def wait_ready(self, timeout_s: float) -> bool:
        """Wait until it says that it is connected and hears its commands."""
        return self.ready.wait(timeout_s)

    def kill(self) -> None:
        """End it in the middle of whatever it does."""
        if self._process is not None:
            stop(dataclasses.replace(self._process, stop_signal=signal.SIGKILL))
            self._process = None

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Let it do nothing for the length of a block, its connection open."""
        if self._process is None:
            raise ProcessLookupError(self.name)
        process = psutil.Process(self._process.pid)
        process.suspend()
        try:
            yield
        finally:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()

    def stop(self) -> None:
        """End it in order, so that its state file may be read."""
        if self._process is not None:
            stop(self._process)
            self._process = None


class DeviceProcesses:
    """All devices of a street, each a process; and their hardware, here."""

    def __init__(self, folder: Path, *, logs: Path) -> None:
        """`folder` gets a folder for each device, `logs` a log."""
        self._folder = folder
        self._logs = logs
        self._hardware: dict[str, EnergySource] = {}
        self.running: dict[str, DeviceProcess] = {}
        self._server = _Server(("127.0.0.1", 0), _Connection)
        self._server.answer = self._answer
        self._thread = threading.Thread(target=self._server.serve_forever, name="hardware", daemon=True)
        self._thread.start()

    def start(self, config: DeviceConfig, hardware: EnergySource, *, name: str) -> DeviceProcess:
        """Start the device of the home of this name."""
        folder = self._folder / name
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for file, content in (
            ("certificate.pem", config.certificate),
            ("private_key.pem", config.private_key),
            ("ca.pem", config.ca),
        ):
            (folder / file).write_bytes(content)
        fields = {
            "device_id": config.device_id,
            "side": config.side,
            "broker": f"{config.host}:{config.port}",
            "certificate_file": "certificate.pem",
            "private_key_file": "private_key.pem",
            "ca_file": "ca.pem",
            "state_file": str(config.state_path),
            "status_period_s": config.status_period_s,
            "delivery_patience_s": config.delivery_patience_s,
            "hardware": f"{__name__}:{RemoteHardware.__name__}",
            "hardware_options": {"home": name, "port": self._server.server_address[1]},
        }
        (folder / "device.json").write_text(json.dumps(fields, indent=2))
        self._hardware[name] = hardware
        self.running[name] = device = DeviceProcess(name=name, folder=folder, logs=self._logs)
        device.run()
        return device

    def _answer(self, home: str, method: str, *arguments: Any) -> object:  # noqa: ANN401 - JSON
        if method not in METHODS:
            raise ValueError(f"hardware has no {method}")
        if method == "ready":
            self.running[home].ready.set()
            return True
        answer: object = getattr(self._hardware[home], method)(*arguments)
        return answer

    def close(self) -> None:
        """Nobody asks the hardware any more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(socketserver.ThreadingTCPServer):
    """Answers what devices ask of their hardware, each device on a thread of its own."""

    daemon_threads = True
    block_on_close = False
    answer: Any


class _Connection(socketserver.StreamRequestHandler):
    """One device's connection, until it is dropped."""

    server: _Server

    def handle(self) -> None:
        with contextlib.suppress(OSError):  # the device was killed
            for line in self.rfile:
                if line.endswith(b"\n"):  # not the half of a question
                    self.wfile.write(json.dumps(self.server.answer(*json.loads(line))).encode() + b"\n")


def main() -> int:
    """Run one device until SIGTERM."""
    told_to_end = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: told_to_end.set())
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    installation = Installation.read(Path(sys.argv[1]))
    ahead = timedelta(seconds=float(sys.argv[2]) if len(sys.argv) > 2 else 0.0)  # noqa: PLR2004
    hardware = RemoteHardware(**installation.hardware_options)  # type: ignore[arg-type] # JSON that we wrote
    network = Network()
    agent = DeviceAgent(
        config=dataclasses.replace(installation.device, transfer_period_s=0.5, max_reconnect_s=5.0),
        source=hardware,
        network=network,
        now=lambda: datetime.now(UTC) + ahead,
    )
    agent.start()
    while not told_to_end.is_set():
        if agent.wait_ready(STOPPED_POLL_S):
            RemoteHardware(**installation.hardware_options).ask("ready")  # type: ignore[arg-type]
            break
    told_to_end.wait()
    agent.stop()
    network.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
