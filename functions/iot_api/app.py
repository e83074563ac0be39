"""Devices and their certificates."""

from datetime import UTC, datetime
from typing import Annotated, Final, Literal

from chalice.app import Response
from msgspec import Meta, Struct

from energy_market import config
from energy_market.api import answers
from energy_market.api.edge import Api, encode
from energy_market.api.fields import Cursor, Location, PageLimit
from energy_market.aws.registry import MAX_CSR_CHARACTERS, Credentials, DeviceRegistry
from energy_market.database import Database
from energy_market.domain.devices import DeviceSide, DeviceType, ReportKind
from energy_market.postgres import certificates, device_reports, devices
from energy_market.usecases.register_device import RegisteredDevice, Registration, register_device
from energy_market.usecases.remove_device import remove_device
from energy_market.usecases.revoke_certificates import revoke_certificates, unknown_device
from energy_market.usecases.rotate_certificate import Rotation, rotate_certificate

DATABASE_S: Final = 24.0  # of the function's 29: calls of AWS in between take time

settings = config.device_settings()
online_s = config.device_online_s()
database = Database(config.database_url())
registry = DeviceRegistry(settings.policy)
app = Api("iot_api", settings=config.http_settings(), database=database, database_s=DATABASE_S)


# The API's name of a kind of report, and the kinds under which it is stored.
KINDS: Final[dict[str, list[ReportKind]]] = {
    "status": ["donor_status", "recipient_status"],
    "alert": ["alert"],
    "transfer": ["transfer"],
    "refused": ["refused"],
}


class ReportsQuery(Struct, forbid_unknown_fields=True, kw_only=True):
    """A filter and a page of a device's reports."""

    kind: Literal["status", "alert", "transfer", "refused"] | None = None
    limit: PageLimit = PageLimit(100)
    cursor: Cursor | None = None


# Has the error code `invalid_csr` of `aws/registry.py`, which reads the CSR itself.
Csr = Annotated[
    str,
    Meta(
        max_length=MAX_CSR_CHARACTERS,
        description=f"a PEM certificate signing request of at most {MAX_CSR_CHARACTERS} characters",
        extra={"code": "invalid_csr"},
    ),
]


class DeviceRequest(Struct, forbid_unknown_fields=True, kw_only=True):
    """A device to be registered. With a CSR, its private key never leaves it."""

    device_type: DeviceType
    location: Location
    side: DeviceSide = "donor"
    csr: Csr | None = None


class CertificateRequest(Struct, forbid_unknown_fields=True, kw_only=True):
    """A request for another certificate. With a CSR, the private key never leaves the device."""

    csr: Csr | None = None


@app.route("/api/v1/iot/devices", methods=["GET"])
def my_devices() -> Response:
    """The caller's devices."""
    caller, now = app.caller(), datetime.now(UTC)
    with database.transaction() as conn:
        found = devices.of_owner(conn, caller.user_id)
        held = certificates.of_devices(conn, [device.id for device in found])
    return app.present(
        [
            {
                **answers.device(device, now=now, device_online_s=online_s),
                "certificates": [answers.certificate(one) for one in held if one.device_id == device.id],
            }
            for device in found
        ]
    )


@app.route("/api/v1/iot/device/register", methods=["POST"])
def register() -> Response:
    """Register a device. The answer holds everything that it needs to connect; the private key is given once."""
    caller, request = app.caller(), app.read(DeviceRequest)
    asked = Registration(
        owner_id=caller.user_id,
        device_type=request.device_type,
        side=request.side,
        location=request.location,
        csr=request.csr,
        key=app.idempotency_key(),
        body_hash=app.body_hash(),
    )
    answer = register_device(database, registry, asked, present=_present)
    return app.present_text(answer.body, status=answer.status)


@app.route("/api/v1/iot/device/{id}/reports", methods=["GET"], takes_query=True)
def reports(id: str) -> Response:  # noqa: A002 - the path's name for it
    """The reports of the last week from one of the caller's devices, latest first."""
    caller, device_id = app.caller(), app.path_id(id)
    query = app.query(ReportsQuery)
    with database.transaction() as conn:
        found = device_reports.reports(
            conn,
            device_id,
            caller.user_id,
            kinds=KINDS[query.kind] if query.kind is not None else [kind for kinds in KINDS.values() for kind in kinds],
            before=query.cursor.moment() if query.cursor is not None else None,
            limit=query.limit + 1,
        )
    if found is None:
        raise unknown_device()
    page = found[: query.limit]
    return app.present(
        [answers.report(one) for one in page],
        next_cursor=Cursor.spell_moment(page[-1].received_at, page[-1].id) if len(found) > len(page) else None,
    )


@app.route("/api/v1/iot/device/{id}", methods=["DELETE"])
def remove(id: str) -> Response:  # noqa: A002 - the path's name for it
    """Remove a device of the caller's, with its certificates."""
    caller = app.caller()
    remove_device(database, registry, app.path_id(id), owner_id=caller.user_id)
    return app.present(None, status=204)


@app.route("/api/v1/iot/device/{id}/certificate", methods=["POST"])
def rotate(id: str) -> Response:  # noqa: A002
    """Issue another certificate for a device of the caller's. The private key is given once."""
    caller, device_id = app.caller(), app.path_id(id)
    request = app.read(CertificateRequest)
    asked = Rotation(owner_id=caller.user_id, device_id=device_id, csr=request.csr)
    return app.present(_credentials(rotate_certificate(database, registry, asked)), status=201)


@app.route("/api/v1/iot/device/{id}/certificate", methods=["DELETE"])
def revoke(id: str) -> Response:  # noqa: A002
    """End all certificates of a device of the caller's."""
    caller = app.caller()
    revoke_certificates(database, registry, app.path_id(id), owner_id=caller.user_id)
    return app.present(None, status=204)


def _credentials(made: Credentials) -> dict[str, str]:
    return {
        "certificate_id": made.certificate_id,
        "certificate_pem": made.certificate_pem,
        **({} if made.private_key is None else {"private_key": made.private_key}),
    }


def _present(made: RegisteredDevice) -> str:
    return encode(
        {
            **answers.device(made.device, now=datetime.now(UTC), device_online_s=online_s),
            **_credentials(made.credentials),
            "broker": settings.broker,
            "ca_url": settings.ca_url,
            "client_id": made.device.id,
            "topics": answers.device_topics(made.device),
        }
    )
