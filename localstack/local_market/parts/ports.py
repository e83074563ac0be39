"""Ports of the local stack: given ones are checked, others are free ones."""

import os
import random
import socket
from collections.abc import Callable
from typing import TypeVar

from local_market.parts.processes import ServiceError

Part = TypeVar("Part")

STARTS = 3
"""How often a part is tried on a free port: another program may take the port before the part does."""


def port_from(variable: str) -> int | None:
    """Read a port from the environment; None if it is not given, an error if it is none or in use."""
    value = os.environ.get(variable, "")
    if not value:
        return None
    if not value.isdecimal() or not 0 < int(value) < 65536:  # noqa: PLR2004
        raise ServiceError(f"{variable} is {value!r}, which is no port.")
    port = int(value)
    if not is_free(port):
        raise ServiceError(f"Port {port} is in use: name another one with {variable}.")
    return port


def free_port() -> int:
    """Find a port that nobody listens on, below those that the system gives to outgoing connections."""
    for _ in range(200):
        port = random.randrange(20_000, 32_000)  # noqa: S311
        if is_free(port):
            return port
    raise ServiceError("No free port was found between 20000 and 32000.")


def is_free(port: int) -> bool:
    """Whether a port could be listened on now, on the loopback and on all interfaces."""
    for host in ("127.0.0.1", ""):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                return False
    return True


def on_some_port(port: int | None, attempt: Callable[[int], Part]) -> Part:
    """Start a part on the given port, or on free ones until it succeeds."""
    if port is not None:
        return attempt(port)
    for tried in range(1, STARTS + 1):
        chosen = free_port()
        try:
            return attempt(chosen)
        except ServiceError:
            # Only a port that somebody else took meanwhile is worth another try.
            if tried == STARTS or is_free(chosen):
                raise
    raise AssertionError


def answers(port: int) -> bool:
    """Whether somebody accepts connections on a port of this machine."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False
