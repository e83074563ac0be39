"""Register a node of the network."""

from uuid import UUID

from psycopg import Connection

from energy_market.domain.errors import Conflict
from energy_market.domain.network_nodes import MAX_NODES_OF_A_USER, NetworkNode
from energy_market.postgres import network_nodes, users


def register_node(conn: Connection, *, operator_id: UUID, location: str) -> NetworkNode:
    """Register a node of this user, who becomes a NetworkNodeOperator. Raises Conflict beyond 50 nodes."""
    users.lock(conn, operator_id)
    if len(network_nodes.of_operator(conn, operator_id)) >= MAX_NODES_OF_A_USER:
        raise Conflict("too_many_nodes", f"A user has at most {MAX_NODES_OF_A_USER} nodes.")
    users.gain_role(conn, operator_id, "NetworkNodeOperator")
    return network_nodes.insert(conn, operator_id=operator_id, location=location)
