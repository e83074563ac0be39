"""Pause or resume the market."""

from energy_market.database import Database
from energy_market.domain.operators import MarketState, Operator
from energy_market.logs import log
from energy_market.postgres import market_state, operator_acts


def pause_market(database: Database, operator: Operator, *, paused: bool, reason: str) -> MarketState:
    """Once this returns, matching and new orders have stopped, or started again.

    Cancelling, trades under way, payments, deliveries and the expiry of locks go on. An order that is being placed at
    the same moment may still enter the book. A repeated call is recorded again, and changes nothing else.
    """
    with database.transaction() as conn:
        before = market_state.set_paused(conn, paused=paused)
        operator_acts.add(
            conn,
            operator,
            "market.pause" if paused else "market.resume",
            before=_word(paused=before.paused),
            after=_word(paused=paused),
            reason=reason,
        )
        after = market_state.read(conn)
    if paused:
        # After the commit: ticks that begin later see the pause, so only those under way are awaited.
        with database.transaction() as conn:
            market_state.wait_for_ticks(conn)
    log("market.paused" if paused else "market.resumed", level="warning", operator_id=operator.user_id)
    return after


def _word(*, paused: bool) -> str:
    return "paused" if paused else "open"
