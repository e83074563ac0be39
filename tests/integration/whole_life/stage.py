"""Where lives are played: one database and one chain for all of them, put back to the beginning before each."""

from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import psycopg
from eth_account.signers.local import LocalAccount
from psycopg import Connection, sql

from energy_market.evm.books import Books
from energy_market.evm.contract import Contract
from energy_market.evm.ledger import Ledger
from local_market.parts.postgres import LocalPostgres as Server
from tests.integration.whole_life.clock import install, set_clock, url_with_clock
from tests.integration.whole_life.disturbed import Disturbance, DisturbedDatabase, DisturbedLedger
from tests.support.chain.world import CHAIN_ID, NANO, World
from tests.support.owner import as_functions, as_owner
from tests.support.places import TEMPLATE

RICH_NANO, POOR_NANO = 10**9, 3 * 10**7
AVAILABLE_WH: Final = 600
FIRST_SEQ: Final = 100
DEADLINE_S: Final = 60.0
FRESH_BLOCKS: Final = 8  # more than a sweep looks back
GAS_MONEY: Final = hex(100 * 10**18)
_LOCK_TIMEOUT = "200ms"
"""Who acts while another process is stopped waits for that one's locks in vain."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """A user with a wallet, and the donor device of whoever has one."""

    id: UUID
    account: LocalAccount
    device: UUID | None


class Stage:
    """Two homes with a device each, two buyers, one of whom is poor. Everything is real but time and the devices."""

    def __init__(self, server: Server, node: str) -> None:
        self._server = server
        self._name = "whole_life"
        with psycopg.connect(server.url, autocommit=True) as conn:
            conn.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(self._name), sql.Identifier(TEMPLATE))
            )
        plain_url = as_functions(server, self._name)
        with psycopg.connect(as_owner(plain_url), autocommit=True) as conn:
            install(conn)
        url = url_with_clock(plain_url)
        self.conn = psycopg.connect(as_owner(url), autocommit=True)  # the test's own view
        self._tables = [
            table
            for (table,) in self.conn.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
            if table not in _STAYS
        ]
        self.world = World(url, node)
        self.chain = self.world.chain
        self.rpc = self.chain.rpc
        self.disturbance = Disturbance()
        self.database = DisturbedDatabase(url, self.disturbance)
        self.ledger = self.world.ledger_of(DisturbedLedger)
        self.ledger.disturbance = self.disturbance
        self.other_database = DisturbedDatabase(url_with_clock(plain_url, lock_timeout=_LOCK_TIMEOUT), Disturbance())
        self.other_ledger: Ledger = self.world.ledger
        self.books = Books(
            self.rpc,
            chain_id=CHAIN_ID,
            contract=self.chain.settlement.address,
            token=self.chain.token.address,
            token_decimals=18,
        )
        self.sellers = [self._person(RICH_NANO, with_device=True) for _ in range(2)]
        self.buyers = [self._person(tokens_nano, with_device=False) for tokens_nano in (RICH_NANO, POOR_NANO)]
        self.people = [*self.buyers, *self.sellers]
        self.rpc.call("anvil_autoImpersonateAccount", True)  # noqa: FBT003 -- JSON
        self.rpc.call("anvil_setBlockTimestampInterval", 1)
        self.world.hold()
        self.world.mine(1)
        self.first_block = self.chain.height()
        self._snapshot = self.rpc.call("evm_snapshot")

    def _person(self, tokens_nano: int, *, with_device: bool) -> Person:
        account = self.chain.buyer(tokens_nano * NANO)
        market = self.world.market
        user = market.user()
        self.world.sql("UPDATE users SET wallet_address = %s WHERE id = %s", account.address, user)
        return Person(id=user, account=account, device=market.device(user) if with_device else None)

    def begin_again(self) -> int:
        """Nothing has happened yet; the time, in Unix seconds."""
        self.rpc.start_deadline(DEADLINE_S)
        self.rpc.call("anvil_dropAllTransactions")
        assert self.rpc.call("evm_revert", self._snapshot)
        self._snapshot = self.rpc.call("evm_snapshot")
        # The node keeps the states of the latest few hundred blocks that it ever made: after so many lives none of
        # those before the snapshot, to which a sweep would look back.
        self.world.mine(FRESH_BLOCKS)
        now_s = self.chain.time()
        set_clock(self.conn, now_s)
        with self.conn.transaction():
            self.conn.execute("SET LOCAL session_replication_role = replica")  # no triggers: events may be deleted
            for table in self._tables:
                self.conn.execute(sql.SQL("DELETE FROM {}").format(sql.Identifier(table)))
            self.conn.execute(
                """
                UPDATE iot_devices SET status = 'Online', last_ping = now(), available_wh = %s, status_seq = %s,
                       available_seq = %s, available_at = now(),
                       presence_session = NULL, presence_ms = NULL, silent_since = NULL, reported_locks = '{}',
                       status_heard_at = NULL, waits_because = NULL, failures = 0, failed_at = NULL, failed_wh = 0,
                       paused_until = NULL
                """,
                (AVAILABLE_WH, FIRST_SEQ, FIRST_SEQ),
            )
            self.conn.execute("UPDATE device_certificates SET heard_at = now()")
            self.conn.execute(
                "INSERT INTO events (entity, entity_id, to_status) SELECT 'device', id, status FROM iot_devices"
            )
            self.conn.execute("SELECT setval('simulated.instants', 1)")
        return now_s

    def close(self) -> None:
        self.world.go_on()
        self.database.close()
        self.other_database.close()
        self.conn.close()
        self.world.close()
        with psycopg.connect(self._server.url, autocommit=True) as conn:
            conn.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(self._name)))

    def transact(self, person: Person, contract: Contract, function: str, *arguments: object) -> None:
        """Have somebody call a contract, in the next block; nobody says that it does what he wants."""
        self.send(person.account.address, contract.address, contract.artifact.call(function, *arguments))

    def send(self, sender: str, to: str, data: bytes = b"", *, fields: dict[str, str] | None = None) -> str:
        """Hand in a transaction of anybody's: the node signs for all."""
        call = {"from": sender, "to": to, "data": "0x" + data.hex(), "gas": hex(200_000), **(fields or {})}
        return str(self.rpc.call("eth_sendTransaction", call))


_STAYS: Final = [
    "users",
    "zones",
    "iot_devices",
    "device_certificates",
    "market_state",
    "chain_state",
    "schema_migrations",
]


def rows(conn: Connection[Any], statement: str, *values: object) -> list[tuple[Any, ...]]:
    """What a query finds."""
    return conn.execute(statement.encode(), values).fetchall()
