"""Cancel an order."""

from uuid import UUID

from psycopg import Connection

from energy_market.domain.errors import Conflict, Forbidden, NotFound
from energy_market.domain.orders import Order
from energy_market.postgres import orders


def cancel_order(conn: Connection, order_id: UUID, *, user_id: UUID, device_online_s: int) -> Order:
    """Close what remains of an order; trades under way go on.

    Raises Conflict (`order_not_open`) if nothing of the order is open. For another user's order it raises Forbidden if
    the order is in the book, where every user sees it, and otherwise NotFound, as for an order that does not exist.
    """
    if orders.owner(conn, order_id) != user_id:
        if orders.is_in_book_of(conn, user_id, order_id):
            raise Forbidden("not_your_order", "This order belongs to somebody else.")
        raise NotFound("unknown_order", "There is no order with this id.")
    cancelled = orders.cancel(conn, order_id)
    order = orders.get(conn, order_id, device_online_s=device_online_s)
    assert order is not None  # orders are never deleted
    if not cancelled:
        raise Conflict("order_not_open", f"Nothing of this order is open: it is {order.status}.")
    return order
