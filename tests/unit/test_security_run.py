"""`make security` itself: what it lets pass, what it does not, and that it says so."""

from pathlib import Path

from tests.security.__main__ import counts, named_tests, routes_of_the_contract
from tests.security.accepted import ACCEPTED
from tests.security.findings import Accepted, Finding, sort_out
from tests.security.fuzz import wrong

EVAL = Finding(tool="bandit", rule="B307", where="functions/auth_api/app.py", text="line 1: eval")
GOOD_REPORT = {
    "failures": [],
    "errors": [],
    "complete": True,
    "operations": {"total": 25, "tested": 25},
    "warnings": {"missing_auth": []},
}


def test_what_nobody_accepted_is_open() -> None:
    assert sort_out([EVAL], ACCEPTED, tools=["bandit"]).open == [EVAL]


def test_an_acceptance_is_for_its_tool_its_rule_and_its_place_only() -> None:
    accepted = Accepted(tool="bandit", rule="B307", where="localstack/* functions/auth_api/*", reason="r")
    assert sort_out([EVAL], [accepted], tools=["bandit"]).suppressed == 1
    for other in (
        Accepted(tool="checkov", rule="B307", where="*", reason="r"),
        Accepted(tool="bandit", rule="B308", where="*", reason="r"),
        Accepted(tool="bandit", rule="B307", where="localstack/* layers/*", reason="r"),
    ):
        assert sort_out([EVAL], [other], tools=["bandit"]).open == [EVAL]


def test_an_acceptance_that_nothing_needs_is_told_if_its_tool_was_asked() -> None:
    idle = Accepted(tool="bandit", rule="B999", where="*", reason="r")
    assert sort_out([], [idle], tools=["bandit"]).idle == [idle]
    assert sort_out([], [idle], tools=["checkov"]).idle == []


def test_every_acceptance_has_its_reason() -> None:
    assert [one for one in ACCEPTED if len(one.reason.split()) < 4] == []


def test_no_rule_is_accepted_for_what_is_deployed_as_a_whole_but_those_that_say_nothing_there() -> None:
    """Whoever accepts a rule everywhere says so here, too."""
    everywhere = {(one.tool, one.rule) for one in ACCEPTED if one.where == "*"}
    assert everywhere == {("bandit", "B101"), ("bandit", "B311"), ("schemathesis", "UnsupportedMethodResponse")}


def test_a_fuzz_that_was_shut_out_or_broke_off_is_none() -> None:
    assert list(wrong("user", GOOD_REPORT)) == []
    refused = GOOD_REPORT | {"warnings": {"missing_auth": ["GET /api/v1/auth/me"]}}
    assert [finding.rule for finding in wrong("user", refused)] == ["shut-out"]
    assert list(wrong("stranger", refused)) == []
    assert [finding.rule for finding in wrong("user", GOOD_REPORT | {"complete": False})] == ["incomplete"]
    some = GOOD_REPORT | {"operations": {"total": 25, "tested": 24}}
    assert [finding.rule for finding in wrong("user", some)] == ["incomplete"]
    failed = GOOD_REPORT | {"failures": [{"type": "ServerError", "title": "500", "operations": ["GET /a", "GET /b"]}]}
    assert [finding.where for finding in wrong("user", failed)] == ["user GET /a", "user GET /b"]


def test_a_test_that_fails_breaks_or_is_skipped_counts_as_one_that_failed(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    assert counts(report) == (0, 1)
    report.write_text(
        '<testsuites><testsuite tests="9" failures="1" errors="2" skipped="3"/><testsuite tests="1"/></testsuites>'
    )
    assert counts(report) == (10, 6)


def test_the_attacks_are_those_of_the_page_and_the_routes_those_of_the_contract() -> None:
    assert len(named_tests()) > 20
    assert ("post", "/api/v1/market/order/create") in routes_of_the_contract()
