"""Deploy and govern the settlement contract, as its owner. Needs `make set-up`.

    .local/venv/bin/python infra/contracts/owner.py deploy --token ADDRESS --operator ADDRESS --limit TOKENS
    .local/venv/bin/python infra/contracts/owner.py show | pause | unpause | operator ADDRESS
                                                  | limit TOKENS | raise | transfer ADDRESS | accept

RPC_URL     the chain's node
OWNER_KEY   the owner's private key (not needed by `show`)
CONTRACT    the settlement contract's address (`deploy` prints it)

Amounts are in tokens: an hour's limit of 5000 is five thousand tokens, whatever the token's decimals.
"""

import argparse
import os
import sys
from contextlib import closing
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Final

CHECKOUT: Final = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(CHECKOUT / "layers" / "energy_market"))

from eth_abi.abi import decode  # noqa: E402
from eth_account import Account  # noqa: E402
from eth_account.signers.local import LocalAccount  # noqa: E402
from eth_utils.address import is_address, to_checksum_address  # noqa: E402
from eth_utils.crypto import keccak  # noqa: E402

from energy_market.evm.contract import Artifact, Contract, deploy  # noqa: E402
from energy_market.evm.rpc import ChainError, Refused, Rpc  # noqa: E402

ARTIFACTS: Final = CHECKOUT / "infra" / "contracts" / "artifacts"
SETTLEMENT: Final = Artifact.load(ARTIFACTS / "EnergySettlement.json")
TOKEN: Final = Artifact.load(ARTIFACTS / "EnergyToken.json")
PATIENCE_S: Final = 600.0


def show(contract: Contract) -> None:
    """Print the contract's state."""
    token = Contract(rpc=contract.rpc, artifact=TOKEN, address=contract.read("TOKEN"))
    decimals = token.read("decimals")
    limit, _, _ = contract.read("budget")
    announced, since = contract.read("announced")
    print(f"owner     {to_checksum_address(contract.read('owner'))}")
    print(f"operator  {to_checksum_address(contract.read('operator'))}")
    print(f"token     {to_checksum_address(token.address)}, {decimals} decimals")
    print(f"paused    {'yes' if contract.read('paused') else 'no'}")
    print(f"escrow    {_tokens(contract.read('totalEscrow'), decimals)} tokens")
    print(f"limit     {_tokens(limit, decimals)} tokens an hour")
    print(f"left      {_tokens(contract.read('movable'), decimals)} tokens, as of the newest block")
    if since:
        print(f"announced {_tokens(announced, decimals)} tokens an hour, from {datetime.fromtimestamp(since, UTC)} on")


def govern(contract: Contract, owner: LocalAccount, command: str, value: Any) -> None:  # noqa: ANN401 -- by command
    """Execute one command, and print the contract's new state. Raises `evm.rpc.ChainError`."""
    match command:
        case "pause" | "unpause":
            contract.transact(owner, command)
        case "operator":
            contract.transact(owner, "setOperator", value)
        case "limit":
            contract.transact(owner, "setLimit", value)
        case "raise":
            contract.transact(owner, "raiseLimit")
        case "transfer":
            contract.transact(owner, "transferOwnership", value)
        case "accept":
            contract.transact(owner, "acceptOwnership")
    show(contract)


def main() -> None:
    """Execute the command line."""
    arguments = _parser().parse_args()
    with closing(Rpc(_named("RPC_URL"), deadline_s=PATIENCE_S)) as rpc:
        if arguments.command == "deploy":
            owner: LocalAccount = Account.from_key(_named("OWNER_KEY"))
            token = Contract(rpc=rpc, artifact=TOKEN, address=arguments.token)
            limit = _units(arguments.limit, token.read("decimals"))
            people = owner.address, arguments.operator
            contract = deploy(rpc, owner, SETTLEMENT, token.address, *people, limit)
            print(f"contract  {contract.address}")
            show(contract)
            return
        contract = Contract(rpc=rpc, artifact=SETTLEMENT, address=_address(_named("CONTRACT")))
        if arguments.command == "show":
            show(contract)
            return
        value = getattr(arguments, "value", None)
        if arguments.command == "limit":
            token = Contract(rpc=rpc, artifact=TOKEN, address=contract.read("TOKEN"))
            value = _units(arguments.value, token.read("decimals"))
        govern(contract, Account.from_key(_named("OWNER_KEY")), arguments.command, value)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="owner.py", description="Deploy and govern the settlement contract.")
    commands = parser.add_subparsers(dest="command", required=True)
    new = commands.add_parser("deploy")
    new.add_argument("--token", type=_address, required=True)
    new.add_argument("--operator", type=_address, required=True)
    new.add_argument("--limit", type=_amount, required=True, help="tokens that trades may move in an hour")
    for command in ("show", "pause", "unpause", "raise", "accept"):
        commands.add_parser(command)
    for command in ("operator", "transfer"):
        commands.add_parser(command).add_argument("value", type=_address)
    commands.add_parser("limit").add_argument("value", type=_amount)
    return parser


def _address(text: str) -> str:
    if not is_address(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not an address")
    return to_checksum_address(text)


def _amount(text: str) -> Decimal:
    try:
        amount = Decimal(text)
    except InvalidOperation as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not an amount") from error
    if not amount.is_finite() or amount < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not an amount")
    return amount


def _units(tokens: Decimal, decimals: int) -> int:
    """An amount in the token's smallest unit, rounded down."""
    return int(tokens.scaleb(decimals))


def _tokens(units: int, decimals: int) -> str:
    return f"{Decimal(units).scaleb(-decimals).normalize():f}"


def _said(error: ChainError) -> str:
    """The error message of the contract or the node, with the name of the contract's own error if it has one."""
    data = error.data if isinstance(error, Refused) else None
    for entry in SETTLEMENT.abi:
        if entry["type"] == "error" and data and data.startswith("0x" + _selector(entry)):
            values = decode([one["type"] for one in entry["inputs"]], bytes.fromhex(data[10:]))
            return f"The contract refuses: {entry['name']}({', '.join(map(str, values))})."
    return str(error)


def _selector(entry: Any) -> str:  # noqa: ANN401 -- JSON
    return keccak(text=f"{entry['name']}({','.join(one['type'] for one in entry['inputs'])})")[:4].hex()


def _named(variable: str) -> str:
    value = os.environ.get(variable, "")
    if not value:
        sys.exit(f"{variable} must be set: see the beginning of {Path(__file__).name}.")
    return value


if __name__ == "__main__":
    try:
        main()
    except ChainError as error:
        sys.exit(_said(error))
