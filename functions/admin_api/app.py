"""The rights of the market's operators. Every act is recorded, with its operator and its reason."""

from typing import Annotated, Final, Literal
from uuid import UUID

from chalice.app import Response
from msgspec import Meta, Struct

from energy_market import config
from energy_market.api import answers
from energy_market.api.edge import Api
from energy_market.api.fields import VISIBLE, WalletAddress
from energy_market.api.pages import PageQuery
from energy_market.aws.dead_letters import DeadLetters
from energy_market.aws.registry import DeviceRegistry
from energy_market.database import Database
from energy_market.domain.operators import MAX_REASON_CHARACTERS, Operator
from energy_market.domain.trades import FailReason, Trade
from energy_market.domain.users import KycStatus
from energy_market.postgres import batches, market_state, operator_acts, trade_reads, users
from energy_market.usecases.name_operator import name_operator
from energy_market.usecases.pause_market import pause_market
from energy_market.usecases.replay_dead_letters import replay_dead_letters
from energy_market.usecases.revoke_device import revoke_device
from energy_market.usecases.set_kyc_status import set_kyc_status

STUCK_AFTER_S: Final = 300
MAX_STUCK: Final = 100
DATABASE_S: Final = 24.0  # of the function's 29: calls of AWS in between take time

verified_only = config.verified_only()
wallets = config.operator_wallets()
database = Database(config.database_url())
letters = DeadLetters(config.dead_letter_queues())
registry = DeviceRegistry(config.device_policy())
app = Api("admin_api", settings=config.http_settings(), database=database, database_s=DATABASE_S)

Reason = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=MAX_REASON_CHARACTERS,
        pattern=VISIBLE,
        description=f"a text of 1 to {MAX_REASON_CHARACTERS} characters, not blank and without control characters",
    ),
]
# The subject of an act.
Subject = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9_.-]{1,100}\Z",
        description="1 to 100 letters, digits, dots, hyphens and underscores",
    ),
]


class ActRequest(Struct, forbid_unknown_fields=True, kw_only=True):
    """The reason for an act."""

    reason: Reason


class KycRequest(Struct, forbid_unknown_fields=True, kw_only=True):
    """The verified state of a user's identity, and the reason."""

    kyc_status: KycStatus
    reason: Reason


class ReplayRequest(Struct, forbid_unknown_fields=True, kw_only=True):
    """The queue whose dead letters are to be replayed, and the reason."""

    queue: Literal["lock-responses", "telemetry"]
    reason: Reason


class UsersQuery(PageQuery, kw_only=True):
    """A filter for users."""

    wallet_address: WalletAddress | None = None
    kyc_status: KycStatus | None = None


class FailedQuery(PageQuery, kw_only=True):
    """A filter for failed trades."""

    reason: FailReason | None = None


class ActsQuery(PageQuery, kw_only=True):
    """A filter for acts."""

    subject: Subject | None = None


@app.route("/api/v1/admin/market", methods=["GET"])
def market() -> Response:
    """Whether the market is paused, and whether it requires verified users."""
    _operator()
    return app.present(answers.market_state(database.statement(market_state.read), verified_only=verified_only))


@app.route("/api/v1/admin/market/pause", methods=["POST"])
def pause() -> Response:
    """Stop taking orders and matching; everything under way goes on."""
    return _set_paused(paused=True)


@app.route("/api/v1/admin/market/resume", methods=["POST"])
def resume() -> Response:
    """Resume taking orders and matching."""
    return _set_paused(paused=False)


def _set_paused(*, paused: bool) -> Response:
    operator, request = _operator(), app.read(ActRequest)
    state = pause_market(database, operator, paused=paused, reason=request.reason)
    return app.present(answers.market_state(state, verified_only=verified_only))


@app.route("/api/v1/admin/users", methods=["GET"], takes_query=True)
def some_users() -> Response:
    """Users, in the order in which they signed up."""
    _operator()
    query = app.query(UsersQuery)
    after = query.place() or 0
    page = database.statement(
        lambda conn: users.page(
            conn,
            wallet_address=query.wallet_address,
            kyc_status=query.kyc_status,
            after_no=after,
            limit=query.limit,
        )
    )
    return app.present(
        [answers.user(user) for _, user in page], next_cursor=query.next(page, lambda numbered: numbered[0])
    )


@app.route("/api/v1/admin/user/{id}/kyc", methods=["POST"])
def kyc(id: str) -> Response:  # noqa: A002 -- the path's name for it
    """Record whether a user's identity is verified."""
    operator = _operator()
    user_id, request = app.path_id(id), app.read(KycRequest)
    user = set_kyc_status(database, operator, user_id=user_id, kyc_status=request.kyc_status, reason=request.reason)
    return app.present(answers.user(user))


@app.route("/api/v1/admin/device/{id}/revoke", methods=["POST"])
def revoke(id: str) -> Response:  # noqa: A002 -- the path's name for it
    """Remove a device from the market."""
    operator = _operator()
    device_id, request = app.path_id(id), app.read(ActRequest)
    revoke_device(database, registry, operator, device_id=device_id, reason=request.reason)
    return app.present(None, status=204)


@app.route("/api/v1/admin/trades/failed", methods=["GET"], takes_query=True)
def failed_trades() -> Response:
    """Trades that failed, latest first. Their orders are back in the book, or closed for that reason."""
    _operator()
    query = app.query(FailedQuery)
    page = database.statement(
        lambda conn: trade_reads.failed(conn, reason=query.reason, before_seq=query.place(), limit=query.limit)
    )
    return _present_trades(page, query)


@app.route("/api/v1/admin/trades/short", methods=["GET"], takes_query=True)
def short_trades() -> Response:
    """Paid trades whose delivery fell short, latest first."""
    _operator()
    query = app.query(PageQuery)
    page = database.statement(lambda conn: trade_reads.short(conn, before_seq=query.place(), limit=query.limit))
    return _present_trades(page, query)


@app.route("/api/v1/admin/batches/stuck", methods=["GET"])
def stuck_batches() -> Response:
    """The operator's transactions that have waited for minutes to be mined, next in line first."""
    _operator()
    return app.present(
        [
            answers.stuck_batch(batch)
            for batch in database.statement(lambda conn: batches.stuck(conn, after_s=STUCK_AFTER_S, limit=MAX_STUCK))
        ]
    )


@app.route("/api/v1/admin/dead-letters", methods=["GET"])
def dead_letters() -> Response:
    """The number of device messages that have failed for good, by queue."""
    _operator()
    return app.present([{"queue": name, "messages": count} for name, count in letters.waiting().items()])


@app.route("/api/v1/admin/dead-letters/replay", methods=["POST"])
def replay() -> Response:
    """Put messages that failed for good back into their queue."""
    operator, request = _operator(), app.read(ReplayRequest)
    moved, left = replay_dead_letters(database, letters, operator, queue=request.queue, reason=request.reason)
    return app.present({"queue": request.queue, "replayed": moved, "left": left})


@app.route("/api/v1/admin/acts", methods=["GET"], takes_query=True)
def acts() -> Response:
    """Operators' acts, latest first."""
    _operator()
    query = app.query(ActsQuery)
    page = database.statement(
        lambda conn: operator_acts.page(conn, subject=query.subject, before_id=query.place(), limit=query.limit)
    )
    return app.present([answers.act(act) for act in page], next_cursor=query.next(page, lambda act: act.id))


def _operator() -> Operator:
    """The caller, if they are an operator; checked before anything else of a request is read."""
    user_id: UUID = app.caller().user_id
    return database.statement(lambda conn: name_operator(conn, user_id=user_id, wallets=wallets))


def _present_trades(page: list[Trade], query: PageQuery) -> Response:
    return app.present(
        [answers.operators_trade(trade) for trade in page], next_cursor=query.next(page, lambda trade: trade.seq)
    )
