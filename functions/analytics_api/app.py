"""Figures, the chain, health, and the contract of the API."""

import time
from collections.abc import Callable
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Final, TypeVar

from chalice.app import Response

from energy_market import config
from energy_market.api import answers
from energy_market.api.edge import Api
from energy_market.api.fields import Cursor
from energy_market.api.pages import PageQuery
from energy_market.database import UNAVAILABLE, Database
from energy_market.domain.errors import Unavailable
from energy_market.domain.settlement import Account
from energy_market.domain.trades import TradeStatus
from energy_market.evm import node_check
from energy_market.evm.node_check import Expected, Facts, Gap, WrongChain
from energy_market.evm.rpc import ChainError, Rpc
from energy_market.logs import log
from energy_market.postgres import chain_state, dashboard, trade_reads
from energy_market.postgres.migrations import schema_version
from energy_market.usecases.read_profile import read_profile

# The build puts these files beside this one: infra/pack.py.
SERVED = Path(__file__).parent

CHAIN_TIMEOUT_S: Final = 2.0  # for one answer of the node
CHAIN_DEADLINE_S: Final = 3.0  # for all calls of one request
CHAIN_RETRY_S: Final = 5
"""Seconds after which a client may retry."""
WELL_FOR_S: Final = 15.0  # for this time, a chain without gaps is not checked again

T = TypeVar("T")

settings = config.chain_settings()
confirmations = config.confirmations()
database = Database(config.database_url())
app = Api("analytics_api", settings=config.http_settings(), database=database)


class TransactionsQuery(PageQuery, kw_only=True):
    """A filter for the caller's own trades."""

    status: TradeStatus | None = None


@app.route("/api/v1/analytics/dashboard", methods=["GET"])
def my_dashboard() -> Response:
    """The caller's figures."""
    caller = app.caller()
    with database.transaction() as conn:
        return app.present(answers.dashboard(dashboard.dashboard(conn, caller.user_id)))


@app.route("/api/v1/analytics/transactions", methods=["GET"], takes_query=True)
def my_transactions() -> Response:
    """The caller's trades, latest first."""
    caller, query = app.caller(), app.query(TransactionsQuery)
    with database.transaction() as conn:
        found = trade_reads.of_user(
            conn,
            caller.user_id,
            status=query.status,
            before_seq=query.place(),
            limit=query.limit + 1,
        )
    page = found[: query.limit]
    return app.present(
        [answers.own_trade(trade, viewer=caller.user_id) for trade in page],
        next_cursor=Cursor.spell(str(page[-1].seq)) if len(found) > len(page) else None,
    )


@app.route("/api/v1/chain", methods=["GET", "HEAD"], needs_database=False)
def chain() -> Response:
    """The chain's data that a wallet needs to deposit and withdraw, as the contract states them."""
    from energy_market.domain.wallets import parse_address  # noqa: PLC0415 -- few routes need it, and it is slow

    facts = _asked(_facts)
    return app.present(
        {
            "chain_id": settings.chain_id,
            "settlement_contract": settings.settlement_contract,
            "token_contract": parse_address(facts.token),
            "token_decimals": facts.decimals,
            "confirmations": confirmations,
        }
    )


@app.route("/api/v1/chain/account", methods=["GET"])
def my_account() -> Response:
    """The caller's escrow and cap in the settlement contract, and the contract's limit, as the chain has them now."""
    from energy_market.evm import books  # noqa: PLC0415 - no other route needs it

    caller = app.caller()
    with database.transaction() as conn:
        wallet = read_profile(conn, user_id=caller.user_id).wallet_address

    def ask() -> Account:
        with closing(_node()) as rpc:
            return books.account(rpc, contract=settings.settlement_contract, wallet=wallet, now_s=time.time())

    decimals = _asked(_facts).decimals
    return app.present(answers.chain_account(_asked(ask), wallet=wallet, token_decimals=decimals))


def _asked(question: Callable[[], T]) -> T:
    """The chain's answer to a question. Raises Unavailable."""
    try:
        return question()
    except WrongChain as error:
        log("chain.unfit", level="error", detail=str(error))
        raise Unavailable("chain_unfit", f"Trades cannot be paid: {error}.", retry_after_s=CHAIN_RETRY_S) from error
    except ChainError as error:
        log("chain.away", level="error", error=type(error).__name__, detail=str(error))
        raise Unavailable(
            "chain_unavailable", "The chain cannot be asked now; try again shortly.", retry_after_s=CHAIN_RETRY_S
        ) from error


@cache
def _facts() -> Facts:
    """The contract's facts, read once per sandbox: token and decimals cannot change. Raises `evm.rpc.ChainError`."""
    with closing(_node()) as rpc:
        return node_check.ask(rpc, chain_id=settings.chain_id, contract=settings.settlement_contract)


def _node() -> Rpc:
    return Rpc(settings.rpc_url, timeout_s=CHAIN_TIMEOUT_S, deadline_s=CHAIN_DEADLINE_S)


@app.route("/api/v1/health", methods=["GET", "HEAD"], needs_database=False)
def health() -> Response:
    """The state of database, schema and chain: 200 if all are well, 503 otherwise."""
    expected = int(_served("schema_version"))
    version, halt = None, None
    try:
        with database.transaction() as conn:
            version = schema_version(conn)
            halt = chain_state.unfit(conn) if version >= expected else None  # an older schema may not have it
    except UNAVAILABLE:
        pass
    database_ok = version is not None
    gaps = _chain_gaps()
    missing = [gap.sentence for gap in gaps]
    if halt is not None and not any(sentence in halt for sentence in missing):
        missing.append(halt)
    is_well = database_ok and not missing and version == expected
    return app.present(
        {
            "status": "ok" if is_well else "degraded",
            "database": "ok" if database_ok else "unavailable",
            "chain": "unavailable" if any(gap.need == "node" for gap in gaps) else "unfit" if missing else "ok",
            "missing": missing,
            "schema": {"version": version, "expected": expected},
        },
        status=200 if is_well else 503,
    )


class _Well:
    """The time, by this process's clock, at which the chain was last found without gaps."""

    at_s: float | None = None


def _chain_gaps() -> list[Gap]:
    """The chain's unmet needs. If there are none, the answer is kept for `WELL_FOR_S`, since anybody may request it."""
    if _Well.at_s is not None and time.monotonic() - _Well.at_s < WELL_FOR_S:
        return []
    expected = Expected(
        chain_id=settings.chain_id,
        contract=settings.settlement_contract,
        token=settings.token_contract,
        token_decimals=settings.token_decimals,
    )
    with closing(_node()) as rpc:
        gaps = node_check.check(rpc, expected)
    _Well.at_s = None if gaps else time.monotonic()
    return gaps


@app.route("/api/v1/openapi.json", methods=["GET", "HEAD"], needs_database=False)
def contract() -> Response:
    """The API's contract (OpenAPI 3.0)."""
    return app.present_text(_served("openapi.json"), headers={"Cache-Control": "public, max-age=300"})


@app.route("/api/v1/docs", methods=["GET", "HEAD"], needs_database=False)
def docs() -> Response:
    """The contract as a page for people, which loads nothing from anywhere."""
    return app.present_text(
        _served("docs.html"),
        media_type="text/html; charset=utf-8",
        headers={
            "Cache-Control": "public, max-age=300",
            "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; "
            "form-action 'none'; frame-ancestors 'none'",
        },
    )


@cache
def _served(name: str) -> str:
    return (SERVED / name).read_text(encoding="utf-8")
