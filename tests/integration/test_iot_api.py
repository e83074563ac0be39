"""Registering devices: the database is real, AWS IoT is moto's."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from uuid import UUID

import psycopg
import pytest

from energy_market.aws.registry import Credentials, DeviceRegistry, check_csr
from energy_market.database import Database
from energy_market.domain.errors import Conflict, InvalidRequest
from energy_market.usecases.answer_once import Answer
from energy_market.usecases.register_device import Registration, register_device
from energy_market.usecases.tidy_device import tidy_devices
from tests.support.api import Client, SignedIn, signed_in
from tests.support.devices.registration import DEVICES, REGISTER, ROOF, identities, make_csr
from tests.support.fixtures import LoadApi
from tests.support.market import Market

if TYPE_CHECKING:
    from types_boto3_iot import IoTClient


@pytest.fixture
def api(iot: "IoTClient", load_api: LoadApi) -> Client:  # noqa: ARG001 - AWS must be the pretended one before it is called
    return load_api("iot_api")


@pytest.fixture
def ann(auth: Client) -> SignedIn:
    return signed_in(auth)


def test_a_device_gets_all_it_needs_to_connect(api: Client, ann: SignedIn) -> None:
    answer = api.post(REGISTER, ROOF, token=ann.token)
    assert answer.status == 201
    device = answer.json
    own = device["id"]
    assert (device["owner_id"], device["device_type"], device["side"]) == (ann.user_id, "raspi", "donor")
    assert (device["location"], device["status"], device["last_ping"]) == ("the roof", "Registered", None)
    assert device["client_id"] == own
    assert (device["broker"], device["ca_url"]) == ("localhost:8883", "http://localhost/ca.pem")
    assert device["topics"] == {
        "publish": {
            "status": f"energy/donor/{own}/status",
            "lock_response": f"energy/donor/{own}/lock/response",
            "transfer_status": f"energy/transfer/{own}/status",
            "alert": f"energy/device/{own}/alert",
        },
        "subscribe": {
            "lock": f"energy/donor/{own}/lock",
            "unlock": f"energy/donor/{own}/unlock",
            "transfer": f"energy/donor/{own}/transfer",
        },
    }
    assert "BEGIN CERTIFICATE" in device["certificate_pem"]
    assert "PRIVATE KEY" in device["private_key"]


def test_its_identity_is_a_thing_of_its_id_with_one_active_certificate(
    api: Client, ann: SignedIn, iot: "IoTClient", market: Market
) -> None:
    device = api.post(REGISTER, ROOF, token=ann.token).json
    (arn,) = iot.list_thing_principals(thingName=device["id"])["principals"]
    assert market.sql("SELECT id, device_id::text FROM device_certificates") == [(arn.rpartition("/")[2], device["id"])]
    certificate = iot.describe_certificate(certificateId=arn.rpartition("/")[2])["certificateDescription"]
    assert certificate["status"] == "ACTIVE"
    assert certificate["certificatePem"] == device["certificate_pem"]
    (policy,) = iot.list_attached_policies(target=arn)["policies"]
    assert policy["policyName"] == "energy-market-device"


def test_with_a_csr_the_private_key_never_leaves_the_device(api: Client, ann: SignedIn) -> None:
    answer = api.post(REGISTER, ROOF | {"csr": make_csr()}, token=ann.token)
    assert answer.status == 201
    assert "private_key" not in answer.json
    assert "BEGIN CERTIFICATE" in answer.json["certificate_pem"]


def test_a_recipients_device_reports_its_meter_and_takes_no_commands(api: Client, auth: Client, ann: SignedIn) -> None:
    device = api.post(REGISTER, ROOF | {"side": "recipient"}, token=ann.token).json
    assert device["topics"]["subscribe"] == {}
    assert device["topics"]["publish"]["status"] == f"energy/recipient/{device['id']}/status"
    assert auth.get("/api/v1/auth/me", token=ann.token).json["roles"] == ["Recipient"]


def test_who_registers_a_donor_device_becomes_a_donor_once(api: Client, auth: Client, ann: SignedIn) -> None:
    for _ in range(2):
        api.post(REGISTER, ROOF, token=ann.token)
    me = auth.get("/api/v1/auth/me", token=ann.token).json
    assert (me["role"], me["roles"]) == ("Donor", ["Recipient", "Donor"])


def test_sell_orders_that_waited_for_a_device_get_the_first_one(
    api: Client, ann: SignedIn, market: Market, load_api: LoadApi
) -> None:
    orders = load_api("market_api")
    sell = {"type": "sell", "kwh_amount": 1, "token_price": 0.2}
    waiting = orders.post("/api/v1/market/order/create", sell, token=ann.token).json
    assert waiting["device_id"] is None
    api.post(REGISTER, ROOF | {"side": "recipient"}, token=ann.token)
    assert orders.get(f"/api/v1/market/order/{waiting['id']}", token=ann.token).json["device_id"] is None
    first = api.post(REGISTER, ROOF, token=ann.token).json
    api.post(REGISTER, ROOF, token=ann.token)
    order = orders.get(f"/api/v1/market/order/{waiting['id']}", token=ann.token).json
    assert (order["device_id"], order["unmatchable"]) == (first["id"], "no_status_yet")
    assert market.sql("SELECT device_id FROM open_orders") == [(UUID(first["id"]),)]


def test_one_sees_ones_own_devices(api: Client, auth: Client, ann: SignedIn) -> None:
    first = api.post(REGISTER, ROOF, token=ann.token).json
    second = api.post(REGISTER, ROOF | {"location": "the cellar", "device_type": "esp32"}, token=ann.token).json
    answer = api.get(DEVICES, token=ann.token)
    assert [device["id"] for device in answer.json] == [first["id"], second["id"]]
    assert "PRIVATE" not in answer.text
    assert "CERTIFICATE" not in answer.text
    assert api.get(DEVICES, token=signed_in(auth).token).json == []


def test_a_device_that_has_not_been_heard_of_is_offline(api: Client, ann: SignedIn, market: Market) -> None:
    device = api.post(REGISTER, ROOF, token=ann.token).json
    market.status(UUID(device["id"]), available_wh=1_500, principal=device["certificate_id"])
    seen = api.get(DEVICES, token=ann.token).json[0]
    assert (seen["status"], str(seen["available_kwh"]), str(seen["free_kwh"])) == ("Online", "1.5", "1.5")
    market.sql("UPDATE iot_devices SET last_ping = now() - interval '121 seconds'")
    assert api.get(DEVICES, token=ann.token).json[0]["status"] == "Offline"


NO_CSR = "-----BEGIN CERTIFICATE REQUEST-----\n%s\n-----END CERTIFICATE REQUEST-----\n"
BAD_DEVICES: list[tuple[object, tuple[int, str]]] = [
    ({}, (400, "invalid_body")),
    ({"device_type": "raspi"}, (400, "invalid_body")),
    (ROOF | {"device_type": "toaster"}, (400, "invalid_body")),
    (ROOF | {"device_type": None}, (400, "invalid_body")),
    (ROOF | {"side": "both"}, (400, "invalid_body")),
    (ROOF | {"location": ""}, (400, "invalid_body")),
    (ROOF | {"location": "x" * 201}, (400, "invalid_body")),
    (ROOF | {"location": 5}, (400, "invalid_body")),
    (ROOF | {"status": "Online"}, (400, "invalid_body")),
    (ROOF | {"csr": 5}, (400, "invalid_csr")),
    (ROOF | {"csr": "x" * 8193}, (400, "invalid_csr")),
    (ROOF | {"csr": ""}, (400, "invalid_csr")),
    (ROOF | {"csr": "no PEM"}, (400, "invalid_csr")),
    (ROOF | {"csr": NO_CSR % "!!!!"}, (400, "invalid_csr")),
    (ROOF | {"csr": NO_CSR % "AAAA"}, (400, "invalid_csr")),
    (ROOF | {"csr": make_csr().replace("CERTIFICATE REQUEST", "CERTIFICATE")}, (400, "invalid_csr")),
    (ROOF | {"csr": re.sub(r"\n....", "\n", make_csr(), count=2)}, (400, "invalid_csr")),
]


def test_a_bad_registration_is_refused_and_changes_nothing(
    api: Client, ann: SignedIn, iot: "IoTClient", market: Market
) -> None:
    refusals = [(body, api.post(REGISTER, body, token=ann.token).refusal) for body, _ in BAD_DEVICES]
    assert refusals == BAD_DEVICES
    assert api.post(REGISTER, ROOF).refusal == (401, "missing_token")
    assert identities(iot) == (0, 0)
    assert market.sql("SELECT count(*) FROM iot_devices") == [(0,)]


def test_a_user_has_at_most_fifty_devices(api: Client, ann: SignedIn, market: Market) -> None:
    for _ in range(50):
        market.device(UUID(ann.user_id))
    assert api.post(REGISTER, ROOF, token=ann.token).refusal == (409, "too_many_devices")


def test_without_its_policy_nothing_stays_of_a_device(
    load_api: LoadApi, ann: SignedIn, iot: "IoTClient", market: Market
) -> None:
    iot.delete_policy(policyName="energy-market-device")
    answer = load_api("iot_api").post(REGISTER, ROOF, token=ann.token)
    assert answer.refusal == (500, "internal")
    assert identities(iot) == (0, 0)
    assert market.sql("SELECT status FROM iot_devices") == [("Removed",)]
    assert market.sql("SELECT roles FROM users") == [(["Recipient"],)]


class RegistryThatLosesItsDatabase(DeviceRegistry):
    """Issues a certificate, during which somebody removes the device's row."""

    def __init__(self, market: Market) -> None:
        super().__init__("energy-market-device")
        self._market = market

    def issue(self, device_id: UUID, csr: str | None) -> Credentials:
        credentials = super().issue(device_id, csr)
        self._market.sql("UPDATE iot_devices SET status = 'Removed'")
        return credentials


def test_a_certificate_whose_device_is_gone_is_withdrawn(
    ann: SignedIn, iot: "IoTClient", market: Market, database_url: str
) -> None:
    database = Database(database_url)
    try:
        with pytest.raises(RuntimeError, match="removed while it was being registered"):
            register_device(
                database,
                RegistryThatLosesItsDatabase(market),
                Registration(owner_id=UUID(ann.user_id), device_type="esp32", side="donor", location="roof"),
                present=str,
            )
    finally:
        database.close()
    assert identities(iot) == (0, 0)
    assert market.sql("SELECT roles FROM users") == [(["Recipient"],)]


def registered(market: Market) -> list[tuple[object, ...]]:
    return market.sql("SELECT status, count(*) FROM iot_devices GROUP BY status ORDER BY status")


def test_with_a_csr_a_lost_answer_is_given_again(api: Client, ann: SignedIn, iot: "IoTClient", market: Market) -> None:
    asked = ROOF | {"csr": make_csr()}
    first = api.post(REGISTER, asked, token=ann.token, headers={"Idempotency-Key": "k"})
    again = api.post(REGISTER, asked, token=ann.token, headers={"Idempotency-Key": "k"})
    assert (first.status, again.status) == (201, 201)
    assert again.text == first.text
    assert registered(market) == [("Registered", 1)]
    assert identities(iot) == (1, 1)
    assert api.post(
        REGISTER, ROOF | {"csr": make_csr()}, token=ann.token, headers={"Idempotency-Key": "k"}
    ).refusal == (
        409,
        "idempotency_key_reused",
    )
    assert (
        api.post(REGISTER, asked, token=ann.token, headers={"Idempotency-Key": "another"}).json["id"]
        != first.json["id"]
    )


def test_a_private_key_is_given_once(api: Client, ann: SignedIn, iot: "IoTClient", market: Market) -> None:
    first = api.post(REGISTER, ROOF, token=ann.token, headers={"Idempotency-Key": "k"})
    again = api.post(REGISTER, ROOF, token=ann.token, headers={"Idempotency-Key": "k"})
    assert again.refusal == (409, "already_registered")
    assert first.json["id"] in again.json["error"]
    assert registered(market) == [("Registered", 1)]
    assert identities(iot) == (1, 1)
    ((kept,),) = market.sql("SELECT answer FROM idempotency_keys")
    assert "PRIVATE" not in str(kept)


def test_a_refused_registration_keeps_no_key(
    load_api: LoadApi, ann: SignedIn, iot: "IoTClient", market: Market
) -> None:
    iot.delete_policy(policyName="energy-market-device")
    api = load_api("iot_api")
    assert api.post(REGISTER, ROOF, token=ann.token, headers={"Idempotency-Key": "k"}).refusal == (500, "internal")
    iot.create_policy(policyName="energy-market-device", policyDocument="{}")
    assert api.post(REGISTER, ROOF, token=ann.token, headers={"Idempotency-Key": "k"}).status == 201
    assert registered(market) == [("Registered", 1), ("Removed", 1)]
    assert identities(iot) == (1, 1)


class SlowRegistry(DeviceRegistry):
    """Has something happen after a device's identity was made, and before it is taken in."""

    def __init__(self, meanwhile: Callable[[], object]) -> None:
        super().__init__("energy-market-device")
        self._meanwhile = meanwhile

    def issue(self, device_id: UUID, csr: str | None) -> Credentials:
        credentials = super().issue(device_id, csr)
        self._meanwhile()
        return credentials


def asked_by(ann: SignedIn, *, key: str | None = None, csr: str | None = None) -> Registration:
    return Registration(
        owner_id=UUID(ann.user_id), device_type="esp32", side="donor", location="roof", csr=csr, key=key, body_hash=b"x"
    )


def test_a_registration_that_is_asked_for_again_meanwhile_gives_way(
    ann: SignedIn, iot: "IoTClient", market: Market, database_url: str
) -> None:
    first, second = Database(database_url), Database(database_url)
    registry = DeviceRegistry("energy-market-device")
    again = []

    def ask_again() -> None:
        again.append(
            register_device(second, registry, asked_by(ann, key="k"), present=lambda made: str(made.device.id))
        )

    with pytest.raises(RuntimeError, match="removed while it was being registered"):
        register_device(first, SlowRegistry(ask_again), asked_by(ann, key="k"), present=str)
    assert market.sql("SELECT id::text FROM iot_devices WHERE status = 'Registered'") == [(again[0].body,)]
    assert registered(market) == [("Registered", 1), ("Removed", 1)]
    assert identities(iot) == (1, 1)
    with pytest.raises(Conflict, match=again[0].body):
        register_device(second, registry, asked_by(ann, key="k"), present=str)
    first.close()
    second.close()


class LosesTheWord(Database):
    """Its second transaction's commit takes effect, and nobody hears of it."""

    commits = 0

    @contextmanager
    def transaction(self) -> Iterator[psycopg.Connection]:
        with super().transaction() as conn:
            yield conn
            writes = conn.execute("SELECT pg_current_xact_id_if_assigned()").fetchone() != (None,)
        self.commits += writes
        if writes and self.commits == 2:
            raise psycopg.OperationalError("the connection broke while COMMIT was under way")


def test_a_device_whose_answer_is_lost_stays_if_it_can_be_asked_for_again(
    ann: SignedIn, iot: "IoTClient", market: Market, database_url: str
) -> None:
    database, registry = LosesTheWord(database_url), DeviceRegistry("energy-market-device")
    asked = asked_by(ann, key="k", csr=make_csr())
    with pytest.raises(psycopg.OperationalError):
        register_device(database, registry, asked, present=lambda made: str(made.device.id))
    assert registered(market) == [("Registered", 1)]
    assert identities(iot) == (1, 1)
    ((device,),) = market.sql("SELECT id::text FROM iot_devices")
    assert register_device(database, registry, asked, present=str) == Answer(status=201, body=str(device))
    database.close()


@pytest.mark.parametrize("key", [None, "k"])
def test_a_device_whose_answer_is_lost_for_good_is_none(
    ann: SignedIn, iot: "IoTClient", market: Market, database_url: str, key: str | None
) -> None:
    market.order(UUID(ann.user_id), "sell", 500, 200_000)
    database = LosesTheWord(database_url)
    with pytest.raises(psycopg.OperationalError):
        register_device(
            database, DeviceRegistry("energy-market-device"), asked_by(ann, key=key), present=lambda _: "lost"
        )
    database.close()
    assert registered(market) == [("Removed", 1)]
    assert identities(iot) == (0, 0)
    assert market.sql("SELECT device_id FROM open_orders") == [(None,)]
    assert market.sql("SELECT key FROM idempotency_keys") == []


@pytest.mark.parametrize("calls", range(5))
def test_a_registration_that_died_counts_no_more_and_is_tidied_away(
    api: Client, ann: SignedIn, iot: "IoTClient", market: Market, calls: int
) -> None:
    """After so many calls of AWS: thing, certificate, its thing, its policy, and then the database."""
    steps: list[Callable[[str], object]] = [
        lambda thing: iot.create_thing(thingName=thing),
        lambda _thing: arns.append(iot.create_keys_and_certificate(setAsActive=False)["certificateArn"]),
        lambda thing: iot.attach_thing_principal(thingName=thing, principal=arns[0]),
        lambda _thing: iot.attach_policy(policyName="energy-market-device", target=arns[0]),
    ]
    arns: list[str] = []
    for _ in range(49):
        market.device(UUID(ann.user_id))
    market.sql(
        "INSERT INTO iot_devices (owner_id, device_type, side, location, zone, tidy_at)"
        " VALUES (%s, 'esp32', 'donor', 'x', 'default', now() + interval '10 minutes')",
        ann.user_id,
    )
    ((dead,),) = market.sql("SELECT id::text FROM iot_devices WHERE status = 'Provisioning'")
    for step in steps[:calls]:
        step(str(dead))
    registry = DeviceRegistry("energy-market-device")
    assert tidy_devices(market.database, registry) == 0
    assert len(api.get(DEVICES, token=ann.token).json) == 50, "it may yet live"
    assert api.post(REGISTER, ROOF, token=ann.token).refusal == (409, "too_many_devices")
    market.sql(
        "UPDATE iot_devices SET created_at = now() - interval '11 minutes', tidy_at = now() - interval '1 minute'"
        " WHERE id = %s",
        dead,
    )
    assert len(api.get(DEVICES, token=ann.token).json) == 49
    made = api.post(REGISTER, ROOF, token=ann.token)
    assert made.status == 201
    assert tidy_devices(market.database, registry) == 1
    assert market.sql("SELECT status, tidy_at FROM iot_devices WHERE id = %s", dead) == [("Removed", None)]
    assert [thing["thingName"] for thing in iot.list_things()["things"]] == [made.json["id"]]
    # The one that was not given to its thing yet is not found; it opens no door, and has no policy.
    left = [one for one in iot.list_certificates()["certificates"] if one["certificateArn"] in arns]
    assert [one["status"] for one in left] == (["INACTIVE"] if calls == 2 else [])
    assert all(iot.list_attached_policies(target=one["certificateArn"])["policies"] == [] for one in left)


def test_what_aws_refuses_to_give_back_is_tried_again(
    ann: SignedIn, iot: "IoTClient", market: Market, capsys: pytest.CaptureFixture[str]
) -> None:
    market.sql(
        "INSERT INTO iot_devices (owner_id, device_type, side, location, zone, tidy_at)"
        " VALUES (%s, 'esp32', 'donor', 'x', 'default', now())",
        ann.user_id,
    )
    ((dead,),) = market.sql("SELECT id::text FROM iot_devices")
    iot.create_thing(thingName=str(dead))

    class Unwilling(DeviceRegistry):
        def tidy(self, device_id: UUID, **_: object) -> None:
            raise ConnectionError(device_id)

    assert tidy_devices(market.database, Unwilling("energy-market-device")) == 0
    said, measured = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (said["event"], said["device_id"]) == ("device.not_tidied", dead)
    assert measured["DevicesNotTidied"] == 1
    registry = DeviceRegistry("energy-market-device")
    assert tidy_devices(market.database, registry) == 0, "in ten minutes"
    market.sql("UPDATE iot_devices SET tidy_at = now()")
    assert tidy_devices(market.database, registry) == 1
    assert identities(iot) == (0, 0)


def test_a_certificate_opens_no_door_before_it_is_written_down(
    ann: SignedIn, iot: "IoTClient", market: Market, database_url: str
) -> None:
    """Whatever dies on the way, nothing is left that is active and that nobody knows of."""
    found: list[tuple[str, str]] = []

    def look() -> None:
        (one,) = iot.list_certificates()["certificates"]
        found.append((one["status"], str(market.sql("SELECT count(*) FROM device_certificates")[0][0])))

    class Watched(SlowRegistry):
        def activate(self, certificate_id: str) -> None:
            look()
            super().activate(certificate_id)
            look()

    database = Database(database_url)
    register_device(database, Watched(look), asked_by(ann), present=lambda _: "")
    database.close()
    assert found == [("INACTIVE", "0"), ("INACTIVE", "1"), ("ACTIVE", "1")]


def test_a_certificate_that_was_not_let_in_is_when_the_answer_is_asked_for_again(
    ann: SignedIn, iot: "IoTClient", market: Market, database_url: str
) -> None:
    class Dying(DeviceRegistry):
        def activate(self, certificate_id: str) -> None:
            raise ConnectionError(certificate_id)

    database = Database(database_url)
    asked = asked_by(ann, key="k", csr=make_csr())
    with pytest.raises(ConnectionError):
        register_device(database, Dying("energy-market-device"), asked, present=lambda made: str(made.device.id))
    assert [one["status"] for one in iot.list_certificates()["certificates"]] == ["INACTIVE"]
    again = register_device(database, DeviceRegistry("energy-market-device"), asked, present=str)
    database.close()
    assert (again.status, [one["status"] for one in iot.list_certificates()["certificates"]]) == (201, ["ACTIVE"])
    assert market.sql("SELECT activated_at IS NOT NULL FROM device_certificates") == [(True,)]


def test_nobody_registers_devices_all_day_long(api: Client, ann: SignedIn, market: Market) -> None:
    market.sql(
        "INSERT INTO iot_devices (owner_id, device_type, side, location, zone, status)"
        " SELECT %s, 'esp32', 'donor', 'x', 'default', 'Removed' FROM generate_series(1, 200)",
        ann.user_id,
    )
    assert api.post(REGISTER, ROOF, token=ann.token).refusal == (409, "too_many_devices")
    market.sql("UPDATE iot_devices SET created_at = now() - interval '25 hours'")
    assert api.post(REGISTER, ROOF, token=ann.token).status == 201


def test_a_csr_of_any_key_is_looked_at_only_from_outside() -> None:
    check_csr(make_csr())
    check_csr("\r\n" + make_csr().replace("\n", "\r\n"))
    check_csr(make_csr().replace("BEGIN CERT", "BEGIN NEW CERT").replace("END CERT", "END NEW CERT"))
    with pytest.raises(InvalidRequest):
        check_csr(make_csr() + make_csr())
