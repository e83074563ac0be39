"""PgBouncer in front of a test's server, in either of its modes, with few sessions for many clients."""

import contextlib
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

import psycopg

from local_market.parts.ports import free_port
from local_market.parts.postgres import postgres_user
from local_market.parts.processes import Started, plain_environment, start, stop, wait_until
from tests.support import tools
from tests.support.owner import as_owner

Mode = Literal["session", "transaction"]
MODES: Final[tuple[Mode, ...]] = ("session", "transaction")


class Pooler:
    """A PgBouncer; `url` leads through it to the database that the functions know as the given one."""

    def __init__(self, database_url: str, mode: Mode, **settings: str | int) -> None:
        self._program = tools.pgbouncer()
        server = urlsplit(database_url)
        self.port = free_port()
        self.url = server._replace(netloc=f"{server.netloc.rpartition('@')[0]}@127.0.0.1:{self.port}").geturl()
        self._user = postgres_user()
        # As PostgreSQL it refuses root, and its user can't look into root's home.
        self._folder = Path(tempfile.mkdtemp(prefix="pgbouncer-", dir="/var/tmp" if self._user else None))  # noqa: S108
        options: dict[str, str | int] = {
            "listen_addr": "127.0.0.1",
            "listen_port": self.port,
            "unix_socket_dir": "",
            "auth_type": "scram-sha-256",
            "auth_file": str(self._folder / "users"),
            "pool_mode": mode,
            "default_pool_size": 2,
            "max_client_conn": 100,
            **settings,
        }
        (self._folder / "pgbouncer.ini").write_text(
            f"[databases]\n* = host=127.0.0.1 port={server.port}\n[pgbouncer]\n"
            + "".join(f"{name} = {value}\n" for name, value in options.items())
        )
        (self._folder / "users").write_text(
            "".join(f'"{parts.username}" "{parts.password}"\n' for parts in (server, urlsplit(as_owner(database_url))))
        )
        if self._user is not None:
            for path in (self._folder, *self._folder.iterdir()):
                os.chown(path, *self._user)
        self._process: Started | None = None
        self.start()

    def start(self) -> None:
        log = self._folder / "log"
        self._process = start(
            "pgbouncer",
            [self._program, self._folder / "pgbouncer.ini"],
            log=log,
            environment=plain_environment(),
            working_folder=self._folder,
            user=self._user,
            stop_signal=signal.SIGTERM,  # at once: its clients are cut off
            folders=[self._folder],
        )
        wait_until(self._answers, process=self._process, log=log, timeout_s=10)

    def stop(self) -> None:
        if self._process is not None:
            stop(self._process)
            self._process = None

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self._folder)

    @contextlib.contextmanager
    def sessions_taken(self, number: int) -> Iterator[None]:
        """Somebody has so many of the pooler's sessions with the server, in transactions that do not end."""
        with contextlib.ExitStack() as stack:
            for _ in range(number):
                conn = stack.enter_context(psycopg.connect(self.url))
                stack.callback(conn.rollback)
                conn.execute("SELECT 1")
            yield

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.url, connect_timeout=2).close()
        except psycopg.OperationalError:
            time.sleep(0.05)
            return False
        return True
