"""Whether an answer is one that the API's contract (infra/openapi.yaml) allows."""

import re
from collections.abc import Mapping
from decimal import Decimal
from functools import cache
from typing import Any
from uuid import UUID

import yaml

from energy_market.aws.registry import check_csr
from energy_market.domain.wallets import parse_address, parse_signature
from tests.support.places import CHECKOUT

CONTRACT = CHECKOUT / "infra" / "openapi.yaml"
KNOWN_WORDS = {
    "$ref", "type", "format", "description", "properties", "required", "additionalProperties", "enum", "nullable",
    "items", "minItems", "maxItems", "minimum", "exclusiveMinimum", "maximum", "minLength", "maxLength", "pattern",
    "allOf", "default", "x-decimals",
}  # fmt: skip


@cache
def contract() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(CONTRACT.read_text())
    return loaded


def check_answer(*, method: str, path: str, status: int, headers: Mapping[str, str], body: object) -> None:
    """Raise AssertionError for a status or a body that the contract does not name. `path` as the contract has it."""
    operation = contract()["paths"].get(path, {}).get(method.lower())
    if operation is None:
        return
    where = f"{method} {path} -> {status}"
    assert str(status) in operation["responses"], f"{where} is not in the contract: {body}"
    response = resolved(operation["responses"][str(status)])
    content = response.get("content", {})
    media_type = headers["Content-Type"].partition(";")[0]
    if not content:
        assert body is None, f"{where} has a body"
    else:
        assert media_type in content, f"{where} is {media_type}"
        if media_type == "application/json":
            check(body, content["application/json"]["schema"], where)
            if status < 300:
                _check_examples(body, content["application/json"], where)
    if "Retry-After" in response.get("headers", {}):
        assert headers["Retry-After"].isdigit()
    assert "Link" not in headers or "Link" in response["headers"], where


def _check_examples(body: object, content: dict[str, Any], where: str) -> None:
    """Whether the examples of an answer show every field that it has."""
    shown = {path for one in content["examples"].values() for path in shape(resolved(one)["value"], content["schema"])}
    hidden = shape(body, content["schema"]) - shown
    assert not hidden, f"{where}: the contract's example does not show {hidden}"


def shape(value: object, schema: dict[str, Any]) -> set[str]:
    """The fields that a value has, as paths; not those of an object whose fields the schema leaves open."""
    schema = _merged(schema)
    if isinstance(value, list):
        return {f"[]{path}" for item in value for path in shape(item, schema.get("items", {}))}
    if not isinstance(value, dict) or not schema.get("properties"):
        return set()
    inner = {name: shape(field, schema["properties"].get(name, {})) for name, field in value.items()}
    return {f".{name}{path}" for name, paths in inner.items() for path in {"", *paths}}


def _merged(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema with its reference followed and the properties of its parts beside its own."""
    schema = resolved(schema)
    parts = [_merged(part) for part in schema.get("allOf", ())]
    properties = {name: field for part in [*parts, schema] for name, field in part.get("properties", {}).items()}
    return {**schema, "properties": properties}


def check(value: object, schema: dict[str, Any], where: str) -> None:  # noqa: C901 - one case a type
    """The part of JSON Schema that the contract uses; an unknown word is an error, not a pass."""
    if "$ref" in schema:
        check(value, resolved(schema), where)
        return
    assert set(schema) <= KNOWN_WORDS, f"{where}: this check does not know {set(schema) - KNOWN_WORDS}"
    if value is None and schema.get("nullable"):
        return
    for part in schema.get("allOf", ()):
        check(value, part, where)
    if "enum" in schema:
        assert value in schema["enum"], f"{where}: {value!r}"
    match schema.get("type"):
        case "object":
            _check_object(value, schema, where)
        case "array":
            assert isinstance(value, list), where
            assert schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", 10**6), where
            for number, item in enumerate(value):
                check(item, schema["items"], f"{where}[{number}]")
        case "string":
            assert isinstance(value, str), f"{where}: {value!r}"
            assert re.search(schema.get("pattern", ""), value), f"{where}: {value!r}"
            _check_format(value, schema.get("format"), where)
        case "integer":
            assert isinstance(value, int), f"{where}: {value!r}"
            _check_number(Decimal(value), schema, where)
        case "number":
            assert isinstance(value, int | float | Decimal), f"{where}: {value!r}"
            _check_number(Decimal(str(value)), schema, where)
        case "boolean":
            assert isinstance(value, bool), f"{where}: {value!r}"
    if schema.get("type") in {"integer", "number"}:
        assert not isinstance(value, bool), where


def _check_object(value: object, schema: dict[str, Any], where: str) -> None:
    assert isinstance(value, dict), f"{where}: {value!r}"
    properties = schema.get("properties", {})
    missing = set(schema.get("required", ())) - set(value)
    assert not missing, f"{where} lacks {missing}"
    rest = schema.get("additionalProperties", True)
    for name, field in value.items():
        if name in properties:
            check(field, properties[name], f"{where}.{name}")
        elif isinstance(rest, dict):
            check(field, rest, f"{where}.{name}")
        else:
            assert rest is True, f"{where} has a field that the contract does not name: {name}"


def _check_number(value: Decimal, schema: dict[str, Any], where: str) -> None:
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None:
        assert value > low if schema.get("exclusiveMinimum") else value >= low, f"{where}: {value}"
    assert high is None or value <= high, f"{where}: {value}"
    if "x-decimals" in schema:
        assert value * 10 ** schema["x-decimals"] % 1 == 0, f"{where}: {value}"


def _check_format(value: str, kind: str | None, where: str) -> None:
    patterns = {"date-time": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "date": r"\d{4}-\d\d-\d\d"}
    if kind == "uuid":
        assert str(UUID(value)) == value, where
    elif kind == "eip55-address":
        assert parse_address(value) == value, where
    elif kind == "eip191-signature":
        parse_signature(value)
    elif kind == "csr":
        check_csr(value)
    elif kind is not None:
        assert re.fullmatch(patterns[kind], value), f"{where}: {value!r}"


def resolved(node: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in node:
        return node
    found: Any = contract()
    for step in node["$ref"].removeprefix("#/").split("/"):
        found = found[step]
    target: dict[str, Any] = found
    return target
