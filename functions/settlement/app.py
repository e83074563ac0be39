"""Settlement: answers to locks, from the queue; the sweep that pays locked trades; and the check of a deploy.

The check is the custom resource `Chain`: a deploy to a chain on which trades cannot be paid fails and is rolled back.
"""

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, Final, Protocol

import psycopg

from energy_market import config
from energy_market.aws.custom_resources import failed, is_older_deploy, respond, succeeded
from energy_market.database import Database
from energy_market.domain.settlement import SettlementRules
from energy_market.logs import log, metric
from energy_market.messages.queue import take_each
from energy_market.messages.received import QueuedMessage
from energy_market.usecases.note_refusals import taking
from energy_market.usecases.record_lock_response import record_lock_response
from energy_market.usecases.report_failures import report_failures
from energy_market.usecases.wake_sweep import wake_sweep

if TYPE_CHECKING:
    from energy_market.evm.ledger import Ledger
    from energy_market.evm.node_check import Gap

SWEEP_S: Final = 20.0
LEFT_FOR_THE_REST_S: Final = 5.0  # of the function's timeout, for work without the chain
WAIT_FOR_OTHER_SWEEP_S: Final = 3.0
ANSWERS_DATABASE_S: Final = 7.0  # of the 10 of the function that takes answers to locks
CHECK_S: Final = 30.0
CHECK_ID: Final = "chain"


class LambdaContext(Protocol):
    """The part of Lambda's context that is used here."""

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds until the function is stopped."""


@cache
def _database() -> Database:
    return Database(config.database_url())


def lock_responses(event: Mapping[str, Any], _context: object) -> dict[str, list[dict[str, str]]]:
    """Take each answer in its own transaction; SQS repeats those that the database did not store.

    This function reads messages of others' devices, so it does not hold the operator's key: it only starts the sweep.
    """
    window_s = config.settlement_window_s()
    database = _database()
    database.start_deadline(ANSWERS_DATABASE_S)
    outcomes = set()

    def take(message: QueuedMessage) -> None:
        with taking(database, message) as conn:
            outcome, trade = record_lock_response(conn, message, settlement_window_s=window_s)
        outcomes.add(outcome)
        log("lock.answered", outcome=outcome, transaction_id=trade)
        if outcome == "rejected":
            report_failures([trade], "lock_rejected")

    answer = take_each(event["Records"], take)
    if "locked" in outcomes:
        _wake_sweep()
    return answer


def _wake_sweep() -> None:
    """Have the sweep settle now what the loop's next step would settle within five seconds."""
    # Imported here, and the client is made when needed: answers have a deadline, and only the first of many needs it.
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

    def wake() -> None:
        _functions().invoke(FunctionName=config.settle_function(), InvocationType="Event")

    try:
        wake_sweep(_database(), wake)
    except (BotoCoreError, ClientError, psycopg.Error) as error:
        log("sweep.not_woken", level="warning", error=type(error).__name__)


@cache
def _functions() -> Any:  # noqa: ANN401 -- boto3's clients are made at run time
    import boto3  # noqa: PLC0415
    from botocore.config import Config  # noqa: PLC0415

    # The loop's next step settles in any case.
    return boto3.client("lambda", config=Config(connect_timeout=1, read_timeout=1, retries={"total_max_attempts": 1}))


def sweep(_event: object, context: LambdaContext) -> dict[str, bool]:
    """Learn what the chain did, and pay locked trades. If the chain is away, log it and leave it to the next sweep.

    Raises what the database raises.
    """
    # Imported here: answers to locks have a deadline, and do not need these.
    from energy_market.evm.rpc import ChainError  # noqa: PLC0415
    from energy_market.usecases.settling.settle import settle_trades  # noqa: PLC0415

    rules = _rules()
    left_s = context.get_remaining_time_in_millis() / 1000 - LEFT_FOR_THE_REST_S
    _database().start_deadline(left_s)
    deadline_s = min(SWEEP_S, left_s)
    try:
        swept = settle_trades(_database(), _ledger(), rules=rules, deadline_s=deadline_s, wait_s=WAIT_FOR_OTHER_SWEEP_S)
    except ChainError as error:
        log("sweep.chain_away", level="error", error=type(error).__name__, detail=str(error))
        metric("SweepsFailed", 1)
        return {"swept": False}
    log("sweep", swept=swept)
    return {"swept": swept}


def _rules() -> SettlementRules:
    settlement = config.settlement_settings()
    return SettlementRules(
        max_batch=settlement.max_batch,
        confirmations=settlement.confirmations,
        finality_blocks=settlement.finality_blocks,
        delivery_window_s=settlement.delivery_window_s,
        min_priority_fee_wei=settlement.min_priority_fee_wei,
        max_fee_wei=settlement.max_fee_wei,
    )


def check(event: Mapping[str, Any], _context: object) -> None:
    """Serve one request of CloudFormation: Create and Update check the chain; Delete and a rollback do not.

    A paused contract fails no deploy: its owner pauses it to let another operator's key be deployed.
    """
    try:
        gaps = [] if event["RequestType"] == "Delete" or is_older_deploy(event) else _chain_gaps()
        sentences = [f"{gap.sentence} ({gap.words})" if gap.words else gap.sentence for gap in gaps]
    except Exception as error:  # noqa: BLE001 - unanswered, the deploy would hang
        sentences = [f"{type(error).__name__}: {error}"]
    if sentences:
        reason = "Trades could not be paid on this chain: " + "; ".join(sentences)
        answer = failed(event, reason, physical_id=CHECK_ID)
    else:
        answer = succeeded(event, physical_id=CHECK_ID)
    log("chain.checked", level="error" if sentences else "info", request=event["RequestType"], missing=sentences)
    respond(str(event["ResponseURL"]), answer)


def _chain_gaps() -> "list[Gap]":
    from contextlib import closing  # noqa: PLC0415 -- only a deploy needs these

    from energy_market.evm import node_check  # noqa: PLC0415
    from energy_market.evm.rpc import Rpc  # noqa: PLC0415

    _rules()  # the deploy is the time to learn that they contradict each other
    expected = _ledger().expected
    with closing(Rpc(config.chain_settings().rpc_url, deadline_s=CHECK_S)) as rpc:
        return [gap for gap in node_check.check(rpc, expected) if gap.need != "paused"]


@cache
def _ledger() -> "Ledger":
    from energy_market.evm.ledger import Ledger  # noqa: PLC0415
    from energy_market.evm.rpc import Rpc  # noqa: PLC0415

    chain = config.chain_settings()
    return Ledger(
        Rpc(chain.rpc_url),
        chain_id=chain.chain_id,
        contract=chain.settlement_contract,
        token=chain.token_contract,
        token_decimals=chain.token_decimals,
        operator_key=config.operator_settings().private_key,
    )
