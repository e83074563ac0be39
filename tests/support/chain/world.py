"""A market whose trades are settled on a chain of their own, and the means to disturb both."""

import json
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import UUID

import psycopg
import pytest
from eth_account.signers.local import LocalAccount
from eth_utils.crypto import keccak

from energy_market.database import Database
from energy_market.domain.settlement import SettlementRules
from energy_market.evm.contract import Artifact, Contract, deploy
from energy_market.evm.ledger import Ledger
from energy_market.evm.rpc import Rpc
from energy_market.usecases.settling.settle import settle_trades
from local_market.watching.comparison import Escrow, reconcile
from tests.support.chain.chain import SETTLEMENT, Chain, mock, mock_code
from tests.support.market import Market
from tests.support.trouble.crashes import Fuse, FusedRpc

CHAIN_ID = 31337
CONFIRMATIONS = 2
FINALITY_BLOCKS = 6
POISON_SLOT = "0x" + keccak(text="poison").hex()
BUDGET_SLOT = "0x4"  # of the contract's storage; `leave_room` would notice another one
NEVER_S = 1e9  # what waits for that long waits for ever: tests may be slow
NANO = 10**9  # the token's smallest unit in a nano-token
RULES = SettlementRules(
    max_batch=50,
    confirmations=CONFIRMATIONS,
    finality_blocks=FINALITY_BLOCKS,
    resend_after_s=0.0,
    quiet_after_s=NEVER_S,
)


L = TypeVar("L", bound=Ledger)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deal:
    """A locked trade and all that belongs to it."""

    id: UUID
    ask: UUID
    bid: UUID
    donor: UUID
    recipient: UUID
    device: UUID
    buyer: LocalAccount
    seller: LocalAccount
    amount: int  # in the token's smallest unit


class World:
    """Database, chain, and the settlement between them."""

    def __init__(self, database_url: str, rpc_url: str, *, settlement: Artifact = SETTLEMENT) -> None:
        self.database_url, self.rpc_url = database_url, rpc_url
        self.chain = Chain(rpc_url, settlement=settlement)
        self.market = Market(database_url)
        self.database = Database(database_url)
        self._rpcs: list[Rpc] = []
        self.ledger = self.new_ledger()
        # As if a sweep had asked before: whether the first writes it down is not what tests count.
        limit, _, _ = self.chain.settlement.read("budget")
        self.sql("UPDATE chain_state SET limit_nano = %s", min(limit // NANO, 2**63 - 1))
        self.contract_code = self.chain.rpc.call("eth_getCode", self.chain.settlement.address, "latest")

    def close(self) -> None:
        self.chain.rpc.close()
        self.market.close()
        self.database.close()
        for rpc in self._rpcs:
            rpc.close()

    def new_rpc(self, url: str | None = None) -> Rpc:
        self._rpcs.append(Rpc(url or self.rpc_url))
        return self._rpcs[-1]

    def new_ledger(
        self,
        *,
        chain_id: int = CHAIN_ID,
        url: str | None = None,
        contract: str | None = None,
        operator: LocalAccount | None = None,
        token_decimals: int = 18,
    ) -> Ledger:
        return self.ledger_of(
            Ledger, chain_id=chain_id, url=url, contract=contract, operator=operator, token_decimals=token_decimals
        )

    def ledger_of(
        self,
        kind: type[L],
        *,
        chain_id: int = CHAIN_ID,
        url: str | None = None,
        contract: str | None = None,
        operator: LocalAccount | None = None,
        token_decimals: int = 18,
        rpc: Rpc | None = None,
    ) -> L:
        return kind(
            rpc or self.new_rpc(url),
            chain_id=chain_id,
            contract=contract or self.chain.settlement.address,
            token=self.chain.token.address,
            token_decimals=token_decimals,
            operator_key=(operator or self.chain.operator).key.hex(),
        )

    def fused_ledger(self, fuse: Fuse) -> Ledger:
        self._rpcs.append(FusedRpc(self.rpc_url, fuse))
        return self.ledger_of(Ledger, rpc=self._rpcs[-1])

    # ------------------------------------------------------------------------------------------------ the market

    def lock(self, *, in_escrow: bool = True, energy_wh: int = 500, price_micro: int = 200_000) -> Deal:
        """A trade that its device has locked; its buyer has just enough in escrow, or nothing."""
        home, buyer, ask, bid, trade = self.market.matched(energy_wh=energy_wh, price_micro=price_micro)
        accounts = self.chain.person(), self.chain.person()
        for user, account in zip((buyer, home.user), accounts, strict=True):
            self.sql("UPDATE users SET wallet_address = %s WHERE id = %s", account.address, user)
        amount = energy_wh * price_micro * NANO
        if in_escrow:
            self.chain.deposit(accounts[0], amount)
        self.market.answer(home.device, ask, "locked", trade=trade.id)
        return Deal(
            id=trade.id,
            ask=ask,
            bid=bid,
            donor=home.user,
            recipient=buyer,
            device=home.device,
            buyer=accounts[0],
            seller=accounts[1],
            amount=amount,
        )

    def sql(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        return self.market.sql(statement, *values)

    def trade(self, deal: Deal) -> tuple[str, str | None]:
        """(status, reason)."""
        ((status, reason),) = self.sql("SELECT status, reason FROM transactions WHERE id = %s", deal.id)
        return status, reason

    def statuses(self, deals: list[Deal]) -> list[str]:
        return [self.trade(deal)[0] for deal in deals]

    def batches(self) -> list[tuple[int, str, int]]:
        """(nonce, status, how many trades it carried), by nonce."""
        return self.sql(
            """SELECT nonce, status, (SELECT count(*) FROM settlement_batch_trades WHERE batch_id = b.id)
            FROM settlement_batches b ORDER BY nonce"""
        )

    def forms(self) -> list[tuple[str, int, int, int]]:
        """(hash, fee, tip, how often sent) of everything signed, oldest first."""
        return self.sql(
            """SELECT hash, max_fee_per_gas::bigint, max_priority_fee_per_gas::bigint, sends
            FROM signed_transactions ORDER BY created_at"""
        )

    def let_expire(self, deal: Deal) -> None:
        """The trade's time is over by the database's clock."""
        self.sql("UPDATE transactions SET valid_until = clock_timestamp() - interval '1 s' WHERE id = %s", deal.id)

    # ------------------------------------------------------------------------------------------------ the chain

    def hold(self) -> None:
        """No block from now on but by `mine`."""
        self.chain.rpc.call("evm_setAutomine", False)  # noqa: FBT003 -- JSON

    def go_on(self) -> None:
        """A block for each transaction again."""
        self.chain.rpc.call("evm_setAutomine", True)  # noqa: FBT003 -- JSON

    def mine(self, blocks: int = 1) -> None:
        self.chain.mine(blocks)

    def mine_at(self, time_s: int) -> None:
        self.chain.rpc.call("evm_setNextBlockTimestamp", time_s)
        self.mine()

    def drop_pool(self) -> None:
        self.chain.rpc.call("anvil_dropAllTransactions")

    def call_first(self, account: LocalAccount, contract: Contract, function: str) -> None:
        """Have a call wait in the pool, paying so well that it comes before everything else."""
        nonce = int(self.chain.rpc.call("eth_getTransactionCount", account.address, "latest"), 16)
        self.send_as(account, nonce=nonce, to=contract.address, data=contract.artifact.call(function))

    def send_as(self, account: LocalAccount, *, nonce: int, to: str, data: bytes = b"") -> str:
        """Hand in a transaction, its nonce chosen and its fees high; its hash."""
        fields: dict[str, Any] = {
            "type": 2,
            "chainId": CHAIN_ID,
            "nonce": nonce,
            "to": to,
            "data": data,
            "value": 0,
            "gas": 200_000,
            "maxFeePerGas": 100 * 10**9,
            "maxPriorityFeePerGas": 50 * 10**9,
        }
        raw = account.sign_transaction(fields).raw_transaction
        return str(self.chain.rpc.call("eth_sendRawTransaction", "0x" + raw.hex()))

    def reorganise(self, depth: int) -> None:
        """The newest blocks give way to as many empty ones."""
        self.chain.rpc.call("anvil_reorg", depth, [])

    def poison(self, trade: UUID | None) -> None:
        """From now on the contract undoes every batch with this trade; with None it is itself again."""
        address = self.chain.settlement.address
        if trade is None:
            self.chain.rpc.call("anvil_setCode", address, self.contract_code)
            return
        self.chain.rpc.call("anvil_setCode", address, mock_code("PoisonedSettlement"))
        held = {
            "poison": trade.int,
            "token": int(self.chain.token.address, 16),
            "operator": int(self.chain.operator.address, 16),
        }
        for name, value in held.items():
            slot = "0x" + keccak(text=name).hex()
            self.chain.rpc.call("anvil_setStorageAt", address, slot, "0x" + value.to_bytes(32, "big").hex())

    def give_token(self, decimals: int) -> None:
        """From now on the token has so many decimals, and everybody has none of it."""
        other = deploy(self.chain.rpc, self.chain.owner, mock("PlainToken"), decimals)
        code = self.chain.rpc.call("eth_getCode", other.address, "latest")
        self.chain.rpc.call("anvil_setCode", self.chain.token.address, code)

    def leave_room(self, amount: int) -> None:
        """From now on trades may move so much and no more in a period, none of which is used up."""
        self.chain.rpc.call(
            "anvil_setStorageAt", self.chain.settlement.address, BUDGET_SLOT, "0x" + amount.to_bytes(32, "big").hex()
        )
        assert self.chain.settlement.read("budget") == (amount, 0, 0)

    def use_key(self, nonce: int) -> str:
        """Somebody else sends with the operator's key; it pays well. The transaction's hash."""
        return self.send_as(self.chain.operator, nonce=nonce, to=self.chain.owner.address)

    def paid(self, deal: Deal) -> bool:
        return bool(self.chain.settlement.read("settled", deal.id.int.to_bytes(32, "big")))

    def nonce(self) -> int:
        return int(self.chain.rpc.call("eth_getTransactionCount", self.chain.operator.address, "latest"), 16)

    # ------------------------------------------------------------------------------------------------ settling

    def sweep(self, rules: SettlementRules = RULES, *, ledger: Ledger | None = None, deadline_s: float = 20.0) -> bool:
        return settle_trades(self.database, ledger or self.ledger, rules=rules, deadline_s=deadline_s)

    def differences(self, *, token_decimals: int = 18) -> list[str]:
        """What database and chain disagree on."""
        where = Escrow(
            rpc_url=self.rpc_url,
            contract=self.chain.settlement.address,
            token=self.chain.token.address,
            token_decimals=token_decimals,
        )
        with psycopg.connect(self.database_url, autocommit=True) as conn:
            return reconcile(conn, ledger=where, at_rest=False)

    def sweep_until_final(self, *, ledger: Ledger | None = None) -> None:
        """Let the chain and the settlement run on until nothing is under way."""
        for _ in range(20):
            self.sweep(ledger=ledger)
            self.mine()
            if not self.sql(
                """SELECT 1 FROM settlement_batches WHERE status IN ('Stored', 'Mined')
                UNION ALL SELECT 1 FROM transactions WHERE status IN ('Locked', 'Submitted')"""
            ):
                return
        raise AssertionError(f"still under way: {self.batches()}")

    def time_passes_for_the_lease(self) -> None:
        """Whoever held the lease is dead, and it has run out."""
        self.sql("UPDATE leases SET expires_at = clock_timestamp()")


def logged(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The events of the log lines since the last time, in order."""
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return [line["event"] for line in lines if "event" in line]
