"""What people do at the same moment, thousands of times: of two who want the same thing exactly one gets it.

RACES=20000: so many orders in the race of cancelling against matching.
"""

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from uuid import UUID

import psycopg
import pytest

from energy_market.domain.errors import Conflict
from energy_market.domain.matching import Book, Match, match
from energy_market.domain.sessions import HAD_AGAIN_S
from energy_market.postgres.reconciliation import database_differences
from energy_market.usecases import run_tick as tick_module
from tests.support.api import Answer, Client, SignedIn, challenged, new_wallet, sign, signed_in
from tests.support.fixtures import LoadApi
from tests.support.market import Market
from tests.support.trouble.alongside import all_at_once

CREATE = "/api/v1/market/order/create"
CANCEL = "/api/v1/market/order/cancel"
SIGN_UP, LOG_IN = "/api/v1/auth/signup", "/api/v1/auth/login"
REFRESH, LOG_OUT = "/api/v1/auth/refresh", "/api/v1/auth/logout"
BUY = {"type": "buy", "kwh_amount": 1.5, "token_price": 0.25}
SANDBOXES = 24
Matching = Callable[[Book, Mapping[int, int]], list[Match]]


def differences(database_url: str) -> list[str]:
    with psycopg.connect(database_url) as conn:
        return database_differences(conn, at_rest=False).lines


# ------------------------------------------------------------------------------------------------ cancel and match

ORDERS = int(os.environ.get("RACES", "2400"))
CANCELLERS = 4
TICKERS = 2
TRADES_A_TICK = 25  # so that a tick ends while there is much left to race for


class Race:
    """A book that is crossed from end to end, some who take all its orders back, and ticks as fast as they come."""

    def __init__(self, market: Market, database_url: str) -> None:
        self.database_url = database_url
        home, buyer = market.home(available_wh=10**9), market.user()
        # Partial bids never fit an ask exactly, so that many orders are filled by halves when they are taken back.
        for user, device, kind, size_wh, all_or_none in (
            (home.user, home.device, "sell", 500, True),
            (home.user, home.device, "sell", 500, False),
            (buyer, None, "buy", 500, True),
            (buyer, None, "buy", 300, False),
        ):
            market.sql(
                """
                WITH placed AS (
                    INSERT INTO energy_orders (user_id, device_id, zone, type, energy_wh, price_micro, all_or_none)
                    SELECT %s, %s::uuid, 'default', %s, %s, 200000, %s FROM generate_series(1, %s)
                    RETURNING id, zone, type, user_id, device_id, energy_wh, price_micro, arrival, all_or_none,
                              expires_at
                )
                INSERT INTO open_orders SELECT * FROM placed
                """,
                user,
                device,
                kind,
                size_wh,
                all_or_none,
                ORDERS // 4,
            )
        self.owners: dict[UUID, UUID] = dict(market.sql("SELECT id, user_id FROM energy_orders"))  # type: ignore[arg-type]
        self.cancelled: list[UUID] = []
        self.refused: list[UUID] = []
        self.ticks: list[int] = []
        self._over = threading.Event()

    def run(self) -> None:
        ticking = [threading.Thread(target=self._tick) for _ in range(TICKERS)]
        for thread in ticking:
            thread.start()
        try:
            all_at_once([partial(self._cancel_all, number) for number in range(CANCELLERS)])
        finally:
            self._over.set()
            for thread in ticking:
                thread.join()

    def _cancel_all(self, number: int) -> None:
        """Each order is tried by two of the four, in another succession."""
        mine = list(self.owners)[number % 2 :: 2]
        random.Random(number).shuffle(mine)
        canceller = Market(self.database_url)
        for order in mine:
            try:
                canceller.cancel(self.owners[order], order)
            except Conflict as conflict:
                self.refused.append(order if conflict.code == "order_not_open" else UUID(int=0))
            else:
                self.cancelled.append(order)
        canceller.close()

    def _tick(self) -> None:
        ticker = Market(self.database_url)
        while not self._over.is_set():
            self.ticks.append(ticker.tick().attempts)
        ticker.close()


def slowly(pairs_of: Matching) -> Matching:
    """Leave others a moment between what a tick reads and what it writes."""

    def matched(book: Book, free_wh: Mapping[int, int]) -> list[Match]:
        time.sleep(0.002)
        return pairs_of(book, free_wh)

    return matched


def test_of_cancel_and_match_exactly_one_wins_thousands_of_times(
    market: Market, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tick_module, "MAX_MATCHES", TRADES_A_TICK)
    monkeypatch.setattr(tick_module, "match", slowly(match))
    race = Race(market, database_url)
    race.run()
    cancelled, refused = Counter(race.cancelled), Counter(race.refused)
    outcomes: Counter[tuple[bool, bool, bool]] = Counter()
    for order, all_or_none, size_wh, traded_wh in market.sql(
        """
        SELECT o.id, o.all_or_none, o.energy_wh, coalesce(t.energy_wh, 0)::bigint FROM energy_orders o LEFT JOIN (
            SELECT id, sum(energy_wh) AS energy_wh
            FROM (SELECT sell_order_id AS id, energy_wh FROM transactions
                  UNION ALL SELECT buy_order_id, energy_wh FROM transactions) sides GROUP BY id
        ) t USING (id)
        """
    ):
        assert (cancelled[order], refused[order]) in {(1, 1), (0, 2)}  # type: ignore[index]
        outcomes[bool(all_or_none), bool(cancelled[order]), traded_wh == size_wh] += 1  # type: ignore[index]
        if all_or_none:
            assert traded_wh in {0, size_wh}
    for all_or_none in (True, False):
        assert not outcomes[all_or_none, True, True], "taken back, and wholly traded"
        assert not outcomes[all_or_none, False, False], "neither taken back nor wholly traded"
        # It was a race: either won often.
        assert min(outcomes[all_or_none, True, False], outcomes[all_or_none, False, True]) > ORDERS / 100
    assert max(race.ticks) > 1, "no tick was disturbed"
    assert market.sql("SELECT order_id FROM open_orders") == []
    assert differences(database_url) == []


# ------------------------------------------------------------------------------------------------ the same, many times


@pytest.fixture
def ann(auth: Client) -> SignedIn:
    return signed_in(auth)


def ask_at_once(
    load_api: LoadApi, function: str, path: str, requests: list[tuple[object, dict[str, str]]]
) -> list[Answer]:
    """Ask so many sandboxes of a function at the same moment, each with a body and headers of its own."""
    sandboxes = [load_api(function) for _ in requests]
    answers: list[Answer] = []
    all_at_once(
        [
            lambda sandbox=sandbox, body=body, headers=headers: answers.append(  # type: ignore[misc]
                sandbox.post(path, body, headers=headers)
            )
            for sandbox, (body, headers) in zip(sandboxes, requests, strict=True)
        ]
    )
    assert len(answers) == len(requests)
    return answers


def bearer(person: SignedIn, **headers: str) -> dict[str, str]:
    return {
        "Authorization": f"Bearer {person.token}",
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }


def statuses(answers: list[Answer]) -> dict[int, int]:
    return dict(Counter(answer.status for answer in answers))


def test_one_order_sent_by_dozens_at_once_under_one_key_is_one_order(
    load_api: LoadApi, ann: SignedIn, market: Market
) -> None:
    headers = bearer(ann, Idempotency_Key="once")
    answers = ask_at_once(load_api, "market_api", CREATE, [(BUY, headers)] * SANDBOXES)
    assert statuses(answers) == {201: SANDBOXES}
    assert len({answer.text for answer in answers}) == 1
    assert market.sql("SELECT count(*), min(remaining_wh) FROM open_orders") == [(1, 1_500)]


def test_of_different_orders_at_once_under_one_key_one_is_placed_and_the_others_are_told(
    load_api: LoadApi, ann: SignedIn, market: Market
) -> None:
    headers = bearer(ann, Idempotency_Key="once")
    bodies = [BUY | {"kwh_amount": 1 + number % 3} for number in range(SANDBOXES)]
    answers = ask_at_once(load_api, "market_api", CREATE, [(body, headers) for body in bodies])
    assert statuses(answers) == {201: SANDBOXES // 3, 409: SANDBOXES * 2 // 3}
    assert {answer.refusal[1] for answer in answers if answer.status == 409} == {"idempotency_key_reused"}
    assert len({answer.text for answer in answers if answer.status == 201}) == 1
    assert market.sql("SELECT count(*) FROM energy_orders") == [(1,)]


def test_a_key_whose_first_request_is_refused_meanwhile_is_free_for_those_who_wait(
    load_api: LoadApi, ann: SignedIn, market: Market
) -> None:
    """Half of them name a device that does not exist; whoever of them comes first takes the key back with him."""
    headers = bearer(ann, Idempotency_Key="once")
    wrong = {"type": "sell", "kwh_amount": 1, "token_price": 1, "device_id": str(UUID(int=1))}
    requests: list[tuple[object, dict[str, str]]] = [
        (wrong if number % 2 else BUY, headers) for number in range(SANDBOXES)
    ]
    answers = ask_at_once(load_api, "market_api", CREATE, requests)
    assert statuses(answers)[201] == SANDBOXES // 2
    assert {a.refusal[1] for a in answers if a.status != 201} <= {"unknown_device", "idempotency_key_reused"}
    assert market.sql("SELECT count(*) FROM energy_orders") == [(1,)]


def test_an_order_that_many_take_back_at_once_is_taken_back_once(
    load_api: LoadApi, ann: SignedIn, market: Market
) -> None:
    order = market.order(UUID(ann.user_id), "buy", 500, 200_000)
    answers = ask_at_once(load_api, "market_api", CANCEL, [({"order_id": str(order)}, bearer(ann))] * SANDBOXES)
    assert statuses(answers) == {200: 1, 409: SANDBOXES - 1}
    assert {answer.refusal[1] for answer in answers if answer.status == 409} == {"order_not_open"}
    assert market.sql("SELECT count(*) FROM events WHERE to_status = 'Cancelled'") == [(1,)]


# ------------------------------------------------------------------------------------------------ sessions


def age_rotations(market: Market) -> None:
    """The time has passed in which a token gives its successor again."""
    market.sql("UPDATE refresh_tokens SET rotated_at = rotated_at - make_interval(secs => %s)", HAD_AGAIN_S + 1)


def test_dozens_of_refreshes_at_once_rotate_once_and_a_later_reuse_ends_the_session(
    load_api: LoadApi, auth: Client, ann: SignedIn, market: Market
) -> None:
    body = {"refresh_token": ann.refresh_token}
    answers = ask_at_once(load_api, "auth_api", REFRESH, [(body, {})] * SANDBOXES)
    assert statuses(answers) == {200: SANDBOXES}
    assert market.sql("SELECT count(*), count(revoked_at) FROM refresh_tokens") == [(1, 0)]
    (successor,) = {answer.json["refresh_token"] for answer in answers}
    second = auth.post(REFRESH, {"refresh_token": successor})
    assert second.status == 200
    age_rotations(market)
    assert auth.post(REFRESH, body).refusal == (401, "refresh_token_reused")
    for token in (successor, second.json["refresh_token"]):
        assert auth.post(REFRESH, {"refresh_token": token}).refusal == (401, "invalid_refresh_token")


def test_a_stolen_token_used_by_dozens_at_once_ends_the_session_for_all(
    load_api: LoadApi, auth: Client, ann: SignedIn, market: Market
) -> None:
    successor = auth.post(REFRESH, {"refresh_token": ann.refresh_token}).json["refresh_token"]
    age_rotations(market)
    answers = ask_at_once(load_api, "auth_api", REFRESH, [({"refresh_token": ann.refresh_token}, {})] * SANDBOXES)
    assert statuses(answers) == {401: SANDBOXES}
    assert {answer.refusal[1] for answer in answers} <= {"refresh_token_reused", "invalid_refresh_token"}
    assert auth.post(REFRESH, {"refresh_token": successor}).refusal == (401, "invalid_refresh_token")


@pytest.mark.parametrize("late_tabs", [0, 3])
def test_nothing_of_a_session_is_left_when_one_logs_out_while_others_refresh(
    load_api: LoadApi, auth: Client, ann: SignedIn, late_tabs: int
) -> None:
    body = {"refresh_token": ann.refresh_token}
    tabs = [load_api("auth_api") for _ in range(6)]
    answers: list[Answer] = []
    calls = [partial(lambda tab: answers.append(tab.post(REFRESH, body)), tab) for tab in tabs]
    all_at_once([*calls[late_tabs:], lambda: auth.post(LOG_OUT, body), *calls[:late_tabs]])
    assert {answer.status for answer in answers} <= {200, 401}
    tokens = [answer.json["refresh_token"] for answer in answers if answer.status == 200]
    for token in (*tokens, ann.refresh_token):
        assert auth.post(REFRESH, {"refresh_token": token}).refusal == (401, "invalid_refresh_token")


def test_of_many_sign_ups_of_one_wallet_at_once_one_makes_the_user(
    load_api: LoadApi, auth: Client, market: Market
) -> None:
    """Each with a challenge of its own."""
    wallet = new_wallet()
    requests: list[tuple[object, dict[str, str]]] = []
    for _ in range(SANDBOXES):
        opened = auth.post("/api/v1/auth/challenge", {"wallet_address": wallet.address}).json
        signature = sign(wallet, opened["message"])
        requests.append(({"wallet_address": wallet.address, "signature": signature, "nonce": opened["nonce"]}, {}))
    answers = ask_at_once(load_api, "auth_api", SIGN_UP, requests)
    assert statuses(answers) == {201: 1, 409: SANDBOXES - 1}
    assert {answer.refusal[1] for answer in answers if answer.status == 409} == {"wallet_already_registered"}
    assert market.sql("SELECT count(*) FROM users") == [(1,)]
    # A challenge of a refused sign-up is still open, for a login; the one that was used is not.
    logins = [auth.post(LOG_IN, body).status for body, _ in requests]
    assert Counter(logins) == {200: SANDBOXES - 1, 401: 1}


@pytest.mark.parametrize("path", [SIGN_UP, LOG_IN])
def test_one_signature_sent_by_dozens_at_once_signs_in_once(
    load_api: LoadApi, auth: Client, ann: SignedIn, market: Market, path: str
) -> None:
    wallet, expected = (ann.wallet, 200) if path == LOG_IN else (new_wallet(), 201)
    answers = ask_at_once(load_api, "auth_api", path, [(challenged(auth, wallet), {})] * SANDBOXES)
    assert statuses(answers) == {expected: 1, 401: SANDBOXES - 1}
    assert {answer.refusal[1] for answer in answers if answer.status == 401} == {"invalid_signature"}
    assert market.sql("SELECT count(*) FROM challenges") == [(0,)]
    assert market.sql("SELECT count(*) FROM refresh_tokens WHERE user_id <> %s", ann.user_id) == [(0,)]
