"""Rules and values of the settlement on the chain."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

GWEI: Final = 10**9
"""Wei in a gwei, the unit in which gas fees are quoted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SettlementRules:
    """The rules of a sweep. Depths count the block itself: a transaction in the newest block has one confirmation."""

    max_batch: int
    confirmations: int  # a paid trade is Confirmed at this depth
    finality_blocks: int  # final at this depth; a trade fails only here
    margin_s: int = 30  # a trade with less time left is not sent: it would probably only burn gas
    stuck_after_s: float = 30.0  # a transaction that waits longer is replaced, with higher fees
    resend_after_s: float = 4.0  # a transaction that waits longer is sent again unchanged
    quiet_after_s: float = 30.0  # after this time without a block, an empty batch is sent if a trade waits for blocks
    delivery_window_s: int = 86_400  # after its first confirmation; a delivery that takes longer is Short
    max_under_way: int = 8  # batches waiting to be mined; common nodes queue 16 of one account
    max_forms: int = 20  # signed in a row at unchanged network fees; each pays 12.5 % more
    min_priority_fee_wei: int = 0  # per unit of gas; a lower suggestion of the chain is raised to it
    max_fee_wei: int = 1_000 * GWEI  # per unit of gas; above it nothing is signed

    def __post_init__(self) -> None:
        if not 1 <= self.confirmations <= self.finality_blocks:
            raise ValueError("finality takes at least as many blocks as a confirmation, and that at least one")
        if self.max_batch < 1:
            raise ValueError("a batch holds at least one trade")
        if not 0 <= self.min_priority_fee_wei <= self.max_fee_wei:
            raise ValueError("the least tip must be at least nothing and at most the highest fee")


@dataclass(frozen=True, slots=True, kw_only=True)
class StuckBatch:
    """A transaction that waits to be mined. `forms`: times it was signed; `sends`: times it was handed to a node."""

    id: UUID
    chain_id: int
    contract: str
    sender: str
    nonce: int
    created_at: datetime
    forms: int
    sends: int
    sent_at: datetime | None  # the last time
    trades: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """The amount that trades may move in a clock hour, and the rest of it. In the token's smallest unit."""

    limit: int
    room: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """One account as the contract sees it. Escrow in the token's smallest unit.

    `cap`: the limit on what trades may move out of it; None if its owner has set none. `all_trades`: the limit on all
    trades together. `hour_ends_s`: when both limits start anew, in Unix seconds.
    """

    escrow: int
    cap: Allowance | None
    all_trades: Allowance
    hour_ends_s: int
