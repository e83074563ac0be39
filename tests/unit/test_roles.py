"""Least privilege: what each role may do, in what CloudFormation is given once SAM has transformed the template."""

import json
import subprocess
from collections.abc import Iterator
from typing import Any, Final

import pytest

from tests.support.template import FUNCTIONS, RESOURCES, ROOT

Statement = dict[str, Any]

REMOVE_A_DEVICE: Final = {
    "iot:DeleteThing",
    "iot:DetachPolicy",
    "iot:DetachThingPrincipal",
    "iot:ListThingPrincipals",
    "iot:UpdateCertificate",
    "iot:DeleteCertificate",
}
# Beside writing to their own log group. What is not here, a function may not.
MAY: Final[dict[str, set[str]]] = {
    "IotApiFunction": {
        "iot:CreateThing",
        "iot:CreateKeysAndCertificate",
        "iot:CreateCertificateFromCsr",
        "iot:AttachPolicy",
        "iot:AttachThingPrincipal",
        *REMOVE_A_DEVICE,
    },
    "DeviceTidyingFunction": REMOVE_A_DEVICE,
    "AdminApiFunction": {
        "sqs:GetQueueAttributes",
        "sqs:ReceiveMessage",
        "sqs:DeleteMessage",
        "sqs:SendMessage",
        *REMOVE_A_DEVICE,
    },
    "CommandsFunction": {"iot:Publish"},
    "LockResponsesFunction": {
        "lambda:InvokeFunction",
        "sqs:ReceiveMessage",
        "sqs:DeleteMessage",
        "sqs:GetQueueAttributes",
    },
    "TelemetryFunction": {"sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"},
}
# Actions that may be allowed on every resource, because the service knows no narrower one.
ON_EVERYTHING: Final[dict[str, str]] = {
    **dict.fromkeys(
        ["iot:CreateKeysAndCertificate", "iot:CreateCertificateFromCsr"],
        "what they make has no name before it is made",
    ),
    **dict.fromkeys(
        ["logs:CreateLogDelivery", "logs:GetLogDelivery", "logs:UpdateLogDelivery", "logs:DeleteLogDelivery",
         "logs:ListLogDeliveries", "logs:PutResourcePolicy", "logs:DescribeResourcePolicies", "logs:DescribeLogGroups"],
        "log delivery knows no resources",
    ),
    **dict.fromkeys(
        ["ec2:AssignPrivateIpAddresses", "ec2:CreateNetworkInterface", "ec2:DeleteNetworkInterface",
         "ec2:DescribeNetworkInterfaces", "ec2:DescribeSubnets", "ec2:UnassignPrivateIpAddresses"],
        "Lambda refuses a role that allows them on less; our code is denied them",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def resources() -> dict[str, dict[str, Any]]:
    """What SAM makes of the template."""
    python = ROOT / ".local" / "sam" / "bin" / "python"
    done = subprocess.run(
        [python, "-P", ROOT / "tests" / "support" / "sam_transform.py", ROOT / "template.yaml"],
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    made: dict[str, dict[str, Any]] = json.loads(done.stdout)
    assert {resource["Type"] for resource in made.values()} >= {"AWS::IAM::Role", "AWS::Lambda::Function"}
    return made


def documents(resource: dict[str, Any]) -> Iterator[dict[str, Any]]:
    properties = resource["Properties"]
    yield from (policy["PolicyDocument"] for policy in properties.get("Policies", []))
    if "PolicyDocument" in properties:
        yield properties["PolicyDocument"]


def statements(resources: dict[str, dict[str, Any]]) -> Iterator[tuple[str, Statement]]:
    """(what it is in, statement) of every policy that says what somebody may do."""
    for name, resource in resources.items():
        if resource["Type"].startswith("AWS::IAM::"):
            for document in documents(resource):
                yield from ((name, statement) for statement in document["Statement"])


def listed(value: object) -> list[Any]:
    return value if isinstance(value, list) else [value]


def test_nobody_may_do_whatever_he_likes(resources: dict[str, dict[str, Any]]) -> None:
    found = list(statements(resources))
    assert len(found) > len(FUNCTIONS)
    for name, statement in found:
        assert not {"NotAction", "NotResource", "NotPrincipal"} & statement.keys(), name
        assert not [action for action in listed(statement["Action"]) if "*" in action], name


def test_everything_is_allowed_on_what_it_is_for_and_on_nothing_else(resources: dict[str, dict[str, Any]]) -> None:
    wide = set()
    for name, statement in statements(resources):
        # In a choice, what AWS gets: the other is the local emulator's, which checks some actions against no resource.
        resource = statement["Resource"]
        chosen = resource["Fn::If"][1] if isinstance(resource, dict) and "Fn::If" in resource else resource
        if "*" in listed(chosen):
            actions = set(listed(statement["Action"]))
            assert actions <= ON_EVERYTHING.keys(), name
            wide |= actions
        for one in listed(chosen):
            text = json.dumps(one)
            assert "function:${functionName}*" not in text, name  # what SAM's own policies allow
    assert wide == ON_EVERYTHING.keys(), "a reason is left over"


def test_no_policy_is_of_somebody_elses_making(resources: dict[str, dict[str, Any]]) -> None:
    """AWS's managed policies allow their actions on everything, and what they allow changes."""
    for name, resource in resources.items():
        if resource["Type"] == "AWS::IAM::Role":
            for policy in resource["Properties"].get("ManagedPolicyArns") or []:
                # Of a VPC: where there are no subnets, nothing.
                assert policy == {"Fn::If": ["InVpc", {"Ref": "VpcAccess"}, {"Ref": "AWS::NoValue"}]}, name


def test_what_lambda_needs_for_a_vpc_our_code_may_not_do() -> None:
    allowed, denied = RESOURCES["VpcAccess"]["Properties"]["PolicyDocument"]["Statement"]
    assert (allowed["Effect"], denied["Effect"]) == ("Allow", "Deny")
    assert allowed["Action"] == denied["Action"]
    assert "Condition" not in allowed
    (functions,) = denied["Condition"]["ArnLike"].values()
    assert functions["Fn::Sub"].endswith(":function:${AWS::StackName}-*")
    for function in FUNCTIONS.values():
        assert function["Properties"]["FunctionName"]["Fn::Sub"].startswith("${AWS::StackName}-")


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_function_has_a_role_of_its_own_that_logs_where_it_logs_and_may_what_is_written_here(
    resources: dict[str, dict[str, Any]], function: str
) -> None:
    role = resources[function]["Properties"]["Role"]["Fn::GetAtt"][0]
    assert [name for name, one in resources.items()
            if one["Type"] == "AWS::Lambda::Function" and one["Properties"]["Role"]["Fn::GetAtt"][0] == role
            ] == [function]  # fmt: skip
    trust = resources[role]["Properties"]["AssumeRolePolicyDocument"]["Statement"]
    assert [statement["Principal"] for statement in trust] == [{"Service": "lambda.amazonaws.com"}]
    own = [statement for name, statement in statements(resources) if name == role]
    logs, others = own[0], own[1:]
    assert logs["Action"] == ["logs:CreateLogStream", "logs:PutLogEvents"]
    group = resources[function]["Properties"]["LoggingConfig"]["LogGroup"]["Ref"]
    assert logs["Resource"] == {"Fn::GetAtt": [group, "Arn"]}
    assert {action for statement in others for action in listed(statement["Action"])} == MAY.get(function, set())


@pytest.mark.parametrize(
    ("function", "queue"),
    [("LockResponsesFunction", "LockResponsesQueue"), ("TelemetryFunction", "TelemetryQueue")],
)
def test_a_function_takes_messages_from_its_own_queue(
    resources: dict[str, dict[str, Any]], function: str, queue: str
) -> None:
    role = resources[function]["Properties"]["Role"]["Fn::GetAtt"][0]
    taken = [one["Resource"] for name, one in statements(resources) if name == role and "sqs" in str(one["Action"])]
    assert taken == [{"Fn::GetAtt": [queue, "Arn"]}]


def test_the_loop_calls_its_four_functions_and_no_other(resources: dict[str, dict[str, Any]]) -> None:
    called = [
        one["Fn::GetAtt"][0]
        for name, statement in statements(resources)
        if name == "MatchingLoopRole" and statement["Action"] == "lambda:InvokeFunction"
        for one in statement["Resource"]
    ]
    assert called == ["MarksFunction", "MatchFunction", "CommandsFunction", "SettleFunction"]
