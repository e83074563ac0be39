"""What the market must make of what happens, as naively as it can be said: the model that lives are held against."""

from dataclasses import dataclass, field
from uuid import UUID

from tests.support.reference.naive_matching import OpenOrder, naive_rule

ONLINE_S = 120
COUNT_FORGOTTEN_AFTER_S = 600
LIFE_NOTED_EVERY_S = 10
BUYERS_FAULT = {"insufficient_escrow", "spending_cap", "over_limit"}
"""The bid is rejected by a trade that fails; of all others both orders go back into the book."""
DEVICES_FAULT = {"lock_rejected", "lock_timeout", "reservation_lost"}
"""The device waits for its next status; the third time in a row the ask is rejected, and the device pauses."""
IN_A_ROW = 3
FORGOTTEN_AFTER_S = 86_400
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
    failures: int = 0  # of its device, in a row
    failed_by: "Trade | None" = None  # the latest that was counted


@dataclass(kw_only=True, eq=False)
class Trade:
    """A trade that a tick made, and what is known of its lock."""

    id: UUID
    ask: Order
    bid: Order
    energy_wh: int
    price_micro: int
    matched_s: float
    status: str = "Pending"
    failed_s: float = 0.0
    confirmed_s: float | None = None
    heard_s: float | None = None  # when its device said that it holds nothing for it
    deadline_s: float | None = None
    valid_until_s: float | None = None
    delivery: str | None = None
    delivered_wh: int = 0
    reports: list[tuple[int, int]] = field(default_factory=list)  # (seq, Wh) of what was told of its delivery
    vague: bool = False  # some of it was told to a process that was disturbed: taken, or not
    fed_wh: int = 0  # before the latest status of its device, which does not count it as available
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
    def goes_on(self) -> bool:
        return self.status != "Failed" and self.delivery not in {"Delivered", "Short"}

    @property
    def to_be_fed_wh(self) -> int:
        """What the latest status of its device must still cover."""
        return max(0, (self.energy_wh if self.goes_on else self.delivered_wh) - self.fed_wh)

    def fed_before(self, seq: int) -> int:
        """How much was told to be delivered before a status of this count."""
        return min(self.energy_wh, max((wh for told, wh in self.reports if told < seq), default=0))

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
    failures: int = 0  # in a row
    failed_by: Trade | None = None
    failed_wh: int = 0  # the largest of the row
    paused_until_s: float | None = None
    session: str | None = None
    ended: set[str] = field(default_factory=set)  # sessions
    presence_s: float = 0.0
    heard_s: float | None = None  # when it said what has the highest `seq`

    def may_sell(self, now_s: float) -> bool:
        is_there = self.online and now_s - self.last_seen_s <= ONLINE_S
        waits = self.silent_since_s is not None or self.paused_until_s is not None
        return is_there and not waits and self.available_wh > 0

    def fails(self, trade: Trade, *, silent_since_s: float, now_s: float) -> None:
        """It waits for its next status, and for longer if it has failed too often."""
        self.silent_since_s = max(self.silent_since_s or 0.0, silent_since_s)
        goes_on = self.failed_by is not None and self.failed_by.failed_s > now_s - FORGOTTEN_AFTER_S
        self.failed_wh = max(trade.energy_wh, self.failed_wh if goes_on else 0)
        if self.failed_by is None or trade.matched_s > self.failed_by.failed_s:
            self.failures = self.failures + 1 if goes_on else 1
            self.failed_by = trade
            if self.failures >= IN_A_ROW:
                self.paused_until_s = now_s + min(3600, 60 * 2 ** (self.failures - IN_A_ROW)) + _AN_INSTANT

    def sells(self, trade: Trade) -> None:
        """It was paid."""
        if self.failed_wh <= trade.energy_wh:
            self.failures = self.failed_wh = 0

    def says_status(self, *, available_wh: int, seq: int, heard_s: float) -> bool:
        """Whether it is news. Who was not heard of for long may count anew."""
        is_news = seq > self.seq or (self.heard_s is not None and self.heard_s < heard_s - COUNT_FORGOTTEN_AFTER_S)
        if is_news:
            self.available_wh, self.seq = available_wh, seq
            self.heard_s = heard_s if self.heard_s is None else max(self.heard_s, heard_s)
            self.is_seen(heard_s)
            if self.silent_since_s is not None and self.silent_since_s <= heard_s:
                self.silent_since_s = None
        return is_news

    def is_seen(self, heard_s: float) -> None:
        self.online = self.online or self.presence_s <= heard_s
        self.last_seen_s = max(self.last_seen_s, heard_s)

    def shows_life(self, heard_s: float) -> None:
        """It answers, or tells of a delivery; not each of many in a row is written down."""
        if not self.online or self.last_seen_s < heard_s - LIFE_NOTED_EVERY_S:
            self.is_seen(heard_s)

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
    chain_answers: bool = True  # a sweep that asked it within the last minute

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
        return sum(t.to_be_fed_wh for t in self.trades.values() if t.device == device)

    def matches(self, now_s: float) -> list[Match]:
        """The trades that a tick makes now, in their order."""
        if not self.chain_answers:
            return []
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
        trade.failed_s = now_s + _AN_INSTANT
        if reason in BUYERS_FAULT and trade.bid.closed is None:
            trade.bid.closed = "Rejected"
        if reason in DEVICES_FAULT:
            self._fail_ask(trade)
            # The database's clock may be a second ahead of the broker's.
            silent_since_s = now_s - 1 if reason == "lock_timeout" or trade.heard_s is None else trade.heard_s
            self.devices[trade.device].fails(trade, silent_since_s=silent_since_s, now_s=now_s)

    def _fail_ask(self, trade: Trade) -> None:
        ask, before = trade.ask, trade.ask.failed_by
        if ask.closed is not None or (before is not None and before.failed_s > trade.matched_s):
            return
        confirmed_s = [t.confirmed_s for t in self.trades_of(ask) if t.confirmed_s is not None]
        has_sold = before is not None and any(at_s > before.failed_s for at_s in confirmed_s)
        ask.failures, ask.failed_by = 1 if has_sold else ask.failures + 1, trade
        if ask.failures >= IN_A_ROW:
            ask.closed = "Rejected"

    def tick(self, now_s: float) -> list[Match]:
        """What a tick does; the trades that it makes are returned, and have not been made."""
        self.expire(now_s)
        return self.matches(now_s)

    def expire(self, now_s: float) -> None:
        """What a tick does first: locks that ran out fail, orders whose time has passed are closed, pauses end."""
        for trade in self.trades.values():
            if trade.is_late(now_s):
                self.fail(trade, "lock_timeout", now_s)
        for order in self.orders.values():
            if self.open_wh(order) > 0 and _has_expired(order, now_s):
                order.closed = "Expired"
        for device in self.devices.values():
            if device.paused_until_s is not None and device.paused_until_s <= now_s:
                device.paused_until_s = None


_AN_INSTANT = 1e-6  # no clock shows the same time twice


def _has_expired(order: Order, now_s: float) -> bool:
    return order.expires_s is not None and order.expires_s <= now_s
