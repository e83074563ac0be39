"""Bugs that were never written: each a small change of the product, and what must find it.

Those marked `LIFE` break what is promised about energy, money, locks or priority, and must be found by the state
machine of `tests/integration/test_whole_life.py`; the others by the tests that they name. A change of the product that
moves a line named here moves it here, too: `tests/unit/test_mutants.py` finds each text, exactly once.
"""

from typing import Final

from tests.mutants.catalogue import contract, devices, matching, orders, settlement, sign_in, trades
from tests.mutants.catalogue.mutant import CONTRACT, LIFE, Edit, Mutant

__all__ = ["CONTRACT", "LIFE", "MUTANTS", "Edit", "Mutant"]

MUTANTS: Final = (
    *matching.MUTANTS,
    *orders.MUTANTS,
    *trades.MUTANTS,
    *settlement.MUTANTS,
    *devices.MUTANTS,
    *sign_in.MUTANTS,
    *contract.MUTANTS,
)
