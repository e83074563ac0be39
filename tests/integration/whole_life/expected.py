"""What the market must make of what happens, as naively as it can be said: the model that lives are held against."""

from dataclasses import dataclass, field
from uuid import UUID

from tests.naive_matching import OpenOrder, naive_rule

ONLINE_S = 120
COUNT_FORGOTTEN_AFTER_S = 600
FAULT_OF = {
    "lock_rejected": "ask",
    "lock_timeout": "ask",
    "reservation_lost": "ask",
    "insufficient_escrow": "bid",
    "spending_cap": "bid",
}
"""Whose order is closed by a trade that fails; of all others both go back into the book."""
Match = tuple[UUID, UUID, int, int]
"""The ask and the bid of a trade, its energy and its price."""


@dataclass(kw_only=True, eq=False)
class Order:
    """An order that somebody placed. `arrival`: its place among all that were placed."""

    id: UUID
    user: UUID
    type: str
    energy_wh: int
    price_micro: int
    all_or_none: bool
    device: UUID | None
    arrival: int
    expires_s: float | None
    closed: str | None = None


@dataclass(kw_only=True, eq=False)
class Trade:
    """A trade that a tick made, and what is known of its lock."""

    id: UUID
    ask: Order
    bid: Order
    energy_wh: int
    price_micro: int
    status: str = "Pending"
    deadline_s: float | None = None
    valid_until_s: float | None = None
    delivery: str | None = None
    delivery_seq: int = 0
    lock_seq: int | None = None
    signed: bool = False  # there are bytes that may pay it
    lost: bool = False  # its device said, after it had locked, that it holds nothing for it
    answers: set[str] = field(default_factory=set)  # what its device said that counts: of this trade, locked in time
    told: set[str] = field(default_factory=set)  # the commands that its device was sent

    @property
    def device(self) -> UUID:
        assert self.ask.device is not None
        return self.ask.device

    @property
    def match(self) -> Match:
        return self.ask.id, self.bid.id, self.energy_wh, self.price_micro

    @property
    def is_promised(self) -> bool:
        return self.status != "Failed" and self.delivery not in {"Delivered", "Short"}

    @property
    def owed_to_its_device(self) -> set[str]:
        """The commands that the next publishing must say, because they were never said."""
        match self.status:
            case "Pending":
                return {"lock"} - self.told
            case "Confirmed" if self.delivery == "Short":
                return {"unlock"} - self.told
            case "Confirmed" if self.delivery != "Delivered":
                return {"transfer"} - self.told
            case "Failed" if self.deadline_s is not None and "rejected" not in self.answers:
                return {"unlock"} - self.told
        return set()

    def may_be_told(self, command: str) -> bool:
        match command:
            case "lock":
                return self.status == "Pending"
            case "transfer":
                return self.status == "Confirmed" and self.delivery in {"Owed", "Started"}
        return self.status == "Failed" or self.delivery in {"Short", "Delivered"}

    def is_late(self, now_s: float) -> bool:
        """Whether its device has let the lock run out."""
        return self.status == "Pending" and self.deadline_s is not None and now_s >= self.deadline_s

    def may_become(self, status: str, reason: str | None, *, now_s: float, undone: bool) -> bool:
        """Whether what has happened leads there, in one transition or in several."""
        overdue = reason == "settlement_expired" and self.valid_until_s is not None and now_s >= self.valid_until_s
        leads = {
            ("Pending", "Locked"): "locked" in self.answers,
            ("Pending", "Failed"): (reason == "lock_rejected" and "rejected" in self.answers)
            or (reason == "lock_timeout" and self.is_late(now_s)),
            ("Locked", "Submitted"): True,
            ("Locked", "Failed"): overdue or (reason == "reservation_lost" and self.lost and not self.signed),
            ("Submitted", "Confirmed"): True,
            ("Submitted", "Locked"): True,  # its batch came to nothing
            ("Submitted", "Failed"): overdue or reason == "insufficient_escrow",
            ("Confirmed", "Submitted"): undone,
        }
        reached = [self.status]
        for here in reached:
            reached += [
                there for (start, there), does in leads.items() if start == here and does and there not in reached
            ]
        return status in reached


@dataclass(kw_only=True)
class KnownDevice:
    """What a device said of itself, as far as it was heard. `heard_s`: when the broker had it."""

    id: UUID
    available_wh: int
    seq: int
    last_seen_s: float
    online: bool = True
    silent_since_s: float | None = None
    session: str | None = None
    ended: set[str] = field(default_factory=set)  # sessions
    presence_s: float = 0.0
    status_seq: int = -1  # of its last status; `seq` may be a delivery's
    heard_s: float | None = None  # when it said what has the highest `seq`
    vague: bool = False  # a delivery was reported to a process that was disturbed: taken, or not, or not yet

    def may_sell(self, now_s: float) -> bool:
        is_there = self.online and now_s - self.last_seen_s <= ONLINE_S
        return is_there and self.silent_since_s is None and self.available_wh > 0

    def says_status(self, *, available_wh: int, seq: int, heard_s: float) -> bool:
        """Whether it is news. Who was not heard of for long may count anew."""
        is_news = seq > self.seq or (self.heard_s is not None and self.heard_s < heard_s - COUNT_FORGOTTEN_AFTER_S)
        if is_news:
            self.available_wh, self.seq, self.status_seq, self.vague = available_wh, seq, seq, False
            self.heard_s = heard_s if self.heard_s is None else max(self.heard_s, heard_s)
            self.is_seen(heard_s)
            if self.silent_since_s is not None and self.silent_since_s <= heard_s + 1:
                self.silent_since_s = None
        return is_news

    def says_delivered(self, *, delivered_wh: int, seq: int, heard_s: float) -> None:
        """What was delivered since the last status is not available any more, whatever that said."""
        if seq > self.status_seq:
            self.available_wh = max(0, self.available_wh - delivered_wh)
            if seq >= self.seq:
                self.seq = seq
                self.heard_s = heard_s if self.heard_s is None else max(self.heard_s, heard_s)

    def is_seen(self, heard_s: float) -> None:
        self.online = self.online or self.presence_s <= heard_s
        self.last_seen_s = max(self.last_seen_s, heard_s)

    def is_present(self, *, connected: bool, session: str, at_s: float) -> None:
        if connected and session in self.ended:
            return
        if not connected:
            self.ended.add(session)
        if at_s < self.presence_s or (not connected and self.session not in {None, session}):
            return
        if connected:
            self.last_seen_s = max(self.last_seen_s, at_s)
        self.online = connected
        self.session, self.presence_s = session, at_s


@dataclass(kw_only=True)
class Expected:
    """Orders, trades and devices as they must be."""

    orders: dict[UUID, Order] = field(default_factory=dict)
    trades: dict[UUID, Trade] = field(default_factory=dict)
    devices: dict[UUID, KnownDevice] = field(default_factory=dict)

    # ------------------------------------------------------------------------------------------------ what follows

    def trades_of(self, order: Order) -> list[Trade]:
        """Those that have not failed."""
        return [t for t in self.trades.values() if order in (t.ask, t.bid) and t.status != "Failed"]

    def remaining_wh(self, order: Order) -> int:
        return order.energy_wh - sum(trade.energy_wh for trade in self.trades_of(order))

    def open_wh(self, order: Order) -> int:
        return self.remaining_wh(order) if order.closed is None else 0

    def status(self, order: Order) -> str:
        if order.closed is not None:
            return order.closed
        if self.remaining_wh(order) > 0:
            return "Created"
        statuses = {trade.status for trade in self.trades_of(order)}
        if "Pending" in statuses:
            return "Matched"
        return "Completed" if statuses == {"Confirmed"} else "Executing"

    def not_listed(self, device: UUID, locks: list[str], *, seq: int) -> list[Trade]:
        """Locked trades that a status does not list although the device said it after it had locked."""
        locked = [trade for trade in self.trades.values() if trade.device == device and trade.status == "Locked"]
        return [t for t in locked if t.lock_seq is not None and t.lock_seq < seq and str(t.id) not in locks]

    def promised_wh(self, device: UUID) -> int:
        return sum(t.energy_wh for t in self.trades.values() if t.device == device and t.is_promised)

    def matches(self, now_s: float) -> list[Match]:
        """The trades that a tick makes now, in their order."""
        book = [order for order in self.orders.values() if self.open_wh(order) > 0 and not _has_expired(order, now_s)]
        by_arrival = {order.arrival: order.id for order in book}
        sellers = {device for device, known in self.devices.items() if known.may_sell(now_s)}
        free_wh = {device: self.devices[device].available_wh - self.promised_wh(device) for device in sellers}
        made = naive_rule(
            [self._in_the_book(order) for order in book if order.type == "sell" and order.device in sellers],
            [self._in_the_book(order) for order in book if order.type == "buy"],
            free_wh,
        )
        return [(by_arrival[ask], by_arrival[bid], energy_wh, price) for ask, bid, energy_wh, price in made]

    def _in_the_book(self, order: Order) -> OpenOrder:
        return OpenOrder(
            user_id=order.user,
            device_id=order.device,
            remaining_wh=self.open_wh(order),
            price_micro=order.price_micro,
            arrival=order.arrival,
            all_or_none=order.all_or_none,
        )

    # ------------------------------------------------------------------------------------------------ what happens

    def fail(self, trade: Trade, reason: str, now_s: float) -> None:
        trade.status = "Failed"
        if reason == "lock_timeout" and self.devices[trade.device].silent_since_s is None:
            self.devices[trade.device].silent_since_s = now_s
        at_fault = {"ask": trade.ask, "bid": trade.bid}.get(FAULT_OF.get(reason, ""))
        if at_fault is not None and at_fault.closed is None:
            at_fault.closed = "Rejected"

    def tick(self, now_s: float) -> list[Match]:
        """What a tick does; the trades that it makes are returned, and have not been made."""
        self.expire(now_s)
        return self.matches(now_s)

    def expire(self, now_s: float) -> None:
        """What a tick does first: locks that ran out fail, and orders whose time has passed are closed."""
        for trade in self.trades.values():
            if trade.is_late(now_s):
                self.fail(trade, "lock_timeout", now_s)
        for order in self.orders.values():
            if self.open_wh(order) > 0 and _has_expired(order, now_s):
                order.closed = "Expired"


def _has_expired(order: Order, now_s: float) -> bool:
    return order.expires_s is not None and order.expires_s <= now_s
