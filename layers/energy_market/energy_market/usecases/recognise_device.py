"""Recognise a device by its certificate, whatever the broker lets in."""

import re
from typing import Final
from uuid import UUID

from psycopg import Connection

from energy_market.messages.received import Dropped
from energy_market.postgres import certificates

_CERTIFICATE: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)


def recognise(conn: Connection, device_id: UUID, principal: str) -> bool:
    """Whether this is the first message under its certificate. Raises Dropped if the certificate is not the device's.

    A broker may accept a connection that it should not. The local broker accepts one without a certificate, and AWS IoT
    takes minutes to disconnect one whose certificate has ended. `principal` is the connection's certificate.
    """
    is_new = certificates.speaks_for(conn, principal, device_id) if _CERTIFICATE.fullmatch(principal) else None
    if is_new is None:
        raise Dropped("unknown_certificate")
    return is_new
