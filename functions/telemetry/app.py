"""Devices' reports, from the queue."""

from collections import Counter
from collections.abc import Mapping
from functools import cache
from typing import Any, Final

from energy_market import config
from energy_market.database import Database
from energy_market.logs import log
from energy_market.messages.queue import take_each
from energy_market.messages.received import QueuedMessage
from energy_market.usecases.note_refusals import taking
from energy_market.usecases.record_telemetry import record_telemetry
from energy_market.usecases.report_failures import report_failures
from energy_market.usecases.report_shortfalls import report_shortfalls

DATABASE_S: Final = 7.0  # of the function's 10


@cache
def _database() -> Database:
    return Database(config.database_url())


def handle(event: Mapping[str, Any], _context: object) -> dict[str, list[dict[str, str]]]:
    """Take each report in its own transaction; SQS repeats those that the database did not store."""
    database = _database()
    database.start_deadline(DATABASE_S)
    kinds: Counter[str] = Counter()

    def take(message: QueuedMessage) -> None:
        with taking(database, message) as conn:
            recorded = record_telemetry(conn, message)
        kinds[recorded.kind] += 1
        if recorded.short is not None:
            report_shortfalls([recorded.short])
        report_failures(recorded.lost, "reservation_lost")

    answer = take_each(event["Records"], take)
    log("telemetry", taken=dict(kinds))
    return answer
