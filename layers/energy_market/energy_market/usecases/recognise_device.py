"""Know a device by its certificate, whatever the broker lets in."""

import re
from typing import Final
from uuid import UUID

from psycopg import Connection

from energy_market.messages.received import Dropped
from energy_market.postgres import certificates

_CERTIFICATE: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)


def recognise(conn: Connection, device_id: UUID, principal: str) -> bool:
    """Whether this is the first message under its certificate. Raises Dropped for one under none of the device's.

    A broker may let in whom it should not: one without a certificate (the local one does), or one whose certificate was
    ended a moment ago (AWS IoT takes minutes to hang up). `principal` is what the connection was made with.
    """
    is_new = certificates.speaks_for(conn, principal, device_id) if _CERTIFICATE.fullmatch(principal) else None
    if is_new is None:
        raise Dropped("unknown_certificate")
    return is_new
