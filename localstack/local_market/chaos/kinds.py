"""The kinds of faults of `make chaos`: how each is made to happen, and how long it lasts."""

from dataclasses import dataclass
from typing import Final

from local_market.chaos.faults.aws import aws_paused, loop_doubled, redeployed, workers_killed
from local_market.chaos.faults.chain import (
    chain_killed,
    chain_reorganised,
    escrow_withdrawn,
    fee_spike,
    node_has_ways,
    operator_key_used,
    operator_out_of_gas,
    pool_dropped,
)
from local_market.chaos.faults.database import (
    database_connections_dropped,
    database_disk_full,
    database_full_of_clients,
    database_killed,
    database_rows_locked,
)
from local_market.chaos.faults.devices import device_clock_wrong, device_killed, device_silent
from local_market.chaos.faults.links import slow, trouble
from local_market.chaos.faults.messages import (
    answers_contradicted,
    messages_delayed,
    messages_duplicated,
    messages_forged,
    messages_lost,
    messages_reordered,
)
from local_market.chaos.faults.people import orders_repeated
from local_market.chaos.injecting import Injector


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of fault. `needs_s`: so long before the end it must begin; `once`: at most once in a run."""

    inject: Injector
    lasts_s: tuple[float, float]
    needs_s: float = 1.0
    once: bool = False


KINDS: Final[dict[str, Kind]] = {
    "database_killed": Kind(inject=database_killed, lasts_s=(1, 4)),
    "database_connections_dropped": Kind(inject=database_connections_dropped, lasts_s=(1, 3)),
    "database_full_of_clients": Kind(inject=database_full_of_clients, lasts_s=(2, 4)),
    "database_rows_locked": Kind(inject=database_rows_locked, lasts_s=(5, 9)),
    "database_disk_full": Kind(inject=database_disk_full, lasts_s=(1, 3)),
    "database_cut": Kind(inject=trouble(lambda w: w.database_link, "cut"), lasts_s=(1, 4)),
    "database_torn": Kind(inject=trouble(lambda w: w.database_link, "torn"), lasts_s=(1, 2)),
    "database_silent": Kind(inject=trouble(lambda w: w.database_link, "silent"), lasts_s=(3, 8)),
    "database_slow": Kind(inject=slow(lambda w: w.database_link, 0.1, 0.4), lasts_s=(4, 8)),
    "chain_killed": Kind(inject=chain_killed, lasts_s=(1, 4)),
    "chain_cut": Kind(inject=trouble(lambda w: w.chain_link, "cut"), lasts_s=(3, 8)),
    "chain_silent": Kind(inject=trouble(lambda w: w.chain_link, "silent"), lasts_s=(3, 8)),
    "chain_slow": Kind(inject=slow(lambda w: w.chain_link, 0.3, 1.5), lasts_s=(4, 8)),
    "chain_garbled": Kind(inject=trouble(lambda w: w.chain_link, "garbled"), lasts_s=(4, 8)),
    "chain_reorganised": Kind(inject=chain_reorganised, lasts_s=(0, 0)),
    "pool_dropped": Kind(inject=pool_dropped, lasts_s=(2, 5)),
    "fee_spike": Kind(inject=fee_spike, lasts_s=(3, 6)),
    "operator_key_used": Kind(inject=operator_key_used, lasts_s=(0, 0)),
    "operator_out_of_gas": Kind(inject=operator_out_of_gas, lasts_s=(4, 10)),
    "escrow_withdrawn": Kind(inject=escrow_withdrawn, lasts_s=(5, 15)),
    "node_speaks_otherwise": Kind(inject=node_has_ways("answers", "lists", "methods", "transport"), lasts_s=(12, 18)),
    "node_refuses": Kind(inject=node_has_ways("limits", "fees", "pools"), lasts_s=(12, 18)),
    "nodes_apart": Kind(inject=node_has_ways("heads"), lasts_s=(6, 12)),
    "workers_killed": Kind(inject=workers_killed, lasts_s=(0, 0)),
    "aws_paused": Kind(inject=aws_paused, lasts_s=(6, 8)),
    "loop_doubled": Kind(inject=loop_doubled, lasts_s=(0, 0)),
    "redeployed": Kind(inject=redeployed, lasts_s=(30, 30), needs_s=40, once=True),
    "device_killed": Kind(inject=device_killed, lasts_s=(1, 6)),
    "device_silent": Kind(inject=device_silent, lasts_s=(5, 40)),
    "device_clock_wrong": Kind(inject=device_clock_wrong, lasts_s=(8, 20)),
    "devices_cut": Kind(inject=trouble(lambda w: w.broker_link, "cut"), lasts_s=(2, 6)),
    "devices_silent": Kind(inject=trouble(lambda w: w.broker_link, "silent"), lasts_s=(4, 10)),
    "devices_slow": Kind(inject=slow(lambda w: w.broker_link, 0.5, 2.0), lasts_s=(4, 8)),
    "devices_garbled": Kind(inject=trouble(lambda w: w.broker_link, "garbled"), lasts_s=(2, 6)),
    "messages_lost": Kind(inject=messages_lost, lasts_s=(0, 0), needs_s=5),
    "messages_duplicated": Kind(inject=messages_duplicated, lasts_s=(0, 0), needs_s=5),
    "messages_reordered": Kind(inject=messages_reordered, lasts_s=(0, 0), needs_s=5),
    "messages_delayed": Kind(inject=messages_delayed, lasts_s=(5, 40), needs_s=8),
    "messages_forged": Kind(inject=messages_forged, lasts_s=(0, 0)),
    "answers_contradicted": Kind(inject=answers_contradicted, lasts_s=(0, 0), needs_s=5),
    "orders_repeated": Kind(inject=orders_repeated, lasts_s=(0, 0)),
}

FIRST: Final = frozenset(
    {
        "database_killed",
        "database_cut",
        "database_slow",
        "chain_killed",
        "chain_garbled",
        "devices_cut",
        "workers_killed",
        "device_killed",
    }
)
"""The main kinds, which even a short run has."""
