"""Requests: the API's handlers as Lambda calls them, beside what the database alone takes for the same.

A handler is called in this process, with an event of API Gateway, in a sandbox that is warm: rate limit, audit line
(into a file) and all that it reads and writes are part of it.
"""

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path
from types import ModuleType
from typing import Any, Final
from unittest.mock import patch
from uuid import UUID, uuid4

import psycopg
from psycopg import Connection, Cursor

from bench.flow import order_flow
from bench.measure import Row, Table, alternated, median, ms
from bench.tick import place, round_trips, seconds, server
from energy_market.domain import wallets
from energy_market.postgres.market import fold_changes
from energy_market.usecases import answer_challenge
from tests.support.api import ENVIRONMENT, load_function, new_wallet, proxy_event, sign, token_of

LONG_BOOK: Final = 1_000_000
SHORT_BOOK: Final = 10_000
PEOPLE: Final = 20
WARM: Final = 15
"""Calls before anything is timed: statements are prepared from the sixth on, and planned for good from the eleventh."""
AT_MOST_AN_INSERT: Final = 3
AT_MOST_A_QUERY: Final = 2.5
AT_MOST_OF_A_LOGIN: Final = 0.05

READS: Final = {"GET orders (100 rows)": "orders", "GET book": "book", "GET price": "price"}
ADDRESS: Final = "203.0.113.7"
PUBLIC: Final = {"Host": "api.example", "Content-Type": "application/json"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Somebody with a donor device and a session."""

    user_id: UUID
    device_id: UUID
    headers: dict[str, str]


def measure(*, quick: bool) -> Iterator[Row | Table]:
    """Writing in a short book, reading a long one."""
    rounds = 100 if quick else 400
    with server() as new_database, tempfile.TemporaryDirectory(prefix="bench-") as folder:
        audit = Path(folder) / "audit"
        with sandbox("market_api", new_database()) as module:
            yield from said_into(audit, creating(module, audit, rounds=rounds))
        with sandbox("auth_api", new_database()) as module:
            yield from said_into(audit, logging_in(module, rounds=rounds))
        with sandbox("market_api", new_database()) as module:
            orders = LONG_BOOK // (50 if quick else 1)
            yield from said_into(audit, reading(module, orders=orders, rounds=rounds))


@contextmanager
def sandbox(name: str, url: str) -> Iterator[ModuleType]:
    """A function's module, as in a sandbox of its own."""
    with patch.dict(os.environ, {**ENVIRONMENT, "DATABASE_URL": url}):
        module = load_function(name)
        yield module
        module.database.close()


def said_into(audit: Path, results: Iterator[Row | Table]) -> list[Row | Table]:
    """What is measured while handlers write their lines into a file."""
    with audit.open("w") as file, redirect_stdout(file):
        return list(results)


def fill(conn: Connection, orders: int) -> list[Person]:
    """Put so many orders into the book, none of which can trade, and let people come who have none."""
    place(conn, order_flow(orders), price_micro=lambda o: o.price_micro + (160_000 if o.is_ask else 0))
    with conn.transaction():
        fold_changes(conn)
    return [new_person(conn) for _ in range(PEOPLE)]


def new_person(conn: Connection) -> Person:
    """A user with a donor device that is there, and a token."""
    row = conn.execute(
        """
        WITH person AS (INSERT INTO users (wallet_address) VALUES ('0x' || %s) RETURNING id)
        INSERT INTO iot_devices (owner_id, device_type, side, location, zone, status, last_ping, available_wh)
        SELECT id, 'esp32', 'donor', 'roof', 'default', 'Online', now(), 1000000000 FROM person RETURNING owner_id, id
        """,
        (uuid4().hex + "00000000",),
    ).fetchone()
    assert row is not None  # one row was inserted
    user_id, device_id = row
    headers = PUBLIC | {"Authorization": f"Bearer {token_of(conn, user_id)}"}
    return Person(user_id=user_id, device_id=device_id, headers=headers)


def asking(
    module: ModuleType, method: str, path: str, *, headers: dict[str, str], body: object = None
) -> Callable[[], dict[str, Any]]:
    """A request, ready to be sent; it returns API Gateway's answer, or raises if that is a refusal."""
    event = proxy_event(
        method=method,
        path=f"/api/v1/{path}",
        resource_paths=module.app.routes,
        headers=headers,
        query={},
        body=None if body is None else json.dumps(body),
        base64=False,
        ip=ADDRESS,
    )

    def send() -> dict[str, Any]:
        answer: dict[str, Any] = module.app(event, None)
        if answer["statusCode"] not in {200, 201}:
            raise RuntimeError(f"{path}: {answer['statusCode']} {answer['body']}")
        return answer

    return send


# ------------------------------------------------------------------------------------------------ order/create


def creating(module: ModuleType, audit: Path, *, rounds: int) -> Iterator[Row | Table]:
    """Orders of people with a device; beside inserting the same row into a table like that of the orders."""
    url = os.environ["DATABASE_URL"]
    with psycopg.connect(url, autocommit=True) as conn, psycopg.connect(url) as other:
        people = cycle(fill(conn, SHORT_BOOK))
        conn.execute("CREATE TABLE bare (LIKE energy_orders INCLUDING ALL)")
        for column, table in (("user_id", "users"), ("device_id", "iot_devices"), ("zone", "zones")):
            conn.execute(f"ALTER TABLE bare ADD FOREIGN KEY ({column}) REFERENCES {table}".encode())
        conn.execute(f"INSERT INTO bare ({ORDER}) SELECT {ORDER} FROM energy_orders")

        def bare() -> None:
            person = next(people)
            other.execute(
                f"INSERT INTO bare ({ORDER}) VALUES (%s, %s, %s, %s, %s, %s, %s, %s)",
                (person.user_id, person.device_id, "default", "sell", 1_500, 250_000, True, None),
            )
            other.commit()

        def order(order_type: str, *, with_key: bool) -> Callable[[], object]:
            headers = next(people).headers | ({"Idempotency-Key": uuid4().hex} if with_key else {})
            body = {"type": order_type, "kwh_amount": 1.5, "token_price": 0.25}
            return asking(module, "POST", "market/order/create", headers=headers, body=body)

        requests = {
            "a bid": partial(order, "buy", with_key=False),
            "an ask": partial(order, "sell", with_key=False),
            "a bid with an Idempotency-Key": partial(order, "buy", with_key=True),
            "an ask with an Idempotency-Key": partial(order, "sell", with_key=True),
        }
        measures = {"INSERT, COMMIT": partial(seconds, bare)}
        measures |= {name: partial(timed_request, request) for name, request in requests.items()}
        alternated(measures, rounds=WARM)
        before = records(conn, audit)
        taken = {name: median(found) for name, found in alternated(measures, rounds=rounds).items()}
        made = [after - of_before for after, of_before in zip(records(conn, audit), before, strict=True)]
        if made != [len(requests) * rounds] * 4:
            raise RuntimeError(f"orders, open orders, events and audit lines: {made}")
        trips = {name: round_trips(module.database, request()) for name, request in requests.items()}
    bare_s = taken["INSERT, COMMIT"]
    yield Table(
        title=f"POST order/create (medians of {rounds} rounds)",
        columns=["what", "ms", "times the insert", "round trips"],
        lines=[[name, found * 1000, found / bare_s, trips.get(name, 3)] for name, found in taken.items()],
    )
    slower = max("a bid", "an ask", key=lambda name: taken[name])
    yield Row(
        name="POST order/create: in the bare INSERT and COMMIT of the same row",
        measured=taken[slower] / bare_s,
        at_most=AT_MOST_AN_INSERT,
        shown=f"{slower}: {ms(taken[slower])} against {ms(bare_s)}",
    )


ORDER: Final = "user_id, device_id, zone, type, energy_wh, price_micro, all_or_none, expires_at"


def timed_request(request: Callable[[], Callable[[], object]]) -> float:
    """Seconds that a request takes once it is made up."""
    return seconds(request())


def records(conn: Connection, audit: Path) -> list[int]:
    """How many orders, open orders, events and audit lines there are."""
    tables = ("energy_orders", "open_orders", "events")
    counts = [conn.execute(f"SELECT count(*) FROM {table}".encode()).fetchall()[0][0] for table in tables]
    return [*counts, audit.read_text().count("\n")]


# ------------------------------------------------------------------------------------------------ reading


def reading(module: ModuleType, *, orders: int, rounds: int) -> Iterator[Row | Table]:
    """What people look at; beside the same statement, sent by psycopg alone."""
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as conn:
        people = cycle(fill(conn, orders))
        for name, path in READS.items():

            def request(path: str = path) -> Callable[[], object]:
                return asking(module, "GET", f"market/{path}", headers=next(people).headers)

            def bare(statements: list[tuple[Any, Any]]) -> None:
                for query, values in statements:
                    conn.execute(query, values).fetchall()

            measures = {
                "ours": partial(timed_request, request),
                "bare": partial(seconds, partial(bare, asked_by(module, request()))),
            }
            alternated(measures, rounds=WARM)
            taken = {what: median(found) for what, found in alternated(measures, rounds=rounds).items()}
            yield Row(
                name=f"{name} of {orders:,}: in its bare query",
                measured=taken["ours"] / taken["bare"],
                at_most=AT_MOST_A_QUERY,
                shown=f"{ms(taken['ours'])} against {ms(taken['bare'])}; "
                f"{round_trips(module.database, request())} round trips",
            )


class Recording(Cursor[Any]):
    """A cursor that remembers what it was asked."""

    asked: Final[list[tuple[Any, Any]]] = []

    def execute(self, query: Any, params: Any = None, **options: Any) -> "Recording":  # noqa: ANN401 - as psycopg has it
        """Remember, and ask."""
        self.asked.append((query, params))
        return super().execute(query, params, **options)


def asked_by(module: ModuleType, send: Callable[[], object]) -> list[tuple[Any, Any]]:
    """The statements that a request needs, with their values, but for the one that counts requests."""
    conn = module.database.statement(lambda conn: conn)
    conn.cursor_factory = Recording
    Recording.asked.clear()
    send()
    conn.cursor_factory = Cursor
    return [(query, values) for query, values in Recording.asked if "rate_limits" not in query]


# ------------------------------------------------------------------------------------------------ login


def logging_in(module: ModuleType, *, rounds: int) -> Iterator[Row | Table]:
    """A wallet that logs in again and again; beside recovering who signed."""
    wallet = new_wallet()
    recovering: list[float] = []

    def signer_of(message: str, signature: bytes) -> bytes | None:
        began = time.perf_counter()
        signer = wallets.signer_of(message, signature)
        recovering.append(time.perf_counter() - began)
        return signer

    def request(path: str) -> Callable[[], object]:
        body = {"wallet_address": str(wallet.address)}
        opened = asking(module, "POST", "auth/challenge", headers=PUBLIC, body=body)()
        message = json.loads(opened["body"])["message"]
        body["signature"] = sign(wallet, message)
        return asking(module, "POST", path, headers=PUBLIC, body=body)

    vars(answer_challenge)["signer_of"] = signer_of
    request("auth/signup")()
    measures = {"login": partial(timed_request, partial(request, "auth/login"))}
    alternated(measures, rounds=WARM)
    recovering.clear()
    login_s = median(alternated(measures, rounds=rounds)["login"])
    recovery_s = median(recovering)
    vars(answer_challenge)["signer_of"] = wallets.signer_of
    yield Row(
        name="POST auth/login: share of the request that is finding out who signed",
        measured=recovery_s / login_s,
        at_most=AT_MOST_OF_A_LOGIN,
        unit="of 1",
        shown=f"{ms(recovery_s)} of {ms(login_s)}",
    )
