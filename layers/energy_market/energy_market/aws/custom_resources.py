"""CloudFormation's custom resources: the answers that a function gives during a deploy."""

import json
import urllib.request
from collections.abc import Mapping
from typing import Any, Final

ANSWER_TIMEOUT_S: Final = 20
REASON_LIMIT: Final = 1_000
"""Maximum characters of a reason: CloudFormation truncates answers at 4 KB."""


def succeeded(event: Mapping[str, Any], *, physical_id: str, **data: object) -> dict[str, object]:
    """The answer of success. `physical_id` must not change, or CloudFormation deletes the resource with the old id."""
    return {
        "Status": "SUCCESS",
        "PhysicalResourceId": physical_id,
        "StackId": event["StackId"],
        "RequestId": event["RequestId"],
        "LogicalResourceId": event["LogicalResourceId"],
        **({"Data": data} if data else {}),
    }


def failed(event: Mapping[str, Any], reason: str, *, physical_id: str) -> dict[str, object]:
    """The answer that fails the deploy, which then rolls back; `reason` is for people."""
    return {**succeeded(event, physical_id=physical_id), "Status": "FAILED", "Reason": reason[:REASON_LIMIT]}


def respond(url: str, answer: Mapping[str, object]) -> None:
    """Send the answer to CloudFormation's URL. Raises `OSError` if that fails."""
    request = urllib.request.Request(  # noqa: S310 - CloudFormation's own URL
        url, data=json.dumps(answer).encode(), method="PUT", headers={"Content-Type": ""}
    )
    with urllib.request.urlopen(request, timeout=ANSWER_TIMEOUT_S):  # noqa: S310
        pass


def is_older_deploy(event: Mapping[str, Any]) -> bool:
    """Whether CloudFormation is rolling an update back: the property `DeployedAt` decreases."""
    now, before = (
        str((event.get(name) or {}).get("DeployedAt") or "") for name in ("ResourceProperties", "OldResourceProperties")
    )
    return now < before
