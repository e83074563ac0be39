"""Whatever a device says, on whichever topic: no function fails, and nothing of another device moves."""

import base64
import json
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from energy_market.messages.reports import (
    Refused,
    read_donor_status,
    read_lock_response,
    read_object,
    read_transfer_status,
)
from tests.support.api import ENVIRONMENT, load_function
from tests.support.market import Home, Market, certificate_of, now_ms

# What fields hold, what is next to it, and anything at all.
NUMBERS = (
    st.sampled_from([0, 1, -1, 0.5, 0.001, 0.0001, 1e300, -0.0, 100, 101, 10**9, 2**63 - 1, 2**63, 10**30, 1e-320])
    | st.integers()
    | st.floats(allow_nan=True)
)
WORDS = st.sampled_from(
    ["locked", "rejected", "started", "delivering", "delivered", "refused", "", "\u0000", "\ud800", "a" * 5000]
)
SCALARS = st.none() | st.booleans() | NUMBERS | WORDS | st.text(max_size=20)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
FIELDS = [
    "available_kwh", "battery_level", "locks", "seq", "order_id", "status", "transaction_id", "kwh_delivered", "reason",
    "clientId", "timestamp", "sessionIdentifier", "principalIdentifier", "eventType", "client_id", "topic", "principal",
]  # fmt: skip


def payloads(known: Mapping[str, st.SearchStrategy[object]]) -> st.SearchStrategy[bytes]:
    """JSON with known fields, right and wrong; and bytes that are none."""
    said = st.fixed_dictionaries({}, optional={name: known.get(name, NUMBERS) | ANYTHING for name in FIELDS})
    encoded = (said | ANYTHING).map(lambda value: json.dumps(value).encode(errors="replace"))
    torn = st.tuples(encoded, st.integers(0, 200)).map(lambda both: both[0][: both[1]])
    return encoded | torn | st.binary(max_size=60) | st.just(b"[" * 15_000)


class Neighbours:
    """Two homes with a trade each; whatever one's device says must move nothing of the other."""

    def __init__(self, market: Market) -> None:
        self.market = market
        self.attacker, _, self.own_ask, _, self.own = market.matched()
        self.victim, _, self.other_ask, _, self.other = market.matched()
        market.answer(self.victim.device, self.other_ask, "locked", trade=self.other.id)
        market.confirm(self.other.id)

    def stand(self, home: Home) -> list[tuple[object, ...]]:
        return (
            self.market.sql("SELECT d::text FROM iot_devices d WHERE id = %s", home.device)
            + self.market.sql("SELECT t::text FROM transactions t WHERE device_id = %s", home.device)
            + self.market.sql("SELECT o::text FROM energy_orders o WHERE user_id = %s", home.user)
            + self.market.sql("SELECT r::text FROM device_reports r WHERE device_id = %s ORDER BY id", home.device)
        )

    @property
    def ids(self) -> list[str]:
        found = [self.own.id, self.other.id, self.own_ask, self.other_ask, self.attacker.device, self.victim.device]
        return [str(one) for one in found]


@pytest.fixture
def neighbours(market: Market) -> Neighbours:
    return Neighbours(market)


@pytest.fixture
def functions(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, ModuleType]]:
    for name, value in {**ENVIRONMENT, "DATABASE_URL": database_url, "SETTLE_FUNCTION": "settle"}.items():
        monkeypatch.setenv(name, value)
    loaded = {name: load_function(name) for name in ("settlement", "telemetry")}
    loaded["settlement"]._wake_sweep = lambda: None  # type: ignore[attr-defined] # noqa: SLF001 -- its sandbox is ours
    yield loaded
    for function in loaded.values():
        function._database().close()  # noqa: SLF001


TOPICS = [
    "energy/donor/{}/lock/response",
    "energy/donor/{}/status",
    "energy/recipient/{}/status",
    "energy/device/{}/alert",
    "energy/transfer/{}/status",
    "$aws/events/presence/connected/{}",
    "$aws/events/presence/disconnected/{}",
]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_a_device_says_no_function_fails_and_nothing_of_another_moves(
    neighbours: Neighbours, functions: dict[str, ModuleType], data: st.DataObject
) -> None:
    ids = st.sampled_from([*neighbours.ids, str(uuid4()), "no id"])
    known: dict[str, st.SearchStrategy[object]] = {
        "order_id": ids,
        "transaction_id": ids,
        "clientId": ids,
        "locks": st.lists(ids, max_size=4),
        "status": WORDS,
        "principalIdentifier": st.just(certificate_of(neighbours.attacker.device)),
    }
    topic = data.draw(st.sampled_from(TOPICS))
    named = data.draw(st.sampled_from([str(neighbours.attacker.device)] * 4 + neighbours.ids + ["#", "+", ""]))
    before = neighbours.stand(neighbours.victim)
    records = [
        {
            "messageId": str(number),
            "body": json.dumps(
                {
                    "topic": topic.format(named),
                    # What the broker knows of the connection, which no payload changes.
                    "client_id": str(neighbours.attacker.device),
                    "principal": certificate_of(neighbours.attacker.device),
                    "payload": base64.b64encode(payload).decode(),
                    "received_at_ms": now_ms(),
                }
            ),
        }
        for number, payload in enumerate(data.draw(st.lists(payloads(known), min_size=1, max_size=3)))
    ]
    name, handler = ("settlement", "lock_responses") if "lock" in topic else ("telemetry", "handle")
    assert getattr(functions[name], handler)({"Records": records}, None) == {"batchItemFailures": []}
    assert neighbours.stand(neighbours.victim) == before


@settings(max_examples=300, deadline=None)
@given(raw=payloads({}))
def test_a_reader_gives_what_it_promises_or_refuses_the_message_with_a_sentence(raw: bytes) -> None:
    try:
        payload = read_object(raw)
    except Refused:
        return
    told: set[tuple[str | None, str]] = set()
    for read in (read_donor_status, read_lock_response, read_transfer_status):
        try:
            found: Any = read(payload)
        except Refused as refused:
            told.add((refused.field, refused.sentence[-1]))
            continue
        assert found.seq is None or 0 <= found.seq < 2**63
        assert all(one.field in {"seq", "battery_level", "locks"} for one in found.ignored)
        if read is read_donor_status:
            assert found.available_wh is None or 0 <= found.available_wh <= 10**9
            assert found.locks is None or all(isinstance(lock, UUID) for lock in found.locks)
            assert found.battery_level is None or 0 <= found.battery_level <= 100
        elif read is read_lock_response:
            assert found.status in {"locked", "rejected"}
            assert found.order_id is not None or found.transaction_id is not None
        else:
            assert 0 <= found.delivered_wh <= 10**9
    assert told <= {(field, ".") for field in FIELDS}


@settings(max_examples=150, deadline=None)
@given(raw=payloads({}))
def test_what_is_kept_of_a_report_is_what_the_database_can_hold(raw: bytes) -> None:
    try:
        text = read_object(raw).text
    except Refused:
        return
    assert isinstance(json.loads(text), dict)
    assert "\x00" not in json.dumps(json.loads(text))
    assert "\\u0000" not in text
