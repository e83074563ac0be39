"""`make replay`: move the messages that failed for good back to the queues that they came from, each once.

Harmless at any time: every function that reads a queue tells old news from new (docs/operations.md).
"""

import sys

from botocore.exceptions import BotoCoreError, ClientError

from local_market.parts.places import LOCAL
from local_market.stack.stack import read_stack
from local_market.watching.dead_letters import replay


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
