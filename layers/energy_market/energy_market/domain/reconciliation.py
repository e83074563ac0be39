"""The differences found by comparing database, chain and devices."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

MAX_LINES: Final = 1_000
"""Maximum differences that are listed. The others are only counted: usually all have the same cause."""


@dataclass(slots=True, kw_only=True)
class Differences:
    """The first `limit` differences as sentences, and the number of all."""

    limit: int = MAX_LINES
    lines: list[str] = field(default_factory=list)
    count: int = 0

    def add(self, line: str, *, times: int = 1) -> None:
        """Count one more difference, or `times` of which only this line is listed."""
        self.count += times
        if len(self.lines) < self.limit:
            self.lines.append(line)

    def extend(self, lines: Iterable[str]) -> None:
        """Add each line."""
        for line in lines:
            self.add(line)

    def as_lines(self) -> list[str]:
        """A line for each listed difference, and one line for all others."""
        unlisted = self.count - len(self.lines)
        return [*self.lines, f"... and {unlisted} more"] if unlisted else list(self.lines)
