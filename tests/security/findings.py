"""What a tool found, and what of it is accepted: each for a reason, in one place (`accepted.py`)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one tool says of one place: a file, a resource of the template, a route."""

    tool: str
    rule: str
    where: str
    text: str

    def __str__(self) -> str:
        return f"{self.tool} {self.rule} {self.where}: {self.text}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """A rule of a tool that is not followed in some places (shell patterns, separated by blanks), and why."""

    tool: str
    rule: str
    where: str
    reason: str

    def covers(self, finding: Finding) -> bool:
        return (self.tool, self.rule) == (finding.tool, finding.rule) and any(
            fnmatchcase(finding.where, pattern) for pattern in self.where.split()
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Sorted:
    """What is open, how much was accepted, and which acceptances nothing needs any more."""

    open: Sequence[Finding]
    suppressed: int
    idle: Sequence[Accepted]


def sort_out(findings: Iterable[Finding], accepted: Sequence[Accepted], *, tools: Iterable[str]) -> Sorted:
    """Hold findings of these tools against what is accepted; an acceptance of a tool that was not asked is not idle."""
    asked = set(tools)
    remaining, used, suppressed = [], set(), 0
    for finding in findings:
        covering = [one for one in accepted if one.covers(finding)]
        used.update(covering)
        suppressed += bool(covering)
        if not covering:
            remaining.append(finding)
    idle = [one for one in accepted if one.tool in asked and one not in used]
    return Sorted(open=remaining, suppressed=suppressed, idle=idle)
