"""When which fault of `make chaos` happens, and the running of such a schedule."""

import contextlib
import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from local_market.chaos.hindrances import HINDRANCES
from local_market.chaos.kinds import FIRST, KINDS
from local_market.chaos.world import ChaosWorld

logger: Final = logging.getLogger("faults")
FIRST_S: Final = 4.0  # the first orders come in
GAP_S: Final = (2.0, 4.5)  # from one fault's beginning to the next one's


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault of a schedule. `chance` seeds whatever it leaves open: which device, how deep."""

    at_s: float
    kind: str
    lasts_s: float
    chance: int


def schedule(seed: int, duration_s: float) -> tuple[Fault, ...]:
    """The faults of a run, in order; a function of seed and duration and nothing else. None lasts beyond the duration.

    Kinds are drawn like cards: each once before any comes again, those of `FIRST` before the others, so that even a
    short run has them.
    """
    chance = random.Random(seed)  # noqa: S311 - to be the same each time is its purpose
    faults: list[Fault] = []
    cards = [*_shuffled(chance, FIRST), *_shuffled(chance, KINDS.keys() - FIRST)]
    at_s = FIRST_S
    while at_s < duration_s:
        if not cards:
            cards = _shuffled(chance, {name for name, kind in KINDS.items() if not kind.once})
        name = cards.pop(0)
        kind = KINDS[name]
        lasts_s = min(chance.uniform(*kind.lasts_s), duration_s - at_s)
        drawn = Fault(at_s=round(at_s, 2), kind=name, lasts_s=round(lasts_s, 2), chance=chance.getrandbits(32))
        if duration_s - at_s >= kind.needs_s:
            faults.append(drawn)
        at_s += chance.uniform(*GAP_S)
    return tuple(faults)


def _shuffled(chance: random.Random, names: set[str] | frozenset[str]) -> list[str]:
    cards = sorted(names)
    chance.shuffle(cards)
    return cards


class Faults:
    """A schedule at work: each fault on a thread of its own, from its time on, for as long as it lasts."""

    def __init__(self, faults: tuple[Fault, ...], world: ChaosWorld, *, say: Callable[[str], None]) -> None:
        """Nothing has happened yet; `say` is told of each."""
        self._faults = faults
        self._world = world
        self._say = say
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []
        self._guard = threading.Lock()
        self.counts: dict[str, int] = {}
        self.trouble: list[str] = []

    def start(self) -> None:
        """From now on things go wrong."""
        self._began = time.monotonic()
        self._threads = [
            threading.Thread(target=self._happen, args=(fault,), name=f"{fault.kind} at {fault.at_s} s", daemon=True)
            for fault in self._faults
        ]
        for thread in self._threads:
            thread.start()

    def end(self, *, timeout_s: float) -> None:
        """No new faults, and an end to those that last; `trouble` has what could not be put right again."""
        self._over.set()
        until = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
            if thread.is_alive():
                self.trouble.append(f"the fault {thread.name} does not end")

    def _happen(self, fault: Fault) -> None:
        if self._over.wait(max(0.0, self._began + fault.at_s - time.monotonic())):
            return
        name = f"+{fault.at_s:.0f} s {fault.kind}"
        try:
            with contextlib.ExitStack() as undo:
                try:
                    undo.enter_context(KINDS[fault.kind].inject(self._world, random.Random(fault.chance)))  # noqa: S311
                except HINDRANCES as error:
                    self._say(f"{name}: not possible now: {str(error).strip() or type(error).__name__}")
                    return
                with self._guard:
                    self.counts[fault.kind] = self.counts.get(fault.kind, 0) + 1
                self._say(f"{name} for {fault.lasts_s:.1f} s" if fault.lasts_s else name)
                self._over.wait(fault.lasts_s)
        except Exception as error:
            logger.exception("%s", name)
            self.trouble.append(f"{name} could not be brought about, or not be put right: {error!r}")
