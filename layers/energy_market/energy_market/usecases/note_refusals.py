"""Record, for a device's owner, which of its messages and fields were refused."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from uuid import UUID

import msgspec
from psycopg import Connection

from energy_market.database import Database
from energy_market.logs import log
from energy_market.messages.received import QueuedMessage
from energy_market.messages.reports import Ignored, Refused
from energy_market.postgres import device_reports


@contextmanager
def taking(database: Database, message: QueuedMessage) -> Iterator[Connection]:
    """A transaction in which a message is taken. A second one records, for the owner, if the first raises Refused."""
    try:
        with database.transaction() as conn:
            yield conn
    except Refused as refused:
        with database.transaction() as conn:
            _keep(conn, message, code=refused.reason, field=refused.field, sentence=refused.sentence)
        raise


def note_ignored(conn: Connection, message: QueuedMessage, ignored: Collection[Ignored]) -> None:
    """Record fields that were ignored in a message that was otherwise taken."""
    for one in ignored:
        _keep(conn, message, code="field_ignored", field=one.field, sentence=one.sentence)
        log("device.field.ignored", level="warning", device_id=message.client_id, topic=message.topic, field=one.field)


def _keep(conn: Connection, message: QueuedMessage, *, code: str, field: str | None, sentence: str) -> None:
    refusal = {"topic": message.topic, "code": code, "field": field, "sentence": sentence}
    # `recognise` has confirmed that the sender is the device of the client id.
    device_reports.keep_report(conn, UUID(message.client_id), "refused", msgspec.json.encode(refusal).decode())
