"""Write down what a device sent and was not taken, for its owner and for the log."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Final
from uuid import UUID

import msgspec
from psycopg import Connection

from energy_market.database import Database
from energy_market.logs import log
from energy_market.messages.received import Dropped, QueuedMessage
from energy_market.messages.reports import Ignored, Refused
from energy_market.postgres import devices

MAX_NAME_CHARACTERS: Final = 200  # of a topic or a client id that was none of ours


@contextmanager
def taking(database: Database, message: QueuedMessage) -> Iterator[Connection]:
    """A transaction in which a message is taken. What it raises of Refused is kept for its owner, in another one."""
    try:
        with database.transaction() as conn:
            yield conn
    except Refused as refused:
        with database.transaction() as conn:
            _keep(conn, message, code=refused.reason, field=refused.field, sentence=refused.sentence)
        raise


def note_ignored(conn: Connection, message: QueuedMessage, ignored: Collection[Ignored]) -> None:
    """Fields that were left out of a message that was taken."""
    for one in ignored:
        _keep(conn, message, code="field_ignored", field=one.field, sentence=one.sentence)
        log("device.field.ignored", level="warning", device_id=message.client_id, topic=message.topic, field=one.field)


def log_dropped(dropped: Dropped, message: QueuedMessage | None, *, message_id: str) -> None:
    """The line of a message that changed nothing: which, whose, and why."""
    log(
        "device.message.dropped",
        level="warning",
        reason=dropped.reason,
        field=dropped.field if isinstance(dropped, Refused) else None,
        client_id=None if message is None else message.client_id[:MAX_NAME_CHARACTERS],
        topic=None if message is None else message.topic[:MAX_NAME_CHARACTERS],
        message=message_id,
    )


def _keep(conn: Connection, message: QueuedMessage, *, code: str, field: str | None, sentence: str) -> None:
    refusal = {"topic": message.topic, "code": code, "field": field, "sentence": sentence}
    # Whoever was recognised is who the client id says.
    devices.keep_report(conn, UUID(message.client_id), "refused", msgspec.json.encode(refusal).decode())
