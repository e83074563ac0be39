"""Decide the gas fees: those that the network asks now, within the operator's floor and ceiling."""

from energy_market.domain.settlement import GWEI
from energy_market.evm.ledger import Fees
from energy_market.logs import log, metric
from energy_market.usecases.settling.sweep import Sweep


def offer_fees(sweep: Sweep, *, at_least: Fees | None = None) -> Fees | None:
    """The fees of a transaction that is signed now, in wei per unit of gas; None above the ceiling, which is logged.

    The base fee grows by at most an eighth per block (EIP-1559). An offer is worth making if the next block would
    accept it. `at_least`: the minimum that this transaction needs, whatever the network asks.
    """
    tip = max(sweep.view.fees.max_priority_fee_per_gas, sweep.rules.min_priority_fee_wei)
    if at_least is not None:
        tip = max(tip, at_least.max_priority_fee_per_gas)
    next_base_fee = sweep.view.head.base_fee * 9 // 8
    needed = max(next_base_fee + tip, at_least.max_fee_per_gas if at_least is not None else 0)
    if needed > sweep.rules.max_fee_wei:
        log(
            "settlement.fees_too_high",
            level="error",
            needed_gwei=needed / GWEI,
            ceiling_gwei=sweep.rules.max_fee_wei / GWEI,
            detail="the network asks for higher fees than MaxFeeGwei: nothing is signed",
        )
        metric("FeesTooHigh", 1)
        return None
    # Twice the base fee lasts for six full blocks in a row.
    return Fees(
        max_fee_per_gas=min(max(2 * sweep.view.head.base_fee + tip, needed), sweep.rules.max_fee_wei),
        max_priority_fee_per_gas=tip,
    )
