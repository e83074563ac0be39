"""How trades are settled on the chain."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

GWEI: Final = 10**9
"""Wei of a gwei, in which fees for gas are named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SettlementRules:
    """Depths count the block itself: a transaction in the newest block has one confirmation."""

    max_batch: int
    confirmations: int  # a paid trade is Confirmed at this depth
    finality_blocks: int  # nothing changes any more at this depth; only here a trade fails
    margin_s: int = 30  # a trade with less time left is not sent any more: it would likely only burn gas
    stuck_after_s: float = 30.0  # a transaction that waits longer is replaced by one with higher fees
    resend_after_s: float = 4.0  # one that waits longer is sent again as it is
    quiet_after_s: float = 30.0  # a chain without a block for longer gets an empty batch, if a trade waits for blocks
    delivery_window_s: int = 86_400  # from its first confirmation on; a delivery that takes longer is Short
    max_under_way: int = 8  # batches waiting to be mined; common nodes queue 16 of one account
    max_forms: int = 20  # signed in a row while the chain asks the same; each pays 12.5 % more
    min_priority_fee_wei: int = 0  # for each gas; what the chain suggests is raised to it
    max_fee_wei: int = 1_000 * GWEI  # for each gas; above it nothing is signed

    def __post_init__(self) -> None:
        if not 1 <= self.confirmations <= self.finality_blocks:
            raise ValueError("finality takes at least as many blocks as a confirmation, and that at least one")
        if self.max_batch < 1:
            raise ValueError("a batch holds at least one trade")
        if not 0 <= self.min_priority_fee_wei <= self.max_fee_wei:
            raise ValueError("the least tip must be at least nothing and at most the highest fee")


@dataclass(frozen=True, slots=True, kw_only=True)
class StuckBatch:
    """A transaction that waits to be mined: how often it was signed with other fees (`forms`) and handed to a node."""

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
    """How much trades may move in an hour by the clock, and how much of it they may still. In the smallest unit."""

    limit: int
    room: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What the contract knows of one account. Escrow in the token's smallest unit.

    `cap`: what trades may move out of it, None if its owner has set none. `all_trades`: what all trades together may
    move. `hour_ends_s`: when either begins anew, in Unix seconds.
    """

    escrow: int
    cap: Allowance | None
    all_trades: Allowance
    hour_ends_s: int
