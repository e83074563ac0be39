"""A device of a whole life: as the protocol wants it, but that it may take its time, be away, and talk nonsense."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import UUID

from energy_market.domain import topics
from energy_market.domain.commands import Command
from energy_market.messages.received import QueuedMessage
from tests.support.devices.model import ModelDevice
from tests.support.market import Market, certificate_of


@dataclass(kw_only=True)
class LiveDevice(ModelDevice):
    """`takes_its_time`: it delivers in parts, when told to feed. `falls_short`: it delivers half of what it owes."""

    now_ms: Callable[[], int]
    takes_its_time: bool = False
    falls_short: bool = False
    fed_wh: dict[UUID, int] = field(default_factory=dict)
    ever_fed_wh: dict[UUID, int] = field(default_factory=dict)
    session: int = 0
    is_away: bool = False
    answered: dict[UUID, UUID] = field(default_factory=dict)  # trade -> sell order, of what it was asked to lock

    def hear(self, command: Command) -> None:
        trade = command.transaction_id
        if command.kind == "lock":
            self.answered[trade] = command.sell_order_id
        if command.kind == "unlock" and trade in self.fed_wh:
            self.delivered[trade] = self.fed_wh.pop(trade)
        if command.kind == "transfer" and (trade in self.fed_wh or (self.takes_its_time and trade in self.held_wh)):
            self.fed_wh.setdefault(trade, 0)
            self._say_fed(trade)
            return
        if command.kind == "transfer" and self.falls_short and trade in self.held_wh:
            self.fed_wh[trade] = self.held_wh[trade] // 2
            self.available_wh -= self.fed_wh[trade]
            self._end_delivery(trade)
            return
        super().hear(command)
        if trade in self.delivered:
            self.ever_fed_wh[trade] = self.delivered[trade]

    def feed(self) -> None:
        """Deliver half of each delivery under way, or the rest of it."""
        for trade, fed_wh in list(self.fed_wh.items()):
            step_wh = self.held_wh[trade] // 2 if fed_wh == 0 else self.held_wh[trade] - fed_wh
            self.available_wh -= step_wh
            self.fed_wh[trade] += step_wh
            self.ever_fed_wh[trade] = self.fed_wh[trade]
            if self.fed_wh[trade] < self.held_wh[trade]:
                self._say_fed(trade)
            else:
                self._end_delivery(trade)
        self.report()

    def forget(self) -> None:
        """Another device takes its place and knows of nothing."""
        for known in (self.held_wh, self.fed_wh, self.answered):
            known.clear()

    def _end_delivery(self, trade: UUID) -> None:
        del self.held_wh[trade]
        self.delivered[trade] = self.ever_fed_wh[trade] = self.fed_wh.pop(trade)
        self._say_delivered(trade)

    def reserved_wh(self) -> int:
        """What it has to keep for others, and has not fed yet."""
        return super().reserved_wh() - sum(self.fed_wh.values())

    def answer_lock(self, trade: UUID, status: str, *, named: bool) -> None:
        """Answer again, whatever was answered before; with the trade's id, or as the specification has it."""
        answer: dict[str, object] = {"order_id": str(self.answered[trade]), "status": status}
        self._say(topics.of(topics.LOCK_RESPONSE, self.id), answer | ({"transaction_id": str(trade)} if named else {}))

    def leave(self) -> QueuedMessage:
        """Its line is cut; what the broker says of that."""
        self.is_away = True
        return self._presence("disconnected", self.session)

    def come_back(self, *, before_the_end_was_noticed: bool) -> list[QueuedMessage]:
        """It connects anew. The broker may notice only now that the last session has ended."""
        self.is_away = False
        self.session += 1
        events = [self._presence("connected", self.session)]
        if before_the_end_was_noticed:
            events.append(self._presence("disconnected", self.session - 1))
        return events

    def say(self, topic: str, payload: dict[str, object], *, client_id: str | None = None) -> None:
        if self.is_away:
            return
        self.queue.append(Market.say(topic, payload, client_id=client_id, received_ms=self.now_ms()))

    def _say(self, topic: str, payload: dict[str, object]) -> None:
        self.say(topic, payload if "seq" in payload else payload | {"seq": self._next()})

    def _say_fed(self, trade: UUID) -> None:
        fed_wh = self.fed_wh[trade]
        report = {"transaction_id": str(trade), "status": "delivering" if fed_wh else "started", "seq": self._next()}
        self.say(f"energy/transfer/{self.id}/status", report | {"kwh_delivered": fed_wh / 1000})

    def _presence(self, kind: str, session: int) -> QueuedMessage:
        now_ms = self.now_ms()
        event = {
            "clientId": str(self.id),
            "timestamp": now_ms,
            "eventType": kind,
            "sessionIdentifier": f"session-{session}",
            "principalIdentifier": certificate_of(self.id),
        }
        return QueuedMessage(
            topic=f"{topics.PRESENCE}{kind}/{self.id}",
            client_id=str(self.id),
            principal=certificate_of(self.id),
            payload=json.dumps(event).encode(),
            received_at_ms=now_ms,
        )
