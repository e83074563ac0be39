"""Operators: who is one, what they may do, and that all of it is written down."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import UUID, uuid4

import boto3
import psycopg
import pytest
from moto import mock_aws

from energy_market.domain.errors import Conflict
from energy_market.domain.operators import Operator
from energy_market.usecases.run_tick import run_tick
from energy_market.usecases.set_kyc_status import set_kyc_status
from tests.support.api import Answer, Client, SignedIn, challenged, new_wallet, signed_in
from tests.support.fixtures import LoadApi
from tests.support.market import SETTINGS, Home, Market
from tests.support.trouble.alongside import Alongside, wait_until_somebody_waits_for

ADMIN = "/api/v1/admin"
WHY = {"reason": "an alarm at three in the morning"}
SOMEBODY = UUID(int=7)
# Every route, with a body that it takes.
ROUTES: list[tuple[str, str, object]] = [
    ("GET", f"{ADMIN}/market", None),
    ("POST", f"{ADMIN}/market/pause", WHY),
    ("POST", f"{ADMIN}/market/resume", WHY),
    ("GET", f"{ADMIN}/users", None),
    ("POST", f"{ADMIN}/user/{SOMEBODY}/kyc", {**WHY, "kyc_status": "Verified"}),
    ("POST", f"{ADMIN}/device/{SOMEBODY}/revoke", WHY),
    ("GET", f"{ADMIN}/trades/failed", None),
    ("GET", f"{ADMIN}/trades/short", None),
    ("GET", f"{ADMIN}/batches/stuck", None),
    ("GET", f"{ADMIN}/dead-letters", None),
    ("POST", f"{ADMIN}/dead-letters/replay", {**WHY, "queue": "telemetry"}),
    ("GET", f"{ADMIN}/acts", None),
]


@pytest.fixture
def operator(auth: Client, monkeypatch: pytest.MonkeyPatch) -> SignedIn:
    """Somebody whose wallet the configuration names, among others, in another spelling."""
    olga = signed_in(auth)
    monkeypatch.setenv("OPERATOR_WALLETS", f"{new_wallet().address},{olga.wallet.address.lower()}")
    return olga


@pytest.fixture
def admin(operator: SignedIn, load_api: LoadApi) -> Client:
    """The function, deployed with that configuration."""
    assert operator.token
    return load_api("admin_api")


def somebody_of(market: Market) -> UUID:
    """A user with a wallet that there may be."""
    user = market.user()
    market.sql("UPDATE users SET wallet_address = %s WHERE id = %s", new_wallet().address, user)
    return user


def written(market: Market) -> list[tuple[object, ...]]:
    return market.sql("SELECT act, subject, before, after, reason FROM operator_acts ORDER BY id")


# ------------------------------------------------------------------------------------------------ who is one


def test_the_routes_here_are_all_there_are(admin: Client) -> None:
    served = {(method, path) for path, views in admin.module.app.routes.items() for method in views}
    assert {(method, path.replace(str(SOMEBODY), "{id}")) for method, path, _ in ROUTES} == served


@pytest.mark.parametrize(("method", "path", "body"), ROUTES)
def test_an_operators_route_is_nobody_elses(  # noqa: PLR0917 -- three fixtures, three parameters
    admin: Client, auth: Client, market: Market, method: str, path: str, body: object
) -> None:
    user = signed_in(auth)
    assert admin.call(method, path, body=body).refusal == (401, "missing_token")
    assert admin.call(method, path, body=body, token="x.y.z").refusal == (401, "invalid_token")
    assert admin.call(method, path, body=body, token=user.token).refusal == (403, "not_an_operator")
    # Nor is he told what would be wrong with what he sends.
    assert admin.call(method, path, raw="{", token=user.token).refusal == (403, "not_an_operator")
    assert written(market) == []
    assert market.sql("SELECT paused FROM market_state") == [(False,)]


def test_a_role_that_a_user_gains_makes_no_operator(admin: Client, auth: Client, market: Market) -> None:
    user = signed_in(auth)
    market.sql("UPDATE users SET roles = '{Donor,Recipient,NetworkNodeOperator}' WHERE id = %s", user.user_id)
    assert admin.get(f"{ADMIN}/market", token=user.token).refusal == (403, "not_an_operator")


def test_no_body_makes_an_operator(auth: Client) -> None:
    wallet = new_wallet()
    for more in ({"role": "Operator"}, {"roles": ["Operator"]}, {"operator": True}):
        answer = auth.post("/api/v1/auth/signup", {**challenged(auth, wallet), **more})
        assert answer.refusal == (400, "invalid_body")


def test_who_is_no_longer_named_is_no_operator_though_his_token_lives(
    admin: Client, operator: SignedIn, load_api: LoadApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert admin.get(f"{ADMIN}/market", token=operator.token).status == 200
    monkeypatch.setenv("OPERATOR_WALLETS", "none")
    assert load_api("admin_api").get(f"{ADMIN}/market", token=operator.token).refusal == (403, "not_an_operator")


def test_a_wallet_that_is_named_and_never_signed_up_is_nobody(
    admin: Client, operator: SignedIn, market: Market
) -> None:
    market.sql("DELETE FROM refresh_tokens")
    market.sql("DELETE FROM users")
    assert admin.get(f"{ADMIN}/market", token=operator.token).refusal == (401, "session_ended")


def test_addresses_that_are_none_do_not_start(load_api: LoadApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPERATOR_WALLETS", "0x12")
    with pytest.raises(Exception, match="OPERATOR_WALLETS must be none, or addresses"):
        load_api("admin_api")


# ------------------------------------------------------------------------------------------------ acts


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"reason": ""},
        {"reason": "  "},
        {"reason": "a\nb"},
        {"reason": "x" * 501},
        {"reason": None},
        {**WHY, "x": 1},
    ],
)
def test_nothing_is_done_without_a_reason(
    admin: Client, operator: SignedIn, market: Market, body: dict[str, object]
) -> None:
    answer = admin.post(f"{ADMIN}/market/pause", body, token=operator.token)
    assert answer.refusal == (400, "invalid_body")
    assert (written(market), market.sql("SELECT paused FROM market_state")) == ([], [(False,)])


def test_acts_are_listed_with_who_what_and_why(admin: Client, operator: SignedIn, market: Market) -> None:
    somebody = somebody_of(market)
    admin.post(f"{ADMIN}/market/pause", WHY, token=operator.token)
    admin.post(f"{ADMIN}/user/{somebody}/kyc", {"kyc_status": "Pending", "reason": "papers"}, token=operator.token)
    admin.post(f"{ADMIN}/market/resume", {"reason": "over"}, token=operator.token)
    found = admin.get(f"{ADMIN}/acts", token=operator.token).json
    assert [(act["act"], act["subject"], act["before"], act["after"], act["reason"]) for act in found] == [
        ("market.resume", None, "paused", "open", "over"),
        ("user.kyc_status", str(somebody), "Unverified", "Pending", "papers"),
        ("market.pause", None, "open", "paused", WHY["reason"]),
    ]
    assert {(act["operator_id"], act["wallet_address"]) for act in found} == {
        (operator.user_id, operator.wallet.address)
    }
    first = admin.get(f"{ADMIN}/acts", token=operator.token, query={"limit": "2"})
    cursor = first.headers["Link"].partition("cursor=")[2].partition(">")[0]
    rest = admin.get(f"{ADMIN}/acts", token=operator.token, query={"limit": "2", "cursor": cursor})
    assert [*first.json, *rest.json] == found
    of_somebody = admin.get(f"{ADMIN}/acts", token=operator.token, query={"subject": str(somebody)})
    assert of_somebody.json == [found[1]]
    nonsense = admin.get(f"{ADMIN}/acts", token=operator.token, query={"subject": "\x00"})
    assert nonsense.refusal == (400, "invalid_query")


def test_acts_cannot_be_changed_even_by_the_owner(
    admin: Client, operator: SignedIn, connection: psycopg.Connection
) -> None:
    admin.post(f"{ADMIN}/market/pause", WHY, token=operator.token)
    for statement in ("UPDATE operator_acts SET reason = 'x'", "DELETE FROM operator_acts", "TRUNCATE operator_acts"):
        with pytest.raises(psycopg.errors.RaiseException, match="operator_acts is append-only"):
            connection.execute(statement.encode())


# ------------------------------------------------------------------------------------------------ the market


def crossing(market: Market) -> tuple[Home, UUID]:
    """An ask and a bid that can trade, of a home and a buyer."""
    home, buyer = market.home(), market.user()
    market.order(home.user, "sell", 500, 200_000)
    market.order(buyer, "buy", 500, 200_000)
    return home, buyer


def test_while_the_market_is_paused_no_order_is_taken_and_nothing_matched(
    admin: Client, operator: SignedIn, load_api: LoadApi, market: Market
) -> None:
    home, buyer = crossing(market)
    paused = admin.post(f"{ADMIN}/market/pause", WHY, token=operator.token)
    assert (paused.status, paused.json["paused"]) == (200, True)
    assert market.tick().trade_ids == ()
    api = load_api("market_api")
    order = {"type": "buy", "kwh_amount": 1, "token_price": 0.1}
    refused = api.post("/api/v1/market/order/create", order, token=operator.token)
    assert refused.refusal == (409, "market_paused")
    assert api.get("/api/v1/market/price", token=operator.token).json["paused"] is True
    with pytest.raises(Conflict, match="The market is paused"):
        market.order(home.user, "sell", 500, 200_000)

    resumed = admin.post(f"{ADMIN}/market/resume", WHY, token=operator.token)
    assert (resumed.status, resumed.json["paused"]) == (200, False)
    assert api.post("/api/v1/market/order/create", order, token=operator.token).status == 201
    assert api.get("/api/v1/market/price", token=operator.token).json["paused"] is False
    ticked = market.tick()
    assert (len(ticked.trade_ids), ticked.overlooked) == (1, 0)
    assert len(market.trades(buyer)) == 1


def test_while_the_market_is_paused_all_that_is_under_way_goes_on(
    admin: Client, operator: SignedIn, market: Market
) -> None:
    _, _, late_ask, late_bid, late = market.matched(energy_wh=300)
    home, buyer, ask, _, trade = market.matched()
    resting = market.order(market.user(), "buy", 700, 1)
    assert admin.post(f"{ADMIN}/market/pause", WHY, token=operator.token).status == 200

    assert market.answer(home.device, ask, "locked", trade=trade.id) == "locked"
    market.confirm(trade.id)
    assert market.publish().transfers == 1
    market.report(
        f"energy/transfer/{home.device}/status",
        {"transaction_id": str(trade.id), "status": "delivered", "kwh_delivered": 0.5, "seq": 900},
    )
    assert [(one.status, one.delivery) for one in market.trades(buyer)] == [("Confirmed", "Delivered")]
    market.cancel(market.get(resting).user_id, resting)
    market.sql("UPDATE transactions SET expires_at = clock_timestamp() WHERE id = %s", late.id)
    ticked = market.tick()
    assert (ticked.locks_expired, ticked.trade_ids) == (1, ())
    assert (market.status_of(late_ask), market.status_of(late_bid)) == ("Created", "Created")


def test_pausing_waits_for_the_tick_that_is_matching(
    admin: Client, operator: SignedIn, market: Market, connection: psycopg.Connection
) -> None:
    """What is answered holds: once a pause is, no tick makes a match, not even one that had begun before."""
    crossing(market)
    market.sql(
        """
        CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM pg_sleep(0.5); RETURN NEW; END $$;
        CREATE TRIGGER dawdle BEFORE INSERT ON matches FOR EACH ROW EXECUTE FUNCTION dawdle()
        """
    )
    ticking = Alongside(lambda: run_tick(market.database, zone="default", device_online_s=SETTINGS.device_online_s))
    while not connection.execute("SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep'").rowcount:
        pass
    assert connection.execute("SELECT count(*) FROM matches").fetchone() == (0,)
    assert admin.post(f"{ADMIN}/market/pause", WHY, token=operator.token).status == 200
    assert connection.execute("SELECT count(*) FROM matches").fetchone() == (1,)
    ticking.end()


def test_a_tick_that_saw_no_pause_before_it_took_its_turn_sees_it_then(
    admin: Client, operator: SignedIn, market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    crossing(market)
    looked = market.database.transaction

    transactions = iter(range(100))

    @contextmanager
    def paused_in_between() -> Iterator[psycopg.Connection]:
        if next(transactions) == 1:  # the tick has seen that there is something to match
            assert admin.post(f"{ADMIN}/market/pause", WHY, token=operator.token).status == 200
        with looked() as conn:
            yield conn

    monkeypatch.setattr(market.database, "transaction", paused_in_between)
    done = run_tick(market.database, zone="default", device_online_s=SETTINGS.device_online_s)
    assert (done.ran, done.matches, done.attempts) == (True, 0, 1)


# ------------------------------------------------------------------------------------------------ who may trade


def test_where_only_verified_users_trade_nobody_else_places_an_order(
    admin: Client, operator: SignedIn, auth: Client, load_api: LoadApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KYC_REQUIRED", "verified")
    api, user = load_api("market_api"), signed_in(auth)

    def place() -> Answer:
        order = {"type": "buy", "kwh_amount": 1, "token_price": 0.1}
        return api.post("/api/v1/market/order/create", order, token=user.token)

    assert place().refusal == (403, "kyc_required")
    for status in ("Pending", "Refused"):
        body = {"kyc_status": status, "reason": "papers"}
        assert admin.post(f"{ADMIN}/user/{user.user_id}/kyc", body, token=operator.token).json["kyc_status"] == status
        assert place().refusal == (403, "kyc_required")
    body = {"kyc_status": "Verified", "reason": "papers"}
    assert admin.post(f"{ADMIN}/user/{user.user_id}/kyc", body, token=operator.token).status == 200
    assert place().status == 201


def matched_only_verified(market: Market) -> int:
    return run_tick(
        market.database, zone="default", device_online_s=SETTINGS.device_online_s, verified_only=True
    ).matches


def test_resting_orders_of_who_is_no_longer_verified_are_not_matched(
    admin: Client, operator: SignedIn, market: Market
) -> None:
    home, buyer = market.home(), somebody_of(market)
    market.sql("UPDATE users SET wallet_address = %s WHERE id = %s", new_wallet().address, home.user)

    def say(user: UUID, status: str) -> None:
        body = {"kyc_status": status, "reason": "papers"}
        assert admin.post(f"{ADMIN}/user/{user}/kyc", body, token=operator.token).status == 200

    say(home.user, "Verified")
    say(buyer, "Verified")
    market.order(home.user, "sell", 500, 200_000)
    assert matched_only_verified(market) == 0  # the ask is not new any more
    say(home.user, "Refused")
    market.order(buyer, "buy", 500, 200_000)
    assert matched_only_verified(market) == 0
    market.sql("UPDATE ticks SET whole_at = '-infinity'")
    assert matched_only_verified(market) == 0  # nor by a look at the whole book
    say(home.user, "Verified")  # nothing else is new, and yet it is seen
    assert matched_only_verified(market) == 1


@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize("side", ["buy", "sell"])
def test_of_either_kind_only_orders_of_verified_users_are_matched(market: Market, side: str, partial: bool) -> None:  # noqa: FBT001
    """The better price of somebody who is not verified is passed over, and stands in nobody's way."""
    homes, buyers = [market.home(), market.home()], [market.user(), market.user()]
    unverified = homes[0].user if side == "sell" else buyers[0]
    known = [user for user in (homes[0].user, homes[1].user, *buyers) if user != unverified]
    market.sql("UPDATE users SET kyc_status = 'Verified' WHERE id = ANY (%s)", known)
    if side == "sell":
        best = market.order(homes[0].user, "sell", 500, 100_000, partial=partial)
        other = market.order(homes[1].user, "sell", 500, 150_000, partial=partial)
        market.order(buyers[1], "buy", 500, 200_000, partial=partial)
    else:
        best = market.order(buyers[0], "buy", 500, 300_000, partial=partial)
        other = market.order(buyers[1], "buy", 500, 250_000, partial=partial)
        market.order(homes[1].user, "sell", 500, 200_000, partial=partial)
    assert matched_only_verified(market) == 1
    assert (market.status_of(best), market.status_of(other)) == ("Created", "Matched")


def test_a_market_that_asks_no_more_matches_what_rests_though_nothing_is_new(market: Market) -> None:
    crossing(market)
    assert matched_only_verified(market) == 0
    done = run_tick(market.database, zone="default", device_online_s=SETTINGS.device_online_s)
    assert (done.matches, done.overlooked) == (1, 0)


def test_an_order_that_comes_back_is_marked_anew(market: Market) -> None:
    home, buyer, ask, bid, trade = market.matched()
    market.sql("UPDATE users SET kyc_status = 'Verified' WHERE id = %s", buyer)
    market.answer(home.device, ask, "rejected", trade=trade.id)
    assert market.sql("SELECT order_id, verified FROM open_orders ORDER BY verified") == [(ask, False), (bid, True)]


def test_an_order_that_is_placed_while_its_user_is_refused_is_not_matched(
    operator: SignedIn, market: Market, database_url: str
) -> None:
    """Whichever of the two is first: the order is refused, or it rests in the book and is marked."""
    home, buyer = market.home(), market.user()
    market.sql("UPDATE users SET kyc_status = 'Verified'")
    market.order(home.user, "sell", 500, 200_000)
    matched_only_verified(market)
    other = Market(database_url)
    acting = Operator(user_id=UUID(operator.user_id), wallet_address=operator.wallet.address)
    # The order is on its way: it has read who its user is, and waits before it commits.
    with psycopg.connect(database_url) as placing, placing.transaction():
        placing.execute(
            """WITH placed AS (INSERT INTO energy_orders (user_id, zone, type, energy_wh, price_micro, all_or_none)
                                   VALUES (%s, 'default', 'buy', 500, 200000, true) RETURNING *)
                   INSERT INTO open_orders
                   SELECT id, zone, type, user_id, device_id, energy_wh, price_micro, arrival, all_or_none, expires_at
                   FROM placed""",
            (buyer,),
        )
        refusing = Alongside(
            lambda: set_kyc_status(other.database, acting, user_id=buyer, kyc_status="Refused", reason="forged")
        )
        wait_until_somebody_waits_for(placing)
    refusing.end()
    other.close()
    assert market.sql("SELECT verified FROM open_orders WHERE type = 'buy'") == [(False,)]
    assert matched_only_verified(market) == 0


def test_nobody_vouches_for_himself(admin: Client, operator: SignedIn, market: Market) -> None:
    body = {"kyc_status": "Verified", "reason": "it is me"}
    answer = admin.post(f"{ADMIN}/user/{operator.user_id}/kyc", body, token=operator.token)
    assert (answer.refusal, written(market)) == ((403, "own_account"), [])


def test_a_user_that_is_not_there_has_no_status(admin: Client, operator: SignedIn, market: Market) -> None:
    body = {"kyc_status": "Verified", "reason": "papers"}
    for user in (uuid4(), "somebody"):
        answer = admin.post(f"{ADMIN}/user/{user}/kyc", body, token=operator.token)
        assert answer.refusal in {(404, "no_such_user"), (404, "not_found")}
    wrong = admin.post(
        f"{ADMIN}/user/{market.user()}/kyc", {"kyc_status": "Approved", "reason": "x"}, token=operator.token
    )
    assert wrong.refusal == (400, "invalid_body")
    assert written(market) == []


def test_users_are_found_by_wallet_and_by_status(admin: Client, operator: SignedIn, auth: Client) -> None:
    ann, ben = signed_in(auth), signed_in(auth)
    admin.post(f"{ADMIN}/user/{ben.user_id}/kyc", {"kyc_status": "Pending", "reason": "x"}, token=operator.token)

    def found(**query: str | list[str]) -> list[str]:
        answer = admin.get(f"{ADMIN}/users", token=operator.token, query=query)
        assert answer.status == 200
        return [user["id"] for user in answer.json]

    assert found() == [operator.user_id, ann.user_id, ben.user_id]
    assert found(wallet_address=ann.wallet.address.lower()) == [ann.user_id]
    assert found(kyc_status="Pending") == [ben.user_id]
    page = admin.get(f"{ADMIN}/users", token=operator.token, query={"limit": "2"})
    cursor = page.headers["Link"].partition("cursor=")[2].partition(">")[0]
    assert found(limit="2", cursor=cursor) == [ben.user_id]
    bad = admin.get(f"{ADMIN}/users", token=operator.token, query={"wallet_address": "0x12"})
    assert bad.refusal == (400, "invalid_wallet_address")


# ------------------------------------------------------------------------------------------------ devices


@mock_aws
def test_a_device_that_is_revoked_is_out_of_the_market(admin: Client, operator: SignedIn, market: Market) -> None:
    home = market.home()
    ask = market.order(home.user, "sell", 500, 200_000)
    for _ in range(2):  # it may be repeated
        answer = admin.post(f"{ADMIN}/device/{home.device}/revoke", WHY, token=operator.token)
        assert answer.status == 204
    assert market.sql("SELECT status FROM iot_devices WHERE id = %s", home.device) == [("Removed",)]
    assert market.status_of(ask) == "Cancelled"
    assert written(market) == [("device.revoke", str(home.device), None, None, WHY["reason"])] * 2
    nobodys = admin.post(f"{ADMIN}/device/{uuid4()}/revoke", WHY, token=operator.token)
    assert (nobodys.refusal, len(written(market))) == ((404, "unknown_device"), 2)


# ------------------------------------------------------------------------------------------------ what failed


def test_what_failed_is_listed(admin: Client, operator: SignedIn, market: Market) -> None:
    home, _, ask, _, refused = market.matched(energy_wh=300)
    market.answer(home.device, ask, "rejected", trade=refused.id)
    _, _, short = market.sold()
    market.sql(
        "UPDATE transactions SET delivery = 'Short', delivery_reason = 'delivery_timeout' WHERE id = %s", short.id
    )

    def listed(path: str, **query: str | list[str]) -> list[str]:
        return [one["id"] for one in admin.get(f"{ADMIN}/{path}", token=operator.token, query=query).json]

    assert listed("trades/failed") == [str(refused.id)]
    assert listed("trades/failed", reason="lock_rejected") == [str(refused.id)]
    assert listed("trades/failed", reason="chain_refused") == []
    assert listed("trades/short") == [str(short.id)]
    assert listed("batches/stuck") == []
    market.sql("UPDATE settlement_batches SET created_at = now() - interval '301 seconds'")
    ((batch,),) = market.sql("SELECT id FROM settlement_batches")
    (stuck,) = admin.get(f"{ADMIN}/batches/stuck", token=operator.token).json
    assert (stuck["id"], stuck["trades"], stuck["forms"], stuck["sends"]) == (str(batch), 1, 0, 0)
    market.sql("UPDATE settlement_batches SET status = 'Mined'")
    assert listed("batches/stuck") == []


@pytest.fixture
def queues(operator: SignedIn, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], list[str]]]:
    """AWS's queues (moto's), for functions that are loaded from now on; what lies in one, by its variable's name."""
    assert operator.token  # by whom the environment of functions is set already
    with mock_aws():
        sqs = boto3.client("sqs")
        for variable in ("LOCK_RESPONSES_QUEUE", "LOCK_RESPONSES_DEAD_LETTERS", "TELEMETRY_QUEUE",
                         "TELEMETRY_DEAD_LETTERS"):  # fmt: skip
            monkeypatch.setenv(variable, sqs.create_queue(QueueName=variable)["QueueUrl"])

        def lying(variable: str) -> list[str]:
            url = sqs.get_queue_url(QueueName=variable)["QueueUrl"]
            found = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, VisibilityTimeout=0)
            return sorted(message["Body"] for message in found.get("Messages", []))

        yield lying


def test_dead_letters_are_counted_and_put_back(
    queues: Callable[[str], list[str]], operator: SignedIn, load_api: LoadApi, market: Market
) -> None:
    admin, sqs = load_api("admin_api"), boto3.client("sqs")
    letters = sqs.get_queue_url(QueueName="TELEMETRY_DEAD_LETTERS")["QueueUrl"]
    for number in range(3):
        sqs.send_message(QueueUrl=letters, MessageBody=json.dumps(number))
    counted = admin.get(f"{ADMIN}/dead-letters", token=operator.token)
    assert counted.json == [
        {"queue": "lock-responses", "messages": 0},
        {"queue": "telemetry", "messages": 3},
    ]
    replayed = admin.post(f"{ADMIN}/dead-letters/replay", {"queue": "telemetry", **WHY}, token=operator.token)
    assert replayed.json == {"queue": "telemetry", "replayed": 3, "left": 0}
    assert (queues("TELEMETRY_QUEUE"), queues("TELEMETRY_DEAD_LETTERS")) == (["0", "1", "2"], [])
    assert (queues("LOCK_RESPONSES_QUEUE"), queues("LOCK_RESPONSES_DEAD_LETTERS")) == ([], [])
    assert written(market) == [("dead_letters.replay", "telemetry", None, None, WHY["reason"])]
    other = admin.post(f"{ADMIN}/dead-letters/replay", {"queue": "other", **WHY}, token=operator.token)
    assert other.refusal == (400, "invalid_body")


def test_so_many_are_put_back_by_a_request_and_no_more(
    queues: Callable[[str], list[str]], operator: SignedIn, load_api: LoadApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("energy_market.aws.dead_letters.MOST_A_REQUEST", 12)
    admin, sqs = load_api("admin_api"), boto3.client("sqs")
    letters = sqs.get_queue_url(QueueName="TELEMETRY_DEAD_LETTERS")["QueueUrl"]
    for number in range(15):
        sqs.send_message(QueueUrl=letters, MessageBody=str(number))
    replayed = admin.post(f"{ADMIN}/dead-letters/replay", {"queue": "telemetry", **WHY}, token=operator.token)
    assert replayed.json == {"queue": "telemetry", "replayed": 12, "left": 3}
    assert len(queues("TELEMETRY_DEAD_LETTERS")) == 3
