"""The test token and the settlement contract on the local chain."""

import contextlib
from collections.abc import Mapping

from eth_account import Account
from eth_account.signers.local import LocalAccount

from energy_market.evm.contract import Artifact, Contract
from energy_market.evm.contract import deploy as deploy_contract
from energy_market.evm.rpc import Refused, Rpc
from local_market.parts.anvil import LocalChain
from local_market.parts.places import CHECKOUT

ARTIFACTS = CHECKOUT / "infra" / "contracts" / "artifacts"
PERIOD_LIMIT = 1_000_000 * 10**18
"""What trades may move in an hour, in the test token's smallest unit: more than a street of homes ever does."""


def deploy_contracts(chain: LocalChain, *, known: Mapping[str, str | int]) -> tuple[str, str]:
    """Deploy the test token and the settlement contract, unless the known ones stand on this chain; their addresses.

    The deployer owns both; only the operator may settle.
    """
    with contextlib.closing(Rpc(chain.rpc_url, deadline_s=60)) as rpc:
        token, settlement_contract = str(known.get("token", "")), str(known.get("settlement_contract", ""))
        if _stands(rpc, token) and _stands(rpc, settlement_contract) and _is_ours(rpc, settlement_contract):
            return token, settlement_contract
        deployer: LocalAccount = Account.from_key(chain.deployer_key)
        operator: LocalAccount = Account.from_key(chain.operator_key)
        token = deploy_contract(rpc, deployer, Artifact.load(ARTIFACTS / "EnergyToken.json"), deployer.address).address
        settlement_contract = deploy_contract(
            rpc,
            deployer,
            Artifact.load(ARTIFACTS / "EnergySettlement.json"),
            token,
            deployer.address,
            operator.address,
            PERIOD_LIMIT,
        ).address
        return token, settlement_contract


def _stands(rpc: Rpc, address: str) -> bool:
    return bool(address) and rpc.call("eth_getCode", address, "latest") != "0x"


def _is_ours(rpc: Rpc, address: str) -> bool:
    """Whether it is the contract of this version: a kept chain may have one that knows no limit."""
    contract = Contract(rpc=rpc, artifact=Artifact.load(ARTIFACTS / "EnergySettlement.json"), address=address)
    try:
        contract.read("budget")
    except Refused:
        return False
    return True
