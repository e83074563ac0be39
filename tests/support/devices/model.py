"""A device as the protocol wants it, without hardware, disk or line."""

from collections import deque
from dataclasses import dataclass, field
from uuid import UUID

from energy_market.domain import topics
from energy_market.domain.commands import Command
from energy_market.messages.received import QueuedMessage
from tests.support.market import Market


@dataclass(kw_only=True)
class ModelDevice:
    """What it says waits in `queue`. It refuses locks of `refuses_wh`, and what it has not got."""

    id: UUID
    available_wh: int
    queue: deque[QueuedMessage]
    held_wh: dict[UUID, int] = field(default_factory=dict)
    released: set[UUID] = field(default_factory=set)
    delivered: dict[UUID, int] = field(default_factory=dict)
    refuses_wh: int = 0
    seq: int = 100

    def hear(self, command: Command) -> None:
        trade = command.transaction_id
        match command.kind:
            case "lock":
                free_wh = self.available_wh - self.reserved_wh()
                fits = trade in self.held_wh or (
                    trade not in self.released
                    and trade not in self.delivered
                    and command.energy_wh != self.refuses_wh
                    and command.energy_wh <= free_wh
                )
                if fits:
                    self.held_wh[trade] = command.energy_wh
                answer: dict[str, object] = {"order_id": str(command.sell_order_id), "transaction_id": str(trade)}
                self._say(
                    topics.of(topics.LOCK_RESPONSE, self.id), answer | {"status": "locked" if fits else "rejected"}
                )
            case "unlock":
                self.held_wh.pop(trade, None)
                self.released.add(trade)
                if trade in self.delivered:
                    self._say_delivered(trade)
            case "transfer":
                if trade in self.held_wh:
                    self.delivered[trade] = self.held_wh.pop(trade)
                    self.available_wh -= self.delivered[trade]
                self._say_delivered(trade)
        self.report()

    def reserved_wh(self) -> int:
        """What it has to keep for others."""
        return sum(self.held_wh.values())

    def _say_delivered(self, trade: UUID) -> None:
        status = "delivered" if trade in self.delivered else "refused"
        report: dict[str, object] = {"transaction_id": str(trade), "status": status, "seq": self._next()}
        kwh = self.delivered.get(trade, 0) / 1000
        self._say(f"energy/transfer/{self.id}/status", report | {"kwh_delivered": kwh})

    def report(self) -> None:
        locks = [str(trade) for trade in self.held_wh]
        status = {"available_kwh": self.available_wh / 1000, "locks": locks, "seq": self._next()}
        self._say(f"energy/donor/{self.id}/status", status)

    def _next(self) -> int:
        self.seq += 1
        return self.seq

    def _say(self, topic: str, payload: dict[str, object]) -> None:
        self.queue.append(Market.say(topic, payload))
