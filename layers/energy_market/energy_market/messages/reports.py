"""Devices' reports, read field by field (docs/device-protocol.md, "What may be missing").

Fields that move money or energy are read strictly: if one is malformed, the message is refused, with the field and the
reason. Fields that only inform or order are clipped or ignored, and this is reported too. A missing field, or null,
carries no information.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Context, Decimal
from typing import Any, Final, Literal, TypeVar
from uuid import UUID

import msgspec

from energy_market.domain.quantities import MAX_ENERGY_WH
from energy_market.messages.received import Dropped

MAX_PAYLOAD_BYTES: Final = 16 * 1024
MAX_SEQ: Final = 2**63 - 1
MAX_EXPONENT: Final = 1000
BATTERY_OFF_PERCENT: Final = 5
"""Percent outside of 0 to 100 that are taken for a gauge's error and clipped; a level further off is ignored."""

_FULL_PERCENT: Final = 100
_BOM: Final = b"\xef\xbb\xbf"
_FLOOR: Final = Context(prec=2 * MAX_EXPONENT, rounding=ROUND_FLOOR)
_UUID_LENGTHS: Final = frozenset({32, 36})

T = TypeVar("T")
LockWord = Literal["locked", "rejected"]
TransferWord = Literal["started", "delivering", "delivered", "refused"]
LOCK_WORDS: Final[tuple[LockWord, ...]] = ("locked", "rejected")
TRANSFER_WORDS: Final[tuple[TransferWord, ...]] = ("started", "delivering", "delivered", "refused")


class Refused(Dropped):
    """A device's own message that is refused: `reason` is a code, `sentence` tells its owner what is wrong."""

    def __init__(self, code: str, sentence: str, *, field: str | None = None) -> None:
        """`field` is the protocol's name of the missing or malformed field. No argument quotes what the device sent."""
        super().__init__(code)
        self.field = field
        self.sentence = sentence


@dataclass(frozen=True, slots=True, kw_only=True)
class Ignored:
    """A field that was ignored in a message that was otherwise taken."""

    field: str
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Payload:
    """A JSON object from a device: its fields, and its text in a form that the database can store."""

    fields: Mapping[str, Any]
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LockResponse:
    """`energy/donor/{device_id}/lock/response`: at least one of the two ids is present."""

    order_id: UUID | None
    transaction_id: UUID | None
    status: LockWord
    seq: int | None
    ignored: tuple[Ignored, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DonorStatus:
    """`energy/donor/{device_id}/status`. None: the field is missing."""

    available_wh: int | None
    battery_level: Decimal | None
    locks: tuple[UUID, ...] | None
    seq: int | None
    ignored: tuple[Ignored, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferStatus:
    """`energy/transfer/{device_id}/status`. `delivered`: it is over; `refused`: the device holds no reservation."""

    transaction_id: UUID
    status: TransferWord
    delivered_wh: int
    seq: int | None
    ignored: tuple[Ignored, ...] = ()


def read_object(payload: bytes) -> Payload:
    """Any JSON object; otherwise raises Refused. A leading byte order mark and trailing NULs are ignored."""
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise Refused("payload_too_large", f"A message has at most {MAX_PAYLOAD_BYTES} bytes.")
    raw = payload.removeprefix(_BOM).rstrip(b"\0 \t\r\n")
    try:
        fields = _DECODER.decode(raw)
        text = raw.decode()
    except (msgspec.MsgspecError, ValueError, RecursionError):
        fields, text = _with_names_for_numbers(raw)
    if "\\u0000" in text or _holds(fields, _OUT_OF_RANGE):
        text = json.dumps({"not_kept_characters": len(text)})  # PostgreSQL's jsonb cannot hold it
    return Payload(fields=fields, text=text)


def read_lock_response(payload: Payload) -> LockResponse:
    """An answer to a lock. Raises Refused if it names neither trade nor order, or its word is not in the protocol."""
    reader = _Reader(payload)
    order_id, transaction_id = reader.id("order_id"), reader.id("transaction_id")
    if order_id is None and transaction_id is None:
        raise _missing("transaction_id")
    return LockResponse(
        order_id=order_id,
        transaction_id=transaction_id,
        status=reader.word("status", LOCK_WORDS),
        seq=reader.seq(),
        ignored=tuple(reader.ignored),
    )


def read_donor_status(payload: Payload) -> DonorStatus:
    """A donor's status. Raises Refused if its amount of energy is invalid."""
    reader = _Reader(payload)
    return DonorStatus(
        available_wh=reader.energy_wh("available_kwh"),
        battery_level=reader.if_sound("battery_level", _percent),
        locks=reader.if_sound("locks", _ids),
        seq=reader.seq(),
        ignored=tuple(reader.ignored),
    )


def read_transfer_status(payload: Payload) -> TransferStatus:
    """A delivery's progress. Raises Refused without the trade or a word of the protocol, or for an invalid amount.

    The amount may be missing, except in `delivered`, where it decides.
    """
    reader = _Reader(payload)
    transaction_id = reader.id("transaction_id")
    if transaction_id is None:
        raise _missing("transaction_id")
    status = reader.word("status", TRANSFER_WORDS)
    delivered_wh = reader.energy_wh("kwh_delivered")
    if delivered_wh is None and status == "delivered":
        raise _missing("kwh_delivered")
    return TransferStatus(
        transaction_id=transaction_id,
        status=status,
        delivered_wh=delivered_wh or 0,
        seq=reader.seq(),
        ignored=tuple(reader.ignored),
    )


class _NoNumber:
    """A value that no device measures: not a number, or a number that PostgreSQL cannot hold."""


_NOT_A_NUMBER: Final = _NoNumber()
_OUT_OF_RANGE: Final = _NoNumber()


def _number(text: str) -> object:
    """A JSON number with all its digits."""
    try:
        number = Decimal(text)
    except ArithmeticError:
        return _OUT_OF_RANGE
    exponent = number.as_tuple().exponent
    return number if isinstance(exponent, int) and abs(exponent) <= MAX_EXPONENT else _OUT_OF_RANGE


_DECODER: Final = msgspec.json.Decoder(dict[str, Any], float_hook=_number)


def _with_names_for_numbers(raw: bytes) -> tuple[dict[str, Any], str]:
    """JSON with NaN and Infinity, which Python and others write for a number that they do not have."""
    try:
        fields = json.loads(raw, parse_float=_number, parse_constant=lambda _: _NOT_A_NUMBER)
        text = json.dumps(json.loads(raw, parse_constant=lambda _: None), allow_nan=False)
        _DECODER.decode(text.encode())  # strict about everything else
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise Refused("invalid_payload", "The message is no JSON object in UTF-8.") from None
    return fields, text


def _holds(value: object, what: object) -> bool:
    if isinstance(value, dict):
        return any(_holds(one, what) for one in value.values())
    if isinstance(value, list):
        return any(_holds(one, what) for one in value)
    return value is what


def _missing(field: str) -> Refused:
    return Refused("field_missing", f"{field} is missing.", field=field)


class _Reader:
    """The fields of one message, and those that were ignored."""

    def __init__(self, payload: Payload) -> None:
        self._fields = payload.fields
        self.ignored: list[Ignored] = []

    def id(self, field: str) -> UUID | None:
        return self._strict(field, _uuid)

    def word(self, field: str, words: tuple[T, ...]) -> T:
        def read(value: object) -> T:
            if value not in words or not isinstance(value, str):
                raise ValueError(f"must be one of {', '.join(map(str, words))}")
            return value  # type: ignore[return-value]

        word = self._strict(field, read)
        if word is None:
            raise _missing(field)
        return word

    def energy_wh(self, field: str) -> int | None:
        return self._strict(field, _energy_wh)

    def seq(self) -> int | None:
        return self.if_sound("seq", _count)

    def _strict(self, field: str, read: Callable[[object], T]) -> T | None:
        value = self._fields.get(field)
        try:
            return None if value is None else read(value)
        except ValueError as error:
            raise Refused("invalid_field", f"{field} {error}.", field=field) from None

    def if_sound(self, field: str, read: Callable[[object], T]) -> T | None:
        value = self._fields.get(field)
        try:
            return None if value is None else read(value)
        except ValueError as error:
            self.ignored.append(Ignored(field=field, sentence=f"{field} {error}; the rest of the message was taken."))
            return None


def _uuid(value: object) -> UUID:
    try:
        if isinstance(value, str) and len(value) in _UUID_LENGTHS:
            return UUID(value)
    except ValueError:
        pass
    raise ValueError("must be a UUID")


def _ids(value: object) -> tuple[UUID, ...]:
    try:
        if isinstance(value, list):
            return tuple(_uuid(one) for one in value)
    except ValueError:
        pass
    raise ValueError("must be a list of UUIDs")


def _amount(value: object) -> int | Decimal | None:
    return value if isinstance(value, int | Decimal) and not isinstance(value, bool) else None


def _energy_wh(value: object) -> int:
    """Whole watt-hours, rounded down: the fraction was neither promised nor delivered."""
    amount = _amount(value)
    limit_kwh = MAX_ENERGY_WH // 1000
    # A value less than a watt-hour below 0 is a meter's noise around 0.
    if amount is None or not Decimal("-0.001") < amount <= limit_kwh:
        raise ValueError(f"must be a number of kWh from 0 to {limit_kwh:,}")
    return max(0, int((Decimal(amount) * 1000 if isinstance(amount, int) else amount.scaleb(3, _FLOOR)) // 1))


def _count(value: object) -> int:
    amount = _amount(value)
    if amount is None or not 0 <= amount <= MAX_SEQ or int(amount) != amount:
        raise ValueError(f"must be a whole number from 0 to {MAX_SEQ:,}")
    return int(amount)


def _percent(value: object) -> Decimal:
    amount = _amount(value)
    if amount is None or not -BATTERY_OFF_PERCENT <= amount <= _FULL_PERCENT + BATTERY_OFF_PERCENT:
        raise ValueError("must be a percentage, from 0 to 100")
    return min(max(Decimal(amount), Decimal(0)), Decimal(_FULL_PERCENT))
