"""Candles: same start, same candle, whatever window they were asked for in."""

import random
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest

from tests.support.api import Client, SignedIn, signed_in
from tests.support.fixtures import LoadApi
from tests.support.market import Market

HISTORY = "/api/v1/market/history"
NOON = datetime(2026, 6, 21, 12, tzinfo=UTC)


@pytest.fixture
def api(load_api: LoadApi) -> Client:
    return load_api("market_api")


@pytest.fixture
def ann(auth: Client) -> SignedIn:
    return signed_in(auth)


def confirm(market: Market, *trades: tuple[datetime, int, int]) -> None:
    """(at, Wh, price in micro-tokens) of trades that were paid; all of one matched pair's parties."""
    home, buyer, ask, bid, _ = market.matched()
    market.sql("INSERT INTO settlement_batches (chain_id, contract, sender, nonce) VALUES (1, '0x', '0x', 0)")
    for at, energy_wh, price_micro in trades:
        market.sql(
            """
            INSERT INTO transactions (sell_order_id, buy_order_id, donor_id, recipient_id, device_id, zone, energy_wh,
                                      price_micro, rule_version, status, batch_id, locked_at, valid_until, confirmed_at,
                                      blockchain_hash, delivery, delivered_wh)
            SELECT %s, %s, %s, %s, %s, 'default', %s, %s, 1, 'Confirmed', (SELECT id FROM settlement_batches), now(),
                   now(), %s, '0x1', 'Delivered', %s
            """,
            *(ask, bid, home.user, buyer, home.device, energy_wh, price_micro, at, energy_wh),
        )


def candles(
    api: Client, who: SignedIn, interval: str, since: datetime | None = None, until: datetime | None = None
) -> Any:  # noqa: ANN401 - as JSON has it
    window = {"from": since, "to": until}
    query = {"interval": interval} | {name: at.isoformat() for name, at in window.items() if at is not None}
    answer = api.get(HISTORY, token=who.token, query=query)
    assert answer.status == 200, answer.text
    return answer.json


def at(minute: int) -> datetime:
    return NOON + timedelta(minutes=minute)


def test_a_window_that_begins_or_ends_within_an_hour_has_that_hours_whole_candle(
    api: Client, ann: SignedIn, market: Market
) -> None:
    confirm(market, (at(10), 1_000, 300_000), (at(40), 2_000, 200_000))
    whole = {
        "start": "2026-06-21T12:00:00Z",
        "open": Decimal("0.3"),
        "high": Decimal("0.3"),
        "low": Decimal("0.2"),
        "close": Decimal("0.2"),
        "volume_kwh": 3,
        "trades": 2,
        "complete": True,
    }
    assert candles(api, ann, "1h", at(0), at(60)) == [whole]
    assert candles(api, ann, "1h", at(30), at(90)) == [whole]
    assert candles(api, ann, "1h", at(-60), at(30)) == [whole]
    assert candles(api, ann, "1h", at(20), at(21)) == [whole]
    assert candles(api, ann, "1h", at(-60), at(0)) == []
    assert candles(api, ann, "1h", at(60), at(120)) == []


@pytest.mark.parametrize("seed", range(4))
def test_pages_that_are_put_together_by_start_lose_nothing(
    api: Client, ann: SignedIn, market: Market, seed: int
) -> None:
    chance = random.Random(seed)
    day_s = 24 * 60 * 60
    trades = [(NOON + timedelta(seconds=chance.randrange(day_s)), 100 * n, 100_000 + n) for n in range(1, 41)]
    confirm(market, *trades)
    for interval in ("5m", "15m", "1h", "1d"):
        ends = sorted(chance.sample(range(1, day_s), 5))
        seams = [NOON, *(NOON + timedelta(seconds=end) for end in ends), NOON + timedelta(seconds=day_s)]
        merged: dict[str, Any] = {}
        for since, until in pairwise(seams):
            for candle in candles(api, ann, interval, since, until):
                assert merged.setdefault(candle["start"], candle) == candle
        assert sum(candle["volume_kwh"] for candle in merged.values()) == Decimal(sum(wh for _, wh, _ in trades)) / 1000
        assert list(merged.values()) == candles(api, ann, interval, seams[0], seams[-1])


def test_a_candle_is_complete_once_its_interval_is_over_and_confirmations_had_their_time(
    api: Client, ann: SignedIn, market: Market
) -> None:
    now = datetime.now(UTC)
    long_ago = now - timedelta(days=3)
    confirm(market, (long_ago, 100, 1), (now, 100, 1))
    past, running = candles(api, ann, "1d")
    assert (past["start"], past["complete"]) == (f"{long_ago:%Y-%m-%d}T00:00:00Z", True)
    assert (running["start"], running["complete"]) == (f"{now:%Y-%m-%d}T00:00:00Z", False)
    assert candles(api, ann, "5m", since=now)[-1]["complete"] is False


def test_without_from_the_last_thousand_intervals_are_answered(api: Client, ann: SignedIn, market: Market) -> None:
    first = NOON - timedelta(hours=1_000)
    confirm(market, (first - timedelta(microseconds=1), 100, 1), (first, 200, 1), (at(-1), 300, 1), (at(0), 400, 1))
    assert [c["volume_kwh"] * 1000 for c in candles(api, ann, "1h", until=NOON)] == [200, 300]
    assert [c["volume_kwh"] * 1000 for c in candles(api, ann, "1h", until=at(1))] == [300, 400]
    assert [c["volume_kwh"] * 1000 for c in candles(api, ann, "1h", first + timedelta(minutes=1), at(1))] == [
        200,
        300,
        400,
    ]


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ({"from": "2026-06-21T12:00:00Z", "to": "2026-06-21T12:00:00Z"}, "from must be before to."),
        ({"from": "2026-06-21T12:20:00Z", "to": "2026-06-21T12:10:00Z"}, "from must be before to."),
        ({"from": "2999-01-01T00:00:00Z"}, "from must be before to."),
        (
            {"from": "2026-01-01T00:00:00Z", "to": "2026-06-21T12:10:00Z"},
            "from and to are more than 1,000 intervals apart.",
        ),
        ({"from": "2026-06-21T12:00:00"}, "from must be a time with a time zone, like 2026-11-28T12:00:00Z."),
        ({"to": "0001-01-02T00:00:00Z"}, "from and to are not within the years 1 to 9999."),
        (
            {"from": "9999-12-31T23:00:00Z", "to": "9999-12-31T23:59:59Z"},
            "from and to are not within the years 1 to 9999.",
        ),
    ],
)
def test_a_window_that_is_none_is_refused(api: Client, ann: SignedIn, query: dict[str, str], sentence: str) -> None:
    answer = api.get(HISTORY, token=ann.token, query=query)
    assert answer.refusal == (400, "invalid_query")
    assert answer.json["error"] == sentence
