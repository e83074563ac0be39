"""Remove a device: it sells nothing any more, and nobody can speak for it."""

from uuid import UUID

from energy_market.database import Database
from energy_market.domain.errors import Conflict
from energy_market.logs import log
from energy_market.postgres import certificates, deliveries, devices, orders, trades
from energy_market.usecases.report_failures import report_failures
from energy_market.usecases.revoke_certificates import unknown_device
from energy_market.usecases.tidy_device import Tidies, tidy_device


def remove_device(database: Database, registry: Tidies, device_id: UUID, *, owner_id: UUID) -> None:
    """Cancel its open orders, end its certificates and take it out of AWS IoT.

    Not while it owes energy: what is locked, being paid or paid is delivered first, or falls short in its time. A trade
    that still waits for its lock runs out, as if the device were silent: its bid goes back into the book.

    Raises NotFound for a device that is not this owner's, Conflict (`device_owes_energy`).
    """
    _remove(database, device_id, owner_id=owner_id)
    _fail_unsigned(database, device_id)  # what it has locked at that moment
    tidy_device(database, registry, device_id)


def expel_device(database: Database, registry: Tidies, device_id: UUID) -> None:
    """Remove a device whatever it owes, as an operator may. Raises NotFound.

    What nobody has signed a payment for yet is not paid any more: these trades fail as if the device had lost the
    energy. What is being paid or paid already falls short when its time is over, since nobody hears the device.
    """
    _fail_unsigned(database, device_id)
    _remove(database, device_id, owner_id=None)
    _fail_unsigned(database, device_id)  # what it has locked at that moment
    tidy_device(database, registry, device_id)


def _fail_unsigned(database: Database, device_id: UUID) -> None:
    with database.transaction() as conn:
        unsigned = deliveries.hold_unsigned(conn, device_id)
        failed = trades.fail(conn, unsigned, reason="reservation_lost", expected="Locked") if unsigned else []
        devices.wait_for_status(conn, failed)
    report_failures(failed, "reservation_lost")


def _remove(database: Database, device_id: UUID, *, owner_id: UUID | None) -> None:
    with database.transaction() as conn:
        # Orders before the device, here as everywhere. Nobody places another one for it meanwhile: whoever does has to
        # look at its owner, too.
        if not devices.hold_owner(conn, device_id, owner_id):
            raise unknown_device()
        # What fails from now on finds the device removed, and its order is cancelled instead of going back.
        deliveries.hold_of_device(conn, device_id)
        cancelled = orders.cancel_of_device(conn, device_id)
        if not devices.hold_owned(conn, device_id, owner_id):
            raise unknown_device()
        if owner_id is not None and deliveries.owed_by_device(conn, device_id):
            raise Conflict(
                "device_owes_energy",
                "The device owes energy of trades that are locked or paid: remove it when these have ended.",
            )
        devices.remove(conn, device_id)
        certificates.end(conn, device_id)
    log("device.removed", device_id=device_id, orders_cancelled=cancelled, by_owner=owner_id is not None)
