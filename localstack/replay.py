"""`make replay`: move the messages that failed for good back to the queues that they came from, each once.

Harmless at any time: every function that reads a queue tells old news from new (docs/operations.md). On AWS the same is
`aws sqs start-message-move-task`, which the local AWS does not know.

    python localstack/replay.py     the running stack of this checkout
"""

import json
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import boto3
from botocore.exceptions import BotoCoreError, ClientError
from deploy import STACK
from services import AWS_ENVIRONMENT, LOCAL, read_stack

from energy_market.aws.dead_letters import move_back

if TYPE_CHECKING:
    from types_boto3_sqs import SQSClient


def dead_letters(sqs: "SQSClient", *, prefix: str) -> dict[str, str]:
    """Each queue of dead letters and the queue that its messages came from, as URLs."""
    sources: dict[str, str] = {}
    by_arn: dict[str, str] = {}
    for page in sqs.get_paginator("list_queues").paginate(QueueNamePrefix=prefix):
        for url in page.get("QueueUrls", []):
            attributes = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
            by_arn[attributes["QueueArn"]] = url
            if attributes.get("RedrivePolicy"):
                sources[json.loads(attributes["RedrivePolicy"])["deadLetterTargetArn"]] = url
    return {by_arn[letters]: source for letters, source in sources.items()}


def replay(endpoint_url: str, *, prefix: str = STACK) -> dict[str, int]:
    """Move back all dead letters of the stack; how many of each queue, by its name."""
    session = boto3.Session(
        aws_access_key_id=AWS_ENVIRONMENT["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=AWS_ENVIRONMENT["AWS_SECRET_ACCESS_KEY"],
        region_name=AWS_ENVIRONMENT["AWS_DEFAULT_REGION"],
    )
    with closing(session.client("sqs", endpoint_url=endpoint_url)) as sqs:
        return {
            letters.rpartition("/")[2]: move_back(sqs, letters, source)
            for letters, source in sorted(dead_letters(sqs, prefix=prefix).items())
        }


def main() -> int:
    """Replay on the running stack of this checkout."""
    stack = read_stack(LOCAL / "run") or read_stack(LOCAL / "up")
    if "aws_endpoint_url" not in stack:
        print("Nothing runs in this checkout: start it with `make up`.", file=sys.stderr)
        return 2
    try:
        moved = replay(str(stack["aws_endpoint_url"]))
    except (BotoCoreError, ClientError) as error:
        print(f"The queues cannot be asked: {error}", file=sys.stderr)
        return 2
    for name, messages in moved.items():
        print(f"{name}: {messages} moved back")
    return 0


if __name__ == "__main__":
    sys.exit(main())
