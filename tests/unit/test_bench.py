"""What the bench says of itself. That it runs is seen by running it: `make bench`."""

import importlib
import os
from pathlib import Path

import pytest

from bench.__main__ import SECTIONS, drawn, sentence
from bench.flow import order_flow
from bench.matching import fetched, the_specifications_loop
from bench.measure import Row, Table
from bench.requests import sandbox

PAGE = Path(__file__).parents[2] / "docs" / "speed.md"


@pytest.mark.parametrize("section", SECTIONS)
def test_every_section_can_be_run_and_is_on_the_page(section: str) -> None:
    assert callable(importlib.import_module(f"bench.{section}").measure)
    assert f"\n## {section}: " in PAGE.read_text()


@pytest.mark.parametrize(
    ("row", "reached"),
    [
        (Row(name="faster", measured=2.5, at_least=2.5), True),
        (Row(name="faster", measured=2.4, at_least=2.5), False),
        (Row(name="cheaper", measured=1.3, at_most=1.3), True),
        (Row(name="cheaper", measured=1.4, at_most=1.3), False),
        (Row(name="not to be had here", measured=None, at_least=1), False),
        (Row(name="shown", measured=7), None),
    ],
)
def test_a_row_says_whether_it_reached_what_was_promised(row: Row, *, reached: bool | None) -> None:
    assert row.reached is reached
    assert sentence(row).splitlines()[0].endswith({True: "reached", False: "MISSED", None: "shown"}[reached])


def test_a_table_is_drawn_with_words_to_the_left_and_numbers_to_the_right() -> None:
    table = Table(title="Who", columns=["who", "ms"], lines=[["ours", 1.234], ["the loop", 40_100.0], ["none", None]])
    assert drawn(table).splitlines() == [
        "Who",
        "who           ms",
        "----------------",
        "ours        1.23",
        "the loop  40,100",
        "none           -",
    ]


def test_the_specifications_loop_finds_the_same_whether_or_not_it_stops_where_no_bid_can_fit() -> None:
    flow = order_flow(2_000)
    found = [
        [(sell.id, buy.id) for sell, buy in the_specifications_loop(fetched(flow), stops=stops)]
        for stops in (False, True)
    ]
    assert len(found[0]) > 300
    assert found[0] == found[1]


def test_a_sandbox_leaves_no_variable_to_the_sections_after_it() -> None:
    before = dict(os.environ)
    with sandbox("auth_api", "postgresql://nobody@127.0.0.1:1/none") as module:
        assert os.environ["DATABASE_URL"].endswith("/none")
        assert module.database
    assert dict(os.environ) == before
