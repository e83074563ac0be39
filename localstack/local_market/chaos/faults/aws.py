"""Faults of the functions, the loop and the local AWS."""

import contextlib
import logging
import random
import threading
from collections.abc import Iterator
from typing import Final

import psutil

from local_market.chaos.hindrances import NotNow
from local_market.chaos.world import UNPAID, ChaosWorld
from local_market.parts.processes import ServiceError

logger: Final = logging.getLogger("faults")
DEPLOY_TIMEOUT_S: Final = 300.0  # on a busy machine; else some twenty


@contextlib.contextmanager
def workers_killed(world: ChaosWorld, chance: random.Random) -> Iterator[None]:
    """`kill -9` of the functions' processes, whatever they are at: all of them, or about half."""
    world.moment(UNPAID)
    workers = psutil.Process(world.market.stack.aws.process.pid).children(recursive=True)
    if not workers:
        raise NotNow("no function is at work")
    share = chance.choice((0.5, 1.0))
    for worker in workers:
        if chance.random() < share:
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.kill()
    yield


@contextlib.contextmanager
def aws_paused(world: ChaosWorld, _chance: random.Random) -> Iterator[None]:
    """Everything that AWS does stands still: ticks are missed, requests wait, messages wait."""
    aws = psutil.Process(world.market.stack.aws.process.pid)
    aws.suspend()
    try:
        yield
    finally:
        aws.resume()


@contextlib.contextmanager
def loop_doubled(world: ChaosWorld, _chance: random.Random) -> Iterator[None]:
    """A second loop ticks beside the first, for up to two minutes."""
    world.loop.start_execution(stateMachineArn=world.market.deployment.state_machine_arn, input="{}")
    yield


@contextlib.contextmanager
def redeployed(world: ChaosWorld, _chance: random.Random) -> Iterator[None]:
    """Every function is deployed anew in the middle of trading. A deploy that meets other faults is rolled back."""
    done: list[str] = []

    def deploy() -> None:
        try:
            world.market.deploy_again({"RateLimitPerMinute": "999999"})
        except ServiceError as error:
            done.append(str(error))

    thread = threading.Thread(target=deploy, name="deploy", daemon=True)
    thread.start()
    yield
    thread.join(DEPLOY_TIMEOUT_S)
    if thread.is_alive():
        raise NotNow(f"the deploy does not end in {DEPLOY_TIMEOUT_S:.0f} s")
    for sentence in done:
        logger.warning("the deploy was rolled back: %s", sentence)
