"""The messages that failed for good, moved back to the queues that they came from.

On AWS the same is `aws sqs start-message-move-task`, which the local AWS does not know.
"""

import json
from contextlib import closing
from typing import TYPE_CHECKING

from energy_market.aws.dead_letters import move_back
from local_market.emulators.local_aws import STACK, aws_session

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
    with closing(aws_session().client("sqs", endpoint_url=endpoint_url)) as sqs:
        return {
            letters.rpartition("/")[2]: move_back(sqs, letters, source)
            for letters, source in sorted(dead_letters(sqs, prefix=prefix).items())
        }
