"""Trades through the whole system: API Gateway, Lambda, Step Functions, IoT, SQS, PostgreSQL, a chain."""

import base64
import contextlib
import http.client
import itertools
import json
import os
import re
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import boto3
import localstack_client.session
import psycopg
import pytest
from awscrt import mqtt5
from awscrt.exceptions import AwsCrtError
from awsiot import mqtt5_client_builder

from energy_market.evm.rpc import Rpc
from energy_market_client.errors import ApiError
from energy_market_client.wallet import read_uint
from local_market.emulators.local_aws import STACK
from local_market.watching.dead_letters import dead_letters, replay
from tests.support.contract import contract
from tests.support.devices.firmware import Firmware
from tests.support.neighbourhood import NODE_KEY, ON_LOCALSTACK, UNIT, Neighbour, Neighbourhood, wait_until
from tests.support.trouble import leftovers

CHECKOUT = Path(__file__).parents[2]


def _order(of: Neighbour, order: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = of.client.get(f"/api/v1/market/order/{order['id']}")
    return found


def _escrow(neighbourhood: Neighbourhood, of: Neighbour) -> Decimal:
    market = neighbourhood.market
    rpc = Rpc(market.stack.chain.rpc_url, deadline_s=10)
    amount = read_uint(rpc, market.settlement_contract, "escrow(address)", of.client.account.address)
    rpc.close()
    return Decimal(amount) / UNIT


def test_a_trade_is_locked_paid_and_delivered(neighbourhood: Neighbourhood) -> None:
    ann, ben = neighbourhood.donor(charge_wh=5_000), neighbourhood.buyer(tokens=10)
    ask = ann.client.place(side="sell", size_wh=1_500, price_micro=200_000, all_or_none=True)
    bid = ben.client.place(side="buy", size_wh=1_500, price_micro=250_000, all_or_none=True)
    wait_until(lambda: _order(ben, bid)["status"] == "Completed")
    assert _order(ann, ask)["status"] == "Completed"
    wait_until(lambda: ben.client.my_trades()[0]["delivery"] == "Delivered")
    (trade,) = ben.client.my_trades()
    assert (trade["status"], Decimal(trade["kwh_amount"]), Decimal(trade["token_price"])) == (
        "Confirmed",
        Decimal("1.5"),
        Decimal("0.2"),
    )
    assert Decimal(trade["token_amount"]) == Decimal("0.3")
    assert _escrow(neighbourhood, ann) == Decimal("0.3")
    assert _escrow(neighbourhood, ben) == Decimal("9.7")
    wait_until(lambda: neighbourhood.devices_of(ann)[0]["available_kwh"] == Decimal("3.5"))
    wait_until(lambda: neighbourhood.differences() == [])


def test_partial_orders_fill_from_several_neighbours(neighbourhood: Neighbourhood) -> None:
    ann, ben, cat = (
        neighbourhood.donor(charge_wh=5_000),
        neighbourhood.buyer(tokens=10),
        neighbourhood.buyer(tokens=10),
    )
    ask = ann.client.place(side="sell", size_wh=1_000, price_micro=310_000, all_or_none=False)
    ben.client.place(side="buy", size_wh=300, price_micro=310_000, all_or_none=True)
    cat.client.place(side="buy", size_wh=700, price_micro=320_000, all_or_none=True)
    wait_until(lambda: _order(ann, ask)["status"] == "Completed")
    assert len(ann.client.my_trades()) == 2
    wait_until(lambda: neighbourhood.differences() == [])


def test_a_buyer_without_escrow_is_rejected_and_the_ask_stands_again(neighbourhood: Neighbourhood) -> None:
    ann, poor = neighbourhood.donor(charge_wh=5_000), neighbourhood.buyer(tokens=0)
    ask = ann.client.place(side="sell", size_wh=777, price_micro=410_000, all_or_none=True)
    bid = poor.client.place(side="buy", size_wh=777, price_micro=410_000, all_or_none=True)
    wait_until(lambda: _order(poor, bid)["status"] == "Rejected")
    assert _order(poor, bid)["reason"] == "insufficient_escrow"
    assert _order(ann, ask)["status"] == "Created"
    wait_until(lambda: neighbourhood.agents[-1][1].locks == ())
    ann.client.cancel(ask["id"])
    wait_until(lambda: neighbourhood.differences() == [])


@pytest.fixture
def with_firmware(neighbourhood: Neighbourhood) -> Iterator[tuple[Neighbour, Firmware]]:
    """Somebody whose device is played by the test."""
    neighbour = neighbourhood.stranger()
    device = neighbour.client.register_device(side="donor", device_type="esp32", location="the cellar")
    with Firmware(device, neighbourhood.market.stack.aws) as firmware:
        yield neighbour, firmware


def test_firmware_that_knows_only_the_specifications_fields_can_sell(
    neighbourhood: Neighbourhood, with_firmware: tuple[Neighbour, Firmware]
) -> None:
    ann, firmware = with_firmware
    ben = neighbourhood.buyer(tokens=10)
    firmware.say("energy/donor/{}/status", {"available_kwh": 2, "battery_level": 50, "seq": 1})
    ask = ann.client.place(side="sell", size_wh=666, price_micro=610_000, all_or_none=True)
    bid = ben.client.place(side="buy", size_wh=666, price_micro=610_000, all_or_none=True)
    lock = firmware.hear("lock")
    assert set(lock) == {"order_id", "kwh_requested", "transaction_id", "expires_at"}
    assert (lock["order_id"], lock["kwh_requested"]) == (ask["id"], 0.666)
    firmware.say("energy/donor/{}/lock/response", {"order_id": ask["id"], "status": "locked"})
    wait_until(lambda: _order(ben, bid)["status"] == "Completed")
    transfer = firmware.hear("transfer")
    assert transfer == {"transaction_id": lock["transaction_id"], "kwh": 0.666}
    report = {"transaction_id": lock["transaction_id"], "status": "delivered", "kwh_delivered": 0.666, "seq": 2}
    firmware.say("energy/transfer/{}/status", report)
    wait_until(lambda: ben.client.my_trades()[0]["delivery"] == "Delivered")


def test_a_device_that_refuses_costs_its_ask_a_turn_and_the_bid_stands_again(
    neighbourhood: Neighbourhood, with_firmware: tuple[Neighbour, Firmware]
) -> None:
    ann, firmware = with_firmware
    ben = neighbourhood.buyer(tokens=10)
    firmware.say("energy/donor/{}/status", {"available_kwh": 2, "seq": 1})
    ask = ann.client.place(side="sell", size_wh=888, price_micro=710_000, all_or_none=True)
    bid = ben.client.place(side="buy", size_wh=888, price_micro=710_000, all_or_none=True)
    lock = firmware.hear("lock")
    answer = {"order_id": ask["id"], "transaction_id": lock["transaction_id"], "status": "rejected", "reason": "cold"}
    firmware.say("energy/donor/{}/lock/response", answer)
    wait_until(lambda: _order(ann, ask).get("unmatchable") == "device_refused")
    assert (_order(ann, ask)["status"], _order(ben, bid)["status"]) == ("Created", "Created")
    for neighbour, order in ((ann, ask), (ben, bid)):
        neighbour.client.cancel(order["id"])
    wait_until(lambda: neighbourhood.differences() == [])


def test_messages_that_make_no_sense_are_dropped_with_a_line_in_the_log(
    neighbourhood: Neighbourhood, with_firmware: tuple[Neighbour, Firmware]
) -> None:
    ann, firmware = with_firmware
    firmware.say("energy/donor/{}/status", b"\xff no json")
    firmware.say("energy/donor/{}/lock/response", b"no json")
    wait_until(lambda: "invalid_payload" in neighbourhood.logged("telemetry", "device.message.dropped"))
    wait_until(lambda: "invalid_payload" in neighbourhood.logged("lock-responses", "device.message.dropped"))
    assert neighbourhood.devices_of(ann)[0]["available_kwh"] is None


def test_nobody_speaks_for_anothers_device(
    neighbourhood: Neighbourhood, with_firmware: tuple[Neighbour, Firmware]
) -> None:
    """The policy lets a device speak under its own name only; where nobody enforces it, we do not listen."""
    _, firmware = with_firmware
    other = neighbourhood.donor(charge_wh=1_000)
    topic = f"energy/donor/{other.device_id}/status"
    neighbourhood.publish_over_https(topic, {"available_kwh": 1_000, "seq": 10**15})
    wait_until(lambda: "foreign_client" in neighbourhood.logged("telemetry", "device.message.dropped"))
    with contextlib.suppress(AwsCrtError):  # the broker may drop the line instead of the message
        firmware.say(topic, {"available_kwh": 1_000, "seq": 10**15})
    time.sleep(2)
    assert neighbourhood.devices_of(other)[0]["available_kwh"] == 1


def test_a_device_that_goes_is_offline_at_once(
    neighbourhood: Neighbourhood, with_firmware: tuple[Neighbour, Firmware]
) -> None:
    ann, firmware = with_firmware
    firmware.say("energy/donor/{}/status", {"available_kwh": 2, "seq": 1})
    wait_until(lambda: neighbourhood.devices_of(ann)[0]["available_kwh"] == 2)
    ask = ann.client.place(side="sell", size_wh=500, price_micro=900_000_000, all_or_none=True)
    assert ask["unmatchable"] is None
    firmware.close()
    wait_until(lambda: neighbourhood.devices_of(ann)[0]["status"] == "Offline")
    assert _order(ann, ask)["unmatchable"] == "device_offline"
    ann.client.cancel(ask["id"])


def test_without_a_certificate_nobody_speaks_for_a_device(
    neighbourhood: Neighbourhood, with_firmware: tuple[Neighbour, Firmware]
) -> None:
    """The local broker lets in whoever has none, under any name: what he says is dropped."""
    ann, firmware = with_firmware
    firmware.say("energy/donor/{}/status", {"available_kwh": 2, "seq": 1})
    wait_until(lambda: bool(neighbourhood.devices_of(ann)[0]["available_kwh"] == 2))
    firmware.close()
    before = neighbourhood.logged_times("telemetry", "unknown_certificate")
    aws = neighbourhood.market.stack.aws
    connected: Future[None] = Future()
    stranger = mqtt5_client_builder.new_default_builder(
        endpoint=aws.iot_host,
        port=aws.iot_port,
        ca_bytes=aws.ca_file.read_bytes(),
        client_id=firmware.device_id,
        on_lifecycle_connection_success=lambda _: connected.set_result(None),
    )
    stranger.start()
    connected.result(20)
    lie = json.dumps({"available_kwh": 1_000, "seq": 10**15}).encode()
    topic = f"energy/donor/{firmware.device_id}/status"
    stranger.publish(mqtt5.PublishPacket(topic=topic, payload=lie, qos=mqtt5.QoS.AT_LEAST_ONCE)).result(20)
    # That he came, and what he said.
    wait_until(lambda: neighbourhood.logged_times("telemetry", "unknown_certificate") >= before + 2)
    stranger.stop()
    (device,) = neighbourhood.devices_of(ann)
    assert (device["available_kwh"], device["status"]) == (2, "Offline")


def test_a_device_goes_on_with_another_certificate_until_it_is_removed(
    neighbourhood: Neighbourhood, with_firmware: tuple[Neighbour, Firmware]
) -> None:
    """With the rights that the functions have, and no more."""
    ann, firmware = with_firmware
    firmware.say("energy/donor/{}/status", {"available_kwh": 2, "seq": 1})
    rotated = ann.client.rotate_certificate(firmware.device)
    firmware.close()
    with Firmware(rotated, neighbourhood.market.stack.aws) as renewed:
        renewed.say("energy/donor/{}/status", {"available_kwh": 3, "seq": 2})
        wait_until(lambda: bool(neighbourhood.devices_of(ann)[0]["available_kwh"] == 3))
        with psycopg.connect(neighbourhood.market.stack.database.url, autocommit=True) as conn:
            # A minute later.
            conn.execute(
                "UPDATE device_certificates SET valid_until = valid_until - interval '61 s' WHERE device_id = %s",
                (renewed.device_id,),
            )
            conn.execute(
                "UPDATE iot_devices SET tidy_at = tidy_at - interval '61 s' WHERE id = %s", (renewed.device_id,)
            )
        neighbourhood.tidy_devices()
        (certificate,) = neighbourhood.devices_of(ann)[0]["certificates"]
        assert certificate["certificate_id"] == rotated.answer["certificate_id"]
        iot_url = neighbourhood.market.stack.aws.iot_endpoint_url
        with contextlib.closing(boto3.client("iot", endpoint_url=iot_url)) as things:
            found = things.list_thing_principals(thingName=renewed.device_id)["principals"]
            assert [arn.rpartition("/")[2] for arn in found] == [certificate["certificate_id"]]
            ann.client.revoke_certificates(renewed.device_id)
            assert things.list_thing_principals(thingName=renewed.device_id)["principals"] == []
            ann.client.remove_device(renewed.device_id)
            with pytest.raises(things.exceptions.ResourceNotFoundException):
                things.describe_thing(thingName=renewed.device_id)
    assert neighbourhood.devices_of(ann) == []


def test_a_registration_that_died_is_tidied_away_by_the_sweep_with_the_rights_that_it_has(
    neighbourhood: Neighbourhood,
) -> None:
    died = neighbourhood.stranger().client.register_device(side="donor", device_type="esp32", location="the roof")
    with psycopg.connect(neighbourhood.market.stack.database.url, autocommit=True) as conn:
        conn.execute(
            """UPDATE iot_devices SET status = 'Provisioning', created_at = now() - interval '1 hour',
               tidy_at = now() - interval '50 minutes' WHERE id = %s""",
            (died.device_id,),
        )
    things = boto3.client("iot", endpoint_url=neighbourhood.market.stack.aws.iot_endpoint_url)
    (arn,) = things.list_thing_principals(thingName=died.device_id)["principals"]
    neighbourhood.tidy_devices()
    with pytest.raises(things.exceptions.ResourceNotFoundException):
        things.describe_thing(thingName=died.device_id)
    with pytest.raises(things.exceptions.ResourceNotFoundException):
        things.describe_certificate(certificateId=arn.rpartition("/")[2])
    things.close()


def test_the_loop_ticks_every_five_seconds(neighbourhood: Neighbourhood) -> None:
    marks = [mark for mark, ran in neighbourhood.marks("default") if ran]
    assert len(marks) >= 2
    gaps = [(after - before).total_seconds() for before, after in itertools.pairwise(marks)]
    assert all(gap % 5 == 0 for gap in gaps)
    assert gaps.count(5) > len(gaps) // 2


def _ask(neighbourhood: Neighbourhood, method: str, path: str, **headers: str) -> tuple[int, Mapping[str, str], bytes]:
    """One request as a browser would send it."""
    address = urlsplit(neighbourhood.market.api_url)
    connection = http.client.HTTPConnection(address.netloc, timeout=20)
    connection.request(method, f"{address.path}/api/v1/{path}", headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, dict(answer.headers), body


def test_the_nightly_comparison_runs_as_deployed_and_finds_what_differs(neighbourhood: Neighbourhood) -> None:
    wait_until(lambda: neighbourhood.reconciled_by_night() == 0)
    with psycopg.connect(neighbourhood.market.stack.database.url, autocommit=True) as conn:
        planted = conn.execute(
            """INSERT INTO energy_orders (user_id, zone, type, energy_wh, price_micro, all_or_none)
            SELECT id, zone, 'buy', 1, 1, true FROM users LIMIT 1 RETURNING id"""
        ).fetchone()  # open, and not in the book
        assert planted is not None
        assert neighbourhood.reconciled_by_night() == 1
        conn.execute("SET session_replication_role = replica")
        conn.execute("DELETE FROM energy_orders WHERE id = %s", planted)
        conn.execute("DELETE FROM events WHERE entity_id = %s", planted)
    assert neighbourhood.logged("reconcile", "reconciliation.difference", what="difference") == {
        f"order {planted[0]} has 1 Wh open, but is not in the book"
    }
    assert neighbourhood.reconciled_by_night() == 0


def test_dead_letters_that_are_moved_back_are_processed(neighbourhood: Neighbourhood) -> None:
    ann = neighbourhood.donor(charge_wh=1_000)
    endpoint = neighbourhood.market.stack.aws.endpoint_url
    letters = _an_alert_fails_for_good(neighbourhood, ann, "replayed")
    moved = replay(endpoint)
    assert len(moved) == 2
    assert moved[letters.rpartition("/")[2]] == 1
    _wait_until_it_is_kept(neighbourhood, "replayed")


def test_an_operator_pauses_the_market_and_replays_with_the_rights_that_the_function_has(
    neighbourhood: Neighbourhood,
) -> None:
    ann, olga = neighbourhood.donor(charge_wh=1_000), neighbourhood.operator()
    with pytest.raises(ApiError) as refused:
        ann.client.get("/api/v1/admin/market")
    assert (refused.value.status, refused.value.code) == (403, "not_an_operator")

    olga.client.post("/api/v1/admin/market/pause", {"reason": "a rehearsal"})
    with pytest.raises(ApiError) as refused:
        ann.client.place(side="sell", size_wh=500, price_micro=200_000, all_or_none=True)
    assert (refused.value.status, refused.value.code) == (409, "market_paused")
    olga.client.post("/api/v1/admin/market/resume", {"reason": "it is over"})
    ask = ann.client.place(side="sell", size_wh=500, price_micro=200_000, all_or_none=True)
    assert ann.client.cancel(str(ask["id"]))

    _an_alert_fails_for_good(neighbourhood, ann, "replayed by an operator")
    assert olga.client.get("/api/v1/admin/dead-letters") == [
        {"queue": "lock-responses", "messages": 0},
        {"queue": "telemetry", "messages": 1},
    ]
    replayed = olga.client.post("/api/v1/admin/dead-letters/replay", {"queue": "telemetry", "reason": "it works again"})
    assert replayed == {"queue": "telemetry", "replayed": 1, "left": 0}
    _wait_until_it_is_kept(neighbourhood, "replayed by an operator")
    acts = olga.client.get("/api/v1/admin/acts")
    assert [act["act"] for act in acts] == ["dead_letters.replay", "market.resume", "market.pause"]


def _an_alert_fails_for_good(neighbourhood: Neighbourhood, donor: Neighbour, code: str) -> str:
    """A device's alert lies among the dead letters, whose queue is returned."""
    alert = {
        "topic": f"energy/device/{donor.device_id}/alert",
        "client_id": donor.device_id,
        "principal": neighbourhood.devices_of(donor)[0]["certificates"][0]["certificate_id"],
        "payload": base64.b64encode(json.dumps({"code": code}).encode()).decode(),
        "received_at_ms": 1,
    }
    with contextlib.closing(boto3.client("sqs", endpoint_url=neighbourhood.market.stack.aws.endpoint_url)) as sqs:
        (letters,) = (url for url in dead_letters(sqs, prefix=STACK) if "TelemetryDeadLetters" in url)
        sqs.send_message(QueueUrl=letters, MessageBody=json.dumps(alert))
    return letters


def _wait_until_it_is_kept(neighbourhood: Neighbourhood, code: str) -> None:
    with psycopg.connect(neighbourhood.market.stack.database.url, autocommit=True) as conn:
        kept = "SELECT count(*) FROM device_reports WHERE payload ->> 'code' = %s"
        wait_until(lambda: conn.execute(kept, (code,)).fetchone() == (1,))


def test_the_contract_is_served_and_readable(neighbourhood: Neighbourhood) -> None:
    status, _, text = _ask(neighbourhood, "GET", "openapi.json")
    served = json.loads(text)
    assert (status, served["openapi"][:3]) == (200, "3.0")
    # A client finds the API from where it got the contract, below the stage.
    api_url = urljoin(f"{neighbourhood.market.api_url}/api/v1/openapi.json", served["servers"][0]["url"]).rstrip("/")
    assert api_url == neighbourhood.market.api_url
    status, headers, page = _ask(neighbourhood, "GET", "docs")
    assert (status, headers["Content-Type"].partition(";")[0]) == (200, "text/html")
    assert b"/market/order/create" in page


def test_the_system_says_that_it_is_well(neighbourhood: Neighbourhood) -> None:
    status, _, body = _ask(neighbourhood, "GET", "health")
    assert (status, json.loads(body)["status"]) == (200, "ok")
    assert _ask(neighbourhood, "HEAD", "health")[::2] == (200, b"")


@pytest.mark.parametrize("said", ["1.2.3.4:5555", "[2001:db8::1]:443", "2001:db8::1, 10.0.0.1", "garbage", "", "a:b:c"])
def test_a_request_is_served_whatever_x_forwarded_for_says(neighbourhood: Neighbourhood, said: str) -> None:
    assert _ask(neighbourhood, "GET", "chain", **{"X-Forwarded-For": said})[0] == 200


def test_a_browser_may_ask(neighbourhood: Neighbourhood) -> None:
    status, headers, _ = _ask(
        neighbourhood,
        "OPTIONS",
        "market/order/create",
        **{"Origin": "https://app.example", "Access-Control-Request-Method": "POST"},
    )
    assert status in {200, 204}
    assert headers["Access-Control-Allow-Origin"] == "*"
    assert "POST" in headers["Access-Control-Allow-Methods"]


def test_who_looks_into_it_finds_it_by_localstacks_client_and_by_the_sdks_variable(
    neighbourhood: Neighbourhood, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = neighbourhood.market.stack.aws.endpoint_url
    # MiniStack knows no other keys; the defaults of LocalStack's client are its own.
    test_keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "aws_session_token": None}

    def queues(client: Any) -> list[str]:  # noqa: ANN401 - the one client has types, the other none
        with contextlib.closing(client):
            return sorted(client.list_queues()["QueueUrls"])

    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    found = queues(boto3.client("sqs"))
    assert {"TelemetryQueue", "LockResponsesQueue"} <= {url.rpartition("/")[2].split("-")[2] for url in found}
    assert queues(localstack_client.session.Session(**test_keys).client("sqs")) == found
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.setenv("LOCALSTACK_HOST", urlsplit(endpoint).netloc)
    assert queues(localstack_client.session.Session(**test_keys).client("sqs")) == found


def test_a_stranger_gets_a_clear_refusal(neighbourhood: Neighbourhood) -> None:
    stranger = neighbourhood.stranger()
    with pytest.raises(ApiError) as refused:
        stranger.client.post("/api/v1/market/order/create", {"type": "buy", "kwh_amount": 0, "token_price": 1})
    assert (refused.value.status, refused.value.code) == (400, "invalid_kwh_amount")
    with pytest.raises(ApiError) as refused:
        stranger.client.get("/api/v1/market/order/00000000-0000-0000-0000-000000000000")
    assert refused.value.status == 404


def test_the_readmes_first_trade_by_hand_is_as_it_says_as_often_as_it_is_made(neighbourhood: Neighbourhood) -> None:
    text = (CHECKOUT / "README.md").read_text().split("## A first trade by hand")[1].split("\n## ")[0]
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    assert blocks[0].startswith("make up\n")
    folder = neighbourhood.market.stack.folder
    script = "".join(blocks).removeprefix("make up\n").replace(".local/up", str(folder))
    script = script.replace("curl -sS", "curl -sSf")
    assert "#" not in script  # an interactive zsh takes no comments
    for _ in range(2):
        done = subprocess.run(
            ["bash", "-eu", "-o", "pipefail", "-c", "trap 'kill $(jobs -p) || true' EXIT\n" + script],
            cwd=CHECKOUT,
            env={**os.environ, "STACK": str(folder)},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        *_, after, trades = [json.loads(line) for line in done.stdout.splitlines() if line.startswith(("{", "["))]
        (trade,) = trades
        assert (trade["status"], trade["kwh_amount"], trade["token_amount"]) == ("Confirmed", 1.5, 0.3)
        assert (trade["delivery"], trade["delivered_kwh"]) == ("Delivered", 1.5)
        assert "In escrow: 0 tokens before, 100 now." in done.stdout
        assert after["escrow"] == 99.7


def test_a_zone_that_fails_or_hangs_holds_up_neither_another_nor_the_commands_nor_the_next_step(
    neighbourhood: Neighbourhood,
) -> None:
    with psycopg.connect(neighbourhood.market.stack.database.url, autocommit=True) as conn:
        conn.execute("INSERT INTO zones (id) VALUES ('failing'), ('hanging')")
        conn.execute(
            """
            CREATE FUNCTION spoil() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                IF NEW.zone = 'failing' THEN RAISE EXCEPTION 'this zone cannot be ticked'; END IF;
                PERFORM pg_sleep(8);
                RETURN NEW;
            END $$
            """
        )
        conn.execute(
            "CREATE TRIGGER spoil BEFORE INSERT ON ticks FOR EACH ROW"
            " WHEN (NEW.zone <> 'default') EXECUTE FUNCTION spoil()"
        )
        # A busy machine may be too slow for what follows, and where a minute begins meanwhile, its execution ticks the
        # new zones as well.
        for _ in range(6):
            began_at = datetime.now(UTC) - timedelta(seconds=5)
            said = _what_an_execution_of_the_last_seconds_of_a_minute_said(neighbourhood)
            wait_until(lambda: any(ran for _, ran in neighbourhood.marks("hanging")))
            marks = [(mark, ran) for mark, ran in neighbourhood.marks("hanging") if mark > began_at]
            if _shows_that_a_hanging_zone_is_waited_for_by_nobody(said, marks):
                break
            time.sleep(8)  # until no tick hangs any more
        conn.execute("DROP TRIGGER spoil ON ticks")
    assert _shows_that_a_hanging_zone_is_waited_for_by_nobody(said, marks), (said, marks)
    assert neighbourhood.logged("match", "tick.failed", what="zone") == {"failing"}


def _shows_that_a_hanging_zone_is_waited_for_by_nobody(
    said: list[dict[str, Any]], marks: list[tuple[datetime, bool]]
) -> bool:
    """Of an execution with a default zone, one that fails and one that hangs: all that its steps have to show."""
    steps = sum("commands" in answer for answer in said)
    return (
        steps > 1
        # The hanging zone's first call is not waited for to its end.
        and sum(answer.get("failed") == "States.Timeout" for answer in said) == 1
        # Each step: the default zone's tick, whatever the others do; the commands. And from the second on, the hanging
        # one says that the tick of the step before is still at work.
        and sum("matches" in answer for answer in said) == steps + steps - 1
        and sum(answer.get("failed", "States.Timeout") != "States.Timeout" for answer in said) == steps
        and any(
            ran and not ran_as_well and (following - began).total_seconds() == 5
            for (began, ran), (following, ran_as_well) in itertools.pairwise(marks)
        )
    )


def _what_an_execution_of_the_last_seconds_of_a_minute_said(neighbourhood: Neighbourhood) -> list[dict[str, Any]]:
    """Of the loop, beside the one that runs: what each call of a function answered, in order, but for the sweeps."""
    deployed = neighbourhood.market.deployment.state_machine_arn
    minute = {"time": (datetime.now(UTC) - timedelta(seconds=54)).isoformat()}
    with contextlib.closing(
        boto3.client("stepfunctions", endpoint_url=neighbourhood.market.stack.aws.endpoint_url)
    ) as loop:
        # AWS tells the history of a standard state machine's executions only; the deployed one is express.
        machine = loop.describe_state_machine(stateMachineArn=deployed)
        arn = loop.create_state_machine(
            name=f"watched-{uuid.uuid4()}",
            definition=machine["definition"],
            roleArn=machine["roleArn"],
            type="STANDARD",
        )["stateMachineArn"]
        execution = loop.start_execution(stateMachineArn=arn, input=json.dumps(minute))["executionArn"]
        wait_until(lambda: loop.describe_execution(executionArn=execution)["status"] != "RUNNING")
        assert loop.describe_execution(executionArn=execution)["status"] == "SUCCEEDED"
        pages = loop.get_paginator("get_execution_history").paginate(executionArn=execution)
        events = [event for page in pages for event in page["events"]]
    said: list[dict[str, Any]] = []
    for event in events:
        if event["type"] == "TaskSucceeded":
            said.append(json.loads(event["taskSucceededEventDetails"]["output"])["Payload"])
        elif event["type"] == "TaskFailed":
            said.append({"failed": event["taskFailedEventDetails"]["error"]})
        elif event["type"] == "TaskTimedOut":  # so AWS says it; MiniStack counts it among the failures
            said.append({"failed": event["taskTimedOutEventDetails"]["error"]})
    return said


def _another_route_takes(method: str, path: str) -> bool:
    """Whether LocalStack gives it to a route with a parameter, as GET order/create to order/{id}; AWS does not."""
    return any(
        method.lower() in operations and re.fullmatch(re.sub(r"{\w+}", "[^/]+", other), path)
        for other, operations in contract()["paths"].items()
        if other != path
    )


def test_a_method_that_no_route_has_reaches_no_function(neighbourhood: Neighbourhood) -> None:
    """API Gateway refuses it, as an unknown path (on AWS with 404, see the gateway's responses in the template)."""
    methods = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "TRACE", "BREW")
    unknown = [
        (method, path.removeprefix("/api/v1/").replace("{id}", "00000000-0000-0000-0000-000000000000"))
        for path, operations in contract()["paths"].items()
        for method in methods
        if method.lower() not in operations and not (ON_LOCALSTACK and _another_route_takes(method, path))
    ]
    assert len(unknown) > 150
    for method, path in [*unknown, ("GET", "auth"), ("GET", "admin/nothing"), ("POST", "market/orders/mine/x")]:
        status, headers, _ = _ask(neighbourhood, method, path, Authorization="Bearer anything")
        assert (status, headers.get("X-Request-Id")) in {(403, None), (404, None), (405, None)}, (method, path)


def test_nothing_that_is_left_holds_a_secret(neighbourhood: Neighbourhood) -> None:
    """What all the tests above have left: files, rows, logs, command lines, and what AWS shows of the stack."""
    neighbourhood.donor(charge_wh=1_000)
    neighbourhood.buyer(tokens=1)
    stack = neighbourhood.market.stack
    wait_until(lambda: neighbourhood.logged("settle", "sweep", what="swept") != set())
    kept = leftovers.secrets_of(neighbourhood.market)
    secrets = neighbourhood.tokens_and_keys() | {
        "the owner's password": str(urlsplit(stack.database.url).password),
        "the functions' password": str(urlsplit(stack.database.functions_url).password),
        "a key of access tokens": next(iter(json.loads(kept["energy-market/jwt-keys"]).values())),
        "the operator's key": stack.chain.operator_key.removeprefix("0x"),
        "the node's key": NODE_KEY,
    }
    assert len(secrets) >= 2 * 2 + 1 + 5
    assert all(len(secret) > 15 for secret in secrets.values())
    places = [
        *leftovers.files(stack.folder),
        *leftovers.tables(stack.database.url),
        *leftovers.command_lines(),
        *leftovers.shown_by_aws(stack.aws.endpoint_url),
    ]
    assert len(places) > 100
    found = {(name, where) for where, text in places for name, secret in secrets.items() if secret.encode() in text}
    # Whoever started the stack keeps what he needs to use it, for himself. Anvil prints keys that all know.
    own = {(name, where) for name, where in found if where in {"stack.json", "postgres/password"}}
    assert ("the owner's password", "stack.json") in own
    assert all((stack.folder / where).stat().st_mode & 0o077 == 0 for _, where in own)
    assert (stack.folder / "ministack").stat().st_mode & 0o077 == 0
    assert found - own - {("the operator's key", "logs/anvil.log")} == set()


def test_each_secret_is_in_one_variable_of_those_functions_that_need_it(neighbourhood: Neighbourhood) -> None:
    kept = leftovers.secrets_of(neighbourhood.market).items()
    where = {
        (secret.partition("-url-")[0].partition("-key-")[0], variable)
        for secret, value in kept
        for variables in leftovers.variables(neighbourhood.market.stack.aws.endpoint_url).values()
        for variable, held in variables.items()
        if value in held
    }
    assert {variable for _, variable in where} == {"DATABASE_URL", "JWT_KEYS", "OPERATOR_PRIVATE_KEY"}
    assert len(where) == len(kept)
