"""Network nodes (the table `network_nodes`)."""

from typing import Final, LiteralString
from uuid import UUID

from psycopg import Connection
from psycopg.rows import class_row

from energy_market.domain.network_nodes import NetworkNode

_COLUMNS: Final[LiteralString] = "id, operator_id, location, uptime, packets_routed, earnings_nano, created_at"


def insert(conn: Connection, *, operator_id: UUID, location: str) -> NetworkNode:
    """Register a node."""
    with conn.cursor(row_factory=class_row(NetworkNode)) as cursor:
        node = cursor.execute(
            "INSERT INTO network_nodes (operator_id, location) VALUES (%s, %s) RETURNING " + _COLUMNS,
            (operator_id, location),
        ).fetchone()
    assert node is not None  # an INSERT of one row returns one row
    return node


def of_operator(conn: Connection, operator_id: UUID) -> list[NetworkNode]:
    """A user's nodes, oldest first."""
    with conn.cursor(row_factory=class_row(NetworkNode)) as cursor:
        return cursor.execute(
            "SELECT " + _COLUMNS + " FROM network_nodes WHERE operator_id = %s ORDER BY created_at, id", (operator_id,)
        ).fetchall()
