"""Network nodes, over the API's edge and on a real database."""

import pytest

from tests.support.api import Client, SignedIn, signed_in
from tests.support.fixtures import LoadApi
from tests.support.market import Market

REGISTER = "/api/v1/network/node/register"
NODES = "/api/v1/network/nodes"


@pytest.fixture
def api(load_api: LoadApi) -> Client:
    return load_api("network_api")


@pytest.fixture
def ann(auth: Client) -> SignedIn:
    return signed_in(auth)


def test_a_node_begins_with_nothing(api: Client, ann: SignedIn) -> None:
    answer = api.post(REGISTER, {"location": "the church tower"}, token=ann.token)
    assert answer.status == 201
    node = answer.json
    assert (node["operator_id"], node["location"]) == (ann.user_id, "the church tower")
    assert (node["uptime"], node["packets_routed"], node["earnings"]) == (0, 0, 0)
    assert api.get(NODES, token=ann.token).json == [node]


def test_its_operator_gains_the_role_once(api: Client, auth: Client, ann: SignedIn) -> None:
    for location in ("one", "two"):
        api.post(REGISTER, {"location": location}, token=ann.token)
    me = auth.get("/api/v1/auth/me", token=ann.token).json
    assert (me["role"], me["roles"]) == ("NetworkNodeOperator", ["Recipient", "NetworkNodeOperator"])


def test_a_node_that_is_sent_again_under_its_key_is_one(api: Client, ann: SignedIn) -> None:
    key = {"Idempotency-Key": "the mast"}
    first, second = (api.post(REGISTER, {"location": "mast"}, token=ann.token, headers=key) for _ in range(2))
    assert (first.status, first.text) == (second.status, second.text)
    other = api.post(REGISTER, {"location": "another"}, token=ann.token, headers=key)
    assert other.refusal == (409, "idempotency_key_reused")
    assert [node["location"] for node in api.get(NODES, token=ann.token).json] == ["mast"]


def test_one_sees_ones_own_nodes(api: Client, auth: Client, ann: SignedIn) -> None:
    for location in ("one", "two"):
        api.post(REGISTER, {"location": location}, token=ann.token)
    assert [node["location"] for node in api.get(NODES, token=ann.token).json] == ["one", "two"]
    assert api.get(NODES, token=signed_in(auth).token).json == []


def test_a_bad_node_is_refused_and_changes_nothing(api: Client, ann: SignedIn, market: Market) -> None:
    for body in ({}, {"location": ""}, {"location": " "}, {"location": None}, {"location": 1}, {"location": "x" * 201}):
        assert api.post(REGISTER, body, token=ann.token).refusal == (400, "invalid_body"), body
    assert api.post(REGISTER, {"location": "x", "earnings": 5}, token=ann.token).refusal == (400, "invalid_body")
    assert api.post(REGISTER, {"location": "x"}).refusal == (401, "missing_token")
    assert api.get(NODES).refusal == (401, "missing_token")
    assert market.sql("SELECT count(*) FROM network_nodes") == [(0,)]
    assert market.sql("SELECT roles FROM users") == [(["Recipient"],)]


def test_a_user_has_at_most_fifty_nodes(api: Client, ann: SignedIn, market: Market) -> None:
    market.sql("INSERT INTO network_nodes (operator_id, location) SELECT id, 'x' FROM users, generate_series(1, 50)")
    assert api.post(REGISTER, {"location": "x"}, token=ann.token).refusal == (409, "too_many_nodes")


def test_a_token_of_a_user_who_is_not_in_this_database_is_refused(api: Client, ann: SignedIn, market: Market) -> None:
    market.sql("DELETE FROM refresh_tokens")
    market.sql("DELETE FROM users")
    assert api.post(REGISTER, {"location": "x"}, token=ann.token).refusal == (401, "session_ended")
