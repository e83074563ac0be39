"""The commands and reports of a device in their JSON form: energy as kWh with at most three decimals."""

import json
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Final, NoReturn
from uuid import UUID

from energy_device.reservations import OVER, Lock, Reservation, State

MAX_COMMAND_BYTES: Final = 4_096
"""Maximum bytes of a command; a longer one is dropped unread. The longest valid command has under 300 bytes."""

MAX_ENERGY_WH: Final = 1_000_000_000
"""Maximum energy of an order in the market: 1,000,000 kWh."""

_MAX_ALERT_CHARACTERS: Final = 400


class UnreadableError(Exception):
    """A malformed command: not JSON, a field missing or of a wrong type, or too long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """A transfer command."""

    id: str
    energy_wh: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A message to be published."""

    topic: str
    payload: bytes
    of: Reservation | None = None
    """The reservation that it reports, if it must arrive: then it is repeated until the broker has acknowledged it."""


def read_lock(payload: bytes) -> Lock:
    """A lock command. The specification's form, without `transaction_id`, uses the order's id. Raises UnreadableError.

    `expires_at` is not read: it is a time of the market's clock, by which the market judges the answer.
    """
    fields = _fields(payload)
    order_id = _uuid(fields, "order_id")
    return Lock(
        id=_uuid(fields, "transaction_id") if "transaction_id" in fields else order_id,
        order_id=order_id,
        energy_wh=_energy_wh(fields, "kwh_requested"),
    )


def read_unlock(payload: bytes) -> str:
    """The id that an unlock command releases. Raises UnreadableError."""
    return _uuid(_fields(payload), "transaction_id")


def read_transfer(payload: bytes) -> Transfer:
    """A transfer command. Raises UnreadableError."""
    fields = _fields(payload)
    return Transfer(id=_uuid(fields, "transaction_id"), energy_wh=_energy_wh(fields, "kwh"))


def _fields(payload: bytes) -> dict[str, object]:
    if len(payload) > MAX_COMMAND_BYTES:
        raise UnreadableError(f"The command has {len(payload)} bytes.")
    try:
        # RecursionError: the limit above has room for a thousand brackets. ArithmeticError: also for a huge exponent.
        value = json.loads(payload, parse_float=Decimal, parse_constant=_refuse_constant)
    except (ValueError, ArithmeticError, RecursionError) as error:
        raise UnreadableError("The command is not JSON.") from error
    if not isinstance(value, dict):
        raise UnreadableError("The command is not a JSON object.")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)  # NaN and Infinity, which JSON does not have


def _uuid(fields: dict[str, object], name: str) -> str:
    value = fields.get(name)
    try:
        # Compared, because UUID() also accepts braces, underscores and `urn:`.
        if isinstance(value, str) and str(UUID(value)) == value.lower():
            return value.lower()
    except ValueError as error:
        raise UnreadableError(f"{name} is not a UUID.") from error
    raise UnreadableError(f"{name} is not a UUID.")


def _energy_wh(fields: dict[str, object], name: str) -> int:
    value = fields.get(name)
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise UnreadableError(f"{name} is not a number.")
    # The size first: the fraction of 1e-999999999 would fill the memory.
    if not 0 < value <= MAX_ENERGY_WH // 1000 or Decimal(value).adjusted() < -3:  # noqa: PLR2004 - three decimals
        raise UnreadableError(f"{name} is out of range.")
    energy_wh = Fraction(value) * 1000
    if energy_wh.denominator != 1:
        raise UnreadableError(f"{name} has more than 3 decimals.")
    return energy_wh.numerator


def kwh(energy_wh: int) -> int | float:
    """Watt-hours as a JSON number of kWh.

    Exact on the wire: Python writes the shortest decimal that identifies the float, and with at most 12 digits that is
    ours.
    """
    return energy_wh // 1000 if energy_wh % 1000 == 0 else energy_wh / 1000


def lock_response(device_id: str, command: Lock | Reservation, reservation: Reservation, *, seq: int) -> Report:
    """The answer to a lock, from the decision on it. It names the same ids as `command`."""
    locked = reservation.state not in (State.REJECTED, State.RELEASED)
    fields: dict[str, object] = {"order_id": command.order_id, "status": "locked" if locked else "rejected"}
    if command.id != command.order_id:
        fields["transaction_id"] = command.id
        fields["seq"] = seq
    if not locked:
        fields["reason"] = reservation.reason or reservation.state.value
    return Report(
        topic=f"energy/donor/{device_id}/lock/response",
        payload=_json(fields),
        of=reservation if reservation.state in (State.LOCKED, State.REJECTED) else None,
    )


def donor_status(
    device_id: str, *, available_wh: int, battery_level: float | None, locks: list[str], seq: int
) -> Report:
    """Energy that a donor could sell, reserved energy included; its reservations; the level in percent, if known."""
    fields: dict[str, object] = {"available_kwh": kwh(available_wh)}
    if battery_level is not None:
        fields["battery_level"] = round(battery_level, 1)
    return Report(topic=f"energy/donor/{device_id}/status", payload=_json(fields | {"locks": locks, "seq": seq}))


def recipient_status(device_id: str, *, consumption_wh: int, power_w: int | None, seq: int) -> Report:
    """A recipient's consumption: the meter, which never falls, and the present power, if known."""
    fields: dict[str, object] = {"consumption_kwh": kwh(consumption_wh)}
    if power_w is not None:
        fields["power_w"] = power_w
    return Report(topic=f"energy/recipient/{device_id}/status", payload=_json(fields | {"seq": seq}))


def transfer_status(device_id: str, reservation: Reservation, *, status: str, delivered_wh: int, seq: int) -> Report:
    """A delivery's progress: `started`, `delivering`, or `delivered` once it is over. Only the last must arrive."""
    return Report(
        topic=f"energy/transfer/{device_id}/status",
        payload=_json(
            {"transaction_id": reservation.id, "status": status, "kwh_delivered": kwh(delivered_wh), "seq": seq}
        ),
        of=reservation if reservation.state in OVER else None,
    )


def transfer_refused(device_id: str, transaction_id: str, *, reason: str, delivered_wh: int, seq: int) -> Report:
    """A refusal: no energy is reserved for this transfer. `reason` is the alert's code."""
    return Report(
        topic=f"energy/transfer/{device_id}/status",
        payload=_json(
            {
                "transaction_id": transaction_id,
                "status": "refused",
                "kwh_delivered": kwh(delivered_wh),
                "seq": seq,
                "reason": reason,
            }
        ),
    )


def alert(device_id: str, *, severity: str, code: str, message: str) -> Report:
    """An alert for a person to look at. `severity` is info, warning or critical."""
    return Report(
        topic=f"energy/device/{device_id}/alert",
        payload=_json({"severity": severity, "code": code, "message": message[:_MAX_ALERT_CHARACTERS]}),
    )


def _json(fields: dict[str, object]) -> bytes:
    return json.dumps(fields, separators=(",", ":"), allow_nan=False).encode()
