"""A PostgreSQL server of a test's own, which may be killed."""

import contextlib
import signal
from pathlib import Path

import psutil
import psycopg

from energy_market.postgres.migrations import migrate
from local_market.parts.postgres import LocalPostgres as Server
from local_market.parts.postgres import start_postgres
from local_market.stack.stack import remove_state
from tests.support.market import chain_was_asked
from tests.support.owner import remember
from tests.support.places import CHECKOUT


class OwnServer:
    """A server that may be killed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server: Server = start_postgres(folder)
        remember(self.server)
        self.url = self.server.functions_url
        self.port = psycopg.conninfo.conninfo_to_dict(self.url)["port"]
        with psycopg.connect(self.server.url, autocommit=True) as conn:
            migrate(conn, CHECKOUT / "infra" / "migrations")
            chain_was_asked(conn)

    def kill(self) -> None:
        """All of its processes at once, as when the machine loses power."""
        assert self.server.process is not None
        postmaster = psutil.Process(self.server.process.pid)
        postmaster.send_signal(signal.SIGSTOP)  # nobody is born any more, and nobody's death is noticed
        for process in [*postmaster.children(recursive=True), postmaster]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.server.stop()

    def start_again(self) -> None:
        self.server = start_postgres(self.folder, port=int(str(self.port)))

    def is_killed_and_started_again(self) -> None:
        self.kill()
        self.start_again()

    def close(self) -> None:
        self.server.stop()
        remove_state(self.folder)
