"""A topic's name stands in one file of the backend; the device, the rules and the policy have the same."""

import re
from pathlib import Path
from uuid import uuid4

import pytest

from energy_market.domain import topics

ROOT = Path(__file__).parents[2]
TEMPLATE = (ROOT / "template.yaml").read_text()
NAMES = {*topics.FROM_DEVICES, *topics.TO_DEVICES.values()}
ME = "${!iot:Connection.Thing.ThingName}"


def literals(text: str) -> set[str]:
    """Topics as they are spelt in a file, with `+` for the device."""
    found = re.findall(r"\benergy/\w+/(?:\$\{[^}]+\}|\{[^}]*\}|[+*])(?:/\w+)+", text)
    return {re.sub(r"^(energy/\w+)/(?:\$\{[^}]+\}|\{[^}]*\}|[+*])", r"\1/+", one) for one in found}


def test_no_other_file_of_the_backend_spells_a_topic() -> None:
    for source in [*(ROOT / "layers").rglob("*.py"), *(ROOT / "functions").rglob("*.py")]:
        spelt = {line for line in source.read_text().splitlines() if re.search(r"[\"']energy/", line)}
        assert source.name == "topics.py" or spelt == set(), source


def test_rules_and_policies_name_these_topics_and_no_others() -> None:
    assert literals(TEMPLATE) == NAMES
    for topic in topics.FROM_DEVICES:
        assert f"FROM '{topic}'" in TEMPLATE
        assert f':topic/{topics.of(topic, ME)}"' in TEMPLATE
    for topic in topics.TO_DEVICES.values():
        assert f':topicfilter/{topics.of(topic, ME)}"' in TEMPLATE


def test_the_device_has_the_same() -> None:
    own = set().union(*(literals(source.read_text()) for source in (ROOT / "devices" / "energy_device").glob("*.py")))
    assert own - {"energy/donor/+"} <= NAMES
    assert set(topics.FROM_DEVICES) <= own


@pytest.mark.parametrize("topic", topics.FROM_DEVICES)
def test_a_devices_topic_is_told_apart(topic: str) -> None:
    device = uuid4()
    assert topics.parsed(topics.of(topic, device)) == (topic, str(device))


@pytest.mark.parametrize(
    "topic", ["", "energy", "energy/donor", "energy/donor/1", "energy/donor/1/lock", "energy/donor/1/status/x", "+/+/+"]
)
def test_other_topics_are_none(topic: str) -> None:
    assert topics.parsed(topic) is None
