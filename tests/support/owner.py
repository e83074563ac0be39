"""The owner's way into a test's database.

The product's code works there as the functions do, with their rights alone (`database_url`). What a test arranges
behind its back, or looks up about the server, it does as the owner.
"""

from typing import Final
from urllib.parse import urlsplit

from local_market.parts.postgres import LocalPostgres

_OWNERS: Final[dict[str, str]] = {}


def remember(server: LocalPostgres) -> None:
    """Learn who owns the databases of a server."""
    _OWNERS[_user(server.functions_url)] = _user(server.url)


def as_functions(server: LocalPostgres, database: str) -> str:
    """The functions' URL of one of a server's databases."""
    return f"{server.functions_url.rpartition('/')[0]}/{database}"


def as_owner(url: str) -> str:
    """The owner's URL of the database that the functions know as `url`, by whichever way that goes."""
    parts = urlsplit(url)
    return parts._replace(netloc=f"{_OWNERS[_user(url)]}@{parts.netloc.rpartition('@')[2]}").geturl()


def _user(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[0]
