"""Figures, the chain, health, and the contract of the API."""

import time
from functools import cache
from pathlib import Path
from typing import Final

from chalice.app import Response
from msgspec import Struct

from energy_market import answers, config
from energy_market.database import UNAVAILABLE, Database
from energy_market.domain.errors import Unavailable
from energy_market.domain.trades import TradeStatus
from energy_market.evm.rpc import ChainError, Rpc, chain_reachable
from energy_market.http import Api
from energy_market.logs import log
from energy_market.postgres import dashboard, trades
from energy_market.postgres.migrations import schema_version
from energy_market.usecases.read_profile import read_profile
from energy_market.wire import Cursor, PageLimit

# The build puts them beside this file: infra/pack.py.
SERVED = Path(__file__).parent

CHAIN_TIMEOUT_S: Final = 2.0
CHAIN_BUDGET_S: Final = 3.0
CHAIN_RETRY_S: Final = 5
"""Seconds after which who asked in vain may ask again."""

settings = config.chain_settings()
database = Database(config.database_url())
app = Api("analytics_api", settings=config.http_settings(), database=database)


class TransactionsQuery(Struct, forbid_unknown_fields=True, kw_only=True):
    """A filter of one's own trades, and a page of them."""

    status: TradeStatus | None = None
    limit: PageLimit = PageLimit(100)
    cursor: Cursor | None = None


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
        found = trades.of_user(
            conn,
            caller.user_id,
            status=query.status,
            before_seq=query.cursor.integers(1)[0] if query.cursor else None,
            limit=query.limit + 1,
        )
    page = found[: query.limit]
    return app.present(
        [answers.own_trade(trade, viewer=caller.user_id) for trade in page],
        next_cursor=Cursor.spell(str(page[-1].seq)) if len(found) > len(page) else None,
    )


@app.route("/api/v1/chain", methods=["GET", "HEAD"], needs_database=False)
def chain() -> Response:
    """Where trades are settled: what a wallet needs to deposit and to withdraw."""
    return app.present(
        {
            "chain_id": settings.chain_id,
            "settlement_contract": settings.settlement_contract,
            "token_contract": settings.token_contract,
            "token_decimals": settings.token_decimals,
            "confirmations": settings.confirmations,
        }
    )


@app.route("/api/v1/chain/account", methods=["GET"])
def my_account() -> Response:
    """The caller's escrow and cap in the settlement contract, and its limit: as the chain has them now."""
    from energy_market.evm import books  # noqa: PLC0415 - no other route needs it

    caller = app.caller()
    with database.transaction() as conn:
        wallet = read_profile(conn, user_id=caller.user_id).wallet_address
    rpc = Rpc(settings.rpc_url, timeout_s=CHAIN_TIMEOUT_S, budget_s=CHAIN_BUDGET_S)
    try:
        found = books.account(rpc, contract=settings.settlement_contract, wallet=wallet, now_s=time.time())
    except ChainError as error:
        log("account.chain_away", level="error", error=type(error).__name__, detail=str(error))
        raise Unavailable(
            "chain_unavailable", "The chain cannot be asked now; try again shortly.", retry_after_s=CHAIN_RETRY_S
        ) from error
    finally:
        rpc.close()
    return app.present(answers.chain_account(found, wallet=wallet, token_decimals=settings.token_decimals))


@app.route("/api/v1/health", methods=["GET", "HEAD"], needs_database=False)
def health() -> Response:
    """Whether what the market stands on is there: 200 if all of it is, else 503."""
    expected = int(_served("schema_version"))
    try:
        with database.transaction() as conn:
            version: int | None = schema_version(conn)
    except UNAVAILABLE:
        version = None
    database_ok = version is not None
    chain_ok = chain_reachable(settings.rpc_url, chain_id=settings.chain_id)
    is_well = database_ok and chain_ok and version == expected
    return app.present(
        {
            "status": "ok" if is_well else "degraded",
            "database": "ok" if database_ok else "unavailable",
            "chain": "ok" if chain_ok else "unavailable",
            "schema": {"version": version, "expected": expected},
        },
        status=200 if is_well else 503,
    )


@app.route("/api/v1/openapi.json", methods=["GET", "HEAD"], needs_database=False)
def contract() -> Response:
    """The API's contract (OpenAPI 3.0)."""
    return app.present_text(_served("openapi.json"), headers={"Cache-Control": "public, max-age=300"})


@app.route("/api/v1/docs", methods=["GET", "HEAD"], needs_database=False)
def docs() -> Response:
    """The same contract as a page for people, which loads nothing from anywhere."""
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
