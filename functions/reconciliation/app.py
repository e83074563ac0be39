"""The nightly comparison of database and chain: each difference is a line in the log, and raises an alarm.

Only reads, and holds no key. The same as `make reconcile`, without the devices' own records.
"""

import time
from contextlib import closing
from typing import Final, Protocol

import psycopg

from energy_market import config
from energy_market.database import read_only
from energy_market.evm.books import Books
from energy_market.evm.rpc import ChainError, Rpc
from energy_market.logs import log, metric
from energy_market.usecases.reconcile import OutOfTime
from energy_market.usecases.reconcile import reconcile as compare

RECHECK_S: Final = 20.0  # some ticks and sweeps
LEFT_FOR_THE_REST_S: Final = 30.0  # of the function's timeout: for connecting, the second reading and the report
CHAIN_TIMEOUT_S: Final = 20.0  # for one answer
MAX_LINES: Final = 100  # in the log; `make reconcile` lists more


class LambdaContext(Protocol):
    """The part of Lambda's context that is used here."""

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds until the function is stopped."""


def reconcile(_event: object, context: LambdaContext) -> dict[str, int]:
    """Compare, and report.

    Raises errors that prevent the comparison: the schedule retries, and a day without a run raises an alarm.
    """
    began = time.monotonic()
    chain = config.chain_settings()
    deadline_s = context.get_remaining_time_in_millis() / 1000 - LEFT_FOR_THE_REST_S
    try:
        with (
            read_only(config.database_url(), deadline_s=deadline_s) as conn,
            closing(Rpc(chain.rpc_url, timeout_s=CHAIN_TIMEOUT_S)) as rpc,
        ):
            books = Books(
                rpc,
                chain_id=chain.chain_id,
                contract=chain.settlement_contract,
                token=chain.token_contract,
                token_decimals=chain.token_decimals,
                first_block=config.settlement_block(),
            )
            done = compare(conn, books=books, deadline_s=deadline_s, recheck_s=RECHECK_S)
    except (psycopg.Error, ChainError, OutOfTime) as error:
        log("reconciliation.failed", level="error", error=type(error).__name__)
        raise
    for line in done.differences.lines[:MAX_LINES]:
        log("reconciliation.difference", level="error", difference=line)
    log(
        "reconciliation",
        level="error" if done.differences.count else "info",
        differences=done.differences.count,
        block=done.block,
        payments=done.payments,
        accounts=done.accounts,
        paid_elsewhere=done.paid_elsewhere,
        duration_ms=round((time.monotonic() - began) * 1000),
    )
    metric("ReconciliationDifferences", done.differences.count)
    metric("ReconciliationRuns", 1)
    return {"differences": done.differences.count}
