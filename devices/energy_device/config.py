"""The identity of a device and the address of its broker: from device.json, or from code."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Self
from uuid import UUID

from energy_device.device import PATIENCE_S


class ConfigError(Exception):
    """A setting is missing or invalid; the sentence says which."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceConfig:
    """One device. Certificates and keys are PEM. `state_path`: its memory, one file per device, kept over restarts."""

    device_id: str
    side: Literal["donor", "recipient"]
    host: str
    port: int
    certificate: bytes
    private_key: bytes
    ca: bytes
    state_path: Path
    status_period_s: float = 10.0
    transfer_period_s: float = 2.0
    delivery_patience_s: float = PATIENCE_S
    session_expiry_s: int = 3_600
    min_reconnect_s: float = 0.5
    max_reconnect_s: float = 30.0
    keep_alive_s: int = 30
    receive_maximum: int = 32
    """Maximum unacknowledged commands that the broker may send; a slow device must hold them in memory."""

    def __post_init__(self) -> None:
        try:
            canonical = str(UUID(self.device_id))
        except ValueError as error:
            raise ConfigError("device_id is not a UUID.") from error
        if canonical != self.device_id:
            raise ConfigError(
                "device_id must be written in lower case with hyphens: topics are compared letter by letter."
            )
        if self.side not in ("donor", "recipient"):
            raise ConfigError("side must be donor or recipient.")
        if not self.host or not 0 < self.port < 1 << 16:
            raise ConfigError("broker must be host:port.")
        if min(self.status_period_s, self.transfer_period_s, self.min_reconnect_s, self.delivery_patience_s) <= 0:
            raise ConfigError("Periods must be above 0 seconds.")
        if not 0 < self.receive_maximum < 1 << 16:
            raise ConfigError("receive_maximum must be from 1 to 65535.")


_REQUIRED: Final = ("device_id", "side", "broker", "certificate_file", "private_key_file", "ca_file")
_OPTIONAL: Final = ("state_file", "status_period_s", "delivery_patience_s", "hardware", "hardware_options")


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """A device.json: the device, and the hardware that it drives."""

    device: DeviceConfig
    hardware: str
    """`module:callable`, called with `hardware_options` as keyword arguments and returning an EnergySource."""
    hardware_options: dict[str, object]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a device.json. Paths in it are relative to it. Raises ConfigError."""
        try:
            fields = json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path} cannot be read as JSON: {error}") from error
        if not isinstance(fields, dict):
            raise ConfigError(f"{path} is not a JSON object.")
        missing = [name for name in _REQUIRED if not isinstance(fields.get(name), str)]
        unknown = sorted(set(fields) - {*_REQUIRED, *_OPTIONAL})
        if missing or unknown:
            raise ConfigError(f"{path}: missing {missing}, unknown {unknown}.")
        host, _, port = fields["broker"].rpartition(":")
        if not port.isdecimal():
            raise ConfigError("broker must be host:port.")
        options = fields.get("hardware_options", {})
        if not isinstance(options, dict):
            raise ConfigError("hardware_options must be a JSON object.")
        folder = path.parent
        try:
            device = DeviceConfig(
                device_id=fields["device_id"],
                side=fields["side"],
                host=host,
                port=int(port),
                certificate=(folder / fields["certificate_file"]).read_bytes(),
                private_key=(folder / fields["private_key_file"]).read_bytes(),
                ca=(folder / fields["ca_file"]).read_bytes(),
                state_path=folder / str(fields.get("state_file", "state.db")),
                status_period_s=float(fields.get("status_period_s", 10.0)),
                delivery_patience_s=float(fields.get("delivery_patience_s", PATIENCE_S)),
            )
        except (OSError, TypeError, ValueError) as error:
            raise ConfigError(f"{path}: {error}") from error
        return cls(
            device=device,
            hardware=str(fields.get("hardware", "energy_device.energy_source:simulated_battery")),
            hardware_options=options,
        )
