"""A queue's batch of device messages, each taken separately."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import psycopg

from energy_market.database import Unreachable
from energy_market.logs import log
from energy_market.messages.received import Dropped, QueuedMessage, read_queued
from energy_market.messages.reports import Refused

MAX_NAME_CHARACTERS: Final = 200  # of a logged topic or client id that is not ours


def take_each(
    records: Iterable[Mapping[str, Any]], take: Callable[[QueuedMessage], None]
) -> dict[str, list[dict[str, str]]]:
    """Pass each record's message to `take`. Returns SQS's partial answer: it repeats what the database did not store.

    `take` raises Dropped for a message that changes nothing, and psycopg's errors. After Unreachable the remaining
    messages are returned to the queue unread: each would wait for a connection, together longer than the function may
    run.
    """
    waiting = list(records)
    again: list[str] = []
    while waiting:
        record, message = waiting[0], None
        try:
            message = read_queued(record["body"])
            take(message)
        except Dropped as dropped:
            _log_dropped(dropped, message, message_id=record["messageId"])
        except Unreachable:
            again += [rest["messageId"] for rest in waiting]
            log("device.messages.given_back", level="error", messages=len(waiting))
            break
        except psycopg.Error as error:
            log("device.message.failed", level="error", error=type(error).__name__, message=record["messageId"])
            again.append(record["messageId"])
        del waiting[0]
    return {"batchItemFailures": [{"itemIdentifier": one} for one in again]}


def _log_dropped(dropped: Dropped, message: QueuedMessage | None, *, message_id: str) -> None:
    """Log a message that changed nothing, with its sender and the reason."""
    log(
        "device.message.dropped",
        level="warning",
        reason=dropped.reason,
        field=dropped.field if isinstance(dropped, Refused) else None,
        client_id=None if message is None else message.client_id[:MAX_NAME_CHARACTERS],
        topic=None if message is None else message.topic[:MAX_NAME_CHARACTERS],
        message=message_id,
    )
