"""Give a device another certificate."""

from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from energy_market.aws.registry import Credentials, check_csr
from energy_market.database import Database
from energy_market.domain.errors import Conflict
from energy_market.logs import log
from energy_market.postgres import certificates, devices
from energy_market.usecases.revoke_certificates import unknown_device
from energy_market.usecases.tidy_device import Tidies, tidy_device


class Registry(Tidies, Protocol):
    """The registry that issues certificates."""

    def certify(self, device_id: UUID, csr: str | None) -> Credentials:
        """Create a certificate that cannot connect yet."""

    def activate(self, certificate_id: str) -> None:
        """Have the broker accept a certificate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """A request for another certificate of a device. With a CSR, the private key never leaves the device."""

    owner_id: UUID
    device_id: UUID
    csr: str | None = None


def rotate_certificate(database: Database, registry: Registry, asked: Rotation) -> Credentials:
    """Issue another certificate, which may connect at once. Older ones end a minute after its first use, or in a day.

    A device that receives it late, or never, is therefore not cut off at once; a thief of the old key is after a day at
    most. A request whose answer was lost may simply be sent again: an unused certificate ends with the others.

    Raises InvalidRequest for a bad CSR, NotFound for a device that is not this owner's, Conflict beyond 20 in a day.
    """
    if asked.csr is not None:
        check_csr(asked.csr)
    with database.transaction() as conn:
        if not devices.hold_owned(conn, asked.device_id, asked.owner_id):
            raise unknown_device()
        if certificates.issued_today(conn, asked.device_id) >= certificates.MAX_CERTIFICATES_IN_A_DAY:
            raise Conflict(
                "too_many_certificates",
                f"A device gets at most {certificates.MAX_CERTIFICATES_IN_A_DAY} certificates in a day.",
            )
        certificates.will_issue(conn, asked.device_id)
    made = registry.certify(asked.device_id, asked.csr)
    try:
        _write_down(database, asked, made.certificate_id)
        registry.activate(made.certificate_id)
        with database.transaction() as conn:
            certificates.activated(conn, made.certificate_id, asked.device_id)
    except BaseException:
        _give_up(database, registry, asked.device_id, made.certificate_id)
        raise
    return made


def _write_down(database: Database, asked: Rotation, certificate_id: str) -> None:
    with database.transaction() as conn:
        if not devices.hold_owned(conn, asked.device_id, asked.owner_id):
            raise unknown_device()
        certificates.add(conn, certificate_id, asked.device_id)


def _give_up(database: Database, registry: Registry, device_id: UUID, certificate_id: str) -> None:
    """Undo what was done, or leave it to the sweep; the first error is raised to the caller."""
    try:
        with database.transaction() as conn:
            certificates.end_one(conn, certificate_id, device_id)
        tidy_device(database, registry, device_id)
    except Exception as error:  # noqa: BLE001 - the caller gets the failure that led here
        log("certificate.not_undone", level="error", device_id=device_id, error=type(error).__name__)
