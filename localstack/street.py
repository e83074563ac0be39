"""The simulated community at work: each home with its wallet, its device and a thread of its own.

A home uses only what a stranger's home could: the public API, MQTT with its own certificate, and the chain. The energy
itself goes over the `Wire`, which stands for the copper in the street: what a donor feeds in for a trade, that trade's
recipient takes out.
"""

import datetime as dt
import logging
import sqlite3
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from client import ApiError, EndedError, MarketClient, RegisteredDevice, UnreachableError, energy_wh
from energy_device.agent import DeviceAgent, Network
from energy_device.config import DeviceConfig
from eth_account import Account
from homes import Draft, EnergyBooks, Household, OwnOrder, Side, Trader, held_wh
from profiles import Profiles
from reconcile import DeviceRecord
from wallet import TransactionFailedError, Wallet, call_data

from energy_market.evm.rpc import ChainError

T = TypeVar("T")
logger: Final = logging.getLogger("community")

START: Final = dt.datetime(2025, 5, 21, 12, 0)  # noqa: DTZ001 - the local clock of the place; a clear Wednesday in May
ROUND_S: Final = 2.5  # each home looks at its orders this often
PATIENCE_S: Final = 20.0  # an order that stands longer is cancelled and placed anew, at a better price for the others
AHEAD_S: Final = 30.0  # a home cares for what it will need in the next half minute of our time ...
AHEAD_AT_LEAST: Final = dt.timedelta(hours=1)  # ... but looks ahead in its own
AHEAD_AT_MOST: Final = dt.timedelta(hours=4)
FEED_IN_W: Final = 5_000  # power of a home's inverter towards the street
REGISTRARS: Final = 2  # more at a time only means more cold starts at a time
CONNECT_TIMEOUT_S: Final = 30.0
STOP_TIMEOUT_S: Final = 60.0
JOIN_TIMEOUT_S: Final = 5.0
DEPOSIT_TOKENS: Final = 1_000
GAS_WEI: Final = 10**17
REMEMBERED_ERRORS: Final = 50


class StreetError(Exception):
    """The community cannot be brought up: a sentence for whoever typed `make run`."""


class SimulatedClock:
    """Time on the street: stands at `start` until it is set going, then runs `speed` times as fast as ours."""

    def __init__(self, start: dt.datetime, *, speed: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Standing."""
        if speed <= 0:
            raise ValueError("time must go forward")
        self.start = start
        self.speed = speed
        self._monotonic = monotonic
        self._began: float | None = None

    def go(self) -> None:
        """From now on time passes."""
        self._began = self._monotonic()

    def now(self) -> dt.datetime:
        """The time on the street, in whole seconds."""
        passed_s = 0.0 if self._began is None else self._monotonic() - self._began
        return self.start + dt.timedelta(seconds=int(passed_s * self.speed))


class Wire:
    """The copper in the street: watt-hours fed in for a trade, until its recipient takes them out. Thread-safe."""

    def __init__(self) -> None:
        """An empty wire."""
        self._guard = threading.Lock()
        self._fed_wh: dict[str, int] = {}
        self._taken_wh: dict[str, int] = {}

    def feed(self, trade_id: str, fed_wh: int) -> None:
        """Feed in energy for a trade."""
        with self._guard:
            self._fed_wh[trade_id] = self._fed_wh.get(trade_id, 0) + fed_wh

    def take(self, trade_id: str) -> int:
        """Take out what has arrived for a trade since the last time."""
        with self._guard:
            new_wh = self._fed_wh.get(trade_id, 0) - self._taken_wh.get(trade_id, 0)
            self._taken_wh[trade_id] = self._taken_wh.get(trade_id, 0) + new_wh
            return new_wh

    def fed_wh(self, trade_id: str) -> int:
        """What was fed in for a trade in all."""
        with self._guard:
            return self._fed_wh.get(trade_id, 0)

    def under_way_wh(self) -> int:
        """What was fed in and not taken out, of all trades."""
        with self._guard:
            return sum(self._fed_wh.values()) - sum(self._taken_wh.values())


class HomeHardware:
    """A home's battery, meter and inverter, as its device sees them (an `EnergySource`). Thread-safe."""

    def __init__(self, books: EnergyBooks, *, clock: SimulatedClock, wire: Wire) -> None:
        """`books` belong to this object from here on: use `look` to see them."""
        self._guard = threading.Lock()
        self._books = books
        self._clock = clock
        self._wire = wire
        self._feeding: tuple[str, dt.datetime] | None = None

    def look(self, read: Callable[[EnergyBooks], T]) -> T:
        """Let `read` see, or change, the books as they are at this moment."""
        with self._guard:
            self._books.advance(self._clock.now())
            return read(self._books)

    def receive(self, energy_wh: int) -> None:
        """Take energy in from the street."""
        self.look(lambda books: books.receive(energy_wh))

    def available_wh(self) -> int:
        """What may be sold, promised energy included."""
        return self.look(lambda books: books.sellable_wh)

    def battery_level(self) -> float:
        """How full the battery is, in percent."""
        return float(self.look(lambda books: books.battery_percent))

    def consumption_wh(self) -> int:
        """The meter."""
        return self.look(lambda books: books.used_wh)

    def power_w(self) -> int:
        """What the home draws now."""
        return self.look(lambda books: books.power_w)

    def deliver(self, transaction_id: str, energy_wh: int) -> int:
        """Feed what the inverter can since the last call; the watt-hours fed for this trade in all."""
        with self._guard:
            now = self._clock.now()
            self._books.advance(now)
            fed_wh = self._wire.fed_wh(transaction_id)
            if self._feeding is None or self._feeding[0] != transaction_id:
                self._feeding = (transaction_id, now)
                return fed_wh
            possible_wh = int((now - self._feeding[1]).total_seconds() * FEED_IN_W / 3600)
            step_wh = self._books.deliver(min(possible_wh, energy_wh - fed_wh))
            if step_wh:
                self._feeding = (transaction_id, now)
                self._wire.feed(transaction_id, step_wh)
            return fed_wh + step_wh

    def stop(self, transaction_id: str) -> int:
        """Feed no more for this trade; the watt-hours fed for it in all."""
        with self._guard:
            if self._feeding is not None and self._feeding[0] == transaction_id:
                self._feeding = None
            return self._wire.fed_wh(transaction_id)


class RunningDevice(Protocol):
    """A home's device at work, wherever it runs."""

    def wait_ready(self, timeout_s: float) -> bool:
        """Wait until it is connected and hears its commands."""

    def stop(self) -> None:
        """End it in order, so that its state file may be read. Raises TimeoutError."""


class Devices(Protocol):
    """What starts devices, and ends with them."""

    def start(self, config: DeviceConfig, hardware: HomeHardware, *, name: str) -> RunningDevice:
        """Start the device of the home of this name."""

    def close(self) -> None:
        """Let go of what the devices shared; all of them must have stopped. Raises TimeoutError."""


class DevicesHere:
    """Devices as agents in this process."""

    def __init__(self) -> None:
        """No device yet."""
        self._network = Network()

    def start(self, config: DeviceConfig, hardware: HomeHardware, *, name: str) -> RunningDevice:
        """Start an agent."""
        logger.info("the device of %s is %s", name, config.device_id)
        agent = DeviceAgent(config=config, source=hardware, network=self._network)
        agent.start()
        return agent

    def close(self) -> None:
        """End the agents' threads."""
        self._network.close()


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


class Street:
    """All homes together."""

    def __init__(self, households: Sequence[Household], *, api_url: str, clock: SimulatedClock) -> None:
        """Nothing is sent yet."""
        self.clock = clock
        self.wire = Wire()
        profiles = Profiles.load()
        self.homes = [
            Home(
                household,
                api_url=api_url,
                hardware=HomeHardware(
                    EnergyBooks(household=household, profiles=profiles, at=clock.start), clock=clock, wire=self.wire
                ),
                wire=self.wire,
                clock=clock,
            )
            for household in households
        ]
        self._devices: Devices | None = None
        self._stop = threading.Event()

    def register(self) -> None:
        """Register every home and its device, over the public API. Raises StreetError."""
        self._all(Home.register, "register")

    def fund(self, *, rpc_url: str, deployer_key: str, tokens: int = DEPOSIT_TOKENS) -> None:
        """Give every wallet test tokens and gas, as a faucet would, and let it deposit them. Raises StreetError."""
        chain = self.homes[0].client.chain()
        faucet = Wallet(Account.from_key(deployer_key), rpc_url=rpc_url, chain_id=chain.chain_id)
        try:
            with closing(faucet):
                sent = []
                for home in self.homes:
                    address = home.client.account.address
                    amount = tokens * 10**chain.token_decimals
                    mint = call_data("mint(address,uint256)", address, amount)
                    sent += [faucet.send(address, value_wei=GAS_WEI), faucet.send(chain.token_contract, data=mint)]
                for transaction_hash in sent:
                    faucet.wait(transaction_hash)
        except (ChainError, TransactionFailedError) as error:
            raise StreetError(f"The homes' wallets could not be given tokens: {error}") from error
        self._all(lambda home: home.deposit(rpc_url=rpc_url, tokens=tokens), "deposit")

    def connect(self, *, ca: bytes, folder: Path, devices: Devices | None = None) -> None:
        """Connect every device with its own certificate; the devices run in this process unless told otherwise.

        Raises StreetError.
        """
        self._devices = running = devices if devices is not None else DevicesHere()
        self._all(lambda home: home.connect(running, ca=ca, folder=folder), "connect")
        until = time.monotonic() + CONNECT_TIMEOUT_S
        for home in self.homes:
            if home.agent is None or not home.agent.wait_ready(max(0.1, until - time.monotonic())):
                raise StreetError(f"The device of {home.household.name} did not connect in {CONNECT_TIMEOUT_S:.0f} s.")

    def start(self) -> None:
        """Let time pass and the homes trade, spread over a round so that they do not all ask at once."""
        self.clock.go()
        for number, home in enumerate(self.homes):
            home.start(self._stop, delay_s=ROUND_S * number / len(self.homes))

    def stop_trading(self) -> list[str]:
        """No new orders, and cancel the open ones; the names of homes that did not end in time."""
        self._stop.set()
        until = time.monotonic() + STOP_TIMEOUT_S
        return [home.household.name for home in self.homes if not home.join(max(0.0, until - time.monotonic()))]

    def collect(self) -> None:
        """Let every home take in what was delivered for it. Raises ApiError, UnreachableError."""
        for home in self.homes:
            home.collect()

    def disconnect(self) -> list[str]:
        """End what the homes still do, stop the devices and their threads; a sentence for each that would not end."""
        self._stop.set()
        for home in self.homes:
            home.client.end()
        trouble = []
        for home in self.homes:
            if home.join(JOIN_TIMEOUT_S):
                home.client.close()
            else:
                trouble.append(f"{home.household.name} does not end.")
            if home.agent is not None:
                try:
                    home.agent.stop()
                except TimeoutError as error:
                    trouble.append(str(error))
        if self._devices is not None:
            devices, self._devices = self._devices, None
            try:
                devices.close()
            except TimeoutError as error:
                trouble.append(str(error))
        return trouble

    def differences(self) -> list[str]:
        """Where the homes' own books do not add up, one line each; call it after `disconnect`."""
        found = []
        for home in self.homes:
            unbalanced_wh, sold_wh = home.hardware.look(lambda books: (books.unbalanced_wh(), books.sold_wh))
            if unbalanced_wh:
                found.append(f"the books of {home.household.name} are off by {unbalanced_wh} Wh")
            delivered_wh = sum(home.record().delivered_wh.values())
            if sold_wh != delivered_wh:
                found.append(f"{home.household.name} fed in {sold_wh} Wh, but its device delivered {delivered_wh} Wh")
        if self.wire.under_way_wh():
            found.append(f"{self.wire.under_way_wh()} Wh were fed in that nobody bought")
        return found

    @property
    def errors(self) -> int:
        """What went wrong at the homes so far."""
        return sum(home.errors for home in self.homes)

    def recent_errors(self) -> list[str]:
        """The homes' last errors."""
        return [sentence for home in self.homes for sentence in home.recent_errors]

    def _all(self, work: Callable[[Home], Any], name: str) -> None:
        """Do something for every home, a few at a time."""
        with ThreadPoolExecutor(REGISTRARS, thread_name_prefix=name) as pool:
            for home, done in [(home, pool.submit(work, home)) for home in self.homes]:
                error = done.exception()
                if error is not None:
                    raise StreetError(f"{home.household.name} could not {name}: {error}") from error
