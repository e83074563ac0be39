"""The tools with which faults are made to happen.

Every fault is a block of code with a beginning, in which it is made to happen, and an end, which puts things right as
far as somebody would: a server is started again, a cut line repaired, gas bought. What it did to the market in between
is the market's to put right.
"""

import contextlib
import dataclasses
import random
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from local_market.chaos.hindrances import HINDRANCES, NotNow
from local_market.chaos.world import ChaosWorld
from local_market.parts.processes import Started, stop

Injector = Callable[[ChaosWorld, random.Random], AbstractContextManager[None]]


def kill(process: Started | None) -> None:
    """`kill -9` of a part. Raises NotNow for one that we did not start."""
    if process is None:
        raise NotNow("it is somebody else's")
    stop(dataclasses.replace(process, stop_signal=signal.SIGKILL))


@contextlib.contextmanager
def again_and_again(action: Callable[[], object], *, every_s: float) -> Iterator[None]:
    """Do something now, and repeat it for the length of a block; what is not possible once is done the next time."""
    action()
    ended = threading.Event()

    def repeat() -> None:
        while not ended.wait(every_s):
            with contextlib.suppress(*HINDRANCES):
                action()

    thread = threading.Thread(target=repeat, name="again and again", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
