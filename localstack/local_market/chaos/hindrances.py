"""What may be in a fault's way: other faults, which are at work at the same time."""

import time
from collections.abc import Callable
from typing import Final

import psutil
import psycopg
from botocore.exceptions import BotoCoreError, ClientError

from energy_market.evm.rpc import ChainError
from energy_market_client.errors import ApiError, UnreachableError
from energy_market_client.wallet import TransactionFailedError

INSIST_S: Final = 60.0


class NotNow(Exception):
    """A fault cannot be made to happen at this moment: why, as a sentence."""


HINDRANCES: Final = (
    NotNow,
    psycopg.Error,
    ChainError,
    TransactionFailedError,
    BotoCoreError,
    ClientError,
    ApiError,
    UnreachableError,
    OSError,
    psutil.Error,
)
"""What a fault's beginning may raise when other faults are in its way."""


def insist(action: Callable[[], object]) -> None:
    """Do what must be done at the end of a fault, though others may be in its way. Raises what was last raised."""
    until = time.monotonic() + INSIST_S
    while True:
        try:
            action()
        except HINDRANCES:
            if time.monotonic() > until:
                raise
            time.sleep(1)
        else:
            return
