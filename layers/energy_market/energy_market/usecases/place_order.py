"""Put an order into the book."""

from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from psycopg import Connection

from energy_market.domain.errors import Conflict, InvalidRequest, MarketError, NotFound
from energy_market.domain.orders import MAX_OPEN_ORDERS_OF_A_USER, Order, OrderTerms
from energy_market.domain.quantities import tokens
from energy_market.domain.users import kyc_required, unknown_user
from energy_market.postgres import chain_state, devices, market_state, orders, users

MAX_TIME_IN_FORCE: Final = timedelta(days=30)


def place_order(
    conn: Connection,
    terms: OrderTerms,
    *,
    user_id: UUID,
    now: datetime,
    device_online_s: int,
    verified_only: bool = False,
) -> Order:
    """Accept an order.

    A sell order belongs to one donor device of its owner: the one that it names, or the owner's only one. An owner
    without a device may also sell, since a client may know only the specification's body. Their order waits for the
    first device.

    It raises:

    - InvalidRequest for an `expires_at` that is not in the future, or more than 30 days ahead.
    - NotFound for a device that is not a donor device of this user.
    - Conflict: `device_required` if the order fits several devices; `over_limit` if the contract would not let its
      trades move the amount; `too_many_open_orders`; `market_paused`.
    - Forbidden (`kyc_required`) if the market is for verified users only and this user is not verified.
    """
    if terms.expires_at is not None and not now < terms.expires_at <= now + MAX_TIME_IN_FORCE:
        raise InvalidRequest("invalid_expires_at", "expires_at must be in the future, at most 30 days ahead.")
    if terms.type == "sell":
        # The user's row is locked against a device that is being registered at this moment, which would otherwise
        # not see this order, nor this order it, and the order would wait for ever.
        users.hold_shared(conn, user_id)
    order = orders.insert(
        conn,
        terms,
        user_id=user_id,
        verified_only=verified_only,
        most_open=MAX_OPEN_ORDERS_OF_A_USER,
        least_nano=_least_nano(terms),
        device_online_s=device_online_s,
    )
    if order is None:
        raise _refusal(conn, terms, user_id, verified_only=verified_only)
    return order


def _least_nano(terms: OrderTerms) -> int:
    """The amount in nano-tokens that the contract's limit must allow for every trade of this order to be payable.

    A trade costs at most its bid's limit, so a bid within the contract's limit makes no trade above it. An all-or-none
    ask costs at least its own limit; an ask that trades in parts may always find a small bid.
    """
    return terms.energy_wh * terms.price_micro if terms.type == "buy" or terms.all_or_none else 0


def _refusal(conn: Connection, terms: OrderTerms, user_id: UUID, *, verified_only: bool) -> MarketError:
    """The reason why an order was not accepted, checked in the order of precedence of the API's error codes."""
    user = users.by_id(conn, user_id)
    if user is None:
        return unknown_user()
    if market_state.read(conn).paused:
        return Conflict("market_paused", "The market is paused: it takes no orders now. Open ones may be cancelled.")
    if verified_only and user.kyc_status != "Verified":
        return kyc_required(user.kyc_status)
    donors = devices.donors_of(conn, user_id) if terms.type == "sell" else []
    if terms.device_id is not None and terms.device_id not in donors:
        return NotFound("unknown_device", "You have no registered donor device with this id.")
    if terms.device_id is None and len(donors) > 1:
        return Conflict("device_required", "You have several donor devices: say which one with device_id.")
    return _over_limit(conn, terms) or Conflict(
        "too_many_open_orders",
        f"You have {MAX_OPEN_ORDERS_OF_A_USER} open orders, which is the most there may be: cancel some.",
    )


def _over_limit(conn: Connection, terms: OrderTerms) -> Conflict | None:
    limit_nano = chain_state.limit_nano(conn)
    if limit_nano is None or limit_nano >= _least_nano(terms):
        return None
    return Conflict(
        "over_limit",
        f"No trade may move more than {tokens(limit_nano)} tokens, the contract's limit of an hour:"
        " place a smaller order.",
    )
