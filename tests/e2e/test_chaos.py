"""A short `make chaos`: the community trades on while its parts are killed and its lines fail."""

import json
import os
import subprocess
from pathlib import Path

from faults import FIRST

CHECKOUT = Path(__file__).parents[2]


def test_what_is_killed_and_cut_beneath_a_community_costs_nobody_energy_or_money() -> None:
    done = subprocess.run(
        ["make", "--silent", "chaos", "SEED=1", "DURATION=30", "HOMES=4"],
        cwd=CHECKOUT,
        env={name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
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
    assert not (CHECKOUT / ".local" / "run").exists()
