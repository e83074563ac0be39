"""The commands and reports of a device as they are on the wire: JSON, energy as kWh with at most three decimals."""

import json
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Final, NoReturn
from uuid import UUID

from energy_device.reservations import OVER, Lock, Reservation, State

MAX_COMMAND_BYTES: Final = 4_096
"""A longer command is dropped unread; the longest valid one has under 300 bytes."""

MAX_ENERGY_WH: Final = 1_000_000_000
"""1,000,000 kWh, the market's limit for one order."""

_MAX_ALERT_CHARACTERS: Final = 400


class UnreadableError(Exception):
    """A command that is not one: no JSON, a field missing or of a wrong type, too long."""


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
    """What it reports, if it has to arrive: it is owed until the broker has acknowledged it."""


def read_lock(payload: bytes) -> Lock:
    """A lock command. The specification's form, without `transaction_id`, goes by its order. Raises UnreadableError.

    `expires_at` is not read: it is a time of the market's clock, by which the market will judge the answer.
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
        # RecursionError: the limit above has room for a thousand brackets. ArithmeticError: and for a huge exponent.
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
        # Compared, because UUID() also takes braces, underscores and `urn:`.
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

    Exact on the wire: Python writes the shortest decimal that names the float, and with so few digits that is ours.
    """
    return energy_wh // 1000 if energy_wh % 1000 == 0 else energy_wh / 1000


def lock_response(device_id: str, command: Lock | Reservation, reservation: Reservation, *, seq: int) -> Report:
    """The answer to a lock, from what was decided about it. `command` names the ids, as it named them."""
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
    """What a donor could sell, reserved energy included, and what it has reserved; the level in percent, if known."""
    fields: dict[str, object] = {"available_kwh": kwh(available_wh)}
    if battery_level is not None:
        fields["battery_level"] = round(battery_level, 1)
    return Report(topic=f"energy/donor/{device_id}/status", payload=_json(fields | {"locks": locks, "seq": seq}))


def recipient_status(device_id: str, *, consumption_wh: int, power_w: int | None, seq: int) -> Report:
    """What a recipient has consumed: the meter, which never falls, and the power now, if known."""
    fields: dict[str, object] = {"consumption_kwh": kwh(consumption_wh)}
    if power_w is not None:
        fields["power_w"] = power_w
    return Report(topic=f"energy/recipient/{device_id}/status", payload=_json(fields | {"seq": seq}))


def transfer_status(device_id: str, reservation: Reservation, *, status: str, delivered_wh: int, seq: int) -> Report:
    """How far a delivery is: `started`, `delivering`, or `delivered` when it is over. Only the last is owed."""
    return Report(
        topic=f"energy/transfer/{device_id}/status",
        payload=_json(
            {"transaction_id": reservation.id, "status": status, "kwh_delivered": kwh(delivered_wh), "seq": seq}
        ),
        of=reservation if reservation.state in OVER else None,
    )


def transfer_refused(device_id: str, transaction_id: str, *, reason: str, delivered_wh: int, seq: int) -> Report:
    """No energy is held for this transfer; `reason` is the alert's code."""
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
    """Something a person should look at. `severity` is info, warning or critical."""
    return Report(
        topic=f"energy/device/{device_id}/alert",
        payload=_json({"severity": severity, "code": code, "message": message[:_MAX_ALERT_CHARACTERS]}),
    )


def _json(fields: dict[str, object]) -> bytes:
    return json.dumps(fields, separators=(",", ":"), allow_nan=False).encode()
