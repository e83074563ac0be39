"""Faults of the chain and of its nodes, and of what the operator and others do there."""

import contextlib
import json
import logging
import random
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

import psutil
from eth_account import Account
from eth_account.signers.local import LocalAccount

from energy_market_client.wallet import Wallet, call_data, read_uint
from local_market.chaos.hindrances import NotNow, insist
from local_market.chaos.injecting import Injector, again_and_again, kill
from local_market.chaos.world import UNPAID, ChaosWorld
from local_market.faulty_node import WAYS
from local_market.parts.anvil import start_anvil

logger: Final = logging.getLogger("faults")
STATE_PERIOD_S: Final = 5.0  # how often Anvil writes its state (`parts.anvil`)
DEEPEST_REORGANISATION: Final = 5  # blocks; payments are final after 8 (`stack.market`)
WAY_S: Final = 3.0  # for each of a node's ways


@contextlib.contextmanager
def chain_killed(world: ChaosWorld, _chance: random.Random) -> Iterator[None]:
    """`kill -9` of Anvil. It comes back with the state that it wrote last: to the market, blocks were reorganised away.

    Not more of them than the market promises to survive: what was written must be whole, young, and younger than any
    other reorganisation.
    """
    with world.turn("chain"):
        if world.chain.process is None:
            raise NotNow("it is somebody else's")
        node = psutil.Process(world.chain.process.pid)
        world.moment(UNPAID)
        world.highest_block = int(world.ask_chain("eth_blockNumber"), 16)
        until = time.monotonic() + 2 * STATE_PERIOD_S
        while True:
            node.suspend()  # or it might be writing
            if _is_whole(world.folder / "anvil" / "state.json", since=world.reorganised_at):
                break
            node.resume()
            if time.monotonic() > until:
                raise NotNow("the chain has written no state that it could come back with")
            time.sleep(0.2)
        kill(world.chain.process)
        try:
            yield
        finally:
            world.chain = start_anvil(world.folder, port=int(world.chain.rpc_url.rpartition(":")[2]))


def _is_whole(state: Path, *, since: float) -> bool:
    try:
        written_at = state.stat().st_mtime
        if written_at <= since or time.time() - written_at > STATE_PERIOD_S:
            return False
        json.loads(state.read_bytes())
    except (OSError, ValueError):
        return False
    return True


@contextlib.contextmanager
def chain_reorganised(world: ChaosWorld, chance: random.Random) -> Iterator[None]:
    """The newest blocks give way to empty ones, their transactions forgotten; not as deep as finality."""
    with world.turn("chain"):
        world.moment("SELECT id FROM settlement_batches WHERE status = 'Mined'")
        if int(world.ask_chain("eth_blockNumber"), 16) < world.highest_block:
            raise NotNow("the chain has not grown back yet")
        world.ask_chain("anvil_reorg", chance.randint(1, DEEPEST_REORGANISATION), [])
        world.reorganised_at = time.time()
    yield


@contextlib.contextmanager
def pool_dropped(world: ChaosWorld, _chance: random.Random) -> Iterator[None]:
    """The node forgets what waits to be mined."""
    world.moment(UNPAID)
    with again_and_again(lambda: world.ask_chain("anvil_dropAllTransactions"), every_s=0.2):
        yield


@contextlib.contextmanager
def fee_spike(world: ChaosWorld, chance: random.Random) -> Iterator[None]:
    """Blocks cost many times as much as what waits to be mined was signed for."""
    world.moment("SELECT id FROM settlement_batches WHERE status = 'Stored'")
    base_fee = int(world.ask_chain("eth_getBlockByNumber", "latest", False)["baseFeePerGas"], 16)  # noqa: FBT003 - JSON
    high = hex(base_fee * chance.randint(3, 30))
    try:
        with again_and_again(lambda: world.ask_chain("anvil_setNextBlockBaseFeePerGas", high), every_s=0.5):
            yield
    finally:
        insist(lambda: world.ask_chain("anvil_setNextBlockBaseFeePerGas", hex(base_fee)))


@contextlib.contextmanager
def operator_key_used(world: ChaosWorld, chance: random.Random) -> Iterator[None]:
    """Somebody else sends with the operator's key, and takes its nonces; perhaps the pool then forgets him: a gap."""
    world.moment(UNPAID)
    operator: LocalAccount = Account.from_key(world.chain.operator_key)
    with closing(Wallet(operator, rpc_url=world.chain.rpc_url, chain_id=world.chain.chain_id, patience_s=5)) as wallet:
        sent = [wallet.send(operator.address, value_wei=1) for _ in range(chance.randint(1, 3))]
        if chance.random() < 0.5:  # noqa: PLR2004
            for transaction_hash in sent:
                world.ask_chain("anvil_dropTransaction", transaction_hash)
    yield


@contextlib.contextmanager
def operator_out_of_gas(world: ChaosWorld, _chance: random.Random) -> Iterator[None]:
    """The operator's account is empty until somebody fills it."""
    world.moment(UNPAID)
    operator = Account.from_key(world.chain.operator_key).address
    world.ask_chain("anvil_setBalance", operator, hex(10**9))
    try:
        yield
    finally:
        insist(world.refill_operator)


@contextlib.contextmanager
def escrow_withdrawn(world: ChaosWorld, chance: random.Random) -> Iterator[None]:
    """A buyer takes all out of escrow, whatever it has bought; and puts it back later."""
    buyer = world.any_buyer(chance)
    with closing(world.wallet(buyer)) as wallet:
        contract = world.market.settlement_contract
        escrow = read_uint(wallet.rpc, contract, "escrow(address)", wallet.account.address)
        wallet.wait(wallet.send(contract, data=call_data("withdraw(uint256)", escrow)))
    try:
        yield
    finally:
        insist(lambda: world.deposit_again(buyer))


def node_has_ways(*families: str) -> Injector:
    """The functions' node has a way of one of these families (`docs/nodes.md`), and another every few seconds."""
    names = sorted(name for name, way in WAYS.items() if way.family in families and way.anytime)

    @contextlib.contextmanager
    def inject(world: ChaosWorld, chance: random.Random) -> Iterator[None]:
        def change() -> None:
            name = chance.choice(names)
            logger.info("the node has the way %s", name)
            world.node.play(WAYS[name])

        with world.turn("node"):
            try:
                with again_and_again(change, every_s=WAY_S):
                    yield
            finally:
                world.node.play()

    return inject
