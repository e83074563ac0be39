"""The values that the steps of a sweep share."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from psycopg import Connection

from energy_market.database import Database
from energy_market.domain.settlement import SettlementRules
from energy_market.evm.ledger import Ledger, View
from energy_market.logs import log, metric
from energy_market.postgres.batches import Account

LEASE: Final = "settlement"


class LeaseLost(Exception):
    """The sweep took longer than its lease, so another one may be at work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """One sweep: where it writes, which chain it asks, what it saw, and its rules. It holds the lease as `holder`."""

    database: Database
    ledger: Ledger
    rules: SettlementRules
    view: View
    holder: UUID

    @property
    def account(self) -> Account:
        """The account whose transactions the sweep follows."""
        return Account(chain_id=self.ledger.chain_id, sender=self.ledger.operator)

    def transaction(self) -> AbstractContextManager[Connection]:
        """A transaction of the database. No network call happens inside it."""
        return self.database.transaction()


def say_halted(reason: str, *, data: str | None) -> None:
    """Log that nothing can be paid. `data`: the contract's answer, as 0x-hex."""
    log("settlement.halted", level="error", reason=reason, data=data)
    metric("SettlementHalted", 1)


def say_out_of_gas(balance_wei: int, needed_wei: int) -> None:
    """Log that the operator's account cannot pay the gas."""
    log("settlement.operator_out_of_gas", level="error", balance_wei=balance_wei, needed_wei=needed_wei)
    metric("OperatorOutOfGas", 1)
