"""What goes wrong is an alarm, and every alarm is one that can go off and that somebody can answer."""

import ast
from typing import Any, get_args

import pytest

from energy_market.domain.trades import FailReason
from energy_market.logs import NAMESPACE
from tests.support.template import FUNCTIONS, ROOT, WATCHING, given_to_watching, of_type

ALARMS = of_type("AWS::CloudWatch::Alarm")
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
HOUR_S, DAY_S = 3_600, 86_400

# What is counted without anything being wrong.
METRICS_WITHOUT_ALARM = {
    "TradesConfirmed": "this is what the market is for",
    "Reorganisations": "of the newest blocks: every chain has them, and the sweep puts back what they take",
}
# By whom the errors of a function are seen, if not by an alarm on its errors.
FUNCTIONS_WITHOUT_ALARM = {
    "AuthApiFunction": "ApiErrorsAlarm",
    "MarketApiFunction": "ApiErrorsAlarm",
    "IotApiFunction": "ApiErrorsAlarm",
    "NetworkApiFunction": "ApiErrorsAlarm",
    "AnalyticsApiFunction": "ApiErrorsAlarm",
    "AdminApiFunction": "ApiErrorsAlarm",
    "ReconcileFunction": "ReconciliationMissingAlarm",
    "MigrationsFunction": "the deploy, which fails",
    "ChainCheckFunction": "the deploy, which fails",
}


def emitted() -> set[str]:
    """The names of all metrics that the code counts."""
    sources = [
        *(ROOT / "layers" / "energy_market" / "energy_market").rglob("*.py"),
        *(ROOT / "functions").rglob("*.py"),
    ]
    calls = [
        node
        for source in sources
        for node in ast.walk(ast.parse(source.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "metric"
    ]
    assert len(calls) > 15
    return {ast.literal_eval(call.args[0]) for call in calls}  # a name that is not written out fails here


def properties(namespace: str) -> dict[str, dict[str, Any]]:
    return {
        name: alarm["Properties"] for name, alarm in ALARMS.items() if alarm["Properties"]["Namespace"] == namespace
    }


def test_every_metric_of_ours_has_an_alarm_or_a_reason_why_not() -> None:
    watched = {alarm["MetricName"] for alarm in properties(NAMESPACE).values()}
    assert watched | METRICS_WITHOUT_ALARM.keys() == emitted()
    assert not watched & METRICS_WITHOUT_ALARM.keys()


def test_an_alarm_by_reason_is_of_a_reason_that_there_is() -> None:
    for name, alarm in properties(NAMESPACE).items():
        for dimension in alarm.get("Dimensions", []):
            assert dimension["Name"] == "Reason", name
            assert dimension["Value"] in get_args(FailReason), name


def test_no_queue_fills_unseen() -> None:
    queues = of_type("AWS::SQS::Queue")
    read = {
        event["Properties"]["Queue"]["Fn::GetAtt"].removesuffix(".Arn")
        for function in FUNCTIONS.values()
        for event in function["Properties"].get("Events", {}).values()
        if event["Type"] == "SQS"
    }
    watched: dict[str, set[str]] = {name: set() for name in queues}
    for alarm in properties("AWS/SQS").values():
        (dimension,) = alarm["Dimensions"]
        queue = given_to_watching(dimension["Value"]["Ref"])["Fn::GetAtt"].removesuffix(".QueueName")
        watched[queue].add(alarm["MetricName"])
    for queue, resource in queues.items():
        if queue in read:
            letters = resource["Properties"]["RedrivePolicy"]["deadLetterTargetArn"]["Fn::GetAtt"].removesuffix(".Arn")
            assert watched[queue] == {"ApproximateAgeOfOldestMessage"}
            assert letters in queues.keys() - read
        else:
            assert watched[queue] == {"ApproximateNumberOfMessagesVisible"}


@pytest.mark.parametrize("function", FUNCTIONS)
def test_no_function_fails_unseen(function: str) -> None:
    ids = {one["Properties"]["FunctionName"]["Fn::Sub"]: name for name, one in FUNCTIONS.items()}
    watched = {
        ids[dimension["Value"]["Fn::Sub"].replace("${StackName}", "${AWS::StackName}")]
        for alarm in properties("AWS/Lambda").values()
        if alarm["MetricName"] == "Errors"
        for dimension in alarm["Dimensions"]
    }
    if function in FUNCTIONS_WITHOUT_ALARM:
        assert function not in watched
        instead = FUNCTIONS_WITHOUT_ALARM[function]
        assert instead in ALARMS or instead == "the deploy, which fails"
    else:
        assert function in watched


@pytest.mark.parametrize("name", ALARMS)
def test_an_alarm_is_heard_and_its_answer_is_written_down(name: str) -> None:
    alarm = ALARMS[name]["Properties"]
    assert alarm["AlarmActions"] == [{"Ref": "AlarmTopic"}]
    assert alarm["AlarmDescription"]
    assert f"`{name.removesuffix('Alarm')}`" in OPERATIONS
    assert (alarm["TreatMissingData"] == "breaching") == (alarm["ComparisonOperator"] == "LessThanThreshold")


@pytest.mark.parametrize("name", ALARMS)
def test_an_alarm_looks_no_further_back_than_cloudwatch_can(name: str) -> None:
    alarm = ALARMS[name]["Properties"]
    looks_back_s = alarm["Period"] * alarm["EvaluationPeriods"]
    assert looks_back_s <= (7 * DAY_S if alarm["Period"] >= HOUR_S else DAY_S)


def test_a_day_without_a_comparison_is_an_alarm_and_one_late_night_is_not() -> None:
    alarm = ALARMS["ReconciliationMissingAlarm"]["Properties"]
    assert DAY_S < alarm["Period"] * alarm["EvaluationPeriods"] < 2 * DAY_S
    (event,) = FUNCTIONS["ReconcileFunction"]["Properties"]["Events"].values()
    assert event["Properties"]["Schedule"].startswith("cron(")


def test_every_alarm_that_is_explained_is_there() -> None:
    table = OPERATIONS.partition("## What to watch")[2].partition("\n## ")[0]
    explained = {
        name.strip(" `")
        for line in table.splitlines()
        if line.startswith("| `")
        for name in line.split("|")[1].split(",")
    }
    assert explained == {name.removesuffix("Alarm") for name in ALARMS}
    assert WATCHING["Resources"]["AlarmTopic"]["Type"] == "AWS::SNS::Topic"
