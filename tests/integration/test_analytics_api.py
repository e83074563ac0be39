"""Figures, the chain, health and the contract, over the API's edge and on a real database."""

import json
from collections.abc import Iterator
from decimal import Decimal
from html.parser import HTMLParser
from pathlib import Path
from uuid import UUID

import pytest

from tests.support.api import Client, SignedIn, signed_in
from tests.support.chain.chain import Chain
from tests.support.contract import contract
from tests.support.fixtures import LoadApi
from tests.support.market import Market

DASHBOARD = "/api/v1/analytics/dashboard"
TRANSACTIONS = "/api/v1/analytics/transactions"


@pytest.fixture
def api(load_api: LoadApi, served: Path, monkeypatch: pytest.MonkeyPatch) -> Client:
    client = load_api("analytics_api")
    monkeypatch.setattr(client.module, "SERVED", served)
    return client


@pytest.fixture
def ann(auth: Client) -> SignedIn:
    return signed_in(auth)


@pytest.fixture
def chain(anvil: str, monkeypatch: pytest.MonkeyPatch, load_api: LoadApi) -> Iterator[Chain]:  # noqa: ARG001
    """The chain that the functions are configured for; `load_api` has set their environment before."""
    chain = Chain(anvil)
    monkeypatch.setenv("RPC_URL", anvil)
    monkeypatch.setenv("SETTLEMENT_CONTRACT", chain.settlement.address)
    monkeypatch.setenv("TOKEN_CONTRACT", chain.token.address)
    yield chain
    chain.rpc.close()


def confirm(market: Market, *, days_ago: int = 0) -> None:
    """As if every trade under way had been paid."""
    market.sql(
        "INSERT INTO settlement_batches (id, chain_id, contract, sender, nonce)"
        " SELECT gen_random_uuid(), 1, 'c', 's', count(*) FROM settlement_batches"
    )
    market.sql(
        "UPDATE transactions SET status = 'Confirmed', locked_at = now(), valid_until = now(),"
        " blockchain_hash = '0xab',"
        f" confirmed_at = now() - interval '{days_ago} days', delivery = 'Owed',"
        " batch_id = (SELECT id FROM settlement_batches ORDER BY nonce DESC LIMIT 1)"
        " WHERE status = 'Pending'"
    )


def test_a_new_user_has_bought_and_sold_nothing(api: Client, ann: SignedIn) -> None:
    figures = api.get(DASHBOARD, token=ann.token).json
    assert (figures["bought_kwh"], figures["sold_kwh"]) == (0, 0)
    assert (figures["spent_tokens"], figures["earned_tokens"]) == (0, 0)
    assert figures["open_orders"] == 0
    assert figures["trades"] == {"Pending": 0, "Locked": 0, "Submitted": 0, "Confirmed": 0, "Failed": 0}
    assert len(figures["days"]) == 30


def test_the_dashboard_counts_what_was_paid_for(api: Client, auth: Client, market: Market) -> None:
    ann, ben = signed_in(auth), signed_in(auth)
    device = market.device(UUID(ann.user_id))
    market.status(device, available_wh=100_000)
    market.order(UUID(ann.user_id), "sell", 1_500, 250_000)
    market.order(UUID(ben.user_id), "buy", 1_500, 250_000)
    market.tick()
    confirm(market, days_ago=3)
    market.order(UUID(ann.user_id), "sell", 500, 1)
    market.order(UUID(ben.user_id), "buy", 500, 1)
    market.tick()
    market.order(UUID(ben.user_id), "buy", 700, 1)
    anns, bens = api.get(DASHBOARD, token=ann.token).json, api.get(DASHBOARD, token=ben.token).json
    assert (anns["sold_kwh"], anns["earned_tokens"]) == (Decimal("1.5"), Decimal("0.375"))
    assert (anns["bought_kwh"], anns["spent_tokens"], anns["open_orders"]) == (0, 0, 0)
    assert (bens["bought_kwh"], bens["spent_tokens"]) == (Decimal("1.5"), Decimal("0.375"))
    assert (bens["sold_kwh"], bens["earned_tokens"], bens["open_orders"]) == (0, 0, 1)
    assert anns["trades"] == {"Pending": 1, "Locked": 0, "Submitted": 0, "Confirmed": 1, "Failed": 0}
    sold = [day["sold_kwh"] for day in anns["days"]]
    assert sold[-4] == Decimal("1.5")
    assert sum(sold) == Decimal("1.5")
    assert [day["day"] for day in anns["days"]] == sorted(day["day"] for day in anns["days"])
    assert [day["complete"] for day in anns["days"]] == [True] * 29 + [False]


def test_each_side_sees_its_own_order_of_a_trade(api: Client, auth: Client, market: Market) -> None:
    ann, ben = signed_in(auth), signed_in(auth)
    device = market.device(UUID(ann.user_id))
    market.status(device, available_wh=100_000)
    ask = market.order(UUID(ann.user_id), "sell", 1_500, 250_000)
    bid = market.order(UUID(ben.user_id), "buy", 1_500, 300_000)
    market.tick()
    (sale,) = api.get(TRANSACTIONS, token=ann.token).json
    (purchase,) = api.get(TRANSACTIONS, token=ben.token).json
    assert sale["id"] == purchase["id"]
    assert (sale["side"], sale["order_id"], sale["device_id"]) == ("donor", str(ask), str(device))
    assert (purchase["side"], purchase["order_id"], purchase["device_id"]) == ("recipient", str(bid), None)
    assert (sale["donor_id"], sale["recipient_id"]) == (ann.user_id, ben.user_id)
    assert (sale["kwh_amount"], sale["token_amount"], sale["status"]) == (Decimal("1.5"), Decimal("0.375"), "Pending")
    assert api.get(TRANSACTIONS, token=signed_in(auth).token).json == []


def test_both_sides_see_why_a_delivery_fell_short(api: Client, auth: Client, market: Market) -> None:
    ann, ben = signed_in(auth), signed_in(auth)
    device = market.device(UUID(ann.user_id))
    market.status(device, available_wh=100_000)
    market.order(UUID(ann.user_id), "sell", 1_500, 250_000)
    market.order(UUID(ben.user_id), "buy", 1_500, 300_000)
    market.tick()
    confirm(market)
    (trade,) = api.get(TRANSACTIONS, token=ben.token).json
    assert (trade["delivery"], trade["delivery_reason"], trade["delivery_reason_text"]) == ("Owed", None, None)
    assert trade["deliver_by"] > trade["confirmed_at"]
    report = {"transaction_id": trade["id"], "status": "delivered", "kwh_delivered": 1.2, "seq": 100}
    market.report(f"energy/transfer/{device}/status", report)
    for token in (ann.token, ben.token):
        (trade,) = api.get(TRANSACTIONS, token=token).json
        assert (trade["status"], trade["delivery"], trade["delivered_kwh"]) == ("Confirmed", "Short", Decimal("1.2"))
        assert trade["delivery_reason"] == "under_delivered"
        assert trade["delivery_reason_text"] == "The donor's device delivered less than was traded."


def test_trades_come_in_pages_and_by_status(api: Client, auth: Client, market: Market) -> None:
    ann, ben = signed_in(auth), signed_in(auth)
    market.status(market.device(UUID(ann.user_id)), available_wh=100_000)
    for price_micro in (1, 2, 3):
        market.order(UUID(ann.user_id), "sell", 100, price_micro)
        market.order(UUID(ben.user_id), "buy", 100, price_micro)
        market.tick()
        if price_micro == 1:
            confirm(market)
    first = api.get(TRANSACTIONS, token=ann.token, query={"limit": "2"})
    assert [str(trade["token_price"]) for trade in first.json] == ["0.000003", "0.000002"]
    cursor = first.headers["Link"].partition("cursor=")[2].partition(">")[0]
    last = api.get(TRANSACTIONS, token=ann.token, query={"limit": "2", "cursor": cursor})
    assert [str(trade["token_price"]) for trade in last.json] == ["0.000001"]
    assert "Link" not in last.headers
    paid = api.get(TRANSACTIONS, token=ann.token, query={"status": "Confirmed"}).json
    assert [trade["blockchain_hash"] for trade in paid] == ["0xab"]


def test_figures_are_private(api: Client) -> None:
    assert api.get(DASHBOARD).refusal == (401, "missing_token")
    assert api.get(TRANSACTIONS).refusal == (401, "missing_token")


@pytest.mark.parametrize("query", [{"status": "confirmed"}, {"limit": "x"}, {"cursor": "x"}, {"user_id": "x"}])
def test_a_bad_query_is_refused(api: Client, ann: SignedIn, query: dict[str, str]) -> None:
    assert api.get(TRANSACTIONS, token=ann.token, query=query).status == 400


CHAIN, HEALTH = "/api/v1/chain", "/api/v1/health"


def test_a_wallet_learns_where_to_pay(chain: Chain, api: Client) -> None:
    assert api.get(CHAIN).json == {
        "chain_id": 31337,
        "settlement_contract": chain.settlement.address,
        "token_contract": chain.token.address,
        "token_decimals": 18,
        "confirmations": 2,
    }


@pytest.mark.parametrize("believed", ["9", "21"])
def test_a_wallet_is_told_the_tokens_own_decimals_whatever_is_configured(
    chain: Chain, load_api: LoadApi, monkeypatch: pytest.MonkeyPatch, believed: str
) -> None:
    monkeypatch.setenv("TOKEN_DECIMALS", believed)
    monkeypatch.setenv("TOKEN_CONTRACT", chain.owner.address)
    answer = load_api("analytics_api").get(CHAIN).json
    assert (answer["token_decimals"], answer["token_contract"]) == (18, chain.token.address)


def test_a_wallet_is_told_nothing_that_the_chain_was_not_asked(
    chain: Chain, load_api: LoadApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SETTLEMENT_CONTRACT", chain.token.address)
    assert load_api("analytics_api").get(CHAIN).refusal == (503, "chain_unfit")
    monkeypatch.setenv("RPC_URL", "http://127.0.0.1:1")
    client = load_api("analytics_api")
    monkeypatch.setattr(client.module, "CHAIN_DEADLINE_S", 0.1)
    answer = client.get(CHAIN)
    assert (answer.refusal, answer.headers["Retry-After"]) == ((503, "chain_unavailable"), "5")


@pytest.mark.usefixtures("chain")
def test_health_is_well_when_all_is_there(api: Client, served: Path) -> None:
    version = int((served / "schema_version").read_text())
    answer = api.get(HEALTH)
    assert answer.status == 200
    assert answer.json == {
        "status": "ok",
        "database": "ok",
        "chain": "ok",
        "missing": [],
        "schema": {"version": version, "expected": version},
    }


def test_health_says_that_the_chain_is_away(api: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api.module, "CHAIN_DEADLINE_S", 0.1)
    answer = api.get(HEALTH)
    assert answer.status == 503
    assert (answer.json["status"], answer.json["database"], answer.json["chain"]) == ("degraded", "ok", "unavailable")
    assert answer.json["missing"] == ["the node cannot be asked"]


@pytest.mark.usefixtures("chain")
def test_health_says_what_the_chain_contradicts(
    load_api: LoadApi, served: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN_DECIMALS", "9")
    client = load_api("analytics_api")
    monkeypatch.setattr(client.module, "SERVED", served)
    answer = client.get(HEALTH)
    assert (answer.status, answer.json["chain"]) == (503, "unfit")
    assert answer.json["missing"] == ["the token has 18 decimals, but TokenDecimals is 9"]


@pytest.mark.usefixtures("chain")
def test_health_says_what_the_sweep_has_found(api: Client, market: Market) -> None:
    market.sql("UPDATE chain_state SET unfit = 'the operator is another'")
    answer = api.get(HEALTH)
    assert (answer.status, answer.json["chain"], answer.json["missing"]) == (503, "unfit", ["the operator is another"])


def test_health_asks_a_chain_that_lacked_nothing_again_after_a_while_only(
    chain: Chain, api: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert api.get(HEALTH).status == 200
    chain.settlement.transact(chain.owner, "pause")
    assert api.get(HEALTH).status == 200
    monkeypatch.setattr(api.module, "WELL_FOR_S", 0.0)
    assert api.get(HEALTH).json["missing"] == ["the contract is paused by its owner"]
    chain.settlement.transact(chain.owner, "unpause")
    monkeypatch.setattr(api.module, "WELL_FOR_S", 15.0)
    assert api.get(HEALTH).status == 200  # what lacked something is asked each time


@pytest.mark.usefixtures("chain")
def test_health_says_that_the_database_is_away(
    load_api: LoadApi, served: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody:hunter2@127.0.0.1:1/none")
    client = load_api("analytics_api")
    monkeypatch.setattr(client.module, "SERVED", served)
    answer = client.get(HEALTH)
    assert answer.status == 503
    assert (answer.json["database"], answer.json["chain"]) == ("unavailable", "ok")
    assert answer.json["schema"]["version"] is None
    assert "hunter2" not in answer.text
    assert client.get("/api/v1/openapi.json").status == 200


@pytest.mark.usefixtures("chain")
def test_health_says_that_the_schema_is_another(api: Client, market: Market) -> None:
    market.sql("DELETE FROM schema_migrations WHERE version = (SELECT max(version) FROM schema_migrations)")
    answer = api.get(HEALTH)
    assert (answer.status, answer.json["status"]) == (503, "degraded")


def test_the_contract_is_served_as_it_is_written(api: Client) -> None:
    answer = api.get("/api/v1/openapi.json")
    assert json.loads(answer.text) == json.loads(json.dumps(contract()))
    assert answer.headers["Content-Type"] == "application/json"


def test_a_monitor_may_ask_for_the_head(api: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api.module, "CHAIN_DEADLINE_S", 0.1)  # there is none
    for path, status in (("health", 503), ("chain", 503), ("openapi.json", 200), ("docs", 200)):
        answer = api.call("HEAD", f"/api/v1/{path}")
        assert (answer.status, answer.text) == (status, ""), path


class Loads(HTMLParser):
    """Every address that a browser would fetch by itself, and every script."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in {"script", "link", "img", "iframe", "object", "embed", "video", "audio", "source"}:
            self.found.append(tag)
        self.found += [name for name, _ in attrs if name in {"src", "srcset"} or name.startswith("on")]


def test_the_page_names_every_route_and_loads_nothing(api: Client) -> None:
    answer = api.get("/api/v1/docs")
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")
    loads = Loads()
    loads.feed(answer.text)
    assert loads.found == []
    assert "@import" not in answer.text
    assert "url(" not in answer.text
    assert [path for path in contract()["paths"] if path not in answer.text] == []
