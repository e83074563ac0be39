import threading, time
from uuid import uuid4
import psycopg, pytest
from energy_market.database import Database
from energy_market.postgres import trades
from tests.integration.market import Market, SETTINGS
from energy_market.usecases.record_telemetry import record_telemetry
from energy_market.devices import Dropped

def test_reject_race(market: Market, database_url: str):
    home, b1, b2 = market.home(), market.user(), market.user()
    ask = market.order(home.user, "sell", 1000, 200_000, partial=True)
    market.order(b1, "buy", 500, 200_000); market.order(b2, "buy", 500, 200_000)
    assert len(market.tick().trade_ids) == 2
    market.publish()
    t1, = market.trades(b1); t2, = market.trades(b2)
    market.answer(home.device, ask, "locked", trade=t1.id)
    other = psycopg.connect(database_url)
    trades.fail(other, [t1.id], reason="settlement_expired", expected="Locked", reject=None)
    th = threading.Thread(target=lambda: print(market.answer(home.device, ask, "rejected", trade=t2.id)))
    th.start(); time.sleep(0.7); other.commit(); th.join(); other.close()
    print(market.get(ask))
    print("BOOK", market.sql("SELECT * FROM open_orders WHERE order_id=%s", ask))
    b3 = market.user(); market.order(b3, "buy", 500, 200_000)
    print("TICK", market.tick())

@pytest.mark.parametrize("p", [b'{"available_kwh":1,"seq":1,"battery_level":1e-20000}', b'{"available_kwh":1,"seq":1,"x":1e999999}', b'{"available_kwh":1,"seq":1,"x":"\\ud800"}', b'{"available_kwh":1,"seq":1,"battery_level":1e-999999999999}', b'{"available_kwh":1,"seq":1,"locks":["'+b'0'*36+b'"]}', b'{"available_kwh":1,"seq":1,"x":01}', b'{"available_kwh":1,"seq":1,"x":NaN}', b'{"available_kwh":1,"seq":1,"x":"a\nb"}',b'{"available_kwh":1,"seq":1,"x":' + b'[' * 900 + b']' * 900 + b'}', b'\xef\xbb\xbf{"available_kwh":1,"seq":1}'])
def test_db_refused(market: Market, p):
    home = market.home(available_wh=None)
    try: market.report(f"energy/donor/{home.device}/status", p); print("TAKEN", p[:60])
    except Dropped as e: print("dropped", p[:60], e)
    except BaseException as e: print("POISON", p[:60], type(e), str(e)[:80])

def test_order_of_commands(market: Market):
    home, b1, b2 = market.home(available_wh=500), market.user(), market.user()
    ask = market.order(home.user, "sell", 500, 200_000)
    market.order(b1, "buy", 500, 200_000); market.order(b2, "buy", 500, 200_000)
    market.tick(); market.publish()
    t1, = market.trades(b1)
    market.answer(home.device, ask, "locked", trade=t1.id)
    with market.database.transaction() as conn:
        trades.fail(conn, [t1.id], reason="insufficient_escrow", expected="Locked", reject="bid")
    market.published.clear()
    print(market.tick()); market.publish()
    print("CMDS", [(c.kind, c.transaction_id) for c in market.published])
