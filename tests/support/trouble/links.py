"""A link that can fall silent, in a database's address; and how long an answer may take."""

import contextlib
import time
from collections.abc import Iterator

import psycopg

from local_market.chaos.links import Link


def through(link: Link, url: str) -> str:
    """The URL of the same database by way of the link."""
    return url.replace(f":{psycopg.conninfo.conninfo_to_dict(url)['port']}/", f":{link.port}/")


def port_of(url: str) -> int:
    return int(str(psycopg.conninfo.conninfo_to_dict(url)["port"]))


@contextlib.contextmanager
def at_most(seconds: float) -> Iterator[None]:
    began = time.monotonic()
    yield
    took_s = time.monotonic() - began
    assert took_s < seconds, f"it took {took_s:.1f} s"
