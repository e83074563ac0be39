"""Who may ask what: one rule for every route of the API. docs/security.md shows the same; a test holds them equal."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum

Route = tuple[str, str]  # method, path


class Rule(Enum):
    """Who may, in the words of docs/security.md."""

    ANYBODY = "anybody"
    WALLET = "whoever signs with the wallet's key"
    SESSION = "whoever holds the session's refresh token"
    ZONE = "a user, of his zone"
    OWN = "a user, of his own"
    OWNER = "its owner; 404 for others"
    BOOK = "its owner; while it is in the book, users of its zone see it; 404 for others"
    OPERATOR = "an operator; 403 for users"

    @property
    def needs_token(self) -> bool:
        return self not in {Rule.ANYBODY, Rule.WALLET, Rule.SESSION}


Things = Mapping[str, str]
"""What the user has whom others would rob, by name: ids of an order in the book, a closed one, a device and so on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """A route's rule, and a request to try it with."""

    rule: Rule
    named: str = ""  # which of the things the path's `{id}` names
    body: Callable[[Things], object] = field(default=lambda _: None)
    status: int = 200  # for whom the rule lets
    shows: tuple[str, ...] = ()  # the things whose ids the answer shows to whom they belong


def _wallet(things: Things) -> object:
    return {"wallet_address": things["wallet"]}


def _forged(things: Things) -> object:
    """A signature, but not the wallet's."""
    return {"wallet_address": things["wallet"], "signature": things["foreign_signature"]}


def _why(_: Things) -> dict[str, object]:
    return {"reason": "because"}


ACCESS: Mapping[Route, Access] = {
    ("POST", "/api/v1/auth/challenge"): Access(rule=Rule.ANYBODY, body=_wallet),
    ("POST", "/api/v1/auth/signup"): Access(rule=Rule.WALLET, body=_forged),
    ("POST", "/api/v1/auth/login"): Access(rule=Rule.WALLET, body=_forged),
    ("POST", "/api/v1/auth/refresh"): Access(rule=Rule.SESSION),
    ("POST", "/api/v1/auth/logout"): Access(rule=Rule.SESSION),
    ("GET", "/api/v1/auth/me"): Access(rule=Rule.OWN, shows=("user", "wallet")),
    ("PATCH", "/api/v1/auth/me"): Access(rule=Rule.OWN, body=lambda _: {"location": "here"}, shows=("user", "wallet")),
    ("GET", "/api/v1/market/orders"): Access(rule=Rule.ZONE, shows=("order",)),
    ("GET", "/api/v1/market/orders/mine"): Access(rule=Rule.OWN, shows=("order", "closed_order")),
    ("GET", "/api/v1/market/order/{id}"): Access(rule=Rule.BOOK, named="order", shows=("order", "device")),
    ("POST", "/api/v1/market/order/create"): Access(
        rule=Rule.OWN,
        body=lambda _: {"type": "buy", "kwh_amount": 1, "token_price": 0.1},
        status=201,
        shows=("user",),
    ),
    ("POST", "/api/v1/market/order/cancel"): Access(
        rule=Rule.BOOK, body=lambda things: {"order_id": things["order"]}, shows=("order",)
    ),
    ("GET", "/api/v1/market/book"): Access(rule=Rule.ZONE),
    ("GET", "/api/v1/market/price"): Access(rule=Rule.ZONE),
    ("GET", "/api/v1/market/history"): Access(rule=Rule.ZONE),
    ("GET", "/api/v1/market/trades"): Access(rule=Rule.ZONE, shows=("trade",)),
    ("GET", "/api/v1/iot/devices"): Access(rule=Rule.OWN, shows=("device",)),
    ("POST", "/api/v1/iot/device/register"): Access(
        rule=Rule.OWN,
        body=lambda _: {"device_type": "esp32", "location": "the roof"},
        status=201,
        shows=("user",),
    ),
    ("GET", "/api/v1/iot/device/{id}/reports"): Access(rule=Rule.OWNER, named="device"),
    ("POST", "/api/v1/iot/device/{id}/certificate"): Access(
        rule=Rule.OWNER, named="spare_device", body=lambda _: {}, status=201
    ),
    ("DELETE", "/api/v1/iot/device/{id}/certificate"): Access(rule=Rule.OWNER, named="spare_device", status=204),
    ("DELETE", "/api/v1/iot/device/{id}"): Access(rule=Rule.OWNER, named="spare_device", status=204),
    ("GET", "/api/v1/network/nodes"): Access(rule=Rule.OWN, shows=("node",)),
    ("POST", "/api/v1/network/node/register"): Access(
        rule=Rule.OWN, body=lambda _: {"location": "the mast"}, status=201, shows=("user",)
    ),
    ("GET", "/api/v1/analytics/dashboard"): Access(rule=Rule.OWN),
    ("GET", "/api/v1/analytics/transactions"): Access(rule=Rule.OWN, shows=("trade", "device")),
    ("GET", "/api/v1/admin/market"): Access(rule=Rule.OPERATOR),
    ("POST", "/api/v1/admin/market/pause"): Access(rule=Rule.OPERATOR, body=_why),
    ("POST", "/api/v1/admin/market/resume"): Access(rule=Rule.OPERATOR, body=_why),
    ("GET", "/api/v1/admin/users"): Access(rule=Rule.OPERATOR),
    ("POST", "/api/v1/admin/user/{id}/kyc"): Access(
        rule=Rule.OPERATOR, named="user", body=lambda _: {"kyc_status": "Verified", **_why(_)}
    ),
    ("POST", "/api/v1/admin/device/{id}/revoke"): Access(rule=Rule.OPERATOR, named="device", body=_why, status=204),
    ("GET", "/api/v1/admin/trades/failed"): Access(rule=Rule.OPERATOR),
    ("GET", "/api/v1/admin/trades/short"): Access(rule=Rule.OPERATOR),
    ("GET", "/api/v1/admin/batches/stuck"): Access(rule=Rule.OPERATOR),
    ("GET", "/api/v1/admin/dead-letters"): Access(rule=Rule.OPERATOR),
    ("POST", "/api/v1/admin/dead-letters/replay"): Access(
        rule=Rule.OPERATOR, body=lambda _: {"queue": "telemetry", **_why(_)}
    ),
    ("GET", "/api/v1/admin/acts"): Access(rule=Rule.OPERATOR),
    ("GET", "/api/v1/chain/account"): Access(rule=Rule.OWN, status=503),  # no chain runs there
    ("GET", "/api/v1/chain"): Access(rule=Rule.ANYBODY, status=503),  # there is no chain in this test
    ("GET", "/api/v1/health"): Access(rule=Rule.ANYBODY, status=503),  # nor here
    ("GET", "/api/v1/openapi.json"): Access(rule=Rule.ANYBODY),
    ("GET", "/api/v1/docs"): Access(rule=Rule.ANYBODY),
    ("HEAD", "/api/v1/chain"): Access(rule=Rule.ANYBODY, status=503),
    ("HEAD", "/api/v1/health"): Access(rule=Rule.ANYBODY, status=503),
    ("HEAD", "/api/v1/openapi.json"): Access(rule=Rule.ANYBODY),
    ("HEAD", "/api/v1/docs"): Access(rule=Rule.ANYBODY),
}
