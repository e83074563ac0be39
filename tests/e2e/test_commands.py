"""The commands that run the whole system, as a newcomer types them.

In one file, since each of them takes the checkout for itself, and tests of different files may run at once.
"""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import psutil
import pytest

from local_market.chaos.kinds import FIRST

CHECKOUT = Path(__file__).parents[2]
# Whatever is spelt like a private key, an access token, a refresh token, or an address with its password.
SECRET = re.compile(
    rb"PRIVATE KEY-----|\beyJ[\w-]{10,}\.|\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\.[\w-]{43}\b|://[^\s:@/]+:[^\s@/]+@"
)


def _processes_of_the_run() -> list[str]:
    """Processes that have to do with the folder of `make run`."""
    folder = str(CHECKOUT / ".local" / "run")
    return [
        " ".join(process.info["cmdline"])
        for process in psutil.process_iter(["cmdline"])
        if any(folder in part for part in process.info["cmdline"] or [])
    ]


def _make(*arguments: str, timeout_s: float) -> dict[str, Any]:
    """What the command says in its last line, once it has ended well and left nothing behind."""
    done = subprocess.run(
        ["make", "--silent", *arguments],
        cwd=CHECKOUT,
        env={name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert _processes_of_the_run() == []
    assert not (CHECKOUT / ".local" / "run").exists()
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said


def test_what_is_killed_and_cut_beneath_a_community_costs_nobody_energy_or_money() -> None:
    result = _make("chaos", "SEED=1", "DURATION=36", "HOMES=4", timeout_s=600)
    assert set(result) == {
        "seed",
        "faults",
        "trades_confirmed",
        "trades_failed",
        "invariants_checked",
        "violations",
        "stuck",
    }
    assert (result["seed"], result["violations"], result["stuck"]) == (1, 0, 0)
    assert result["trades_confirmed"] > 0
    assert result["invariants_checked"] > 100
    assert result["faults"].keys() >= FIRST


def test_a_neighbourhood_trades_and_the_books_agree() -> None:
    result = _make("run", "HOMES=4", "DURATION=25", timeout_s=300)
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
    logs = [path for path in (CHECKOUT / ".local" / "logs").glob("*.log") if path.stat().st_size]
    assert {"community.log", "ministack.log", "postgres.log"} <= {path.name for path in logs}
    assert [(path.name, found[0]) for path in logs if (found := SECRET.search(path.read_bytes()))] == []
    assert result["match_to_confirmed_ms"].keys() == result["tick_ms"].keys() == {"p50", "p99"}


ON_LOCALSTACK = [  # of the whole suite, which takes minutes
    "test_a_trade_is_locked_paid_and_delivered",
    "test_a_browser_may_ask",
    "test_a_method_that_no_route_has_reaches_no_function",
    "test_the_system_says_that_it_is_well",
    "test_the_loop_ticks_every_five_seconds",
    "test_each_secret_is_in_one_variable_of_those_functions_that_need_it",
    "test_who_looks_into_it_finds_it_by_localstacks_client_and_by_the_sdks_variable",
]


@pytest.mark.may_be_skipped("LocalStack's core needs Python 3.13")
def test_the_same_template_trades_on_localstacks_core() -> None:
    done = subprocess.run(
        ["make", "--silent", "localstack-test", f"TESTS=-k '{' or '.join(ON_LOCALSTACK)}'"],
        cwd=CHECKOUT,
        env={name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    first = done.stdout.splitlines()[0]
    if first.startswith("SKIPPED"):
        pytest.skip(first)
    assert re.match(r"On LocalStack's open-source core [\d.]+ in host mode, IoT borrowed from MiniStack [\d.]+ ", first)
    assert f" {len(ON_LOCALSTACK)} passed" in done.stdout.splitlines()[-1]
    assert "on LocalStack's core alone" in done.stdout
