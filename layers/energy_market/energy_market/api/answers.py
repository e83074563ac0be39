"""The bodies of the API's answers: the domain's integers as the JSON numbers of the specification."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final, get_args
from uuid import UUID

import msgspec

from energy_market.domain import topics
from energy_market.domain.dashboard import Dashboard, Totals
from energy_market.domain.devices import Certificate, Device, Report
from energy_market.domain.market import Candle, Level, PriceSummary
from energy_market.domain.network_nodes import NetworkNode
from energy_market.domain.operators import Act, MarketState
from energy_market.domain.orders import Order
from energy_market.domain.quantities import kwh, price, tokens
from energy_market.domain.settlement import Account, StuckBatch
from energy_market.domain.trades import REASON_SENTENCES, Trade, TradeStatus
from energy_market.domain.users import User


def order(found: Order, *, viewer: UUID) -> dict[str, Any]:
    """An order. Only its owner sees its device, and why that device cannot sell now."""
    answer: dict[str, Any] = {
        "id": found.id,
        "user_id": found.user_id,
        "type": found.type,
        "kwh_amount": kwh(found.energy_wh),
        "token_price": price(found.price_micro),
        "status": found.status,
        "filled_kwh": kwh(found.filled_wh),
        "pending_kwh": kwh(found.pending_wh),
        "remaining_kwh": kwh(found.remaining_wh),
        "eligible_kwh": kwh(found.shown_wh),
        "all_or_none": found.all_or_none,
        "zone": found.zone,
        "created_at": found.created_at,
        "expires_at": found.expires_at,
        "reason": found.reason,
        "reason_text": REASON_SENTENCES.get(found.reason) if found.reason else None,
    }
    if found.user_id == viewer:
        answer["device_id"] = found.device_id
        answer["unmatchable"] = found.unmatchable
    return answer


def own_trade(found: Trade, *, viewer: UUID) -> dict[str, Any]:
    """A trade as one of its two sides sees it, without the other side's order."""
    is_donor = found.donor_id == viewer
    return {
        "id": found.id,
        "side": "donor" if is_donor else "recipient",
        "order_id": found.sell_order_id if is_donor else found.buy_order_id,
        "donor_id": found.donor_id,
        "recipient_id": found.recipient_id,
        "device_id": found.device_id if is_donor else None,
        **_terms_and_course(found),
        "locked_at": found.locked_at,
        "submitted_at": found.submitted_at,
        "confirmed_at": found.confirmed_at,
        "failed_at": found.failed_at,
        "delivery": found.delivery,
        "delivery_reason": found.delivery_reason,
        "delivery_reason_text": REASON_SENTENCES[found.delivery_reason] if found.delivery_reason else None,
        "deliver_by": found.deliver_by,
        "delivered_kwh": kwh(found.delivered_wh),
    }


def operators_trade(found: Trade) -> dict[str, Any]:
    """A trade as an operator sees it: both sides, and its outcome."""
    return {
        "id": found.id,
        "sell_order_id": found.sell_order_id,
        "buy_order_id": found.buy_order_id,
        "donor_id": found.donor_id,
        "recipient_id": found.recipient_id,
        "device_id": found.device_id,
        "zone": found.zone,
        **_terms_and_course(found),
        "confirmed_at": found.confirmed_at,
        "failed_at": found.failed_at,
        "delivery": found.delivery,
        "delivery_reason": found.delivery_reason,
        "deliver_by": found.deliver_by,
        "delivered_kwh": kwh(found.delivered_wh),
    }


def _terms_and_course(found: Trade) -> dict[str, Any]:
    return {
        "kwh_amount": kwh(found.energy_wh),
        "token_price": price(found.price_micro),
        "token_amount": tokens(found.amount_nano),
        "status": found.status,
        "reason": found.reason,
        "reason_text": REASON_SENTENCES.get(found.reason) if found.reason else None,
        "blockchain_hash": found.blockchain_hash,
        "timestamp": found.matched_at,
    }


def public_trade(found: Trade) -> dict[str, Any]:
    """A confirmed trade as the market sees it, without its users; the transaction on the chain is public."""
    return {
        "id": found.id,
        "kwh_amount": kwh(found.energy_wh),
        "token_price": price(found.price_micro),
        "token_amount": tokens(found.amount_nano),
        "blockchain_hash": found.blockchain_hash,
        "confirmed_at": found.confirmed_at,
    }


def stuck_batch(found: StuckBatch) -> dict[str, Any]:
    """A transaction of the operator's account that is not mined."""
    return {
        "id": found.id,
        "chain_id": found.chain_id,
        "contract": found.contract,
        "sender": found.sender,
        "nonce": found.nonce,
        "created_at": found.created_at,
        "forms": found.forms,
        "sends": found.sends,
        "sent_at": found.sent_at,
        "trades": found.trades,
    }


def market_state(found: MarketState, *, verified_only: bool) -> dict[str, Any]:
    """Whether the market is paused, and whether it requires verified users."""
    return {
        "paused": found.paused,
        "changed_at": found.changed_at,
        "kyc_required": "verified" if verified_only else "none",
    }


def level(found: Level) -> dict[str, Any]:
    """A price level of the book."""
    return {"token_price": price(found.price_micro), "kwh": kwh(found.energy_wh), "orders": found.orders}


def price_summary(found: PriceSummary) -> dict[str, Any]:
    """The market's current prices."""
    return {
        "last_price": _price_or_none(found.last_micro),
        "last_trade_at": found.last_at,
        "best_bid": _price_or_none(found.best_bid_micro),
        "best_ask": _price_or_none(found.best_ask_micro),
        "volume_24h_kwh": kwh(found.volume_24h_wh),
        "supply_kwh": kwh(found.supply_wh),
        "demand_kwh": kwh(found.demand_wh),
        "paused": found.paused,
        "halted": found.halted,
    }


def candle(found: Candle) -> dict[str, Any]:
    """A candle."""
    return {
        "start": found.start,
        "open": price(found.open_micro),
        "high": price(found.high_micro),
        "low": price(found.low_micro),
        "close": price(found.close_micro),
        "volume_kwh": kwh(found.volume_wh),
        "trades": found.trades,
        "complete": found.complete,
    }


def device(found: Device, *, now: datetime, device_online_s: int) -> dict[str, Any]:
    """A device as its owner sees it. A device without a message for `device_online_s` seconds is offline."""
    is_silent = found.last_ping is None or found.last_ping <= now - timedelta(seconds=device_online_s)
    return {
        "id": found.id,
        "owner_id": found.owner_id,
        "device_type": found.device_type,
        "side": found.side,
        "location": found.location,
        "zone": found.zone,
        "status": "Offline" if found.status == "Online" and is_silent else found.status,
        "last_ping": found.last_ping,
        "available_kwh": None if found.available_wh is None else kwh(found.available_wh),
        "free_kwh": None if found.free_wh is None else kwh(found.free_wh),
        "battery_level": found.battery_level,
        "created_at": found.created_at,
        "last_refused": None if found.refused is None else {"at": found.refused_at, **found.refused},
    }


def report(found: Report) -> dict[str, Any]:
    """A device's report, with its payload unchanged, whatever the firmware sent."""
    return {
        "kind": "status" if found.kind in {"donor_status", "recipient_status"} else found.kind,
        "received_at": found.received_at,
        "payload": msgspec.Raw(found.payload.encode()),
    }


def user(found: User) -> dict[str, Any]:
    """A user, as they see themselves and as operators see them."""
    return {
        "id": found.id,
        "wallet_address": found.wallet_address,
        "role": found.role,
        "roles": found.roles,
        "zone": found.zone,
        "location": found.location,
        "kyc_status": found.kyc_status,
        "created_at": found.created_at,
    }


def act(found: Act) -> dict[str, Any]:
    """An operator's act."""
    return {
        "id": found.id,
        "operator_id": found.operator_id,
        "wallet_address": found.wallet_address,
        "act": found.act,
        "subject": found.subject,
        "before": found.before,
        "after": found.after,
        "reason": found.reason,
        "at": found.at,
    }


def certificate(found: Certificate) -> dict[str, Any]:
    """A certificate of a device, without anything that would allow a connection."""
    return {"certificate_id": found.id, "issued_at": found.issued_at, "valid_until": found.valid_until}


def device_topics(found: Device) -> dict[str, Any]:
    """The topics of a device, by purpose (docs/device-protocol.md)."""
    if found.side == "recipient":
        publish, subscribe = {"status": topics.RECIPIENT_STATUS, "alert": topics.ALERT}, dict[str, str]()
    else:
        publish, subscribe = _DONOR_PUBLISHES, topics.TO_DEVICES
    return {
        "publish": {what: topics.of(topic, found.id) for what, topic in publish.items()},
        "subscribe": {what: topics.of(topic, found.id) for what, topic in subscribe.items()},
    }


_DONOR_PUBLISHES: Final = {
    "status": topics.DONOR_STATUS,
    "lock_response": topics.LOCK_RESPONSE,
    "transfer_status": topics.TRANSFER_STATUS,
    "alert": topics.ALERT,
}


def chain_account(found: Account, *, wallet: str, token_decimals: int) -> dict[str, Any]:
    """An account in the settlement contract: tokens, with all their digits; `units` are the contract's integers."""

    def amount(units: int) -> Decimal:
        # Digit by digit: `Decimal` arithmetic would round at its context.
        digits = f"{units:0{token_decimals + 1}}"
        return Decimal(f"{digits[:-token_decimals]}.{digits[-token_decimals:]}".rstrip("0").rstrip("."))

    return {
        "wallet_address": wallet,
        "escrow": amount(found.escrow),
        "escrow_units": str(found.escrow),
        "cap": None if found.cap is None else amount(found.cap.limit),
        "cap_left": None if found.cap is None else amount(found.cap.room),
        "limit": amount(found.all_trades.limit),
        "limit_left": amount(found.all_trades.room),
        "hour_ends_at": datetime.fromtimestamp(found.hour_ends_s, UTC),
    }


def network_node(found: NetworkNode) -> dict[str, Any]:
    """A network node."""
    return {
        "id": found.id,
        "operator_id": found.operator_id,
        "location": found.location,
        "uptime": found.uptime,
        "packets_routed": found.packets_routed,
        "earnings": tokens(found.earnings_nano),
        "created_at": found.created_at,
    }


def dashboard(found: Dashboard) -> dict[str, Any]:
    """A user's own figures; every trade status is present, even at 0."""
    return {
        **_totals(found.totals),
        "open_orders": found.open_orders,
        "trades": {status: found.trades.get(status, 0) for status in get_args(TradeStatus)},
        "days": [{"day": day.day, "complete": day.complete, **_totals(day)} for day in found.days],
    }


def _totals(found: Totals) -> dict[str, Any]:
    return {
        "bought_kwh": kwh(found.bought_wh),
        "sold_kwh": kwh(found.sold_wh),
        "spent_tokens": tokens(int(found.spent_nano)),
        "earned_tokens": tokens(int(found.earned_nano)),
    }


def _price_or_none(price_micro: int | None) -> int | Decimal | None:
    return None if price_micro is None else price(price_micro)
