"""docs/limits.md says what the code and the template do, and names every limit that the code has."""

import ast
import importlib
import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from energy_market.domain.settlement import SettlementRules
from tests.support.template import RESOURCES, ROOT, TEMPLATE

PAGE = (ROOT / "docs" / "limits.md").read_text()
LAYER = ROOT / "layers" / "energy_market"
CODE_ONLY = re.compile(r"`(energy_market\.[\w.]+|functions/[\w/]+\.py:\w+|template\.yaml:[\w.]+)`")


def rows() -> Iterator[tuple[str, str]]:
    """(limit, where) of each row that names a place in the code."""
    for line in PAGE.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| ") and len(cells) == 4 and (place := CODE_ONLY.fullmatch(cells[2])):
            yield cells[1], place[1]


ROWS = list(rows())


def value_at(place: str) -> Any:  # noqa: ANN401 - whatever is written there
    if place.startswith("template.yaml:"):
        return template_value(place.removeprefix("template.yaml:").split("."))
    if place.startswith("functions/"):
        path, _, name = place.partition(":")
        return constants(ROOT / path)[name]
    module, _, name = place.rpartition(".")
    if module.endswith(".SettlementRules"):
        return getattr(SettlementRules(max_batch=1, confirmations=1, finality_blocks=1), name)
    return getattr(importlib.import_module(module), name)


def template_value(path: list[str]) -> Any:  # noqa: ANN401
    if len(path) == 1:
        return TEMPLATE["Parameters"][path[0]]["Default"]
    properties = RESOURCES[path[0]]["Properties"]
    if RESOURCES[path[0]]["Type"] == "AWS::Serverless::Function" and len(path) > 2:
        properties = properties["Events"][path.pop(1)]["Properties"]
    for name in path[1:]:
        properties = properties[name]
    return properties


def constants(path: Any) -> dict[str, Any]:  # noqa: ANN401
    """The numbers that a module names, as they are written."""
    found = {}
    for node in ast.parse(path.read_text()).body:
        target = node.target if isinstance(node, ast.AnnAssign) else None
        if isinstance(target, ast.Name) and isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Constant):
            found[target.id] = node.value.value
    return found


def spelt(value: object) -> str:
    if isinstance(value, timedelta):
        days, minutes = value.days, value.seconds // 60
        return f"{days} days" if days else f"{minutes} minutes"
    return f"{value:,.0f}" if isinstance(value, float) and value.is_integer() else f"{value:,}"


@pytest.mark.parametrize(("limit", "place"), ROWS, ids=[place for _, place in ROWS])
def test_a_limit_is_as_the_page_says(limit: str, place: str) -> None:
    assert re.match(rf"{re.escape(spelt(value_at(place)))}(?![\d,.]\d)", limit), (limit, value_at(place))


def test_the_page_names_every_limit_that_there_is() -> None:
    named = {place for _, place in ROWS}
    assert len(named) > 45
    missing = []
    for path in [*(LAYER / "energy_market").rglob("*.py"), *(ROOT / "functions").rglob("*.py")]:
        for name in re.findall(r"^(MAX_\w+)\b.*=", path.read_text(), re.MULTILINE):
            relative = path.relative_to(LAYER if path.is_relative_to(LAYER) else ROOT)
            module = ".".join(relative.with_suffix("").parts)
            place = f"{module}.{name}" if path.is_relative_to(LAYER) else f"{relative}:{name}"
            missing += [] if place in named else [place]
    assert missing == []


@pytest.mark.parametrize(
    ("function", "wait"),
    [
        ("AuthApiFunction", "energy_market.api.edge.DATABASE_S"),
        ("MarketApiFunction", "energy_market.api.edge.DATABASE_S"),
        ("NetworkApiFunction", "energy_market.api.edge.DATABASE_S"),
        ("AnalyticsApiFunction", "energy_market.api.edge.DATABASE_S"),
        ("IotApiFunction", "functions/iot_api/app.py:DATABASE_S"),
        ("AdminApiFunction", "functions/admin_api/app.py:DATABASE_S"),
        ("MarksFunction", "functions/matching/app.py:MARKS_DATABASE_S"),
        ("MatchFunction", "functions/matching/app.py:DATABASE_S"),
        ("CommandsFunction", "functions/matching/app.py:DATABASE_S"),
        ("LockResponsesFunction", "functions/settlement/app.py:ANSWERS_DATABASE_S"),
        ("TelemetryFunction", "functions/telemetry/app.py:DATABASE_S"),
        ("DeviceTidyingFunction", "functions/device_tidying/app.py:DATABASE_S"),
        ("MigrationsFunction", "functions/migrations/app.py:DATABASE_S"),
    ],
)
def test_whoever_waits_for_the_database_has_time_left_to_say_so(function: str, wait: str) -> None:
    timeout_s = RESOURCES[function]["Properties"].get("Timeout", TEMPLATE["Globals"]["Function"]["Timeout"])
    assert value_at(wait) <= 0.92 * timeout_s
    assert timeout_s - value_at(wait) >= 3


def test_every_handler_starts_a_deadline_before_it_asks_the_database() -> None:
    handlers = {}
    for path in (ROOT / "functions").glob("*/app.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and [a.arg.strip("_") for a in node.args.args] == ["event", "context"]:
                body = ast.unparse(node)
                if "_database()" in body or "read_only(" in body:
                    handlers[f"{path.parent.name}.{node.name}"] = "deadline" in body
    assert len(handlers) == 8
    assert [name for name, has_one in handlers.items() if not has_one] == []


def test_both_queues_of_devices_have_the_same_limits() -> None:
    """The page gives one figure for both."""
    for queue in ("LockResponsesQueue", "TelemetryQueue"):
        properties = RESOURCES[queue]["Properties"]
        assert properties["MessageRetentionPeriod"] == 345_600
        assert properties["RedrivePolicy"]["maxReceiveCount"] == 5
    for letters in ("LockResponsesDeadLetters", "TelemetryDeadLetters", "RuleErrorsQueue"):
        assert RESOURCES[letters]["Properties"]["MessageRetentionPeriod"] == 1_209_600
    for function in ("LockResponsesFunction", "TelemetryFunction"):
        (event,) = RESOURCES[function]["Properties"]["Events"].values()
        assert event["Properties"]["BatchSize"] == 10
        assert event["Properties"]["ScalingConfig"] == {"MaximumConcurrency": 5}


def test_the_page_names_every_table_that_is_kept_or_swept() -> None:
    named = set(re.findall(r"`(\w+)`", PAGE.partition("## What is kept")[2]))
    tables = {
        name
        for path in (ROOT / "infra" / "migrations").glob("*.sql")
        for name in re.findall(r"CREATE (?:UNLOGGED )?TABLE (\w+)", path.read_text())
    }
    small = {"zones", "ticks", "open_orders", "matches", "leases", "chain_state"}  # as what they are about
    assert tables - named == small
