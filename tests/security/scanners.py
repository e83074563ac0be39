"""The tools that read the project.

bandit its Python, cfn-lint and checkov its templates, checkov the API's contract and all files for what looks like a
secret, slither the contracts on the chain.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any, Final

from tests.security.findings import Finding

CHECKOUT: Final = Path(__file__).resolve().parents[2]
TOOLS: Final = CHECKOUT / ".local" / "security" / "bin"
PYTHON_FOLDERS: Final = ("layers", "functions", "devices", "clients", "infra", "localstack", "bench")
TEMPLATES: Final = ("template.yaml", "infra/watching.yaml")
TIMEOUT_S: Final = 600


class ToolError(Exception):
    """A tool did not say what it found."""


def bandit() -> list[Finding]:
    """Look through all Python that is not a test."""
    said = _json([TOOLS / "bandit", "--quiet", "--recursive", *PYTHON_FOLDERS, "--format", "json"])
    if said["errors"] or not said["metrics"]["_totals"]["loc"]:
        raise ToolError(f"bandit could not read all: {said['errors']}")
    return [
        Finding(
            tool="bandit",
            rule=one["test_id"],
            where=one["filename"],
            text=f"line {one['line_number']}: {one['issue_text']}",
        )
        for one in said["results"]
    ]


def cfn_lint() -> list[Finding]:
    """Look through the templates, warnings and all."""
    said = _json([CHECKOUT / ".local" / "venv" / "bin" / "cfn-lint", *TEMPLATES, "--format", "json"])
    return [
        Finding(
            tool="cfn-lint",
            rule=one["Rule"]["Id"],
            where=one["Filename"],
            text=f"line {one['Location']['Start']['LineNumber']}: {one['Message']}",
        )
        for one in said
    ]


def checkov() -> list[Finding]:
    """Look through templates and contract, and everything for what looks like a secret."""
    found = []
    for framework, what in (
        *(("cloudformation", ["--file", template]) for template in TEMPLATES),
        ("openapi", ["--file", "infra/openapi.yaml"]),
        ("secrets", ["--directory", ".", *(f"--skip-path={name}" for name in (".local", "node_modules", ".aws-sam"))]),
    ):
        options = ["--framework", framework, *what, "--compact", "--quiet", "--skip-download", "--output", "json"]
        said = _json([TOOLS / "checkov", *options])
        if framework == "secrets" and "results" not in said:  # it says nothing where it found nothing
            continue
        if said["summary"]["parsing_errors"] or not (said["summary"]["passed"] or framework == "secrets"):
            raise ToolError(f"checkov could not read all: {said['summary']}")
        found += [
            Finding(
                tool="checkov",
                rule=one["check_id"],
                where=one["file_path"].lstrip("/") if framework == "secrets" else one["resource"],
                text=f"line {one['file_line_range'][0]}: {one['check_name']}",
            )
            for one in said["results"]["failed_checks"]
        ]
    return found


def slither() -> list[Finding]:
    """Look through the contracts on the chain, and how they use OpenZeppelin's; those themselves are not ours."""
    report = CHECKOUT / ".local" / "logs" / "slither.json"
    report.parent.mkdir(parents=True, exist_ok=True)
    report.unlink(missing_ok=True)
    done = _run(
        [
            *(CHECKOUT / ".local" / "slither" / "bin" / "slither", "infra/contracts", "--solc-standard-json"),
            *("--solc", CHECKOUT / "tests" / "security" / "solc.mjs", "--solc-args", "--optimize --optimize-runs 1000"),
            *("--solc-remaps", "@openzeppelin/=node_modules/@openzeppelin/", "--json", report),
        ]
    )
    if not report.exists():
        raise ToolError(f"slither ended with {done.returncode}: {done.stderr[-2000:]}")
    said: dict[str, Any] = json.loads(report.read_text())
    if not said["success"]:
        raise ToolError(f"slither could not read the contracts: {said['error']}")
    return [
        Finding(tool="slither", rule=one["check"], where=place, text=" ".join(one["description"].split())[:300])
        for one in said["results"].get("detectors", [])
        for place in [one["elements"][0]["source_mapping"]["filename_relative"]]
        if not place.startswith("node_modules/")
    ]


def _json(command: list[str | Path]) -> Any:  # noqa: ANN401 - each tool has its own
    """What a tool prints. It ends with a status of its own when it found something; silent it found out nothing."""
    done = _run(command)
    try:
        return json.loads(done.stdout)
    except ValueError:
        raise ToolError(f"{Path(command[0]).name} ended with {done.returncode}: {done.stderr[-2000:]}") from None


def _run(command: list[str | Path]) -> subprocess.CompletedProcess[str]:
    local = CHECKOUT / ".local" / "bin"  # Node may be there
    return subprocess.run(
        [str(part) for part in command],
        cwd=CHECKOUT,
        env={**os.environ, "PATH": f"{local}:{os.environ['PATH']}", "LOG_LEVEL": "ERROR", "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
