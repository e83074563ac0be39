"""What fails for good is visible: its reason as a word and as a sentence in the API and the log, and a metric."""

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_args
from uuid import UUID, uuid4

import pytest
import yaml

from energy_market.domain.trades import MAX_TRIES_OF_A_PAIR, REASON_SENTENCES, FailReason
from energy_market.logs import NAMESPACE
from tests.support.api import FUNCTIONS, load_function, token_of
from tests.support.chain.world import World
from tests.support.fixtures import LoadApi
from tests.support.market import certificate_of, now_ms
from tests.support.places import CHECKOUT


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A trade that has failed, and what became of its orders."""

    trade: UUID
    donor: UUID
    recipient: UUID
    ask: UUID
    bid: UUID
    rejected: str | None  # "ask", "bid", or none


def hear(name: str, handler: str, topic: str, payload: object) -> None:
    """A device's message comes to a function."""
    message = {
        "topic": topic,
        "client_id": topic.split("/")[2],
        "principal": certificate_of(topic.split("/")[2]),
        "payload": base64.b64encode(json.dumps(payload).encode()).decode(),
        "received_at_ms": now_ms(),
    }
    function = load_function(name)
    getattr(function, handler)({"Records": [{"messageId": str(uuid4()), "body": json.dumps(message)}]}, None)
    function._database().close()  # noqa: SLF001 -- a sandbox keeps it; a test must not


def lock_rejected(world: World) -> Failed:
    home, buyer, ask, bid, trade = world.market.matched()
    answer = {"order_id": str(ask), "transaction_id": str(trade.id), "status": "rejected"}
    hear("settlement", "lock_responses", f"energy/donor/{home.device}/lock/response", answer)
    return Failed(trade=trade.id, donor=home.user, recipient=buyer, ask=ask, bid=bid, rejected=None)


def lock_timeout(world: World) -> Failed:
    home, buyer, ask, bid, trade = world.market.matched()
    world.sql("UPDATE transactions SET expires_at = clock_timestamp() WHERE id = %s", trade.id)
    world.market.tick()
    return Failed(trade=trade.id, donor=home.user, recipient=buyer, ask=ask, bid=bid, rejected=None)


def reservation_lost(world: World) -> Failed:
    home, buyer, ask, bid, trade = world.market.matched()
    answer = {"order_id": str(ask), "transaction_id": str(trade.id), "status": "locked", "seq": 10**6}
    hear("settlement", "lock_responses", f"energy/donor/{home.device}/lock/response", answer)
    status = {"available_kwh": 100, "locks": [], "seq": 10**6 + 1}
    hear("telemetry", "handle", f"energy/donor/{home.device}/status", status)
    return Failed(trade=trade.id, donor=home.user, recipient=buyer, ask=ask, bid=bid, rejected=None)


def insufficient_escrow(world: World) -> Failed:
    deal = world.lock(in_escrow=False)
    world.sweep_until_final()
    return Failed(trade=deal.id, donor=deal.donor, recipient=deal.recipient, ask=deal.ask, bid=deal.bid, rejected="bid")


def spending_cap(world: World) -> Failed:
    deal = world.lock()
    world.chain.settlement.transact(deal.buyer, "setCap", deal.amount - 1)
    world.sweep_until_final()
    return Failed(trade=deal.id, donor=deal.donor, recipient=deal.recipient, ask=deal.ask, bid=deal.bid, rejected="bid")


def over_limit(world: World) -> Failed:
    deal = world.lock()
    world.chain.settlement.transact(world.chain.owner, "setLimit", deal.amount - 1)
    world.sweep()
    return Failed(trade=deal.id, donor=deal.donor, recipient=deal.recipient, ask=deal.ask, bid=deal.bid, rejected="bid")


def settlement_expired(world: World) -> Failed:
    deal = world.lock()
    world.let_expire(deal)
    world.sweep()
    return Failed(trade=deal.id, donor=deal.donor, recipient=deal.recipient, ask=deal.ask, bid=deal.bid, rejected=None)


def chain_refused(world: World) -> Failed:
    deal = world.lock()
    world.poison(deal.id)
    world.sweep()
    return Failed(trade=deal.id, donor=deal.donor, recipient=deal.recipient, ask=deal.ask, bid=deal.bid, rejected=None)


WAYS: Mapping[str, Callable[[World], Failed]] = {
    way.__name__: way
    for way in (
        lock_rejected,
        lock_timeout,
        reservation_lost,
        insufficient_escrow,
        spending_cap,
        over_limit,
        settlement_expired,
        chain_refused,
    )
}
REASONS: tuple[FailReason, ...] = get_args(FailReason)


@pytest.mark.parametrize("reason", REASONS)
def test_a_failed_trade_says_why(
    world: World,
    load_api: LoadApi,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    reason: FailReason,
) -> None:
    analytics, market = load_api("analytics_api"), load_api("market_api")
    monkeypatch.setenv("SETTLE_FUNCTION", "settle")
    sentence = REASON_SENTENCES[reason]
    failed = WAYS[reason](world)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    (line,) = (line for line in lines if line.get("event") == "trade.failed")
    assert (line["transaction_id"], line["reason"], line["reason_text"]) == (str(failed.trade), reason, sentence)
    (metric,) = (line for line in lines if "TradesFailed" in line)
    (shape,) = metric["_aws"]["CloudWatchMetrics"]
    assert (metric["TradesFailed"], metric["Reason"], shape["Namespace"]) == (1, reason, NAMESPACE)
    assert shape["Dimensions"] == [[], ["Reason"]]

    with world.market.database.transaction() as conn:
        token = {user: token_of(conn, user) for user in (failed.donor, failed.recipient)}
    for user, side in ((failed.donor, "donor"), (failed.recipient, "recipient")):
        (trade,) = analytics.get("/api/v1/analytics/transactions", token=token[user]).json
        assert (trade["side"], trade["status"]) == (side, "Failed")
        assert (trade["reason"], trade["reason_text"]) == (reason, sentence)
    for order, owner, side in ((failed.ask, failed.donor, "ask"), (failed.bid, failed.recipient, "bid")):
        found = market.get(f"/api/v1/market/order/{order}", token=token[owner]).json
        expected: tuple[Any, ...] = ("Created", None, None)
        if side == failed.rejected:
            expected = ("Rejected", reason, sentence)
        assert (found["status"], found["reason"], found["reason_text"]) == expected


def test_two_orders_that_fail_together_again_and_again_are_given_up(world: World) -> None:
    """The chain is away for an hour, say: each time both are back in the book, and match; the fifth is the last."""
    deal = world.lock()
    for tries in range(2, MAX_TRIES_OF_A_PAIR + 1):
        world.sql("UPDATE transactions SET valid_until = clock_timestamp() - interval '1 s' WHERE status = 'Locked'")
        world.sweep()
        assert [world.market.status_of(order) for order in (deal.ask, deal.bid)] == ["Created", "Created"]
        world.market.status(deal.device, available_wh=100_000)
        assert len(world.market.tick().trade_ids) == 1
        world.market.publish()
        (trade,) = world.sql("SELECT id FROM transactions WHERE status = 'Pending'")
        assert world.market.answer(deal.device, deal.ask, "locked", trade=trade[0]) == "locked"
        assert world.sql("SELECT count(*) FROM transactions") == [(tries,)]
    world.sql("UPDATE transactions SET valid_until = clock_timestamp() - interval '1 s' WHERE status = 'Locked'")
    world.sweep()
    for order in (deal.ask, deal.bid):
        found = world.market.get(order)
        assert (found.status, found.reason) == ("Rejected", "settlement_expired")
    assert world.sql("SELECT count(*) FROM open_orders") == [(0,)]
    assert world.market.tick().trade_ids == ()


def test_a_bid_whose_counterparties_change_stays_in_the_book(world: World) -> None:
    """Donors' devices refuse it, one after the other: each costs its own ask, and the bid nothing."""
    home, buyer, ask, bid, trade = world.market.matched()
    for _ in range(MAX_TRIES_OF_A_PAIR + 1):
        world.market.answer(home.device, ask, "rejected", trade=trade.id)
        assert world.market.status_of(bid) == "Created"
        home = world.market.home()
        ask = world.market.order(home.user, "sell", 500, 200_000)
        assert len(world.market.tick().trade_ids) == 1
        world.market.publish()
        trade = world.market.trades(buyer)[0]


@pytest.mark.parametrize("reason", REASONS)
def test_every_reason_is_a_word_of_the_contract_and_of_the_pages(reason: str) -> None:
    schemas = yaml.safe_load((CHECKOUT / "infra" / "openapi.yaml").read_text())["components"]["schemas"]
    assert reason in schemas["Trade"]["properties"]["reason"]["enum"]
    assert reason in schemas["Order"]["properties"]["reason"]["enum"]
    assert f"| `{reason}` |" in (CHECKOUT / "docs" / "architecture.md").read_text()
    assert REASON_SENTENCES[reason].endswith(".")


def test_nothing_else_fails_a_trade() -> None:
    """Whoever calls `trades.fail` reports it: there is no other statement that sets the status."""
    sources = [*(CHECKOUT / "layers").rglob("*.py"), *FUNCTIONS.rglob("*.py")]
    failing = {path.name for path in sources if "SET status = 'Failed'" in path.read_text()}
    callers = {path.name for path in sources if "trades.fail(" in path.read_text()}
    assert failing == {"trades.py"}
    silent = {name for name in callers if not any(
        path.name == name and "report_failures(" in path.read_text() for path in sources)}  # fmt: skip
    assert silent == {"record_lock_response.py", "record_telemetry.py"}  # their callers commit, and report
