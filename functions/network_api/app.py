"""Network nodes."""

from chalice.app import Response
from msgspec import Struct

from energy_market import config
from energy_market.api import answers
from energy_market.api.edge import Api, encode
from energy_market.api.fields import Location
from energy_market.database import Database
from energy_market.postgres import network_nodes
from energy_market.usecases.answer_once import Answer, answer_once
from energy_market.usecases.register_node import register_node

database = Database(config.database_url())
app = Api("network_api", settings=config.http_settings(), database=database)


class NodeRequest(Struct, forbid_unknown_fields=True, kw_only=True):
    """The location of a node."""

    location: Location


@app.route("/api/v1/network/nodes", methods=["GET"])
def nodes() -> Response:
    """The caller's nodes."""
    caller = app.caller()
    with database.transaction() as conn:
        return app.present([answers.network_node(node) for node in network_nodes.of_operator(conn, caller.user_id)])


@app.route("/api/v1/network/node/register", methods=["POST"])
def register() -> Response:
    """Register a node of the caller's, once for each Idempotency-Key."""
    caller, request = app.caller(), app.read(NodeRequest)
    with database.transaction() as conn:

        def add() -> Answer:
            node = register_node(conn, operator_id=caller.user_id, location=request.location)
            return Answer(status=201, body=encode(answers.network_node(node)))

        answer = answer_once(
            conn,
            user_id=caller.user_id,
            route="node/register",
            key=app.idempotency_key(),
            body_hash=app.body_hash(),
            answer=add,
        )
    return app.present_text(answer.body, status=answer.status)
