"""The whole tick with a real database: beside the specification's, beside bare writing, and when little is new.

All times are of the wall clock: most of them is the server's.
"""

import contextlib
import gc
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import psycopg
from psycopg import Connection

from bench.flow import DONORS, RECIPIENTS, Placed, order_flow
from bench.matching import EnergyOrder, the_specifications_loop
from bench.measure import Row, Table, alternated, median, ms, timed
from energy_market.database import Database
from energy_market.postgres.arrays import array
from energy_market.postgres.migrations import migrate
from energy_market.usecases.run_tick import Tick, run_tick
from local_market.parts.places import LOCAL
from local_market.parts.postgres import start_postgres
from local_market.stack.stack import remove_state

ORDERS: Final = 100_000
NEW_ORDERS: Final = 1_000
LONG_BOOK: Final = 1_000_000
SHORT_BOOK: Final = 10_000
AT_LEAST_THE_SPECIFICATION: Final = 250
AT_MOST_THE_FLOOR: Final = 2.5
AT_MOST_ROUND_TRIPS: Final = 3
AT_MOST_SELECT_1: Final = 10
AT_MOST_BY_LENGTH: Final = 1.3
AT_MOST_OF_A_READ: Final = 1 / 8
WARM: Final = 12  # ticks of a sandbox, after which the server has settled on the plans of its statements
DEVICE_ONLINE_S: Final = 10**6  # no device goes offline while this measures
CHECKOUT: Final = Path(__file__).resolve().parents[1]


def measure(*, quick: bool) -> Iterator[Row | Table]:
    """Each part on a database of its own."""
    with server() as new_database:
        yield from whole_ticks(
            new_database(),
            orders=ORDERS // (5 if quick else 1),
            rounds=3 if quick else 7,
            with_the_specifications=not quick,
        )
        yield from ticks_with_little_new(new_database, rounds=5 if quick else 15)
        yield from idle_ticks(
            new_database(), new_database(), rounds=50 if quick else 300, long_book=LONG_BOOK // (20 if quick else 1)
        )


@contextlib.contextmanager
def server() -> Iterator[Callable[..., str]]:
    """A server for the block; each call makes a database with the schema, and people with a device each.

    Or a copy of `like`, another's URL, to which nobody is connected.
    """
    LOCAL.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir=LOCAL))
    postgres = start_postgres(folder)
    numbers = iter(range(100))

    def new_database(like: str = "/template1") -> str:
        name = f"bench_{next(numbers)}"
        with psycopg.connect(postgres.url, autocommit=True) as conn:
            conn.execute(f"CREATE DATABASE {name} TEMPLATE {like.rpartition('/')[2]}".encode())
        url = f"{postgres.url.rpartition('/')[0]}/{name}"
        if "bench_" in like:
            return url
        with psycopg.connect(url, autocommit=True) as conn:
            migrate(conn, CHECKOUT / "infra" / "migrations")
            conn.execute("UPDATE chain_state SET asked_at = 'infinity'")  # no sweep runs beside these ticks
            conn.execute("ALTER TABLE events DISABLE TRIGGER events_are_append_only")  # each round begins anew
            conn.execute("ALTER TABLE open_orders ENABLE ALWAYS TRIGGER orders_in")
            conn.execute(
                """
                INSERT INTO users (wallet_address) SELECT '0x' || lpad(to_hex(n), 40, '0') FROM generate_series(1, %s) n
                """,
                (DONORS + RECIPIENTS,),
            )
            conn.execute(
                """
                INSERT INTO iot_devices (owner_id, device_type, side, location, zone, status, last_ping, available_wh)
                SELECT id, 'esp32', 'donor', 'roof', 'default', 'Online', now(), 1000000000 FROM users ORDER BY no
                """
            )
            conn.execute("INSERT INTO device_supplies (device_id, energy_wh) SELECT id, available_wh FROM iot_devices")
        return url

    try:
        yield new_database
    finally:
        postgres.stop()
        remove_state(folder)
        shutil.rmtree(folder, ignore_errors=True)


def place(
    conn: Connection,
    orders: Sequence[Placed],
    *,
    price_micro: Callable[[Placed], int] | None = None,
    vacuumed: bool = True,
) -> None:
    """Put orders into the book, as they were placed one after the other; without their events, which no tick reads.

    `vacuumed`: as autovacuum leaves it, which comes after every tenth of a book; it makes the server plan anew.
    """
    with conn.transaction():
        conn.execute("SET LOCAL session_replication_role = replica")  # no triggers a row, nor checks of references
        conn.execute(
            "CREATE TEMP TABLE placed (is_ask bool, wh bigint, price bigint, place bigint, person bigint)"
            " ON COMMIT DROP"
        )
        with conn.cursor().copy("COPY placed FROM STDIN") as copy:
            for order in orders:
                price = order.price_micro if price_micro is None else price_micro(order)
                copy.write_row((order.is_ask, order.energy_wh, price, order.arrival, order.user + 1))
        conn.execute(
            """
            WITH accepted AS (
                INSERT INTO energy_orders (user_id, device_id, zone, type, energy_wh, price_micro, all_or_none)
                SELECT u.id, d.id, u.zone, CASE WHEN is_ask THEN 'sell' ELSE 'buy' END, wh, price, true
                FROM placed JOIN users u ON u.no = person LEFT JOIN iot_devices d ON d.owner_id = u.id AND is_ask
                ORDER BY place
                RETURNING id, zone, type, user_id, device_id, energy_wh, price_micro, arrival, all_or_none
            )
            INSERT INTO open_orders (order_id, zone, type, user_id, device_id, remaining_wh, price_micro, arrival,
                                     all_or_none, user_no, device_no, shown_wh)
            SELECT a.*, u.no, d.no, a.energy_wh
            FROM accepted a JOIN users u ON u.id = a.user_id LEFT JOIN iot_devices d ON d.id = a.device_id
            ORDER BY a.arrival
            """
        )
    if vacuumed:
        conn.execute("VACUUM (ANALYZE) open_orders, energy_orders, transactions, matches, ticks, iot_devices")


def clear(conn: Connection) -> None:
    """Begin again with nothing."""
    conn.execute(
        "TRUNCATE open_orders, price_levels, level_changes, energy_orders, transactions, matches, ticks, events CASCADE"
    )


def tick(database: Database) -> Tick:
    """One tick of ours."""
    return run_tick(database, zone="default", device_online_s=DEVICE_ONLINE_S)


def seconds(work: Callable[[], object]) -> float:
    """How long it takes, by the clock on the wall. For what is short: `timed` has the processor's caches emptied."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


# ------------------------------------------------------------------------------------------------ everything is new


def whole_ticks(url: str, *, orders: int, rounds: int, with_the_specifications: bool) -> Iterator[Row | Table]:
    """A tick that finds so many orders, all new, and what deleting and inserting alone takes."""
    flow = order_flow(orders)
    database = Database(url)
    with psycopg.connect(url, autocommit=True) as conn:
        made: list[int] = []

        def ours() -> float:
            clear(conn)
            place(conn, flow)
            took_s = timed(lambda: made.append(tick(database).matches))
            pairs[:] = conn.execute("SELECT ask, bid, energy_wh, price_micro FROM matches ORDER BY seq").fetchall()
            return took_s

        pairs: list[tuple[int, ...]] = []
        ours()  # a sandbox is warm
        floors: dict[str, Callable[[list[int]], object]] = {"floor": list, "floor, arrays as text": array}
        taken = alternated(
            {"ours": ours} | {name: partial(floor, conn, flow, pairs, spelt=spelt) for name, spelt in floors.items()},
            rounds=rounds,
        )
        ours_s, floor_s, as_text_s = map(median, taken.values())
        yield Row(
            name=f"Whole tick, {orders:,} open: in what deleting the orders and inserting the trades alone takes",
            measured=ours_s / floor_s,
            at_most=AT_MOST_THE_FLOOR if orders == ORDERS else None,
            shown=f"{ms(ours_s)} against {ms(floor_s)}; {made[-1]:,} pairs."
            f" {ours_s / as_text_s:.2f} times where the arrays are handed over as text, as ours are: {ms(as_text_s)}",
        )
        if with_the_specifications:
            clear(conn)
            place(conn, flow)
            found, took_s = specifications_tick(conn)
            if found != made[-1]:
                raise RuntimeError(f"the specification's tick finds {found} pairs, ours {made[-1]}")
            yield Row(
                name=f"Whole tick, {orders:,} open: against the specification's",
                measured=took_s / ours_s,
                at_least=AT_LEAST_THE_SPECIFICATION,
                shown=f"{ms(ours_s)} against {ms(took_s)}; the same {found:,} pairs",
            )
    database.close()


def floor(
    conn: Connection, flow: Sequence[Placed], pairs: Sequence[tuple[int, ...]], *, spelt: Callable[[list[int]], object]
) -> float:
    """Delete the matched orders from a table as narrow as can be, and insert the trades into a bare one.

    `spelt`: what is handed to psycopg for an array, its list or the text that it would make of it.
    """
    conn.execute("DROP TABLE IF EXISTS narrow, bare")
    conn.execute("CREATE TABLE narrow (arrival bigint PRIMARY KEY, size bigint, price bigint, is_ask boolean)")
    conn.execute("CREATE TABLE bare (ask bigint, bid bigint, energy_wh bigint, price_micro bigint)")
    conn.execute("INSERT INTO narrow SELECT arrival, remaining_wh, price_micro, type = 'sell' FROM open_orders")
    conn.execute(
        "INSERT INTO narrow SELECT arrival, energy_wh, price_micro, type = 'sell' FROM energy_orders"
        " ON CONFLICT DO NOTHING"
    )
    conn.execute("VACUUM (ANALYZE) narrow, bare")
    assert len(flow) == conn.execute("SELECT count(*) FROM narrow").fetchone()[0]  # type: ignore[index]
    columns = [list(column) for column in zip(*pairs, strict=True)]

    def write() -> None:
        with conn.transaction():
            taken = spelt(sorted([*columns[0], *columns[1]]))
            conn.execute("DELETE FROM narrow WHERE arrival = ANY (%s::bigint[])", (taken,))
            conn.execute(
                "INSERT INTO bare SELECT * FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[])",
                [spelt(column) for column in columns],
            )

    return timed(write)


def specifications_tick(conn: Connection) -> tuple[int, float]:
    """The specification's section 5: fetch every open order, compare all with all, update and insert pair by pair."""
    conn.execute("CREATE TABLE simple (id bigint PRIMARY KEY, type text, kwh numeric, price numeric, status text)")
    conn.execute("CREATE TABLE simple_trades (sell_id bigint, buy_id bigint, kwh numeric, price numeric)")
    conn.execute(
        "INSERT INTO simple SELECT arrival, type, kwh_amount, token_price, 'Created'"
        " FROM energy_orders ORDER BY arrival"
    )
    began = time.perf_counter()
    rows = conn.execute("SELECT id, type, kwh::float8, price::float8 FROM simple WHERE status = 'Created'").fetchall()
    orders = [EnergyOrder(id=row[0], type=row[1], kwh_amount=row[2], token_price=row[3]) for row in rows]
    matched = the_specifications_loop(orders)
    with conn.transaction(), conn.cursor() as cursor:
        cursor.executemany(
            "UPDATE simple SET status = 'Matched' WHERE id = %s", [(order.id,) for pair in matched for order in pair]
        )
        cursor.executemany(
            "INSERT INTO simple_trades VALUES (%s, %s, %s, %s)",
            [(sell.id, buy.id, sell.kwh_amount, sell.token_price) for sell, buy in matched],
        )
    return len(matched), time.perf_counter() - began


# ------------------------------------------------------------------------------------------------ little is new


def ticks_with_little_new(new_database: Callable[..., str], *, rounds: int) -> Iterator[Row | Table]:
    """A thousand orders have come to a hundred thousand that rest; beside reading those once, freshly vacuumed."""
    flow = order_flow(ORDERS + NEW_ORDERS * (rounds + WARM))
    resting_url = new_database()
    with psycopg.connect(resting_url, autocommit=True) as resting:
        # Resting orders do not cross: asks a little dearer, bids a little cheaper.
        place(resting, flow[:ORDERS], price_micro=lambda o: o.price_micro + (160_000 if o.is_ask else 0))
    url = new_database(like=resting_url)
    database = Database(url)
    with psycopg.connect(url, autocommit=True) as conn, psycopg.connect(resting_url, autocommit=True) as resting:
        tick(database)
        fresh = iter(range(ORDERS, len(flow), NEW_ORDERS))
        made: list[int] = []

        def ours() -> float:
            begin = next(fresh)
            conn.execute("TRUNCATE matches")  # they have become trades, as after each tick
            place(conn, flow[begin : begin + NEW_ORDERS], vacuumed=False)
            return seconds(lambda: made.append(tick(database).matches))

        def reading() -> float:
            return seconds(lambda: [resting.execute(statement.encode()).fetchall() for statement in READ_ALL])

        for _ in range(WARM):
            ours()
        gc.collect()
        gc.freeze()  # once: a collection before each round would fill the processor's caches with the bench's own
        taken = alternated({"ours": ours, "reading": reading}, rounds=rounds)
        gc.unfreeze()
        ours_s, reading_s = median(taken["ours"]), median(taken["reading"])
        yield Row(
            name=f"Tick with {NEW_ORDERS:,} new orders on {ORDERS:,}: in one reading of the book as integers",
            measured=ours_s / reading_s,
            at_most=AT_MOST_OF_A_READ,
            shown=f"{ms(ours_s)} against {ms(reading_s)}; {sum(made) // len(made)} trades a tick",
        )
    database.close()


READ_ALL: Final = [
    f"SELECT remaining_wh, price_micro, arrival FROM open_orders WHERE zone = 'default' AND type = '{side}'"
    f" AND all_or_none ORDER BY remaining_wh, price_micro{direction}, arrival"
    for side, direction in (("sell", ""), ("buy", " DESC"))
]


# ------------------------------------------------------------------------------------------------ nothing is new


def idle_ticks(long_url: str, short_url: str, *, rounds: int, long_book: int) -> Iterator[Row | Table]:
    """A tick that finds nothing new, on a long book and on a short one; beside the shortest statement there is."""
    databases = {"long": Database(long_url), "short": Database(short_url)}
    for url, orders, name in ((long_url, long_book, "long"), (short_url, SHORT_BOOK, "short")):
        with psycopg.connect(url, autocommit=True) as conn:
            place(conn, order_flow(orders), price_micro=lambda o: o.price_micro + (260_000 if o.is_ask else 0))
        for _ in range(WARM):
            tick(databases[name])
    with psycopg.connect(long_url, autocommit=True) as conn:
        taken = alternated(
            {
                "long": partial(seconds, partial(tick, databases["long"])),
                "short": partial(seconds, partial(tick, databases["short"])),
                "SELECT 1": partial(seconds, partial(conn.execute, "SELECT 1")),
            },
            rounds=rounds,
        )
    long_s, short_s, select_s = (median(taken[name]) for name in ("long", "short", "SELECT 1"))
    yield Row(
        name=f"Tick when nothing changed, {long_book:,} orders: in SELECT 1",
        measured=long_s / select_s,
        at_most=AT_MOST_SELECT_1,
        shown=f"{ms(long_s)} against {ms(select_s)}",
    )
    yield Row(
        name=f"Tick when nothing changed: {long_book:,} orders against {SHORT_BOOK:,}",
        measured=long_s / short_s,
        at_most=AT_MOST_BY_LENGTH,
        shown=f"{ms(long_s)} against {ms(short_s)}",
    )
    yield Row(
        name="Tick when nothing changed: round trips",
        measured=round_trips(databases["long"], partial(tick, databases["long"])),
        at_most=AT_MOST_ROUND_TRIPS,
        unit="",
    )
    for database in databases.values():
        database.close()


def round_trips(database: Database, work: Callable[[], object]) -> int:
    """How often it waits for the server: the queries, and the syncs of prepared statements, that libpq traced."""
    with tempfile.TemporaryFile("w+") as trace:
        with database.transaction() as conn:
            pass
        conn.pgconn.trace(trace.fileno())
        work()
        conn.pgconn.untrace()
        trace.seek(0)
        return len(re.findall(r"^\S*\s*\S*\s*F\t\d+\t(?:Query|Sync)\b", trace.read(), re.MULTILINE))
