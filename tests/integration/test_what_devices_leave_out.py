"""What a device does not say, says otherwise, or gets wrong; and how its owner learns of it."""

import json
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Final
from uuid import UUID, uuid4

import pytest

from energy_market.database import Database
from energy_market.domain.trades import UNREPORTED_AFTER_S
from energy_market.messages.received import Dropped, QueuedMessage
from energy_market.messages.reports import Refused
from energy_market.postgres import devices, settleable
from energy_market.postgres.device_reports import LIFE_NOTED_EVERY_S, MAX_REPORTS_IN_TEN_MINUTES
from energy_market.postgres.reconciliation import database_differences
from energy_market.usecases.note_refusals import taking
from energy_market.usecases.record_lock_response import record_lock_response
from energy_market.usecases.record_telemetry import record_telemetry
from energy_market.usecases.remove_device import remove_device
from energy_market.usecases.settling.deliveries import end_deliveries
from tests.support.api import ENVIRONMENT, Client, load_function, signed_in
from tests.support.market import SETTINGS, Home, Market, now_ms
from tests.support.queues import lines, queued

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "device-protocol.md").read_text()
ROWS: Final = [
    tuple(cell.strip().strip("`") for cell in line.strip("|").split("|"))
    for line in PAGE.split("### What may be missing\n")[1].split("\n### ")[0].split("\n**")[0].splitlines()
    if line.startswith("| `")
]

ID_LIKE: Final[list[object]] = ["x", 5, True, ["x"], {}, "{3f1d5a0e-6a57-4b0e-8a5e-0f1b2c3d4e5f}", "", "é"]
KWH_LIKE: Final[list[object]] = ["1", True, [], {}, -1, -0.001, 1_000_000.0001, 1e300, float("nan"), float("inf")]
MALFORMED: Final[dict[str, list[object]]] = {
    "available_kwh": KWH_LIKE,
    "kwh_delivered": KWH_LIKE,
    "battery_level": ["50", True, [], 106, -6, 1e300, float("nan"), float("-inf")],
    "locks": ["x", {}, 5, ["x"], [5], [None]],
    "seq": ["7", True, -1, 1.5, 2**63, 1e300, float("nan"), []],
    "status": ["LOCKED", "Delivering", "", 5, True, [], {}],
    "transaction_id": ID_LIKE,
    "order_id": ID_LIKE,
    "reason": [5, [], {}, float("nan"), "x" * 1000],
    "consumption_kwh": ["4210", None, float("nan"), -1],
    "power_w": ["380", None, float("nan"), -1],
    "severity": ["URGENT", 5, None],
    "code": [5, None, "x" * 1000],
    "message": [5, None, "\u0000"],
}


class Scene:
    """A trade that is locked, or paid, at a device that says everything."""

    def __init__(self, market: Market) -> None:
        self.market = market
        self.home, _, self.ask, _, self.trade = market.matched()

    def whole(self, topic: str) -> dict[str, Any]:
        """A message with every field that the protocol has for this topic."""
        ids = {"transaction_id": str(self.trade.id)}
        match topic.removeprefix("energy/"):
            case "donor/{device_id}/status":
                return {"available_kwh": 8, "battery_level": 80, "locks": [str(self.trade.id)], "seq": 10**6}
            case "donor/{device_id}/lock/response":
                return ids | {"order_id": str(self.ask), "status": "locked", "seq": 10**6, "reason": "because"}
            case "transfer/{device_id}/status":
                self.market.answer(self.home.device, self.ask, "locked", trade=self.trade.id)
                self.market.confirm(self.trade.id)
                return ids | {"status": "delivering", "kwh_delivered": 0.2, "seq": 10**6, "reason": "because"}
            case "recipient/{device_id}/status":
                return {"consumption_kwh": 4210.25, "power_w": 380, "seq": 10**6}
        return {"severity": "critical", "code": "over_reserved", "message": "3000 Wh are promised."}

    def say(self, topic: str, said: object, *, received_ms: int | None = None) -> None:
        message = self.market.say(topic.format(device_id=self.home.device), said, received_ms=received_ms)
        take(self.market.database, message)

    def last(self, kind: str) -> dict[str, Any]:
        rows = self.market.sql(
            "SELECT payload FROM device_reports WHERE device_id = %s AND kind = %s ORDER BY id DESC LIMIT 1",
            self.home.device,
            kind,
        )
        return dict(rows[0][0]) if rows else {}  # type: ignore[call-overload]


def take(database: Database, message: QueuedMessage) -> None:
    """As the functions take a message."""
    with taking(database, message) as conn:
        if message.topic.endswith("/lock/response"):
            record_lock_response(conn, message, settlement_window_s=SETTINGS.settlement_window_s)
        else:
            record_telemetry(conn, message)


@pytest.fixture
def scene(market: Market) -> Scene:
    return Scene(market)


# ------------------------------------------------------------------------------------ the table, row by row


def test_the_table_has_each_field_of_each_report() -> None:
    examples: dict[str, set[str]] = {}
    blocks = re.findall(r"^`(energy/[^`]+)`\n\n((?:```json\n.*?```\n\n)+)", PAGE, re.MULTILINE | re.DOTALL)
    for topic, found in blocks:
        for block in re.findall(r"```json\n(.*?)```", found, re.DOTALL):
            examples.setdefault(topic, set()).update(json.loads(block))
    commands = {f"energy/donor/{{device_id}}/{name}" for name in ("lock", "unlock", "transfer")}
    named: dict[str, set[str]] = {}
    for topic, field, *_ in ROWS:
        named.setdefault(topic, set()).add(field)
    assert named == {topic: fields for topic, fields in examples.items() if topic not in commands}


@pytest.mark.parametrize(("topic", "field", "missing"), [row[:3] for row in ROWS])
@pytest.mark.parametrize("spelt", ["left out", "null"])
def test_a_field_that_is_missing_does_what_the_table_says(
    scene: Scene, topic: str, field: str, missing: str, spelt: str
) -> None:
    said = scene.whole(topic)
    del said[field]
    if spelt == "null":
        said[field] = None
    if missing == "taken":
        scene.say(topic, said)
        assert scene.last("refused") == {}
    else:
        assert missing == "refused"
        with pytest.raises(Refused) as refused:
            scene.say(topic, said)
        assert (refused.value.reason, refused.value.field) == ("field_missing", field)


@pytest.mark.parametrize(("topic", "field", "malformed"), [(row[0], row[1], row[3]) for row in ROWS])
def test_a_field_that_is_malformed_does_what_the_table_says(
    scene: Scene, topic: str, field: str, malformed: str
) -> None:
    whole = scene.whole(topic)
    for number, value in enumerate(MALFORMED[field]):
        said = whole | {"seq": 10**6 + number, field: value}
        if malformed == "refused":
            with pytest.raises(Refused) as refused:
                scene.say(topic, said)
            assert (refused.value.reason, refused.value.field) == ("invalid_field", field), value
            noted = "invalid_field"
        else:
            assert malformed in {"ignored", "kept"}
            scene.say(topic, said)
            noted = "field_ignored" if malformed == "ignored" else ""
        last = scene.last("refused")
        assert (last.get("code", ""), last.get("field")) == (noted, field if noted else None), value
        assert "trade" not in last.get("sentence", "")


def test_delivered_does_not_say_how_much_by_saying_nothing(scene: Scene) -> None:
    topic = "energy/transfer/{device_id}/status"
    said = scene.whole(topic) | {"status": "delivered"}
    del said["kwh_delivered"]
    with pytest.raises(Refused) as refused:
        scene.say(topic, said)
    assert (refused.value.reason, refused.value.field) == ("field_missing", "kwh_delivered")


def test_an_answer_without_either_id_means_nothing(scene: Scene) -> None:
    with pytest.raises(Refused) as refused:
        scene.say("energy/donor/{device_id}/lock/response", {"status": "locked", "seq": 1})
    assert refused.value.reason == "field_missing"


# ------------------------------------------------------------------------------------ absent is not empty

STATUS = "energy/donor/{device_id}/status"
TRANSFER = "energy/transfer/{device_id}/status"


def test_a_status_without_locks_loses_no_reservation_and_settles_no_unlock(market: Market, scene: Scene) -> None:
    scene.say("energy/donor/{device_id}/lock/response", scene.whole("energy/donor/{device_id}/lock/response"))
    scene.say(STATUS, {"available_kwh": 100, "battery_level": 50, "seq": 10**6 + 1})
    assert market.sql("SELECT status FROM transactions") == [("Locked",)]
    scene.say(STATUS, {"available_kwh": 100, "locks": [], "seq": 10**6 + 2})
    assert market.sql("SELECT status, reason FROM transactions") == [("Failed", "reservation_lost")]


def test_a_status_without_an_amount_leaves_what_was_said_before(market: Market, scene: Scene) -> None:
    scene.say(STATUS, {"available_kwh": 8, "battery_level": 60, "seq": 10**6})
    scene.say(STATUS, {"battery_level": 61, "seq": 10**6 + 1})
    assert market.sql("SELECT available_wh, battery_level, status_seq FROM iot_devices") == [(8_000, 61, 10**6 + 1)]


@pytest.mark.parametrize(
    ("kwh", "wh"),
    [(10.0, 10_000), (0.1234, 123), (0.0009, 0), (-0.0, 0), (-0.0004, 0), (0.30000000000000004, 300)],
)
def test_energy_is_rounded_down_to_whole_watt_hours(market: Market, scene: Scene, kwh: float, wh: int) -> None:
    scene.say(STATUS, {"available_kwh": kwh, "seq": 10**6})
    assert market.sql("SELECT available_wh FROM iot_devices") == [(wh,)]


def test_delivered_energy_is_rounded_down_too(market: Market, scene: Scene) -> None:
    scene.say(TRANSFER, scene.whole(TRANSFER) | {"status": "delivered", "kwh_delivered": 0.4999})
    assert market.sql("SELECT delivery, delivered_wh FROM transactions") == [("Short", 499)]


@pytest.mark.parametrize(("level", "kept"), [(100.4, 100), (-0.5, 0), (55.5, 55.5), (105, 100), (0, 0)])
def test_a_battery_level_a_little_off_is_clipped_and_counts(
    market: Market, scene: Scene, level: float, kept: float
) -> None:
    scene.say(STATUS, {"available_kwh": 8, "battery_level": level, "seq": 10**6})
    assert market.sql("SELECT available_wh, battery_level::float FROM iot_devices") == [(8_000, kept)]
    assert scene.last("refused") == {}


def test_a_count_may_be_written_as_a_number_with_a_point_or_an_exponent(market: Market, scene: Scene) -> None:
    scene.say(STATUS, b'{"available_kwh": 8, "seq": 1.782043200123e12}')
    assert market.sql("SELECT status_seq FROM iot_devices") == [(1_782_043_200_123,)]


@pytest.mark.parametrize(
    "raw",
    [
        b'\xef\xbb\xbf{"available_kwh": 8, "seq": 1000000}',
        b'{"available_kwh": 8, "seq": 1000000}\0\0',
        b'{"available_kwh": 8, "seq": 1000000}\r\n',
        b'{"available_kwh": 8, "seq": 1000000, "battery_level": NaN, "t": -Infinity}',
        b'{"available_kwh": 8, "seq": 1000000, "note": "\\u0000", "big": 1e99999, "more": {"locks": 1}}',
        b'{"available_kwh": 8, "seq": 1000000, "note": "' + b"x" * 10_000 + b'"}',
    ],
)
def test_what_libraries_put_around_a_message_does_not_lose_it(market: Market, scene: Scene, raw: bytes) -> None:
    scene.say(STATUS, raw)
    assert market.sql("SELECT available_wh, status_seq FROM iot_devices") == [(8_000, 10**6)]


# ------------------------------------------------------------------------------------ without a count


def test_without_a_count_the_brokers_time_tells_which_status_is_older(market: Market) -> None:
    home, now = market.home(available_wh=None), now_ms()

    def say(kwh: float, received_ms: int) -> None:
        market.report(STATUS.format(device_id=home.device), {"available_kwh": kwh}, received_ms=received_ms)

    say(5, now - 2_000)
    say(6, now - 1_000)
    with pytest.raises(Dropped):
        say(4, now - 3_000)
    say(6, now - 1_000)  # it came twice
    assert market.sql("SELECT available_wh, status_seq FROM iot_devices") == [(6_000, None)]


def test_without_a_count_no_reservation_is_taken_for_lost(market: Market, scene: Scene) -> None:
    scene.say("energy/donor/{device_id}/lock/response", scene.whole("energy/donor/{device_id}/lock/response"))
    scene.say(STATUS, {"available_kwh": 100, "locks": []})
    assert market.sql("SELECT status FROM transactions") == [("Locked",)]


def test_reports_of_a_delivery_without_counts_only_rise_and_end_it(market: Market, scene: Scene) -> None:
    whole = {name: value for name, value in scene.whole(TRANSFER).items() if name != "seq"}
    for status, kwh in (("started", 0), ("delivering", 0.3), ("delivering", 0.1), ("delivered", 0.5)):
        scene.say(TRANSFER, whole | {"status": status, "kwh_delivered": kwh})
        reached = market.sql("SELECT delivered_wh FROM transactions")[0][0]
        assert reached == {0: 0, 0.3: 300, 0.1: 300, 0.5: 500}[kwh]
    assert market.sql("SELECT delivery FROM transactions") == [("Delivered",)]
    assert market.seen(scene.home).available_wh == 99_500


def test_what_was_delivered_without_a_count_is_gone_once(market: Market) -> None:
    home, _, trade = market.sold(energy_wh=500)
    now = now_ms()
    market.sql("UPDATE iot_devices SET status_seq = NULL, available_seq = NULL, status_heard_at = NULL")
    status, transfer = (topic.format(device_id=home.device) for topic in (STATUS, TRANSFER))
    market.report(status, {"available_kwh": 99.5}, received_ms=now - 1_000)
    said = {"transaction_id": str(trade.id), "status": "delivered", "kwh_delivered": 0.5}
    market.report(transfer, said, received_ms=now - 2_000)  # the status was later, and knows of it
    assert market.sql("SELECT available_wh FROM iot_devices") == [(99_500,)]


# ------------------------------------------------------------------------------------ two fields


@pytest.fixture
def two_fields(market: Market) -> tuple[Home, UUID]:
    """(home, trade) of a device that sends what it has, and answers with two fields; its trade is paid."""
    home, buyer = market.home(available_wh=None), market.user()
    market.report(STATUS.format(device_id=home.device), {"available_kwh": 1, "battery_level": 70})
    ask = market.order(home.user, "sell", 500, 200_000)
    market.order(buyer, "buy", 500, 200_000)
    (trade,) = market.tick().trade_ids
    market.publish()
    assert market.answer(home.device, ask, "locked") == "locked"
    market.sql(
        """
        WITH batch AS (INSERT INTO settlement_batches (chain_id, contract, sender, nonce)
                       VALUES (1, '0x', '0x', 0) RETURNING id)
        UPDATE transactions SET status = 'Submitted', submitted_at = now(), batch_id = (SELECT id FROM batch)
        """
    )
    confirm(market, trade)
    return home, trade


def confirm(market: Market, trade: UUID) -> None:
    with market.database.transaction() as conn:
        assert settleable.confirm(conn, [trade], tx_hash="0x1", delivery_window_s=86_400) == [trade]


class NothingToTidy:
    """AWS IoT has nothing of these devices."""

    def tidy(self, device_id: UUID, *, kept: Collection[str], ended: Collection[str], is_removed: bool) -> None:
        pass


def test_a_device_of_two_fields_sells_and_its_delivery_ends_unreported_without_an_alarm(
    market: Market, two_fields: tuple[Home, UUID], capsys: pytest.CaptureFixture[str]
) -> None:
    home, trade = two_fields
    ((left_s,),) = market.sql("SELECT extract(epoch FROM deliver_by - now())::int FROM transactions")
    assert isinstance(left_s, int)
    assert UNREPORTED_AFTER_S - 60 < left_s <= UNREPORTED_AFTER_S
    market.sql("UPDATE transactions SET deliver_by = now()")
    capsys.readouterr()
    end_deliveries(market.database)
    assert market.sql("SELECT delivery, delivery_reason, delivered_wh, unlock FROM transactions") == [
        ("Short", "unreported", 0, None)
    ]
    (line,) = lines(capsys)
    assert (line["event"], line["level"], line["reason"]) == ("trade.short", "info", "unreported")
    with market.database.transaction() as conn:
        assert devices.of_owner(conn, home.user)[0].free_wh == 1_000
        assert database_differences(conn, at_rest=True).lines == []
    said = {"transaction_id": str(trade), "status": "delivered", "kwh_delivered": 0.5}
    market.report(TRANSFER.format(device_id=home.device), said)
    assert market.sql("SELECT delivery FROM transactions") == [("Delivered",)], "a report makes it good, as always"


def test_a_device_of_two_fields_can_be_removed_after_an_hour(market: Market, two_fields: tuple[Home, UUID]) -> None:
    home, _ = two_fields
    market.sql("UPDATE transactions SET deliver_by = now()")
    end_deliveries(market.database)
    remove_device(market.database, NothingToTidy(), home.device, owner_id=home.user)
    assert market.sql("SELECT status FROM iot_devices") == [("Removed",)]


@pytest.mark.parametrize("says", ["a count in its status", "a count in its answer", "a delivery"])
def test_a_device_that_will_tell_has_the_whole_time(market: Market, says: str) -> None:
    home, buyer = market.home(available_wh=None), market.user()
    market.report(
        STATUS.format(device_id=home.device),
        {"available_kwh": 1} | ({"seq": 5} if says == "a count in its status" else {}),
    )
    ask = market.order(home.user, "sell", 500, 200_000)
    market.order(buyer, "buy", 500, 200_000)
    (trade,) = market.tick().trade_ids
    market.publish()
    answer = {"order_id": str(ask), "status": "locked"} | ({"seq": 6} if says == "a count in its answer" else {})
    take(market.database, market.say(f"energy/donor/{home.device}/lock/response", answer))
    if says == "a delivery":
        market.confirm(trade)
        said = {"transaction_id": str(trade), "status": "started"}
        market.report(TRANSFER.format(device_id=home.device), said)
        market.sql(
            "UPDATE transactions SET status = 'Submitted', submitted_at = now(), delivery = NULL, deliver_by = NULL"
        )
        confirm(market, trade)
    else:
        market.sql(
            """
            WITH batch AS (INSERT INTO settlement_batches (chain_id, contract, sender, nonce)
                           VALUES (1, '0x', '0x', 0) RETURNING id)
            UPDATE transactions SET status = 'Submitted', submitted_at = now(), batch_id = (SELECT id FROM batch)
            """
        )
        confirm(market, trade)
    assert market.sql("SELECT deliver_by > now() + interval '23 hours' FROM transactions") == [(True,)]
    market.sql("UPDATE transactions SET deliver_by = now()")
    end_deliveries(market.database)
    assert market.sql("SELECT delivery_reason, unlock FROM transactions") == [("delivery_timeout", "Owed")]


# ------------------------------------------------------------------------------------ signs of life


def last_ping_age_s(market: Market) -> float:
    ((age,),) = market.sql("SELECT extract(epoch FROM now() - last_ping)::float FROM iot_devices")
    assert isinstance(age, float)
    return age


def test_a_device_that_reports_its_delivery_is_online(market: Market) -> None:
    home, _, trade = market.sold(energy_wh=500)
    market.sql("UPDATE iot_devices SET last_ping = now() - interval '3 minutes'")
    said = {"transaction_id": str(trade.id), "status": "delivering", "kwh_delivered": 0.1, "seq": 10**6}
    market.report(TRANSFER.format(device_id=home.device), said)
    assert last_ping_age_s(market) < 5


@pytest.mark.parametrize("status", ["locked", "rejected"])
def test_an_answer_to_a_lock_is_a_sign_of_life(market: Market, status: str) -> None:
    home, _, ask, _, trade = market.matched()
    market.sql("UPDATE iot_devices SET last_ping = now() - interval '3 minutes', status = 'Offline'")
    market.answer(home.device, ask, status, trade=trade.id)
    assert last_ping_age_s(market) < 5
    assert market.sql("SELECT status FROM iot_devices") == [("Online",)]


def test_a_sign_of_life_does_not_end_the_wait_for_a_status(market: Market, scene: Scene) -> None:
    market.sql(
        "UPDATE iot_devices SET silent_since = now() - interval '1 minute', last_ping = now() - interval '1 hour'"
    )
    scene.say("energy/donor/{device_id}/lock/response", scene.whole("energy/donor/{device_id}/lock/response"))
    assert market.sql("SELECT silent_since IS NOT NULL FROM iot_devices") == [(True,)]
    assert last_ping_age_s(market) < 5


def test_signs_of_life_in_a_row_write_once(market: Market, scene: Scene) -> None:
    whole = scene.whole(TRANSFER)
    written = []
    for number in range(4):
        scene.say(TRANSFER, whole | {"seq": 10**6 + number})
        written.append(market.sql("SELECT xmin::text FROM iot_devices"))
    assert len({str(row) for row in written[1:]}) == 1
    market.sql("UPDATE iot_devices SET last_ping = now() - make_interval(secs => %s)", LIFE_NOTED_EVERY_S + 1)
    scene.say(TRANSFER, whole | {"seq": 10**7})
    assert last_ping_age_s(market) < 5


# ------------------------------------------------------------------------------------ the owner is told


@pytest.fixture
def iot_api(load_api: Any) -> Client:  # noqa: ANN401
    client: Client = load_api("iot_api")
    return client


def test_an_owner_sees_what_was_refused_and_why(auth: Client, iot_api: Client, market: Market) -> None:
    ann = signed_in(auth)
    home = Home(user=UUID(ann.user_id), device=market.device(UUID(ann.user_id)))

    def seen() -> Any:  # noqa: ANN401 - JSON
        (device,) = iot_api.get("/api/v1/iot/devices", token=ann.token).json
        return device["last_refused"]

    ask = market.order(home.user, "sell", 500, 200_000)
    assert seen() is None
    assert market.get(ask).unmatchable == "no_status_yet"
    topic = STATUS.format(device_id=home.device)
    with pytest.raises(Refused):
        take(market.database, market.say(topic, {"available_kwh": "8 kWh", "seq": 1}))
    refused = seen()
    assert refused.pop("at") is not None
    assert refused == {
        "topic": topic,
        "code": "invalid_field",
        "field": "available_kwh",
        "sentence": "available_kwh must be a number of kWh from 0 to 1,000,000.",
    }
    assert market.get(ask).unmatchable == "status_refused"
    take(market.database, market.say(topic, {"battery_level": 5_000, "seq": 2}))
    assert (seen()["code"], seen()["field"]) == ("field_ignored", "battery_level")
    assert market.get(ask).unmatchable == "no_available_kwh"
    take(market.database, market.say(topic, {"available_kwh": 8, "seq": 3}))
    assert market.get(ask).unmatchable is None
    (page,) = [
        iot_api.get(f"/api/v1/iot/device/{home.device}/reports", query={"kind": "refused"}, token=ann.token).json
    ]
    assert [one["payload"]["code"] for one in page] == ["field_ignored", "invalid_field"]


def test_a_device_that_was_there_and_is_refused_now_is_told_so(market: Market) -> None:
    home = market.home(available_wh=1_000)
    ask = market.order(home.user, "sell", 500, 200_000)
    market.sql(
        "UPDATE iot_devices SET last_ping = now() - interval '1 hour', status_heard_at = now() - interval '1 hour'"
    )
    assert market.get(ask).unmatchable == "device_offline"
    with pytest.raises(Refused):
        take(market.database, market.say(STATUS.format(device_id=home.device), b"no json"))
    assert market.get(ask).unmatchable == "status_refused"


def test_a_donors_status_of_a_recipient_is_refused_with_a_word(market: Market, scene: Scene) -> None:
    market.sql("UPDATE iot_devices SET side = 'recipient'")
    with pytest.raises(Refused, match="wrong_side"):
        scene.say(STATUS, {"available_kwh": 1, "seq": 10**6})
    assert scene.last("refused")["code"] == "wrong_side"


@pytest.mark.parametrize(("topic", "fields"), [
    (TRANSFER, {"transaction_id": str(uuid4()), "status": "delivered", "kwh_delivered": 1, "seq": 1}),
    ("energy/donor/{device_id}/lock/response", {"transaction_id": str(uuid4()), "status": "locked"}),
    ("energy/donor/{device_id}/lock/response", {"order_id": str(uuid4()), "status": "locked"}),
])  # fmt: skip
def test_a_trade_that_is_not_the_devices_is_refused_with_a_field(
    scene: Scene, topic: str, fields: dict[str, object]
) -> None:
    with pytest.raises(Refused) as refused:
        scene.say(topic, fields)
    assert refused.value.reason in {"foreign_trade", "ambiguous_lock_response"}
    assert scene.last("refused")["field"] == "transaction_id"


@pytest.mark.parametrize("stranger", ["another client id", "no certificate"])
def test_a_stranger_puts_no_refusal_on_anothers_device(market: Market, stranger: str) -> None:
    home, other = market.home(), market.home()
    topic = STATUS.format(device_id=home.device)
    message = (
        market.say(topic, b"no json", client_id=str(other.device))
        if stranger == "another client id"
        else market.say(topic, b"no json", principal="")
    )
    with pytest.raises(Dropped):
        take(market.database, message)
    assert market.sql("SELECT count(*) FROM device_reports WHERE kind = 'refused'") == [(0,)]


def test_a_device_that_floods_with_nonsense_fills_no_table(market: Market, scene: Scene) -> None:
    for _ in range(MAX_REPORTS_IN_TEN_MINUTES + 5):
        with pytest.raises(Refused):
            scene.say(STATUS, b"[" * 2000)
    kept = market.sql("SELECT count(*), max(length(payload::text)) < 400 FROM device_reports WHERE kind = 'refused'")
    assert kept == [(MAX_REPORTS_IN_TEN_MINUTES, True)]


@pytest.fixture
def functions(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, ModuleType]]:
    for name, value in {**ENVIRONMENT, "DATABASE_URL": database_url, "SETTLE_FUNCTION": "settle"}.items():
        monkeypatch.setenv(name, value)
    loaded = {name: load_function(name) for name in ("settlement", "telemetry")}
    yield loaded
    for function in loaded.values():
        function._database().close()  # noqa: SLF001


def test_the_line_of_a_refusal_names_device_topic_and_field(
    functions: Mapping[str, ModuleType], market: Market, capsys: pytest.CaptureFixture[str]
) -> None:
    home = market.home()
    status, lock = STATUS.format(device_id=home.device), f"energy/donor/{home.device}/lock/response"
    capsys.readouterr()
    telemetry, settling = functions["telemetry"].handle, functions["settlement"].lock_responses
    assert telemetry({"Records": [queued(status, {"available_kwh": "1"})]}, None) == {"batchItemFailures": []}
    assert settling({"Records": [queued(lock, {"order_id": str(uuid4())})]}, None) == {"batchItemFailures": []}
    said = [line for line in lines(capsys) if line["event"] == "device.message.dropped"]
    assert [(line["client_id"], line["topic"], line["reason"], line["field"]) for line in said] == [
        (str(home.device), status, "invalid_field", "available_kwh"),
        (str(home.device), lock, "field_missing", "status"),
    ]
    assert market.sql("SELECT payload ->> 'topic' FROM device_reports WHERE kind = 'refused' ORDER BY id") == [
        (status,),
        (lock,),
    ]
