"""The reconciliation finds nothing in a sound market, and each planted difference."""

from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID, uuid4

import psycopg
import pytest

from local_market.community.home import DeviceRecord
from local_market.watching.comparison import Escrow, reconcile
from tests.support.chain.chain import Chain, trade
from tests.support.market import Home, Market
from tests.support.owner import as_owner

TRADE_WH = 500
PRICE_MICRO = 200_000
AMOUNT = TRADE_WH * PRICE_MICRO * 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """A market in which one trade was matched, locked, paid and delivered."""

    url: str  # of the database
    market: Market
    chain: Chain
    ledger: Escrow
    home: Home
    ask: UUID
    bid: UUID
    trade: UUID

    def device(self) -> DeviceRecord:
        return DeviceRecord(device_id=str(self.home.device), delivered_wh={str(self.trade): TRADE_WH})

    def spoil(self, statement: str, *values: object) -> None:
        """Change rows behind the triggers' back, as a fault would."""
        with psycopg.connect(as_owner(self.url)) as conn:
            conn.execute("SET LOCAL session_replication_role = replica")
            conn.execute(statement.encode(), values)

    def differences(self, *devices: DeviceRecord) -> list[str]:
        with psycopg.connect(self.url, autocommit=True) as conn:
            return reconcile(conn, ledger=self.ledger, devices=devices or [self.device()], at_rest=True)


@pytest.fixture(scope="module")
def contracts(anvil: str) -> Iterator[Chain]:
    chain = Chain(anvil)
    yield chain
    chain.rpc.close()


@pytest.fixture
def settled(market: Market, contracts: Chain, anvil: str, database_url: str) -> Iterator[Settled]:
    chain = contracts
    chain.rpc.start_deadline(30)
    before = chain.rpc.call("evm_snapshot")
    home, recipient, ask, bid, matched = market.matched(energy_wh=TRADE_WH, price_micro=PRICE_MICRO)
    market.answer(home.device, ask, "locked", trade=matched.id)
    buyer, seller = chain.buyer(10 * AMOUNT), chain.person()
    receipt = chain.settle([trade(buyer, seller, AMOUNT, id=matched.id, energy_wh=TRADE_WH)])
    market.sql("UPDATE users SET wallet_address = %s WHERE id = %s", buyer.address, recipient)
    market.sql("UPDATE users SET wallet_address = %s WHERE id = %s", seller.address, home.user)
    market.sql(
        """WITH batch AS (
               INSERT INTO settlement_batches (chain_id, contract, sender, nonce, status)
               VALUES (31337, %s, 'sender', 0, 'Final') RETURNING id
           )
           UPDATE transactions SET status = 'Confirmed', batch_id = batch.id, confirmed_at = now(),
                  blockchain_hash = %s, delivery = 'Delivered', delivered_wh = energy_wh
           FROM batch""",
        chain.settlement.address,
        receipt["transactionHash"],
    )
    yield Settled(
        url=database_url,
        market=market,
        chain=chain,
        ledger=Escrow(rpc_url=anvil, contract=chain.settlement.address, token=chain.token.address, token_decimals=18),
        home=home,
        ask=ask,
        bid=bid,
        trade=matched.id,
    )
    chain.rpc.start_deadline(30)
    assert chain.rpc.call("evm_revert", before)


def test_a_sound_market_has_no_differences(settled: Settled) -> None:
    assert settled.differences() == []


def test_a_market_that_has_just_begun_has_no_differences(connection: psycopg.Connection) -> None:
    assert reconcile(connection, at_rest=True) == []


@pytest.mark.parametrize(
    ("plant", "expected"),
    [
        ("UPDATE energy_orders SET energy_wh = 400 WHERE type = 'buy'", "filled beyond its size"),
        ("UPDATE energy_orders SET energy_wh = 600 WHERE type = 'buy'", "Wh open, but is not in the book"),
        ("UPDATE energy_orders SET energy_wh = 600 WHERE type = 'buy'", "is all or none, but it was split"),
        ("UPDATE energy_orders SET price_micro = 200001 WHERE type = 'sell'", "lies outside its limits"),
        ("UPDATE energy_orders SET price_micro = 199999 WHERE type = 'buy'", "lies outside its limits"),
        ("UPDATE transactions SET donor_id = (SELECT id FROM users WHERE id NOT IN (donor_id, recipient_id) LIMIT 1)",
         "is not between the owners"),
        ("UPDATE transactions SET locked_at = expires_at", "without a lock that its device confirmed in time"),
        ("UPDATE transactions SET expires_at = NULL", "without a lock that its device confirmed in time"),
        ("UPDATE transactions SET delivery = NULL", "its delivery is not ordered"),
        ("UPDATE iot_devices SET paused_until = now() - interval '5 minutes'", "the pause of device"),
        ("UPDATE transactions SET delivered_wh = 499", "its delivery is Delivered (499 of 500 Wh)"),
        ("UPDATE transactions SET delivery = 'Started'", "its delivery is Started"),
        ("UPDATE transactions SET delivery = 'Owed'", "the delivery of trade"),
        ("UPDATE transactions SET delivery = 'Started', deliver_by = now() - interval '2 minutes'",
         "is Started with no deadline ahead"),
        ("UPDATE transactions SET delivery = 'Short', delivery_reason = 'delivery_timeout'",
         "its delivery is Short (500 of 500 Wh)"),
        ("UPDATE transactions SET delivery = 'Short', delivery_reason = 'delivery_timeout', delivered_wh = 0",
         "is Short, but its last event says Delivered"),
        ("UPDATE transactions SET unlock = 'Owed'", "its device was not told to release it"),
        ("UPDATE transactions SET unlock = 'Owed', unlock_by = now() - interval '2 minutes'",
         "owed with no deadline ahead"),
        ("UPDATE iot_devices SET reported_locks = (SELECT array_agg(id) FROM transactions)", "still reports a lock"),
        ("UPDATE iot_devices SET reported_locks = ARRAY[gen_random_uuid()]", "which is unknown"),
        ("DELETE FROM events WHERE to_status = 'Confirmed'", "its last event says Locked"),
        ("DELETE FROM events WHERE to_status = 'Completed'", "its last event says Executing"),
        ("UPDATE transactions SET status = 'Submitted'", "was paid, but it is Submitted"),
        ("UPDATE transactions SET status = 'Submitted'", "Submitted in a batch that is Final"),
        ("UPDATE transactions SET status = 'Submitted'", "is still Submitted"),
        ("UPDATE transactions SET status = 'Locked', batch_id = NULL, valid_until = now() - interval '2 minutes'",
         "no deadline ahead"),
        ("UPDATE transactions SET status = 'Submitted', valid_until = now() - interval '2 days'", "no deadline ahead"),
        ("UPDATE transactions SET status = 'Pending', expires_at = now() - interval '2 minutes'", "no deadline ahead"),
        ("UPDATE transactions SET status = 'Failed', reason = 'x', failed_at = now()", "was paid, but it is Failed"),
        ("UPDATE transactions SET status = 'Failed', reason = 'x', failed_at = now(), unlock = 'Owed'",
         "its device was not told to release it"),
        ("UPDATE transactions SET blockchain_hash = '0x00'", "names 0x00, but was paid in"),
        ("UPDATE transactions SET price_micro = 200001", "was paid as"),
    ],
)  # fmt: skip
def test_a_planted_fault_of_the_database_is_found(settled: Settled, plant: str, expected: str) -> None:
    settled.market.user()
    settled.spoil(plant)
    assert any(expected in line for line in settled.differences()), settled.differences()


def test_an_order_that_stands_in_the_book_with_other_terms_is_found(settled: Settled) -> None:
    order = settled.market.order(settled.market.user(), "buy", 700, 100_000)
    assert settled.differences() == []
    settled.spoil("UPDATE open_orders SET arrival = arrival + 100 WHERE order_id = %s", order)
    assert settled.differences() == [f"order {order} stands in the book with other terms than it was placed with"]


def test_a_level_of_the_book_that_is_not_what_the_orders_add_up_to_is_found(settled: Settled) -> None:
    settled.market.order(settled.market.user(), "buy", 700, 100_000)
    settled.spoil("UPDATE level_changes SET energy_wh = energy_wh + 1 WHERE energy_wh = 700")
    what = "zone default shows 700 Wh in 1 orders to buy at {} (0: at any), but its level says 701 Wh in 1"
    assert set(settled.differences()) == {what.format(0), what.format(100_000)}


def test_a_cancelled_order_that_is_still_in_the_book_is_found(settled: Settled) -> None:
    order = settled.market.order(settled.market.user(), "buy", 700, 100_000)
    settled.spoil("UPDATE energy_orders SET closed = 'Cancelled', closed_at = now() WHERE id = %s", order)
    assert f"order {order} is in the book, but it is Cancelled" in settled.differences()


def test_a_payment_of_an_unknown_trade_is_found(settled: Settled) -> None:
    stranger = uuid4()
    buyer = settled.chain.buyer(AMOUNT)
    settled.chain.settle([trade(buyer, settled.chain.person(), AMOUNT, id=stranger)])
    assert settled.differences() == [f"the chain paid a trade {stranger} that nobody knows"]


def test_a_confirmed_trade_that_was_never_paid_is_found(settled: Settled) -> None:
    other = Chain(settled.ledger.rpc_url)
    ledger = Escrow(
        rpc_url=settled.ledger.rpc_url,
        contract=other.settlement.address,
        token=other.token.address,
        token_decimals=18,
    )
    settled.spoil("UPDATE settlement_batches SET contract = %s", other.settlement.address)
    with psycopg.connect(settled.url, autocommit=True) as conn:
        found = reconcile(conn, ledger=ledger, at_rest=True)
    other.rpc.close()
    assert found == [f"trade {settled.trade} is Confirmed, but the chain never paid it"]


def test_tokens_that_no_account_owns_are_found(settled: Settled) -> None:
    chain = settled.chain
    chain.token.transact(chain.owner, "mint", chain.settlement.address, 5)
    (line,) = settled.differences()
    assert "but the accounts have" in line


def test_escrow_that_was_withdrawn_is_no_difference(settled: Settled) -> None:
    buyer = settled.chain.buyer(AMOUNT)
    settled.chain.settlement.transact(buyer, "withdraw", AMOUNT // 2)
    assert settled.differences() == []


def test_a_device_that_holds_energy_for_a_delivered_trade_is_found(settled: Settled) -> None:
    record = DeviceRecord(
        device_id=str(settled.home.device),
        held_wh={str(settled.trade): TRADE_WH},
        delivered_wh={str(settled.trade): TRADE_WH},
    )
    (line,) = settled.differences(record)
    assert f"holds 500 Wh for trade {settled.trade}" in line


def test_a_device_that_holds_energy_for_a_failed_trade_is_found(settled: Settled) -> None:
    settled.spoil("UPDATE transactions SET status = 'Failed', reason = 'x', failed_at = now(), delivery = NULL")
    record = DeviceRecord(device_id=str(settled.home.device), held_wh={str(settled.trade): TRADE_WH})
    assert any("which has failed" in line for line in settled.differences(record))


def test_a_device_that_holds_energy_for_a_delivery_that_ended_short_is_found(settled: Settled) -> None:
    settled.market.sql(
        "UPDATE transactions SET delivery = 'Short', delivery_reason = 'delivery_timeout', delivered_wh = 0"
    )
    record = DeviceRecord(device_id=str(settled.home.device), held_wh={str(settled.trade): TRADE_WH})
    (line,) = settled.differences(record)
    assert line.endswith("of 500 Wh, Confirmed, delivery Short")


def test_a_device_that_delivered_more_than_is_known_is_found(settled: Settled) -> None:
    settled.market.sql(
        "UPDATE transactions SET delivery = 'Short', delivery_reason = 'delivery_timeout', delivered_wh = 100"
    )
    record = DeviceRecord(device_id=str(settled.home.device), delivered_wh={str(settled.trade): 200})
    (line,) = settled.differences(record)
    assert line.endswith("of which 100 Wh are known")


def test_a_device_that_holds_energy_for_nobody_is_found(settled: Settled) -> None:
    record = DeviceRecord(
        device_id=str(settled.home.device), held_wh={str(uuid4()): 1}, delivered_wh={str(settled.trade): TRADE_WH}
    )
    (line,) = settled.differences(record)
    assert "which is no trade of its own" in line


def test_a_device_that_has_not_delivered_what_counts_as_delivered_is_found(settled: Settled) -> None:
    (line,) = settled.differences(DeviceRecord(device_id=str(settled.home.device)))
    assert line.endswith("delivered 0 Wh")


def test_a_device_that_delivered_what_nobody_paid_is_found(settled: Settled) -> None:
    gift = str(uuid4())
    record = DeviceRecord(device_id=str(settled.home.device), delivered_wh={str(settled.trade): TRADE_WH, gift: 250})
    (line,) = settled.differences(record)
    assert line.endswith(f"delivered 250 Wh for trade {gift}, which is unknown")


def test_while_it_runs_what_is_under_way_is_no_difference(market: Market, connection: psycopg.Connection) -> None:
    home, _, ask, _, matched = market.matched()
    assert reconcile(connection) == []
    market.answer(home.device, ask, "locked", trade=matched.id)
    assert reconcile(connection) == []
    assert reconcile(connection, at_rest=True) == [f"trade {matched.id} is still Locked"]
