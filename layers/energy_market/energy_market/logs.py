"""One JSON line per outcome. Lambda forwards what is printed to CloudWatch Logs."""

import json
import sys
import time
from collections.abc import Mapping
from typing import Final, Literal

NAMESPACE: Final = "EnergyMarket"
Level = Literal["info", "warning", "error"]
Unit = Literal["Count", "Milliseconds", "Seconds", "None"]


def log(event: str, *, level: Level = "info", **fields: object) -> None:
    """Print one line about an event. `event` is a dotted word; never pass a body, a token or a key."""
    _print({"event": event, "level": level, **fields})


def metric(name: str, value: float, unit: Unit = "Count", *, by: Mapping[str, str] | None = None) -> None:
    """Print one line that CloudWatch reads as a metric (embedded metric format): the total, and `by` a dimension."""
    dimensions = [[], [*by]] if by else [[]]
    _print(
        {
            "_aws": {
                "Timestamp": time.time_ns() // 1_000_000,
                "CloudWatchMetrics": [
                    {"Namespace": NAMESPACE, "Dimensions": dimensions, "Metrics": [{"Name": name, "Unit": unit}]}
                ],
            },
            **(by or {}),
            name: value,
        }
    )


def _print(line: dict[str, object]) -> None:
    # A single write, so that lines of concurrent threads do not mix.
    sys.stdout.write(json.dumps(line, default=str, separators=(",", ":")) + "\n")
    sys.stdout.flush()
