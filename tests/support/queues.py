"""Messages of devices as queues give them to functions, and what the functions log."""

import base64
import json
from typing import Any
from uuid import uuid4

import pytest

from tests.support.market import certificate_of, now_ms


def queued(topic: str, payload: object, *, client_id: object = None) -> dict[str, str]:
    """A message as the rule puts it into the queue."""
    raw = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    body = {
        "topic": topic,
        "client_id": topic.split("/")[2] if client_id is None else str(client_id),
        "principal": certificate_of(topic.split("/")[2]),
        "payload": base64.b64encode(raw).decode(),
        "received_at_ms": now_ms(),
    }
    return {"messageId": str(uuid4()), "body": json.dumps(body)}


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]
