"""What no schema can say of a good request, for schemathesis, which loads this file (SCHEMATHESIS_HOOKS).

It runs in an environment without the product, so real values come from who starts it, in a file (FUZZ_SAMPLES). What is
no good request already, by the contract, is left as it is.
"""

import json
import os
import re
from base64 import urlsafe_b64encode
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import schemathesis
from hypothesis import strategies as st

for name, samples in json.loads(Path(os.environ["FUZZ_SAMPLES"]).read_text()).items():
    schemathesis.openapi.format(name, st.sampled_from(samples))


SOON: Final = datetime.now(UTC)


@schemathesis.hook  # type: ignore[untyped-decorator]
def before_load_schema(context: Any, raw_schema: dict[str, Any]) -> None:  # noqa: ANN401, ARG001
    """The decimals of a number, which the contract has in words: floats would refuse good multiples of a fraction."""
    for schema in raw_schema["components"]["schemas"].values():
        if "x-decimals" in schema:
            schema["multipleOf"] = 10 ** -schema["x-decimals"]


@schemathesis.hook  # type: ignore[untyped-decorator]
def before_call(context: Any, case: Any, kwargs: Any) -> None:  # noqa: ANN401, ARG001 - as schemathesis has it
    """What depends on more than itself: each list's own cursor, candles of the past, an order's device and its end."""
    path, query, body = case.operation.path, case.query, case.body
    if isinstance(query, dict):
        if re.fullmatch(r"[A-Za-z0-9_-]{1,200}", str(query.get("cursor", ""))):
            position = "1700000000000000,7" if path == "/api/v1/market/trades" else "7"
            query["cursor"] = urlsafe_b64encode(position.encode()).rstrip(b"=").decode()
        for name, hours in (("from", 2), ("to", 1)):
            if path == "/api/v1/market/history" and is_time(query.get(name)):
                query[name] = (SOON - timedelta(hours=hours)).isoformat(timespec="seconds")
    if path == "/api/v1/market/order/create" and isinstance(body, dict):
        if body.get("type") == "buy" and is_id(body.get("device_id")):
            del body["device_id"]
        if is_time(body.get("expires_at")):
            body["expires_at"] = (SOON + timedelta(days=1)).isoformat(timespec="seconds")


def is_time(value: object) -> bool:
    """Whether this is a time as the contract wants it."""
    try:
        return isinstance(value, str) and datetime.fromisoformat(value).tzinfo is not None
    except ValueError:
        return False


def is_id(value: object) -> bool:
    """Whether this is an id as the contract wants it."""
    try:
        return isinstance(value, str) and str(UUID(value)) == value
    except ValueError:
        return False
