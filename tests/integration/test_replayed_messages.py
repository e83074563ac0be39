"""What was left in a dead-letter queue may be moved back at any time: old news changes nothing that it should not."""

import pytest

from energy_market.messages.received import Dropped
from tests.support.market import Home, Market, certificate_of, now_ms

AN_HOUR_MS = 3_600_000


def seen(market: Market, home: Home) -> tuple[str, float, bool]:
    """(status, seconds since the last sign of life, whether it let a lock run out)."""
    ((status, age_s, is_silent),) = market.sql(
        """SELECT status, extract(epoch FROM clock_timestamp() - last_ping)::float8, silent_since IS NOT NULL
        FROM iot_devices WHERE id = %s""",
        home.device,
    )
    assert isinstance(status, str)
    assert isinstance(age_s, float)
    return status, age_s, bool(is_silent)


def presence(home: Home, *, at_ms: int) -> dict[str, object]:
    return {
        "clientId": str(home.device),
        "timestamp": at_ms,
        "sessionIdentifier": "one",
        "principalIdentifier": certificate_of(home.device),
    }


def aged(market: Market, home: Home) -> None:
    market.sql("UPDATE iot_devices SET last_ping = last_ping - interval '2 hours' WHERE id = %s", home.device)


def test_an_old_status_does_not_bring_a_device_back(market: Market) -> None:
    """It is the newest that there is (its seq), but an hour old: the device does not count as online."""
    home, buyer = market.home(), market.user()
    aged(market, home)
    market.status(home.device, available_wh=70_000, received_ms=now_ms() - AN_HOUR_MS)
    status, age_s, _ = seen(market, home)
    assert (status, round(age_s / 60)) == ("Online", 60)
    ask = market.order(home.user, "sell", 500, 100_000)
    market.order(buyer, "buy", 500, 100_000)
    assert market.tick().trade_ids == ()
    assert market.get(ask).unmatchable == "device_offline"


def test_an_old_status_does_not_make_up_for_a_lock_that_ran_out(market: Market) -> None:
    home, _, _, _, trade = market.matched()
    market.sql("UPDATE transactions SET expires_at = clock_timestamp() WHERE id = %s", trade.id)
    market.tick()
    market.status(home.device, available_wh=70_000, received_ms=now_ms() - AN_HOUR_MS)
    assert seen(market, home)[2]
    market.status(home.device, available_wh=70_000)
    assert not seen(market, home)[2]


def test_a_status_that_newer_ones_have_overtaken_is_dropped(market: Market) -> None:
    home = market.home(available_wh=None)
    market.status(home.device, available_wh=5_000, seq=7)
    with pytest.raises(Dropped, match="old_news"):
        market.status(home.device, available_wh=90_000, seq=6, received_ms=now_ms() - AN_HOUR_MS)


@pytest.mark.parametrize("topic", ["energy/device/{}/alert", "energy/recipient/{}/status"])
def test_an_old_report_is_kept_and_does_not_bring_a_device_back(market: Market, topic: str) -> None:
    home = market.home()
    aged(market, home)
    market.report(topic.format(home.device), {"level": "warm"}, received_ms=now_ms() - AN_HOUR_MS)
    _, age_s, _ = seen(market, home)
    assert round(age_s / 60) == 60
    assert market.sql("SELECT count(*) FROM device_reports WHERE kind <> 'donor_status'") == [(1,)]


def test_an_old_report_does_not_bring_back_a_device_that_has_left_since(market: Market) -> None:
    home = market.home()
    gone = presence(home, at_ms=now_ms())
    market.report(f"$aws/events/presence/disconnected/{home.device}", gone)
    market.report(f"energy/device/{home.device}/alert", {}, received_ms=now_ms() - 5_000)
    market.status(home.device, available_wh=1_000, received_ms=now_ms() - 5_000)
    assert seen(market, home)[0] == "Offline"
    market.status(home.device, available_wh=1_000, received_ms=now_ms() + 1)
    assert seen(market, home)[0] == "Online"


def test_an_old_connection_is_not_news(market: Market) -> None:
    home = market.home()
    aged(market, home)
    came = presence(home, at_ms=1)
    market.report(f"$aws/events/presence/connected/{home.device}", came, received_ms=now_ms() - AN_HOUR_MS)
    assert round(seen(market, home)[1] / 60) == 60


def test_an_answer_to_a_lock_that_ran_out_never_settles_and_is_released(market: Market) -> None:
    home, _, ask, _, trade = market.matched()
    market.sql("UPDATE transactions SET expires_at = clock_timestamp() WHERE id = %s", trade.id)
    market.tick()
    assert market.answer(home.device, ask, "locked", trade=trade.id) == "late"
    assert market.sql("SELECT status, unlock FROM transactions") == [("Failed", "Owed")]


def test_a_delivery_is_taken_however_late_and_once(market: Market) -> None:
    home, _, ask, _, trade = market.matched()
    market.answer(home.device, ask, "locked", trade=trade.id)
    market.sql(
        """WITH batch AS (INSERT INTO settlement_batches (chain_id, contract, sender, nonce, status)
                          VALUES (1, 'contract', 'sender', 0, 'Final') RETURNING id)
        UPDATE transactions SET status = 'Confirmed', batch_id = batch.id, confirmed_at = now(), blockchain_hash = '0x',
               delivery = 'Owed' FROM batch"""
    )
    done = {"transaction_id": str(trade.id), "status": "delivered", "kwh_delivered": 0.5, "seq": 99}
    topic = f"energy/transfer/{home.device}/status"
    market.report(topic, done, received_ms=now_ms() - AN_HOUR_MS)
    assert market.sql("SELECT delivery, delivered_wh FROM transactions") == [("Delivered", 500)]
    with pytest.raises(Dropped, match="old_news"):
        market.report(topic, done, received_ms=now_ms() - AN_HOUR_MS)
