"""Remove a device: it sells nothing more, and its certificates end."""

from uuid import UUID

from energy_market.database import Database
from energy_market.domain.errors import Conflict
from energy_market.logs import log
from energy_market.postgres import certificates, deliveries, devices, orders, trades
from energy_market.usecases.report_failures import report_failures
from energy_market.usecases.revoke_certificates import unknown_device
from energy_market.usecases.tidy_device import Tidies, tidy_device


def remove_device(database: Database, registry: Tidies, device_id: UUID, *, owner_id: UUID) -> None:
    """Cancel the device's open orders, end its certificates, and remove it from AWS IoT.

    A device that owes energy is not removed: trades that are locked, being paid or paid must first be delivered, or
    fall short in time. A trade that waits for its lock expires, as if the device were silent: its bid returns to the
    book.

    Raises NotFound for a device that is not this owner's, and Conflict (`device_owes_energy`).
    """
    _remove(database, device_id, owner_id=owner_id)
    _fail_unsigned(database, device_id)  # trades that it locked meanwhile
    tidy_device(database, registry, device_id)


def expel_device(database: Database, registry: Tidies, device_id: UUID) -> None:
    """Remove a device whatever it owes, on behalf of an operator. Raises NotFound.

    Trades whose payment is not signed yet are no longer paid: they fail as if the device had lost the energy. Trades
    that are being paid or are paid fall short when their time is over, since the device's messages no longer count.
    """
    _fail_unsigned(database, device_id)
    _remove(database, device_id, owner_id=None)
    _fail_unsigned(database, device_id)  # trades that it locked meanwhile
    tidy_device(database, registry, device_id)


def _fail_unsigned(database: Database, device_id: UUID) -> None:
    with database.transaction() as conn:
        unsigned = deliveries.hold_unsigned(conn, device_id)
        failed = trades.fail(conn, unsigned, reason="reservation_lost", expected="Locked") if unsigned else []
        devices.wait_for_status(conn, failed)
    report_failures(failed, "reservation_lost")


def _remove(database: Database, device_id: UUID, *, owner_id: UUID | None) -> None:
    with database.transaction() as conn:
        # Orders before the device, as everywhere. Nobody can place another order for it meanwhile, since placing an
        # order also locks its owner.
        if not devices.hold_owner(conn, device_id, owner_id):
            raise unknown_device()
        # Trades that fail after this find the device removed, so their orders are cancelled instead of returning.
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
