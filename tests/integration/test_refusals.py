"""What a person reads who sent something malformed: a sentence about their field, and never the decoder's own words."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.api import Client, SignedIn, signed_in
from tests.support.contract import contract
from tests.support.fixtures import LoadApi

ROOT = Path(__file__).parents[2]
FUNCTIONS = {tag: f"{tag}_api" for tag in ("auth", "market", "iot", "network", "analytics", "admin")}

GOOD: dict[str, object] = {
    "wallet_address": "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
    "signature": "0x" + "11" * 64 + "1b",
    "refresh_token": "00000000-0000-4000-8000-000000000000." + "A" * 43,
    "location": "a roof",
    "type": "buy",
    "kwh_amount": 1,
    "token_price": 1,
    "order_id": "00000000-0000-4000-8000-000000000000",
    "device_type": "esp32",
    "reason": "because",
    "kyc_status": "Verified",
    "queue": "telemetry",
}
"""A value of each field that a request must have."""

BODY_CODES = {
    "wallet_address": "invalid_wallet_address",
    "signature": "malformed_signature",
    "kwh_amount": "invalid_kwh_amount",
    "token_price": "invalid_token_price",
    "expires_at": "invalid_expires_at",
    "csr": "invalid_csr",
}
"""The code of a field that is malformed, in whatever way; of all others it is `invalid_body`."""
QUERY_CODES = {"wallet_address": "invalid_wallet_address", "cursor": "invalid_cursor"}

RAISED = re.compile(
    r"(?:InvalidRequest|Unauthorized|Forbidden|NotFound|Conflict|PayloadTooLarge|UnsupportedMediaType|TooManyRequests)"
    r"\(\s*f?\"[\w{}]+\",\s*f?(?:\"|')(.+?)(?:\"|'),?\s*\)"
)

MALFORMED: tuple[object, ...] = (
    5, 1.5, -1, 10**30, True, [], [1], {}, {"a": 1}, "", " ", "x" * 9000, "no such", "a\nb", "2020-01-01T00:00:00",
    "2020-01-01T00:00:00Z", "2030-02-31T00:00:00Z", "9999-12-31T23:59:59-23:59", "é", "\ud800",
)  # fmt: skip
LEAKS = re.compile(
    r"[`\\^${}\[\]|]|regex|matching|Expected|got |\b(?:str|int|float|bool|uuid|datetime|enum|array|None|null)\b"
    r"|RFC3339|<class|Error\b|timezone|component"
)
"""What no sentence for people has in it; `null` is JSON's own word, and allowed after "or"."""


def is_for_people(sentence: str) -> bool:
    words = sentence.replace(" or null.", ".")
    return LEAKS.search(words) is None and words.endswith(".") and len(words) < 200 and words[0].isprintable()


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in contract()["paths"].items():
        for method, operation in methods.items():
            if operation["tags"][0] in FUNCTIONS:
                yield method.upper(), path, operation


def fields_of(operation: dict[str, Any]) -> dict[str, Any]:
    reference = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    schema: dict[str, Any] = contract()["components"]["schemas"][reference.rpartition("/")[2]]
    return schema


WITH_BODY = [(method, path, fields_of(one)) for method, path, one in operations() if "requestBody" in one]
WITH_QUERY = [
    (path, parameter)
    for method, path, operation in operations()
    for parameter in operation.get("parameters", ())
    if method == "GET" and parameter.get("in", "query") == "query"
]


@pytest.fixture
def chief(auth: Client, monkeypatch: pytest.MonkeyPatch) -> SignedIn:
    """An operator, whom no route refuses for who they are."""
    chief = signed_in(auth)
    monkeypatch.setenv("OPERATOR_WALLETS", chief.wallet.address)
    return chief


@pytest.fixture
def apis(chief: SignedIn, load_api: LoadApi) -> dict[str, Client]:
    assert chief.token
    return {tag: load_api(function) for tag, function in FUNCTIONS.items()}


def tag_of(path: str) -> str:
    return path.split("/")[3]


def address(path: str) -> str:
    return path.replace("{id}", "00000000-0000-4000-8000-000000000000")


@pytest.mark.parametrize(("method", "path", "schema"), WITH_BODY, ids=[f"{one[0]} {one[1]}" for one in WITH_BODY])
def test_a_malformed_field_is_refused_in_a_sentence_that_names_it(
    apis: dict[str, Client], chief: SignedIn, method: str, path: str, schema: dict[str, Any]
) -> None:
    whole = {name: GOOD[name] for name in schema.get("required", ())}
    for field in schema["properties"]:
        refused = 0
        for value in MALFORMED:
            answer = apis[tag_of(path)].call(method, address(path), body={**whole, field: value}, token=chief.token)
            if answer.status != 400:
                continue
            refused += 1
            assert is_for_people(answer.json["error"]), (value, answer.json["error"])
            if answer.json["code"] != "invalid_json":  # half a character
                assert answer.json["code"] == BODY_CODES.get(field, "invalid_body"), (value, answer.json)
                assert answer.json["error"].startswith(f"{field} "), (value, answer.json["error"])
        assert refused > 5, field


@pytest.mark.parametrize(("method", "path", "schema"), WITH_BODY, ids=[f"{one[0]} {one[1]}" for one in WITH_BODY])
def test_a_field_that_is_missing_unknown_or_said_twice_is_named(
    apis: dict[str, Client], chief: SignedIn, method: str, path: str, schema: dict[str, Any]
) -> None:
    whole = {name: GOOD[name] for name in schema.get("required", ())}

    def refusal(raw: str) -> tuple[int, str, str]:
        answer = apis[tag_of(path)].call(method, address(path), raw=raw, token=chief.token)
        return *answer.refusal, answer.json["error"]

    for field, good in whole.items():
        less = {name: value for name, value in whole.items() if name != field}
        assert refusal(json.dumps(less)) == (400, "invalid_body", f"The field {field} is missing.")
        twice = json.dumps(whole)[:-1] + f', "{field}": {json.dumps(good)}}}'
        assert refusal(twice) == (400, "duplicate_key", f'The body names "{field}" more than once.')
    assert refusal(json.dumps({**whole, "x": 1})) == (400, "invalid_body", 'There is no field "x" here.')
    long = "`" * 5000
    assert refusal(json.dumps({**whole, long: 1})) == (
        400, "invalid_body", f'There is no field "{"`" * 40}..." here.'
    )  # fmt: skip
    for raw in ("[]", "null", "7", '"text"', "true"):
        assert refusal(raw) == (400, "invalid_body", "The body must be a JSON object.")
    for raw in ("", "{", "no json", '{"a" 1}', "\x1f\x8b"):
        assert refusal(raw) == (400, "invalid_json", "The body is not valid JSON.")


@pytest.mark.parametrize(("path", "parameter"), WITH_QUERY, ids=lambda part: part if isinstance(part, str) else "")
def test_a_malformed_query_parameter_is_refused_in_a_sentence_that_names_it(
    apis: dict[str, Client], chief: SignedIn, path: str, parameter: dict[str, Any]
) -> None:
    if "$ref" in parameter:
        parameter = contract()["components"]["parameters"][parameter["$ref"].rpartition("/")[2]]
    name = parameter["name"]
    refused = 0
    for value in (
        "",
        " ",
        "x" * 300,
        "-1",
        "1e",
        "no such",
        "\u0663",
        "2026-01-01T00:00:00",
        "a\nb",
        "1e9",
        "0.0000001",
    ):
        answer = apis[tag_of(path)].get(address(path), query={name: value}, token=chief.token)
        if answer.status != 400:
            continue
        refused += 1
        assert answer.json["code"] == QUERY_CODES.get(name, "invalid_query"), (value, answer.json)
        assert is_for_people(answer.json["error"]), (value, answer.json["error"])
        assert answer.json["error"].startswith(f"{name} "), (value, answer.json["error"])
    assert refused > 5
    twice = apis[tag_of(path)].get(address(path), query={name: ["1", "2"]}, token=chief.token)
    assert twice.json == {
        "error": f'The query parameter "{name}" is given more than once.',
        "code": "invalid_query",
    }
    unknown = apis[tag_of(path)].get(address(path), query={"colour": "green"}, token=chief.token)
    assert unknown.json == {"error": 'There is no query parameter "colour" here.', "code": "invalid_query"}


def test_every_sentence_of_the_code_is_one() -> None:
    """All that the product raises with a code, read where it is written."""
    sentences = [
        sentence
        for source in [*(ROOT / "layers").rglob("*.py"), *(ROOT / "functions").rglob("*.py")]
        for sentence in re.findall(RAISED, source.read_text())
    ]
    assert len(sentences) > 40
    assert [one for one in sentences if not one.endswith((".", "}")) or "`" in one] == []
