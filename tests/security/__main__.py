"""Attack the product with all there is, and say in one line what came of it.

    python -m tests.security [what ...]     (scan, attacks, fuzz; default: all)

Scan: bandit, cfn-lint, checkov, slither, each finding held against what is accepted (`accepted.py`). Attacks: every
test that docs/security.md names, the walk over all routes and the devices' attacks among them. Fuzz: schemathesis
against a stack of its own.

What is wrong is said on standard error; the last line of standard output is one JSON object. Exit status 0 only if no
attack succeeded and nothing is open.

Environment: FUZZ_EXAMPLES, how many cases an operation, a phase and an actor get (default 50); SEED (default 1).
"""

import json
import os
import re
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Final

import yaml

from tests.security.accepted import ACCEPTED
from tests.security.findings import Finding, sort_out
from tests.security.fuzz import fuzz
from tests.security.scanners import CHECKOUT, bandit, cfn_lint, checkov, slither

PAGE: Final = CHECKOUT / "docs" / "security.md"
PARTS: Final = ("scan", "attacks", "fuzz")
METHODS: Final = {"get", "post", "put", "patch", "delete"}


def main() -> int:
    parts = sys.argv[1:] or list(PARTS)
    if unknown := set(parts) - set(PARTS):
        say(f"There is nothing called {', '.join(sorted(unknown))}: scan, attacks, fuzz.")
        return 2
    findings: list[Finding] = []
    tools: list[str] = []
    cases = failures = routes = 0
    if "scan" in parts:
        say("Reading the project with bandit, cfn-lint, checkov and slither ...")
        findings += [*bandit(), *cfn_lint(), *checkov(), *slither()]
        tools += ["bandit", "cfn-lint", "checkov", "slither"]
    if "attacks" in parts:
        named = named_tests()
        say(f"Running the {len(named)} attacks of docs/security.md ...")
        failures += failed(named)
        routes = len(routes_of_the_contract())
    if "fuzz" in parts:
        say("Fuzzing a stack of its own ...")
        fuzzed = fuzz(
            examples=int(os.environ.get("FUZZ_EXAMPLES") or 50), seed=int(os.environ.get("SEED") or 1), workers=2
        )
        cases = fuzzed.cases
        findings += fuzzed.findings
        tools += ["schemathesis", "fuzz"]
    said = sort_out(findings, ACCEPTED, tools=tools)
    for finding in said.open:
        say(f"OPEN {finding}")
    for idle in said.idle:
        say(f"OPEN nothing needs this acceptance any more: {idle.tool} {idle.rule} {idle.where}")
    is_open = len(said.open) + len(said.idle)
    print(
        json.dumps(
            {
                "routes": routes,
                "fuzz_cases": cases,
                "failures": failures,
                "findings_open": is_open,
                "suppressed": said.suppressed,
            }
        )
    )
    return 1 if failures or is_open else 0


def named_tests() -> list[str]:
    """Every test that the threat model names, each once."""
    return sorted(set(re.findall(r"`(tests/[\w/]+\.py::test_\w+)`", PAGE.read_text())))


def routes_of_the_contract() -> list[tuple[str, str]]:
    """(method, path) of every route; tests hold that the template and the walk have the same."""
    contract = yaml.safe_load((CHECKOUT / "infra" / "openapi.yaml").read_text())
    return [(method, path) for path, item in contract["paths"].items() for method in METHODS & item.keys()]


def failed(tests: list[str]) -> int:
    """Run them; how many did not pass, those that did not run included."""
    report = CHECKOUT / ".local" / "logs" / "attacks.xml"
    report.parent.mkdir(parents=True, exist_ok=True)
    report.unlink(missing_ok=True)
    began = time.monotonic()
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "--quiet", "-p", "no:cacheprovider", f"--junitxml={report}"),
            *("--numprocesses", "2", "--dist", "loadfile", "--no-loadscope-reorder", *tests),
        ],
        cwd=CHECKOUT,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr.fileno(),
        check=False,
    )
    ran, bad = counts(report)
    say(f"{ran} cases of {len(tests)} attacks in {time.monotonic() - began:.0f} s, {bad} failed.")
    # pytest fails where a test that was named is not there, too.
    return max(bad, int(done.returncode != 0 or ran < len(tests)))


def counts(report: Path) -> tuple[int, int]:
    """(cases, cases that did not pass) of a JUnit report of our own pytest; a test that was skipped did not pass."""
    if not report.exists():
        return 0, 1
    suites = list(ET.parse(report).getroot().iter("testsuite"))  # noqa: S314 - written by the line above
    return (
        sum(int(suite.get("tests", 0)) for suite in suites),
        sum(int(suite.get(kind, 0)) for suite in suites for kind in ("failures", "errors", "skipped")),
    )


def say(sentence: str) -> None:
    """Tell the person who waits."""
    print(sentence, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
