"""The contract by itself: what a client that was generated from it relies on."""

import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urljoin

import pytest

from tests.support.authorisation import ACCESS, Rule
from tests.support.contract import check, contract, resolved, shape

Operation = dict[str, Any]

OPERATIONS: dict[str, tuple[str, str, Operation]] = {
    operation["operationId"]: (method.upper(), path, operation)
    for path, methods in contract()["paths"].items()
    for method, operation in methods.items()
}
SHOWN = {name: one for name, one in OPERATIONS.items() if one[0] != "HEAD"}

BODY = {"invalid_query", "invalid_json", "invalid_body", "duplicate_key"}
PROOF = {"invalid_wallet_address", "malformed_signature"}
OF_ITS_OWN: dict[str, dict[int, set[str]]] = {
    "openChallenge": {400: {"invalid_wallet_address"}},
    "signUp": {400: PROOF, 401: {"invalid_signature"}, 409: {"wallet_already_registered"}},
    "logIn": {400: PROOF, 401: {"invalid_signature"}},
    "refreshSession": {401: {"invalid_refresh_token", "refresh_token_reused"}},
    "logOut": {401: {"invalid_refresh_token"}},
    "readOrder": {404: {"not_found", "unknown_order"}},
    "createOrder": {
        400: {
            "invalid_kwh_amount", "invalid_token_price", "invalid_expires_at", "device_not_allowed",
            "invalid_idempotency_key",
        },
        403: {"kyc_required"},
        404: {"unknown_device"},
        409: {"device_required", "too_many_open_orders", "market_paused", "over_limit", "idempotency_key_reused"},
    },
    "cancelOrder": {403: {"not_your_order"}, 404: {"unknown_order"}, 409: {"order_not_open"}},
    "registerDevice": {
        400: {"invalid_csr", "invalid_idempotency_key"},
        409: {"too_many_devices", "idempotency_key_reused", "already_registered"},
    },
    "removeDevice": {404: {"not_found", "unknown_device"}, 409: {"device_owes_energy"}},
    "listReports": {404: {"not_found", "unknown_device"}},
    "rotateCertificate": {
        400: {"invalid_csr"}, 404: {"not_found", "unknown_device"}, 409: {"too_many_certificates"},
    },
    "revokeCertificates": {404: {"not_found", "unknown_device"}},
    "registerNode": {400: {"invalid_idempotency_key"}, 409: {"too_many_nodes", "idempotency_key_reused"}},
    "listUsers": {400: {"invalid_wallet_address"}},
    "setKycStatus": {403: {"own_account"}, 404: {"not_found", "no_such_user"}},
    "revokeDevice": {404: {"not_found", "unknown_device"}},
    "readChainAccount": {503: {"chain_unavailable", "chain_unfit"}},
    "readChain": {503: {"chain_unavailable", "chain_unfit"}},
}  # fmt: skip
"""Codes that an operation can give beyond those of its kind, by hand."""

LOOKS_THE_USER_UP = {
    "readProfile", "updateProfile", "createOrder", "listOrders", "readBook", "readPrice", "readHistory", "listTrades",
    "registerDevice", "registerNode", "readChainAccount",
}  # fmt: skip
NEEDS_NO_DATABASE = {"readChain", "readHealth", "readContract", "readDocs"}


def possible(operation_id: str) -> dict[int, set[str]]:
    """The codes that an operation can give: those of its kind, and its own."""
    method, path, operation = OPERATIONS[operation_id]
    rule = ACCESS[method, path].rule
    own = OF_ITS_OWN.get(operation_id, {})
    codes: dict[int, set[str]] = {400: {"invalid_query"}, 403: {"refused_at_the_edge"}}
    codes |= {429: {"too_many_requests"}, 500: {"internal"}, 504: {"timed_out"}}
    if operation_id not in NEEDS_NO_DATABASE:
        codes[503] = {"database_unavailable"}
    if "requestBody" in operation:
        codes[400] = {*BODY}
        codes[413] = {"payload_too_large"}
        codes[415] = {"unsupported_media_type", "unsupported_content_encoding"}
    if {"$ref": "#/components/parameters/Cursor"} in operation.get("parameters", ()):
        codes[400].add("invalid_cursor")
    if rule.needs_token:
        codes[401] = {"missing_token", "invalid_token", "token_expired", "session_ended"}
        if operation_id in LOOKS_THE_USER_UP or rule is Rule.OPERATOR:
            codes[401].add("unknown_user")
    if rule is Rule.OPERATOR:
        codes[403].add("not_an_operator")
    for status, more in own.items():
        codes[status] = codes.get(status, set()) | more
    return codes


def listed(operation: Operation) -> dict[int, set[str]]:
    """The codes that the contract lists for an operation."""
    found = {}
    for status, response in operation["responses"].items():
        if int(status) < 400:
            continue
        schema = resolved(response)["content"]["application/json"]["schema"]
        if "allOf" in schema:
            error, narrowed = schema["allOf"]
            assert error == {"$ref": "#/components/schemas/Error"}
            found[int(status)] = set(narrowed["properties"]["code"]["enum"])
    return found


@pytest.mark.parametrize("operation_id", SHOWN)
def test_an_operation_lists_the_codes_that_it_can_give_and_no_others(operation_id: str) -> None:
    assert listed(OPERATIONS[operation_id][2]) == possible(operation_id)


@pytest.mark.parametrize("operation_id", SHOWN)
def test_every_code_is_named_to_people_and_has_an_example(operation_id: str) -> None:
    operation = OPERATIONS[operation_id][2]
    for status, codes in listed(operation).items():
        response = resolved(operation["responses"][str(status)])
        assert set(re.findall(r"`(\w+)`", response["description"])) == codes
        content = response["content"]["application/json"]
        assert content["examples"].keys() == codes
        for code, example in content["examples"].items():
            assert example["value"]["code"] == code
            assert example["value"]["error"].endswith(".")
            check(example["value"], content["schema"], f"{operation_id} {status} {code}")


def test_the_head_is_answered_with_the_statuses_of_get() -> None:
    for method, path, operation in OPERATIONS.values():
        if method == "HEAD":
            get = contract()["paths"][path]["get"]
            assert operation["responses"].keys() == get["responses"].keys()
            assert [one for one in operation["responses"].values() if "content" in one] == []


def contents(operation: Operation) -> Iterator[tuple[str, dict[str, Any]]]:
    """What an operation takes and what it answers, where that has a body: (where, media type's object)."""
    for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
        yield f"request {media_type}", content
    for status, response in operation["responses"].items():
        for media_type, content in resolved(response).get("content", {}).items():
            yield f"{status} {media_type}", content


@pytest.mark.parametrize("operation_id", SHOWN)
def test_whatever_an_operation_takes_and_answers_has_an_example_that_is_one(operation_id: str) -> None:
    method, path, operation = OPERATIONS[operation_id]
    for where, content in contents(operation):
        assert content.get("examples"), (operation_id, where)
        for example in content["examples"].values():
            # As a client reads it: JSON, whose numbers may be floats.
            value = json.loads(json.dumps(resolved(example)["value"]))
            check(value, content["schema"], f"{method} {path} {where}")
    for parameter in map(resolved, operation.get("parameters", ())):
        check(parameter["example"], parameter["schema"], f"{operation_id} {parameter['name']}")


def test_no_example_is_left_over() -> None:
    used = set(re.findall(r"#/components/examples/(\w+)", json.dumps(contract()["paths"])))
    assert used == contract()["components"]["examples"].keys()


LINKS = [
    (operation_id, status, name, link)
    for operation_id, (_, _, operation) in OPERATIONS.items()
    for status, response in operation["responses"].items()
    for name, link in resolved(response).get("links", {}).items()
]


@pytest.mark.parametrize(("operation_id", "status", "name", "link"), LINKS)
def test_a_link_leads_from_what_is_answered_to_what_an_operation_takes(
    operation_id: str, status: str, name: str, link: dict[str, Any]
) -> None:
    target = OPERATIONS[link["operationId"]][2]
    assert name == link["operationId"]
    body = next(iter(OPERATIONS[operation_id][2]["responses"][status]["content"].values()))
    answer = resolved(next(iter(body["examples"].values())))["value"]

    def at(expression: str) -> object:
        found = answer
        for step in expression.removeprefix("$response.body#/").split("/"):
            found = found[int(step) if isinstance(found, list) else step]
        return found

    parameters = {one["name"]: one for one in target.get("parameters", ()) if "name" in one}
    for parameter, expression in link.get("parameters", {}).items():
        check(at(expression), parameters[parameter]["schema"], f"{operation_id} -> {name}")
    assert link.get("parameters", {}).keys() == {name for name, one in parameters.items() if one.get("required")}
    assert link.keys() == {"operationId", "parameters"}  # of a body the standard knows no parts, and some clients stop


def test_an_id_that_is_answered_leads_on() -> None:
    """Every operation with an id in its path is reached by a link, from the list or from what made it."""
    reached = {link["operationId"] for _, _, _, link in LINKS}
    assert reached == {name for name, (_, path, _) in OPERATIONS.items() if "{id}" in path}


@pytest.mark.parametrize(
    "base",
    [
        "https://a1b2c3d4e5.execute-api.eu-central-1.amazonaws.com/live",
        "http://127.0.0.1:4566/_aws/execute-api/a1b2c3d4e5/live",
        "https://api.market.example.org",
        "https://market.example.org/trading/v2",
    ],
)
def test_the_contracts_server_is_the_one_that_serves_it(base: str) -> None:
    """RFC 3986, as OpenAPI has it of a relative server: below a stage, on a domain, or behind a longer path."""
    (server,) = contract()["servers"]
    (served_at,) = (path for path in contract()["paths"] if path.endswith("/openapi.json"))
    assert urljoin(base + served_at, server["url"]).rstrip("/") == base


def floats_allow(value: float, schema: dict[str, Any]) -> bool:
    """As most validators of JSON Schema see a number: multiples by dividing floats."""
    whole = "multipleOf" not in schema or (value / schema["multipleOf"]).is_integer()
    return whole and bool(schema["minimum"] <= value <= schema["maximum"])


@pytest.mark.parametrize(("name", "unit"), [("Kwh", 1000), ("Price", 10**6), ("PriceBound", 10**6)])
def test_a_validator_that_counts_in_floats_takes_every_amount(name: str, unit: int) -> None:
    schema = contract()["components"]["schemas"][name]
    amounts = [0.043, *(amount / unit for amount in [*range(1, 20_000), *range(1, 1000 * unit, 99_991)])]
    as_multiples = [amount for amount in amounts if not floats_allow(amount, {**schema, "multipleOf": 1 / unit})]
    assert len(as_multiples) > len(amounts) / 20  # what a fraction as a multiple would refuse
    assert [amount for amount in amounts if not floats_allow(amount, schema)] == []
    assert f"{schema['x-decimals']} decimals" in schema["description"]


def test_no_multiple_of_the_contract_is_a_fraction() -> None:
    assert re.findall(r'"multipleOf": \d*\.\d+', json.dumps(contract())) == []


def test_what_a_window_of_candles_may_be_is_said() -> None:
    description = " ".join(OPERATIONS["readHistory"][2]["description"].split())
    assert "`from` must be before `to`" in description
    assert "at most 1,000 intervals apart" in description


def test_a_shape_is_what_the_schema_names() -> None:
    trades = {"type": "array", "items": {"$ref": "#/components/schemas/PublicTrade"}}
    assert shape([{"id": 1, "payload": {"x": 1}}, {"token_price": 2}], trades) == {
        "[].id",
        "[].token_price",
        "[].payload",
    }
