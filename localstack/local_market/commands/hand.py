"""A wallet and a device for whoever trades by hand on the stack of `make up`: what `curl` cannot do.

    python -m local_market hand COMMAND ...

    hand wallet NAME            make a wallet, if there is none of this name, and print its address
    hand sign NAME              sign the text on standard input, less its last newline, and print the signature
    hand fund NAME TOKENS       mint test tokens and gas, put the tokens into escrow, and say what is there then
                                   (a local chain only)
    hand device NAME            keep the registration on standard input as NAME's device; print its device.json

Keys lie in the stack's folder, .local/up/hand, and go with it. STACK names another stack's folder.
"""

import argparse
import json
import os
import re
import sys
from pathlib import Path
from typing import Final

from eth_account import Account
from eth_account.messages import encode_defunct
from eth_account.signers.local import LocalAccount

from energy_market.evm.rpc import ChainError
from energy_market_client.wallet import TransactionFailedError, Wallet, call_data, read_uint
from local_market.parts.places import LOCAL
from local_market.parts.processes import ServiceError
from local_market.stack.stack import read_stack

STACK: Final = Path(os.environ.get("STACK", LOCAL / "up"))
FOLDER: Final = STACK / "hand"
GAS_WEI: Final = 10**18
TOKEN_UNIT: Final = 10**18
MOST_TOKENS: Final = 1_000_000


class RefusedError(Exception):
    """The command cannot be done, as a sentence for whoever typed it."""


def make_wallet(name: str) -> LocalAccount:
    """The wallet of this name; made when it is first asked for."""
    if not _key_file(name).exists():
        _write(_key_file(name), Account.create().key.hex())
    return wallet(name)


def wallet(name: str) -> LocalAccount:
    """The wallet of this name. Raises RefusedError if there is none: a mistyped name must get no money."""
    try:
        account: LocalAccount = Account.from_key(_key_file(name).read_text())
    except FileNotFoundError:
        raise RefusedError(
            f"There is no wallet called {name}: `python -m local_market hand wallet {name}` makes one."
        ) from None
    return account


def sign(account: LocalAccount, text: str) -> str:
    """As a wallet's `personal_sign` does."""
    return "0x" + bytes(account.sign_message(encode_defunct(text=text)).signature).hex()


def fund(account: LocalAccount, tokens: int) -> None:
    """Mint gas and test tokens with the local chain's deployer, and deposit the tokens."""
    stack = _stack()
    rpc_url, chain_id, token = str(stack["rpc_url"]), int(stack["chain_id"]), str(stack["token"])
    deployer = Wallet(Account.from_key(str(stack["deployer_key"])), rpc_url=rpc_url, chain_id=chain_id)
    deployer.wait(deployer.send(account.address, value_wei=GAS_WEI))
    contract, amount = str(stack["settlement_contract"]), tokens * TOKEN_UNIT
    deployer.wait(deployer.send(token, data=call_data("mint(address,uint256)", account.address, amount)))
    own = Wallet(account, rpc_url=rpc_url, chain_id=chain_id)
    before = read_uint(own.rpc, contract, "escrow(address)", account.address)
    own.deposit(token=token, contract=contract, amount=amount)
    after = read_uint(own.rpc, contract, "escrow(address)", account.address)
    print(f"In escrow: {before / TOKEN_UNIT:g} tokens before, {after / TOKEN_UNIT:g} now.")


def keep_device(name: str, registration: str) -> Path:
    """Lay out what the device agent needs; the path of its device.json."""
    try:
        answer = json.loads(registration)
    except ValueError:
        raise RefusedError("Standard input must be the answer to iot/device/register.") from None
    if not isinstance(answer, dict) or "private_key" not in answer:
        why = answer.get("error") if isinstance(answer, dict) else None
        raise RefusedError(f"This is no registration with a private key: {why or 'it has none'}")
    folder = FOLDER / f"{name}-{answer['id']}"
    _write(folder / "certificate.pem", answer["certificate_pem"])
    _write(folder / "private_key.pem", answer["private_key"])
    _write(folder / "ca.pem", Path(str(_stack()["iot_ca_file"])).read_text())
    config = {
        "device_id": answer["id"],
        "side": answer["side"],
        "broker": answer["broker"],
        "certificate_file": "certificate.pem",
        "private_key_file": "private_key.pem",
        "ca_file": "ca.pem",
        # A minute of feeding takes a second, so that a trade by hand is also delivered while one looks.
        "hardware_options": {"file": str(folder / "battery.json"), "speed_up": 60},
    }
    _write(folder / "device.json", json.dumps(config, indent=2))
    return folder / "device.json"


def _key_file(name: str) -> Path:
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,40}", name):
        raise RefusedError("A name has 1 to 40 letters, digits, - and _.")
    return FOLDER / f"{name}.key"


def _stack() -> dict[str, str | int]:
    stack = read_stack(STACK)
    if "api_url" not in stack:
        raise ServiceError("Nothing runs here: start it with `make up`.")
    return stack


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
        out.write(text)


def main() -> str | None:
    """Do what the command line says; why not, if it cannot be done. Raises `ServiceError`."""
    try:
        _do()
    except (RefusedError, ChainError, TransactionFailedError) as error:
        return str(error)
    return None


def _do() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m local_market hand", description="A wallet and a device for trading by hand."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for command in ("wallet", "sign", "fund", "device"):
        commands.add_parser(command).add_argument("name")
    commands.choices["fund"].add_argument("tokens", type=int, choices=range(1, MOST_TOKENS + 1), metavar="TOKENS")
    arguments = parser.parse_args()
    match arguments.command:
        case "wallet":
            print(make_wallet(arguments.name).address)
        case "sign":
            print(sign(wallet(arguments.name), sys.stdin.read().removesuffix("\n")))
        case "fund":
            fund(wallet(arguments.name), arguments.tokens)
        case "device":
            print(keep_device(arguments.name, sys.stdin.read()))
