"""The local AWS's broker, with the policy and the rules of the template, and no functions behind them."""

import base64
import dataclasses
import json
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from energy_device.config import DeviceConfig

from local_market.emulators.local_aws import LocalAws, aws_session
from tests.support.places import CHECKOUT

ORDER = "0a000000-0000-4000-8000-000000000001"


class _Loader(yaml.SafeLoader):
    """Reads CloudFormation's short forms as what stands behind them."""


def _short_form(loader: yaml.SafeLoader, _tag: str, node: yaml.Node) -> Any:  # noqa: ANN401 - YAML's values
    if isinstance(node, yaml.ScalarNode):
        return loader.construct_scalar(node)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    assert isinstance(node, yaml.MappingNode)
    return loader.construct_mapping(node, deep=True)


_Loader.add_multi_constructor("!", _short_form)
RESOURCES = yaml.load((CHECKOUT / "template.yaml").read_text(), _Loader)["Resources"]  # noqa: S506 - a SafeLoader
RULES = [
    resource["Properties"]["TopicRulePayload"]["Sql"]
    for resource in RESOURCES.values()
    if resource["Type"] == "AWS::IoT::TopicRule"
]


def device_policy() -> str:
    """The policy that the template gives to devices."""
    document = json.dumps(RESOURCES["DevicePolicy"]["Properties"]["PolicyDocument"])
    pseudo = {"AWS::Partition": "aws", "AWS::Region": "us-east-1", "AWS::AccountId": "000000000000"}
    for name, value in pseudo.items():
        document = document.replace(f"${{{name}}}", value)
    return document.replace("${!", "${")


class Broker:
    """The local AWS as devices and the backend see it: things, commands, and a queue that rules fill."""

    def __init__(self, aws: LocalAws) -> None:
        self.aws = aws
        self.ca = aws.ca_file.read_bytes()
        session = aws_session()
        self.iot = session.client("iot", endpoint_url=aws.endpoint_url)
        self.data = session.client("iot-data", endpoint_url=aws.endpoint_url)
        self.sqs = session.client("sqs", endpoint_url=aws.endpoint_url)
        self.received: list[dict[str, Any]] = []
        self.queue = self.sqs.create_queue(QueueName="reports")["QueueUrl"]
        role = self._role_of_rules(session.client("iam", endpoint_url=aws.endpoint_url))
        self.iot.create_policy(policyName="device", policyDocument=device_policy())
        for number, sql in enumerate(RULES):
            self.iot.create_topic_rule(
                ruleName=f"rule{number}",
                topicRulePayload={
                    "sql": sql,
                    "awsIotSqlVersion": "2016-03-23",
                    "actions": [{"sqs": {"roleArn": role, "queueUrl": self.queue, "useBase64": False}}],
                },
            )

    @staticmethod
    def _role_of_rules(iam: Any) -> str:  # noqa: ANN401 - a boto3 client
        def policy(**statement: object) -> str:
            return json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", **statement}]})

        may_assume = policy(Action="sts:AssumeRole", Principal={"Service": "iot.amazonaws.com"})
        role = iam.create_role(RoleName="rules", AssumeRolePolicyDocument=may_assume)["Role"]["Arn"]
        may_send = policy(Action="sqs:SendMessage", Resource="*")
        iam.put_role_policy(RoleName="rules", PolicyName="send", PolicyDocument=may_send)
        iam.close()
        return str(role)

    def close(self) -> None:
        for client in (self.iot, self.data, self.sqs):
            client.close()

    def register(self, folder: Path, *, side: str = "donor", port: int | None = None) -> DeviceConfig:
        """A new thing with a certificate of its own."""
        device_id = str(uuid.uuid4())
        self.iot.create_thing(thingName=device_id)
        made = self.iot.create_keys_and_certificate(setAsActive=True)
        self.iot.attach_policy(policyName="device", target=made["certificateArn"])
        self.iot.attach_thing_principal(thingName=device_id, principal=made["certificateArn"])
        return DeviceConfig(
            device_id=device_id,
            side="donor" if side == "donor" else "recipient",
            host=self.aws.iot_host,
            port=port or self.aws.iot_port,
            certificate=made["certificatePem"].encode(),
            private_key=made["keyPair"]["PrivateKey"].encode(),
            ca=self.ca,
            state_path=folder / f"{device_id}.db",
            status_period_s=1,
            transfer_period_s=0.2,
            min_reconnect_s=0.1,
            max_reconnect_s=1,
        )

    def rotated(self, config: DeviceConfig) -> DeviceConfig:
        """The same device with another certificate; the one that it had is gone."""
        (old,) = self.iot.list_thing_principals(thingName=config.device_id)["principals"]
        made = self.iot.create_keys_and_certificate(setAsActive=True)
        self.iot.attach_policy(policyName="device", target=made["certificateArn"])
        self.iot.attach_thing_principal(thingName=config.device_id, principal=made["certificateArn"])
        self.iot.detach_thing_principal(thingName=config.device_id, principal=old)
        self.iot.update_certificate(certificateId=old.rpartition("/")[2], newStatus="INACTIVE")
        return dataclasses.replace(
            config, certificate=made["certificatePem"].encode(), private_key=made["keyPair"]["PrivateKey"].encode()
        )

    def command(self, device_id: str, name: str, **fields: object) -> None:
        topic = f"energy/donor/{device_id}/{name}"
        self.data.publish(topic=topic, qos=1, payload=json.dumps(fields).encode())

    def lock(self, device_id: str, trade: str, kwh: float = 1.5) -> None:
        self.command(device_id, "lock", order_id=ORDER, transaction_id=trade, kwh_requested=kwh)

    def take(self) -> list[str]:
        """The messages that lie in the queue now, taken from it."""
        taken = []
        while messages := self.sqs.receive_message(QueueUrl=self.queue, MaxNumberOfMessages=10).get("Messages"):
            for message in messages:
                taken.append(message["Body"])
                self.sqs.delete_message(QueueUrl=self.queue, ReceiptHandle=message["ReceiptHandle"])
        return taken

    def reports(self, device_id: str, kind: str) -> list[dict[str, Any]]:
        """What the rules have passed on so far of this device's messages of a kind."""
        for body in self.take():
            passed = json.loads(body)
            passed["fields"] = json.loads(base64.b64decode(passed["payload"]))
            self.received.append(passed)
        return [
            passed["fields"] | {"client_id": passed["client_id"]}
            for passed in self.received
            if passed["topic"].split("/")[2] == device_id and passed["topic"].endswith(kind)
        ]

    def wait_for(self, device_id: str, kind: str, is_it: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first report that is the one; fails after 15 seconds."""
        until = time.monotonic() + 15
        while time.monotonic() < until:
            for report in self.reports(device_id, kind):
                if is_it(report):
                    return report
            time.sleep(0.05)
        raise AssertionError(f"no such {kind} came: {self.reports(device_id, kind)}")

    def answer(self, device_id: str, trade: str) -> dict[str, Any]:
        return self.wait_for(device_id, "lock/response", lambda report: report["transaction_id"] == trade)
