"""The state machine: one minute of marks; all zones' ticks, commands and a sweep at each, whatever fails."""

import re

from tests.support.loop_definition import LOOP, MARK, STEP, TASKS, TEXT, TICK, ZONE
from tests.support.template import RESOURCES


def test_the_template_fills_in_every_name_that_the_definition_leaves_open() -> None:
    properties = RESOURCES["MatchingLoop"]["Properties"]
    assert properties["DefinitionUri"] == "infra/matching_loop.asl.json"
    assert set(re.findall(r"\$\{(\w+)\}", TEXT)) == properties["DefinitionSubstitutions"].keys()


def test_the_loop_may_call_the_functions_that_it_calls_and_no_others() -> None:
    properties = RESOURCES["MatchingLoop"]["Properties"]
    called = {value["Fn::GetAtt"].removesuffix(".Arn") for value in properties["DefinitionSubstitutions"].values()}
    statements = [statement for policy in properties["Policies"] for statement in policy["Statement"]]
    (calls,) = (statement for statement in statements if statement["Action"] == "lambda:InvokeFunction")
    allowed = {resource["Fn::GetAtt"].removesuffix(".Arn") for resource in calls["Resource"]}
    assert allowed == called == {"MarksFunction", "MatchFunction", "CommandsFunction", "SettleFunction"}


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


def test_a_minute_whose_beginning_fails_is_begun_again_while_there_is_anything_left_of_it() -> None:
    (retry,) = LOOP["States"]["Marks"]["Retry"]
    assert retry["ErrorEquals"] == ["States.ALL"]
    assert retry["BackoffRate"] == 1
    assert 30 < retry["MaxAttempts"] * retry["IntervalSeconds"] < LOOP["TimeoutSeconds"]


def test_marks_are_taken_one_after_the_other() -> None:
    assert MARK["Type"] == "Map"
    assert MARK["ItemsPath"] == "$.marks"
    assert MARK["ItemSelector"] == {"mark.$": "$$.Map.Item.Value", "zones.$": "$.zones"}
    assert MARK["MaxConcurrency"] == 1


def test_at_each_mark_it_waits_matches_all_zones_tells_and_settles_in_this_order() -> None:
    assert MARK["ItemProcessor"]["StartAt"] == "WaitForMark"
    assert STEP["WaitForMark"] == {"Type": "Wait", "TimestampPath": "$.mark.at", "Next": "InTime"}
    assert STEP["InTime"]["Default"] == "EachZone"
    assert [STEP[name]["Next"] for name in ("EachZone", "Tell", "Settle")] == ["Tell", "Settle", "Done"]
    called = {name: task["Parameters"] for name, task in TASKS.items()}
    assert called == {
        "Match": {"FunctionName": "${MatchFunctionArn}", "Payload": {"mark.$": "$.mark", "zone.$": "$.zone"}},
        "Tell": {"FunctionName": "${CommandsFunctionArn}", "Payload": {"mark.$": "$.mark.at", "missed": False}},
        "Settle": {"FunctionName": "${SettleFunctionArn}", "Payload": {"mark.$": "$.mark.at"}},
        "Missed": {"FunctionName": "${CommandsFunctionArn}", "Payload": {"mark.$": "$.mark.at", "missed": True}},
    }


def test_zones_are_matched_at_once_as_many_as_step_functions_runs() -> None:
    assert ZONE["Type"] == "Map"
    assert ZONE["ItemsPath"] == "$.zones"
    assert ZONE["ItemSelector"] == {"mark.$": "$.mark.at", "zone.$": "$$.Map.Item.Value"}
    assert ZONE["MaxConcurrency"] == 40  # of an inline Map; AWS runs no more, whatever is asked for
    assert ZONE["ItemProcessor"]["StartAt"] == "Match"
    assert TICK["Match"]["Next"] == "Matched"
    # Capacity kept for the function would be a bound on the zones that run at once.
    assert "ReservedConcurrentExecutions" not in RESOURCES["MatchFunction"]["Properties"]


def test_a_mark_is_passed_over_when_the_next_one_has_come_and_only_counted() -> None:
    (late,) = STEP["InTime"]["Choices"]
    assert late == {
        "Variable": "$$.State.EnteredTime",
        "TimestampGreaterThanEqualsPath": "$.mark.until",
        "Next": "Missed",
    }
    assert STEP["Missed"]["Next"] == "Done"


def test_whatever_fails_ends_neither_the_step_nor_the_minute_nor_another_zone() -> None:
    for name, following in (("Match", "Matched"), ("Tell", "Settle"), ("Settle", "Done"), ("Missed", "Done")):
        task = TASKS[name]
        assert task["Catch"] == [{"ErrorEquals": ["States.ALL"], "ResultPath": None, "Next": following}]
        assert task["Next"] == following
        # The next mark is the retry.
        assert "Retry" not in task


def test_what_a_step_says_is_not_carried_on_to_the_next() -> None:
    for state in (*TASKS.values(), ZONE, MARK):
        assert state["ResultPath"] is None


def test_neither_a_slow_zone_nor_a_slow_broker_nor_a_slow_chain_delays_the_next_mark() -> None:
    assert all(task["TimeoutSeconds"] < 5 for task in TASKS.values())
    assert STEP["Missed"]["TimeoutSeconds"] == 1  # what was missed must not make the next ones missed


def test_an_execution_that_hangs_ends_by_itself() -> None:
    assert 60 < LOOP["TimeoutSeconds"] <= 300  # an express workflow lives five minutes at most
