"""Dead letters are moved back to where they came from, on the local AWS."""

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import boto3
import pytest

from energy_market.aws.dead_letters import move_back
from local_market.emulators.ministack import start_ministack
from local_market.stack.stack import remove_state
from local_market.watching.dead_letters import dead_letters, replay


@pytest.fixture(scope="module")
def aws(state_folder: Path) -> Iterator[str]:
    folder = state_folder / "replay"
    started = start_ministack(folder)
    yield started.endpoint_url
    started.stop()
    remove_state(folder)


def test_a_message_that_failed_for_good_is_moved_back_once(aws: str) -> None:
    with closing(boto3.client("sqs", endpoint_url=aws)) as sqs:
        letters = sqs.create_queue(QueueName="stack-Letters")["QueueUrl"]
        arn = sqs.get_queue_attributes(QueueUrl=letters, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 1})
        source = sqs.create_queue(
            QueueName="stack-Messages", Attributes={"RedrivePolicy": policy, "VisibilityTimeout": "0"}
        )["QueueUrl"]
        sqs.create_queue(QueueName="stack-Other")
        sqs.create_queue(QueueName="another-Letters")
        for number in range(25):
            sqs.send_message(QueueUrl=source, MessageBody=f"message {number}")

        def fails() -> None:
            """Every message is received as often as it may be, and never deleted."""
            for _ in range(60):
                sqs.receive_message(QueueUrl=source, MaxNumberOfMessages=10)

        def lying(queue: str) -> int:
            attributes = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["ApproximateNumberOfMessages"])
            return int(attributes["Attributes"]["ApproximateNumberOfMessages"])

        fails()
        assert (lying(source), lying(letters)) == (0, 25)
        assert dead_letters(sqs, prefix="stack") == {letters: source}

        assert replay(aws, prefix="stack") == {"stack-Letters": 25}
        assert (lying(source), lying(letters)) == (25, 0)
        received = [
            message["Body"]
            for _ in range(25)
            for message in sqs.receive_message(QueueUrl=source, MaxNumberOfMessages=1).get("Messages", [])
        ]
        assert len(received) == len(set(received)) == 25  # whole, and each once
        fails()
        assert lying(letters) == 25  # those that fail again are back
        assert move_back(sqs, letters, source) == 25
        assert replay(aws, prefix="nothing") == {}
