"""What the contract's owner does by hand (infra/contracts/owner.py)."""

import runpy
import sys
from collections.abc import Callable

import pytest
from eth_account.signers.local import LocalAccount

from tests.support.chain.chain import ONE, Chain, trade
from tests.support.places import CHECKOUT

SCRIPT = CHECKOUT / "infra" / "contracts" / "owner.py"
Run = Callable[..., dict[str, str]]


@pytest.fixture
def run(chain: Chain, anvil: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the script as somebody; what it printed, by the words that its lines begin with."""
    monkeypatch.setenv("RPC_URL", anvil)
    monkeypatch.setenv("CONTRACT", chain.settlement.address)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def run(*arguments: str, by: LocalAccount | None = chain.owner) -> dict[str, str]:
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments])
        monkeypatch.setenv("OWNER_KEY", by.key.hex() if by else "")
        capsys.readouterr()
        chain.rpc.start_deadline(30)
        runpy.run_path(str(SCRIPT), run_name="__main__")
        return dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())

    return run


def test_a_contract_is_deployed_with_its_limit(chain: Chain, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    people = "--token", chain.token.address, "--operator", chain.operator.address
    made = run("deploy", *people, "--limit", "2.5")
    assert (
        made.items()
        >= {
            "owner": chain.owner.address,
            "operator": chain.operator.address,
            "token": f"{chain.token.address}, 18 decimals",
            "paused": "no",
            "escrow": "0 tokens",
            "limit": "2.5 tokens an hour",
            "left": "2.5 tokens, as of the newest block",
        }.items()
    )
    monkeypatch.setenv("CONTRACT", made.pop("contract"))
    assert run("show", by=None) == made


def test_the_owner_stops_lets_go_on_and_names_the_operator(chain: Chain, run: Run) -> None:
    other = chain.person()
    assert run("pause")["paused"] == "yes"
    assert run("unpause")["paused"] == "no"
    assert run("operator", other.address)["operator"] == other.address


def test_a_limit_is_lowered_at_once_and_raised_after_two_days(chain: Chain, run: Run) -> None:
    assert run("limit", "5")["limit"] == "5 tokens an hour"
    anna, carl = chain.buyer(9 * ONE), chain.person()
    chain.next_period()
    chain.settle([trade(anna, carl, 2 * ONE)])
    shown = run("limit", "8.000001")
    assert (shown["limit"], shown["left"]) == ("5 tokens an hour", "3 tokens, as of the newest block")
    assert shown["announced"].startswith("8.000001 tokens an hour, from 20")
    with pytest.raises(SystemExit, match=r"The contract refuses: RaiseNotDue\(\d+, \d+\)\."):
        run("raise")
    chain.rpc.call("evm_setNextBlockTimestamp", chain.time() + 2 * 86_400)
    chain.mine()
    shown = run("raise")
    assert shown["limit"] == "8.000001 tokens an hour"
    assert "announced" not in shown


def test_ownership_is_offered_and_accepted(chain: Chain, run: Run) -> None:
    heir = chain.person()
    assert run("transfer", heir.address)["owner"] == chain.owner.address
    assert run("accept", by=heir)["owner"] == heir.address
    with pytest.raises(SystemExit, match=r"The contract refuses: OwnableUnauthorizedAccount\(0x"):
        run("pause")


@pytest.mark.parametrize(
    "arguments", [("limit", "-1"), ("limit", "NaN"), ("limit", "many"), ("operator", "0x12"), ("deploy",), ()]
)
def test_what_makes_no_sense_is_not_sent(chain: Chain, run: Run, arguments: tuple[str, ...]) -> None:
    height = chain.height()
    with pytest.raises(SystemExit):
        run(*arguments)
    assert chain.height() == height


def test_a_missing_variable_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match="OWNER_KEY must be set"):
        run("pause", by=None)
    monkeypatch.setenv("CONTRACT", "")
    with pytest.raises(SystemExit, match="CONTRACT must be set"):
        run("show")
