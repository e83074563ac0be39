"""What `make run` and `make chaos` have in common: settings, signals, one at a time in a checkout, fresh state."""

import contextlib
import fcntl
import logging
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import psycopg

from energy_market.evm.rpc import ChainError
from energy_market_client.errors import ApiError, UnreachableError
from local_market.community.street import StreetError
from local_market.parts.places import CHECKOUT, LOCAL
from local_market.parts.processes import ServiceError, stop_orphans
from local_market.stack.stack import remove_state
from local_market.watching.display import say

FOLDER: Final = LOCAL / "run"
LOGS: Final = LOCAL / "logs"
DEFAULT_SPEED: Final = 320.0  # simulated seconds in a second: noon to evening in 90 seconds
MOST_HOMES: Final = 100


class RunError(Exception):
    """What is wrong, as a sentence for whoever typed `make run` or `make chaos`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the environment asks for."""

    homes: int
    duration_s: float | None
    speed: float
    seed: int

    @classmethod
    def from_environment(cls) -> Self:
        """Raises RunError for what makes no sense."""
        homes = _number("HOMES", 10.0)
        duration_s = _number("DURATION", 0.0)
        speed = _number("SPEED", DEFAULT_SPEED)
        if not 2 <= homes <= MOST_HOMES or homes != int(homes):  # noqa: PLR2004 - it takes two to trade
            raise RunError(f"HOMES must be a whole number from 2 to {MOST_HOMES}.")
        if duration_s < 0 or not 0 < speed <= 3600:  # noqa: PLR2004 - an hour a second leaves no time to trade
            raise RunError("DURATION must be a number of seconds, SPEED above 0 and at most 3600.")
        return cls(homes=int(homes), duration_s=duration_s or None, speed=speed, seed=int(_number("SEED", 1.0)))


def _number(name: str, default: float) -> float:
    text = os.environ.get(name, "")
    try:
        value = float(text) if text else default
    except ValueError:
        raise RunError(f"{name} is {text!r}, which is no number.") from None
    if value != value or value in (float("inf"), float("-inf")):  # noqa: PLR0124 - NaN
        raise RunError(f"{name} is {text!r}, which is no number.")
    return value


class Interrupts:
    """What Ctrl-C, SIGTERM and SIGHUP do: break off the set-up; end the trading; skip the waiting; and then nothing."""

    def __init__(self) -> None:
        """From here on the signals are ours."""
        self.ended = threading.Event()
        self._breaks_off = True
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._received)

    def _received(self, _number: int, _frame: object) -> None:
        again = self.ended.is_set()
        self.ended.set()
        if self._breaks_off or again:
            raise KeyboardInterrupt

    def trading(self) -> None:
        """From here on the first signal ends the trading in order; one more breaks off."""
        self._breaks_off = False

    def stopping(self) -> None:
        """From here on nothing may be broken off: what runs is being stopped, which takes seconds at most."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)


def play(
    command: str,
    run: Callable[[Settings, Interrupts], int],
    *,
    first: Callable[[], None],
    logs_of: Callable[[Settings | None], Path],
) -> int:
    """Run once, alone in this checkout, from fresh state to none; the exit status. A failure becomes one sentence.

    `first` may refuse to begin: it raises RunError. `logs_of`: where the logs stay, of a run or of all.
    """
    interrupts = Interrupts()
    logs = logs_of(None)
    try:
        first()
        settings = Settings.from_environment()
        logs = logs_of(settings)
        with only_one(), state(logs):
            return run(settings, interrupts)
    except (RunError, ServiceError, StreetError, ChainError, psycopg.Error, ApiError, UnreachableError) as error:
        say(f"{command}: {error}\nLogs are in {logs.relative_to(CHECKOUT)}.")
        return 1
    except KeyboardInterrupt:
        say("Broken off; nothing is left running.")
        return 130


@contextlib.contextmanager
def only_one() -> Iterator[None]:
    """Refuse to run twice in one checkout at the same time. Raises RunError."""
    LOCAL.mkdir(exist_ok=True)
    with (LOCAL / "run.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError("`make run` or `make chaos` is running in this checkout already.") from None
        yield


@contextlib.contextmanager
def state(logs: Path) -> Iterator[None]:
    """Begin with fresh state, without orphans; at the end nothing is left but the logs, in a folder of their own."""
    for name in stop_orphans():
        say(f"Stopped {name}, which an earlier run left behind.")
    remove_state(FOLDER)
    (FOLDER / "logs").mkdir(parents=True)
    handler = logging.FileHandler(FOLDER / "logs" / "community.log")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    logging.getLogger().setLevel(logging.INFO)
    try:
        yield
    finally:
        handler.close()
        logging.getLogger().removeHandler(handler)
        shutil.rmtree(logs, ignore_errors=True)
        logs.parent.mkdir(parents=True, exist_ok=True)
        (FOLDER / "logs").rename(logs)
        remove_state(FOLDER)
