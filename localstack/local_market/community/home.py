"""One home: its wallet, its device, and the thread in which it trades.

It uses only what a stranger's home could: the public API, MQTT with its own certificate, and the chain.
"""

import datetime as dt
import logging
import sqlite3
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from energy_device.config import DeviceConfig
from eth_account import Account

from energy_market_client.answers import RegisteredDevice, energy_wh
from energy_market_client.errors import ApiError, EndedError, UnreachableError
from energy_market_client.market_client import MarketClient
from energy_market_client.wallet import Wallet
from local_market.community.clock import SimulatedClock
from local_market.community.devices import Devices, RunningDevice
from local_market.community.energy_books import EnergyBooks
from local_market.community.hardware import HomeHardware, Wire
from local_market.community.household import Household
from local_market.community.trader import Draft, OwnOrder, Side, Trader, held_wh


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRecord:
    """What a device itself remembers: trade id -> watt-hours."""

    device_id: str
    held_wh: Mapping[str, int] = field(default_factory=dict)
    delivered_wh: Mapping[str, int] = field(default_factory=dict)


logger: Final = logging.getLogger("community")
ROUND_S: Final = 2.5  # each home looks at its orders this often
PATIENCE_S: Final = 20.0  # an order that stands longer is cancelled and placed anew, at a better price for the others
AHEAD_S: Final = 30.0  # a home cares for what it will need in the next half minute of our time ...
AHEAD_AT_LEAST: Final = dt.timedelta(hours=1)  # ... but looks ahead in its own
AHEAD_AT_MOST: Final = dt.timedelta(hours=4)
REMEMBERED_ERRORS: Final = 50


@dataclass(slots=True)
class _Standing:
    """An order of the home's own as last seen."""

    side: Side
    open_wh: int
    under_way_wh: int
    filled_wh: int
    since: float


class Home:
    """One home: it registers, connects its device, and trades in its own thread until told to stop."""

    def __init__(
        self, household: Household, *, api_url: str, hardware: HomeHardware, wire: Wire, clock: SimulatedClock
    ) -> None:
        """Nothing is sent yet."""
        self.household = household
        self.hardware = hardware
        self.client = MarketClient(api_url, Account.create())
        self.device: RegisteredDevice | None = None
        self.agent: RunningDevice | None = None
        self.errors = 0
        self.recent_errors: deque[str] = deque(maxlen=REMEMBERED_ERRORS)
        self._state_path: Path | None = None
        self._wire = wire
        self._trader = Trader(household=household, patience_s=PATIENCE_S)
        self._ahead = min(AHEAD_AT_MOST, max(AHEAD_AT_LEAST, dt.timedelta(seconds=AHEAD_S * clock.speed)))
        self._orders: dict[str, _Standing] = {}
        self._unanswered: dict[str, Draft] = {}  # by idempotency key
        self._thread: threading.Thread | None = None

    @property
    def side(self) -> str:
        """Which side its device is on."""
        return "donor" if self.household.is_donor else "recipient"

    def register(self) -> None:
        """Sign up and register the device. Raises ApiError, UnreachableError."""
        self.client.sign_up()
        self.device = self.client.register_device(
            side=self.side, device_type="raspi", location=f"Sonnenstrasse, {self.household.name}, Freiburg"
        )

    def deposit(self, *, rpc_url: str, tokens: int) -> None:
        """Put tokens into escrow. Raises ChainError, TransactionFailedError, ApiError."""
        chain = self.client.chain()
        wallet = Wallet(self.client.account, rpc_url=rpc_url, chain_id=chain.chain_id)
        with closing(wallet):
            wallet.deposit(
                token=chain.token_contract,
                contract=chain.settlement_contract,
                amount=tokens * 10**chain.token_decimals,
            )

    def connect(self, devices: Devices, *, ca: bytes, folder: Path) -> None:
        """Start the device with the certificate that its registration gave."""
        if self.device is None:
            raise RuntimeError("a home is registered before its device is connected")
        folder.mkdir(parents=True, exist_ok=True)
        self._state_path = folder / f"{self.household.name}.db"
        host, _, port = str(self.device.answer["broker"]).rpartition(":")
        config = DeviceConfig(
            device_id=self.device.device_id,
            side="donor" if self.household.is_donor else "recipient",
            host=host,
            port=int(port),
            certificate=self.device.certificate_pem.encode(),
            private_key=self.device.private_key.encode(),
            ca=ca,
            state_path=self._state_path,
            status_period_s=5.0,
            transfer_period_s=0.5,
        )
        self.agent = devices.start(config, self.hardware, name=self.household.name)

    def start(self, stop: threading.Event, *, delay_s: float) -> None:
        """Begin to trade, the first round after `delay_s`, until `stop`; then cancel what is open."""
        self._thread = threading.Thread(target=self._live, args=(stop, delay_s), name=self.household.name, daemon=True)
        self._thread.start()

    def join(self, timeout_s: float) -> bool:
        """Wait until the home has ended its trading; False if it has not."""
        if self._thread is None:
            return True
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _live(self, stop: threading.Event, delay_s: float) -> None:
        if not stop.wait(delay_s):
            while True:
                self._attempt(self._round)
                if stop.wait(ROUND_S):
                    break
        if not self.client.ended:
            self._attempt(self._withdraw)

    def _attempt(self, work: Callable[[], None]) -> None:
        """A home that meets an error goes on with its next round, as people do; the error is counted and logged."""
        try:
            work()
        except EndedError:
            return
        except (ApiError, UnreachableError) as error:
            self._note(str(error))
        except Exception as error:
            logger.exception("%s failed", self.household.name)
            self._note(f"{type(error).__name__}: {error}")

    def _note(self, sentence: str) -> None:
        self.errors += 1
        self.recent_errors.append(f"{self.household.name}: {sentence}")
        logger.warning("%s: %s", self.household.name, sentence)

    def _round(self) -> None:
        self._place()
        self.look_at_orders()
        self.collect()
        orders = self._own_orders()
        decision = self.hardware.look(lambda books: self._trader.decide(books=books, orders=orders, ahead=self._ahead))
        for order_id in decision.cancel:
            self.client.cancel(order_id)
        for draft in decision.place:
            self._unanswered[str(uuid.uuid4())] = draft
        self._place()

    def _place(self) -> None:
        """Place what the home wants; what was not answered for is asked for again, under the same key, until it is."""
        # Before it is offered: from here on the home's own use leaves it alone.
        self._hold()
        for key, draft in list(self._unanswered.items()):
            try:
                answer = self.client.place(
                    side=draft.side,
                    size_wh=draft.energy_wh,
                    price_micro=draft.price_micro,
                    all_or_none=draft.all_or_none,
                    device_id=self._selling_device if draft.side == "sell" else None,
                    key=key,
                )
            except ApiError:
                del self._unanswered[key]  # the market said no
                raise
            self._orders[answer["id"]] = _Standing(draft.side, draft.energy_wh, 0, 0, time.monotonic())
            del self._unanswered[key]

    @property
    def _selling_device(self) -> str | None:
        """Which device sells: the account may have had others before."""
        return None if self.device is None else self.device.device_id

    def _withdraw(self) -> None:
        """Cancel all that is open."""
        self._place()
        self.look_at_orders()
        for order_id, order in self._orders.items():
            if order.open_wh:
                self.client.cancel(order_id)
        self.look_at_orders()

    def look_at_orders(self) -> None:
        """See what became of the home's orders, and hold back what it has offered or owes."""
        now = time.monotonic()
        for answer in self.client.my_orders():
            known = self._orders.setdefault(answer["id"], _Standing(answer["type"], 0, 0, 0, now))
            filled_wh = energy_wh(answer["filled_kwh"])
            if filled_wh > known.filled_wh:
                self._trader.filled(known.side)
            is_open = answer["status"] == "Created"
            known.open_wh = energy_wh(answer["remaining_kwh"]) if is_open else 0
            known.under_way_wh = energy_wh(answer["pending_kwh"])
            known.filled_wh = filled_wh
        self._hold()

    def collect(self) -> None:
        """Take in what neighbours delivered for the home's confirmed purchases."""
        for trade in self.client.my_trades():
            if trade["recipient_id"] == self.client.user_id and trade["status"] == "Confirmed":
                arrived_wh = self._wire.take(str(trade["id"]))
                if arrived_wh:
                    self.hardware.receive(arrived_wh)

    def _own_orders(self) -> list[OwnOrder]:
        now = time.monotonic()
        return [
            OwnOrder(
                order_id=order_id,
                side=order.side,
                open_wh=order.open_wh,
                under_way_wh=order.under_way_wh,
                filled_wh=order.filled_wh,
                age_s=now - order.since,
            )
            for order_id, order in self._orders.items()
        ]

    def _hold(self) -> None:
        orders = self._own_orders()
        unanswered_wh = sum(draft.energy_wh for draft in self._unanswered.values() if draft.side == "sell")

        def hold(books: EnergyBooks) -> None:
            books.held_wh = held_wh(orders, sold_wh=books.sold_wh) + unanswered_wh

        self.hardware.look(hold)

    def record(self) -> DeviceRecord:
        """What the device has on its disk; the device must have stopped."""
        if self.device is None or self._state_path is None:
            raise RuntimeError("the device was never connected")
        with closing(sqlite3.connect(self._state_path)) as state:
            rows = state.execute("SELECT id, state, energy_wh, delivered_wh FROM reservations").fetchall()
        return DeviceRecord(
            device_id=self.device.device_id,
            held_wh={trade: size for trade, status, size, _ in rows if status in ("locked", "delivering")},
            delivered_wh={trade: delivered for trade, _, _, delivered in rows if delivered},
        )
