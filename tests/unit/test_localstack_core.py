"""What LocalStack's core is given: a template that it can read, and IoT resources for MiniStack."""

import re
from pathlib import Path

import yaml

from local_market.emulators.iot_bridge import iot_resources
from local_market.emulators.localstack_core import adapted

TEMPLATE = Path(__file__).parents[2] / "template.yaml"


def test_what_the_core_cannot_read_is_rewritten(tmp_path: Path) -> None:
    built = tmp_path / "template.yaml"
    built.write_text(TEMPLATE.read_text())
    text = adapted(built).read_text()
    assert "${!iot:Connection.Thing.ThingName}" in built.read_text()
    assert "Ref MigrationsFunction.Version" in built.read_text()
    assert "${!" not in text
    assert not re.search(r"Ref:? \w+\.\w+", text)
    assert "Code: !GetAtt MigrationsFunction.Arn" in text
    # As `sam build` writes it.
    built.write_text("Code:\n  Ref: MigrationsFunction.Version\n")
    assert yaml.compose(adapted(built).read_text()) is not None
    assert adapted(built).read_text() == "Code:\n  !GetAtt MigrationsFunction.Arn\n"


def test_the_bridge_makes_the_templates_iot_resources_and_all_that_they_refer_to() -> None:
    resources = iot_resources(TEMPLATE.read_text())
    kinds = [resource["Type"] for resource in resources.values()]
    whole = TEMPLATE.read_text()
    assert kinds.count("AWS::IoT::TopicRule") == whole.count("Type: AWS::IoT::TopicRule") > 0
    assert kinds.count("AWS::IoT::Policy") == 1
    assert resources.keys() >= {"LockResponsesQueue", "LockResponsesDeadLetters", "TelemetryQueue", "TopicRulesRole"}
    assert set(kinds) <= {
        "AWS::IoT::TopicRule",
        "AWS::IoT::Policy",
        "AWS::SQS::Queue",
        "AWS::IAM::Role",
        "AWS::KMS::Key",
    }
    # A policy's variables are IoT's to fill in.
    assert "${!iot:Connection.Thing.ThingName}" in str(resources["DevicePolicy"])
    (action,) = resources["PresenceRule"]["Properties"]["TopicRulePayload"]["Actions"]
    assert action["Sqs"]["QueueUrl"] == {"Ref": "TelemetryQueue"}
    assert action["Sqs"]["RoleArn"] == {"Fn::GetAtt": ["TopicRulesRole", "Arn"]}
