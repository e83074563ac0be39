"""The state machine of the loop: one minute of marks, and a tick and a sweep at each, whatever fails."""

import json
import re
from pathlib import Path
from typing import Any

from tests.unit.test_template import RESOURCES

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "infra" / "matching_loop.asl.json").read_text()
LOOP: dict[str, Any] = json.loads(TEXT)
MARK = LOOP["States"]["EachMark"]
STEP = MARK["ItemProcessor"]["States"]


def test_the_template_fills_in_every_name_that_the_definition_leaves_open() -> None:
    properties = RESOURCES["MatchingLoop"]["Properties"]
    assert properties["DefinitionUri"] == "infra/matching_loop.asl.json"
    assert set(re.findall(r"\$\{(\w+)\}", TEXT)) == properties["DefinitionSubstitutions"].keys()


def test_the_loop_may_call_the_functions_that_it_calls_and_no_others() -> None:
    properties = RESOURCES["MatchingLoop"]["Properties"]
    called = {value["Fn::GetAtt"].removesuffix(".Arn") for value in properties["DefinitionSubstitutions"].values()}
    allowed = {
        policy["LambdaInvokePolicy"]["FunctionName"]["Ref"]
        for policy in properties["Policies"]
        if "LambdaInvokePolicy" in policy
    }
    assert allowed == called == {"MarksFunction", "MatchFunction", "SettleFunction"}


def test_it_starts_once_a_minute() -> None:
    (event,) = RESOURCES["MatchingLoop"]["Properties"]["Events"].values()
    # ScheduleV2 would be newer, but LocalStack's never fires.
    assert event == {"Type": "Schedule", "Properties": {"Schedule": "rate(1 minute)"}}


def test_it_is_written_in_jsonpath_which_every_emulator_runs() -> None:
    assert "JSONata" not in TEXT
    assert "{%" not in TEXT


def test_the_marks_come_from_a_function_that_knows_both_the_schedule_and_the_start() -> None:
    marks = LOOP["States"][LOOP["StartAt"]]
    assert marks["Parameters"]["Payload"] == {
        "started_at.$": "$$.Execution.StartTime",
        "schedule.$": "$$.Execution.Input",
    }
    assert marks["OutputPath"] == "$.Payload"
    assert marks["Next"] == "EachMark"


def test_marks_are_taken_one_after_the_other() -> None:
    assert MARK["Type"] == "Map"
    assert MARK["ItemsPath"] == "$.marks"
    assert MARK["MaxConcurrency"] == 1


def test_at_each_mark_it_waits_matches_and_settles_in_this_order() -> None:
    assert MARK["ItemProcessor"]["StartAt"] == "WaitForMark"
    assert STEP["WaitForMark"] == {"Type": "Wait", "TimestampPath": "$.mark", "Next": "Match"}
    assert (STEP["Match"]["Next"], STEP["Settle"]["Next"]) == ("Settle", "Done")
    assert STEP["Match"]["Parameters"]["FunctionName"] == "${MatchFunctionArn}"
    assert STEP["Settle"]["Parameters"]["FunctionName"] == "${SettleFunctionArn}"


def test_a_tick_or_a_sweep_that_fails_ends_neither_the_step_nor_the_minute() -> None:
    for name, following in (("Match", "Settle"), ("Settle", "Done")):
        task = STEP[name]
        assert task["Catch"] == [{"ErrorEquals": ["States.ALL"], "ResultPath": None, "Next": following}]
        # The next mark is the retry.
        assert "Retry" not in task


def test_what_a_step_says_is_not_carried_on_to_the_next() -> None:
    assert STEP["Match"]["ResultPath"] is None
    assert STEP["Settle"]["ResultPath"] is None
    assert MARK["ResultPath"] is None


def test_a_slow_chain_does_not_delay_the_next_mark() -> None:
    assert STEP["Settle"]["TimeoutSeconds"] < 5


def test_an_execution_that_hangs_ends_by_itself() -> None:
    assert 60 < LOOP["TimeoutSeconds"] <= 300  # an express workflow lives five minutes at most
