"""What a device has sent, as its owner reads it: over the API's edge and on a real database."""

from decimal import Decimal
from urllib.parse import parse_qsl
from uuid import UUID

import pytest

from tests.support.api import Client, SignedIn, signed_in
from tests.support.fixtures import LoadApi
from tests.support.market import Home, Market


@pytest.fixture
def api(load_api: LoadApi) -> Client:
    return load_api("iot_api")


@pytest.fixture
def ann(auth: Client) -> SignedIn:
    return signed_in(auth)


@pytest.fixture
def home(market: Market, ann: SignedIn) -> Home:
    return Home(user=UUID(ann.user_id), device=market.device(UUID(ann.user_id)))


def path(home: Home) -> str:
    return f"/api/v1/iot/device/{home.device}/reports"


def test_an_owner_reads_the_alerts_of_a_device_the_latest_first(
    api: Client, market: Market, home: Home, ann: SignedIn
) -> None:
    market.report(f"energy/device/{home.device}/alert", {"code": "warm", "celsius": 61.5})
    market.report(f"energy/device/{home.device}/alert", {"code": "hot"})
    answer = api.get(path(home), query={"kind": "alert"}, token=ann.token)
    assert answer.status == 200
    assert [(one["kind"], one["payload"]["code"]) for one in answer.json] == [("alert", "hot"), ("alert", "warm")]
    assert answer.json[1]["payload"]["celsius"] == Decimal("61.5")


def test_a_recipients_readings_are_its_status(api: Client, market: Market, home: Home, ann: SignedIn) -> None:
    market.sql("UPDATE iot_devices SET side = 'recipient' WHERE id = %s", home.device)
    market.report(f"energy/recipient/{home.device}/status", {"consumption_kw": 3})
    (found,) = api.get(path(home), query={"kind": "status"}, token=ann.token).json
    assert (found["kind"], found["payload"]) == ("status", {"consumption_kw": 3})


def test_all_kinds_come_in_the_order_of_time_page_by_page(
    api: Client, market: Market, home: Home, ann: SignedIn
) -> None:
    market.sql("DELETE FROM device_reports")
    for number in range(3):
        market.report(f"energy/device/{home.device}/alert", {"code": f"{number}"})
        market.status(home.device, available_wh=5 + number)
    # Two at the same moment: the page's end lies between them.
    market.sql("UPDATE device_reports SET received_at = '2026-01-01T00:00:00.000001Z' WHERE mod(id, 3) = 0")
    whole = api.get(path(home), token=ann.token).json
    assert [one["received_at"] for one in whole] == sorted((one["received_at"] for one in whole), reverse=True)
    assert sorted(one["kind"] for one in whole) == ["alert"] * 3 + ["status"] * 3
    pages, query = [], {"limit": "1"}
    while query:
        answer = api.get(path(home), query=query, token=ann.token)
        pages += answer.json
        link = answer.headers.get("Link", "")
        query = dict(parse_qsl(link[link.index("?") + 1 : link.index(">")])) if link else {}
    assert pages == whole


def test_presence_is_the_brokers_and_is_not_among_them(api: Client, market: Market, home: Home, ann: SignedIn) -> None:
    market.sql("DELETE FROM device_reports")
    market.sql("INSERT INTO device_reports (device_id, kind, payload) VALUES (%s, 'presence', '{}')", home.device)
    assert api.get(path(home), token=ann.token).json == []


def test_a_device_of_somebody_else_is_none(api: Client, home: Home, auth: Client) -> None:
    stranger = signed_in(auth)
    assert api.get(path(home), token=stranger.token).refusal == (404, "unknown_device")


@pytest.mark.parametrize("query", [{"kind": "presence"}, {"kind": ""}, {"limit": "0"}, {"cursor": "x"}, {"since": "1"}])
def test_a_query_that_makes_no_sense_is_refused(api: Client, home: Home, ann: SignedIn, query: dict[str, str]) -> None:
    assert api.get(path(home), query=query, token=ann.token).status == 400
