"""Faults of the database."""

import contextlib
import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing
from typing import Final

import psycopg

from local_market.chaos.hindrances import NotNow, insist
from local_market.chaos.injecting import again_and_again, kill
from local_market.chaos.world import ChaosWorld
from local_market.parts.postgres import postgres_user, start_postgres

MOST_CLIENTS: Final = 300  # more than the server takes


@contextlib.contextmanager
def database_killed(world: ChaosWorld, _chance: random.Random) -> Iterator[None]:
    """`kill -9` of the postmaster and all its backends; it recovers from its log when it is started again."""
    with world.turn("database"):
        port = int(world.database.url.rpartition(":")[2].partition("/")[0])
        kill(world.database.process)
        try:
            yield
        finally:
            world.database = start_postgres(world.folder, port=port)


@contextlib.contextmanager
def database_connections_dropped(world: ChaosWorld, _chance: random.Random) -> Iterator[None]:
    """The server ends every session of the functions, in the middle of whatever it does."""

    def drop() -> None:
        with world.connect() as conn:
            conn.execute(_END_SESSIONS)

    with again_and_again(drop, every_s=0.3):
        yield


_SESSIONS: Final = """
    SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND application_name <> 'chaos'
"""
_END_SESSIONS: Final = f"SELECT pg_terminate_backend(pid) FROM ({_SESSIONS}) theirs"


@contextlib.contextmanager
def database_full_of_clients(world: ChaosWorld, _chance: random.Random) -> Iterator[None]:
    """Others take every connection that the server has, those of the functions too."""
    with contextlib.ExitStack() as held:
        first = held.enter_context(closing(world.connect()))
        first.execute(_END_SESSIONS)
        for _ in range(MOST_CLIENTS):
            try:
                held.enter_context(closing(world.connect()))
            except psycopg.OperationalError:
                break
        yield


@contextlib.contextmanager
def database_rows_locked(world: ChaosWorld, _chance: random.Random) -> Iterator[None]:
    """Somebody's transaction holds what a tick and a sweep write: they take longer than the loop's five seconds."""
    # Closed rather than committed: a server that another fault has restarted meanwhile let go of the rows by itself.
    with closing(world.connect()) as conn:
        conn.execute("BEGIN")
        conn.execute("SET LOCAL lock_timeout = '3s'")
        conn.execute("SELECT FROM transactions WHERE status IN ('Pending', 'Locked', 'Submitted') FOR UPDATE")
        conn.execute("SELECT FROM open_orders FOR UPDATE")
        yield


@contextlib.contextmanager
def database_disk_full(world: ChaosWorld, _chance: random.Random) -> Iterator[None]:
    """The functions' sessions may write to no file: they fail as on a full disk, and at the log the server starts anew.

    By a limit on the sessions' processes, which later ones do not have; the error is EFBIG, not ENOSPC.
    """
    limiter, user = shutil.which("prlimit"), postgres_user()
    if limiter is None:
        raise NotNow("files cannot be limited here")

    def limit(most: str) -> None:
        with world.connect() as conn:
            pids = [row[0] for row in conn.execute(_SESSIONS)]
        for pid in pids:
            # As the server's own user: even root may not limit another's processes everywhere. The hard limit stays.
            subprocess.run(
                [limiter, "--pid", str(pid), f"--fsize={most}:"],
                user=None if user is None else user[0],
                group=None if user is None else user[1],
                capture_output=True,
                check=False,  # it may just have ended
            )

    with world.turn("database"):
        try:
            with again_and_again(lambda: limit("0"), every_s=0.3):
                yield
        finally:
            insist(lambda: limit("unlimited"))
