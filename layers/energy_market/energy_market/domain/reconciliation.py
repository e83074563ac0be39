"""What a comparison of database, chain and devices found."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

MAX_LINES: Final = 1_000
"""So many differences are listed; the others are only counted: what is wrong with one is wrong with all, as a rule."""


@dataclass(slots=True, kw_only=True)
class Differences:
    """The first of them as sentences, and how many there are."""

    limit: int = MAX_LINES
    lines: list[str] = field(default_factory=list)
    count: int = 0

    def add(self, line: str, *, times: int = 1) -> None:
        """Note one more, or `times` of which this one is said."""
        self.count += times
        if len(self.lines) < self.limit:
            self.lines.append(line)

    def extend(self, lines: Iterable[str]) -> None:
        """Note each."""
        for line in lines:
            self.add(line)

    def as_lines(self) -> list[str]:
        """A line for each, and one for all that are not listed."""
        unlisted = self.count - len(self.lines)
        return [*self.lines, f"... and {unlisted} more"] if unlisted else list(self.lines)
