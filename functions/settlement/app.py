"""What devices answer to locks, and the settlement sweep."""

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, Final, Protocol

import psycopg

from energy_market import config
from energy_market.database import Database
from energy_market.devices import Dropped, read_queued
from energy_market.domain.settlement import SettlementRules
from energy_market.evm.rpc import ChainError, Rpc
from energy_market.logs import log, metric
from energy_market.usecases.record_lock_response import record_lock_response

if TYPE_CHECKING:
    from energy_market.evm.ledger import Ledger

SWEEP_S: Final = 20.0  # the loop has stopped waiting by then, and the sweeps after it find the lease taken
LEFT_FOR_THE_REST_S: Final = 5.0  # of the function's timeout, for what is not the chain


class LambdaContext(Protocol):
    """What we use of what Lambda passes beside the event."""

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds until the function is stopped."""


@cache
def _database() -> Database:
    return Database(config.database_url())


@cache
def _ledger() -> "Ledger":
    # Imported when first needed: the EVM libraries take most of a second, and device answers do without them.
    from energy_market.evm.ledger import Ledger  # noqa: PLC0415

    chain = config.chain_settings()
    return Ledger(
        Rpc(chain.rpc_url),
        chain_id=chain.chain_id,
        contract=chain.settlement_contract,
        token_decimals=chain.token_decimals,
        operator_key=config.settlement_settings().operator_private_key,
    )


def sweep(_event: object, context: LambdaContext) -> dict[str, bool]:
    """Settle what is locked, and follow what was sent; nothing while another sweep is at work.

    Raises what the chain and the database raise: the loop's next sweep is the retry.
    """
    from energy_market.usecases.settle_trades import settle_trades  # noqa: PLC0415 -- as above

    chain = config.chain_settings()
    rules = SettlementRules(
        max_batch=config.settlement_settings().max_batch,
        confirmations=chain.confirmations,
        finality_blocks=chain.finality_blocks,
    )
    budget_s = min(SWEEP_S, context.get_remaining_time_in_millis() / 1000 - LEFT_FOR_THE_REST_S)
    try:
        ran = settle_trades(_database(), _ledger(), rules=rules, budget_s=budget_s)
    except (ChainError, psycopg.Error) as error:
        log("sweep.failed", level="error", error=type(error).__name__, message=str(error))
        metric("SweepsFailed", 1)
        raise
    log("sweep", ran=ran)
    return {"ran": ran}


def lock_responses(event: Mapping[str, Any], _context: object) -> dict[str, list[dict[str, str]]]:
    """Take each answer in a transaction of its own; those that the database could not take come again.

    What was locked is settled by the next sweep: this function, which reads what strangers write, has no key.
    """
    database = _database()
    settlement_window_s = config.market_settings().settlement_window_s
    again: list[dict[str, str]] = []
    for record in event["Records"]:
        try:
            message = read_queued(record["body"])
            with database.transaction() as conn:
                outcome, transaction_id = record_lock_response(conn, message, settlement_window_s=settlement_window_s)
            log("lock.answered", outcome=outcome, transaction_id=transaction_id)
        except Dropped as dropped:
            log("device.message.dropped", level="warning", reason=dropped.reason, message=record["messageId"])
        except psycopg.Error as error:
            log("device.message.failed", level="error", error=type(error).__name__, message=record["messageId"])
            again.append({"itemIdentifier": record["messageId"]})
    return {"batchItemFailures": again}
