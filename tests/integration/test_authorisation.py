"""Every route, tried by a stranger, by the wrong user and by the right one, by the table of
tests/support/authorisation.py.
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import jwt
import pytest

from energy_market.domain import tokens
from tests.support.api import ENVIRONMENT, Answer, Client, SignedIn, sign, signed_in
from tests.support.authorisation import ACCESS, Access, Route, Rule, Things
from tests.support.fixtures import LoadApi
from tests.support.market import Market

if TYPE_CHECKING:
    from types_boto3_iot import IoTClient

KEYS: dict[str, str] = json.loads(ENVIRONMENT["JWT_KEYS"])
APIS = ("auth_api", "market_api", "iot_api", "network_api", "analytics_api", "admin_api")


@dataclass(frozen=True, kw_only=True)
class House:
    """Ann, who has one of everything; a neighbour of hers; and somebody of another zone."""

    apis: dict[str, Client]
    ann: SignedIn
    neighbour: SignedIn
    outsider: SignedIn
    things: Things

    def ask(
        self, route: Route, token: str | None, *, things: Things | None = None, authorization: str | None = None
    ) -> Answer:
        method, path = route
        access = ACCESS[route]
        known = self.things if things is None else things
        api = next(api for api in self.apis.values() if path in api.module.app.routes)
        return api.call(
            method,
            path.replace("{id}", known.get(access.named, "")),
            body=access.body(known),
            token=token,
            headers={} if authorization is None else {"Authorization": authorization},
        )


@pytest.fixture
def house(
    load_api: LoadApi,
    market: Market,
    served: Path,
    iot: "IoTClient",  # noqa: ARG001 - AWS must be the pretended one before it is called
    monkeypatch: pytest.MonkeyPatch,
) -> House:
    apis = {name: load_api(name) for name in APIS}
    monkeypatch.setattr(apis["analytics_api"].module, "SERVED", served)
    auth = apis["auth_api"]
    ann, neighbour, outsider = (signed_in(auth) for _ in range(3))
    market.sql("INSERT INTO zones (id) VALUES ('elsewhere')")
    market.sql("UPDATE users SET zone = 'elsewhere' WHERE id = %s", UUID(outsider.user_id))
    user = UUID(ann.user_id)
    device = market.device(user)
    market.status(device, available_wh=100_000)
    ask = market.order(user, "sell", 500, 100_000)
    market.order(UUID(neighbour.user_id), "buy", 500, 100_000)
    (trade,) = market.tick().trade_ids
    market.publish()
    market.answer(device, ask, "locked", trade=trade)
    market.confirm(trade)
    closed = market.order(user, "buy", 700, 1_000)
    market.cancel(user, closed)
    open_ask = market.order(user, "sell", 900, 900_000)
    meter = {"device_type": "esp32", "location": "the cellar", "side": "recipient"}
    spare = apis["iot_api"].post("/api/v1/iot/device/register", meter, token=ann.token).json
    node = apis["network_api"].post("/api/v1/network/node/register", {"location": "mast"}, token=ann.token).json
    things = {
        "user": ann.user_id,
        "wallet": ann.wallet.address,
        "foreign_signature": sign(neighbour.wallet, "hello"),
        "device": str(device),
        "spare_device": spare["id"],
        "order": str(open_ask),
        "closed_order": str(closed),
        "trade": str(trade),
        "node": node["id"],
    }
    return House(apis=apis, ann=ann, neighbour=neighbour, outsider=outsider, things=things)


def of(*rules: Rule) -> list[Route]:
    return [route for route, access in ACCESS.items() if access.rule in rules]


def private(house: House) -> set[str]:
    """What must not be seen by whom it does not concern."""
    return {house.things[name] for name in house.things if name != "foreign_signature"}


def bad_tokens(house: House) -> dict[str, tuple[str, str]]:
    """Authorization headers that let nobody in, and the code that each gets."""
    good = jwt.decode(house.ann.token, options={"verify_signature": False})
    kid = {"kid": next(iter(KEYS))}
    late = datetime.now(UTC) - timedelta(minutes=16)
    ended = uuid4()
    return {
        "unsigned": ("Bearer " + jwt.encode(good, "", algorithm="none", headers=kid), "invalid_token"),
        "of another key": ("Bearer " + jwt.encode(good, "x" * 32, headers=kid), "invalid_token"),
        "of another service": (
            "Bearer " + jwt.encode(good | {"iss": "another"}, next(iter(KEYS.values())), headers=kid),
            "invalid_token",
        ),
        "expired": ("Bearer " + token(house.ann, house.ann.session_id, now=late), "token_expired"),
        "of an ended session": ("Bearer " + token(house.ann, ended, now=datetime.now(UTC)), "session_ended"),
        "a refresh token": (f"Bearer {house.ann.refresh_token}", "invalid_token"),
        "of another scheme": (f"Basic {house.ann.token}", "invalid_token"),
    }


def token(person: SignedIn, session_id: UUID, *, now: datetime) -> str:
    return tokens.issue(user_id=UUID(person.user_id), session_id=session_id, token_id="t", keys=KEYS, now=now)


def test_a_stranger_is_let_in_nowhere_that_wants_a_token(house: House, market: Market) -> None:
    before = _rows(market)
    routes = [route for route, access in ACCESS.items() if access.rule.needs_token]
    assert len(routes) > 15
    for route in routes:
        assert house.ask(route, None).refusal == (401, "missing_token"), route
        for what, (authorization, code) in bad_tokens(house).items():
            assert house.ask(route, None, authorization=authorization).refusal == (401, code), (route, what)
    assert _rows(market) == before


def _rows(market: Market) -> list[tuple[object, ...]]:
    return market.sql(
        "SELECT (SELECT count(*) FROM energy_orders), (SELECT count(*) FROM open_orders),"
        " (SELECT count(*) FROM iot_devices), (SELECT count(*) FROM network_nodes),"
        " (SELECT count(*) FROM users WHERE location IS NOT NULL)"
    )


def test_what_is_everybodys_tells_nothing_of_anybody(house: House) -> None:
    for route in of(Rule.ANYBODY):
        access = ACCESS[route]
        for authorization in (None, "Bearer x", f"Bearer {house.outsider.token}"):
            answer = house.ask(route, None, authorization=authorization)
            assert answer.status == access.status, route
            shown = private(house) - {house.things["wallet"]}  # who asks for a challenge has named it
            assert not [thing for thing in shown if thing in answer.text], route


def test_a_wallet_signs_in_with_its_own_signature_only(house: House) -> None:
    house.ask(("POST", "/api/v1/auth/challenge"), None)
    for route in of(Rule.WALLET):
        assert house.ask(route, None).refusal == (401, "invalid_signature"), route


def test_a_session_belongs_to_whoever_holds_its_token(house: House) -> None:
    auth = house.apis["auth_api"]
    mine, guessed = house.ann.refresh_token, f"{house.ann.session_id}.{'A' * 43}"
    for _, path in of(Rule.SESSION):
        for made_up in ("x", str(house.ann.session_id), house.ann.token):  # an access token is none
            refused = auth.post(path, {"refresh_token": made_up}, token=house.ann.token)
            assert refused.refusal == (401, "invalid_refresh_token"), path
    assert auth.post("/api/v1/auth/logout", {"refresh_token": guessed}).status == 204  # and ends nothing
    again = auth.post("/api/v1/auth/refresh", {"refresh_token": mine})
    assert again.status == 200
    assert auth.post("/api/v1/auth/logout", {"refresh_token": again.json["refresh_token"]}).status == 204


def test_the_right_user_gets_what_is_his(house: House) -> None:
    """Without which all the others could pass for refusing everything."""
    for route in of(Rule.ZONE, Rule.OWN, Rule.OWNER, Rule.BOOK):
        access = ACCESS[route]
        answer = house.ask(route, house.ann.token)
        assert answer.status == access.status, (route, answer.text)
        missing = [name for name in access.shows if house.things[name] not in answer.text]
        assert not missing, (route, missing)


@pytest.mark.parametrize("who", ["neighbour", "outsider"])
def test_another_user_gets_his_own_and_nothing_of_hers(house: House, who: str) -> None:
    other: SignedIn = getattr(house, who)
    # The two neighbours have traded with each other, so each knows the other's name.
    known = {house.things["trade"], house.things["user"]} if who == "neighbour" else set()
    for route in of(Rule.OWN):
        answer = house.ask(route, other.token)
        assert answer.status == ACCESS[route].status, (route, answer.text)
        assert not [thing for thing in private(house) - known if thing in answer.text], route
    for route in of(Rule.ZONE):
        answer = house.ask(route, other.token)
        assert answer.status == 200, route
        public = {house.things[name] for name in ("order", "user", "trade")} if who == "neighbour" else set()
        assert not [thing for thing in private(house) - public if thing in answer.text], route


def unlike_hers(access: Access, house: House) -> Things:
    """The same things, but the one that the request names is nobody's."""
    named = access.named or "order"
    return {**house.things, named: str(uuid4())}


@pytest.mark.parametrize("who", ["neighbour", "outsider"])
def test_what_is_hers_alone_is_to_others_as_if_it_were_not(house: House, who: str) -> None:
    other: SignedIn = getattr(house, who)
    for route in of(Rule.OWNER, Rule.BOOK):
        access = ACCESS[route]
        hers = house.things
        if access.rule is Rule.BOOK:
            hers = {**hers, "order": hers["closed_order"]}  # which is not in the book any more
        answer = house.ask(route, other.token, things=hers)
        nobodys = house.ask(route, other.token, things=unlike_hers(access, house))
        assert answer.status == 404, route
        assert (answer.status, answer.text) == (nobodys.status, nobodys.text), route


def test_what_is_in_the_book_is_seen_in_its_zone_and_touched_by_its_owner(house: House, market: Market) -> None:
    read, cancel = ("GET", "/api/v1/market/order/{id}"), ("POST", "/api/v1/market/order/cancel")
    assert set(of(Rule.BOOK)) == {read, cancel}
    seen = house.ask(read, house.neighbour.token)
    assert (seen.status, seen.json["id"]) == (200, house.things["order"])
    assert house.things["device"] not in seen.text
    assert house.ask(cancel, house.neighbour.token).refusal == (403, "not_your_order")
    assert house.ask(read, house.outsider.token).refusal == (404, "unknown_order")
    assert house.ask(cancel, house.outsider.token).refusal == (404, "unknown_order")
    assert market.status_of(UUID(house.things["order"])) == "Created"
    market.sql("UPDATE open_orders SET expires_at = now()")  # it has run out, and no tick has swept it
    assert house.ask(read, house.neighbour.token).refusal == (404, "unknown_order")
    assert house.ask(read, house.ann.token).status == 200


def test_nobody_orders_with_a_neighbours_device(house: House, market: Market) -> None:
    market.device(UUID(house.neighbour.user_id))
    order = {"type": "sell", "kwh_amount": 1, "token_price": 1, "device_id": house.things["device"]}
    api = house.apis["market_api"]
    for other in (house.neighbour, house.outsider):
        refused = api.post("/api/v1/market/order/create", order, token=other.token)
        unknown = api.post("/api/v1/market/order/create", order | {"device_id": str(uuid4())}, token=other.token)
        assert refused.refusal == (404, "unknown_device")
        assert refused.text == unknown.text


def test_a_user_is_no_operator(house: House) -> None:
    for route in of(Rule.OPERATOR):
        assert house.ask(route, house.ann.token).status == 403, route
