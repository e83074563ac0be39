"""Register a device: its row, its identity in AWS IoT, and what its owner gains by it."""

from dataclasses import dataclass
from typing import Final, Protocol
from uuid import UUID

from energy_market.database import Database
from energy_market.device_registry import Credentials, check_csr
from energy_market.domain.devices import Device, DeviceSide, DeviceType
from energy_market.domain.errors import Conflict
from energy_market.logs import log
from energy_market.postgres import devices, orders, users

MAX_DEVICES_OF_A_USER: Final = 50


class Registry(Protocol):
    """Who gives devices their identity."""

    def issue(self, device_id: UUID, csr: str | None) -> Credentials:
        """Make a device's identity, wholly or not at all."""

    def withdraw(self, device_id: UUID, credentials: Credentials) -> None:
        """Take it back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredDevice:
    """A device and what it connects with, given once: the private key is kept nowhere."""

    device: Device
    credentials: Credentials


def register_device(
    database: Database,
    registry: Registry,
    *,
    owner_id: UUID,
    device_type: DeviceType,
    side: DeviceSide,
    location: str,
    csr: str | None,
) -> RegisteredDevice:
    """A new device, that may connect at once.

    The row comes first, since its id names the thing; AWS is called between two transactions, not inside one. Whatever
    fails, what AWS made is undone and the row is marked 'Removed'. With a donor device its owner becomes a Donor, and
    the owner's sell orders that have been waiting for a first donor device get this one.

    Raises InvalidRequest for a bad CSR, Conflict beyond 50 devices.
    """
    if csr is not None:
        check_csr(csr)
    with database.transaction() as conn:
        users.lock(conn, owner_id)
        zone = users.zone_of(conn, owner_id, share_lock=False)
        if len(devices.of_owner(conn, owner_id)) >= MAX_DEVICES_OF_A_USER:
            raise Conflict("too_many_devices", f"A user has at most {MAX_DEVICES_OF_A_USER} devices.")
        device_id = devices.insert(
            conn, owner_id=owner_id, device_type=device_type, side=side, location=location, zone=zone
        )
    credentials: Credentials | None = None
    try:
        credentials = registry.issue(device_id, csr)
        return RegisteredDevice(
            device=_take_in(database, owner_id, device_id, side, credentials), credentials=credentials
        )
    except BaseException:
        _give_up(database, registry, owner_id, device_id, credentials)
        raise


def _take_in(database: Database, owner_id: UUID, device_id: UUID, side: DeviceSide, credentials: Credentials) -> Device:
    with database.transaction() as conn:
        users.lock(conn, owner_id)
        is_first_donor = side == "donor" and not devices.donors_of(conn, owner_id)
        if not devices.register(conn, device_id, certificate_arn=credentials.certificate_arn):
            raise RuntimeError("the device was removed while it was being registered")
        if side == "donor":
            users.gain_role(conn, owner_id, "Donor")
        if is_first_donor:
            orders.bind_to_first_device(conn, owner_id, device_id)
        return next(device for device in devices.of_owner(conn, owner_id) if device.id == device_id)


def _give_up(
    database: Database, registry: Registry, owner_id: UUID, device_id: UUID, credentials: Credentials | None
) -> None:
    """Undo what was made. What cannot be undone is logged with its names, and the first error goes on to the caller.

    The device may have been taken in all the same, when only the answer to the last COMMIT was lost: the orders that it
    got then wait again for the next one.
    """
    try:
        if credentials is not None:
            registry.withdraw(device_id, credentials)
        with database.transaction() as conn:
            users.lock(conn, owner_id)
            devices.remove(conn, device_id)
            orders.unbind(conn, owner_id, device_id)
    except Exception as error:  # noqa: BLE001 - the caller is told of the failure that led here
        log(
            "device.registration.not_undone",
            level="error",
            device_id=device_id,
            certificate_arn=credentials.certificate_arn if credentials else None,
            error=type(error).__name__,
        )
