"""Do the database, the chain and the devices tell the same story? Every difference is one line.

What must hold, whatever crashed, came twice or came late:
no order is filled beyond its size; every trade lies within both limits; no trade goes on without a lock that its
device confirmed in time; a confirmed trade was paid exactly once, any other never; each account's escrow is what it
deposited and received less what it withdrew and paid, and the contract's tokens are the sum of all escrow; a failed
trade leaves no energy reserved, and its bid is back in the book with its old place; whatever is under way has a
deadline ahead of it.

    python localstack/reconcile.py      the running stack of this checkout; exit status 0 only without a difference
"""

import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

import psycopg
from eth_abi.abi import decode
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak
from psycopg.rows import dict_row
from services import LOCAL, read_stack
from wallet import read_uint

from energy_market.evm.rpc import ChainError, Rpc

CHAIN_BUDGET_S: Final = 60.0
NANO_DECIMALS: Final = 9
TOKEN_DECIMALS: Final = 18  # of the local stack's test token

# Each query lists violations: the first column is the sentence. %(at_rest)s: nothing may be under way any more.
DATABASE_CHECKS: Final = (
    # Orders: never beyond their size, and the book is what the trades leave of them.
    """SELECT format('order %%s is filled beyond its size: %%s Wh of %%s Wh', id, filled_wh + pending_wh, energy_wh)
       FROM order_states WHERE remaining_wh < 0""",
    """SELECT format('order %%s has %%s Wh open, but %%s in the book', s.id, s.remaining_wh,
                     coalesce(b.remaining_wh || ' Wh', 'is not'))
       FROM order_states s LEFT JOIN open_orders b ON b.order_id = s.id
       WHERE s.closed IS NULL AND s.remaining_wh > 0 AND b.remaining_wh IS DISTINCT FROM s.remaining_wh""",
    """SELECT format('order %%s is in the book, but it is %%s', s.id, s.status)
       FROM open_orders b JOIN order_states s ON s.id = b.order_id WHERE s.closed IS NOT NULL OR s.remaining_wh <= 0""",
    """SELECT format('order %%s stands in the book with other terms than it was placed with', o.id)
       FROM open_orders b JOIN energy_orders o ON o.id = b.order_id
       WHERE (b.arrival, b.price_micro, b.type, b.user_id, b.zone, b.all_or_none)
             <> (o.arrival, o.price_micro, o.type, o.user_id, o.zone, o.all_or_none)
          OR b.device_id IS DISTINCT FROM o.device_id""",
    """SELECT format('order %%s is all or none, but it was split', o.id)
       FROM energy_orders o
       JOIN transactions t ON o.id IN (t.sell_order_id, t.buy_order_id) AND t.status <> 'Failed'
       WHERE o.all_or_none GROUP BY o.id, o.energy_wh HAVING count(*) > 1 OR min(t.energy_wh) <> o.energy_wh""",
    # Trades: within both limits, between the right parties.
    """SELECT format('trade %%s at %%s micro-tokens lies outside its limits: ask %%s, bid %%s',
                     t.id, t.price_micro, s.price_micro, b.price_micro)
       FROM transactions t JOIN energy_orders s ON s.id = t.sell_order_id JOIN energy_orders b ON b.id = t.buy_order_id
       WHERE t.price_micro < s.price_micro OR t.price_micro > b.price_micro""",
    """SELECT format('trade %%s is not between the owners of its orders', t.id)
       FROM transactions t JOIN energy_orders s ON s.id = t.sell_order_id JOIN energy_orders b ON b.id = t.buy_order_id
       WHERE s.type <> 'sell' OR b.type <> 'buy' OR t.donor_id <> s.user_id OR t.recipient_id <> b.user_id
          OR t.device_id IS DISTINCT FROM s.device_id OR t.donor_id = t.recipient_id""",
    # Locks: in time, or not at all.
    """SELECT format('trade %%s is %%s without a lock that its device confirmed in time', id, status)
       FROM transactions WHERE status IN ('Locked', 'Submitted', 'Confirmed')
        AND (locked_at IS NULL OR expires_at IS NULL OR locked_at >= expires_at)""",
    # Deadlines: what is under way has one ahead of it (a minute is granted to whoever acts on it).
    """SELECT format('trade %%s is %%s with no deadline ahead', id, status)
       FROM transactions
       WHERE (status = 'Pending'
              AND coalesce(expires_at, "timestamp" + interval '1 minute') < now() - interval '1 minute')
          OR (status = 'Locked' AND valid_until < now() - interval '1 minute')""",
    """SELECT format('trade %%s is Submitted in a batch that is %%s', t.id, coalesce(b.status, 'unknown'))
       FROM transactions t LEFT JOIN settlement_batches b ON b.id = t.batch_id
       WHERE t.status = 'Submitted' AND coalesce(b.status, '') NOT IN ('Stored', 'Mined')""",
    """SELECT format('trade %%s is still %%s', id, status) FROM transactions
       WHERE %(at_rest)s AND status IN ('Pending', 'Locked', 'Submitted')""",
    """SELECT format('trade %%s is confirmed, but its delivery is %%s (%%s of %%s Wh)',
                     id, coalesce(delivery, 'not ordered'), delivered_wh, energy_wh)
       FROM transactions WHERE status = 'Confirmed' AND (delivery IS NULL OR %(at_rest)s)
        AND (delivery IS DISTINCT FROM 'Delivered' OR delivered_wh <> energy_wh)""",
    """SELECT format('trade %%s has failed, but its device was not told to release it', id)
       FROM transactions WHERE %(at_rest)s AND unlock = 'Owed'""",
    # The devices' own words, as far as they reached the database.
    """SELECT format('device %%s still reports a lock of trade %%s, which is %%s', d.id, l.id,
                     coalesce(CASE WHEN t.delivery = 'Delivered' THEN 'delivered' ELSE t.status END, 'unknown'))
       FROM iot_devices d CROSS JOIN LATERAL unnest(d.reported_locks) l(id) LEFT JOIN transactions t ON t.id = l.id
       WHERE %(at_rest)s
         AND (t.id IS NULL OR t.device_id <> d.id OR t.status = 'Failed' OR t.delivery = 'Delivered')""",
    # The record of transitions ends where the rows stand.
    """SELECT format('trade %%s is %%s, but its last event says %%s', t.id, t.status, coalesce(e.to_status, 'nothing'))
       FROM transactions t
       LEFT JOIN LATERAL (SELECT to_status FROM events WHERE entity_id = t.id ORDER BY id DESC LIMIT 1) e ON true
       WHERE e.to_status IS DISTINCT FROM t.status""",
    """SELECT format('order %%s is %%s, but its last event says %%s', s.id, s.status, coalesce(e.to_status, 'nothing'))
       FROM order_states s
       LEFT JOIN LATERAL (SELECT to_status FROM events WHERE entity_id = s.id ORDER BY id DESC LIMIT 1) e ON true
       WHERE e.to_status IS DISTINCT FROM s.status""",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """Where the trades are paid."""

    rpc_url: str
    contract: str
    token: str
    token_decimals: int
    first_block: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRecord:
    """What a device itself remembers: trade id -> watt-hours."""

    device_id: str
    held_wh: Mapping[str, int] = field(default_factory=dict)
    delivered_wh: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Payment:
    """A `TradeSettled` event."""

    trade_id: UUID
    buyer: str
    seller: str
    amount: int
    energy_wh: int
    transaction_hash: str


def reconcile(
    conn: psycopg.Connection[Any],
    *,
    ledger: Ledger | None = None,
    devices: Iterable[DeviceRecord] | None = None,
    at_rest: bool = False,
) -> list[str]:
    """Every difference, one line each; none if all is well.

    Without a ledger, or without the devices' own records, that side is left out. `at_rest` says that nothing is under
    way any more: then what has not ended is a difference too.
    """
    found = database_differences(conn, at_rest=at_rest)
    if ledger is not None:
        found += chain_differences(conn, ledger, at_rest=at_rest)
    if devices is not None:
        found += device_differences(conn, devices, at_rest=at_rest)
    return found


def database_differences(conn: psycopg.Connection[Any], *, at_rest: bool) -> list[str]:
    """Where the database contradicts itself."""
    with conn.cursor() as cursor:
        return [row[0] for check in DATABASE_CHECKS for row in cursor.execute(check, {"at_rest": at_rest})]


def chain_differences(conn: psycopg.Connection[Any], ledger: Ledger, *, at_rest: bool) -> list[str]:
    """Where the chain's events, its balances and the database differ. Raises ChainError if the node cannot be asked."""
    rpc = Rpc(ledger.rpc_url, budget_s=CHAIN_BUDGET_S)
    try:
        payments, moved, accounts = _read_events(rpc, ledger)
        return [
            *_payment_differences(conn, ledger, payments, at_rest=at_rest),
            *_escrow_differences(rpc, ledger, moved, accounts),
        ]
    finally:
        rpc.close()


def _read_events(rpc: Rpc, ledger: Ledger) -> tuple[list[_Payment], dict[str, int], set[str]]:
    """All payments, and what each account's escrow must be by the events."""
    names = {
        "0x" + keccak(text=signature).hex(): signature.split("(")[0]
        for signature in (
            "Deposited(address,uint256)",
            "Withdrawn(address,uint256)",
            "TradeSettled(bytes32,address,address,uint256,uint256)",
        )
    }
    logs = rpc.call(
        "eth_getLogs",
        {
            "address": ledger.contract,
            "fromBlock": hex(ledger.first_block),
            "toBlock": "latest",
            "topics": [list(names)],
        },
    )
    payments: list[_Payment] = []
    moved: dict[str, int] = defaultdict(int)
    for log in logs:
        topics, data = log["topics"], bytes.fromhex(log["data"].removeprefix("0x"))
        match names[topics[0]]:
            case "TradeSettled":
                amount, energy_wh = decode(["uint256", "uint256"], data)
                payment = _Payment(
                    trade_id=UUID(int=int(topics[1], 16)),
                    buyer=_address(topics[2]),
                    seller=_address(topics[3]),
                    amount=amount,
                    energy_wh=energy_wh,
                    transaction_hash=log["transactionHash"],
                )
                payments.append(payment)
                moved[payment.buyer] -= amount
                moved[payment.seller] += amount
            case name:
                (amount,) = decode(["uint256"], data)
                moved[_address(topics[1])] += amount if name == "Deposited" else -amount
    return payments, dict(moved), set(moved)


def _payment_differences(
    conn: psycopg.Connection[Any], ledger: Ledger, payments: list[_Payment], *, at_rest: bool
) -> list[str]:
    found = [
        f"trade {trade_id} was paid {times} times"
        for trade_id, times in Counter(payment.trade_id for payment in payments).items()
        if times > 1
    ]
    unit = 10 ** (ledger.token_decimals - NANO_DECIMALS)
    by_id = {payment.trade_id: payment for payment in payments}
    with conn.cursor(row_factory=dict_row) as cursor:
        trades = {
            row["id"]: row
            for row in cursor.execute(
                """SELECT t.id, t.status, t.amount_nano, t.energy_wh, t.blockchain_hash,
                          donor.wallet_address AS seller, recipient.wallet_address AS buyer
                   FROM transactions t JOIN users donor ON donor.id = t.donor_id
                   JOIN users recipient ON recipient.id = t.recipient_id"""
            )
        }
    for trade_id, trade in trades.items():
        paid = by_id.get(trade_id)
        if paid is None:
            if trade["status"] == "Confirmed":
                found.append(f"trade {trade_id} is Confirmed, but the chain never paid it")
            continue
        if trade["status"] != "Confirmed" and (at_rest or trade["status"] != "Submitted"):
            found.append(f"trade {trade_id} was paid, but it is {trade['status']}")
        stored = (trade["buyer"], trade["seller"], trade["amount_nano"] * unit, trade["energy_wh"])
        on_chain = (paid.buyer, paid.seller, paid.amount, paid.energy_wh)
        if stored != on_chain:
            found.append(f"trade {trade_id} was paid as {on_chain}, but it is {stored}")
        if trade["status"] == "Confirmed" and trade["blockchain_hash"] != paid.transaction_hash:
            found.append(f"trade {trade_id} names {trade['blockchain_hash']}, but was paid in {paid.transaction_hash}")
    found += [f"the chain paid a trade {trade_id} that nobody knows" for trade_id in by_id.keys() - trades.keys()]
    return found


def _escrow_differences(rpc: Rpc, ledger: Ledger, moved: Mapping[str, int], accounts: Iterable[str]) -> list[str]:
    found = []
    total = 0
    for account in sorted(accounts):
        escrow = read_uint(rpc, ledger.contract, "escrow(address)", account)
        total += escrow
        if escrow != moved[account]:
            found.append(f"account {account} has {escrow} in escrow, but by the events it should be {moved[account]}")
    held = read_uint(rpc, ledger.token, "balanceOf(address)", ledger.contract)
    stated = read_uint(rpc, ledger.contract, "totalEscrow()")
    if not held == stated == total:
        found.append(
            f"the contract holds {held} tokens' units and states {stated} as escrow, but the accounts have {total}"
        )
    return found


def _address(topic: str) -> str:
    return to_checksum_address("0x" + topic[-40:])


def device_differences(conn: psycopg.Connection[Any], devices: Iterable[DeviceRecord], *, at_rest: bool) -> list[str]:
    """Where what the devices hold and have delivered differs from the trades."""
    with conn.cursor(row_factory=dict_row) as cursor:
        trades = {
            str(row["id"]): row
            for row in cursor.execute("SELECT id, device_id, status, energy_wh, delivery FROM transactions")
        }
    found = []
    for device in devices:
        own = {key: trade for key, trade in trades.items() if str(trade["device_id"]) == device.device_id}
        for trade_id, held_wh in device.held_wh.items():
            trade = own.get(trade_id)
            if trade is None:
                found.append(
                    f"device {device.device_id} holds {held_wh} Wh for {trade_id}, which is no trade of its own"
                )
            elif trade["status"] == "Failed" and at_rest:
                found.append(f"device {device.device_id} holds {held_wh} Wh for trade {trade_id}, which has failed")
            elif trade["delivery"] == "Delivered" or trade["energy_wh"] != held_wh:
                found.append(
                    f"device {device.device_id} holds {held_wh} Wh for trade {trade_id}"
                    f" of {trade['energy_wh']} Wh, {trade['status']}, delivery {trade['delivery']}"
                )
        for trade_id, delivered_wh in device.delivered_wh.items():
            trade = own.get(trade_id)
            if trade is None or trade["status"] != "Confirmed":
                status = trade["status"] if trade else "unknown"
                found.append(
                    f"device {device.device_id} delivered {delivered_wh} Wh for trade {trade_id}, which is {status}"
                )
        for trade_id, trade in own.items():
            if trade["delivery"] == "Delivered" and device.delivered_wh.get(trade_id) != trade["energy_wh"]:
                found.append(
                    f"trade {trade_id} of {trade['energy_wh']} Wh counts as delivered,"
                    f" but device {device.device_id} delivered {device.delivered_wh.get(trade_id, 0)} Wh"
                )
    return found


def main() -> int:
    """Reconcile the running stack of this checkout."""
    stack = read_stack(LOCAL / "run") or read_stack(LOCAL / "up")
    if "settlement_contract" not in stack:
        print("Nothing runs in this checkout: start it with `make up`.", file=sys.stderr)
        return 2
    ledger = Ledger(
        rpc_url=str(stack["rpc_url"]),
        contract=str(stack["settlement_contract"]),
        token=str(stack["token"]),
        token_decimals=TOKEN_DECIMALS,
    )
    try:
        with psycopg.connect(str(stack["database_url"])) as conn:
            found = reconcile(conn, ledger=ledger)
    except (psycopg.OperationalError, ChainError) as error:
        print(f"The stack cannot be asked: {error}", file=sys.stderr)
        return 2
    for line in found:
        print(line)
    print(f"{len(found)} differences" if found else "Database, chain and devices agree.")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
