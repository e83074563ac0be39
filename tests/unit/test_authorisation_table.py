"""No route without a rule: `tests.support.authorisation` has those of the contract, docs/security.md shows them."""

import re

from tests.support.authorisation import ACCESS, Rule
from tests.support.contract import contract
from tests.support.template import FUNCTIONS, ROOT, events_of

PAGE = (ROOT / "docs" / "security.md").read_text()


def test_every_route_has_a_rule_and_every_rule_a_route() -> None:
    written = {(method.upper(), path) for path, methods in contract()["paths"].items() for method in methods}
    assert written == ACCESS.keys()
    events = {
        event
        for function in FUNCTIONS
        if any(event["Type"] == "Api" for event in FUNCTIONS[function]["Properties"].get("Events", {}).values())
        for event in events_of(function)
    }
    assert {event for event in events if event[0] != "OPTIONS"} == ACCESS.keys()


def test_the_contract_asks_for_a_token_where_the_rule_does() -> None:
    secured = {
        (method.upper(), path)
        for path, methods in contract()["paths"].items()
        for method, operation in methods.items()
        if operation.get("security", contract().get("security")) == [{"BearerAuth": []}]
    }
    assert secured == {route for route, access in ACCESS.items() if access.rule.needs_token}


def test_the_contract_knows_the_refusals_of_each_rule() -> None:
    for (method, path), access in ACCESS.items():
        statuses = contract()["paths"][path][method.lower()]["responses"].keys()
        if access.rule is not Rule.ANYBODY:
            assert "401" in statuses, path
        if access.rule in {Rule.OWNER, Rule.BOOK}:
            assert "404" in statuses, path
        if access.rule is Rule.OPERATOR:
            assert "403" in statuses, path


def test_the_page_shows_the_table() -> None:
    rows = re.findall(r"^\| `(\w+) (/api/v1/[\w/{}.-]+)` \| ([^|]+) \|$", PAGE, re.MULTILINE)
    assert {(method, path): rule for method, path, rule in rows} == {
        route: access.rule.value for route, access in ACCESS.items()
    }
    assert len(rows) == len(ACCESS)
