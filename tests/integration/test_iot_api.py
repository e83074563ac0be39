"""Registering devices: the database is real, AWS IoT is moto's."""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING
from uuid import UUID

import boto3
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from moto import mock_aws

from energy_market.database import Database
from energy_market.device_registry import Credentials, DeviceRegistry, check_csr
from energy_market.domain.errors import InvalidRequest
from energy_market.usecases.register_device import register_device
from tests.api import Client, SignedIn, signed_in
from tests.integration.conftest import LoadApi
from tests.integration.market import Market

if TYPE_CHECKING:
    from types_boto3_iot import IoTClient

REGISTER = "/api/v1/iot/device/register"
DEVICES = "/api/v1/iot/devices"
ROOF = {"device_type": "raspi", "location": "the roof"}


@pytest.fixture
def iot() -> Iterator["IoTClient"]:
    with mock_aws():
        client = boto3.client("iot")
        client.create_policy(policyName="energy-market-device", policyDocument="{}")
        yield client


@pytest.fixture
def api(iot: "IoTClient", load_api: LoadApi) -> Client:  # noqa: ARG001 - AWS must be the pretended one before it is called
    return load_api("iot_api")


@pytest.fixture
def ann(auth: Client) -> SignedIn:
    return signed_in(auth)


def make_csr() -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "device")])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


def identities(iot: "IoTClient") -> tuple[int, int]:
    """How many things and certificates there are."""
    return len(iot.list_things()["things"]), len(iot.list_certificates()["certificates"])


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
    assert market.sql("SELECT certificate_arn FROM iot_devices") == [(arn,)]
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
    market.status(UUID(device["id"]), available_wh=1_500)
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
    (ROOF | {"csr": 5}, (400, "invalid_body")),
    (ROOF | {"csr": "x" * 8193}, (400, "invalid_body")),
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
    assert market.sql("SELECT status, certificate_arn FROM iot_devices") == [("Removed", None)]
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
                owner_id=UUID(ann.user_id),
                device_type="esp32",
                side="donor",
                location="roof",
                csr=None,
            )
    finally:
        database.close()
    assert identities(iot) == (0, 0)
    assert market.sql("SELECT roles FROM users") == [(["Recipient"],)]


def test_a_csr_of_any_key_is_looked_at_only_from_outside() -> None:
    check_csr(make_csr())
    check_csr("\r\n" + make_csr().replace("\n", "\r\n"))
    check_csr(make_csr().replace("BEGIN CERT", "BEGIN NEW CERT").replace("END CERT", "END NEW CERT"))
    with pytest.raises(InvalidRequest):
        check_csr(make_csr() + make_csr())
