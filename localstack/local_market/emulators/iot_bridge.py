"""What LocalStack's core lacks, IoT, borrowed from MiniStack: the template's own rules and policy, and their messages.

Usage: python -m local_market.emulators.iot_bridge MINISTACK_URL LOCALSTACK_URL

The template's IoT resources, and what they refer to, become a stack of their own on MiniStack. Whatever its rules put
into a queue there is carried into the queue of the same name in the template on LocalStack: at least once, as rules do.
"""

import json
import sys
import threading
import time
from typing import Any

import boto3
import yaml
from botocore.exceptions import BotoCoreError, ClientError

from local_market.emulators.local_aws import STACK
from local_market.emulators.localstack_core import DEVICE_POLICY
from local_market.parts.places import CHECKOUT

IOT_STACK = f"{STACK}-iot"
POLL_S = 10  # one request a queue, answered at once when there is a message
PAUSE_S = 0.5


class _Template(yaml.SafeLoader):
    """YAML with CloudFormation's short tags."""


def _long_form(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> dict[str, Any]:
    value: Any
    if isinstance(node, yaml.ScalarNode):
        value = loader.construct_scalar(node)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        assert isinstance(node, yaml.MappingNode)  # there is no fourth kind
        value = loader.construct_mapping(node, deep=True)
    if suffix in {"Ref", "Condition"}:
        return {suffix: value}
    return {f"Fn::{suffix}": value.split(".", 1) if suffix == "GetAtt" else value}


_Template.add_multi_constructor("!", _long_form)


def iot_resources(template: str) -> dict[str, Any]:
    """The IoT resources of a template, with every resource that they refer to, directly or not."""
    resources: dict[str, Any] = _Template(template).get_single_data()["Resources"]
    found: dict[str, Any] = {}
    wanted = [name for name, resource in resources.items() if resource["Type"].startswith("AWS::IoT::")]
    while wanted:
        name = wanted.pop()
        if name in resources and name not in found:
            found[name] = resources[name]
            wanted += _names_in(resources[name]["Properties"])
    return found


def _names_in(value: object) -> list[str]:
    """What a part of a template refers to."""
    if isinstance(value, list):
        return [name for one in value for name in _names_in(one)]
    if not isinstance(value, dict):
        return []
    if "Ref" in value:
        return [value["Ref"]]
    if "Fn::GetAtt" in value:
        return [value["Fn::GetAtt"][0]]
    return [name for one in value.values() for name in _names_in(one)]


def _deploy(ministack: str) -> list[str]:
    """Make the IoT resources on MiniStack; the names of the queues among them."""
    resources = iot_resources((CHECKOUT / "template.yaml").read_text())
    for resource in resources.values():
        if resource["Type"] == "AWS::IoT::Policy":
            resource["Properties"]["PolicyName"] = DEVICE_POLICY
    client = boto3.client("cloudformation", endpoint_url=ministack)
    client.create_stack(
        StackName=IOT_STACK, TemplateBody=json.dumps({"Resources": resources}), Capabilities=["CAPABILITY_IAM"]
    )
    client.get_waiter("stack_create_complete").wait(StackName=IOT_STACK, WaiterConfig={"Delay": 1})
    return [name for name, resource in resources.items() if resource["Type"] == "AWS::SQS::Queue"]


def _queue(endpoint_url: str, stack: str, name: str) -> str:
    client = boto3.client("cloudformation", endpoint_url=endpoint_url)
    described = client.describe_stack_resource(StackName=stack, LogicalResourceId=name)
    return described["StackResourceDetail"]["PhysicalResourceId"]


def _carry(name: str, ministack: str, localstack: str) -> None:
    """Carry the messages of a queue, for ever; what cannot be sent comes again when it is visible again."""
    here, there = boto3.client("sqs", endpoint_url=ministack), boto3.client("sqs", endpoint_url=localstack)
    source, target = _queue(ministack, IOT_STACK, name), None
    while True:
        try:
            messages = here.receive_message(QueueUrl=source, MaxNumberOfMessages=10, WaitTimeSeconds=POLL_S)
            for message in messages.get("Messages", []):
                target = target or _queue(localstack, STACK, name)
                there.send_message(QueueUrl=target, MessageBody=message["Body"])
                here.delete_message(QueueUrl=source, ReceiptHandle=message["ReceiptHandle"])
        except (BotoCoreError, ClientError) as error:
            print(f"{name}: {error}", flush=True)
            time.sleep(PAUSE_S)


def main() -> None:
    """Make the resources, then carry messages until we are stopped."""
    ministack, localstack = sys.argv[1:]
    carriers = [threading.Thread(target=_carry, args=(name, ministack, localstack)) for name in _deploy(ministack)]
    for carrier in carriers:
        carrier.start()
    print("ready", flush=True)


if __name__ == "__main__":
    main()
