"""The functions that read queues, with SQS events, on a real database."""

import contextlib
import socket
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from uuid import uuid4

import pytest

from tests.support.api import ENVIRONMENT, load_function
from tests.support.market import Market
from tests.support.queues import lines, queued

LOCKS = "energy/donor/{}/lock/response"


@pytest.fixture
def environment(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, str]:
    values = {
        **ENVIRONMENT,
        "DATABASE_URL": database_url,
        "SETTLE_FUNCTION": "settle",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_MAX_ATTEMPTS": "1",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    return values


def loaded(name: str) -> Iterator[ModuleType]:
    function = load_function(name)
    yield function
    function._database().close()  # noqa: SLF001 -- a sandbox that ends takes its connection with it


@pytest.fixture
def settlement(environment: Mapping[str, str]) -> Iterator[ModuleType]:
    assert environment
    yield from loaded("settlement")


@pytest.fixture
def telemetry(environment: Mapping[str, str]) -> Iterator[ModuleType]:
    assert environment
    yield from loaded("telemetry")


def test_each_answer_of_a_batch_counts_by_itself(
    settlement: ModuleType, market: Market, capsys: pytest.CaptureFixture[str]
) -> None:
    home, buyer, ask, _, trade = market.matched()
    topic = LOCKS.format(home.device)
    locked = {"order_id": str(ask), "status": "locked", "transaction_id": str(trade.id)}
    records = [
        queued(topic, b"no json"),
        {"messageId": "m", "body": "no message at all"},
        queued(topic, locked, client_id=uuid4()),
        queued(topic, locked),
        queued(topic, locked),
    ]
    assert settlement.lock_responses({"Records": records}, None) == {"batchItemFailures": []}
    assert market.trades(buyer)[0].status == "Locked"
    said = lines(capsys)
    dropped = [line["reason"] for line in said if line["event"] == "device.message.dropped"]
    assert dropped == ["invalid_payload", "not_a_device_message", "foreign_client"]
    assert [line["outcome"] for line in said if line["event"] == "lock.answered"] == ["locked", "repeated"]


@pytest.fixture
def shallow_stack() -> Iterator[None]:
    """As in a Lambda sandbox; test frameworks raise Python's limit."""
    raised = sys.getrecursionlimit()
    sys.setrecursionlimit(1000)
    yield
    sys.setrecursionlimit(raised)


POISON = {
    b'{"available_kwh": 1, "seq": 10000, "x": ' + b"[" * 8000 + b"]" * 8000 + b"}": "invalid_payload",
    b'{"available_kwh": 1, "seq": 10000, "x": "\xff"}': "invalid_payload",
    b'{"available_kwh": 1, "seq": 10000, "x": "\\ud800"}': "invalid_payload",
    b'{"available_kwh": 1e99999999999999999999, "seq": 10000}': "invalid_field",
    # Unimportant: the rest is taken.
    b'{"available_kwh": 1, "seq": 10000, "x": 1e999999}': None,
    b'{"available_kwh": 1, "seq": 10000, "x": "\\u0000"}': None,
    b'{"available_kwh": 1, "seq": 10000, "battery_level": 1e-20000}': None,
}


@pytest.mark.usefixtures("shallow_stack")
@pytest.mark.parametrize("poison", POISON)
def test_no_payload_holds_up_the_messages_beside_it(
    settlement: ModuleType, telemetry: ModuleType, market: Market, capsys: pytest.CaptureFixture[str], poison: bytes
) -> None:
    home, buyer, ask, _, trade = market.matched()
    locked = {"order_id": str(ask), "status": "locked", "transaction_id": str(trade.id)}
    topic = LOCKS.format(home.device)
    assert settlement.lock_responses({"Records": [queued(topic, poison), queued(topic, locked)]}, None) == {
        "batchItemFailures": []
    }
    assert market.trades(buyer)[0].status == "Locked"
    records = [
        queued(f"energy/donor/{home.device}/status", poison),
        queued(f"energy/device/{home.device}/alert", poison),
        queued(f"energy/donor/{home.device}/status", {"available_kwh": 2.5, "seq": 10**6}),
    ]
    records_topic = f"energy/donor/{home.device}/status"
    capsys.readouterr()
    assert telemetry.handle({"Records": records}, None) == {"batchItemFailures": []}
    said = lines(capsys)
    dropped = [(line["reason"], line["topic"], line["client_id"]) for line in said if "dropped" in line["event"]]
    assert dropped[:1] == ([(POISON[poison], records_topic, str(home.device))] if POISON[poison] else [])
    assert said[-1]["taken"]["donor_status"] == (1 if POISON[poison] else 2)


def test_a_sweep_that_cannot_be_woken_costs_no_answer(
    settlement: ModuleType, market: Market, capsys: pytest.CaptureFixture[str]
) -> None:
    home, buyer, ask, _, trade = market.matched()
    answer = queued(
        LOCKS.format(home.device), {"order_id": str(ask), "status": "locked", "transaction_id": str(trade.id)}
    )
    assert settlement.lock_responses({"Records": [answer]}, None) == {"batchItemFailures": []}
    assert market.trades(buyer)[0].status == "Locked"
    assert [line["event"] for line in lines(capsys)] == ["lock.answered", "sweep.not_woken"]


class Waker:
    """AWS Lambda, as far as the lock responses need it."""

    def __init__(self) -> None:
        self.invoked: list[tuple[str, str]] = []

    def invoke(self, *, FunctionName: str, InvocationType: str) -> None:  # noqa: N803 -- AWS's names
        self.invoked.append((FunctionName, InvocationType))


def test_a_burst_of_answers_starts_one_sweep(settlement: ModuleType, market: Market) -> None:
    waker = Waker()
    settlement._functions = lambda: waker  # type: ignore[attr-defined] # noqa: SLF001 -- its sandbox is ours
    for _ in range(5):
        home, buyer, ask, _, trade = market.matched()
        locked = {"order_id": str(ask), "status": "locked", "transaction_id": str(trade.id)}
        settlement.lock_responses({"Records": [queued(LOCKS.format(home.device), locked)]}, None)
        assert market.trades(buyer)[0].status == "Locked"
    assert waker.invoked == [("settle", "Event")]


def test_what_the_database_cannot_take_comes_again(
    settlement: ModuleType, telemetry: ModuleType, market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, _, ask, _, trade = market.matched()
    records = [
        queued(LOCKS.format(home.device), {"order_id": str(ask), "status": "locked", "transaction_id": str(trade.id)}),
        queued(LOCKS.format(home.device), b"no json"),
    ]
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:9/nowhere")
    failed = settlement.lock_responses({"Records": records}, None)["batchItemFailures"]
    assert failed == [{"itemIdentifier": record["messageId"]} for record in records]
    status = queued(f"energy/donor/{home.device}/status", {"available_kwh": 1, "seq": 10**6})
    failed = telemetry.handle({"Records": [status]}, None)["batchItemFailures"]
    assert failed == [{"itemIdentifier": status["messageId"]}]


def test_a_batch_waits_for_one_connection_not_for_one_a_message(
    settlement: ModuleType, telemetry: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = uuid4()
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
        tries: list[int] = []

        def hang_up() -> None:
            with contextlib.suppress(OSError):
                while True:
                    server.accept()[0].close()
                    tries.append(1)

        hanging_up = pool.submit(hang_up)
        monkeypatch.setenv("DATABASE_URL", f"postgresql://a@127.0.0.1:{server.getsockname()[1]}/b?gssencmode=disable")
        answers = [queued(LOCKS.format(device), {"order_id": str(uuid4()), "status": "locked"}) for _ in range(10)]
        reports = [queued(f"energy/donor/{device}/status", {"available_kwh": 1, "seq": n}) for n in range(10)]
        for records, handle in ((answers, settlement.lock_responses), (reports, telemetry.handle)):
            tries.clear()
            failed = handle({"Records": records}, None)["batchItemFailures"]
            assert [one["itemIdentifier"] for one in failed] == [record["messageId"] for record in records]
            assert len(tries) == 1
        server.shutdown(socket.SHUT_RDWR)
        hanging_up.result()


def test_reports_are_taken_and_counted(
    telemetry: ModuleType, market: Market, capsys: pytest.CaptureFixture[str]
) -> None:
    home = market.home(available_wh=None)
    records = [
        queued(f"energy/donor/{home.device}/status", {"available_kwh": 2.5, "seq": 7}),
        queued(f"energy/recipient/{home.device}/status", {"consumption_kwh": 1}),
        queued(f"energy/donor/{home.device}/status", {"available_kwh": 9, "seq": 7}),
        queued("energy/somewhere/else", {}),
    ]
    assert telemetry.handle({"Records": records}, None) == {"batchItemFailures": []}
    assert market.sql("SELECT available_wh FROM iot_devices") == [(2_500,)]
    said = lines(capsys)
    assert said[-1]["taken"] == {"donor_status": 1, "recipient_status": 1}
    assert [line["reason"] for line in said[:-1]] == ["unknown_device_or_old_news", "unknown_topic"]


def test_a_delivery_that_falls_short_is_a_line_and_a_metric(
    telemetry: ModuleType, market: Market, capsys: pytest.CaptureFixture[str]
) -> None:
    home, _, trade = market.sold(energy_wh=500)
    report = {"transaction_id": str(trade.id), "status": "delivered", "kwh_delivered": 0.3, "seq": 100}
    topic = f"energy/transfer/{home.device}/status"
    records = [queued(topic, report), queued(topic, report | {"seq": 101})]
    assert telemetry.handle({"Records": records}, None) == {"batchItemFailures": []}
    short, measured, taken = lines(capsys)
    assert (short["event"], short["transaction_id"], short["device_id"]) == (
        "trade.short",
        str(trade.id),
        str(home.device),
    )
    assert (short["reason"], short["delivered_wh"]) == ("under_delivered", 300)
    assert (measured["TradesShort"], measured["Reason"]) == (1, "under_delivered")
    assert taken["taken"] == {"transfer": 2}
