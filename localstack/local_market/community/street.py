"""The simulated community at work: each home with its wallet, its device and a thread of its own.

A home uses only what a stranger's home could: the public API, MQTT with its own certificate, and the chain. The energy
itself goes over the `Wire`, which stands for the copper in the street: what a donor feeds in for a trade, that trade's
recipient takes out.
"""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from eth_account import Account

from energy_market.evm.rpc import ChainError
from energy_market_client.wallet import TransactionFailedError, Wallet, call_data
from local_market.community.clock import SimulatedClock
from local_market.community.devices import Devices, DevicesHere
from local_market.community.energy_books import EnergyBooks
from local_market.community.hardware import HomeHardware, Wire
from local_market.community.home import ROUND_S, Home
from local_market.community.household import Household
from local_market.community.profiles import Profiles

REGISTRARS: Final = 2  # more at a time only means more cold starts at a time
CONNECT_TIMEOUT_S: Final = 30.0
STOP_TIMEOUT_S: Final = 60.0
JOIN_TIMEOUT_S: Final = 5.0
DEPOSIT_TOKENS: Final = 1_000
GAS_WEI: Final = 10**17


class StreetError(Exception):
    """The community cannot be brought up: a sentence for whoever typed `make run`."""


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
