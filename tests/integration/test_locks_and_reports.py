"""What devices are told and what they answer, on a real PostgreSQL."""

import json
import threading
from uuid import UUID, uuid4

import psycopg
import pytest

from energy_market.messages.published import payload
from energy_market.messages.received import Dropped
from energy_market.messages.reports import Refused
from energy_market.postgres import trades
from energy_market.usecases.record_lock_response import record_lock_response
from tests.support.market import Market, certificate_of


def test_a_lock_is_published_with_a_deadline(market: Market) -> None:
    home, _, ask, _, trade = market.matched()
    (command,) = market.published
    assert command.topic == f"energy/donor/{home.device}/lock"
    message = json.loads(payload(command))
    assert command.expires_at is not None
    assert message == {
        "order_id": str(ask),
        "kwh_requested": 0.5,
        "transaction_id": str(trade.id),
        "expires_at": command.expires_at.isoformat().replace("+00:00", "Z"),
    }
    assert market.sql("SELECT expires_at - now() < interval '30 seconds' FROM transactions") == [(True,)]


def test_a_lock_that_was_claimed_and_never_sent_is_sent_again_under_its_deadline(market: Market) -> None:
    home, buyer = market.home(), market.user()
    market.order(home.user, "sell", 500, 200_000)
    market.order(buyer, "buy", 500, 200_000)
    market.tick()
    (claimed,) = market.claim_locks()  # and here the process died
    assert market.claim_locks() == []
    market.sql("UPDATE transactions SET command_sent_at = command_sent_at - interval '5 seconds'")
    assert market.claim_locks() == [claimed]


def test_a_trade_is_locked_by_its_devices_answer(market: Market) -> None:
    home, buyer, ask, bid, trade = market.matched()
    assert market.answer(home.device, ask, "locked", trade=trade.id) == "locked"
    assert market.trades(buyer)[0].status == "Locked"
    assert (market.status_of(ask), market.status_of(bid)) == ("Executing", "Executing")


def test_a_repeated_answer_changes_nothing(market: Market) -> None:
    home, buyer, ask, _, trade = market.matched()
    market.answer(home.device, ask, "locked", trade=trade.id)
    before = market.trades(buyer)
    assert market.answer(home.device, ask, "locked", trade=trade.id) == "repeated"
    assert market.trades(buyer) == before


def test_of_two_answers_that_contradict_the_first_counts(market: Market) -> None:
    home, buyer, ask, _, trade = market.matched()
    market.answer(home.device, ask, "locked", trade=trade.id)
    assert market.answer(home.device, ask, "rejected", trade=trade.id) == "contradicted"
    assert market.trades(buyer)[0].status == "Locked"


def test_a_rejected_lock_reopens_both_orders_with_their_old_arrival(market: Market) -> None:
    home, buyer, ask, bid, trade = market.matched()
    arrivals = [market.get(order).arrival for order in (ask, bid)]
    assert market.answer(home.device, ask, "rejected", trade=trade.id) == "rejected"
    assert (market.status_of(ask), market.status_of(bid)) == ("Created", "Created")
    assert market.get(ask).unmatchable == "device_refused"
    assert market.sql("SELECT order_id, arrival, remaining_wh FROM open_orders ORDER BY arrival") == [
        (ask, arrivals[0], 500),
        (bid, arrivals[1], 500),
    ]
    (failed,) = market.trades(buyer)
    assert (failed.status, failed.reason) == ("Failed", "lock_rejected")


def test_an_ask_that_is_rejected_leaves_the_book_with_what_another_trade_gives_back_meanwhile(
    market: Market, database_url: str
) -> None:
    home, buyers = market.home(), [market.user(), market.user()]
    ask = market.order(home.user, "sell", 1000, 200_000, partial=True)
    for buyer in buyers:
        market.order(buyer, "buy", 500, 200_000)
    assert len(market.tick().trade_ids) == 2
    market.publish()
    (unpaid,), (refused,) = (market.trades(buyer) for buyer in buyers)
    market.answer(home.device, ask, "locked", trade=unpaid.id)
    market.sql("UPDATE energy_orders SET failures = 2 WHERE id = %s", ask)
    outcomes: list[str] = []
    with psycopg.connect(database_url) as sweep:
        trades.fail(sweep, [unpaid.id], reason="settlement_expired", expected="Locked")
        answering = threading.Thread(
            target=lambda: outcomes.append(market.answer(home.device, ask, "rejected", trade=refused.id))
        )
        answering.start()
        # The answer now waits for the order that the sweep has put back into the book.
        answering.join(timeout=0.5)
    answering.join()
    assert outcomes == ["rejected"]
    assert market.status_of(ask) == "Rejected"
    assert market.sql("SELECT order_id FROM open_orders WHERE order_id = %s", ask) == []


def test_a_lock_that_runs_out_fails_and_its_device_waits_for_its_next_status(market: Market) -> None:
    home, buyer, ask, bid, _ = market.matched()
    again = market.order(home.user, "sell", 500, 200_000)
    market.sql("UPDATE transactions SET expires_at = clock_timestamp()")
    tick = market.tick()
    assert (tick.locks_expired, tick.trade_ids) == (1, ())
    assert (market.trades(buyer)[0].reason, market.status_of(ask), market.status_of(bid)) == (
        "lock_timeout",
        "Created",
        "Created",
    )
    assert [market.get(order).unmatchable for order in (ask, again)] == ["device_silent"] * 2
    market.status(home.device, available_wh=500)
    (trade,) = market.tick().trade_ids
    assert market.sql("SELECT sell_order_id FROM transactions WHERE id = %s", trade) == [(ask,)], "it kept its place"


def test_a_late_lock_never_settles_and_is_released(market: Market) -> None:
    home, buyer, ask, _, trade = market.matched()
    market.sql("UPDATE transactions SET expires_at = clock_timestamp()")
    assert market.answer(home.device, ask, "locked", trade=trade.id) == "late"
    market.tick()
    assert market.answer(home.device, ask, "locked", trade=trade.id) == "late"
    assert market.trades(buyer)[0].status == "Failed"
    market.publish()
    assert market.published[-1].topic == f"energy/donor/{home.device}/unlock"
    assert json.loads(payload(market.published[-1])) == {"transaction_id": str(trade.id)}


def test_an_unlock_is_owed_until_the_device_no_longer_lists_the_lock(market: Market) -> None:
    home, _, ask, _, trade = market.matched()
    market.sql("UPDATE transactions SET expires_at = clock_timestamp()")
    market.tick()

    def unlock() -> object:
        return market.sql("SELECT unlock FROM transactions")[0][0]

    market.status(home.device, available_wh=500)
    assert unlock() == "Owed", "a status from before the unlock was sent proves nothing"
    market.publish()
    market.status(home.device, available_wh=500, locks=(trade.id,))
    assert unlock() == "Owed"
    market.status(home.device, available_wh=500)
    assert unlock() == "Done"
    market.status(home.device, available_wh=500, locks=(trade.id,))
    assert unlock() == "Owed", "it reserved after all"
    assert ask


def test_a_device_is_told_to_unlock_before_the_same_energy_is_locked_again(market: Market) -> None:
    home, _, ask, _, trade = market.matched()
    market.answer(home.device, ask, "locked", trade=trade.id)
    with market.database.transaction() as conn:
        trades.fail(conn, [trade.id], reason="insufficient_escrow", expected="Locked")
    market.order(market.user(), "buy", 500, 200_000)
    (again,) = market.tick().trade_ids
    market.published.clear()
    market.publish()
    assert [(c.kind, c.transaction_id) for c in market.published] == [("unlock", trade.id), ("lock", again)]


def test_an_answer_of_two_fields_counts_for_an_order_with_exactly_one_trade(market: Market) -> None:
    home, buyer, ask, _, _ = market.matched()
    assert market.answer(home.device, ask, "locked") == "locked"
    assert market.trades(buyer)[0].status == "Locked"


def test_an_answer_of_two_fields_means_nothing_once_the_order_has_had_two_trades(market: Market) -> None:
    home, buyer = market.home(), market.user()
    ask = market.order(home.user, "sell", 1_000, 200_000, partial=True)
    market.order(buyer, "buy", 400, 200_000)
    market.order(buyer, "buy", 600, 200_000)
    market.tick()
    market.publish()
    with pytest.raises(Dropped, match="ambiguous"):
        market.answer(home.device, ask, "locked")


def test_an_answer_from_another_device_is_dropped(market: Market) -> None:
    _, buyer, ask, _, trade = market.matched()
    other = market.home()
    for status in ("locked", "rejected"):
        with pytest.raises(Dropped, match="foreign_trade"):
            market.answer(other.device, ask, status, trade=trade.id)
    assert market.trades(buyer)[0].status == "Pending"


def test_an_answer_under_anothers_topic_is_dropped(market: Market) -> None:
    home, _, ask, _, trade = market.matched()
    other = market.home()
    with pytest.raises(Dropped, match="foreign_client"):
        market.answer(home.device, ask, "locked", trade=trade.id, client_id=str(other.device))


def test_a_forged_trade_of_a_known_order_is_dropped(market: Market) -> None:
    home, _, ask, _, trade = market.matched()
    other_home, _, other_ask, _, other_trade = market.matched(price_micro=300_000)
    for order, forged in ((ask, other_trade.id), (other_ask, trade.id), (ask, uuid4()), (uuid4(), trade.id)):
        with pytest.raises(Dropped):
            market.answer(home.device, order, "locked", trade=forged)
    assert other_home


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"no json",
        b"[]",
        b"null",
        b'{"order_id": 1, "status": "locked"}',
        b'{"order_id": "00000000-0000-0000-0000-000000000000"}',
        b'{"order_id": "00000000-0000-0000-0000-000000000000", "status": "perhaps"}',
        b'{"order_id": "00000000-0000-0000-0000-000000000000", "status": "locked", "transaction_id": 7}',
        b"\xff\xfe",
        b"{" + b" " * 20_000 + b"}",
    ],
)
def test_a_payload_that_makes_no_sense_is_dropped(market: Market, said: bytes) -> None:
    home, buyer, _, _, _ = market.matched()
    before = market.trades(buyer)
    answer = market.say(f"energy/donor/{home.device}/lock/response", said)
    with (
        market.database.transaction() as conn,
        pytest.raises(Dropped, match=r"invalid_payload|invalid_field|field_missing|payload_too_large"),
    ):
        record_lock_response(conn, answer, settlement_window_s=600)
    with pytest.raises(Dropped):
        market.report(f"energy/transfer/{home.device}/status", said)
    assert market.trades(buyer) == before


@pytest.mark.parametrize(
    "wrong",
    [
        {"available_kwh": "1"},
        {"available_kwh": True},
        {"available_kwh": -1},
        {"available_kwh": 1e9},
        {"available_kwh": float("nan")},
        {"available_kwh": [1]},
    ],
)
def test_an_amount_of_energy_that_is_none_refuses_the_status(market: Market, wrong: dict[str, object]) -> None:
    home = market.home(available_wh=7_000)
    status = {"available_kwh": 1, "battery_level": 50, "locks": [], "seq": 99} | wrong
    with pytest.raises(Refused) as refused:
        market.report(f"energy/donor/{home.device}/status", status)
    assert (refused.value.reason, refused.value.field) == ("invalid_field", "available_kwh")
    assert refused.value.sentence == "available_kwh must be a number of kWh from 0 to 1,000,000."
    assert market.sql("SELECT available_wh FROM iot_devices") == [(7_000,)]


def test_an_unknown_device_is_dropped(market: Market) -> None:
    for device in (str(uuid4()), "roof", str(uuid4()).upper(), "{" + str(uuid4()) + "}"):
        with pytest.raises(Dropped):
            market.report(f"energy/donor/{device}/status", {"available_kwh": 1, "seq": 1})
        with pytest.raises(Dropped):
            market.report(f"energy/device/{device}/alert", {"message": "fire"})


def test_an_old_status_is_dropped(market: Market) -> None:
    home = market.home(available_wh=None)
    market.status(home.device, available_wh=5_000, seq=10)
    for seq in (9, 10):
        with pytest.raises(Dropped):
            market.status(home.device, available_wh=9_000, seq=seq)
    assert market.sql("SELECT available_wh FROM iot_devices") == [(5_000,)]


def test_reports_of_all_kinds_are_kept(market: Market) -> None:
    home = market.home()
    market.report(f"energy/recipient/{home.device}/status", {"consumption_kwh": 12.345, "seq": 3})
    market.report(f"energy/device/{home.device}/alert", {"severity": "critical", "message": "smoke"})
    kinds = market.sql("SELECT kind, payload ->> 'consumption_kwh' FROM device_reports ORDER BY id")
    assert kinds == [("donor_status", None), ("recipient_status", "12.345"), ("alert", None)]


def test_reports_are_forgotten_after_a_week(market: Market) -> None:
    home = market.home()
    market.sql("UPDATE device_reports SET received_at = now() - interval '8 days'")
    market.report(f"energy/device/{home.device}/alert", {"message": "smoke"})
    assert market.sql("SELECT kind FROM device_reports") == [("alert",)]


def _presence(market: Market, device: UUID, kind: str, *, session: str, at_ms: int) -> None:
    event = {
        "clientId": str(device),
        "timestamp": at_ms,
        "eventType": kind,
        "sessionIdentifier": session,
        "principalIdentifier": certificate_of(device),
    }
    market.report(f"$aws/events/presence/{kind}/{device}", event, client_id="n/a")


def test_a_device_that_disconnects_is_offline_at_once(market: Market) -> None:
    home, buyer = market.home(), market.user()
    market.order(home.user, "sell", 500, 1)
    market.order(buyer, "buy", 500, 1)
    _presence(market, home.device, "disconnected", session="a", at_ms=1)
    assert market.tick().trade_ids == ()
    _presence(market, home.device, "connected", session="b", at_ms=2)
    assert len(market.tick().trade_ids) == 1


def test_the_end_of_an_older_session_does_not_put_a_device_offline(market: Market) -> None:
    home = market.home()
    _presence(market, home.device, "connected", session="old", at_ms=1)
    _presence(market, home.device, "connected", session="new", at_ms=2)
    _presence(market, home.device, "disconnected", session="old", at_ms=3)
    assert market.sql("SELECT status FROM iot_devices") == [("Online",)]


def test_a_session_whose_end_is_heard_of_first_does_not_begin(market: Market) -> None:
    home = market.home()
    _presence(market, home.device, "connected", session="old", at_ms=1)
    _presence(market, home.device, "disconnected", session="short", at_ms=4)
    with pytest.raises(Dropped):
        _presence(market, home.device, "connected", session="short", at_ms=3)
    assert market.sql("SELECT status, presence_session FROM iot_devices") == [("Online", "old")]
    _presence(market, home.device, "disconnected", session="old", at_ms=2)
    assert market.sql("SELECT status FROM iot_devices") == [("Offline",)]


def test_presence_that_comes_late_is_dropped(market: Market) -> None:
    home = market.home()
    _presence(market, home.device, "connected", session="a", at_ms=5)
    _presence(market, home.device, "disconnected", session="a", at_ms=7)
    with pytest.raises(Dropped):
        _presence(market, home.device, "connected", session="a", at_ms=5)
    assert market.sql("SELECT status FROM iot_devices") == [("Offline",)]


def test_a_confirmed_trade_is_delivered_and_stops_counting_as_promised(market: Market) -> None:
    home, buyer, ask, _, trade = market.matched()
    market.answer(home.device, ask, "locked", trade=trade.id)
    market.confirm(trade.id)
    market.publish()
    assert market.published[-1].topic == f"energy/donor/{home.device}/transfer"
    assert json.loads(payload(market.published[-1])) == {"transaction_id": str(trade.id), "kwh": 0.5}
    topic = f"energy/transfer/{home.device}/status"
    report = {"transaction_id": str(trade.id), "status": "started", "kwh_delivered": 0, "seq": 100}
    market.report(topic, report)
    market.report(topic, report | {"status": "delivered", "kwh_delivered": 0.5, "seq": 102})
    # A report that was overtaken changes nothing of the delivery; a status between the two would need it.
    market.report(topic, report | {"status": "delivering", "kwh_delivered": 0.2, "seq": 101})
    delivered = market.trades(buyer)[0]
    assert (delivered.delivery, delivered.delivered_wh) == ("Delivered", 500)
    device = market.seen(home)
    assert (device.available_wh, device.free_wh) == (99_500, 99_500)
    market.sql("UPDATE transactions SET command_sent_at = now() - interval '1 hour'")
    said = len(market.published)
    market.publish()
    assert len(market.published) == said


def test_a_transfer_of_anothers_trade_is_dropped(market: Market) -> None:
    home, buyer, ask, _, trade = market.matched()
    market.answer(home.device, ask, "locked", trade=trade.id)
    market.confirm(trade.id)
    thief = market.home()
    report = {"transaction_id": str(trade.id), "status": "delivered", "kwh_delivered": 0.5, "seq": 100}
    with pytest.raises(Dropped):
        market.report(f"energy/transfer/{thief.device}/status", report)
    assert market.trades(buyer)[0].delivery == "Owed"
