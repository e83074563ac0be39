"""The page of costs: its arithmetic is right, and what it counts is what the template and the loop have."""

import re
from typing import Any

import pytest

from tests.support.loop_definition import MARK, STEP, TICK
from tests.support.template import FUNCTIONS, RESOURCES, ROOT, TEMPLATE, of_type

PAGE = (ROOT / "docs" / "costs.md").read_text()
ROW = re.compile(r"^\| `(\w+)` \| (.+?) \| (.*?) ?\|$", re.MULTILINE)


def lines() -> list[tuple[str, str, str]]:
    """(name, what is written as its value or formula, what stands beside it) of each name, in order."""
    return [(name, formula.strip("`"), shown) for name, formula, shown in ROW.findall(PAGE)]


def worked_out() -> dict[str, float]:
    values: dict[str, float] = {}
    for name, formula, _ in lines():
        assert re.fullmatch(r"[\w.+*/() -]+", formula), formula
        values[name] = eval(formula, {"__builtins__": {}}, values)  # noqa: S307 -- arithmetic on a page of ours
    return values


VALUES = worked_out()
FORMULAS = [(name, shown) for name, formula, shown in lines() if re.search(r"[*/+]| - ", formula)]


@pytest.mark.parametrize(("name", "shown"), FORMULAS, ids=[name for name, _ in FORMULAS])
def test_a_formula_gives_what_is_written_beside_it(name: str, shown: str) -> None:
    figure = shown.split(" ", maxsplit=1)[0]
    decimals = len(figure.partition(".")[2])
    assert f"{VALUES[name]:,.{decimals}f}" == figure


def test_no_name_stands_for_two_things() -> None:
    names = [name for name, _, _ in lines()]
    assert len(names) == len(set(names)) > 60


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("marks_gb", "MarksFunction"),
        ("tick_gb", "MatchFunction"),
        ("commands_gb", "CommandsFunction"),
        ("sweep_gb", "SettleFunction"),
        ("queue_gb", "LockResponsesFunction"),
        ("queue_gb", "TelemetryFunction"),
    ],
)
def test_a_functions_memory_is_the_templates(name: str, function: str) -> None:
    assert VALUES[name] * 1024 == FUNCTIONS[function]["Properties"]["MemorySize"]


def test_the_apis_functions_have_the_memory_that_is_everybodys() -> None:
    assert VALUES["api_gb"] * 1024 == TEMPLATE["Globals"]["Function"]["MemorySize"]
    assert not [name for name in FUNCTIONS if "Api" in name and "MemorySize" in FUNCTIONS[name]["Properties"]]


def test_what_is_paid_by_the_piece_is_counted_in_the_template() -> None:
    alarms = of_type("AWS::CloudWatch::Alarm")
    assert VALUES["alarms"] == len(alarms)
    assert VALUES["secrets"] == len(
        set(re.findall(r"resolve:secretsmanager:\$\{(\w+)\}", repr(RESOURCES))) | {"DatabaseSecret"}
    )
    (acl,) = of_type("AWS::WAFv2::WebACL").values()
    assert VALUES["waf_month"] == 5 + len(acl["Properties"]["Rules"])


def test_the_calls_and_the_states_of_a_day_are_the_loops() -> None:
    def tasks(states: dict[str, Any]) -> int:
        return sum(state["Type"] == "Task" for state in states.values())

    passed_by = {"Missed"}  # at a mark that is in time
    states = {name: state for name, state in STEP.items() if name not in passed_by}
    assert VALUES["calls"] == 1440 * (1 + 12 * (tasks(TICK) * VALUES["zones"] + tasks(states)))
    assert VALUES["transitions_now"] == 1440 * (2 + 12 * (len(states) + len(TICK) * VALUES["zones"]))
    assert MARK["Type"] == "Map"
