"""A mutant: a small change of the product, and what must find it; the files that several chapters name."""

from dataclasses import dataclass
from typing import Final

PACKAGE: Final = "layers/energy_market/energy_market"
CONTRACT: Final = "infra/contracts/EnergySettlement.sol"
LIFE: Final = ("the state machine",)
FAULTS: Final = "tests/integration/settlement/test_faults.py"
LOCKS: Final = "tests/integration/test_locks_and_reports.py"
LEFT_OUT: Final = "tests/integration/test_what_devices_leave_out.py"
MESSAGES: Final = "tests/integration/test_message_faults.py"
SILENCE: Final = "tests/integration/test_silence.py"
ADMIN: Final = "tests/integration/test_admin_api.py"


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """`old` stands exactly once in the file, and gives way to `new`."""

    file: str
    old: str
    new: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """A bug. `found_by`: LIFE, or tests, each by its file and name."""

    name: str
    why: str
    edits: tuple[Edit, ...]
    found_by: tuple[str, ...]


def mutant(name: str, why: str, found_by: tuple[str, ...], *edits: tuple[str, str, str]) -> Mutant:
    return Mutant(
        name=name,
        why=why,
        edits=tuple(Edit(file=file, old=old, new=new) for file, old, new in edits),
        found_by=found_by,
    )
