"""Do the database, the chain and the devices tell the same story? Every difference is one line.

Database and chain are compared by `energy_market.usecases.reconcile`, as every night on AWS; here the devices' own
records are added, for who can read them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from psycopg.rows import dict_row

from energy_market.evm.books import Books
from energy_market.evm.rpc import Rpc
from energy_market.usecases import reconcile as usecase
from local_market.community.home import DeviceRecord

DEADLINE_S: Final = 300.0
CHAIN_TIMEOUT_S: Final = 20.0  # for one answer
TOKEN_DECIMALS: Final = 18  # of the local stack's test token


@dataclass(frozen=True, slots=True, kw_only=True)
class Escrow:
    """Where the trades are paid."""

    rpc_url: str
    contract: str
    token: str
    token_decimals: int


def reconcile(
    conn: psycopg.Connection[Any],
    *,
    ledger: Escrow | None = None,
    devices: Iterable[DeviceRecord] | None = None,
    at_rest: bool = False,
    recheck_s: float = 0.0,
) -> list[str]:
    """Every difference, one line each (the first thousand); none if all is well.

    Without a ledger, or without the devices' own records, that side is left out. `conn` must not be in a transaction.
    `at_rest` says that nothing is under way any more: then what has not ended is a difference too. What looks wrong on
    the chain is looked at again after `recheck_s`. Raises ChainError if the node cannot be asked.
    """
    rpc = None if ledger is None else Rpc(ledger.rpc_url, timeout_s=CHAIN_TIMEOUT_S, deadline_s=DEADLINE_S)
    try:
        books = None if ledger is None or rpc is None else _books(rpc, ledger)
        found = usecase.reconcile(
            conn, books=books, at_rest=at_rest, deadline_s=DEADLINE_S, recheck_s=recheck_s
        ).differences
    finally:
        if rpc is not None:
            rpc.close()
    if devices is not None:
        found.extend(device_differences(conn, devices, at_rest=at_rest))
    return found.as_lines()


def _books(rpc: Rpc, ledger: Escrow) -> Books:
    return Books(
        rpc,
        chain_id=int(rpc.call("eth_chainId"), 16),
        contract=ledger.contract,
        token=ledger.token,
        token_decimals=ledger.token_decimals,
    )


def device_differences(conn: psycopg.Connection[Any], devices: Iterable[DeviceRecord], *, at_rest: bool) -> list[str]:
    """Where what the devices hold and have delivered differs from the trades."""
    with conn.cursor(row_factory=dict_row) as cursor:
        trades = {
            str(row["id"]): row
            for row in cursor.execute(
                "SELECT id, device_id, status, energy_wh, delivery, delivered_wh FROM transactions"
            )
        }
    found = []
    for device in devices:
        own = {key: trade for key, trade in trades.items() if str(trade["device_id"]) == device.device_id}
        found += _held_differences(device, own, at_rest=at_rest)
        found += _delivered_differences(device, own, at_rest=at_rest)
    return found


def _held_differences(device: DeviceRecord, own: Mapping[str, Mapping[str, Any]], *, at_rest: bool) -> list[str]:
    found = []
    for trade_id, held_wh in device.held_wh.items():
        holds = f"device {device.device_id} holds {held_wh} Wh for"
        trade = own.get(trade_id)
        if trade is None:
            found.append(f"{holds} {trade_id}, which is no trade of its own")
        elif trade["status"] == "Failed" and at_rest:
            found.append(f"{holds} trade {trade_id}, which has failed")
        elif (
            trade["delivery"] == "Delivered"
            or (trade["delivery"] == "Short" and at_rest)
            or trade["energy_wh"] != held_wh
        ):
            found.append(
                f"{holds} trade {trade_id} of {trade['energy_wh']} Wh, {trade['status']}, delivery {trade['delivery']}"
            )
    return found


def _delivered_differences(device: DeviceRecord, own: Mapping[str, Mapping[str, Any]], *, at_rest: bool) -> list[str]:
    found = []
    for trade_id, delivered_wh in device.delivered_wh.items():
        trade = own.get(trade_id)
        if trade is None or trade["status"] != "Confirmed":
            status = trade["status"] if trade else "unknown"
            found.append(
                f"device {device.device_id} delivered {delivered_wh} Wh for trade {trade_id}, which is {status}"
            )
        elif trade["delivery"] == "Short" and at_rest and trade["delivered_wh"] != delivered_wh:
            found.append(
                f"device {device.device_id} delivered {delivered_wh} Wh for trade {trade_id},"
                f" of which {trade['delivered_wh']} Wh are known"
            )
    for trade_id, trade in own.items():
        if trade["delivery"] == "Delivered" and device.delivered_wh.get(trade_id) != trade["energy_wh"]:
            found.append(
                f"trade {trade_id} of {trade['energy_wh']} Wh counts as delivered,"
                f" but device {device.device_id} delivered {device.delivered_wh.get(trade_id, 0)} Wh"
            )
    return found
