"""The market's routes, over the API's edge and on a real database."""

import threading
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID, uuid4

import pytest

from tests.support.api import Client, SignedIn, signed_in
from tests.support.fixtures import LoadApi
from tests.support.market import Market

CREATE = "/api/v1/market/order/create"
CANCEL = "/api/v1/market/order/cancel"
BUY = {"type": "buy", "kwh_amount": 1.5, "token_price": 0.25}


@pytest.fixture
def api(load_api: LoadApi) -> Client:
    return load_api("market_api")


@pytest.fixture
def ann(auth: Client) -> SignedIn:
    return signed_in(auth)


@pytest.fixture
def ben(auth: Client) -> SignedIn:
    return signed_in(auth)


def test_an_order_is_created_with_the_specifications_body(api: Client, ann: SignedIn) -> None:
    answer = api.post(CREATE, BUY, token=ann.token)
    assert answer.status == 201
    order = answer.json
    assert UUID(order.pop("id"))
    created_at = datetime.fromisoformat(order.pop("created_at"))
    assert datetime.now(UTC) - created_at < timedelta(seconds=10)
    assert order == {
        "user_id": ann.user_id,
        "type": "buy",
        "kwh_amount": Decimal("1.5"),
        "token_price": Decimal("0.25"),
        "status": "Created",
        "filled_kwh": 0,
        "pending_kwh": 0,
        "remaining_kwh": Decimal("1.5"),
        "eligible_kwh": Decimal("1.5"),
        "all_or_none": True,
        "zone": "default",
        "expires_at": None,
        "reason": None,
        "reason_text": None,
        "device_id": None,
        "unmatchable": None,
    }


def test_a_sell_order_without_a_device_says_why_it_waits(api: Client, ann: SignedIn) -> None:
    order = api.post(CREATE, BUY | {"type": "sell"}, token=ann.token).json
    assert order["unmatchable"] == "no_device"


@pytest.mark.parametrize(
    "raw",
    [
        '{"type": "buy", "kwh_amount": 1.2345, "token_price": 1}',
        '{"type": "buy", "kwh_amount": 1, "token_price": 0.1234567}',
        '{"type": "buy", "kwh_amount": 0, "token_price": 1}',
        '{"type": "buy", "kwh_amount": 0.000, "token_price": 1}',
        '{"type": "buy", "kwh_amount": -1, "token_price": 1}',
        '{"type": "buy", "kwh_amount": 1, "token_price": -0.5}',
        '{"type": "buy", "kwh_amount": NaN, "token_price": 1}',
        '{"type": "buy", "kwh_amount": Infinity, "token_price": 1}',
        '{"type": "buy", "kwh_amount": 1e400, "token_price": 1}',
        '{"type": "buy", "kwh_amount": 1e-400, "token_price": 1}',
        '{"type": "buy", "kwh_amount": 1e99999999999999999999, "token_price": 1}',
        '{"type": "buy", "kwh_amount": true, "token_price": 1}',
        '{"type": "buy", "kwh_amount": 1, "token_price": false}',
        '{"type": "buy", "kwh_amount": "1", "token_price": 1}',
        '{"type": "buy", "kwh_amount": null, "token_price": 1}',
        '{"type": "buy", "kwh_amount": [1], "token_price": 1}',
        '{"type": "buy", "kwh_amount": 1000000.001, "token_price": 1}',
        '{"type": "buy", "kwh_amount": 1, "token_price": 1000.000001}',
        '{"type": "lend", "kwh_amount": 1, "token_price": 1}',
        '{"type": "Buy", "kwh_amount": 1, "token_price": 1}',
        '{"type": "buy", "kwh_amount": 1}',
        '{"type": "buy", "kwh_amount": 1, "token_price": 1, "colour": "green"}',
        '{"type": "buy", "kwh_amount": 1, "token_price": 1, "all_or_none": "yes"}',
        '{"type": "buy", "kwh_amount": 1, "token_price": 1, "all_or_none": 1}',
        '{"type": "buy", "kwh_amount": 1, "token_price": 1, "expires_at": "tomorrow"}',
        '{"type": "buy", "kwh_amount": 1, "token_price": 1, "expires_at": "2020-01-01T00:00:00Z"}',
        '{"type": "buy", "kwh_amount": 1, "token_price": 1, "expires_at": "2999-01-01T00:00:00Z"}',
        '{"type": "buy", "kwh_amount": 1, "token_price": 1, "expires_at": "2027-01-01T00:00:00"}',
        '{"type": "buy", "kwh_amount": 1, "token_price": 1, "device_id": "7d7d6f2e-0000-4000-8000-000000000000"}',
        '{"type": "sell", "kwh_amount": 1, "token_price": 1, "device_id": "roof"}',
        "[]",
        "null",
        "7",
        "no json",
        "",
        '{"type": "buy"',
        '{"type": "buy\\u0000", "kwh_amount": 1, "token_price": 1}',
    ],
)
def test_an_order_that_makes_no_sense_is_refused(api: Client, ann: SignedIn, market: Market, raw: str) -> None:
    status, code = api.call("POST", CREATE, raw=raw, token=ann.token).refusal
    assert status == 400
    assert code.startswith("invalid_") or code == "device_not_allowed"
    assert market.sql("SELECT count(*) FROM energy_orders") == [(0,)]


def test_the_smallest_and_the_largest_order_are_taken_exactly(api: Client, ann: SignedIn) -> None:
    for kwh, price in (("0.001", "0.000001"), ("1000000", "1000"), ("999999.999", "999.999999"), ("1.50e0", "25e-2")):
        raw = f'{{"type": "buy", "kwh_amount": {kwh}, "token_price": {price}}}'
        order = api.call("POST", CREATE, raw=raw, token=ann.token).json
        assert (order["kwh_amount"], order["token_price"]) == (Decimal(kwh), Decimal(price))


def test_every_route_needs_a_token(api: Client) -> None:
    for path in ("orders", "orders/mine", "book", "price", "history", "trades", f"order/{uuid4()}"):
        assert api.get(f"/api/v1/market/{path}").refusal == (401, "missing_token")
    assert api.post(CREATE, BUY).refusal == (401, "missing_token")
    assert api.post(CANCEL, {"order_id": str(uuid4())}, token="x.y.z").refusal == (401, "invalid_token")


def test_an_order_sent_twice_with_one_key_is_placed_once(api: Client, ann: SignedIn, market: Market) -> None:
    key = {"Idempotency-Key": "monday-1"}
    first = api.post(CREATE, BUY, token=ann.token, headers=key)
    second = api.post(CREATE, BUY, token=ann.token, headers=key)
    assert (second.status, second.text) == (201, first.text)
    assert api.post(CREATE, BUY | {"kwh_amount": 2}, token=ann.token, headers=key).refusal == (
        409,
        "idempotency_key_reused",
    )
    assert market.sql("SELECT count(*) FROM energy_orders") == [(1,)]


def test_a_key_belongs_to_its_user(api: Client, ann: SignedIn, ben: SignedIn, market: Market) -> None:
    key = {"Idempotency-Key": "monday-1"}
    api.post(CREATE, BUY, token=ann.token, headers=key)
    api.post(CREATE, BUY, token=ben.token, headers=key)
    assert market.sql("SELECT count(*) FROM energy_orders") == [(2,)]


def test_the_same_order_sent_many_times_at_once_is_placed_once(
    load_api: LoadApi, ann: SignedIn, market: Market
) -> None:
    clients = [load_api("market_api") for _ in range(8)]
    said: list[str] = []

    def send(client: Client) -> None:
        answer = client.post(CREATE, BUY, token=ann.token, headers={"Idempotency-Key": "once"})
        assert answer.status == 201
        said.append(answer.text)

    threads = [threading.Thread(target=send, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(said) == 8
    assert len(set(said)) == 1
    assert market.sql("SELECT count(*) FROM energy_orders") == [(1,)]


def test_a_refused_order_keeps_no_key(api: Client, ann: SignedIn) -> None:
    key = {"Idempotency-Key": "k"}
    named = BUY | {"type": "sell", "device_id": str(uuid4())}
    assert api.post(CREATE, named, token=ann.token, headers=key).refusal == (404, "unknown_device")
    assert api.post(CREATE, BUY, token=ann.token, headers=key).status == 201


def test_an_order_is_cancelled_by_its_owner_once(api: Client, ann: SignedIn, ben: SignedIn) -> None:
    order = api.post(CREATE, BUY, token=ann.token).json
    body = {"order_id": order["id"]}
    assert api.post(CANCEL, body, token=ben.token).refusal == (403, "not_your_order")
    answer = api.post(CANCEL, body, token=ann.token)
    assert (answer.status, answer.json["status"], answer.json["reason"]) == (200, "Cancelled", "cancelled_by_owner")
    assert api.post(CANCEL, body, token=ann.token).refusal == (409, "order_not_open")
    assert api.post(CANCEL, {"order_id": str(uuid4())}, token=ann.token).refusal == (404, "unknown_order")
    assert api.post(CANCEL, {"order_id": "x"}, token=ann.token).refusal == (400, "invalid_body")


def test_open_orders_come_in_pages_linked_to_the_next(api: Client, ann: SignedIn) -> None:
    placed = [api.post(CREATE, BUY, token=ann.token).json["id"] for _ in range(5)]
    seen: list[str] = []
    query = {"limit": "2"}
    for _ in range(3):
        answer = api.get("/api/v1/market/orders", token=ann.token, query=query)
        assert isinstance(answer.json, list)
        seen += [order["id"] for order in answer.json]
        link = answer.headers.get("Link")
        if link is None:
            break
        assert link.endswith('>; rel="next"')
        query = dict(pair.split("=", 1) for pair in link[2 : link.index(">")].split("&"))
        assert query["limit"] == "2"
    assert seen == placed


def test_open_orders_can_be_filtered(api: Client, ann: SignedIn) -> None:
    for kind, price in (("buy", 1), ("buy", 2), ("sell", 3)):
        api.post(CREATE, {"type": kind, "kwh_amount": 1, "token_price": price}, token=ann.token)

    def prices(**query: str) -> list[object]:
        return [o["token_price"] for o in api.get("/api/v1/market/orders", token=ann.token, query=query).json]

    assert prices(type="sell") == [3]
    assert prices(min_price="1.5") == [2, 3]
    assert prices(max_price="1.5") == [1]
    assert prices(type="buy", min_price="2", max_price="2") == [2]


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("orders", {"colour": "green"}),
        ("orders", {"limit": "0"}),
        ("orders", {"limit": "501"}),
        ("orders", {"limit": "x"}),
        ("orders", {"cursor": "!"}),
        ("orders", {"cursor": "eA"}),
        ("orders", {"type": "lend"}),
        ("orders", {"min_price": "-1"}),
        ("orders/mine", {"status": "Open"}),
        ("book", {"depth": "0"}),
        ("price", {"zone": "x"}),
        ("history", {"interval": "1m"}),
        ("history", {"from": "yesterday"}),
        ("history", {"from": "2026-01-01T00:00:00"}),
        ("history", {"from": "2026-01-02T00:00:00Z", "to": "2026-01-01T00:00:00Z"}),
        ("history", {"interval": "5m", "from": "2020-01-01T00:00:00Z", "to": "2026-01-01T00:00:00Z"}),
        ("trades", {"cursor": "MQ"}),
    ],
)
def test_a_query_that_makes_no_sense_is_refused(api: Client, ann: SignedIn, path: str, query: dict[str, str]) -> None:
    status, code = api.get(f"/api/v1/market/{path}", token=ann.token, query=query).refusal
    assert (status, code) in {(400, "invalid_query"), (400, "invalid_cursor")}


def test_an_end_that_is_malformed_is_refused_by_the_code_of_one_that_is_past(api: Client, ann: SignedIn) -> None:
    ends: list[object] = [
        "tomorrow",
        "2030-02-31T00:00:00Z",
        "2030-01-01T00:00:00",
        "2020-01-01T00:00:00Z",
        5,
        True,
        [],
    ]
    for end in ends:
        answer = api.post(CREATE, BUY | {"expires_at": end}, token=ann.token)
        assert answer.refusal == (400, "invalid_expires_at"), end


def test_all_orders_cost_more_than_nothing(api: Client, ann: SignedIn) -> None:
    placed = api.post(CREATE, BUY, token=ann.token).json["id"]
    assert [one["id"] for one in api.get("/api/v1/market/orders", token=ann.token, query={"min_price": "0"}).json] == [
        placed
    ]
    assert api.get("/api/v1/market/orders", token=ann.token, query={"max_price": "0"}).json == []


def test_ones_own_orders_come_latest_first_and_nobody_elses(api: Client, ann: SignedIn, ben: SignedIn) -> None:
    placed = [api.post(CREATE, BUY, token=ann.token).json["id"] for _ in range(3)]
    api.post(CREATE, BUY, token=ben.token)
    api.post(CANCEL, {"order_id": placed[1]}, token=ann.token)

    def mine(**query: str) -> list[str]:
        return [o["id"] for o in api.get("/api/v1/market/orders/mine", token=ann.token, query=query).json]

    assert mine() == placed[::-1]
    assert mine(status="Cancelled") == [placed[1]]


def test_what_only_the_owner_may_know_of_an_order_is_left_out(
    api: Client, ann: SignedIn, ben: SignedIn, market: Market
) -> None:
    market.device(UUID(ann.user_id))
    order = api.post(CREATE, BUY | {"type": "sell"}, token=ann.token).json
    path = f"/api/v1/market/order/{order['id']}"
    assert order["device_id"] is not None
    assert api.get(path, token=ann.token).json == order
    seen = api.get(path, token=ben.token).json
    assert seen == {name: value for name, value in order.items() if name not in {"device_id", "unmatchable"}}
    for unknown in (uuid4(), "x"):
        assert api.get(f"/api/v1/market/order/{unknown}", token=ann.token).status == 404


def test_book_and_price_show_the_depth(api: Client, ann: SignedIn, ben: SignedIn, market: Market) -> None:
    market.status(market.device(UUID(ann.user_id)), available_wh=10_000)
    market.show()
    for kind, amount, price in (("buy", 1, 0.2), ("buy", 2, 0.2), ("sell", 1.5, 0.3)):
        api.post(CREATE, {"type": kind, "kwh_amount": amount, "token_price": price}, token=ann.token)
    assert api.get("/api/v1/market/book", token=ben.token).json == {
        "bids": [{"token_price": Decimal("0.2"), "kwh": 3, "orders": 2}],
        "asks": [{"token_price": Decimal("0.3"), "kwh": Decimal("1.5"), "orders": 1}],
    }
    assert api.get("/api/v1/market/price", token=ben.token).json == {
        "last_price": None,
        "last_trade_at": None,
        "best_bid": Decimal("0.2"),
        "best_ask": Decimal("0.3"),
        "volume_24h_kwh": 0,
        "supply_kwh": Decimal("1.5"),
        "demand_kwh": 3,
        "paused": False,
        "halted": None,
    }


def test_confirmed_trades_make_the_history(api: Client, ann: SignedIn, market: Market) -> None:
    for n in range(3):
        home, _, ask, _, trade = market.matched(energy_wh=500, price_micro=200_000 + n)
        market.answer(home.device, ask, "locked", trade=trade.id)
        market.sql(
            """
            WITH batch AS (INSERT INTO settlement_batches (chain_id, contract, sender, nonce)
                           SELECT 1, '0x', '0x', count(*) FROM settlement_batches RETURNING id)
            UPDATE transactions SET status = 'Confirmed', batch_id = (SELECT id FROM batch), confirmed_at = now(),
                   blockchain_hash = '0x1' WHERE id = %s
            """,
            trade.id,
        )
    candles = api.get("/api/v1/market/history", token=ann.token, query={"interval": "1d"}).json
    assert sum(candle["trades"] for candle in candles) == 3
    assert candles[-1]["close"] == Decimal("0.200002")
    first = api.get("/api/v1/market/trades", token=ann.token, query={"limit": "2"})
    cursor = first.headers["Link"].split("cursor=")[1].split(">")[0]
    rest = api.get("/api/v1/market/trades", token=ann.token, query={"limit": "2", "cursor": cursor})
    prices = [trade["token_price"] for trade in first.json + rest.json]
    assert prices == [Decimal("0.200002"), Decimal("0.200001"), Decimal("0.2")]
    assert set(first.json[0]) == {
        "id",
        "kwh_amount",
        "token_price",
        "token_amount",
        "blockchain_hash",
        "confirmed_at",
    }
