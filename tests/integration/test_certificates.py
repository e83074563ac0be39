"""A device's certificates, and what counts under which: the database is real, AWS IoT is moto's."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import psycopg
import pytest

from energy_market.aws.registry import Credentials, DeviceRegistry
from energy_market.database import Database
from energy_market.domain.errors import NotFound
from energy_market.messages.received import Dropped, QueuedMessage
from energy_market.usecases.record_lock_response import record_lock_response
from energy_market.usecases.record_telemetry import record_telemetry
from energy_market.usecases.remove_device import expel_device, remove_device
from energy_market.usecases.rotate_certificate import Rotation, rotate_certificate
from energy_market.usecases.tidy_device import tidy_devices
from tests.support.api import Client, SignedIn, signed_in
from tests.support.devices.registration import DEVICES, REGISTER, ROOF, identities, make_csr
from tests.support.fixtures import LoadApi
from tests.support.market import SETTINGS, Home, Market, certificate_of, now_ms

if TYPE_CHECKING:
    from types_boto3_iot import IoTClient

POLICY = "energy-market-device"


@pytest.fixture
def api(iot: "IoTClient", load_api: LoadApi) -> Client:  # noqa: ARG001 - AWS must be the pretended one before it is called
    return load_api("iot_api")


@pytest.fixture
def ann(auth: Client) -> SignedIn:
    return signed_in(auth)


def of(device: str, *, certificate: bool = False) -> str:
    return f"/api/v1/iot/device/{device}{'/certificate' if certificate else ''}"


def speaks(market: Market, device: str, principal: str) -> bool:
    """Whether a status under that certificate is taken."""
    try:
        market.status(UUID(device), available_wh=1_000, principal=principal)
    except Dropped as dropped:
        assert dropped.reason == "unknown_certificate"  # noqa: PT017 -- another reason is another bug
        return False
    return True


def active(iot: "IoTClient") -> set[str]:
    found = iot.list_certificates()["certificates"]
    return {one["certificateId"] for one in found if one["status"] == "ACTIVE"}


# ------------------------------------------------------------------------------------------------ who speaks


def message_of_each_kind(home: Home, trade: UUID, ask: UUID) -> dict[str, tuple[str, dict[str, object]]]:
    me = home.device
    return {
        "status": (f"energy/donor/{me}/status", {"available_kwh": 900, "seq": 10**6}),
        "meter": (f"energy/recipient/{me}/status", {"consumption_kwh": 1}),
        "alert": (f"energy/device/{me}/alert", {"code": "fire"}),
        "transfer": (
            f"energy/transfer/{me}/status",
            {"transaction_id": str(trade), "status": "delivered", "kwh_delivered": 0.5, "seq": 10**6},
        ),
        "presence": (
            f"$aws/events/presence/disconnected/{me}",
            {"clientId": str(me), "timestamp": now_ms(), "sessionIdentifier": "x"},
        ),
        "lock": (
            f"energy/donor/{me}/lock/response",
            {"order_id": str(ask), "status": "locked", "transaction_id": str(trade)},
        ),
    }


def take(market: Market, message: QueuedMessage) -> None:
    with market.database.transaction() as conn:
        if message.topic.endswith("/lock/response"):
            record_lock_response(conn, message, settlement_window_s=SETTINGS.settlement_window_s)
        else:
            record_telemetry(conn, message)


def stand(market: Market) -> list[tuple[object, ...]]:
    return (
        market.sql("SELECT status, available_wh, status_seq, last_ping, presence_ms FROM iot_devices ORDER BY no")
        + market.sql("SELECT status, delivery, delivered_wh, unlock FROM transactions")
        + market.sql("SELECT kind FROM device_reports ORDER BY id")
    )


@pytest.mark.parametrize("kind", ["status", "meter", "alert", "transfer", "presence", "lock"])
def test_under_no_certificate_or_a_foreign_one_nothing_that_is_said_of_a_device_counts(
    market: Market, kind: str
) -> None:
    """The local broker lets in whoever has no certificate, under any client id; AWS IoT hangs up minutes too late."""
    home, _, ask, _, trade = market.matched()
    if kind == "transfer":
        market.answer(home.device, ask, "locked", trade=trade.id)
        market.confirm(trade.id)
    other = market.home()
    topic, said = message_of_each_kind(home, trade.id, ask)[kind]
    before = stand(market)
    for principal in ("", "000000000000", certificate_of(other.device), "a" * 64, "\x00" * 64, "A" * 64):
        if kind == "presence":
            said["principalIdentifier"] = principal
        message = Market.say(topic, said, client_id="n/a" if kind == "presence" else None, principal=principal)
        with pytest.raises(Dropped, match=r"unknown_certificate|invalid_payload"):
            take(market, message)
    assert stand(market) == before


def test_a_new_certificate_that_is_heard_ends_the_one_before_it_a_minute_later(
    api: Client, ann: SignedIn, iot: "IoTClient", market: Market
) -> None:
    device = api.post(REGISTER, ROOF, token=ann.token).json
    old = device["certificate_id"]
    assert speaks(market, device["id"], old)
    made = api.post(of(device["id"], certificate=True), {"csr": make_csr()}, token=ann.token)
    assert made.status == 201
    assert made.json.keys() == {"certificate_id", "certificate_pem"}
    new = made.json["certificate_id"]
    assert active(iot) == {old, new}
    assert speaks(market, device["id"], old), "until the new one is heard"
    listed = api.get(DEVICES, token=ann.token).json[0]["certificates"]
    assert [(one["certificate_id"], one["valid_until"] is None) for one in listed] == [(old, False), (new, True)]
    assert speaks(market, device["id"], new)
    assert speaks(market, device["id"], old), "what lay in a queue"
    market.sql("UPDATE device_certificates SET valid_until = valid_until - interval '61 seconds'")
    market.sql("UPDATE iot_devices SET tidy_at = tidy_at - interval '61 seconds'")
    assert not speaks(market, device["id"], old)
    assert tidy_devices(market.database, DeviceRegistry(POLICY)) == 1
    assert active(iot) == {new}
    assert speaks(market, device["id"], new)
    assert market.sql("SELECT tidy_at FROM iot_devices") == [(None,)]


def test_a_certificate_ends_a_day_after_another_was_issued_that_nobody_uses(
    api: Client, ann: SignedIn, iot: "IoTClient", market: Market
) -> None:
    device = api.post(REGISTER, ROOF, token=ann.token).json
    made = api.post(of(device["id"], certificate=True), {}, token=ann.token).json
    assert "PRIVATE KEY" in made["private_key"]
    market.sql("UPDATE device_certificates SET valid_until = valid_until - interval '86399 seconds'")
    assert speaks(market, device["id"], device["certificate_id"])
    market.sql("UPDATE device_certificates SET valid_until = valid_until - interval '2 seconds'")
    market.sql("UPDATE iot_devices SET tidy_at = tidy_at - interval '86401 seconds'")
    assert not speaks(market, device["id"], device["certificate_id"])
    assert tidy_devices(market.database, DeviceRegistry(POLICY)) == 1
    assert active(iot) == {made["certificate_id"]}


def test_what_a_rotation_that_fails_has_made_is_gone_and_the_old_certificate_stays(
    api: Client, ann: SignedIn, iot: "IoTClient", market: Market
) -> None:
    device = api.post(REGISTER, ROOF, token=ann.token).json

    class Refused(DeviceRegistry):
        def activate(self, certificate_id: str) -> None:
            raise ConnectionError(certificate_id)

    asked = Rotation(owner_id=UUID(ann.user_id), device_id=UUID(device["id"]))
    with pytest.raises(ConnectionError):
        rotate_certificate(market.database, Refused(POLICY), asked)
    assert identities(iot) == (1, 1)
    assert active(iot) == {device["certificate_id"]}
    ((valid_until,),) = market.sql("SELECT valid_until FROM device_certificates WHERE deleted_at IS NULL")
    assert valid_until is None


def test_a_certificate_that_is_made_while_its_device_is_removed_comes_to_nothing(
    api: Client, ann: SignedIn, iot: "IoTClient", market: Market
) -> None:
    device = api.post(REGISTER, ROOF, token=ann.token).json

    class Overtaken(DeviceRegistry):
        def certify(self, device_id: UUID, csr: str | None) -> Credentials:
            made = super().certify(device_id, csr)
            assert api.call("DELETE", of(str(device_id)), token=ann.token).status == 204
            return made

    asked = Rotation(owner_id=UUID(ann.user_id), device_id=UUID(device["id"]))
    with pytest.raises(NotFound):
        rotate_certificate(market.database, Overtaken(POLICY), asked)
    assert identities(iot) == (0, 0)


def test_a_device_gets_so_many_certificates_in_a_day(api: Client, ann: SignedIn, market: Market) -> None:
    device = api.post(REGISTER, ROOF, token=ann.token).json
    market.sql(
        "INSERT INTO device_certificates (id, device_id)"
        " SELECT encode(sha256(n::text::bytea), 'hex'), %s FROM generate_series(1, 19) n",
        device["id"],
    )
    assert api.post(of(device["id"], certificate=True), {}, token=ann.token).refusal == (409, "too_many_certificates")
    market.sql("UPDATE device_certificates SET issued_at = now() - interval '25 hours'")
    assert api.post(of(device["id"], certificate=True), {}, token=ann.token).status == 201


# ------------------------------------------------------------------------------------------------ revoked, removed


def test_under_a_revoked_certificate_nothing_counts_and_the_device_is_not_matched(
    api: Client, ann: SignedIn, iot: "IoTClient", market: Market
) -> None:
    device = api.post(REGISTER, ROOF, token=ann.token).json
    assert speaks(market, device["id"], device["certificate_id"])
    ask = market.order(UUID(ann.user_id), "sell", 500, 200_000)
    market.order(market.user(), "buy", 500, 200_000)
    assert api.call("DELETE", of(device["id"], certificate=True), token=ann.token).status == 204
    assert identities(iot) == (1, 0)
    assert not speaks(market, device["id"], device["certificate_id"])
    assert market.tick().trade_ids == ()
    assert market.get(ask).unmatchable == "device_offline"
    made = api.post(of(device["id"], certificate=True), {}, token=ann.token).json
    assert speaks(market, device["id"], made["certificate_id"])
    assert not speaks(market, device["id"], device["certificate_id"])
    assert len(market.tick().trade_ids) == 1


def test_a_thief_who_counted_to_the_end_does_not_silence_the_device_for_longer_than_his_certificate_lasts(
    api: Client, ann: SignedIn, market: Market
) -> None:
    device = api.post(REGISTER, ROOF, token=ann.token).json
    market.status(UUID(device["id"]), available_wh=9_000_000, seq=2**63 - 1, principal=device["certificate_id"])
    assert api.call("DELETE", of(device["id"], certificate=True), token=ann.token).status == 204
    made = api.post(of(device["id"], certificate=True), {}, token=ann.token).json
    market.status(UUID(device["id"]), available_wh=2_000, seq=7, principal=made["certificate_id"])
    assert market.sql("SELECT available_wh, status_seq FROM iot_devices") == [(2_000, 7)]


def test_a_removed_device_sells_nothing_and_says_nothing(
    api: Client, ann: SignedIn, iot: "IoTClient", market: Market
) -> None:
    device = api.post(REGISTER, ROOF, token=ann.token).json
    assert speaks(market, device["id"], device["certificate_id"])
    ask = market.order(UUID(ann.user_id), "sell", 500, 200_000, partial=True)
    bid = market.order(market.user(), "buy", 500, 200_000)
    assert api.call("DELETE", of(device["id"]), token=ann.token).status == 204
    assert identities(iot) == (0, 0)
    assert (market.status_of(ask), market.get(ask).reason) == ("Cancelled", "device_removed")
    assert market.tick().trade_ids == ()
    assert market.status_of(bid) == "Created"
    assert not speaks(market, device["id"], device["certificate_id"])
    assert api.get(DEVICES, token=ann.token).json == []
    assert api.call("DELETE", of(device["id"]), token=ann.token).refusal == (404, "unknown_device")
    assert api.post(of(device["id"], certificate=True), {}, token=ann.token).refusal == (404, "unknown_device")
    market.is_sound()


@pytest.fixture
def promised(iot: "IoTClient", market: Market) -> tuple[Home, UUID, UUID, UUID]:
    """(a home whose device has locked energy for a trade, its buyer, the ask, the trade)."""
    home, buyer, ask, _, trade = market.matched()
    iot.create_thing(thingName=str(home.device))
    market.answer(home.device, ask, "locked", trade=trade.id)
    return home, buyer, ask, trade.id


def test_a_device_that_owes_energy_is_not_removed_by_its_owner(
    api: Client, auth: Client, market: Market, promised: tuple[Home, UUID, UUID, UUID]
) -> None:
    home, _, _, trade = promised
    ann = signed_in(auth)
    market.sql("UPDATE iot_devices SET owner_id = %s WHERE id = %s", ann.user_id, home.device)
    resting = market.order(UUID(ann.user_id), "sell", 250, 900_000)
    for delivery in (None, "Owed", "Started"):
        if delivery == "Owed":
            market.confirm(trade)
        if delivery is not None:
            market.sql("UPDATE transactions SET delivery = %s", delivery)
        assert api.call("DELETE", of(str(home.device)), token=ann.token).refusal == (409, "device_owes_energy")
        assert market.status_of(resting) == "Created"
        assert market.sql("SELECT status FROM iot_devices") == [("Online",)]
    delivered = {"transaction_id": str(trade), "status": "delivered", "kwh_delivered": 0.5, "seq": 10**6}
    market.report(f"energy/transfer/{home.device}/status", delivered)
    assert api.call("DELETE", of(str(home.device)), token=ann.token).status == 204
    assert market.status_of(resting) == "Cancelled"


def test_of_a_device_that_is_removed_while_a_lock_is_under_way_the_buyer_gets_his_bid_back(
    api: Client, auth: Client, iot: "IoTClient", market: Market
) -> None:
    ann = signed_in(auth)
    home, _, ask, bid, trade = market.matched()
    iot.create_thing(thingName=str(home.device))
    market.sql("UPDATE iot_devices SET owner_id = %s WHERE id = %s", ann.user_id, home.device)
    assert api.call("DELETE", of(str(home.device)), token=ann.token).status == 204
    with pytest.raises(Dropped, match="unknown_certificate"):
        market.answer(home.device, ask, "locked", trade=trade.id)
    market.sql("UPDATE transactions SET expires_at = clock_timestamp()")
    assert market.tick().locks_expired == 1
    assert (market.status_of(ask), market.status_of(bid)) == ("Cancelled", "Created")


def test_what_a_device_locks_at_the_moment_of_its_removal_is_not_paid(
    iot: "IoTClient", market: Market, database_url: str
) -> None:
    home, buyer, ask, bid, trade = market.matched()
    iot.create_thing(thingName=str(home.device))

    class Meanwhile(Database):
        transactions = 0

        @contextmanager
        def transaction(self) -> Iterator[psycopg.Connection]:
            self.transactions += 1
            if self.transactions == 2:  # whose answer was looked at before the device was removed
                market.sql(
                    "UPDATE transactions SET status = 'Locked', locked_at = now(),"
                    " valid_until = now() + interval '600 s' WHERE id = %s",
                    trade.id,
                )
            with super().transaction() as conn:
                yield conn

    database = Meanwhile(database_url)
    remove_device(database, DeviceRegistry(POLICY), home.device, owner_id=home.user)
    database.close()
    (failed,) = market.trades(buyer)
    assert (failed.status, failed.reason) == ("Failed", "reservation_lost")
    assert (market.status_of(ask), market.status_of(bid)) == ("Cancelled", "Created")


def test_a_device_that_is_expelled_is_not_paid_for_what_nobody_has_signed_yet(
    iot: "IoTClient", market: Market, promised: tuple[Home, UUID, UUID, UUID]
) -> None:
    home, buyer, ask, _ = promised
    expel_device(market.database, DeviceRegistry(POLICY), home.device)
    (trade,) = market.trades(buyer)
    assert (trade.status, trade.reason) == ("Failed", "reservation_lost")
    assert (market.status_of(ask), market.sql("SELECT status FROM iot_devices")) == ("Cancelled", [("Removed",)])
    assert identities(iot) == (0, 0)
    with pytest.raises(NotFound):
        expel_device(market.database, DeviceRegistry(POLICY), home.device)


def test_a_device_that_is_expelled_with_a_payment_under_way_falls_short(
    iot: "IoTClient", market: Market, promised: tuple[Home, UUID, UUID, UUID]
) -> None:
    home, buyer, _, trade = promised
    market.confirm(trade)
    expel_device(market.database, DeviceRegistry(POLICY), home.device)
    assert identities(iot) == (0, 0)
    assert [(one.status, one.delivery) for one in market.trades(buyer)] == [("Confirmed", "Owed")]
    with pytest.raises(Dropped, match="unknown_certificate"):
        market.report(
            f"energy/transfer/{home.device}/status",
            {"transaction_id": str(trade), "status": "delivered", "kwh_delivered": 0.5, "seq": 10**6},
        )


# ------------------------------------------------------------------------------------------------ whose device


def test_somebody_elses_device_is_nobodys(api: Client, auth: Client, ann: SignedIn, iot: "IoTClient") -> None:
    device = api.post(REGISTER, ROOF, token=ann.token).json
    ben = signed_in(auth)
    for id_ in (device["id"], str(uuid4())):
        refusals = {
            api.call("DELETE", of(id_), token=ben.token).refusal,
            api.post(of(id_, certificate=True), {}, token=ben.token).refusal,
            api.call("DELETE", of(id_, certificate=True), token=ben.token).refusal,
        }
        assert refusals == {(404, "unknown_device")}
    assert active(iot) == {device["certificate_id"]}
    assert len(api.get(DEVICES, token=ann.token).json) == 1


def test_two_rotations_at_once_leave_two_certificates_of_which_the_one_that_is_used_stays(
    api: Client, ann: SignedIn, iot: "IoTClient", market: Market, database_url: str
) -> None:
    device = api.post(REGISTER, ROOF, token=ann.token).json
    asked = Rotation(owner_id=UUID(ann.user_id), device_id=UUID(device["id"]))
    second = Database(database_url)

    class Slow(DeviceRegistry):
        inner: Credentials

        def certify(self, device_id: UUID, csr: str | None) -> Credentials:
            made = super().certify(device_id, csr)
            self.inner = rotate_certificate(second, DeviceRegistry(POLICY), asked)
            return made

    slow = Slow(POLICY)
    outer = rotate_certificate(market.database, slow, asked)
    second.close()
    assert active(iot) == {device["certificate_id"], slow.inner.certificate_id, outer.certificate_id}
    assert speaks(market, device["id"], slow.inner.certificate_id)
    assert speaks(market, device["id"], outer.certificate_id)


def test_the_certificate_of_a_registration_by_the_software_before_this_one_counts(market: Market) -> None:
    owner, certificate = market.user(), "b" * 64
    market.sql(
        "INSERT INTO iot_devices (owner_id, device_type, side, location, zone)"
        " VALUES (%s, 'esp32', 'donor', 'x', 'default')",
        owner,
    )
    market.sql(
        "UPDATE iot_devices SET status = 'Registered', certificate_arn = 'arn:aws:iot:eu-west-1:1:cert/' || %s",
        certificate,
    )
    ((device,),) = market.sql("SELECT id::text FROM iot_devices")
    assert speaks(market, str(device), certificate)
