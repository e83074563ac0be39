"""The main job, as a newcomer types it."""

import json
import os
import subprocess
from pathlib import Path

import psutil

CHECKOUT = Path(__file__).parents[2]


def _processes_of_the_run() -> list[str]:
    """Processes that have to do with the folder of `make run`."""
    folder = str(CHECKOUT / ".local" / "run")
    return [
        " ".join(process.info["cmdline"])
        for process in psutil.process_iter(["cmdline"])
        if any(folder in part for part in process.info["cmdline"] or [])
    ]


def test_a_neighbourhood_trades_and_the_books_agree() -> None:
    done = subprocess.run(
        ["make", "--silent", "run", "HOMES=4", "DURATION=25"],
        cwd=CHECKOUT,
        env={name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert set(result) == {
        "homes",
        "orders",
        "trades_confirmed",
        "trades_failed",
        "kwh_traded",
        "tokens_settled",
        "match_to_confirmed_ms",
        "tick_ms",
        "consistent",
    }
    assert (result["homes"], result["consistent"]) == (4, True)
    assert 0 < result["trades_confirmed"] <= result["orders"]
    assert result["match_to_confirmed_ms"].keys() == result["tick_ms"].keys() == {"p50", "p99"}
    assert _processes_of_the_run() == []
    assert not (CHECKOUT / ".local" / "run").exists()
