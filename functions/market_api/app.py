"""The market: orders, the book, prices, trades."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Final, Literal
from uuid import UUID

from chalice.app import Response
from msgspec import Meta, Struct

from energy_market import config
from energy_market.api import answers
from energy_market.api.edge import Api, encode
from energy_market.api.fields import Cursor, EnergyWh, Instant, PageLimit, PriceMicro, PriceParameter
from energy_market.api.pages import PageQuery
from energy_market.database import Database
from energy_market.domain.errors import InvalidRequest, NotFound
from energy_market.domain.orders import OrderStatus, OrderTerms, OrderType
from energy_market.postgres import market, orders, trade_reads, users
from energy_market.usecases.answer_once import Answer, answer_once
from energy_market.usecases.cancel_order import cancel_order
from energy_market.usecases.place_order import place_order

DEFAULT_DEPTH: Final = PageLimit(20)
MAX_CANDLES: Final = 1_000
INTERVALS: Final = {
    "5m": timedelta(minutes=5),
    "15m": timedelta(minutes=15),
    "1h": timedelta(hours=1),
    "1d": timedelta(days=1),
}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
"""Start of the first interval; all intervals are counted from it."""

online_s = config.device_online_s()
verified_only = config.verified_only()
database = Database(config.database_url())
app = Api("market_api", settings=config.http_settings(), database=database)


ExpiresAt = Annotated[
    datetime,
    Meta(
        tz=True, description="a time with a time zone, like 2026-11-28T12:00:00Z", extra={"code": "invalid_expires_at"}
    ),
]


class OrderRequest(Struct, forbid_unknown_fields=True, kw_only=True):
    """The specification's three fields, and our additions."""

    type: OrderType
    kwh_amount: EnergyWh
    token_price: PriceMicro
    all_or_none: bool = True
    expires_at: ExpiresAt | None = None
    device_id: UUID | None = None


class CancelRequest(Struct, forbid_unknown_fields=True, kw_only=True):
    """The order to cancel."""

    order_id: UUID


class OrdersQuery(PageQuery, kw_only=True):
    """A filter for open orders."""

    type: OrderType | None = None
    min_price: PriceParameter | None = None
    max_price: PriceParameter | None = None


class MineQuery(PageQuery, kw_only=True):
    """A filter for the caller's own orders."""

    status: OrderStatus | None = None


class BookQuery(Struct, forbid_unknown_fields=True, kw_only=True):
    """The number of price levels of each side."""

    depth: PageLimit = DEFAULT_DEPTH


class HistoryQuery(Struct, forbid_unknown_fields=True, kw_only=True, rename={"since": "from", "until": "to"}):
    """A range of candles; without `from`, the last `MAX_CANDLES` intervals up to `to`, or up to now."""

    interval: Literal["5m", "15m", "1h", "1d"] = "1h"
    since: Instant | None = None
    until: Instant | None = None


@app.route("/api/v1/market/order/create", methods=["POST"])
def create_order() -> Response:
    """Put an order into the book, once for each Idempotency-Key."""
    caller = app.caller()
    request = app.read(OrderRequest)
    terms = _terms(request)
    with database.transaction() as conn:

        def place() -> Answer:
            order = place_order(
                conn,
                terms,
                user_id=caller.user_id,
                now=datetime.now(UTC),
                device_online_s=online_s,
                verified_only=verified_only,
            )
            return Answer(status=201, body=encode(answers.order(order, viewer=caller.user_id)))

        answer = answer_once(
            conn,
            user_id=caller.user_id,
            route="order/create",
            key=app.idempotency_key(),
            body_hash=app.body_hash(),
            answer=place,
        )
    return app.present_text(answer.body, status=answer.status)


@app.route("/api/v1/market/order/cancel", methods=["POST"])
def cancel() -> Response:
    """Cancel the remainder of the caller's order."""
    caller = app.caller()
    request = app.read(CancelRequest)
    with database.transaction() as conn:
        order = cancel_order(conn, request.order_id, user_id=caller.user_id, device_online_s=online_s)
    return app.present(answers.order(order, viewer=caller.user_id))


@app.route("/api/v1/market/order/{id}", methods=["GET"])
def order(id: str) -> Response:  # noqa: A002 -- the path's name for it
    """An order: the caller's own, or one in the book."""
    caller = app.caller()
    order_id = app.path_id(id)
    with database.transaction() as conn:
        found = orders.seen_by(
            conn,
            caller.user_id,
            order_id,
            device_online_s=online_s,
            verified_only=verified_only,
        )
    if found is None:
        raise NotFound("unknown_order", "There is no order with this id.")
    return app.present(answers.order(found, viewer=caller.user_id))


@app.route("/api/v1/market/orders", methods=["GET"], takes_query=True)
def open_orders() -> Response:
    """The open orders of the caller's zone, oldest first."""
    caller = app.caller()
    query = app.query(OrdersQuery)
    after = query.place() or 0
    page = database.statement(
        lambda conn: orders.open_page(
            conn,
            caller.user_id,
            device_online_s=online_s,
            verified_only=verified_only,
            order_type=query.type,
            min_price_micro=query.min_price,
            max_price_micro=query.max_price,
            after_arrival=after,
            limit=query.limit,
        )
    )
    return app.present(
        [answers.order(found, viewer=caller.user_id) for found in page],
        next_cursor=query.next(page, lambda order: order.arrival),
    )


@app.route("/api/v1/market/orders/mine", methods=["GET"], takes_query=True)
def my_orders() -> Response:
    """The caller's orders, latest first."""
    caller = app.caller()
    query = app.query(MineQuery)
    before = query.place()
    with database.transaction() as conn:
        page = orders.of_user(
            conn,
            caller.user_id,
            device_online_s=online_s,
            verified_only=verified_only,
            status=query.status,
            before_arrival=before,
            limit=query.limit,
        )
    return app.present(
        [answers.order(found, viewer=caller.user_id) for found in page],
        next_cursor=query.next(page, lambda order: order.arrival),
    )


@app.route("/api/v1/market/book", methods=["GET"], takes_query=True)
def book() -> Response:
    """The depth of the book of the caller's zone, by price."""
    caller = app.caller()
    query = app.query(BookQuery)
    bids, asks = database.statement(lambda conn: market.depth(conn, caller.user_id, levels=query.depth))
    return app.present({"bids": [answers.level(one) for one in bids], "asks": [answers.level(one) for one in asks]})


@app.route("/api/v1/market/price", methods=["GET"])
def price() -> Response:
    """The market of the caller's zone."""
    caller = app.caller()
    summary = database.statement(lambda conn: market.price_summary(conn, caller.user_id))
    return app.present(answers.price_summary(summary))


@app.route("/api/v1/market/history", methods=["GET"], takes_query=True)
def history() -> Response:
    """Complete candles of the caller's zone, for all intervals with trades that `from` and `to` touch.

    A window of `MAX_CANDLES` intervals that begins inside an interval touches one more.
    """
    caller = app.caller()
    query = app.query(HistoryQuery)
    interval = INTERVALS[query.interval]
    until = query.until or datetime.now(UTC)
    since = query.since
    if since is not None and not since < until:
        raise InvalidRequest("invalid_query", "from must be before to.")
    if since is not None and until - since > MAX_CANDLES * interval:
        raise InvalidRequest("invalid_query", f"from and to are more than {MAX_CANDLES:,} intervals apart.")
    try:
        end = until + (_EPOCH - until) % interval
        begin = end - MAX_CANDLES * interval if since is None else since - (since - _EPOCH) % interval
    except OverflowError:
        raise InvalidRequest("invalid_query", "from and to are not within the years 1 to 9999.") from None
    with database.transaction() as conn:
        found = market.candles(
            conn,
            users.zone_of(conn, caller.user_id),
            interval=interval,
            since=begin,
            until=end,
        )
    return app.present([answers.candle(one) for one in found])


@app.route("/api/v1/market/trades", methods=["GET"], takes_query=True)
def recent_trades() -> Response:
    """The confirmed trades of the caller's zone, latest first."""
    caller = app.caller()
    query = app.query(PageQuery)
    with database.transaction() as conn:
        page = trade_reads.confirmed(
            conn,
            users.zone_of(conn, caller.user_id),
            before=query.cursor.moment() if query.cursor is not None else None,
            limit=query.limit,
        )
    last = page[-1] if len(page) == query.limit else None
    cursor = None
    if last is not None and last.confirmed_at is not None:
        cursor = Cursor.spell_moment(last.confirmed_at, last.seq)
    return app.present([answers.public_trade(one) for one in page], next_cursor=cursor)


def _terms(request: OrderRequest) -> OrderTerms:
    if request.device_id is not None and request.type != "sell":
        raise InvalidRequest("device_not_allowed", "Only a sell order has a device_id.")
    return OrderTerms(
        type=request.type,
        energy_wh=int(request.kwh_amount),
        price_micro=int(request.token_price),
        all_or_none=request.all_or_none,
        expires_at=request.expires_at,
        device_id=request.device_id,
    )
