"""docs/nodes.md lists the ways of nodes that are tried, and says of each what its code says."""

import re
from pathlib import Path

import pytest

from local_market.faulty_node import MODULES, WAYS

PAGE = (Path(__file__).parents[2] / "docs" / "nodes.md").read_text()


def test_the_page_lists_every_way_in_its_family_as_its_code_describes_it() -> None:
    listed: dict[str, list[tuple[str, str]]] = {}
    for section in PAGE.split("\n## ")[1:]:
        sentence = section.split("\n")[2]
        listed[sentence] = re.findall(r"^\| `(\w+)` \| (.+) \|$", section, re.MULTILINE)
    assert listed == {
        str(module.__doc__): [
            (name, str(way.__doc__)) for name, way in WAYS.items() if way.__module__ == module.__name__
        ]
        for module in MODULES
    }


def test_the_page_says_how_many_there_are() -> None:
    (said,) = re.findall(r"(\d+) ways", PAGE.split("\n## ")[0])
    assert int(said) == len(WAYS)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_way_says_in_a_sentence_or_two_who_has_it(way: type) -> None:
    assert re.fullmatch(r"\S[^\n|]+\.", way.__doc__ or "")
