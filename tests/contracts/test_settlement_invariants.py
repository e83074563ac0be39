"""The settlement contract under any order of calls by anybody, held against a naive model of what it must do.

After each call: the sum of all escrow is what the contract says it is, and it holds at least that many tokens; a trade
was paid once at most; in no hour was more moved than the limit, nor out of an account than its owner's cap.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from energy_market.evm.contract import Contract
from local_market.parts.anvil import start_anvil
from local_market.stack.stack import remove_state
from tests.support.chain.chain import (
    ALREADY_SETTLED,
    EXPIRED,
    INSUFFICIENT_ESCROW,
    ONE,
    OVER_CAP,
    OVER_LIMIT,
    PERIOD_S,
    SETTLEMENT,
    Chain,
    ChainTrade,
    events,
    word,
)

DAY_S = 86_400
PEOPLE = 4
OWNER, OPERATOR, STRANGER = "owner", "operator", "stranger"
WHO = st.integers(0, PEOPLE - 1)
AMOUNT = st.integers(0, 6)  # few different ones, so that limits are met exactly
BY = st.sampled_from([OWNER, OPERATOR, STRANGER])
TRADES = st.lists(st.tuples(st.integers(0, 7), WHO, WHO, AMOUNT, st.booleans()), max_size=5)
PAID = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """What a trade moved, in which hour; whether its buyer had a cap then."""

    hour: int
    buyer: int
    amount: int
    capped: bool


@dataclass(slots=True, kw_only=True)
class Model:
    """The contract as naively as it can be said. Amounts as they come, times in Unix seconds."""

    limit: int
    escrow: list[int] = field(default_factory=lambda: [0] * PEOPLE)
    caps: dict[int, int] = field(default_factory=dict)
    paid: set[int] = field(default_factory=set)
    moved: list[Moved] = field(default_factory=list)
    paused: bool = False
    raise_to: tuple[int, int] | None = None  # the limit, and from when on
    donated: int = 0

    def pay(self, number: int, buyer: int, seller: int, amount: int, *, late: bool, now_s: int) -> int:
        hour = now_s // PERIOD_S
        if number in self.paid:
            return ALREADY_SETTLED
        if late:
            return EXPIRED
        if self.escrow[buyer] < amount:
            return INSUFFICIENT_ESCROW
        of_his = sum(m.amount for m in self.moved if (m.hour, m.buyer, m.capped) == (hour, buyer, True))
        if buyer in self.caps and of_his + amount > max(of_his, self.caps[buyer]):
            return OVER_CAP
        of_all = sum(m.amount for m in self.moved if m.hour == hour)
        if of_all + amount > max(of_all, self.limit):
            return OVER_LIMIT
        self.moved.append(Moved(hour=hour, buyer=buyer, amount=amount, capped=buyer in self.caps))
        self.paid.add(number)
        self.escrow[buyer] -= amount
        self.escrow[seller] += amount
        return PAID


class Stage:
    """A chain of its own, whose clock stands still between the blocks that the test asks for."""

    def __init__(self, rpc_url: str) -> None:
        self.chain = Chain(rpc_url)
        self.people = [self.chain.person() for _ in range(PEOPLE)]
        self.by = {OWNER: self.chain.owner, OPERATOR: self.chain.operator, STRANGER: self.chain.person()}
        self.chain.rpc.call("anvil_autoImpersonateAccount", True)  # noqa: FBT003 -- JSON
        self.chain.rpc.call("evm_setAutomine", False)  # noqa: FBT003 -- JSON
        self.now_s = self.chain.time()
        for person in self.people:
            assert (
                self.send(self.chain.owner.address, self.chain.token, "mint", person.address, 10**6 * ONE) is not None
            )

    def new_contract(self, limit: int) -> Contract:
        """A settlement contract with nothing in it, that everybody's tokens are approved for."""
        people = self.chain.token.address, self.chain.owner.address, self.chain.operator.address
        code = SETTLEMENT.creation(*people, limit)
        receipt = self._mined({"from": self.chain.owner.address, "data": "0x" + code.hex()})
        contract = Contract(rpc=self.chain.rpc, artifact=SETTLEMENT, address=receipt["contractAddress"])
        for person in self.people:
            assert self.send(person.address, self.chain.token, "approve", contract.address, 10**6 * ONE) is not None
        return contract

    def send(self, sender: str, contract: Contract, function: str, *arguments: object) -> dict[str, Any] | None:
        """Call a function in a block of its own, a second later; its receipt, or None if it was undone."""
        data = contract.artifact.call(function, *arguments)
        receipt = self._mined({"from": sender, "to": contract.address, "data": "0x" + data.hex()})
        return receipt if receipt["status"] == "0x1" else None

    def _mined(self, call: dict[str, str]) -> dict[str, Any]:
        rpc = self.chain.rpc
        rpc.start_deadline(30)
        self.now_s += 1
        rpc.call("evm_setNextBlockTimestamp", self.now_s)
        sent = rpc.call("eth_sendTransaction", {**call, "gas": hex(5_000_000)})
        rpc.call("evm_mine")
        receipt: dict[str, Any] = rpc.call("eth_getTransactionReceipt", sent)
        return receipt

    def read(self, *questions: tuple[Contract, str, tuple[object, ...]]) -> list[Any]:
        """What several view functions answer."""
        calls: list[tuple[str, list[object]]] = [
            ("eth_call", [{"to": c.address, "data": "0x" + c.artifact.call(name, *arguments).hex()}, "latest"])
            for c, name, arguments in questions
        ]
        answers = self.chain.rpc.call_many(calls)
        return [
            c.artifact.answer(name, bytes.fromhex(answer[2:]))
            for (c, name, _), answer in zip(questions, answers, strict=True)
        ]


class AnyCalls(RuleBasedStateMachine):
    """Whatever is called by whom: what happens is what the model says, and the invariants hold."""

    stage: Stage
    ids = count(1)

    @initialize(limit=st.integers(1, 12))
    def deploy(self, limit: int) -> None:
        self.contract = self.stage.new_contract(limit)
        self.model = Model(limit=limit)
        self.first_id = next(self.ids) * 100

    def does(self, sender: str, function: str, *arguments: object, expected: bool) -> dict[str, Any] | None:
        receipt = self.stage.send(sender, self.contract, function, *arguments)
        assert (receipt is not None) == expected, (function, arguments)
        return receipt

    def address(self, who: int) -> str:
        return str(self.stage.people[who].address)

    # ------------------------------------------------------------------------------------------------ of what is his

    @rule(who=WHO, amount=AMOUNT)
    def deposit(self, who: int, amount: int) -> None:
        allowed = amount > 0 and not self.model.paused
        self.does(self.address(who), "deposit", amount, expected=allowed)
        self.model.escrow[who] += amount if allowed else 0

    @rule(who=WHO, amount=AMOUNT)
    def withdraw(self, who: int, amount: int) -> None:
        allowed = 0 < amount <= self.model.escrow[who]
        self.does(self.address(who), "withdraw", amount, expected=allowed)
        self.model.escrow[who] -= amount if allowed else 0

    @rule(who=WHO, amount=AMOUNT)
    def set_cap(self, who: int, amount: int) -> None:
        self.does(self.address(who), "setCap", amount, expected=True)
        self.model.caps[who] = amount

    @rule(who=WHO)
    def remove_cap(self, who: int) -> None:
        self.does(self.address(who), "removeCap", expected=True)
        self.model.caps.pop(who, None)

    @rule(who=WHO)
    def give_tokens_away(self, who: int) -> None:
        """Somebody sends tokens to the contract without a deposit."""
        sent = self.stage.send(self.address(who), self.stage.chain.token, "transfer", self.contract.address, 1)
        assert sent is not None
        self.model.donated += 1

    # ------------------------------------------------------------------------------------------------ the operator

    @rule(trades=TRADES, by=st.sampled_from([OPERATOR] * 4 + [OWNER, STRANGER]))
    def settle(self, trades: list[tuple[int, int, int, int, bool]], by: str) -> None:
        batch: list[ChainTrade] = [
            (
                word(UUID(int=self.first_id + number)),
                self.address(buyer),
                self.address(seller),
                amount,
                1000,
                self.stage.now_s + (0 if late else 1),
            )
            for number, buyer, seller, amount, late in trades
        ]
        allowed = by == OPERATOR and not self.model.paused
        receipt = self.does(self.stage.by[by].address, "settle", batch, expected=allowed)
        if receipt is None:
            return
        expected = [
            self.model.pay(number, buyer, seller, amount, late=late, now_s=self.stage.now_s)
            for number, buyer, seller, amount, late in trades
        ]
        said = events(receipt, self.contract)
        assert [PAID if e.name == "TradeSettled" else e.data[0] for e in said] == expected

    # ------------------------------------------------------------------------------------------------ the owner

    @rule(by=BY, amount=st.integers(0, 12))
    def set_limit(self, by: str, amount: int) -> None:
        allowed = by == OWNER
        self.does(self.stage.by[by].address, "setLimit", amount, expected=allowed)
        if allowed and amount > self.model.limit:
            self.model.raise_to = amount, self.stage.now_s + 2 * DAY_S
        elif allowed:
            self.model.limit, self.model.raise_to = amount, None

    @rule(by=BY)
    def raise_limit(self, by: str) -> None:
        at_s = self.stage.now_s + 1
        due = self.model.raise_to is not None and 0 <= at_s - self.model.raise_to[1] <= 7 * DAY_S
        self.does(self.stage.by[by].address, "raiseLimit", expected=by == OWNER and due)
        if by == OWNER and due and self.model.raise_to is not None:
            self.model.limit, self.model.raise_to = self.model.raise_to[0], None

    @rule(by=BY)
    def pause_or_go_on(self, by: str) -> None:
        self.does(self.stage.by[by].address, "unpause" if self.model.paused else "pause", expected=by == OWNER)
        self.model.paused ^= by == OWNER

    # ------------------------------------------------------------------------------------------------ time

    @rule(seconds=st.sampled_from([60, PERIOD_S // 2, PERIOD_S, 2 * DAY_S, 8 * DAY_S]))
    def time_passes(self, seconds: int) -> None:
        self.stage.now_s += seconds

    # ------------------------------------------------------------------------------------------------ what holds

    @invariant()
    def sums_are_right(self) -> None:
        if not hasattr(self, "contract"):
            return
        token, contract = self.stage.chain.token, self.contract
        held, total, *escrow = self.stage.read(
            (token, "balanceOf", (contract.address,)),
            (contract, "totalEscrow", ()),
            *((contract, "escrow", (self.address(who),)) for who in range(PEOPLE)),
        )
        assert escrow == self.model.escrow
        assert sum(escrow) == total
        assert held == total + self.model.donated


@pytest.fixture
def stage(state_folder: Path) -> Iterator[Stage]:
    folder = state_folder / "chain-of-any-calls"
    anvil = start_anvil(folder, block_time_s=None)
    stage = Stage(anvil.rpc_url)
    yield stage
    stage.chain.rpc.close()
    anvil.stop()
    remove_state(folder)


def test_whatever_is_called_by_whom_the_sums_are_right_and_the_limits_hold(stage: Stage) -> None:
    """`CONTRACT_LIVES=1000` looks longer, elsewhere each time."""

    class Here(AnyCalls):
        pass

    Here.stage = stage
    run: Callable[..., None] = run_state_machine_as_test
    run(
        Here,
        settings=settings(
            max_examples=int(os.environ.get("CONTRACT_LIVES", "25")),
            stateful_step_count=25,
            derandomize="CONTRACT_LIVES" not in os.environ,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
