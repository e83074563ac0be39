"""The examples in docs/device-protocol.md are messages that the agent takes and sends."""

import json
import re
from pathlib import Path

import pytest
from energy_device import messages
from energy_device.device import Device
from energy_device.energy_source import SimulatedBattery
from energy_device.store import Store

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "device-protocol.md").read_text()
EXAMPLES = [
    (topic, json.loads(block))
    for topic, blocks in re.findall(r"^`(energy/[^`]+)`\n\n((?:```json\n.*?```\n\n)+)", PAGE, re.MULTILINE | re.DOTALL)
    for block in re.findall(r"```json\n(.*?)```", blocks, re.DOTALL)
]
DEVICE = "0d000000-0000-4000-8000-000000000001"


def test_every_topic_has_an_example() -> None:
    topics = set(re.findall(r"^\| `(energy/[^`]+)`", PAGE, re.MULTILINE))
    assert len(topics) == 8
    assert {topic for topic, _ in EXAMPLES} == topics


@pytest.mark.parametrize(("topic", "fields"), EXAMPLES)
def test_an_example_has_the_fields_that_the_agent_sends_or_takes(
    topic: str, fields: dict[str, object], tmp_path: Path
) -> None:
    trade = str(fields.get("transaction_id", DEVICE))
    lock = messages.read_lock(json.dumps({"order_id": DEVICE, "transaction_id": trade, "kwh_requested": 1.5}).encode())
    store = Store.open(tmp_path / "state.db", device_id=DEVICE)
    side = "recipient" if "recipient" in topic else "donor"
    battery = SimulatedBattery(capacity_wh=10_000, charge_wh=8_000 if fields.get("status") != "rejected" else 0)
    device = Device(device_id=DEVICE, side="recipient" if side == "recipient" else "donor", store=store, source=battery)
    command = f"energy/donor/{DEVICE}/lock"
    sent: dict[str, list[messages.Report]] = {
        "lock/response": device.receive(
            command, json.dumps({"order_id": DEVICE, "transaction_id": lock.id, "kwh_requested": 1.5}).encode()
        ),
        "status": device.status(),
        "alert": [messages.alert(DEVICE, severity="info", code="example", message="")],
    }
    if topic.startswith("energy/transfer"):
        held = lock.id if fields["status"] != "refused" else "0b000000-0000-4000-8000-000000000001"
        sent["status"] = device.receive(
            f"energy/donor/{DEVICE}/transfer", json.dumps({"transaction_id": held, "kwh": 1.5}).encode()
        )
    payload = json.dumps(fields).encode()
    match topic.removeprefix("energy/donor/{device_id}/"):
        case "lock":
            assert messages.read_lock(payload).energy_wh == 1_500
        case "unlock":
            assert messages.read_unlock(payload) == trade
        case "transfer":
            assert messages.read_transfer(payload).energy_wh == 1_500
        case _:
            (report,) = sent[topic.partition("{device_id}/")[2]]
            assert report.topic == topic.replace("{device_id}", DEVICE)
            assert list(json.loads(report.payload)) == list(fields)
    device.close()
