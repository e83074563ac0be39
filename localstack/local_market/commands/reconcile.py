"""`make reconcile`: compare database and chain of what runs in this checkout; every difference is one line.

Exit status 0 only without a difference.
"""

import sys
from typing import Final

import psycopg

from energy_market.database import connect
from energy_market.evm.rpc import ChainError
from energy_market.usecases import reconcile as usecase
from local_market.parts.places import LOCAL
from local_market.stack.stack import read_stack
from local_market.watching.comparison import TOKEN_DECIMALS, Escrow, reconcile

RECHECK_S: Final = 15.0  # a tick and a sweep


def main() -> int:
    """Reconcile the running stack of this checkout."""
    stack = read_stack(LOCAL / "run") or read_stack(LOCAL / "up")
    if "settlement_contract" not in stack:
        print("Nothing runs in this checkout: start it with `make up`.", file=sys.stderr)
        return 2
    ledger = Escrow(
        rpc_url=str(stack["rpc_url"]),
        contract=str(stack["settlement_contract"]),
        token=str(stack["token"]),
        token_decimals=TOKEN_DECIMALS,
    )
    try:
        with connect(str(stack["database_url"]), statement_s=None) as conn:
            found = reconcile(conn, ledger=ledger, recheck_s=RECHECK_S)
    except (psycopg.Error, ChainError, usecase.OutOfTime) as error:
        print(f"The stack cannot be asked: {error}", file=sys.stderr)
        return 2
    for line in found:
        print(line)
    print(f"{len(found)} differences" if found else "Database, chain and devices agree.")
    return 1 if found else 0
