"""What devices report, from the queue."""

from collections.abc import Mapping
from functools import cache
from typing import Any, Final

import psycopg

from energy_market import config
from energy_market.database import Database, Unreachable
from energy_market.logs import log
from energy_market.messages.received import Dropped, read_queued
from energy_market.usecases.note_refusals import log_dropped, taking
from energy_market.usecases.record_telemetry import record_telemetry
from energy_market.usecases.report_failures import report_failures
from energy_market.usecases.report_shortfalls import report_shortfalls

DATABASE_S: Final = 7.0  # of the function's 10


@cache
def _database() -> Database:
    return Database(config.database_url())


def handle(event: Mapping[str, Any], _context: object) -> dict[str, list[dict[str, str]]]:
    """Take each report in a transaction of its own; those that the database could not take come again."""
    database = _database()
    database.start_deadline(DATABASE_S)
    again: list[dict[str, str]] = []
    kinds: dict[str, int] = {}
    for number, record in enumerate(event["Records"]):
        message = None
        try:
            message = read_queued(record["body"])
            with taking(database, message) as conn:
                recorded = record_telemetry(conn, message)
            kinds[recorded.kind] = kinds.get(recorded.kind, 0) + 1
            if recorded.short is not None:
                report_shortfalls([recorded.short])
            report_failures(recorded.lost, "reservation_lost")
        except Dropped as dropped:
            log_dropped(dropped, message, message_id=record["messageId"])
        except Unreachable:
            # The rest would wait for a connection each, longer than the function may take.
            again += [{"itemIdentifier": rest["messageId"]} for rest in event["Records"][number:]]
            log("device.messages.given_back", level="error", messages=len(event["Records"]) - number)
            break
        except psycopg.Error as error:
            log("device.message.failed", level="error", error=type(error).__name__, message=record["messageId"])
            again.append({"itemIdentifier": record["messageId"]})
    log("telemetry", taken=kinds)
    return {"batchItemFailures": again}
