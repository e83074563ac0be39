"""The edge itself, on a small API of its own: what is read, what is refused, what is written down."""

import base64
import gzip
import json
import os
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

import msgspec
import psycopg
import psycopg.sql
import pytest
from chalice.app import Response

from energy_market.api.edge import MAX_BODY_BYTES, STATUS_OF, Api
from energy_market.api.fields import Cursor, EnergyWh, PageLimit, PriceMicro, PriceParameter
from energy_market.database import Database
from energy_market.domain import errors
from energy_market.domain.settings import HttpSettings
from tests.support.api import ENVIRONMENT, FUNCTIONS, Client, proxy_event, token_of
from tests.support.trouble.alongside import all_at_once

KEYS = {"k": "a secret that is long enough for everyone"}


class Offer(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    kwh_amount: EnergyWh
    token_price: PriceMicro
    all_or_none: bool = True


class Page(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    limit: PageLimit = PageLimit(100)
    min_price: PriceParameter | None = None
    cursor: Cursor | None = None


@dataclass(frozen=True, kw_only=True)
class Edge:
    """An API with a few routes, and what it printed."""

    api: Api
    client: Client
    database: Database
    printed: Callable[[], list[dict[str, Any]]]


MakeEdge = Callable[..., Edge]


@pytest.fixture
def make_edge(database_url: str, capsys: pytest.CaptureFixture[str]) -> Iterator[MakeEdge]:
    made: list[Edge] = []

    def make(
        *,
        limit: int = 1000,
        user_limit: int = 1000,
        keys: dict[str, str] = KEYS,
        origins: tuple[str, ...] = ("*",),
        url: str = database_url,
    ) -> Edge:
        database = Database(url)
        settings = HttpSettings(
            rate_limit_per_minute=limit,
            user_limit_per_minute=user_limit,
            allowed_origins=origins,
            jwt_keys=keys,
        )
        api = Api("edge", settings=settings, database=database)
        add_routes(api)

        def printed() -> list[dict[str, Any]]:
            return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

        client = Client(cast("Any", SimpleNamespace(app=api)))
        made.append(Edge(api=api, client=client, database=database, printed=printed))
        return made[-1]

    yield make
    for edge in made:
        edge.database.close()


@pytest.fixture
def edge(make_edge: MakeEdge) -> Edge:
    return make_edge()


def add_routes(api: Api) -> None:
    def offer() -> Response:
        read = api.read(Offer)
        return api.present({"energy_wh": int(read.kwh_amount), "price_micro": int(read.token_price)}, status=201)

    def page() -> Response:
        query = api.query(Page)
        return api.present(
            [
                int(query.limit),
                None if query.min_price is None else int(query.min_price),
                query.cursor and str(query.cursor),
            ],
            next_cursor=Cursor.spell("7,11"),
        )

    def private() -> Response:
        return api.present(str(api.caller().user_id))

    def numbers() -> Response:
        return api.present({"kwh": Decimal("0.000000001"), "tokens": Decimal("123456789012.123456789")})

    def broken() -> Response:
        raise LookupError("the secret plan")

    def refused(error: str) -> Response:
        class_ = getattr(errors, error)
        raise class_("a_code", "A sentence.", **({"retry_after_s": 5} if error == "TooManyRequests" else {}))

    def thing(thing_id: str) -> Response:
        return api.present(str(api.path_id(thing_id)))

    api.route("/offer", methods=["POST"])(offer)
    api.route("/page", methods=["GET"], takes_query=True)(page)
    api.route("/private", methods=["GET"])(private)
    api.route("/numbers", methods=["GET"])(numbers)
    api.route("/broken", methods=["GET"])(broken)
    api.route("/refused/{error}", methods=["GET"])(refused)
    api.route("/things/{thing_id}", methods=["GET", "DELETE"])(thing)
    api.route("/sign", methods=["POST"], sign_in_limit=3)(lambda: api.present({}, status=201))
    api.route("/in", methods=["POST"], sign_in_limit=3)(lambda: api.present({}, status=201))
    api.route("/health", methods=["GET", "HEAD"], needs_database=False)(numbers)


def test_numbers_are_read_with_all_their_digits(edge: Edge) -> None:
    answer = edge.client.post("/offer", raw='{"kwh_amount": 999999.999, "token_price": 0.000001}')
    assert (answer.status, answer.json) == (201, {"energy_wh": 999_999_999, "price_micro": 1})


def test_numbers_are_written_with_all_their_digits(edge: Edge) -> None:
    answer = edge.client.get("/numbers")
    assert answer.json == {"kwh": Decimal("0.000000001"), "tokens": Decimal("123456789012.123456789")}
    assert '"' not in answer.text.replace('"kwh"', "").replace('"tokens"', "")


BAD_BODIES = [
    ("", (400, "invalid_json")),
    ("{", (400, "invalid_json")),
    ('{"kwh_amount": 1, "token_price": 1} x', (400, "invalid_json")),
    ("not json", (400, "invalid_json")),
    ('{"kwh_amount": NaN, "token_price": 1}', (400, "invalid_json")),
    ('{"kwh_amount": Infinity, "token_price": 1}', (400, "invalid_json")),
    ('{"kwh_amount": -Infinity, "token_price": 1}', (400, "invalid_json")),
    ('{"kwh_amount": 01, "token_price": 1}', (400, "invalid_json")),
    ('{"kwh_amount": 1e99999999999999999999, "token_price": 1}', (400, "invalid_kwh_amount")),
    ('{"kwh_amount": ' + "[" * 8000, (400, "invalid_json")),
    ('{"kwh_amount": ' + "9" * 8000 + ', "token_price": 1}', (400, "invalid_kwh_amount")),
    ("[]", (400, "invalid_body")),
    ("null", (400, "invalid_body")),
    ("{}", (400, "invalid_body")),
    ('{"kwh_amount": 1}', (400, "invalid_body")),
    ('{"kwh_amount": 1, "token_price": 1, "user_id": 1}', (400, "invalid_body")),
    ('{"kwh_amount": 1, "token_price": 1, "all_or_none": 1}', (400, "invalid_body")),
    ('{"kwh_amount": 1, "token_price": 1, "all_or_none": "true"}', (400, "invalid_body")),
    ('{"kwh_amount": 1, "token_price": 1, "\\u0000": 1}', (400, "invalid_body")),
    ('{"kwh_amount": true, "token_price": 1}', (400, "invalid_kwh_amount")),
    ('{"kwh_amount": "1", "token_price": 1}', (400, "invalid_kwh_amount")),
    ('{"kwh_amount": null, "token_price": 1}', (400, "invalid_kwh_amount")),
    ('{"kwh_amount": [1], "token_price": 1}', (400, "invalid_kwh_amount")),
    ('{"kwh_amount": 0, "token_price": 1}', (400, "invalid_kwh_amount")),
    ('{"kwh_amount": -0.0, "token_price": 1}', (400, "invalid_kwh_amount")),
    ('{"kwh_amount": -1, "token_price": 1}', (400, "invalid_kwh_amount")),
    ('{"kwh_amount": 0.0001, "token_price": 1}', (400, "invalid_kwh_amount")),
    ('{"kwh_amount": 1e-4, "token_price": 1}', (400, "invalid_kwh_amount")),
    ('{"kwh_amount": 1000000.001, "token_price": 1}', (400, "invalid_kwh_amount")),
    ('{"kwh_amount": 1e400, "token_price": 1}', (400, "invalid_kwh_amount")),
    ('{"kwh_amount": 1, "token_price": false}', (400, "invalid_token_price")),
    ('{"kwh_amount": 1, "token_price": "1"}', (400, "invalid_token_price")),
    ('{"kwh_amount": 1, "token_price": 0}', (400, "invalid_token_price")),
    ('{"kwh_amount": 1, "token_price": 0.0000001}', (400, "invalid_token_price")),
    ('{"kwh_amount": 1, "token_price": 1000.000001}', (400, "invalid_token_price")),
    ('{"kwh_amount": 1, "token_price": 1, "x": "\ud800"}', (400, "invalid_body")),
    ('{"kwh_amount": 1, "kwh_amount": 1, "token_price": 1}', (400, "duplicate_key")),
    ('{"token_price": 1, "kwh_amount": 1000, "token_price": 0.001}', (400, "duplicate_key")),
    ('{"kwh_amount": 1, "token_price": 1, "k\\u0077h_amount": 2}', (400, "duplicate_key")),
    ('{"kwh_amount": 1, "token_price": 1, "all_or_none": true, "all_or_none": true}', (400, "duplicate_key")),
]


def test_a_body_that_is_not_as_it_should_be_is_refused(edge: Edge) -> None:
    refusals = [(raw, edge.client.post("/offer", raw=raw).refusal) for raw, _ in BAD_BODIES]
    assert refusals == BAD_BODIES


def test_a_number_may_be_spelt_in_several_ways(edge: Edge) -> None:
    for raw in ['{"kwh_amount": 1.500, "token_price": 0.10}', '{"kwh_amount": 15e-1, "token_price": 1e-1}']:
        assert edge.client.post("/offer", raw=raw).json == {"energy_wh": 1500, "price_micro": 100_000}


def test_a_body_may_have_16_kb_and_not_a_byte_more(edge: Edge) -> None:
    offer = '{"kwh_amount": 1, "token_price": 1}'
    assert edge.client.post("/offer", raw=offer.ljust(MAX_BODY_BYTES)).status == 201
    assert edge.client.post("/offer", raw=offer.ljust(MAX_BODY_BYTES + 1)).refusal == (413, "payload_too_large")
    assert edge.client.post("/offer", raw="é" * (MAX_BODY_BYTES // 2 + 1)).refusal == (413, "payload_too_large")


def test_a_body_in_base64_is_decoded_and_measured_decoded(edge: Edge) -> None:
    def post(text: bytes) -> tuple[int, str | None]:
        answer = edge.client.post("/offer", raw=base64.b64encode(text).decode(), base64=True)
        return answer.status, answer.json.get("code")

    offer = b'{"kwh_amount": 1, "token_price": 1}'
    assert post(offer.ljust(MAX_BODY_BYTES)) == (201, None)
    assert post(offer.ljust(MAX_BODY_BYTES + 1)) == (413, "payload_too_large")
    assert post(b"\xff\xfe") == (400, "invalid_json")
    assert edge.client.post("/offer", raw="*no base64*", base64=True).refusal == (400, "invalid_body")


def test_a_body_that_does_not_say_it_is_json_is_refused(edge: Edge) -> None:
    for content_type in ["", "text/plain", "application/x-www-form-urlencoded", "application/jsonx"]:
        answer = edge.client.post(
            "/offer", raw='{"kwh_amount": 1, "token_price": 1}', headers={"Content-Type": content_type}
        )
        assert answer.refusal == (415, "unsupported_media_type"), content_type


@pytest.mark.parametrize("coding", ["gzip", "GZIP", "deflate", "br", "zstd", "identity, gzip", "x"])
def test_a_body_that_says_it_is_encoded_is_refused_whether_it_is_or_not(edge: Edge, coding: str) -> None:
    offer = b'{"kwh_amount": 1, "token_price": 1}'
    for sent in (offer, gzip.compress(offer)):
        answer = edge.client.post(
            "/offer", raw=base64.b64encode(sent).decode(), base64=True, headers={"Content-Encoding": coding}
        )
        assert answer.refusal == (415, "unsupported_content_encoding")
        assert answer.headers["Accept-Encoding"] == "identity"


def test_a_body_that_says_it_is_not_encoded_is_taken(edge: Edge) -> None:
    for coding in ("", "identity", " Identity "):
        answer = edge.client.post("/offer", {"kwh_amount": 1, "token_price": 1}, headers={"Content-Encoding": coding})
        assert answer.status == 201, coding


def test_the_content_type_may_carry_a_charset(edge: Edge) -> None:
    for content_type in ["application/json; charset=utf-8", "Application/JSON"]:
        answer = edge.client.post(
            "/offer", raw='{"kwh_amount": 1, "token_price": 1}', headers={"Content-Type": content_type}
        )
        assert answer.status == 201, content_type


BAD_QUERIES: list[tuple[dict[str, str | list[str]], tuple[int, str]]] = [
    ({"limit": "0"}, (400, "invalid_query")),
    ({"limit": "501"}, (400, "invalid_query")),
    ({"limit": "-1"}, (400, "invalid_query")),
    ({"limit": "1.0"}, (400, "invalid_query")),
    ({"limit": "1e1"}, (400, "invalid_query")),
    ({"limit": " 1"}, (400, "invalid_query")),
    ({"limit": ""}, (400, "invalid_query")),
    ({"limit": "\u0663"}, (400, "invalid_query")),
    ({"limit": ["1", "2"]}, (400, "invalid_query")),
    ({"Limit": "1"}, (400, "invalid_query")),
    ({"min_price": "1e"}, (400, "invalid_query")),
    ({"min_price": "1e99"}, (400, "invalid_query")),
    ({"min_price": "1e-7"}, (400, "invalid_query")),
    ({"min_price": "1000.000001"}, (400, "invalid_query")),
    ({"min_price": "1e999999999"}, (400, "invalid_query")),
    ({"min_price": "NaN"}, (400, "invalid_query")),
    ({"min_price": "-1"}, (400, "invalid_query")),
    ({"cursor": "!"}, (400, "invalid_cursor")),
    ({"cursor": ""}, (400, "invalid_cursor")),
    ({"cursor": "_" * 8}, (400, "invalid_cursor")),
]


def test_a_query_that_is_not_as_it_should_be_is_refused(edge: Edge) -> None:
    refusals = [(query, edge.client.get("/page", query=query).refusal) for query, _ in BAD_QUERIES]
    assert refusals == BAD_QUERIES


def test_a_price_to_compare_with_may_be_0(edge: Edge) -> None:
    for spelt in ("0", "0.0", "0e3", "1000"):
        answer = edge.client.get("/page", query={"min_price": spelt})
        assert (answer.status, answer.json[1]) == (200, int(float(spelt) * 10**6)), spelt


@pytest.mark.parametrize("spelt", ["0.000001", "1e-06", "1E-6", "0.1e-5"])
def test_a_number_in_a_query_may_be_spelt_in_several_ways(edge: Edge, spelt: str) -> None:
    assert edge.client.get("/page", query={"min_price": spelt}).json[1] == 1


def test_a_route_without_parameters_refuses_any(edge: Edge) -> None:
    assert edge.client.get("/numbers", query={"limit": "1"}).refusal == (400, "invalid_query")


def test_a_link_header_leads_to_the_next_page_under_the_same_filter(edge: Edge) -> None:
    answer = edge.client.get("/page", query={"limit": "5", "min_price": "0.25"})
    link = answer.headers["Link"]
    assert link.endswith('>; rel="next"')
    target = link.removeprefix("<?").partition(">")[0]
    followed = edge.client.get("/page", query=dict(part.split("=") for part in target.split("&")))
    assert followed.json == [5, 250_000, "7,11"], target
    assert Cursor("7,11").integers(2) == (7, 11)


@pytest.mark.parametrize("position", ["", "7", "7,11,13", "7,-1", "7,x", "7," + "9" * 30])
def test_a_cursor_of_another_route_is_refused(position: str) -> None:
    with pytest.raises(errors.InvalidRequest):
        Cursor(position).integers(2)


STATUSES = {
    "InvalidRequest": 400,
    "Unauthorized": 401,
    "Forbidden": 403,
    "NotFound": 404,
    "Conflict": 409,
    "PayloadTooLarge": 413,
    "UnsupportedMediaType": 415,
    "TooManyRequests": 429,
}


def test_each_error_of_the_domain_has_its_status(edge: Edge) -> None:
    answers = {error: edge.client.get(f"/refused/{error}") for error in STATUSES}
    assert {error: answer.status for error, answer in answers.items()} == STATUSES
    assert {answer.text for answer in answers.values()} == {'{"error":"A sentence.","code":"a_code"}'}


def test_no_error_of_the_domain_was_forgotten() -> None:
    assert set(STATUS_OF) == set(errors.MarketError.__subclasses__())


def test_an_unexpected_exception_tells_only_the_request_id(edge: Edge) -> None:
    answer = edge.client.get("/broken")
    failure, audit = edge.printed()
    assert answer.refusal == (500, "internal")
    assert audit["request_id"] in answer.json["error"]
    assert answer.headers["X-Request-Id"] == audit["request_id"]
    assert "secret plan" not in answer.text
    assert "LookupError" not in answer.text
    assert failure["request_id"] == audit["request_id"]
    assert "LookupError: the secret plan" in failure["traceback"]


def test_after_an_unexpected_exception_the_next_request_is_served(edge: Edge) -> None:
    edge.client.get("/broken")
    assert edge.client.get("/numbers").status == 200


def test_every_request_leaves_one_audit_line(edge: Edge) -> None:
    edge.client.get("/things/00000000-0000-4000-8000-000000000000", ip="198.51.100.9")
    edge.client.get("/things/x")
    edge.client.get("/private")
    edge.client.get("/nothing")
    edge.client.call("PUT", "/offer")
    edge.client.call("OPTIONS", "/offer")
    lines = edge.printed()
    assert [line["status"] for line in lines] == [200, 404, 401, 404, 405, 204]
    for line in lines:
        assert set(line) == {"method", "path", "ip", "user_id", "status", "latency_ms", "request_id"}
    first = lines[0]
    assert (first["method"], first["path"]) == ("GET", "/things/00000000-0000-4000-8000-000000000000")
    assert (first["ip"], first["user_id"]) == ("198.51.100.9", None)
    assert 0 < first["latency_ms"] < 10_000


def test_the_audit_line_cannot_be_forged_by_a_path(edge: Edge) -> None:
    edge.client.get('/things/x"}\n{"status":200')
    (line,) = edge.printed()
    assert line["status"] == 404


def test_an_unknown_path_or_method_is_refused_in_the_shape_of_every_error(edge: Edge) -> None:
    assert edge.client.get("/nothing").refusal == (404, "no_such_route")
    refused = edge.client.call("PUT", "/offer")
    assert refused.refusal == (405, "method_not_allowed")
    assert refused.headers["Allow"] == "OPTIONS, POST"


def test_an_id_that_is_spelt_unlike_one_names_nothing(edge: Edge) -> None:
    for spelling in ("x", "1", "{00000000-0000-4000-8000-000000000000}", "%00"):
        assert edge.client.get(f"/things/{spelling}").refusal == (404, "not_found")


def test_a_source_may_ask_so_often_in_a_minute_and_no_more(make_edge: MakeEdge, steady_minute: None) -> None:  # noqa: ARG001
    edge = make_edge(limit=3)
    assert [edge.client.get("/numbers").status for _ in range(4)] == [200, 200, 200, 429]
    refused = edge.client.get("/numbers")
    assert refused.refusal == (429, "too_many_requests")
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    assert edge.client.get("/numbers", ip="203.0.113.8").status == 200


def test_the_limit_of_the_specification_is_a_hundred(make_edge: MakeEdge, steady_minute: None) -> None:  # noqa: ARG001
    edge = make_edge(limit=100)
    assert [edge.client.get("/numbers").status for _ in range(101)] == [200] * 100 + [429]


SAYS_WHO = [
    "X-Forwarded-For", "X-Real-IP", "X-Client-IP", "X-Cluster-Client-IP", "True-Client-IP", "CF-Connecting-IP",
    "X-Original-Forwarded-For", "X-Envoy-External-Address", "Forwarded", "Via",
]  # fmt: skip


def test_a_header_does_not_name_the_source(make_edge: MakeEdge, steady_minute: None) -> None:  # noqa: ARG001
    edge = make_edge(limit=len(SAYS_WHO))
    for number, name in enumerate(SAYS_WHO):
        address = f"for=192.0.2.{number}" if name == "Forwarded" else f"192.0.2.{number}"
        assert edge.client.get("/numbers", headers={name: address}).status == 200
    everything = dict.fromkeys(SAYS_WHO, "192.0.2.99, 192.0.2.98")
    assert edge.client.get("/numbers", headers=everything).refusal == (429, "too_many_requests")
    assert edge.client.get("/numbers", ip="203.0.113.8").status == 200
    assert {line["ip"] for line in edge.printed()} == {"203.0.113.7", "203.0.113.8"}


def test_a_source_of_ipv6_is_the_network_that_one_subscriber_has(make_edge: MakeEdge, steady_minute: None) -> None:  # noqa: ARG001
    edge = make_edge(limit=3)
    network = [f"2001:db8:1:2::{number:x}" for number in range(2)] + [
        "2001:0DB8:1:2:ffff:ffff:ffff:ffff",
        "2001:db8:1:2::9",
    ]
    assert [edge.client.get("/numbers", ip=ip).status for ip in network] == [200, 200, 200, 429]
    assert edge.client.get("/numbers", ip="2001:db8:1:3::1").status == 200
    assert [edge.client.get("/numbers", ip="192.0.2.1").status for _ in range(3)] == [200] * 3
    assert edge.client.get("/numbers", ip="::ffff:192.0.2.1").status == 429  # the same, spelt otherwise
    assert edge.client.get("/numbers", ip="::ffff:192.0.2.2").status == 200


SAID_OF_A_SOURCE = {
    "1.2.3.4": "1.2.3.4",
    " 1.2.3.4 ": "1.2.3.4",
    "1.2.3.4:5555": "1.2.3.4",
    "1.2.3.4, 5.6.7.8": "1.2.3.4",
    "1.2.3.4:5555,5.6.7.8:1": "1.2.3.4",
    "[2001:db8::1]": "2001:db8::1",
    "[2001:DB8:0::1]:5555, 1.2.3.4": "2001:db8::1",
    "2001:db8::1": "2001:db8::1",
    "fe80::1%eth0": "fe80::1",
    "[fe80::1%25eth0]:80": "fe80::1",
    "::ffff:1.2.3.4": "::ffff:1.2.3.4",
    "": "unknown",
    ",1.2.3.4": "unknown",
    "unknown": "unknown",
    "test-invoke-source-ip": "unknown",  # as the console of API Gateway has it
    "999.1.1.1": "unknown",
    "1.2.3": "unknown",
    "01.2.3.4": "unknown",
    "0x7f.1": "unknown",
    "1:2": "unknown",
    "1.2.3.4:5555:6666": "unknown",
    "[1.2.3.4": "1.2.3.4",
    "[]:80": "unknown",
    "2001:db8::1::2": "unknown",
    "\u0661.2.3.4": "unknown",
    "1.2.3.4\x00": "unknown",
    "\ud800": "unknown",
    "x" * 10_000: "unknown",
}


def test_whatever_is_said_of_a_source_the_request_is_served_and_counted(edge: Edge) -> None:
    for said in SAID_OF_A_SOURCE:
        assert edge.client.get("/numbers", ip=said).status == 200, said
    assert {said: line["ip"] for said, line in zip(SAID_OF_A_SOURCE, edge.printed(), strict=True)} == SAID_OF_A_SOURCE


@pytest.mark.parametrize("identity", [None, {}, {"sourceIp": None}, {"sourceIp": 5}])
def test_an_event_that_names_no_source_is_served(edge: Edge, identity: object) -> None:
    event = proxy_event(
        method="GET",
        path="/numbers",
        resource_paths=edge.api.routes,
        headers={},
        query={},
        body=None,
        base64=False,
        ip="",
    )
    event["requestContext"]["identity"] = identity
    assert edge.api(event, None)["statusCode"] == 200


def test_sources_that_name_no_address_have_one_allowance_together(make_edge: MakeEdge, steady_minute: None) -> None:  # noqa: ARG001
    edge = make_edge(limit=2)
    assert [edge.client.get("/numbers", ip=said).status for said in ("x", "y", "", "z")] == [200, 200, 429, 429]
    assert [edge.client.get("/numbers", ip=f"1.2.3.4:{port}").status for port in (1, 2, 3)] == [200, 200, 429]


def test_preflights_count_in_no_limit(make_edge: MakeEdge, steady_minute: None) -> None:  # noqa: ARG001
    edge = make_edge(limit=1)
    assert [edge.client.call("OPTIONS", path).status for path in ("/numbers", "/sign") * 5] == [204] * 10
    assert [edge.client.get("/numbers").status for _ in range(2)] == [200, 429]
    assert edge.client.call("OPTIONS", "/numbers").status == 204


def test_who_asks_for_the_head_gets_what_get_would_but_for_the_body(make_edge: MakeEdge) -> None:
    edge = make_edge(url="postgresql://127.0.0.1:1/none")
    got, probed = edge.client.get("/health"), edge.client.call("HEAD", "/health")
    assert (probed.status, probed.text) == (200, "")
    assert probed.headers | {"X-Request-Id": ""} == got.headers | {"X-Request-Id": ""}
    assert edge.client.call("HEAD", "/health", query={"x": "1"}).status == 400
    refused = edge.client.call("HEAD", "/offer")
    assert (refused.status, refused.text, refused.headers["Allow"]) == (405, "", "OPTIONS, POST")


def test_requests_at_the_same_moment_are_counted_one_by_one(make_edge: MakeEdge, steady_minute: None) -> None:  # noqa: ARG001
    edges = [make_edge(limit=50) for _ in range(8)]
    statuses: list[int] = []

    def ask(edge: Edge) -> None:
        statuses.extend(edge.client.get("/numbers").status for _ in range(10))

    all_at_once([partial(ask, edge) for edge in edges])
    assert Counter(statuses) == {200: 50, 429: 30}


@pytest.fixture
def people(connection: psycopg.Connection) -> list[tuple[UUID, str]]:
    """Two users, each with a token."""
    rows = connection.execute(
        "INSERT INTO users (wallet_address) SELECT '0x' || lpad(n::text, 40, '0') FROM generate_series(1, 2) n"
        " RETURNING id"
    ).fetchall()
    return [(row[0], token_of(connection, row[0])) for row in rows]


People = list[tuple[UUID, str]]


def test_a_user_may_ask_so_often_from_wherever(
    make_edge: MakeEdge,
    people: People,
    steady_minute: None,  # noqa: ARG001
) -> None:
    edge = make_edge(user_limit=3, keys=json.loads(ENVIRONMENT["JWT_KEYS"]))
    (ann, anns), (_, bens) = people
    assert [edge.client.get("/private", token=anns, ip=f"198.51.100.{n}").status for n in range(3)] == [200] * 3
    refused = edge.client.get("/private", token=anns, ip="198.51.100.9")
    assert refused.refusal == (429, "too_many_requests")
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    assert edge.printed()[-1]["user_id"] == str(ann)
    assert edge.client.get("/private", token=bens, ip="198.51.100.9").status == 200  # nobody else is held up
    assert edge.client.get("/numbers", ip="198.51.100.9").status == 200


def test_nobody_uses_up_what_another_user_may_ask(
    make_edge: MakeEdge,
    people: People,
    steady_minute: None,  # noqa: ARG001
) -> None:
    """A token counts for whom it names only if it is one of ours."""
    edge = make_edge(user_limit=2, keys=json.loads(ENVIRONMENT["JWT_KEYS"]))
    _, good = people[0]
    header, claims, _ = good.split(".")
    for forged in (f"{header}.{claims}.{'A' * 43}", f"{header}.{claims}."):
        for _ in range(5):
            assert edge.client.get("/private", token=forged, ip="192.0.2.66").status == 401
    assert [edge.client.get("/private", token=good).status for _ in range(3)] == [200, 200, 429]


def test_who_is_refused_is_told_so_before_anything_else(
    make_edge: MakeEdge,
    people: People,
    steady_minute: None,  # noqa: ARG001
) -> None:
    edge = make_edge(limit=1, keys=json.loads(ENVIRONMENT["JWT_KEYS"]))
    assert edge.client.get("/private", token=people[0][1]).status == 200
    for token in (people[0][1], people[1][1], "made up", None):
        assert edge.client.get("/private", token=token).refusal == (429, "too_many_requests")


def test_signing_in_has_a_limit_of_its_own_which_all_its_routes_share(make_edge: MakeEdge, steady_minute: None) -> None:  # noqa: ARG001
    edge = make_edge(limit=6)
    assert [edge.client.post(path, {}).status for path in ("/sign", "/in", "/sign", "/in")] == [201, 201, 201, 429]
    assert edge.client.post("/sign", {}, ip="203.0.113.8").status == 201
    assert edge.client.get("/numbers").status == 200  # the others go on
    # What was refused counts as well, here as there: now it is the source's own limit.
    assert [edge.client.get("/numbers").status for _ in range(2)] == [200, 429]


def test_counts_of_minutes_gone_by_are_forgotten(edge: Edge, database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as conn:
        conn.execute(
            "INSERT INTO rate_limits SELECT 'old' || n, date_trunc('minute', now()) - interval '1 minute', 5"
            " FROM generate_series(1, 30) n"
        )
        edge.client.get("/numbers")
        assert conn.execute("SELECT source, requests FROM rate_limits").fetchall() == [("203.0.113.7", 1)]


def test_a_preflight_is_answered_without_the_database(make_edge: MakeEdge) -> None:
    edge = make_edge(url="postgresql://127.0.0.1:1/none")
    answer = edge.client.call("OPTIONS", "/offer", headers={"Origin": "https://any.example"})
    assert (answer.status, answer.text) == (204, "")
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert answer.headers["Access-Control-Allow-Methods"] == "OPTIONS, POST"
    assert "Idempotency-Key" in answer.headers["Access-Control-Allow-Headers"]


def test_a_browser_of_a_listed_origin_may_read_answers_and_refusals(make_edge: MakeEdge) -> None:
    edge = make_edge(origins=("https://a.example", "https://b.example"))
    for path in ("/numbers", "/broken", "/nothing"):
        listed = edge.client.get(path, headers={"Origin": "https://b.example"})
        assert listed.headers["Access-Control-Allow-Origin"] == "https://b.example"
        assert "Link" in listed.headers["Access-Control-Expose-Headers"]
        stranger = edge.client.get(path, headers={"Origin": "https://c.example"})
        assert "Access-Control-Allow-Origin" not in stranger.headers
        assert listed.headers["Vary"] == stranger.headers["Vary"] == "Origin"


def test_without_the_database_requests_are_refused_without_a_detail(make_edge: MakeEdge) -> None:
    edge = make_edge(url="postgresql://somebody:hunter2@127.0.0.1:1/none")
    answer = edge.client.get("/numbers")
    assert answer.refusal == (503, "database_unavailable")
    assert answer.headers["Retry-After"] == "2"
    assert "127.0.0.1" not in answer.text
    assert "hunter2" not in json.dumps(edge.printed())


def test_what_needs_no_database_is_served_without_it(make_edge: MakeEdge) -> None:
    assert make_edge(url="postgresql://127.0.0.1:1/none").client.get("/health").status == 200


def test_a_dropped_connection_is_replaced_unnoticed(edge: Edge, database_url: str) -> None:
    assert edge.client.get("/numbers").status == 200
    with psycopg.connect(database_url, autocommit=True) as conn:
        conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    assert edge.client.get("/numbers").status == 200


def test_a_statement_that_fails_is_not_said_again(database_url: str) -> None:
    database, said = Database(database_url), []

    def divide(conn: psycopg.Connection) -> object:
        said.append(conn)
        return conn.execute("SELECT 1 / (count(*) - count(*)) FROM zones").fetchone()

    for _ in range(2):
        with pytest.raises(psycopg.errors.DivisionByZero):
            database.statement(divide)
    assert len(said) == 2
    assert said[0] is said[1]  # the connection is as good as before
    database.close()


def test_after_a_failover_the_server_that_only_reads_is_left(edge: Edge, owner_url: str) -> None:
    with psycopg.connect(owner_url, autocommit=True) as conn:
        name = psycopg.sql.Identifier(conn.info.dbname)
        conn.execute(psycopg.sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(name))
        assert edge.client.get("/numbers").refusal == (503, "database_unavailable")
        conn.execute(psycopg.sql.SQL("ALTER DATABASE {} RESET default_transaction_read_only").format(name))
    assert edge.client.get("/numbers").status == 200


def test_a_session_has_its_limits_and_asks_for_them_as_a_proxy_lets_it(database_url: str) -> None:
    database = Database(database_url)
    with database.transaction() as conn:
        assert conn.execute("SELECT current_setting('statement_timeout'), current_setting('timezone')").fetchall() == [
            ("5s", "UTC")
        ]
    database.close()
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:

        def first_message() -> bytes:
            with server.accept()[0] as client:
                return client.recv(4096)

        said = pool.submit(first_message)
        port = server.getsockname()[1]
        with (
            pytest.raises(psycopg.OperationalError),
            Database(f"postgresql://a@127.0.0.1:{port}/b?sslmode=disable&gssencmode=disable").transaction(),
        ):
            pass
        assert b"database\0b\0" in said.result()
        assert b"options\0" not in said.result()


HEAVY = "boto3,botocore,eth_account,eth_keys,pydantic,web3,cryptography,requests,yaml"
CURVES = "coincurve,btclib_libsecp256k1,Crypto"  # only who signs in needs them


@pytest.mark.parametrize("function", ["auth_api", "market_api", "iot_api", "network_api", "analytics_api"])
def test_the_request_path_imports_nothing_heavy(load_api: Callable[[str], Client], function: str) -> None:
    """As in Lambda, where the layer holds none of it: a library that would use one of these must do without."""
    load_api(function)  # sets the environment
    unwanted = HEAVY if function == "auth_api" else f"{HEAVY},{CURVES}"
    script = (
        "import sys, runpy\n"
        "sys.modules.update(dict.fromkeys(sys.argv[2].split(',')))\n"
        "runpy.run_path(sys.argv[1])\n"
        "print('imported')"
    )
    layer = Path(__file__).parents[2] / "layers" / "energy_market"
    done = subprocess.run(
        [sys.executable, "-c", script, str(FUNCTIONS / function / "app.py"), unwanted],
        env={**os.environ, "PYTHONPATH": str(layer)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "imported"


@pytest.fixture
def steady_minute(database_url: str) -> None:
    """Wait while the minute is about to end: the counts begin anew with the next."""
    with psycopg.connect(database_url) as conn:
        conn.execute(
            "SELECT pg_sleep(60 - extract(second FROM now())::double precision) WHERE extract(second FROM now()) > 50"
        )
