"""What `make run` reads, sums up and shows."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from local_market.commands.session import DEFAULT_SPEED, RunError, Settings
from local_market.watching.display import Display, Moment, line, picture
from local_market.watching.figures import BOOK_ROWS, BookRow, Figures, percentile


def test_without_an_environment_ten_homes_trade_until_they_are_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOMES", "DURATION", "SPEED", "SEED"):
        monkeypatch.delenv(name, raising=False)
    assert Settings.from_environment() == Settings(homes=10, duration_s=None, speed=DEFAULT_SPEED, seed=1)


def test_the_environment_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"HOMES": "6", "DURATION": "90", "SPEED": "60", "SEED": "7"}.items():
        monkeypatch.setenv(name, value)
    assert Settings.from_environment() == Settings(homes=6, duration_s=90, speed=60, seed=7)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HOMES", "1"),
        ("HOMES", "6.5"),
        ("HOMES", "1000"),
        ("HOMES", "many"),
        ("HOMES", "nan"),
        ("DURATION", "-1"),
        ("DURATION", "inf"),
        ("SPEED", "0"),
        ("SPEED", "1e9"),
        ("SEED", "x"),
    ],
)
def test_nonsense_is_refused_with_its_name(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(RunError, match=name):
        Settings.from_environment()


def test_a_percentile_is_a_value_that_was_measured() -> None:
    hundred = list(range(1, 101))
    assert (percentile(hundred, 50), percentile(hundred, 99), percentile([7.04], 99)) == (50, 99, 7.0)
    assert percentile([], 50) is None


MOMENT = Moment(
    phase="trading",
    elapsed_s=12.3,
    duration_s=90,
    street_time="13:05",
    figures=Figures(
        orders=21,
        open_orders=3,
        asks=[BookRow(side="sell", price_micro=190_000, energy_wh=250, orders=1)],
        bids=[BookRow(side="buy", price_micro=170_000, energy_wh=600, orders=2)],
        trades={"Pending": 1, "Locked": 2, "Submitted": 3, "Confirmed": 4, "Failed": 5},
        reasons={"lock_rejected": 5},
        traded_wh=1250,
        settled_nano=250_000_000,
        last_price_micro=180_000,
        devices=6,
        devices_online=5,
        settle_ms=[6000.0, 7000.0],
    ),
    tick_ms=[3.0, 4.0],
    ticks_missed=0,
    api_url="http://127.0.0.1:1/live",
    example="curl -s http://127.0.0.1:1/live/api/v1/market/book",
    errors=1,
    recent_errors=["home-01: 409 conflict"],
)


def test_the_picture_shows_book_stages_amounts_ticks_errors_and_the_api() -> None:
    console = Console(file=io.StringIO(), width=120, force_terminal=False)
    with console.capture() as shown:
        console.print(picture(MOMENT))
    text = shown.get()
    for word in ("0.190", "0.170", "Submitted", "lock_rejected", "1.250 kWh", "0.25", "p50 3 ms", "home-01", "curl -s"):
        assert word in text, word


def test_a_small_terminal_has_room_for_the_whole_picture() -> None:
    base = "http://127.0.0.1:24732/_aws/execute-api/582cf00e/live"
    sell, buy = BookRow(side="sell", price_micro=190_000, energy_wh=12_250, orders=11), MOMENT.figures.bids[0]
    moment = replace(
        MOMENT,
        phase="settling what is under way",
        elapsed_s=1337,
        duration_s=None,
        figures=replace(
            MOMENT.figures, asks=[sell] * BOOK_ROWS, bids=[buy] * BOOK_ROWS, settle_ms=[10_102.2, 15_089.9]
        ),
        tick_ms=[113.0, 155.0] * 60,
        ticks_missed=12,
        api_url=base,
        example=f"curl -sK .local/run/curl {base}/api/v1/market/book",
        recent_errors=[],
    )
    console = Console(file=io.StringIO(), width=80, force_terminal=False)
    with console.capture() as shown:
        console.print(picture(moment))
    text = shown.get()
    assert text.count("\n") <= 24
    # Headings whole, nothing wrapped, and the line to try as two that a shell takes for one.
    for words in (
        "Submitted",
        "Confirmed",
        "p50 10.1 s, p99 15.1 s",
        "ticks: 120, 12 missed",
        "p50 113 ms, p99 155 ms",
    ):
        assert words in text, words
    assert f"curl -sK .local/run/curl \\\n  {base}/api/v1/market/book\n" in text


def test_a_line_says_the_same_in_short() -> None:
    text = line(MOMENT)
    for word in (
        "trading",
        "orders=21",
        "confirmed=4",
        "failed=5",
        "kwh=1.25",
        "tick_ms=3.0",
        "devices=5/6",
        "errors=1",
    ):
        assert word in text, word


def test_without_a_terminal_lines_come_seldom_and_at_each_new_phase(capsys: pytest.CaptureFixture[str]) -> None:
    with Display(Console(file=io.StringIO(), force_terminal=False)) as display:
        display.show(MOMENT)
        display.show(MOMENT)
    captured = capsys.readouterr()
    assert captured.err.count("orders=21") == 1
    assert captured.out == ""
