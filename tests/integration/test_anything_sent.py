"""Whatever is sent to whichever route: an answer that the contract knows, and never a 500."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.api import Client, SignedIn, signed_in
from tests.support.contract import contract
from tests.support.fixtures import LoadApi

FUNCTIONS = {"auth": "auth_api", "market": "market_api", "iot": "iot_api", "network": "network_api"}

# What people and fuzzers send: values that some field takes, values next to them, and anything at all.
USUAL: st.SearchStrategy[object] = st.sampled_from(
    [
        None, True, False, 0, 1, -1, 1.5, 0.0001, 1e-7, 1e300, 10**30, [], {},
        "", " ", "1", "a\u0000b", "\ud800", "a roof", "buy", "sell", "esp32", "raspi", "donor", "recipient",
        "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed", "0x" + "11" * 64 + "1b", "0x" + "00" * 65,
        "00000000-0000-4000-8000-000000000000", "00000000-0000-4000-8000-000000000000." + "A" * 43,
        "2030-01-01T00:00:00Z", "2030-01-01", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z",
    ]
)  # fmt: skip
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)
TEXTS = st.text(max_size=30) | USUAL.filter(lambda value: isinstance(value, str | int)).map(str)


def operations() -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (method.upper(), path, operation)
        for path, methods in contract()["paths"].items()
        for method, operation in methods.items()
        if operation["tags"][0] in FUNCTIONS
    ]


def fields_of(operation: dict[str, Any]) -> list[str]:
    if "requestBody" not in operation:
        return []
    reference = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    return list(contract()["components"]["schemas"][reference.rpartition("/")[2]]["properties"])


@st.composite
def requests(draw: st.DrawFn) -> dict[str, Any]:
    method, path, operation = draw(st.sampled_from(operations()))
    fields = fields_of(operation)
    body = draw(
        st.fixed_dictionaries({}, optional=dict.fromkeys(fields, USUAL | ANYTHING))
        | st.fixed_dictionaries(dict.fromkeys(fields, USUAL))
        | ANYTHING
    )
    names = [p["name"] for p in operation.get("parameters", ()) if p.get("in") == "query"] + ["limit", "cursor", "x"]
    return {
        "function": FUNCTIONS[operation["tags"][0]],
        "method": method,
        "path": path.replace("{id}", draw(TEXTS.map(lambda text: text.replace("/", "") or "x"))),
        "raw": draw(st.just(json.dumps(body)) | st.text(max_size=40)) if fields else None,
        "query": draw(st.dictionaries(st.sampled_from(names), TEXTS, max_size=2)),
        "headers": draw(
            st.fixed_dictionaries(
                {}, optional={"Idempotency-Key": TEXTS, "Origin": TEXTS, "Content-Type": st.just("text/plain")}
            )
        ),
        "base64": draw(st.integers(0, 9)) == 0,
        "with_token": draw(st.integers(0, 9)) > 0,
    }


@pytest.fixture
def apis(iot: object, load_api: LoadApi) -> dict[str, Client]:  # noqa: ARG001 - AWS must be the pretended one
    return {function: load_api(function) for function in FUNCTIONS.values()}


@pytest.fixture
def ann(auth: Client) -> SignedIn:
    return signed_in(auth)


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(requests())
def test_no_request_breaks_the_api(apis: dict[str, Client], ann: SignedIn, sent: dict[str, Any]) -> None:
    answer = apis[sent["function"]].call(
        sent["method"],
        sent["path"],
        raw=sent["raw"],
        query=sent["query"],
        headers=sent["headers"],
        base64=sent["base64"],
        token=ann.token if sent["with_token"] else None,
    )
    assert answer.status < 500, answer.text
