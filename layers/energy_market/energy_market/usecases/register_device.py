"""Register a device: its row, its identity in AWS IoT, and the role that its owner gains."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol
from uuid import UUID

from psycopg import Connection

from energy_market.aws.registry import Credentials, check_csr
from energy_market.database import Database
from energy_market.domain.devices import Device, DeviceSide, DeviceType
from energy_market.domain.errors import Conflict
from energy_market.logs import log
from energy_market.postgres import certificates, devices, idempotency, orders, users
from energy_market.usecases.answer_once import Answer
from energy_market.usecases.tidy_device import Tidies, tidy_device

MAX_DEVICES_OF_A_USER: Final = 50
MAX_REGISTRATIONS_IN_A_DAY: Final = 200  # of one user, including devices that were removed since
ROUTE: Final = "device/register"
CREATED: Final = 201
CONFLICT: Final = 409
UNDER_WAY: Final = 0


class Registry(Tidies, Protocol):
    """The registry that gives devices their identity."""

    def issue(self, device_id: UUID, csr: str | None) -> Credentials:
        """Create a device's identity, whose certificate cannot connect yet."""

    def activate(self, certificate_id: str) -> None:
        """Have the broker accept a certificate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """A request to register a device. With a `key` it registers one device, however often it is sent."""

    owner_id: UUID
    device_type: DeviceType
    side: DeviceSide
    location: str
    csr: str | None = None
    key: str | None = None
    body_hash: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredDevice:
    """A device and its credentials, which are given once: the private key is not stored."""

    device: Device
    credentials: Credentials


def register_device(
    database: Database, registry: Registry, asked: Registration, *, present: Callable[[RegisteredDevice], str]
) -> Answer:
    """Register a device, which may connect at once; `present` renders the body of the answer.

    The row comes first, since its id names the thing. AWS is called between transactions, not inside one, and the
    broker accepts the certificate only once everything is recorded. If a step fails, the row is marked 'Removed' and
    the identity in AWS is deleted, here or by the next sweep. With a donor device its owner becomes a Donor, and the
    owner's sell orders that wait for a first donor device get this one.

    If the key was used before and the device sent a CSR, the first answer is given again: it holds no secret. Without a
    CSR the private key was given in the first answer only: Conflict (`already_registered`) names the device. An
    unfinished registration under the same key, crashed or slow, is abandoned, and can no longer complete.

    Raises InvalidRequest for a bad CSR, and Conflict beyond 50 devices, beyond 200 registrations in a day, or for a key
    that was used for another body.
    """
    if asked.csr is not None:
        check_csr(asked.csr)
    with database.transaction() as conn:
        users.lock(conn, asked.owner_id)
        kept = _claim(conn, asked)
        if kept is None or kept.status == UNDER_WAY:
            given_way = UUID(kept.answer) if kept is not None else None
            if given_way is not None:
                devices.give_way(conn, given_way)
            device_id = _insert(conn, asked)
            _keep(conn, asked, UNDER_WAY, str(device_id))
    if kept is not None and kept.status != UNDER_WAY:
        _activate_owners(database, registry, asked.owner_id)
        return Answer(status=kept.status, body=kept.answer)
    if given_way is not None:
        tidy_device(database, registry, given_way)
    try:
        made = registry.issue(device_id, asked.csr)
        answer = _take_in(database, asked, device_id, made, present)
        registry.activate(made.certificate_id)
        with database.transaction() as conn:
            certificates.activated(conn, made.certificate_id, device_id)
    except BaseException:
        _give_up(database, registry, asked, device_id)
        raise
    return answer


def _insert(conn: Connection, asked: Registration) -> UUID:
    if len(devices.of_owner(conn, asked.owner_id)) >= MAX_DEVICES_OF_A_USER:
        raise Conflict("too_many_devices", f"A user has at most {MAX_DEVICES_OF_A_USER} devices.")
    if devices.registered_today(conn, asked.owner_id) >= MAX_REGISTRATIONS_IN_A_DAY:
        raise Conflict("too_many_devices", f"A user registers at most {MAX_REGISTRATIONS_IN_A_DAY} devices in a day.")
    return devices.insert(
        conn,
        owner_id=asked.owner_id,
        device_type=asked.device_type,
        side=asked.side,
        location=asked.location,
        zone=users.zone_of(conn, asked.owner_id),
    )


def _activate_owners(database: Database, registry: Registry, owner_id: UUID) -> None:
    """Activate certificates of this owner whose registration died before its last step."""
    with database.transaction() as conn:
        waiting = certificates.to_activate(conn, owner_id)
    for certificate_id, device_id in waiting:
        registry.activate(certificate_id)
        with database.transaction() as conn:
            certificates.activated(conn, certificate_id, device_id)


def _claim(conn: Connection, asked: Registration) -> idempotency.KeptAnswer | None:
    """The answer under the key, finished or under way; None if the key is unused, or the request has no key."""
    if asked.key is None:
        return None
    kept = idempotency.claim(conn, user_id=asked.owner_id, route=ROUTE, key=asked.key, body_hash=asked.body_hash)
    if kept is None:
        return None
    if kept.body_hash != asked.body_hash:
        raise Conflict("idempotency_key_reused", "This Idempotency-Key was used for a different request.")
    if kept.status == CONFLICT:
        raise Conflict(
            "already_registered",
            f"This Idempotency-Key has registered the device {kept.answer}, whose private key was given once.",
        )
    return kept


def _keep(conn: Connection, asked: Registration, status: int, answer: str) -> None:
    if asked.key is not None:
        idempotency.keep(conn, user_id=asked.owner_id, route=ROUTE, key=asked.key, status=status, answer=answer)


def _take_in(
    database: Database,
    asked: Registration,
    device_id: UUID,
    credentials: Credentials,
    present: Callable[[RegisteredDevice], str],
) -> Answer:
    with database.transaction() as conn:
        users.lock(conn, asked.owner_id)
        is_first_donor = asked.side == "donor" and not devices.donors_of(conn, asked.owner_id)
        if not devices.register(conn, device_id):
            raise RuntimeError("the device was removed while it was being registered")
        certificates.add(conn, credentials.certificate_id, device_id)
        if asked.side == "donor":
            users.gain_role(conn, asked.owner_id, "Donor")
        if is_first_donor:
            orders.bind_to_first_device(conn, asked.owner_id, device_id)
        device = next(one for one in devices.of_owner(conn, asked.owner_id) if one.id == device_id)
        body = present(RegisteredDevice(device=device, credentials=credentials))
        if asked.csr is None:
            _keep(conn, asked, CONFLICT, str(device_id))
        else:
            _keep(conn, asked, CREATED, body)
    return Answer(status=CREATED, body=body)


def _give_up(database: Database, registry: Registry, asked: Registration, device_id: UUID) -> None:
    """Undo the registration; the first error is raised to the caller.

    The device may be registered nevertheless, if only the answer to the last COMMIT was lost. If its owner can request
    that answer again, the device stays. Otherwise nobody will ever have its key, so it is removed, and its orders wait
    for the next device.
    """
    try:
        with database.transaction() as conn:
            users.lock(conn, asked.owner_id)
            if asked.key is not None and asked.csr is not None and devices.hold_registered(conn, device_id):
                return
            orders.unbind(conn, asked.owner_id, device_id)
            devices.remove(conn, device_id)
            certificates.end(conn, device_id)
            if asked.key is not None:
                idempotency.release(conn, user_id=asked.owner_id, route=ROUTE, key=asked.key, answer=str(device_id))
        tidy_device(database, registry, device_id)
    except Exception as error:  # noqa: BLE001 - the caller gets the failure that led here
        log("device.registration.not_undone", level="error", device_id=device_id, error=type(error).__name__)
