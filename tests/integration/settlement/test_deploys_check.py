"""The custom resource that fails a deploy to a chain on which trades could not be paid."""

from collections.abc import Callable
from typing import Any

import pytest

from local_market.parts.anvil import start_anvil
from local_market.stack.stack import remove_state
from tests.support.api import ENVIRONMENT, FEES, load_function
from tests.support.chain.chain import Chain
from tests.support.chain.world import World

Deploy = Callable[..., dict[str, Any]]


@pytest.fixture
def deploy(world: World, monkeypatch: pytest.MonkeyPatch) -> Deploy:
    """Plays CloudFormation: what it is told after a request, with these parameters in place of the right ones."""

    def request(kind: str = "Create", *, at: str = "1", before: str | None = None, **parameters: str) -> dict[str, Any]:
        values = {
            **ENVIRONMENT,
            **FEES,
            "CONFIRMATIONS": "2",
            "FINALITY_BLOCKS": "6",
            "MAX_BATCH": "50",
            "DELIVERY_WINDOW_S": "86400",
            "RPC_URL": world.rpc_url,
            "SETTLEMENT_CONTRACT": world.chain.settlement.address,
            "TOKEN_CONTRACT": world.chain.token.address,
            "OPERATOR_PRIVATE_KEY": world.chain.operator.key.hex(),
            **parameters,
        }
        for name, value in values.items():
            monkeypatch.setenv(name, value)
        module = load_function("settlement")
        told: list[dict[str, Any]] = []
        monkeypatch.setattr(module, "CHECK_S", 1.0)
        monkeypatch.setattr(module, "respond", lambda _url, answer: told.append(answer))
        event: dict[str, Any] = {
            "RequestType": kind,
            "StackId": "stack",
            "RequestId": "request",
            "LogicalResourceId": "Chain",
            "ResponseURL": "http://127.0.0.1:1",
            "ResourceProperties": {"DeployedAt": at},
        }
        if before is not None:
            event["OldResourceProperties"] = {"DeployedAt": before}
        module.check(event, None)
        (answer,) = told
        return answer

    return request


def test_a_chain_on_which_trades_can_be_paid_lets_the_deploy_go_on(deploy: Deploy) -> None:
    for answer in (deploy(), deploy("Update", at="2", before="1"), deploy("Delete")):
        assert answer == {
            "Status": "SUCCESS",
            "PhysicalResourceId": "chain",
            "StackId": "stack",
            "RequestId": "request",
            "LogicalResourceId": "Chain",
        }


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"TOKEN_DECIMALS": "9"}, "the token has 18 decimals, but TokenDecimals is 9"),
        ({"TOKEN_DECIMALS": "21"}, "the token has 18 decimals, but TokenDecimals is 21"),
        ({"CHAIN_ID": "1"}, "the node is on chain 31337, not on 1"),
        ({"SETTLEMENT_CONTRACT": "0x" + "11" * 20}, "there is no settlement contract at 0x1111"),
        ({"TOKEN_CONTRACT": "0x" + "11" * 20}, "but TokenContract is 0x1111"),
        ({"OPERATOR_PRIVATE_KEY": "0x" + "11" * 32}, "but the operator's key is of 0x19e7e376e7c213b7"),
        ({"RPC_URL": "http://127.0.0.1:9"}, "the node cannot be asked"),
        ({"RPC_URL": "ftp://secret"}, "the address of a node begins with http"),
        ({"CONFIRMATIONS": "6", "FINALITY_BLOCKS": "3"}, "finality at least as many as a confirmation"),
        ({"MIN_PRIORITY_FEE_GWEI": "2", "MAX_FEE_GWEI": "1"}, "the minimum tip must not be"),
        ({"MAX_FEE_GWEI": "1e3"}, "MAX_FEE_GWEI must be a number of gwei"),
    ],
)
@pytest.mark.parametrize("kind", ["Create", "Update"])
def test_what_contradicts_the_configuration_fails_the_deploy_with_a_sentence(
    deploy: Deploy, kind: str, parameters: dict[str, str], sentence: str
) -> None:
    answer = deploy(kind, at="2", before="1", **parameters)
    assert (answer["Status"], answer["PhysicalResourceId"]) == ("FAILED", "chain")
    assert answer["Reason"].startswith("Trades could not be paid on this chain: ")
    assert sentence in answer["Reason"]
    assert "secret" not in answer["Reason"]


def test_taking_an_update_back_and_removing_the_stack_ask_no_chain(deploy: Deploy) -> None:
    away = {"RPC_URL": "http://127.0.0.1:9"}
    assert deploy("Update", at="1", before="2", **away)["Status"] == "SUCCESS"
    assert deploy("Delete", **away)["Status"] == "SUCCESS"


def test_a_paused_contract_fails_no_deploy(world: World, deploy: Deploy) -> None:
    world.chain.settlement.transact(world.chain.owner, "pause")
    assert deploy()["Status"] == "SUCCESS"


def test_a_chain_without_the_opcodes_of_the_contract_fails_it(deploy: Deploy, state_folder: Any) -> None:  # noqa: ANN401
    folder = state_folder / "chain-of-shanghai"
    older = start_anvil(folder, block_time_s=None, more=["--hardfork", "shanghai"])
    chain = Chain(older.rpc_url)
    try:
        answer = deploy(
            RPC_URL=older.rpc_url,
            SETTLEMENT_CONTRACT=chain.settlement.address,
            TOKEN_CONTRACT=chain.token.address,
            OPERATOR_PRIVATE_KEY=chain.operator.key.hex(),
        )
    finally:
        chain.rpc.close()
        older.stop()
        remove_state(folder)
    assert answer["Status"] == "FAILED"
    assert "the chain does not run the opcodes of Cancun" in answer["Reason"]
