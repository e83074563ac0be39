"""Device messages that failed for good, in queues of their own (SQS).

The AWS SDK is imported when a queue is first used: the import takes longer than the rest of a cold start.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from energy_market.domain.settings import DeadLetterQueue

if TYPE_CHECKING:
    from types_boto3_sqs import SQSClient

MOST_AT_ONCE: Final = 10  # the maximum that SQS returns
HIDDEN_S: Final = 30  # a received message that is not deleted reappears after that
MOST_A_REQUEST: Final = 200  # takes some of the 29 seconds that API Gateway waits


class DeadLetters:
    """The dead-letter queues, by kind of message."""

    def __init__(self, queues: Mapping[str, DeadLetterQueue]) -> None:
        """Store the queues' addresses; the connection is made later."""
        self._queues = queues
        self._client: SQSClient | None = None

    def waiting(self) -> dict[str, int]:
        """The approximate number of messages in each queue."""
        return {name: waiting(self._sqs(), queue.url) for name, queue in self._queues.items()}

    def replay(self, name: str) -> tuple[int, int]:
        """Move at most 200 messages back to their source. Returns how many, and about how many are left."""
        queue = self._queues[name]
        moved = move_back(self._sqs(), queue.url, queue.source_url, most=MOST_A_REQUEST)
        return moved, waiting(self._sqs(), queue.url)

    def _sqs(self) -> "SQSClient":
        if self._client is None:
            import boto3  # noqa: PLC0415
            from botocore.config import Config  # noqa: PLC0415

            # The request is answered before API Gateway gives up.
            self._client = boto3.client(
                "sqs",
                config=Config(connect_timeout=2, read_timeout=5, retries={"mode": "standard", "total_max_attempts": 2}),
            )
        return self._client


def waiting(sqs: "SQSClient", queue: str) -> int:
    """The approximate number of messages that can be received from a queue."""
    attributes = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["ApproximateNumberOfMessages"])
    return int(attributes["Attributes"]["ApproximateNumberOfMessages"])


def move_back(sqs: "SQSClient", letters: str, source: str, *, most: int | None = None) -> int:
    """Move the messages that now lie in a dead-letter queue. Returns how many. Later failures are not moved again.

    A message is deleted only after it was sent, so a crash in between leaves it in both queues.
    """
    to_move = waiting(sqs, letters) if most is None else min(most, waiting(sqs, letters))
    moved = 0
    while moved < to_move:
        received = sqs.receive_message(
            QueueUrl=letters, MaxNumberOfMessages=min(MOST_AT_ONCE, to_move - moved), VisibilityTimeout=HIDDEN_S
        )
        messages = received.get("Messages", [])
        if not messages:
            break
        for message in messages:
            sqs.send_message(QueueUrl=source, MessageBody=message["Body"])
            sqs.delete_message(QueueUrl=letters, ReceiptHandle=message["ReceiptHandle"])
        moved += len(messages)
    return moved
